#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reference values for tests/test_gpt2.c: a GPT-2 in plain PyTorch, in float64.

    python3 tests/golden/gpt2.py            write gpt2_fixture.json and gpt2_fixture.bin beside it
    python3 tests/golden/gpt2.py --check    compute again and compare with what is there

Made with Debian 12's python3-torch 1.13.1 (it calls itself 1.13.0a0) and python3-numpy 1.24.2.

Weights and tokens come from an integer formula that the test repeats, so they are not stored. All
weights are exact in bf16: the reference serves fp32 and bf16 alike. gpt2_fixture.bin holds the
gradient of the mean loss, fp32 little-endian, tensor after tensor in the order of the json file.

The curve: STEPS steps of AdamW (lr 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0.1 on matrices only),
total gradient norm clipped to 1.0 by the factor min(1, 1 / (norm + 1e-6)), batch step % BATCHES.
curve[i] is the loss before update i, norms[i] the norm before clipping; the last entry of curve is the
loss of batch STEPS % BATCHES after all of them.
"""
import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

CONFIG = {"n_layer": 4, "n_embd": 48, "n_head": 2, "n_positions": 24, "vocab_size": 109}
BATCH, SEQ, BATCHES, STEPS = 3, 21, 4, 30
M64 = (1 << 64) - 1


def mix32(name, n):
    """n hashes of 32 bits: MurmurHash3's finaliser over FNV-1a-32(name) + i * 0x9e3779b9."""
    h = 0x811C9DC5
    for ch in name.encode():
        h = ((h ^ ch) * 0x01000193) & 0xFFFFFFFF
    z = (h + np.arange(n, dtype=np.uint64) * 0x9E3779B9) & 0xFFFFFFFF
    z ^= z >> 16
    z = (z * 0x85EBCA6B) & 0xFFFFFFFF
    z ^= z >> 13
    z = (z * 0xC2B2AE35) & 0xFFFFFFFF
    return z ^ (z >> 16)


def weight(name, dims):
    k = (mix32(name, math.prod(dims)) >> 24).astype(np.float64)
    if len(dims) == 2:
        w = (k - 128) / 512
    elif name.endswith(".weight"):
        w = 1 + (np.floor(k / 8) - 16) / 64
    else:
        w = (k - 128) / 1024
    bits = w.astype(np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any(), name + " is not exact in bf16"
    return torch.tensor(w.reshape(dims), dtype=torch.float64)


def shapes(cfg):
    c = cfg["n_embd"]
    yield "wte.weight", (cfg["vocab_size"], c)
    yield "wpe.weight", (cfg["n_positions"], c)
    for i in range(cfg["n_layer"]):
        for name, dims in [
            ("attn.c_attn.weight", (c, 3 * c)), ("attn.c_proj.weight", (c, c)),
            ("mlp.c_fc.weight", (c, 4 * c)), ("mlp.c_proj.weight", (4 * c, c)),
            ("ln_1.weight", (c,)), ("ln_1.bias", (c,)),
            ("attn.c_attn.bias", (3 * c,)), ("attn.c_proj.bias", (c,)),
            ("ln_2.weight", (c,)), ("ln_2.bias", (c,)),
            ("mlp.c_fc.bias", (4 * c,)), ("mlp.c_proj.bias", (c,)),
        ]:
            yield "h.%d.%s" % (i, name), dims
    yield "ln_f.weight", (c,)
    yield "ln_f.bias", (c,)


def layer_norm(x, w, b):
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * w + b


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def attention(qkv, heads):
    b, t, c3 = qkv.shape
    q, k, v = (z.view(b, t, heads, -1).transpose(1, 2) for z in qkv.split(c3 // 3, dim=-1))
    s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    s = s.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return (e / e.sum(-1, keepdim=True) @ v).transpose(1, 2).reshape(b, t, c3 // 3)


def logits_of(p, cfg, tokens):
    x = p["wte.weight"][tokens] + p["wpe.weight"][: tokens.shape[1]]
    for i in range(cfg["n_layer"]):
        w = {k[len("h.%d." % i):]: v for k, v in p.items() if k.startswith("h.%d." % i)}
        h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"])
        h = attention(h @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"], cfg["n_head"])
        x = x + h @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]
        h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"])
        h = gelu(h @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"])
        x = x + h @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
    return layer_norm(x, p["ln_f.weight"], p["ln_f.bias"]) @ p["wte.weight"].T


def loss_of(p, cfg, tokens, targets):
    z = logits_of(p, cfg, tokens)
    z = z - z.amax(-1, keepdim=True)
    return (z.exp().sum(-1).log() - z.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).mean()


def torch_loss(p, cfg, tokens, targets):
    """The same with torch's own blocks: the two must agree, or this file is wrong."""
    c, t = cfg["n_embd"], tokens.shape[1]
    mask = torch.full((t, t), float("-inf"), dtype=torch.float64).triu(1)
    x = F.embedding(tokens, p["wte.weight"]) + p["wpe.weight"][:t]
    for i in range(cfg["n_layer"]):
        block = torch.nn.TransformerEncoderLayer(
            c, cfg["n_head"], 4 * c, dropout=0.0, layer_norm_eps=1e-5, batch_first=True,
            norm_first=True, dtype=torch.float64,
            activation=lambda z: F.gelu(z, approximate="tanh"))
        names = {
            "self_attn.in_proj_weight": "attn.c_attn.weight",
            "self_attn.in_proj_bias": "attn.c_attn.bias",
            "self_attn.out_proj.weight": "attn.c_proj.weight",
            "self_attn.out_proj.bias": "attn.c_proj.bias",
            "linear1.weight": "mlp.c_fc.weight", "linear1.bias": "mlp.c_fc.bias",
            "linear2.weight": "mlp.c_proj.weight", "linear2.bias": "mlp.c_proj.bias",
            "norm1.weight": "ln_1.weight", "norm1.bias": "ln_1.bias",
            "norm2.weight": "ln_2.weight", "norm2.bias": "ln_2.bias",
        }
        block.load_state_dict({k: p["h.%d.%s" % (i, v)].detach().t() for k, v in names.items()})
        x = block(x, src_mask=mask)
    x = F.layer_norm(x, (c,), p["ln_f.weight"], p["ln_f.bias"], 1e-5)
    return F.cross_entropy(F.linear(x, p["wte.weight"]).flatten(0, 1), targets.flatten())


def batches():
    n = BATCHES * BATCH * (SEQ + 1)
    w = (mix32("tokens", n) % CONFIG["vocab_size"]).astype(np.int64)
    w = torch.tensor(w.reshape(BATCHES, BATCH, SEQ + 1))
    return [(b[:, :-1].contiguous(), b[:, 1:].contiguous()) for b in w]


def curve(params, data):
    p = {k: v.clone().requires_grad_() for k, v in params.items()}
    groups = [{"params": [v for v in p.values() if v.dim() == 2], "weight_decay": 0.1},
              {"params": [v for v in p.values() if v.dim() == 1], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        opt.zero_grad()
        loss = loss_of(p, CONFIG, *data[step % BATCHES])
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item())
        opt.step()
    with torch.no_grad():
        losses.append(loss_of(p, CONFIG, *data[STEPS % BATCHES]).item())
    return losses, norms


def mix64(z):
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M64
    return z ^ z >> 31


def normal(seed, name, i, std):
    """Element i of model/init.c's generator."""
    h = 0xCBF29CE484222325
    for ch in name.encode():
        h = ((h ^ ch) * 0x100000001B3) & M64
    key = mix64(mix64(seed) ^ h)
    u, v = (mix64((key + (c + 1) * 0x9E3779B97F4A7C15) & M64) >> 11
            for c in (i // 2 * 2, i // 2 * 2 + 1))
    phi = 2 * math.pi * (v * 2.0 ** -53)
    return std * math.sqrt(-2 * math.log((u + 1) * 2.0 ** -53)) * (math.sin if i % 2 else math.cos)(phi)


def compute():
    params = {name: weight(name, dims) for name, dims in shapes(CONFIG)}
    data = batches()
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    loss = loss_of(leaves, CONFIG, *data[0])
    loss.backward()
    own = torch_loss(params, CONFIG, *data[0]).item()
    assert abs(own - loss.item()) < 1e-12, "torch's own blocks give %r, not %r" % (own, loss.item())
    losses, norms = curve(params, data)
    grads = [v.grad for v in leaves.values()]
    seeds = [(1234, "wte.weight", 0), (1234, "wte.weight", 1), (1234, "wte.weight", 77),
             (1234, "wpe.weight", 0), (0, "h.3.mlp.c_proj.weight", 5),
             (M64, "h.0.attn.c_attn.weight", (1 << 40) + 3)]
    meta = {
        "made_with": "torch %s, numpy %s" % (torch.__version__, np.__version__),
        "config": CONFIG, "batch": BATCH, "seq": SEQ, "batches": BATCHES, "steps": STEPS,
        "loss": loss.item(),
        "grad_norm": math.sqrt(sum((g ** 2).sum().item() for g in grads)),
        "tensors": [{"name": k, "dims": list(v.shape)} for k, v in params.items()],
        "last_logits": logits_of(params, CONFIG, data[0][0])[-1, -1].tolist(),
        "curve": losses, "norms": norms,
        "init": [{"seed": "%#x" % s, "name": n, "index": i, "normal": normal(s, n, i, 1.0)}
                 for s, n, i in seeds],
    }
    return meta, np.concatenate([g.numpy().astype("<f4").ravel() for g in grads])


def dump(value):
    """One line for each entry of a list of objects, so that a change can be read."""
    if isinstance(value, list) and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]"
    return json.dumps(value)


def main():
    stem = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpt2_fixture")
    torch.set_num_threads(1)
    meta, grads = compute()
    if "--check" in sys.argv[1:]:
        old = json.load(open(stem + ".json"))
        worst = max(abs(a - b) for a, b in zip(meta["curve"] + meta["last_logits"] + [meta["loss"]],
                                               old["curve"] + old["last_logits"] + [old["loss"]]))
        stored = np.fromfile(stem + ".bin", "<f4")
        grad = np.abs(stored - grads).max() if stored.shape == grads.shape else math.inf
        print("largest difference: losses and logits %.3g, gradients %.3g" % (worst, grad))
        sys.exit(0 if worst < 1e-9 and grad < 1e-6 else 1)
    with open(stem + ".json", "w") as f:
        f.write("{\n" + ",\n".join('"%s": %s' % (k, dump(v)) for k, v in meta.items()) + "\n}\n")
    grads.tofile(stem + ".bin")
    print("loss %.9f, gradient norm %.6f, curve %.6f to %.6f, %d gradients" % (
        meta["loss"], meta["grad_norm"], meta["curve"][0], meta["curve"][-1], grads.size))
    print("norms", " ".join("%.3f" % n for n in meta["norms"]))


if __name__ == "__main__":
    main()
