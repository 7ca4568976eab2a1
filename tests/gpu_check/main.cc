/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/gpu_check/main.cc - does the CUDA device do on this GPU what it does on the emulation?
 *
 *	gpu_check [--json FILE] [--seconds N] [--only STAGE] [--sanitizer PROGRAM] [--strata
 *PROGRAM]
 *
 * Stages, in this order, for each rests on those before it:
 *	header     gpu/cuda/portable.h, function by function, with one-hot and random operands
 *	products   cuBLASLt's and our own, against double; the largest one is the peak that others
 *meet kernels    the cases of tests/cuda_cases.h against plain loops in double, and how fast they
 *are streams    tests/cuda_scenario.h: copies beside kernels; the same bits each time sanitizer the
 *stages header and streams under compute-sanitizer, where it is there engine     `strata train`
 *with device.type cuda: a small model; 20 steps of GPT-2 124M, offloaded
 *
 * Exit 0: all is right; 1: not, or not finished; 2: usage; 77: no GPU.
 */
#include "gpu/cuda/cuda.h"
#include "tests/cuda_cases.h"
#include "tests/cuda_scenario.h"
#include "tests/gpu_check/report.h"
#include "tests/ref_device.h"

#include <algorithm>
#include <fcntl.h>
#include <functional>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static uint64_t seed = 1;

static float uniform(void) /* [-1, 1), repeatable, exact in bf16 */
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (float)((int)(z >> 40 & 255) - 128) / 128.0f;
}

struct Check {
	Report *report;
	cudaStream_t s;
};

/* ---- speed ----------------------------------------------------------------------------------- */

/* Seconds of one launch: of the best of several rounds, each long enough to be measured. */
static double seconds_of(Check *c, const std::function<cudaError_t(void)> &launch, cudaError_t *rc)
{
	double best = 0;
	int n = 1;

	for (int round = 0; round < 4 && !*rc; round++) {
		double begin, each;

		*rc = cudaStreamSynchronize(c->s);
		begin = now_s();
		for (int i = 0; i < n && !*rc; i++)
			*rc = launch();
		*rc = *rc ? *rc : cudaStreamSynchronize(c->s);
		each = (now_s() - begin) / n;
		best = best > 0 && best < each ? best : each;
		/* Ten milliseconds a round, as far as the first one tells. */
		n = each > 0 && 0.01 / each < 2000 ? 1 + (int)(0.01 / each) : 2000;
	}
	return best;
}

static void measure_peaks(Check *c)
{
	const size_t bytes = (size_t)256 << 20;
	char *a = nullptr;
	cudaError_t rc = cudaMalloc((void **)&a, 2 * bytes);
	double s = 0;

	if (!rc)
		s = seconds_of(
			c,
			[&]() {
				return cudaMemcpyAsync(a, a + bytes, bytes,
						       cudaMemcpyDeviceToDevice, c->s);
			},
			&rc);
	(void)cudaFree(a);
	if (rc || s <= 0) {
		(void)cudaGetLastError();
		c->report->skip("peak of copies", cudaGetErrorString(rc));
		return;
	}
	c->report->peak_gbps = 2 * (double)bytes / s / 1e9;
	c->report->add(
		Line{ "", "peak of copies inside the memory", OK, 0, s, 2 * (double)bytes, 0, "" });
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void one_case(Check *c, cuda_case &k)
{
	Line l = { "", k.name, OK, 0, 0, k.bytes, k.flops, "" };
	cudaError_t rc;

	if (c->report->is_over())
		return;
	rc = k.launch(c->s, 0);
	rc = rc ? rc : k.launch(c->s, 1);
	rc = rc ? rc : cudaStreamSynchronize(c->s);
	if (rc) {
		l.state = FAILED;
		l.why = std::string(cudaGetErrorName(rc)) + ": " + cudaGetErrorString(rc);
		(void)cudaGetLastError();
		c->report->add(l);
		return;
	}
	l.wrong = k.check(&l.why);
	l.state = l.wrong ? WRONG : OK;
	if (!l.wrong)
		l.why.clear();
	if (k.bytes > 0 || k.flops > 0) /* what is added to grows; only the time counts now */
		l.seconds = seconds_of(
			c, [&]() { return k.launch(c->s, 0); }, &rc);
	c->report->add(l);
}

/* Without a host device to compare with: that needs libraries which may be missing here. */
static void run_cases(Check *c, bool is_header)
{
	cuda_cases cases;

	cases.only = is_header ? "header" : "";
	cases.host = [](enum st_dtype) { return (struct st_device *)nullptr; };
	cases.each = [=](cuda_case &k) {
		if ((k.op.rfind("header", 0) == 0) == is_header)
			one_case(c, k);
	};
	cuda_cases_run(cases);
}

/* ---- products -------------------------------------------------------------------------------- */

struct Size {
	size_t m, n, k;
	bool is_checked; /* against double: the large ones only for speed */
};

static int product_once(Rig *rig, struct st_matmul *mm)
{
	int rc;

	st_matmul(rig->dev, mm);
	rc = st_device_status(rig->dev);
	return rc ? rc : rig->wait(ST_STREAM_COMPUTE);
}

static size_t product_wrong(Rig *rig, const struct st_matmul *mm, const std::vector<float> &a,
			    const std::vector<float> &b, std::string *why)
{
	const double rtol = mm->c_dtype == ST_F32    ? 2e-5
			    : mm->c_dtype == ST_BF16 ? 1.0 / 256
						     : 1.0 / 1024;
	std::vector<char> c(mm->m * mm->n * st_dtype_bytes(mm->c_dtype));
	size_t wrong = 0;
	int rc = rig->get(c.data(), mm->c, c.size());

	if (rc) {
		*why = st_last_error();
		return c.size();
	}
	for (size_t i = 0; i < mm->m; i++)
		for (size_t j = 0; j < mm->n; j++) {
			double ref = 0, got = st_elem_f32(mm->c_dtype, c.data(), i * mm->n + j);

			for (size_t k = 0; k < mm->k; k++)
				ref += (double)a[mm->trans_a ? k * mm->m + i : i * mm->k + k] *
				       b[mm->trans_b ? j * mm->k + k : k * mm->n + j];
			wrong += !(fabs(got - ref) <= 1e-6 * (double)mm->k + rtol * fabs(ref));
		}
	if (wrong)
		*why = "against plain loops in double";
	return wrong;
}

static int put_values(Rig *rig, enum st_dtype dt, std::vector<float> *v, size_t n, const void **at)
{
	std::vector<char> x(n * st_dtype_bytes(dt));
	void *p = rig->take(x.size());

	v->resize(n);
	for (size_t i = 0; i < n; i++) {
		(*v)[i] = uniform();
		st_elem_set(dt, x.data(), i, (*v)[i]);
	}
	*at = p;
	return p ? rig->put(p, x.data(), x.size()) : -ENOMEM;
}

static void check_product(Check *c, Rig *on, enum st_dtype dt, const Size &z, bool ta, bool tb)
{
	char name[80];
	std::vector<float> a, b;
	struct st_matmul mm;
	Line l = { "", "", OK, 0, 0, 0, 2.0 * (double)(z.m * z.n * z.k), "" };
	Rig &rig = *on;
	int rc;

	memset(&mm, 0, sizeof(mm));
	snprintf(name, sizeof(name), "product %s %zu x %zu x %zu %c%c", st_dtype_name(dt), z.m, z.n,
		 z.k, ta ? 't' : 'n', tb ? 't' : 'n');
	l.name = name;
	mm.m = z.m;
	mm.n = z.n;
	mm.k = z.k;
	mm.trans_a = ta;
	mm.trans_b = tb;
	mm.a_dtype = mm.b_dtype = mm.c_dtype = dt;
	rig.used = 0;
	rc = put_values(&rig, dt, &a, z.m * z.k, &mm.a);
	rc = rc ? rc : put_values(&rig, dt, &b, z.k * z.n, &mm.b);
	mm.c = rig.take(z.m * z.n * 4);
	if (!rc)
		mm.work_bytes = st_matmul_work_bytes(rig.dev, &mm);
	mm.work = rig.take(mm.work_bytes + 64);
	rc = rc ? rc : mm.work ? product_once(&rig, &mm) : -ENOMEM;
	if (!rc && z.is_checked)
		l.wrong = product_wrong(&rig, &mm, a, b, &l.why);
	if (!rc) {
		double begin, best = 0;

		for (int round = 0; round < 5 && !rc; round++) {
			begin = now_s();
			for (int i = 0; i < 10; i++)
				st_matmul(rig.dev, &mm);
			rc = rig.wait(ST_STREAM_COMPUTE);
			best = round == 0 ? now_s() - begin : fmin(best, now_s() - begin);
		}
		l.seconds = best / 10;
	}
	if (rc) {
		l.state = FAILED;
		l.why = st_last_error();
	} else if (l.wrong) {
		l.state = WRONG;
	}
	if (!rc && dt == ST_BF16 && !z.is_checked)
		c->report->peak_tflops = fmax(c->report->peak_tflops, l.flops / l.seconds / 1e12);
	c->report->add(l);
}

static const Size sizes[] = {
	{ 4096, 4096, 4096, false }, { 1, 1, 1, true },      { 17, 33, 65, true },
	{ 128, 256, 64, true },      { 100, 257, 40, true }, { 2, 3, 5000, true },
};

static void stage_products(Check *c, bool is_short)
{
	for (enum st_dtype dt : { ST_BF16, ST_F16, ST_F32 }) {
		Rig rig;
		size_t most = 0;

		for (const Size &z : sizes)
			if (z.is_checked || !is_short)
				most = std::max(most, 4 * (z.m * z.k + z.k * z.n + z.m * z.n));
		if (rig.open(dt, most + ((size_t)34 << 20))) /* and a workspace */
			c->report->add(Line{ "", std::string("products ") + st_dtype_name(dt),
					     FAILED, 0, 0, 0, 0, st_last_error() });
		for (const Size &z : sizes)
			for (int t = 0; t < 4 && rig.event && !c->report->is_over(); t++)
				if (z.is_checked || (t == 0 && !is_short))
					check_product(c, &rig, dt, z, (t & 1) != 0, (t & 2) != 0);
		rig.shut();
	}
}

/* ---- streams --------------------------------------------------------------------------------- */

static void stage_streams(Check *c)
{
	uint64_t first = 0;
	size_t wrong = 0;
	std::string why;

	for (int i = 0; i < 20 && why.empty() && !c->report->is_over(); i++) {
		Run r;
		int rc = scenario(&r, NONE);

		if (rc)
			why = st_last_error();
		if (i == 0)
			first = r.hash;
		wrong += rc || r.hash != first;
		shut_run(&r);
	}
	c->report->ok("copies and kernels on 3 streams, 20 runs, one hash", wrong,
		      why.empty() ? "the bits change from run to run" : why);
}

/* ---- other programs -------------------------------------------------------------------------- */

/* Run it with its output in a file, at most `limit_s`. @return exit code, 124: too long, -1 */
static int run_program(std::vector<std::string> args, const std::string &out, double limit_s)
{
	posix_spawn_file_actions_t actions;
	std::vector<char *> argv;
	pid_t pid;
	int status = 0;
	double end = now_s() + limit_s;

	for (std::string &a : args)
		argv.push_back(&a[0]);
	argv.push_back(nullptr);
	if (posix_spawn_file_actions_init(&actions))
		return -1;
	if (posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
					     0600) ||
	    posix_spawn_file_actions_adddup2(&actions, 1, 2) ||
	    posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ)) {
		posix_spawn_file_actions_destroy(&actions);
		return -1;
	}
	posix_spawn_file_actions_destroy(&actions);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_s() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return 124;
		}
		usleep(20000);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static std::string last_line(const std::string &path)
{
	FILE *f = fopen(path.c_str(), "r");
	char line[500] = "", kept[500] = "";

	while (f && fgets(line, sizeof(line), f))
		if (strspn(line, " \n") < strlen(line))
			snprintf(kept, sizeof(kept), "%s", line);
	if (f)
		fclose(f);
	kept[strcspn(kept, "\n")] = '\0';
	return kept;
}

struct Args {
	std::string json, only, sanitizer, strata, self, work = ".";
	double seconds = 420;
};

static void one_program(Check *c, const Args &a, const std::string &name,
			const std::vector<std::string> &args, double limit_s)
{
	const std::string out = a.work + "/gpu_check.out";
	double begin = now_s();
	int rc;

	if (c->report->is_over())
		return;
	limit_s = fmin(limit_s, c->report->end_s - now_s());
	rc = run_program(args, out, limit_s);
	if (rc == 0)
		c->report->add(Line{ "", name, OK, 0, now_s() - begin, 0, 0, "" });
	else
		c->report->add(Line{ "", name, FAILED, 0, 0, 0, 0,
				     "exit code " + std::to_string(rc) + ": " + last_line(out) });
}

static void stage_sanitizer(Check *c, const Args &a)
{
	if (a.sanitizer.empty()) {
		c->report->skip("compute-sanitizer", "it is not installed here");
		return;
	}
	for (const char *tool : { "memcheck", "racecheck", "synccheck" })
		for (const char *stage : { "header", "streams" })
			one_program(c, a, std::string(tool) + " " + stage,
				    { a.sanitizer, "--tool", tool, "--error-exitcode", "9", a.self,
				      "--only", stage, "--seconds", "60" },
				    60);
}

static const char config[] =
	"{\"train_batch_size\":4,\"train_micro_batch_size_per_gpu\":%d,\"gradient_clipping\":1.0,"
	"\"bf16\":{\"enabled\":true},"
	"\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":1e-3}},"
	"\"zero_optimization\":{\"stage\":3,"
	"\"offload_param\":{\"device\":\"nvme\",\"nvme_path\":\"%s/nvme\"},"
	"\"offload_optimizer\":{\"device\":\"nvme\",\"nvme_path\":\"%s/nvme\"}},"
	"\"strata\":{\"model\":{\"family\":\"gpt2\",\"n_layer\":%d,\"n_embd\":%d,\"n_head\":%d,"
	"\"n_positions\":%d,\"vocab_size\":%d},"
	"\"data\":{\"train\":\"%s/text\",\"format\":\"bytes\"},\"device\":{\"type\":\"%s\"},"
	"\"steps\":%d,\"output\":\"%s/out-%s-%s\"}}\n";

struct Model {
	const char *name;
	int micro_batch, layers, width, heads, positions, vocab, steps;
};

static std::string write_config(const Args &a, const Model &m, const char *device)
{
	const std::string path = a.work + "/" + m.name + "-" + device + ".json";
	const char *work = a.work.c_str();
	FILE *f = fopen(path.c_str(), "w");

	if (!f)
		return "";
	fprintf(f, config, m.micro_batch, work, work, m.layers, m.width, m.heads, m.positions,
		m.vocab, work, device, m.steps, work, m.name, device);
	return fclose(f) ? "" : path;
}

static bool write_text(const Args &a)
{
	FILE *f = fopen((a.work + "/text").c_str(), "w");

	for (int i = 0; f && i < 40000; i++)
		fprintf(f, "the %s fox runs over the %s wall\n", i % 3 ? "quick" : "slow",
			i % 5 ? "old" : "grey");
	return f && !fclose(f);
}

static void stage_engine(Check *c, const Args &a)
{
	static const Model models[] = {
		{ "tiny", 2, 2, 64, 2, 64, 256, 10 },
		{ "gpt2-124m", 2, 12, 768, 12, 512, 50257, 20 },
	};

	if (a.strata.empty() || access(a.strata.c_str(), X_OK)) {
		c->report->skip("strata train",
				"the program could not be built here: it needs CMake, liburing, "
				"jansson, xxHash and oneDNN");
		return;
	}
	if (!write_text(a)) {
		c->report->skip("strata train", "cannot write into " + a.work);
		return;
	}
	for (const Model &m : models) {
		const std::string path = write_config(a, m, "cuda");

		one_program(c, a, std::string(m.name) + ", everything on NVMe, device cuda",
			    { a.strata, "train", path, "--progress", "none" }, 240);
	}
}

/* ---- main ------------------------------------------------------------------------------------ */

static int usage(void)
{
	fputs("usage: gpu_check [--json FILE] [--seconds N] [--only STAGE] [--work DIR]\n"
	      "                 [--sanitizer PROGRAM] [--strata PROGRAM]\n"
	      "STAGE: header, kernels, products, streams, sanitizer, engine\n",
	      stderr);
	return 2;
}

static bool read_args(Args *a, int argc, char **argv)
{
	a->self = argv[0];
	for (int i = 1; i < argc; i += 2) {
		const std::string name = argv[i];
		char *end;

		if (i + 1 == argc)
			return false;
		if (name == "--json")
			a->json = argv[i + 1];
		else if (name == "--only")
			a->only = argv[i + 1];
		else if (name == "--work")
			a->work = argv[i + 1];
		else if (name == "--sanitizer")
			a->sanitizer = argv[i + 1];
		else if (name == "--strata")
			a->strata = argv[i + 1];
		else if (name == "--seconds") {
			a->seconds = strtod(argv[i + 1], &end);
			if (*end || !(a->seconds > 0))
				return false;
		} else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	char line[ST_PLUGIN_LINE];
	Report report;
	Check c = { &report, nullptr };
	Args a;
	int n = 0;
	auto wants = [&](const char *stage) {
		bool is_it = a.only.empty() || a.only == stage;

		n += is_it;
		if (is_it && report.is_over())
			report.skip(stage, "time was up");
		else if (is_it)
			report.begin(stage);
		return is_it && !report.is_over();
	};

	if (!read_args(&a, argc, argv))
		return usage();
	if (st_cuda_probe(line, sizeof(line)) ||
	    cudaStreamCreateWithFlags(&c.s, cudaStreamNonBlocking)) {
		printf("gpu_check: %s\n", c.s ? "no stream" : line);
		return 77;
	}
	report.gpu = line;
	report.json = a.json;
	report.end_s = now_s() + a.seconds;
	printf("%s\n", line);
	if (wants("header"))
		run_cases(&c, true);
	if (a.only.empty() && !report.is_over())
		measure_peaks(&c);
	if (wants("products"))
		stage_products(&c, !a.only.empty());
	if (wants("kernels"))
		run_cases(&c, false);
	if (wants("streams"))
		stage_streams(&c);
	if (wants("sanitizer"))
		stage_sanitizer(&c, a);
	if (wants("engine"))
		stage_engine(&c, a);
	(void)cudaStreamDestroy(c.s);
	return n ? report.finish() : usage();
}
