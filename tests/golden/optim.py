#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/optim.h: single steps of torch.optim's Adam, Adagrad and SGD from given states.

Run as:  python3 tests/golden/optim.py > tests/golden/optim.h
Each case is stepped in float32 and in float64 from the same float32 state, by the variants that
loop over tensors (foreach=False). AdamW has its own file, adamw.py.
"""
import platform

import torch

ELEMS = 32
# number of the optimizer in tests/optim_util.h, t, lr, weight decay
ADAM, ADAGRAD, SGD, MOMENTUM, NESTEROV = 1, 2, 4, 5, 6
CASES = [
    (ADAM, 1, 1e-3, 0.0), (ADAM, 20, 1e-3, 0.01),
    (ADAGRAD, 1, 1e-2, 0.0), (ADAGRAD, 50, 1e-2, 0.01),
    (SGD, 1, 0.1, 0.0), (SGD, 9, 0.1, 0.01),
    (MOMENTUM, 1, 0.1, 0.0), (MOMENTUM, 5, 0.1, 0.01),
    (NESTEROV, 1, 0.1, 0.0), (NESTEROV, 5, 0.1, 0.01),
]


def spread(gen, low, high):
    """Float32 numbers with a random sign and a magnitude between 10^low and 10^high."""
    mag = 10.0 ** (low + (high - low) * torch.rand(ELEMS, generator=gen, dtype=torch.float64))
    sign = torch.randint(0, 2, (ELEMS,), generator=gen).double() * 2 - 1
    return (mag * sign).float()


def optimizer(kind, param, t, lr, decay, m, v):
    if kind == ADAM:
        opt = torch.optim.Adam([param], lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay,
                               foreach=False)
        opt.state[param] = {"step": torch.tensor(float(t - 1)), "exp_avg": m, "exp_avg_sq": v}
    elif kind == ADAGRAD:
        opt = torch.optim.Adagrad([param], lr=lr, lr_decay=0.01, eps=1e-8, weight_decay=decay,
                                  foreach=False)
        opt.state[param] = {"step": torch.tensor(float(t - 1)), "sum": v}
    else:
        opt = torch.optim.SGD([param], lr=lr, momentum=0.0 if kind == SGD else 0.9,
                              dampening=0.1 if kind == MOMENTUM else 0.0,
                              nesterov=kind == NESTEROV, weight_decay=decay, foreach=False)
        if t > 1 and kind != SGD:
            opt.state[param] = {"momentum_buffer": m}
    return opt


def step(dtype, case, p, m, v, g):
    kind, t, lr, decay = case
    param = p.to(dtype).clone().requires_grad_(True)
    m, v = m.to(dtype).clone(), v.to(dtype).clone()
    opt = optimizer(kind, param, t, lr, decay, m, v)
    param.grad = g.to(dtype).clone()
    opt.step()
    if kind in (MOMENTUM, NESTEROV):
        m = opt.state[param]["momentum_buffer"]
    return param.detach(), m, v


def main():
    gen = torch.Generator().manual_seed(21)
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/*\n * tests/golden/optim.h - steps of torch.optim.Adam, Adagrad and SGD (foreach=False).")
    print(" *\n * Made by tests/golden/optim.py with torch %s, Python %s; do not edit." %
          (torch.__version__, platform.python_version()))
    print(" * Before: p, m, v, g. After one step t: p32, m32, v32 in float32, p64, m64, v64 in float64.")
    print(" */\n/* clang-format off */")
    print("static const struct optim_case {\n\tint optim;\n\tuint64_t t;\n\tdouble lr, decay;")
    print("\tstruct {\n\t\tfloat p, m, v, g;\n\t\tfloat p32, m32, v32;")
    print("\t\tdouble p64, m64, v64;\n\t} elem[%d];\n} optim_golden[] = {" % ELEMS)
    for case in CASES:
        p, g = spread(gen, -4, 1), spread(gen, -6, 2)
        m = spread(gen, -6, 2) if case[1] > 1 else torch.zeros(ELEMS)
        v = spread(gen, -12, 4).abs() if case[1] > 1 else torch.zeros(ELEMS)
        g[0], g[1], g[2] = 0.0, 1.0, -1.0
        r32 = step(torch.float32, case, p, m, v, g)
        r64 = step(torch.float64, case, p, m, v, g)
        print("\t{ %d, %d, %r, %r, {" % case)
        for i in range(ELEMS):
            row = [x[i].item() for x in (p, m, v, g, *r32)]
            row64 = [x[i].item() for x in r64]
            print("\t\t{ " + ", ".join([x.hex() + "f" for x in row] +
                                       [x.hex() for x in row64]) + " },")
        print("\t} },")
    print("};\n/* clang-format on */")


if __name__ == "__main__":
    main()
