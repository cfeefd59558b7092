"""Forward pass of the DeepSeek mixture-of-experts families in float64, written to be read.

This is the yardstick of the tests: it shares no code with skein, keeps everything in plain arrays, expands the
attention's keys and values instead of compressing them, and runs every expert on the rows that chose it. It needs
numpy only. Weights may be BF16, F16, F32 or FP8 (E4M3 with a scale for each 128x128 block); whatever their format,
they are widened to float64 first.

    model = Model.load(directory)
    out = model.forward(ids)                  # whole prompt
    more = model.forward([id], out.cache)     # one more token; a cache is never changed, so it can be used again
"""
import json
import os
import struct
from dataclasses import dataclass, field

import numpy as np

FP8_BLOCK = 128


# ---- Checkpoint files ----


def fp8_table():
    """The values of the 256 E4M3 codes: no infinities, 0x7f and 0xff are NaN."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7) / 8.0
    value = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    value = np.where((code & 127) == 127, np.nan, value)
    return np.where(code >= 128, -value, value)


def widen(raw, dtype, shape):
    """Stored bytes -> float64."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64).reshape(shape)
    if dtype == "F8_E4M3":
        return fp8_table()[np.frombuffer(raw, np.uint8)].reshape(shape)
    return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float64).reshape(shape)


def expand_blocks(scales, shape):
    """One scale for each 128x128 block (the last ones ragged) -> one for each weight."""
    return np.repeat(np.repeat(scales, FP8_BLOCK, 0), FP8_BLOCK, 1)[: shape[0], : shape[1]]


def read_tensors(directory):
    """All tensors of a checkpoint as float64, block scales applied."""
    index = os.path.join(directory, "model.safetensors.index.json")
    names = ["model.safetensors"]
    if os.path.exists(index):
        with open(index) as f:
            names = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for name in names:
        with open(os.path.join(directory, name), "rb") as f:
            data = f.read()
        (length,) = struct.unpack("<Q", data[:8])
        for key, entry in json.loads(data[8 : 8 + length]).items():
            if key != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[key] = widen(data[begin:end], entry["dtype"], entry["shape"])
    for key in [key for key in tensors if key.endswith("_scale_inv")]:
        weight = key[: -len("_scale_inv")]
        tensors[weight] = tensors[weight] * expand_blocks(tensors.pop(key), tensors[weight].shape)
    return tensors


# ---- Parts of the mathematics ----


def rmsnorm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * weight


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def swiglu(x, gate, up, down):
    z = x @ gate.T
    return (z * sigmoid(z) * (x @ up.T)) @ down.T


def yarn_m(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * np.log(factor) + 1.0


def rope_frequencies(config, dims):
    """Angle per position for each pair (dims/2), and the factor on cosine and sine."""
    i = np.arange(dims // 2)
    theta = config["rope_theta"]
    frequency = theta ** (-2.0 * i / dims)
    scaling = config.get("rope_scaling")
    if not scaling:
        return frequency, 1.0

    def corr(turns):
        return (
            dims
            * np.log(scaling["original_max_position_embeddings"] / (turns * 2 * np.pi))
            / (2 * np.log(theta))
        )

    low = max(np.floor(corr(scaling["beta_fast"])), 0)
    high = min(np.ceil(corr(scaling["beta_slow"])), dims - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((i - low) / (high - low), 0, 1)
    ratio = yarn_m(scaling["factor"], scaling["mscale"]) / yarn_m(
        scaling["factor"], scaling["mscale_all_dim"]
    )
    return frequency / scaling["factor"] * ramp + frequency * (1 - ramp), ratio


def rotate(x, first, second, positions, frequency, ratio):
    """Rotates the pairs (x[first], x[second]) of the last axis; x (positions, heads, dims)."""
    angle = (positions[:, None] * frequency)[:, None, :]
    cos, sin = np.cos(angle) * ratio, np.sin(angle) * ratio
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def rotate_halves(x, *rest):
    half = x.shape[-1] // 2
    return rotate(x, slice(0, half), slice(half, None), *rest)


def rotate_neighbours(x, *rest):
    return rotate(x, slice(0, None, 2), slice(1, None, 2), *rest)


def attend(q, k, v, scale, start):
    """Causal attention of queries at positions start.. over all keys; q, k (positions, heads, dims), v alike."""
    score = np.einsum("qhd,khd->hqk", q, k) * scale
    future = np.arange(k.shape[0])[None, :] > start + np.arange(q.shape[0])[:, None]
    p = softmax(np.where(future, -np.inf, score))
    return np.einsum("hqk,khd->qhd", p, v).reshape(q.shape[0], -1)


def best(scores, k):
    """Indices of the k largest in each row, in descending order; ties to the lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def gap_below(scores, k):
    """By how much the k-th largest of each row leads the next one; infinite where nothing finite follows."""
    if k >= scores.shape[-1]:
        return np.full(scores.shape[0], np.inf)
    ordered = -np.sort(-scores, axis=-1)
    return ordered[:, k - 1] - ordered[:, k]


# ---- The model ----


@dataclass
class Output:
    logits: np.ndarray  # (rows, vocabulary)
    hidden: np.ndarray  # (rows, hidden), after the final norm
    routes: list  # for each expert layer: {"layer", "ids" (rows, k), "weights" (rows, k)}
    margins: np.ndarray  # (rows,) how far the closest routing decision was from flipping
    cache: list  # of each layer: keys and values


@dataclass
class Cursor:
    """What one call of a block adds to."""

    cache: list
    positions: np.ndarray
    routes: list = field(default_factory=list)
    margins: list = field(default_factory=list)


class Model:
    def __init__(self, config, tensors):
        self.config, self.tensors = config, tensors
        self.layers = config["num_hidden_layers"]
        self.epsilon = config["rms_norm_eps"]

    @classmethod
    def load(cls, directory):
        with open(os.path.join(directory, "config.json")) as f:
            return cls(json.load(f), read_tensors(directory))

    def weight(self, name):
        return self.tensors[name + ".weight"]

    def head(self, x):
        tied = self.config.get("tie_word_embeddings")
        return x @ self.weight("model.embed_tokens" if tied else "lm_head").T

    def is_expert_layer(self, layer):
        config = self.config
        return layer >= config["first_k_dense_replace"] and layer % config.get("moe_layer_freq", 1) == 0

    def forward(self, ids, cache=None):
        """Runs `ids` after what `cache` holds. The cache given is left as it was."""
        start = cache[0][0].shape[0] if cache else 0
        cursor = Cursor(list(cache) if cache else [None] * self.layers, start + np.arange(len(ids)))
        x = self.weight("model.embed_tokens")[np.asarray(ids)]
        for layer in range(self.layers):
            x = self.block(layer, x, cursor, layer)
        hidden = rmsnorm(x, self.weight("model.norm"), self.epsilon)
        return self.output(hidden, cursor, self.head(hidden))

    def draft(self, hidden, next_ids, cache=None):
        """The multi-token-prediction module: row t takes hidden state t and token t + 1, and predicts token t + 2."""
        prefix = f"model.layers.{self.layers}"
        start = cache[0][0].shape[0] if cache else 0
        cursor = Cursor(list(cache) if cache else [None], start + np.arange(len(next_ids)))
        embedding = self.weight("model.embed_tokens")[np.asarray(next_ids)]
        both = [
            rmsnorm(embedding, self.weight(prefix + ".enorm"), self.epsilon),
            rmsnorm(hidden, self.weight(prefix + ".hnorm"), self.epsilon),
        ]
        x = self.block(self.layers, np.concatenate(both, -1) @ self.weight(prefix + ".eh_proj").T, cursor, 0)
        x = rmsnorm(x, self.weight(prefix + ".shared_head.norm"), self.epsilon)
        return self.output(x, cursor, self.head(x))

    @staticmethod
    def output(hidden, cursor, logits):
        margins = np.min(cursor.margins, axis=0) if cursor.margins else np.full(len(hidden), np.inf)
        return Output(logits, hidden, cursor.routes, margins, cursor.cache)

    def block(self, layer, x, cursor, slot):
        prefix = f"model.layers.{layer}"
        h = rmsnorm(x, self.weight(prefix + ".input_layernorm"), self.epsilon)
        multi_head = self.config["model_type"] == "deepseek"
        attention = self.multi_head_attention if multi_head else self.latent_attention
        x = x + attention(prefix + ".self_attn", h, cursor, slot)
        h = rmsnorm(x, self.weight(prefix + ".post_attention_layernorm"), self.epsilon)
        if not self.is_expert_layer(layer):
            return x + self.feed_forward(prefix + ".mlp", h)
        return x + self.mixture(layer, prefix + ".mlp", h, cursor)

    # -- Attention --

    def extend_cache(self, cursor, slot, k, v):
        if cursor.cache[slot] is not None:
            k = np.concatenate([cursor.cache[slot][0], k])
            v = np.concatenate([cursor.cache[slot][1], v])
        cursor.cache[slot] = (k, v)
        return k, v

    def multi_head_attention(self, prefix, x, cursor, slot):
        config, rows = self.config, len(x)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dims = config["hidden_size"] // heads
        rope = (cursor.positions, *rope_frequencies(config, dims))
        q = rotate_halves((x @ self.weight(prefix + ".q_proj").T).reshape(rows, heads, dims), *rope)
        k = rotate_halves((x @ self.weight(prefix + ".k_proj").T).reshape(rows, kv_heads, dims), *rope)
        v = (x @ self.weight(prefix + ".v_proj").T).reshape(rows, kv_heads, dims)
        k, v = self.extend_cache(cursor, slot, k, v)
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        return attend(q, k, v, dims**-0.5, cursor.positions[0]) @ self.weight(prefix + ".o_proj").T

    def latent_attention(self, prefix, x, cursor, slot):
        config, rows = self.config, len(x)
        heads, rank = config["num_attention_heads"], config["kv_lora_rank"]
        nope, rope, v_dim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        turn = (cursor.positions, *rope_frequencies(config, rope))
        if config.get("q_lora_rank"):
            q = rmsnorm(
                x @ self.weight(prefix + ".q_a_proj").T, self.weight(prefix + ".q_a_layernorm"), self.epsilon
            )
            q = q @ self.weight(prefix + ".q_b_proj").T
        else:
            q = x @ self.weight(prefix + ".q_proj").T
        q = q.reshape(rows, heads, nope + rope)
        q = np.concatenate([q[..., :nope], rotate_neighbours(q[..., nope:], *turn)], -1)

        kv = x @ self.weight(prefix + ".kv_a_proj_with_mqa").T
        k_rope = rotate_neighbours(kv[:, None, rank:], *turn)  # (rows, 1, rope), shared by all heads
        c = rmsnorm(kv[:, :rank], self.weight(prefix + ".kv_a_layernorm"), self.epsilon)
        kv = (c @ self.weight(prefix + ".kv_b_proj").T).reshape(rows, heads, nope + v_dim)
        k = np.concatenate([kv[..., :nope], np.broadcast_to(k_rope, (rows, heads, rope))], -1)
        k, v = self.extend_cache(cursor, slot, k, kv[..., nope:])

        scale = (nope + rope) ** -0.5
        if config.get("rope_scaling"):
            scale *= yarn_m(config["rope_scaling"]["factor"], config["rope_scaling"]["mscale_all_dim"]) ** 2
        return attend(q, k, v, scale, cursor.positions[0]) @ self.weight(prefix + ".o_proj").T

    # -- Experts --

    def feed_forward(self, prefix, x):
        return swiglu(x, *(self.weight(f"{prefix}.{name}_proj") for name in ("gate", "up", "down")))

    def mixture(self, layer, prefix, x, cursor):
        ids, weights, margins = self.route(prefix + ".gate", x)
        cursor.margins.append(margins)
        cursor.routes.append({"layer": layer, "ids": ids, "weights": weights})
        out = (
            self.feed_forward(prefix + ".shared_experts", x)
            if self.config.get("n_shared_experts")
            else np.zeros_like(x)
        )
        for expert in np.unique(ids):
            rows, place = np.nonzero(ids == expert)
            out[rows] += weights[rows, place][:, None] * self.feed_forward(
                f"{prefix}.experts.{expert}", x[rows]
            )
        return out

    def route(self, prefix, x):
        """-> expert ids (rows, k) by descending choice score, weights alike, margins (rows)."""
        config, k = self.config, self.config["num_experts_per_tok"]
        z = x @ self.weight(prefix).T
        scores = sigmoid(z) if config["scoring_func"] == "sigmoid" else softmax(z)
        choice, margins = scores, np.full(len(x), np.inf)
        if config["topk_method"] == "noaux_tc":
            choice = scores + self.tensors[prefix + ".e_score_correction_bias"]
        if config["topk_method"] != "greedy":
            choice, margins = self.keep_groups(choice)
        ids = best(choice, k)
        margins = np.minimum(margins, gap_below(choice, k))
        weights = np.take_along_axis(scores, ids, -1)
        if config["norm_topk_prob"]:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        # V1 has no scale: its published code does not know the key.
        scale = 1.0 if config["model_type"] == "deepseek" else config["routed_scaling_factor"]
        return ids, weights * scale, margins

    def keep_groups(self, choice):
        """Choice scores with minus infinity outside the kept groups, and by how much the groups were decided."""
        groups, keep = self.config["n_group"], self.config["topk_group"]
        grouped = choice.reshape(len(choice), groups, -1)
        if self.config["topk_method"] == "noaux_tc":
            group_scores = np.sort(grouped, -1)[..., -2:].sum(-1)
        else:
            group_scores = grouped.max(-1)
        kept = np.zeros(group_scores.shape, bool)
        np.put_along_axis(kept, best(group_scores, keep), True, -1)
        return np.where(kept[..., None], grouped, -np.inf).reshape(choice.shape), gap_below(
            group_scores, keep
        )
