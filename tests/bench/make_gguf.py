#!/usr/bin/python3
"""Writes a random-weight GGUF file of a real shape, for measuring speed and memory:

make_gguf.py OUT.gguf [--shape v2-lite] [--layers N] [--type q4_0] [--seed N]

Shapes as in make_model.py, but v1; types are all that skein reads. Blocks have random quants and scales that keep
activations of order one. Rows that are no whole blocks of 256 get the usual types with blocks of 32 instead. There is no
tokenizer: use --prompt-ids. Needs python3-numpy."""
import argparse
import os
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from gguf_models import ALIGNMENT, STRING, U32, model_metadata, pair, text  # noqa: E402
from make_model import SHAPES  # noqa: E402

# GGUF's number, values and bytes of a block, where its f16 scale is and where its minimum, the scale that gives unit
# variance and the minimum in units of it.
TYPES = {
    "f32": (0, 1, 4, None, None, 1, 0),
    "f16": (1, 1, 2, None, None, 1, 0),
    "bf16": (30, 1, 2, None, None, 1, 0),
    "q4_0": (2, 32, 18, 0, None, 1 / 4.6, 0),
    "q4_1": (3, 32, 20, 0, 2, 1 / 4.6, -7.5),
    "q5_0": (6, 32, 22, 0, None, 1 / 9.2, 0),
    "q5_1": (7, 32, 24, 0, 2, 1 / 9.2, -15.5),
    "q8_0": (8, 32, 34, 0, None, 1 / 74, 0),
    "q2_k": (10, 256, 84, 80, 82, 1 / 10, 1.5),
    "q3_k": (11, 256, 110, 108, None, 1 / 42, 0),
    "q4_k": (12, 256, 144, 0, 2, 1 / 150, 7),
    "q5_k": (13, 256, 176, 0, 2, 1 / 330, 15),
    "q6_k": (14, 256, 210, 208, None, 1 / 1300, 0),
    "iq4_nl": (20, 32, 18, 0, None, 1 / 70, 0),
    "iq4_xs": (23, 256, 136, 0, None, 1 / 1300, 0),
}
# For rows that are no whole blocks of 256.
SMALLER = {"q2_k": "iq4_nl", "q3_k": "iq4_nl", "iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
GGUF_F32 = 0


def tensors(c):
    """Yields (name, shape, whether it is quantised)."""
    h, heads, inner = c["hidden_size"], c["num_attention_heads"], c["moe_intermediate_size"]
    key = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    yield "token_embd.weight", (c["vocab_size"], h), True
    yield "output.weight", (c["vocab_size"], h), True
    yield "output_norm.weight", (h,), False
    for layer in range(c["num_hidden_layers"]):
        p = f"blk.{layer}."
        yield p + "attn_norm.weight", (h,), False
        yield p + "ffn_norm.weight", (h,), False
        if c["q_lora_rank"]:
            yield p + "attn_q_a.weight", (c["q_lora_rank"], h), True
            yield p + "attn_q_a_norm.weight", (c["q_lora_rank"],), False
            yield p + "attn_q_b.weight", (heads * key, c["q_lora_rank"]), True
        else:
            yield p + "attn_q.weight", (heads * key, h), True
        yield p + "attn_kv_a_mqa.weight", (c["kv_lora_rank"] + c["qk_rope_head_dim"], h), True
        yield p + "attn_kv_a_norm.weight", (c["kv_lora_rank"],), False
        yield p + "attn_kv_b.weight", (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"]), True
        yield p + "attn_output.weight", (h, heads * c["v_head_dim"]), True
        if layer < c["first_k_dense_replace"]:
            width = c["intermediate_size"]
            yield p + "ffn_gate.weight", (width, h), True
            yield p + "ffn_up.weight", (width, h), True
            yield p + "ffn_down.weight", (h, width), True
            continue
        experts, shared = c["n_routed_experts"], c["n_shared_experts"] * inner
        yield p + "ffn_gate_inp.weight", (experts, h), False
        if c.get("topk_method") == "noaux_tc":
            yield p + "exp_probs_b.bias", (experts,), False
        for part, rows, columns in (("gate", 1, 0), ("up", 1, 0), ("down", 0, 1)):
            shape = (h, shared) if columns else (shared, h)
            yield p + f"ffn_{part}_shexp.weight", shape, True
            yield p + f"ffn_{part}_exps.weight", (experts, h, inner) if columns else (experts, inner, h), True


def type_of(shape, quantised, wanted):
    """The wanted type, or one with blocks of 32 where rows are no whole blocks of it."""
    if not quantised:
        return None
    return wanted if shape[-1] % TYPES[wanted][1] == 0 else SMALLER[wanted]


def make_pool(kind, columns, random):
    """A few MiB of blocks whose values times `columns` activations of order one sum to order one."""
    _, values, size, scale_at, minimum_at, unit, minimum = TYPES[kind]
    if values == 1:
        normal = (random.standard_normal(1 << 21) * columns**-0.5).astype(np.float16 if kind == "f16" else np.float32)
        return (normal.view(np.uint32) >> 16).astype(np.uint16).tobytes() if kind == "bf16" else normal.tobytes()
    blocks = random.integers(0, 256, ((8 << 20) // size, size), np.uint8)
    unit *= columns**-0.5
    for at, value in ((scale_at, unit), (minimum_at, unit * minimum)):
        if at is not None:
            blocks[:, at : at + 2] = np.array([value], np.float16).view(np.uint8)
    return blocks.tobytes()


def write_blocks(f, pool, size, block, random):
    start = int(random.integers(0, len(pool) // block)) * block
    while size:
        piece = pool[start : start + size]
        f.write(piece)
        size -= len(piece)
        start = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--shape", choices=[s for s in SHAPES if s != "v1"], default="v2-lite")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--type", choices=TYPES, default="q4_0")
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    c = dict(n_group=1, topk_group=1, rms_norm_eps=1e-6, rope_theta=10000.0, max_position_embeddings=4096, num_nextn_predict_layers=0)
    c.update(SHAPES[o.shape])
    c["num_hidden_layers"] = o.layers or c["num_hidden_layers"]
    c["first_k_dense_replace"] = min(c["first_k_dense_replace"], c["num_hidden_layers"] - 1)
    random = np.random.default_rng(o.seed)
    metadata = model_metadata(c) + [pair("tokenizer.ggml.model", STRING, "none")]
    if c["scoring_func"] == "softmax":
        metadata = [m for m in metadata if b"expert_gating_func" not in m] + [pair("deepseek2.expert_gating_func", U32, 1)]
    plan, at = [], 0
    for name, shape, quantised in tensors(c):
        kind = type_of(shape, quantised, o.type)
        count = int(np.prod(shape))
        size = count // TYPES[kind][1] * TYPES[kind][2] if kind else count * 4
        plan.append((name, shape, kind, size, at))
        at += size + -size % ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(metadata)) + b"".join(metadata)
    for name, shape, kind, _, offset in plan:
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", TYPES[kind][0] if kind else GGUF_F32, offset)
    pools = {}
    with open(o.out, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for name, shape, kind, size, _ in plan:
            if kind:
                key = kind, shape[-1]
                if key not in pools:
                    pools[key] = make_pool(*key, random)
                write_blocks(f, pools[key], size, TYPES[kind][2], random)
            elif "gate_inp" in name:
                f.write((random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32).tobytes())
            else:
                f.write((np.zeros(shape) if "bias" in name else np.ones(shape)).astype(np.float32).tobytes())
            f.write(b"\0" * (-size % ALIGNMENT))
    print(f"{o.out}: {at / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
