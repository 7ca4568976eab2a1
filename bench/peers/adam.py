#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/peers/adam.py - one AdamW step on host memory: PyTorch, DeepSpeed and Strata, in turn.

	python3 -m venv peers && peers/bin/pip install torch setuptools wheel ninja numpy
	peers/bin/pip install --no-build-isolation deepspeed
	peers/bin/python bench/peers/adam.py --lib build/libstrata.so.0

What is not installed is left out, and said; without PyTorch nothing is measured (exit code 77).
DeepSpeed compiles its kernel on first use, which takes a minute and a C++ compiler. Contenders run in
turn in an order that rotates; figures are medians over the rounds, ratios are taken within a round.
Leave OMP_WAIT_POLICY unset: threads that wait actively take cores from whoever comes next. All arrays
are PyTorch's, in pages of the usual size; strata bench optim, as the engine, uses huge ones.

	torch ...        torch.optim.AdamW over fp32 tensors: one after the other, foreach, fused
	deepspeed adam   DeepSpeedCPUAdam.step() alone, fp32
	deepspeed pass   what ZeRO-Offload does on the host: norm, unscale, Adam, cast to bf16
	strata ...       strata_optim_update(): unscale, clip, AdamW and the 16-bit parameter in one pass;
	                 moments in fp32, bf16, int8; parameters split (bf16 and what completes them)
	                 with bf16 gradients, or fp32 with fp32 gradients
"""
import argparse
import ctypes as C
import json
import os
import statistics
import sys
import threading
import time

LR, BETAS, EPS, DECAY = 1e-4, (0.9, 0.999), 1e-8, 0.1
SPLIT, F32 = 0, 1
MOMENTS = {"fp32": 0, "bf16": 1, "int8": 2}
GRADS_F32, GRADS_BF16 = 0, 1
BLOCK = 128  # elements that share a scale
SHIFT = 1344  # bytes: arrays must not lie at equal offsets modulo 64 KiB
TENSOR = 1 << 22  # elements of each of the peers' tensors


class Cfg(C.Structure):
    _fields_ = [("struct_bytes", C.c_size_t), ("kind", C.c_int), ("beta1", C.c_double),
                ("beta2", C.c_double), ("eps", C.c_double), ("has_bias_correction", C.c_bool),
                ("momentum", C.c_double), ("dampening", C.c_double), ("is_nesterov", C.c_bool),
                ("lr_decay", C.c_double), ("seed", C.c_uint64)]


class Format(C.Structure):
    _fields_ = [("params", C.c_int), ("moments", C.c_int), ("grads", C.c_int)]


class Range(C.Structure):
    _fields_ = [("n", C.c_size_t), ("first", C.c_uint64), ("stream", C.c_uint64),
                ("array", C.c_void_p * 7)]


def die(text, code=2):
    print(f"adam.py: {text}", file=sys.stderr)
    sys.exit(code)


def parse():
    here = os.path.dirname(os.path.abspath(__file__))
    lib = os.path.join(here, "..", "..", "build", "libstrata.so.0")
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--params", type=int, default=64000000, metavar="N")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    p.add_argument("--seconds", type=float, default=60, help="of measuring (60)")
    p.add_argument("--lib", default=os.path.normpath(lib), help="libstrata.so.0")
    p.add_argument("--json", action="store_true", help="an object a contender")
    args = p.parse_args()
    if args.params < BLOCK or args.threads < 1 or args.seconds < 0:
        die(f"--params must be {BLOCK} or more, --threads 1 or more, --seconds 0 or more.")
    return args


class Team:
    """Threads that each run a call of the library, which holds no lock of Python's."""

    def __init__(self, n):
        self.begin, self.end = threading.Barrier(n), threading.Barrier(n)
        self.work = None
        for k in range(1, n):
            threading.Thread(target=self.loop, args=(k,), daemon=True).start()

    def loop(self, k):
        while True:
            self.begin.wait()
            self.work(k)
            self.end.wait()

    def run(self, work):
        self.work = work
        self.begin.wait()
        work(0)
        self.end.wait()


class Strata:
    """Arrays of n elements in one format, cut into a range for each thread."""

    def __init__(self, torch, lib, team, n_threads, n, params, moments, grads, p, g):
        self.lib, self.team, self.t = lib, team, 0
        self.cfg = Cfg(C.sizeof(Cfg), 0, *BETAS, EPS, True)
        self.format = Format(params, MOMENTS[moments], grads)
        self.bytes = self.sizes(n)
        self.base, at = [0] * 7, 0
        for a, size in enumerate(self.bytes):
            self.base[a] = at + SHIFT * a if size else None
            at += (size + SHIFT * 8 + 65535) // 65536 * 65536
        self.memory = torch.zeros(at + 65536, dtype=torch.uint8)
        start = (self.memory.data_ptr() + 65535) // 65536 * 65536
        self.base = [b if b is None else start + b for b in self.base]
        self.fill(torch, n, params, grads, p, g)
        tile = 4096
        cuts = [n // tile * k // n_threads * tile for k in range(n_threads)] + [n]
        self.ranges = [self.range(cuts[k], cuts[k + 1]) for k in range(n_threads)]

    def sizes(self, n):
        out = (C.c_size_t * 7)()
        if self.lib.strata_optim_array_bytes(C.byref(self.cfg), C.byref(self.format),
                                             C.c_size_t(n), out):
            die(self.lib.strata_last_error().decode())
        return list(out)

    def range(self, first, end):
        at = self.sizes(first)
        arrays = [b if b is None else b + at[a] for a, b in enumerate(self.base)]
        return Range(end - first, first, 0, (C.c_void_p * 7)(*arrays))

    def fill(self, torch, n, params, grads, p, g):
        if params == SPLIT:
            self.lib.strata_optim_split(C.c_size_t(n), C.c_void_p(p.data_ptr()),
                                        C.c_void_p(self.base[0]), C.c_void_p(self.base[1]))
        else:
            C.memmove(self.base[0], p.data_ptr(), 4 * n)
        if grads == GRADS_BF16:
            low = g.to(torch.bfloat16)
            C.memmove(self.base[6], low.data_ptr(), 2 * n)
        else:
            C.memmove(self.base[6], g.data_ptr(), 4 * n)

    def master(self, torch, n):
        out = torch.empty(n)
        if self.format.params == SPLIT:
            self.lib.strata_optim_join(C.c_size_t(n), C.c_void_p(self.base[0]),
                                       C.c_void_p(self.base[1]), C.c_void_p(out.data_ptr()))
        else:
            C.memmove(out.data_ptr(), self.base[0], 4 * n)
        return out

    def step(self):
        self.t += 1
        step = (C.c_uint64 * 16)()
        if self.lib.strata_optim_prepare(step, C.byref(self.cfg), C.c_uint64(self.t),
                                         C.c_double(LR), C.c_double(DECAY), C.c_double(1)):
            die(self.lib.strata_last_error().decode())

        def work(k):
            if self.lib.strata_optim_update(step, C.byref(self.format),
                                            C.byref(self.ranges[k])):
                die(self.lib.strata_last_error().decode())

        self.team.run(work)


def load(path):
    try:
        lib = C.CDLL(path)
    except OSError as e:
        die(f"{e}: build it, or name it with --lib")
    lib.strata_last_error.restype = C.c_char_p
    lib.strata_isa_name.restype = C.c_char_p
    lib.strata_optim_split.restype = lib.strata_optim_join.restype = None
    return lib


def strata_contenders(torch, lib, args, p, g):
    """name -> step, bytes moved a parameter"""
    team, out = Team(args.threads), {}
    for params, name, grads, fixed in ((SPLIT, "split", GRADS_BF16, 10), (F32, "fp32", GRADS_F32, 12)):
        for moments, each in (("fp32", 16), ("bf16", 8), ("int8", 4.125)):
            s = Strata(torch, lib, team, args.threads, args.params, params, moments, grads, p, g)
            out[f"strata {moments}, {name}"] = (s.step, fixed + each)
    return out


def tensors(torch, p, g):
    """The same memory as a list of parameters with gradients."""
    out = []
    for part, grad in zip(p.split(TENSOR), g.split(TENSOR)):
        t = torch.nn.Parameter(part)
        t.grad = grad
        out.append(t)
    return out


def torch_contenders(torch, p, g):
    out = {}
    for name, how in (("torch loop", {"foreach": False}), ("torch foreach", {"foreach": True}),
                      ("torch fused", {"fused": True})):
        try:
            o = torch.optim.AdamW(tensors(torch, p.clone(), g), lr=LR, betas=BETAS, eps=EPS,
                                  weight_decay=DECAY, **how)
            o.step()
        except (RuntimeError, TypeError, ValueError) as e:
            print(f"# {name}: not in this PyTorch ({str(e).splitlines()[0]})", file=sys.stderr)
            continue
        out[name] = (o.step, 28)
    return out


def deepspeed_contenders(torch, p, g):
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    try:
        import deepspeed
        from deepspeed.ops.adam import DeepSpeedCPUAdam
    except ImportError as e:
        print(f"# DeepSpeed is not installed ({e}): left out", file=sys.stderr)
        return {}, None
    p = p.clone()
    g = g.clone()
    parts = tensors(torch, p, g)
    try:
        o = DeepSpeedCPUAdam(parts, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY,
                             adamw_mode=True)
    except RuntimeError as e:
        print(f"# DeepSpeed's kernel cannot be built ({e}): left out", file=sys.stderr)
        return {}, None
    low = [torch.empty_like(t, dtype=torch.bfloat16) for t in parts]

    def whole():
        total = torch.stack([t.grad.norm() for t in parts]).norm()
        combined = max(1.0, (float(total) + 1e-6) / 1e30)
        for t in parts:
            t.grad.mul_(1.0 / combined)
        o.step()
        with torch.no_grad():
            for t, out in zip(parts, low):
                out.copy_(t)

    return {"deepspeed adam": (o.step, 28), "deepspeed pass": (whole, 46)}, deepspeed.__version__


def check(torch, lib, team, n_threads):
    """One step on a few elements is PyTorch's, but for the last bits."""
    n = 1 << 16
    gen = torch.Generator().manual_seed(1)
    p, g = (torch.randn(n, generator=gen) for _ in range(2))
    s = Strata(torch, lib, team, n_threads, n, F32, "fp32", GRADS_F32, p, g)
    t = torch.nn.Parameter(p.clone())
    t.grad = g
    o = torch.optim.AdamW([t], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for _ in range(3):
        s.step()
        o.step()
    worst = float(((s.master(torch, n) - t.detach()).abs() / (t.detach().abs() + LR)).max())
    if not worst < 1e-5:
        die(f"after three steps a parameter differs from PyTorch's by {worst:g} of it", 1)
    return worst


def measure(contenders, seconds):
    names = list(contenders)
    times = {name: [] for name in names}
    for name in names:  # warms up
        contenders[name][0]()
    end = time.perf_counter() + seconds
    k = 0
    while not k or time.perf_counter() < end:
        for name in names[k % len(names):] + names[:k % len(names)]:
            start = time.perf_counter()
            contenders[name][0]()
            times[name].append(time.perf_counter() - start)
        k += 1
    return times


def report(args, contenders, times):
    def ratio(name, to):
        if to not in times:
            return None
        return statistics.median(b / a for a, b in zip(times[name], times[to]))

    rows = []
    for name, (_, moved) in contenders.items():
        rate = args.params / statistics.median(times[name]) / 1e9
        rows.append({"name": name, "gparams_per_s": rate, "gbps": rate * moved,
                     "bytes_per_param": moved, "ratio_to_deepspeed_pass": ratio(name, "deepspeed pass"),
                     "ratio_to_deepspeed_adam": ratio(name, "deepspeed adam"),
                     "ratio_to_torch_fused": ratio(name, "torch fused"),
                     "rounds": len(times[name])})
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return
    print(f"{'':20} {'Gparam/s':>8} {'B/param':>8} {'GB/s':>7} {'x ds pass':>9} {'x ds adam':>9} "
          f"{'x fused':>8}")
    for row in rows:
        def x(key):
            return "-" if row[key] is None else f"{row[key]:.2f}"
        print(f"{row['name']:20} {row['gparams_per_s']:8.3f} {row['bytes_per_param']:8.2f} "
              f"{row['gbps']:7.2f} {x('ratio_to_deepspeed_pass'):>9} "
              f"{x('ratio_to_deepspeed_adam'):>9} {x('ratio_to_torch_fused'):>8}")


def main():
    args = parse()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before PyTorch starts its threads
    try:
        import torch
    except ImportError as e:
        die(f"PyTorch is not installed ({e}): nothing was measured", 77)
    torch.set_num_threads(args.threads)
    lib = load(args.lib)
    worst = check(torch, lib, Team(args.threads), args.threads)
    gen = torch.Generator().manual_seed(1)
    p = torch.randn(args.params, generator=gen) * 0.02
    g = torch.randn(args.params, generator=gen) * 0.1
    theirs, version = deepspeed_contenders(torch, p, g)
    contenders = {**torch_contenders(torch, p, g), **theirs,
                  **strata_contenders(torch, lib, args, p, g)}
    isa = lib.strata_isa_name(lib.strata_isa_in_use()).decode()
    print(f"# {args.params} parameters, {args.threads} threads; PyTorch {torch.__version__}, "
          f"DeepSpeed {version or 'none'}, Strata with {isa}; largest difference from PyTorch "
          f"after three steps: {worst:.1e} of a parameter", file=sys.stderr)
    report(args, contenders, measure(contenders, args.seconds))


main()
