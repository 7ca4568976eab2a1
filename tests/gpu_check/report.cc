/* SPDX-License-Identifier: Apache-2.0 */
/* tests/gpu_check/report.cc - the table, the JSON, and the end of time. */
#include "tests/gpu_check/report.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

static volatile sig_atomic_t is_stopped;

static void stop(int)
{
	is_stopped = 1;
}

double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void Report::begin(const char *name)
{
	if (stage.empty()) {
		signal(SIGINT, stop);
		signal(SIGTERM, stop);
		printf("%-52s %9s %9s %7s %7s\n", "check", "GB/s", "TFLOP/s", "of peak", "#wrong");
	}
	stage = name;
	printf("%s\n", name);
	fflush(stdout);
}

bool Report::is_over(void) const
{
	return is_stopped || now_s() > end_s;
}

static double share_of(const Report &r, const Line &l)
{
	double share = 0;

	if (l.seconds <= 0)
		return 0;
	if (r.peak_gbps > 0)
		share = l.bytes / l.seconds / 1e9 / r.peak_gbps;
	if (r.peak_tflops > 0)
		share = fmax(share, l.flops / l.seconds / 1e12 / r.peak_tflops);
	return share;
}

static const char *const states[] = { "ok", "wrong", "failed", "skipped" };

void Report::add(const Line &l)
{
	char gbps[16] = "", tflops[16] = "", share[16] = "", wrong[16] = "";

	lines.push_back(l);
	lines.back().stage = stage;
	if (l.seconds > 0 && l.bytes > 0)
		snprintf(gbps, sizeof(gbps), "%.1f", l.bytes / l.seconds / 1e9);
	if (l.seconds > 0 && l.flops > 0)
		snprintf(tflops, sizeof(tflops), "%.3f", l.flops / l.seconds / 1e12);
	if (share_of(*this, l) > 0)
		snprintf(share, sizeof(share), "%.0f %%", 100 * share_of(*this, l));
	if (l.state == OK || l.state == WRONG)
		snprintf(wrong, sizeof(wrong), "%zu", l.wrong);
	else
		snprintf(wrong, sizeof(wrong), "%s", states[l.state]);
	printf("  %-50.50s %9s %9s %7s %7s\n", l.name.c_str(), gbps, tflops, share, wrong);
	if (!l.why.empty())
		printf("      %s\n", l.why.c_str());
	fflush(stdout);
	if (now_s() > written_s + 1)
		write(false);
}

void Report::ok(const std::string &name, size_t wrong, const std::string &why)
{
	add(Line{ "", name, wrong ? WRONG : OK, wrong, 0, 0, 0, wrong ? why : "" });
}

void Report::skip(const std::string &name, const std::string &why)
{
	add(Line{ "", name, SKIPPED, 0, 0, 0, 0, why });
}

static void put_text(FILE *f, const std::string &s)
{
	fputc('"', f);
	for (unsigned char c : s) {
		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

static void put_real(FILE *f, const char *key, double x)
{
	if (x > 0 && isfinite(x))
		fprintf(f, ",\"%s\":%.6g", key, x);
	else
		fprintf(f, ",\"%s\":null", key);
}

size_t Report::count(State s) const
{
	size_t n = 0;

	for (const Line &l : lines)
		n += l.state == s;
	return n;
}

void Report::write(bool is_complete)
{
	const std::string part = json + ".part";
	FILE *f = json.empty() ? NULL : fopen(part.c_str(), "w");
	const char *between = "";

	written_s = now_s();
	if (!f) {
		if (!json.empty())
			fprintf(stderr, "gpu_check: cannot write %s\n", part.c_str());
		return;
	}
	fputs("{\"gpu\":", f);
	put_text(f, gpu);
	put_real(f, "peak_gbps", peak_gbps);
	put_real(f, "peak_tflops", peak_tflops);
	fputs(",\"checks\":[", f);
	for (const Line &l : lines) {
		fprintf(f, "%s\n{\"stage\":", between);
		put_text(f, l.stage);
		fputs(",\"name\":", f);
		put_text(f, l.name);
		fprintf(f, ",\"state\":\"%s\",\"wrong\":%zu", states[l.state], l.wrong);
		put_real(f, "seconds", l.seconds);
		put_real(f, "gbps", l.seconds > 0 ? l.bytes / l.seconds / 1e9 : 0);
		put_real(f, "tflops", l.seconds > 0 ? l.flops / l.seconds / 1e12 : 0);
		put_real(f, "share", share_of(*this, l));
		fputs(",\"why\":", f);
		put_text(f, l.why);
		fputc('}', f);
		between = ",";
	}
	fprintf(f, "],\"wrong\":%zu,\"failed\":%zu,\"skipped\":%zu,\"is_complete\":%s}\n",
		count(WRONG), count(FAILED), count(SKIPPED), is_complete ? "true" : "false");
	if (fclose(f) || rename(part.c_str(), json.c_str()))
		fprintf(stderr, "gpu_check: cannot write %s\n", json.c_str());
}

int Report::finish(void)
{
	const size_t bad = count(WRONG) + count(FAILED);
	const bool is_complete = !is_over();

	write(is_complete);
	printf("%zu checks, %zu wrong, %zu failed, %zu skipped%s\n", lines.size(), count(WRONG),
	       count(FAILED), count(SKIPPED),
	       is_complete  ? ""
	       : is_stopped ? "; stopped by a signal"
			    : "; time was up");
	return bad || !is_complete ? 1 : 0;
}
