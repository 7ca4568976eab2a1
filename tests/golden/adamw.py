#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/adamw.h: single steps of torch.optim.AdamW from given states.

Run as:  python3 tests/golden/adamw.py > tests/golden/adamw.h
Weight decay is 0 in all of them: torch scales the parameter by 1 - lr * wd first, in its own
rounding. Each case is stepped in float32 and in float64 from the same float32 state.
"""
import platform

import torch

ELEMS = 48
# t, lr, beta1, beta2, eps
CASES = [
    (1, 1e-3, 0.9, 0.999, 1e-8),
    (2, 6e-4, 0.9, 0.95, 1e-8),
    (10, 1e-4, 0.8, 0.99, 1e-6),
    (1000, 2.5e-4, 0.9, 0.999, 1e-8),
    (100000, 1e-2, 0.9, 0.98, 1e-9),
]


def spread(gen, low, high):
    """Float32 numbers with a random sign and a magnitude between 10^low and 10^high."""
    mag = 10.0 ** (low + (high - low) * torch.rand(ELEMS, generator=gen, dtype=torch.float64))
    sign = torch.randint(0, 2, (ELEMS,), generator=gen).double() * 2 - 1
    return (mag * sign).float()


def step(dtype, case, p, m, v, g):
    t, lr, beta1, beta2, eps = case
    param = p.to(dtype).clone().requires_grad_(True)
    opt = torch.optim.AdamW([param], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=0.0,
                            foreach=False)
    opt.state[param] = {
        "step": torch.tensor(float(t - 1)),
        "exp_avg": m.to(dtype).clone(),
        "exp_avg_sq": v.to(dtype).clone(),
    }
    param.grad = g.to(dtype).clone()
    opt.step()
    state = opt.state[param]
    return param.detach(), state["exp_avg"], state["exp_avg_sq"]


def main():
    gen = torch.Generator().manual_seed(20)
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/*\n * tests/golden/adamw.h - steps of torch.optim.AdamW (foreach=False, weight decay 0).")
    print(" *\n * Made by tests/golden/adamw.py with torch %s, Python %s; do not edit." %
          (torch.__version__, platform.python_version()))
    print(" * Before: p, m, v, g. After one step t: p32, m32, v32 in float32, p64, m64, v64 in float64.")
    print(" */\n/* clang-format off */")
    print("static const struct golden_case {\n\tuint64_t t;\n\tdouble lr, beta1, beta2, eps;")
    print("\tstruct {\n\t\tfloat p, m, v, g;\n\t\tfloat p32, m32, v32;")
    print("\t\tdouble p64, m64, v64;\n\t} elem[%d];\n} golden[] = {" % ELEMS)
    for case in CASES:
        p, g = spread(gen, -4, 1), spread(gen, -6, 2)
        m = spread(gen, -6, 2) if case[0] > 1 else torch.zeros(ELEMS)
        v = spread(gen, -12, 4).abs() if case[0] > 1 else torch.zeros(ELEMS)
        g[0], g[1], g[2] = 0.0, 1.0, -1.0
        r32 = step(torch.float32, case, p, m, v, g)
        r64 = step(torch.float64, case, p, m, v, g)
        print("\t{ %d, %r, %r, %r, %r, {" % case)
        for i in range(ELEMS):
            row = [x[i].item() for x in (p, m, v, g, *r32)]
            row64 = [x[i].item() for x in r64]
            print("\t\t{ " + ", ".join([x.hex() + "f" for x in row] +
                                       [x.hex() for x in row64]) + " },")
        print("\t} },")
    print("};\n/* clang-format on */")


if __name__ == "__main__":
    main()
