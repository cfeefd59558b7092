#!/usr/bin/python3
"""Writes the demo model as GGUF files and runs them: gguf_models.py SKEIN

In BF16, whole and in three parts, every logit and draft logit must be exactly that of the Hugging Face directory, and
texts must give the same ids and the same answer. In Q8_0 the answer must still be right, also on workers with slices.
Exit status 1 when anything is wrong.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))
from model import read_tensors  # noqa: E402

DEMO = os.path.join(ROOT, "deploy", "demo-model")
QUESTION, ANSWER = "What is 37 plus 58?", "37 + 58 = 95."
ALIGNMENT = 32

# Types of metadata values, and of tensors.
U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
TENSOR_F32, TENSOR_Q8_0, TENSOR_BF16 = 0, 8, 30
# Types of tokens.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

MODEL_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "eh_proj": "nextn.eh_proj",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "shared_head.norm": "nextn.shared_head_norm",
}


# ---- Tensors ----


def to_bf16(values):
    """The values are BF16 already, so cutting off the lower half is exact."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def to_q8_0(values):
    blocks = values.astype(np.float32).reshape(-1, 32)
    scales = (np.abs(blocks).max(1) / 127).astype(np.float16)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
    out = np.zeros((len(blocks), 34), np.uint8)
    out[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    out[:, 2:] = np.clip(np.rint(blocks / divisors), -127, 127).astype(np.int8).view(np.uint8)
    return out.tobytes()


def encode(name, values, quantise):
    """-> (name, shape, type, bytes): vectors and the router in F32."""
    if values.ndim == 1 or "ffn_gate_inp" in name:
        return name, values.shape, TENSOR_F32, values.astype(np.float32).tobytes()
    if quantise and values.shape[-1] % 32 == 0:
        return name, values.shape, TENSOR_Q8_0, to_q8_0(values)
    return name, values.shape, TENSOR_BF16, to_bf16(values)


def list_tensors(config, stored):
    """(GGUF name, values) of the whole model, experts stacked."""
    for name, gguf in MODEL_NAMES.items():
        if name + ".weight" in stored:
            yield gguf + ".weight", stored[name + ".weight"]
    for layer in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        prefix = f"model.layers.{layer}."
        for name, gguf in LAYER_NAMES.items():
            if prefix + name + ".weight" in stored:
                yield f"blk.{layer}.{gguf}.weight", stored[prefix + name + ".weight"]
        if prefix + "mlp.gate.weight" not in stored:
            continue
        yield f"blk.{layer}.exp_probs_b.bias", stored[prefix + "mlp.gate.e_score_correction_bias"]
        for part in ("gate", "up", "down"):
            experts = [
                stored[f"{prefix}mlp.experts.{e}.{part}_proj.weight"] for e in range(config["n_routed_experts"])
            ]
            yield f"blk.{layer}.ffn_{part}_exps.weight", np.stack(experts)


# ---- Metadata ----


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def scalar(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack({U16: "<H", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def pair(key, kind, value):
    if isinstance(value, list):
        items = b"".join(scalar(kind, item) for item in value)
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def model_metadata(config):
    layers = config["num_hidden_layers"] + config["num_nextn_predict_layers"]
    key_length = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    values = {
        "block_count": (U32, layers),
        "nextn_predict_layers": (U32, config["num_nextn_predict_layers"]),
        "context_length": (U32, config["max_position_embeddings"]),
        "embedding_length": (U32, config["hidden_size"]),
        "feed_forward_length": (U32, config["intermediate_size"]),
        "attention.head_count": (U32, config["num_attention_heads"]),
        "attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "attention.kv_lora_rank": (U32, config["kv_lora_rank"]),
        "attention.key_length": (U32, key_length),
        "attention.value_length": (U32, config["v_head_dim"]),
        "rope.dimension_count": (U32, config["qk_rope_head_dim"]),
        "rope.freq_base": (F32, config["rope_theta"]),
        "expert_count": (U32, config["n_routed_experts"]),
        "expert_used_count": (U32, config["num_experts_per_tok"]),
        "expert_shared_count": (U32, config["n_shared_experts"]),
        "expert_feed_forward_length": (U32, config["moe_intermediate_size"]),
        "expert_group_count": (U32, config["n_group"]),
        "expert_group_used_count": (U32, config["topk_group"]),
        "expert_gating_func": (U32, 2),
        "expert_weights_scale": (F32, config["routed_scaling_factor"]),
        "expert_weights_norm": (BOOL, config["norm_topk_prob"]),
        "leading_dense_block_count": (U32, config["first_k_dense_replace"]),
        "vocab_size": (U32, config["vocab_size"]),
    }
    if config.get("q_lora_rank"):
        values["attention.q_lora_rank"] = (U32, config["q_lora_rank"])
    scaling = config.get("rope_scaling")
    if scaling:
        values["rope.scaling.type"] = (STRING, "yarn")
        values["rope.scaling.factor"] = (F32, scaling["factor"])
        values["rope.scaling.original_context_length"] = (U32, scaling["original_max_position_embeddings"])
        values["rope.scaling.yarn_log_multiplier"] = (F32, 0.1 * scaling["mscale_all_dim"])
    return [pair("general.architecture", STRING, "deepseek2")] + [
        pair("deepseek2." + key, *value) for key, value in values.items()
    ]


def tokenizer_metadata(config, tokenizer, template):
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [UNUSED] * len(tokens)
    for token, id in tokenizer["model"]["vocab"].items():
        tokens[id], types[id] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    return [
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "deepseek-v3"),
        pair("tokenizer.ggml.tokens", STRING, tokens),
        pair("tokenizer.ggml.token_type", I32, types),
        pair("tokenizer.ggml.merges", STRING, merges),
        pair("tokenizer.ggml.bos_token_id", U32, config["bos_token_id"]),
        pair("tokenizer.ggml.eos_token_id", U32, config["eos_token_id"]),
        pair("tokenizer.chat_template", STRING, template),
    ]


# ---- Files ----


def padding(count):
    return b"\0" * (-count % ALIGNMENT)


def write_file(path, pairs, tensors):
    listed, data = b"", b""
    for name, shape, kind, values in tensors:
        listed += text(name) + struct.pack("<I", len(shape))
        listed += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        listed += struct.pack("<IQ", kind, len(data))
        data += values + padding(len(values))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + listed
    with open(path, "wb") as f:
        f.write(head + padding(len(head)) + data)


def write_model(folder, name, quantise, parts):
    """Returns the path of the last part."""
    config, tokenizer, more = (
        json.load(open(os.path.join(DEMO, file), encoding="utf-8"))
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    tensors = [encode(*tensor, quantise) for tensor in list_tensors(config, read_tensors(DEMO))]
    metadata = model_metadata(config) + tokenizer_metadata(config, tokenizer, more["chat_template"])
    if parts == 1:
        path = os.path.join(folder, name + ".gguf")
        write_file(path, metadata, tensors)
        return path
    share = -(-len(tensors) // parts)
    for part in range(parts):
        pairs = (metadata if part == 0 else []) + [
            pair("split.no", U16, part),
            pair("split.count", U16, parts),
            pair("split.tensors.count", I32, len(tensors)),
        ]
        path = os.path.join(folder, f"{name}-{part + 1:05}-of-{parts:05}.gguf")
        write_file(path, pairs, tensors[part * share : (part + 1) * share])
    return path


# ---- Runs ----


def run(skein, args):
    result = subprocess.run([skein, *args], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise RuntimeError(f"{args[0]}: exit status {result.returncode}: {result.stderr.strip()[-400:]}")
    return result.stdout


def logits(skein, folder, model, ids):
    out, draft = os.path.join(folder, "l.npy"), os.path.join(folder, "m.npy")
    run(skein, ["logits", "--model", model, "--ids", ids, "--out", out, "--mtp", draft])
    return np.load(out), np.load(draft)


def answer(skein, model, *more):
    args = ["run", "--model", model, "--prompt", QUESTION, "--temperature", "0", "--json", *more]
    output = json.loads(run(skein, args))
    return output["text"], output["stats"]["prompt_tokens"]


def main():
    skein, failed = os.path.abspath(sys.argv[1]), 0
    with tempfile.TemporaryDirectory(prefix="skein-gguf-") as folder:
        ids = os.path.join(folder, "ids.json")
        with open(ids, "w") as f:
            json.dump([0, 5, 17, 99, 250, 300, 71, 3, 640, 12], f)
        expected, told = logits(skein, folder, DEMO, ids), answer(skein, DEMO)
        exact = [write_model(folder, f"exact{parts}", False, parts) for parts in (1, 3)]
        small = write_model(folder, "small", True, 3)
        checks = [("the directory", told[0] == ANSWER)]
        for model in exact:
            same = all(np.array_equal(a, b) for a, b in zip(expected, logits(skein, folder, model, ids)))
            checks.append((f"{os.path.basename(model)}: logits", same))
            checks.append((f"{os.path.basename(model)}: answer", answer(skein, model) == told))
        workers = ["--local-workers", "3", "--placement", "slices"]
        for more in ([], workers):
            checks.append((" ".join([os.path.basename(small), *more]), answer(skein, small, *more) == told))
    for name, good in checks:
        failed += not good
        print(("ok    " if good else "WRONG ") + name)
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
