/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/gpu_check/report.h - one line for each check, as a table and as JSON.
 *
 * Threads: one
 *
 * The JSON file is whole at any moment: it is written anew, beside itself, at most once a second
 *and at the end, and has "is_complete" false until then. A signal that ends the program does so
 *after the check that runs.
 *
 *	{"gpu":..,"peak_gbps":..,"peak_tflops":..,"checks":[{"stage":..,"name":..,"state":"ok" |
 *	"wrong" | "failed" | "skipped","wrong":n,"seconds":..,"gbps":..,"tflops":..,"share":..,
 *	"why":..}, ..],"wrong":n,"failed":n,"skipped":n,"is_complete":true}
 */
#ifndef TESTS_GPU_CHECK_REPORT_H
#define TESTS_GPU_CHECK_REPORT_H

#include <stddef.h>
#include <string>
#include <vector>

enum State { OK, WRONG, FAILED, SKIPPED };

struct Line {
	std::string stage, name;
	State state;
	size_t wrong;
	double seconds;      /* of one run; 0: not timed */
	double bytes, flops; /* of one run */
	std::string why;
};

struct Report {
	std::string gpu, json; /* json: where to, "" nowhere */
	double peak_gbps = 0, peak_tflops = 0;
	std::vector<Line> lines;
	std::string stage;
	double end_s = 0; /* when time is up, by now_s() */

	void begin(const char *name);
	void add(const Line &l);
	void ok(const std::string &name, size_t wrong, const std::string &why);
	void skip(const std::string &name, const std::string &why);
	bool is_over(void) const; /* time is up, or a signal came */
	int finish(void);         /* @return the exit code */

      private:
	double written_s = 0;
	void write(bool is_complete);
	size_t count(State s) const;
};

double now_s(void);

#endif
