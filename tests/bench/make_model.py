#!/usr/bin/python3
"""Writes a random-weight model of a real shape, for measuring speed and memory:

    make_model.py OUT_DIR --shape v2-lite --layers 4 [--experts N] [--dtype bf16|fp8] [--seed N]

Shapes: v1, v2-lite, v2, v3 with their published dimensions; --layers takes the first N layers only, --experts the
first N experts of each layer (a multiple of the groups, at least what a token chooses). Weights have magnitudes
that keep activations of order one. There is no tokenizer: use --prompt-ids. Needs python3-numpy."""
import argparse
import json
import os
import struct

import numpy as np

SHAPES = {
    "v1": dict(model_type="deepseek", hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408, num_hidden_layers=28,
               first_k_dense_replace=1, num_attention_heads=16, num_key_value_heads=16, n_routed_experts=64, n_shared_experts=2,
               num_experts_per_tok=6, norm_topk_prob=False, scoring_func="softmax", vocab_size=102400),
    "v2-lite": dict(model_type="deepseek_v2", hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408, num_hidden_layers=27,
                    first_k_dense_replace=1, num_attention_heads=16, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
                    norm_topk_prob=False, scoring_func="softmax", topk_method="greedy", routed_scaling_factor=1.0, q_lora_rank=None,
                    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, vocab_size=102400),
    "v2": dict(model_type="deepseek_v2", hidden_size=5120, intermediate_size=12288, moe_intermediate_size=1536, num_hidden_layers=60,
               first_k_dense_replace=1, num_attention_heads=128, n_routed_experts=160, n_shared_experts=2, num_experts_per_tok=6,
               norm_topk_prob=False, scoring_func="softmax", topk_method="group_limited_greedy", n_group=8, topk_group=3,
               routed_scaling_factor=16.0, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
               vocab_size=102400),
    "v3": dict(model_type="deepseek_v3", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048, num_hidden_layers=61,
               first_k_dense_replace=3, num_attention_heads=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
               norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc", n_group=8, topk_group=4, routed_scaling_factor=2.5,
               q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, vocab_size=129280),
}


def matrices(c):
    """Yields (name, rows, columns) of every matrix but the router, then the rest as (name, values)."""
    h, heads = c["hidden_size"], c["num_attention_heads"]
    yield "model.embed_tokens", c["vocab_size"], h
    yield "lm_head", c["vocab_size"], h
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        if c["model_type"] == "deepseek":
            for part in "qkvo":
                yield p + f"self_attn.{part}_proj", h, h
        else:
            qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
            if c["q_lora_rank"]:
                yield p + "self_attn.q_a_proj", c["q_lora_rank"], h
                yield p + "self_attn.q_b_proj", heads * qk, c["q_lora_rank"]
            else:
                yield p + "self_attn.q_proj", heads * qk, h
            yield p + "self_attn.kv_a_proj_with_mqa", c["kv_lora_rank"] + c["qk_rope_head_dim"], h
            yield p + "self_attn.kv_b_proj", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"]
            yield p + "self_attn.o_proj", h, heads * c["v_head_dim"]
        if layer < c["first_k_dense_replace"]:
            ffns = [("mlp.", c["intermediate_size"])]
        else:
            ffns = [("mlp.shared_experts.", c["n_shared_experts"] * c["moe_intermediate_size"])]
            ffns += [(f"mlp.experts.{e}.", c["moe_intermediate_size"]) for e in range(c["n_routed_experts"])]
        for prefix, inner in ffns:
            yield p + prefix + "gate_proj", inner, h
            yield p + prefix + "up_proj", inner, h
            yield p + prefix + "down_proj", h, inner


def vectors(c, random):
    h = c["hidden_size"]
    yield "model.norm", np.ones(h)
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        yield p + "input_layernorm", np.ones(h)
        yield p + "post_attention_layernorm", np.ones(h)
        if c["model_type"] != "deepseek":
            if c["q_lora_rank"]:
                yield p + "self_attn.q_a_layernorm", np.ones(c["q_lora_rank"])
            yield p + "self_attn.kv_a_layernorm", np.ones(c["kv_lora_rank"])
        if layer >= c["first_k_dense_replace"]:
            yield p + "mlp.gate", random.standard_normal((c["n_routed_experts"], h)) * h**-0.5
            if c.get("topk_method") == "noaux_tc":
                yield p + "mlp.gate.e_score_correction_bias", np.zeros(c["n_routed_experts"])


def to_bf16(values):
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="v2-lite")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--dtype", choices=["bf16", "fp8"], default="bf16")
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    c = dict(SHAPES[o.shape], rms_norm_eps=1e-6, rope_theta=10000.0, max_position_embeddings=4096, moe_layer_freq=1, hidden_act="silu",
             tie_word_embeddings=False, attention_bias=False)
    c["num_hidden_layers"] = o.layers or c["num_hidden_layers"]
    c["n_routed_experts"] = o.experts or c["n_routed_experts"]
    c["first_k_dense_replace"] = min(c["first_k_dense_replace"], c["num_hidden_layers"] - 1)
    random = np.random.default_rng(o.seed)
    # One pool of values serves all matrices, each from a place of its own: writing is then bound by the disk.
    pool = random.standard_normal(1 << 22).astype(np.float32)
    fp8 = o.dtype == "fp8"
    plan, at = {}, 0
    for name, rows, columns in matrices(c):
        quantised = fp8 and name not in ("model.embed_tokens", "lm_head")
        size = rows * columns * (1 if quantised else 2)
        plan[name + ".weight"] = dict(dtype="F8_E4M3" if quantised else "BF16", shape=[rows, columns], data_offsets=[at, at + size])
        at += size
        if quantised:
            blocks = [-(-rows // 128), -(-columns // 128)]
            plan[name + ".weight_scale_inv"] = dict(dtype="F32", shape=blocks, data_offsets=[at, at + blocks[0] * blocks[1] * 4])
            at += blocks[0] * blocks[1] * 4
    small = {(n if n.endswith("bias") else n + ".weight"): np.asarray(v, np.float32) for n, v in vectors(c, random)}
    for name, values in small.items():
        plan[name] = dict(dtype="F32", shape=list(values.shape), data_offsets=[at, at + values.nbytes])
        at += values.nbytes
    os.makedirs(o.out, exist_ok=True)
    if fp8:
        c["quantization_config"] = dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128])
        # Codes of magnitude 2^-3 to 2, either sign: about unit variance.
        codes = random.integers(0x20, 0x40, len(pool)).astype(np.uint8) | random.choice(np.array([0, 0x80], np.uint8), len(pool))
    json.dump(c, open(os.path.join(o.out, "config.json"), "w"), indent=1)
    header = json.dumps(plan).encode()
    header += b" " * (-len(header) % 8)
    with open(os.path.join(o.out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        for name, t in plan.items():
            if name in small:
                f.write(small[name].tobytes())
            elif name.endswith("_scale_inv"):
                columns = plan[name[: -len("_scale_inv")]]["shape"][1]
                f.write(np.full(t["shape"], columns**-0.5, np.float32).tobytes())
            else:
                count = t["shape"][0] * t["shape"][1]
                start = int(random.integers(0, len(pool)))
                source = np.roll(codes if t["dtype"] == "F8_E4M3" else to_bf16(pool * t["shape"][1] ** -0.5), -start)
                data = source.tobytes()
                for left in range(count * source.itemsize, 0, -len(data)):
                    f.write(data[: min(left, len(data))])
    print(f"{o.out}: {at / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
