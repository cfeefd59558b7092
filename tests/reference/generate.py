#!/usr/bin/python3
"""Writes a random model with its expected outputs, in the format of the golden models.

generate.py OUT_DIR --family v1|v2-lite|v2|v3 --seed N [--dtype bf16|f16|f32|fp8] [--files N]
            [--score-bias-mean X] [--set key=value ...]

OUT_DIR gets config.json, model.safetensors (or N parts with an index), golden.json, logits.npy and, with a draft
module, mtp_logits.npy. `--set` overrides keys of config.json; values are JSON (null, true, 12, {...}), keys may
be dotted (rope_scaling.factor=4). Norm weights are near one and every matrix has the deviation that keeps activations
at order one and logits at a deviation of about three.

The prompt is grown token by token, and only tokens are taken whose routing decisions are clear (margin over 1e-3), so
that float32 arithmetic has one right answer; the last tokens are varied until greedy decoding is as clear.
"""
import argparse
import json
import os
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from model import FP8_BLOCK, Model, expand_blocks, fp8_table, widen  # noqa: E402

PROMPT_TOKENS = 32
GREEDY_TOKENS = 12
ROUTE_MARGIN = 1e-3  # of every decision over the prompt
GREEDY_ROUTE_MARGIN = 1e-4  # while decoding, where tokens cannot be picked
GREEDY_GAP = 0.02  # between the best and the second logit
CANDIDATES_MAX = 4000  # tokens tried before a model is given up

SIZES = {  # what the families have in common
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 200,
    "kv_lora_rank": 40,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 36,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 3,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 3,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "v_head_dim": 20,
    "vocab_size": 321,
}


def yarn(factor, mscale):
    return {
        "type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }


FAMILIES = {
    "v1": {"architectures": ["DeepseekForCausalLM"], "model_type": "deepseek"},
    "v2-lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_experts_per_tok": 6,
        "rope_scaling": yarn(40, 0.707),
    },
    "v2": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "n_group": 8,
        "n_routed_experts": 32,
        "num_experts_per_tok": 6,
        "q_lora_rank": 28,
        "rope_scaling": yarn(40, 1.0),
        "routed_scaling_factor": 16.0,
        "topk_group": 3,
        "topk_method": "group_limited_greedy",
    },
    "v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "n_group": 8,
        "n_routed_experts": 32,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 28,
        "rope_scaling": yarn(40, 1.0),
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
    },
}
TORCH_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "fp8": "bfloat16"}


def make_config(family, dtype, overrides):
    config = json.loads(json.dumps({**SIZES, **FAMILIES[family], "torch_dtype": TORCH_DTYPES[dtype]}))
    if dtype == "fp8":
        config["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        }
    for key, value in overrides:
        place, *path = config, *key.split(".")
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return config


# ---- Weights ----


class Weights:
    """Draws tensors and keeps them twice: as stored, and as float64 of what was stored."""

    def __init__(self, seed, dtype):
        self.random, self.dtype = np.random.default_rng(seed), dtype
        self.stored, self.values = {}, {}  # name -> (dtype, shape, bytes); name -> float64

    def store(self, name, dtype, values):
        if dtype == "BF16":  # rounds to nearest, ties to even
            bits = values.astype("<f4").view("<u4")
            raw = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        elif dtype == "F8_E4M3":
            raw = nearest_fp8(values).tobytes()
        else:
            raw = values.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()
        self.stored[name] = (dtype, values.shape, raw)
        self.values[name] = widen(raw, dtype, values.shape)

    def plain(self, name, values):
        self.store(name, {"bf16": "BF16", "f16": "F16", "f32": "F32", "fp8": "BF16"}[self.dtype], values)

    def norm(self, name, size):
        self.plain(name + ".weight", 1 + 0.2 * self.random.standard_normal(size))

    def matrix(self, name, rows, columns, gain, quantise=True):
        """Outputs have deviation `gain` for inputs of deviation one."""
        values = self.random.standard_normal((rows, columns)) * gain / np.sqrt(columns)
        if self.dtype != "fp8" or not quantise:
            self.plain(name + ".weight", values)
            return
        blocks = [
            np.abs(values[i : i + FP8_BLOCK, j : j + FP8_BLOCK]).max()
            for i in range(0, rows, FP8_BLOCK)
            for j in range(0, columns, FP8_BLOCK)
        ]
        scales = np.reshape(blocks, (-(-rows // FP8_BLOCK), -1)) / 448
        self.store(name + ".weight_scale_inv", "F32", scales)
        scales = expand_blocks(self.values.pop(name + ".weight_scale_inv"), values.shape)
        self.store(name + ".weight", "F8_E4M3", values / scales)
        self.values[name + ".weight"] *= scales


def nearest_fp8(values):
    table = fp8_table()
    codes = np.flatnonzero(~np.isnan(table) & (np.arange(256) != 128))  # one zero is enough
    codes = codes[np.argsort(table[codes])]
    ordered = table[codes]
    return codes[np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values)].astype(np.uint8)


def draw_attention(weights, prefix, config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if config["model_type"] == "deepseek":
        dims = hidden // heads
        for name, count in (
            ("q", heads),
            ("k", config["num_key_value_heads"]),
            ("v", config["num_key_value_heads"]),
        ):
            weights.matrix(f"{prefix}.{name}_proj", count * dims, hidden, 1.3)
        weights.matrix(prefix + ".o_proj", hidden, heads * dims, 1.0)
        return
    nope, rope, v_dim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    if q_rank:
        weights.matrix(prefix + ".q_a_proj", q_rank, hidden, 1.0)
        weights.norm(prefix + ".q_a_layernorm", q_rank)
        weights.matrix(prefix + ".q_b_proj", heads * (nope + rope), q_rank, 1.5)
    else:
        weights.matrix(prefix + ".q_proj", heads * (nope + rope), hidden, 1.5)
    weights.matrix(prefix + ".kv_a_proj_with_mqa", kv_rank + rope, hidden, 1.2)
    weights.norm(prefix + ".kv_a_layernorm", kv_rank)
    weights.matrix(prefix + ".kv_b_proj", heads * (nope + v_dim), kv_rank, 1.3)
    weights.matrix(prefix + ".o_proj", hidden, heads * v_dim, 1.0)


def draw_feed_forward(weights, prefix, hidden, inner):
    weights.matrix(prefix + ".gate_proj", inner, hidden, 1.4)
    weights.matrix(prefix + ".up_proj", inner, hidden, 1.4)
    weights.matrix(prefix + ".down_proj", hidden, inner, 1.4)


def draw_block(weights, layer, config, is_expert_layer, score_bias_mean):
    prefix, hidden = f"model.layers.{layer}", config["hidden_size"]
    weights.norm(prefix + ".input_layernorm", hidden)
    draw_attention(weights, prefix + ".self_attn", config)
    weights.norm(prefix + ".post_attention_layernorm", hidden)
    if not is_expert_layer:
        draw_feed_forward(weights, prefix + ".mlp", hidden, config["intermediate_size"])
        return
    experts, inner = config["n_routed_experts"], config["moe_intermediate_size"]
    weights.matrix(prefix + ".mlp.gate", experts, hidden, 1.5, quantise=False)
    if config["topk_method"] == "noaux_tc":
        bias = score_bias_mean + 0.15 * weights.random.standard_normal(experts)
        weights.store(prefix + ".mlp.gate.e_score_correction_bias", "F32", bias)
    for expert in range(experts):
        draw_feed_forward(weights, f"{prefix}.mlp.experts.{expert}", hidden, inner)
    if config["n_shared_experts"]:
        draw_feed_forward(weights, prefix + ".mlp.shared_experts", hidden, config["n_shared_experts"] * inner)


def draw_model(config, dtype, seed, score_bias_mean):
    weights, hidden, layers = Weights(seed, dtype), config["hidden_size"], config["num_hidden_layers"]
    model = Model(config, weights.values)
    # The head's deviation makes the logits' 3; a tied embedding serves as the head.
    tied, vocabulary = config["tie_word_embeddings"], config["vocab_size"]
    embedding_gain = 3.0 if tied else np.sqrt(hidden)
    weights.matrix("model.embed_tokens", vocabulary, hidden, embedding_gain, quantise=False)
    for layer in range(layers):
        draw_block(weights, layer, config, model.is_expert_layer(layer), score_bias_mean)
    weights.norm("model.norm", hidden)
    if not tied:
        weights.matrix("lm_head", vocabulary, hidden, 3.0, quantise=False)
    if config["num_nextn_predict_layers"]:
        prefix = f"model.layers.{layers}"
        weights.norm(prefix + ".enorm", hidden)
        weights.norm(prefix + ".hnorm", hidden)
        weights.matrix(prefix + ".eh_proj", hidden, 2 * hidden, 1.0, quantise=False)
        draw_block(weights, layers, config, model.is_expert_layer(layers), score_bias_mean)
        weights.norm(prefix + ".shared_head.norm", hidden)
    return weights, model


# ---- Prompt ----


class Prompt:
    """A prefix whose every decision was clear; grows by functions that return None when it would not be."""

    def __init__(self, ids, step, draft_cache):
        self.ids, self.step, self.draft_cache = ids, step, draft_cache

    @classmethod
    def begin(cls, model, first):
        step = model.forward([first])
        return cls([first], step, None) if step.margins.min() > ROUTE_MARGIN else None

    def grow(self, model, token):
        step = model.forward([token], self.step.cache)
        if step.margins.min() <= ROUTE_MARGIN:
            return None
        draft_cache = None
        if model.config["num_nextn_predict_layers"]:
            draft = model.draft(self.step.hidden, [token], self.draft_cache)
            if draft.margins.min() <= ROUTE_MARGIN:
                return None
            draft_cache = draft.cache
        return Prompt(self.ids + [token], step, draft_cache)


def decode_greedily(model, step):
    """-> ids and smallest gap, or None when a decision was too close."""
    ids, gaps = [], []
    while True:
        second, first = np.sort(step.logits[-1])[-2:]
        gaps.append(first - second)
        ids.append(int(step.logits[-1].argmax()))
        if gaps[-1] <= GREEDY_GAP:
            return None
        if len(ids) == GREEDY_TOKENS:
            return ids, min(gaps)
        step = model.forward(ids[-1:], step.cache)
        if step.margins.min() <= GREEDY_ROUTE_MARGIN:
            return None


def find_prompt(model, random):
    """-> prompt ids, greedy ids, smallest gap; None when this model has no clear prompt within the limit.

    The prefix is kept in a list, one entry for each length, so that a dead end costs a few tokens, not all.
    """
    vocabulary = model.config["vocab_size"]
    path = [Prompt.begin(model, model.config["bos_token_id"])]
    if path[0] is None:
        return None
    for _ in range(CANDIDATES_MAX):
        longer = path[-1].grow(model, int(random.integers(2, vocabulary)))
        if longer is None:
            continue
        path.append(longer)
        if len(longer.ids) == PROMPT_TOKENS:
            greedy = decode_greedily(model, longer.step)
            if greedy is not None:
                return longer.ids, *greedy
            del path[-2:]
    return None


# ---- Files ----


def write_safetensors(path, stored):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, raw) in stored.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(raw for _, _, raw in stored.values())


def write_checkpoint(directory, stored, files):
    names = sorted(stored)
    if files == 1:
        write_safetensors(
            os.path.join(directory, "model.safetensors"), {name: stored[name] for name in names}
        )
        return
    index = {"metadata": {"total_size": sum(len(raw) for _, _, raw in stored.values())}, "weight_map": {}}
    for part in range(files):
        # Neighbours go to different files, so that every layer and every expert is spread over all of them.
        mine, file = names[part::files], f"model-{part + 1:05}-of-{files:05}.safetensors"
        write_safetensors(os.path.join(directory, file), {name: stored[name] for name in mine})
        index["weight_map"].update({name: file for name in mine})
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=1, sort_keys=True)


def generate(directory, family, seed, dtype="bf16", files=1, overrides=(), score_bias_mean=0.0):
    """Writes the model. `overrides`: pairs of a (dotted) config key and its value."""
    config = make_config(family, dtype, overrides)
    for attempt in range(20):
        weights, model = draw_model(config, dtype, [seed, attempt], score_bias_mean)
        found = find_prompt(model, np.random.default_rng([seed, attempt, 1]))
        if found:
            break
    else:
        raise SystemExit(
            f"generate: {directory}: no prompt with clear decisions; try another seed or fewer experts"
        )
    prompt, greedy, gap = found
    out = model.forward(prompt)
    golden = {
        "prompt_ids": prompt,
        "greedy_ids": greedy,
        "greedy_min_gap": float(gap),
        "min_route_margin": float(out.margins.min()),
        "routes": [
            {"layer": r["layer"], "ids": r["ids"].tolist(), "weights": np.round(r["weights"], 9).tolist()}
            for r in out.routes
        ],
    }
    os.makedirs(directory, exist_ok=True)
    write_checkpoint(directory, weights.stored, files)
    for name, value, indent in (("config.json", config, 1), ("golden.json", golden, None)):
        with open(os.path.join(directory, name), "w") as f:
            json.dump(value, f, indent=indent, sort_keys=name == "config.json")
    np.save(os.path.join(directory, "logits.npy"), out.logits.astype(np.float32))
    if config["num_nextn_predict_layers"]:
        np.save(
            os.path.join(directory, "mtp_logits.npy"),
            model.draft(out.hidden[:-1], prompt[1:]).logits.astype(np.float32),
        )
    return out


def main():
    parser = argparse.ArgumentParser(description="Writes a random model with its expected outputs.")
    parser.add_argument("directory")
    parser.add_argument("--family", required=True, choices=FAMILIES)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--dtype", default="bf16", choices=TORCH_DTYPES)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument(
        "--score-bias-mean", type=float, default=0.0, help="e.g. -2: every choice score is negative"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    overrides = []
    for text in args.set:
        key, _, value = text.partition("=")
        try:
            overrides.append((key, json.loads(value)))
        except json.JSONDecodeError:
            overrides.append((key, value))
    out = generate(
        args.directory, args.family, args.seed, args.dtype, args.files, overrides, args.score_bias_mean
    )
    print(
        f"{args.directory}: logits have deviation {out.logits.std():.2f}, closest routing decision {out.margins.min():.2g}"
    )


if __name__ == "__main__":
    main()
