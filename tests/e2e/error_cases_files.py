"""Errors in what is given to skein: configurations, weights, indexes, prompts, tokenizers, options."""

import json
import os
import re
import struct
import tempfile

from error_bench import DEMO, GGUF, V1, V3, V3_FP8

# ---- config.json ----

NEEDED_KEYS = [
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_experts_per_tok",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
]

YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

# Name, base model, keys, what the line must name.
NONSENSE = [
    ("no heads", V3, {"num_attention_heads": 0}, "num_attention_heads"),
    ("no heads in V1", V1, {"num_attention_heads": 0}, "num_attention_heads"),
    (
        "heads that do not divide the hidden size in V1",
        V1,
        {"num_attention_heads": 3, "num_key_value_heads": 3},
        "num_attention_heads|hidden_size",
    ),
    ("key heads that do not divide the heads", V1, {"num_key_value_heads": 3}, "num_key_value_heads"),
    ("no key heads", V1, {"num_key_value_heads": 0}, "num_key_value_heads"),
    ("negative hidden size", V3, {"hidden_size": -128}, "hidden_size"),
    ("huge hidden size", V3, {"hidden_size": 10**15}, "hidden_size"),
    ("hidden size beyond 64 bits", V3, {"hidden_size": 10**30}, "hidden_size|JSON"),
    ("hidden size in quotes", V3, {"hidden_size": "128"}, "hidden_size"),
    ("hidden size with a fraction", V3, {"hidden_size": 128.5}, "hidden_size"),
    ("no layers", V3, {"num_hidden_layers": 0}, "num_hidden_layers"),
    ("a billion layers", V3, {"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ("more experts per token than experts", V3, {"num_experts_per_tok": 33}, "num_experts_per_tok"),
    ("no experts per token", V3, {"num_experts_per_tok": 0}, "num_experts_per_tok"),
    ("groups that do not divide the experts", V3, {"n_group": 5}, "n_group"),
    ("no groups", V3, {"n_group": 0}, "n_group"),
    ("more kept groups than groups", V3, {"topk_group": 9}, "topk_group"),
    ("kept groups with too few experts", V3, {"topk_group": 1}, "topk_group|num_experts_per_tok"),
    ("empty vocabulary", V3, {"vocab_size": 0}, "vocab_size"),
    ("odd rope dimensions", V3, {"qk_rope_head_dim": 15}, "qk_rope_head_dim"),
    ("negative rope base", V3, {"rope_theta": -1}, "rope_theta"),
    ("negative epsilon", V3, {"rms_norm_eps": -1e-6}, "rms_norm_eps"),
    ("unknown rope scaling", V3, {"rope_scaling": {**YARN, "type": "stretch"}}, "rope_scaling"),
    ("rope scaling by zero", V3, {"rope_scaling": {**YARN, "factor": 0}}, "factor"),
    (
        "rope scaling without its factor",
        V3,
        {"rope_scaling": {k: v for k, v in YARN.items() if k != "factor"}},
        "factor",
    ),
    ("unknown score function", V3, {"scoring_func": "tanh"}, "scoring_func"),
    ("unknown way of choosing experts", V3, {"topk_method": "lottery"}, "topk_method"),
    ("unknown model type", V3, {"model_type": "llama"}, "model_type"),
    ("attention bias", V3, {"attention_bias": True}, "attention_bias"),
    ("unknown quantisation", V3_FP8, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant"),
    (
        "other block sizes",
        V3_FP8,
        {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 64]}},
        "weight_block_size|block",
    ),
    ("sizes that are not the tensors'", V3, {"vocab_size": 400}, "embed_tokens|lm_head|vocab_size"),
    (
        "another inner size than the experts'",
        V3,
        {"moe_intermediate_size": 64},
        "experts|moe_intermediate_size",
    ),
    ("more layers than the file", V3, {"num_hidden_layers": 9}, r"layers\.\d"),
]


def config_cases(bench):
    for key in NEEDED_KEYS:
        bench.case(
            f"config without {key}",
            lambda key=key: bench.refuse_model(bench.variant(remove=[key]), "config.json", key),
        )
    for name, base, keys, place in NONSENSE:
        bench.case(
            f"config: {name}",
            lambda base=base, keys=keys, place=place: bench.refuse_model(
                bench.variant(base, config=keys), place
            ),
        )
    for name, text in (
        ("is empty", ""),
        ("is cut off", '{"model_type": "deepseek_v3",'),
        ("is a list", "[]"),
        ("is binary", "\0\1\2"),
        ("is nested without end", "[" * 100000),
    ):

        def check(text=text):
            directory = bench.variant()
            with open(os.path.join(directory, "config.json"), "w") as f:
                f.write(text)
            return bench.refuse_model(directory, "config.json")

        bench.case(f"config {name}", check)


# ---- Weights ----


class Safetensors:
    """A file of the format, taken apart."""

    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        (length,) = struct.unpack("<Q", data[:8])
        self.header, self.data = json.loads(data[8 : 8 + length]), data[8 + length :]

    def bytes(self, header=None, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header or self.header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + self.data

    def changed(self, tensor, **fields):
        return self.bytes({**self.header, tensor: {**self.header[tensor], **fields}})

    def without(self, tensor):
        return self.bytes({name: entry for name, entry in self.header.items() if name != tensor})


def weight_cases(bench):
    file = Safetensors(os.path.join(V3, "model.safetensors"))
    fp8 = Safetensors(os.path.join(V3_FP8, "model.safetensors"))
    whole, name = file.bytes(), "model.layers.1.mlp.experts.3.up_proj.weight"
    begin, end = file.header[name]["data_offsets"]
    place = re.escape(name)

    def case(title, weights, *places, base=V3):
        bench.case(
            f"weights: {title}", lambda: bench.refuse_model(bench.variant(base, weights=weights), *places)
        )

    case("no file", False, "safetensors")
    case("an empty file", b"", "model.safetensors")
    case("four bytes", whole[:4], "model.safetensors")
    case("cut off in the header", whole[:1000], "model.safetensors")
    case("cut off in the data", whole[:-1000], "model.safetensors")
    case("a header longer than the file", file.bytes(length=len(whole)), "model.safetensors")
    case("a header of 2^60 bytes", file.bytes(length=1 << 60), "model.safetensors")
    case("a header of 2^64 - 1 bytes", file.bytes(length=(1 << 64) - 1), "model.safetensors")
    case("a header of nothing", file.bytes(length=0), "model.safetensors")
    case("a header that is not JSON", file.bytes(b"{" * 64), "model.safetensors")
    case("a header that is a list", file.bytes(b"[1, 2]    "), "model.safetensors")
    case(
        "an offset beyond the file",
        file.changed(name, data_offsets=[len(file.data), len(file.data) + end - begin]),
        place,
    )
    case("an offset of 2^62", file.changed(name, data_offsets=[1 << 62, (1 << 62) + end - begin]), place)
    case(
        "offsets beyond 64 bits",
        file.changed(name, data_offsets=[1 << 64, (1 << 64) + end - begin]),
        "model.safetensors",
    )
    case("an offset that ends before it begins", file.changed(name, data_offsets=[end, begin]), place)
    case("a negative offset", file.changed(name, data_offsets=[-8, end - begin - 8]), place)
    case("overlapping tensors", file.changed(name, data_offsets=[begin - 64, end - 64]), "overlap")
    case("an unknown type", file.changed(name, dtype="F4_E9M9"), place, "F4_E9M9")
    case("a type that weights cannot have", file.changed(name, dtype="I64", shape=[32, 32]), place)
    case("a shape that contradicts the size", file.changed(name, shape=[32, 127]), place)
    case("a shape whose product overflows", file.changed(name, shape=[1 << 32, 1 << 32]), place)
    case("a negative dimension", file.changed(name, shape=[-32, -128]), place)
    case("another shape of the same size", file.changed(name, shape=[128, 32]), place)
    case("a shape of nested lists", file.changed(name, shape=[[32], [128]]), place)
    case("a missing tensor", file.without(name), place)
    case("a missing router", file.without("model.layers.2.mlp.gate.weight"), r"layers\.2\.mlp\.gate\.weight")
    case(
        "a missing balancing bias",
        file.without("model.layers.1.mlp.gate.e_score_correction_bias"),
        "e_score_correction_bias",
    )
    case("a missing output head", file.without("lm_head.weight"), r"lm_head\.weight")
    case(
        "missing block scales",
        fp8.without("model.layers.1.mlp.experts.0.up_proj.weight_scale_inv"),
        r"layers\.1\.mlp\.experts\.0\.up_proj",
        base=V3_FP8,
    )
    scale = "model.layers.0.mlp.up_proj.weight_scale_inv"
    case(
        "block scales of another shape",
        fp8.changed(scale, shape=[8, 1]),
        re.escape("layers.0.mlp.up_proj"),
        base=V3_FP8,
    )
    index_cases(bench, file)


def index_cases(bench, file):
    names = [name for name in file.header if name != "__metadata__"]

    def case(title, weight_map, *places):
        index = (
            weight_map
            if isinstance(weight_map, str)
            else json.dumps({"metadata": {}, "weight_map": weight_map})
        )
        bench.case(
            f"index: {title}", lambda: bench.refuse_model(bench.variant(index=index, weights=False), *places)
        )

    case(
        "names a file that is not there",
        {name: "model-00001-of-00001.safetensors" for name in names},
        "model-00001-of-00001",
    )
    case("not JSON", "{", "index.json")
    case("without a map", "{}", "index.json", "weight_map")
    case("an empty map", {}, "index.json|weight_map")
    case("a file outside of the folder", {name: "../elsewhere.safetensors" for name in names}, "elsewhere")
    case("a number for a file", {name: 7 for name in names}, "index.json")

    def lacks():
        index = json.dumps({"weight_map": {name: "model.safetensors" for name in names}})
        return bench.refuse_model(
            bench.variant(index=index, weights=file.without("lm_head.weight")), "lm_head"
        )

    bench.case("index: a tensor that its file lacks", lacks)


# ---- Paths, prompts, tokenizers, options ----


def truncated_gguf(bench):
    with open(GGUF, "rb") as f:
        return bench.write("truncated.gguf", f.read(1000000))


def prompt_cases(bench):
    run = ["run", "--model", V3, "--max-tokens", "2"]
    bench.case("model: no such directory", lambda: bench.refuse_model("/nowhere/at-all", "/nowhere/at-all"))
    bench.case(
        "inspect: no such directory",
        lambda: bench.refuse(["inspect", "--model", "/nowhere/at-all"], ["/nowhere/at-all"]),
    )
    bench.case(
        "model: an empty directory",
        lambda: bench.refuse_model(tempfile.mkdtemp(dir=bench.folder), "config.json"),
    )
    bench.case(
        "model: a text file", lambda: bench.refuse_model(bench.write("notes.txt", "not a model"), "notes.txt")
    )
    bench.case(
        "model: a GGUF file that is none",
        lambda: bench.refuse_model(bench.write("notes.gguf", "not a model"), "notes.gguf"),
    )
    bench.case(
        "model: a truncated GGUF file",
        lambda: bench.refuse_model(truncated_gguf(bench), "truncated.gguf", "truncated"),
    )
    bench.case("model: no such GGUF file", lambda: bench.refuse_model("/nowhere/m.gguf", "/nowhere/m.gguf"))
    bench.case(
        "prompt: text for a GGUF file without a tokenizer",
        lambda: bench.refuse(["run", "--model", GGUF, "--prompt", "hello"], [GGUF, "tokenizer"]),
    )
    bench.case(
        "prompt: text without a tokenizer", lambda: bench.refuse([*run, "--prompt", "hello"], ["tokenizer"])
    )
    bench.case(
        "prompt: standard input without a tokenizer", lambda: bench.refuse(run, ["tokenizer"], stdin=b"hello")
    )
    bench.case(
        "prompt ids: no file",
        lambda: bench.refuse([*run, "--prompt-ids", "/nowhere/ids.json"], ["/nowhere/ids.json"]),
    )
    for name, text in (
        ("not JSON", "[1, 2"),
        ("an object", "{}"),
        ("beyond the vocabulary", "[1, 320]"),
        ("negative", "[-1]"),
        ("words", '["a"]'),
        ("fractions", "[1.5]"),
        ("more than 64 bits", "[99999999999999999999]"),
    ):
        path = bench.write(f"ids-{name.replace(' ', '-')}.json", text)
        bench.case(
            f"prompt ids: {name}",
            lambda path=path: bench.refuse([*run, "--prompt-ids", path], [os.path.basename(path)]),
        )
    bench.case(
        "prompt ids: none",
        lambda: bench.refuse(
            [*run, "--prompt-ids", bench.write("none.json", "[]")], ["none.json"], status=(1, 2)
        ),
    )
    bench.case(
        "prompt: longer than the context",
        lambda: bench.refuse(
            [*run, "--prompt-ids", bench.write("long.json", json.dumps([5] * 5000))],
            ["4096|context|position"],
        ),
    )
    bench.case(
        "logits: no way to write",
        lambda: bench.refuse(
            ["logits", "--model", V3, "--ids", bench.ids, "--out", "/nowhere/out.npy"], ["/nowhere/out.npy"]
        ),
    )
    bench.case(
        "logits: --mtp for a model without a draft module",
        lambda: bench.refuse(
            [
                "logits",
                "--model",
                V1,
                "--ids",
                bench.ids,
                "--out",
                bench.path("o.npy"),
                "--mtp",
                bench.path("m.npy"),
            ],
            ["--mtp|draft"],
        ),
    )
    for name, args, places, status in (
        ("no file", ["--model", DEMO, "--file", "/nowhere/t.txt"], ["/nowhere/t.txt"], 1),
        ("no tokenizer", ["--model", V3, "--file", bench.write("t.txt", "hello")], ["tokenizer"], 1),
        ("one token", ["--model", V3, "--ids", bench.write("one.json", "[5]")], ["one.json", "at least 2"], 2),
        ("an empty text", ["--model", DEMO, "--file", bench.write("e.txt", "")], ["e.txt", "at least 2"], 2),
        ("ids beyond the vocabulary", ["--model", V3, "--ids", bench.write("b.json", "[1, 320]")], ["b.json"], 1),
    ):
        bench.case(
            f"perplexity: {name}",
            lambda args=args, places=places, status=status: bench.refuse(["perplexity", *args], places, status),
        )

    with open(os.path.join(DEMO, "tokenizer.json")) as f:
        tokenizer = f.read()
    text = ["--max-tokens", "2", "--prompt", "hello"]
    beyond = json.loads(tokenizer)
    beyond["added_tokens"].append(
        {
            "id": 400,
            "content": "<extra>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    )
    for name, changed in (
        ("ids beyond the vocabulary", json.dumps(beyond)),
        ("cut off", tokenizer[: len(tokenizer) // 2]),
        ("another kind", json.dumps({"version": "1.0", "model": {"type": "Unigram", "vocab": []}})),
        ("a list", "[]"),
        ("merges of nothing", json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}})),
    ):
        bench.case(
            f"tokenizer: {name}",
            lambda changed=changed: bench.refuse(
                ["run", "--model", bench.variant(tokenizer=changed), *text], ["tokenizer.json"]
            ),
        )


def option_cases(bench):
    run = ["run", "--model", V3, "--prompt-ids", bench.ids]

    def case(args, *places, program=None):
        name = os.path.basename(program or bench.skein)
        shown = " ".join(a.replace(bench.folder + "/", "") for a in args if a not in run[1:])
        bench.case(f"usage: {name} {shown}", lambda: bench.refuse(args, places, status=2, program=program))

    case(["frobnicate"], "frobnicate")
    case(["--frobnicate"], "frobnicate")
    case(["run", "--prompt-ids", bench.ids], "--model")
    case([*run, "--frobnicate"], "--frobnicate")
    case([*run, "--temperatur", "0"], "--temperatur", "--temperature")
    case([*run, "surplus"], "surplus")
    case([*run, "--max-tokens"], "--max-tokens")
    for option, values in (
        ("--max-tokens", ("-1", "many", "99999999999999999999")),
        ("--temperature", ("-1", "warm", "nan")),
        ("--threads", ("-1", "x")),
        ("--batch-tokens", ("0", "-5", "1000000")),
        ("--local-workers", ("-1", "100000")),
        ("--placement", ("nowhere",)),
        ("--activations", ("f7",)),
        ("--kv-cache", ("f64",)),
        ("--top-p", ("7",)),
        ("--seed", ("x",)),
        ("--workers", ("localhost", "127.0.0.1:", "127.0.0.1:99999", ":", "127.0.0.1:x")),
    ):
        for value in values:
            # A list may be refused by option or by item.
            case([*run, option, value], f"{option}|{re.escape(value)}")
    case([*run, "--local-workers", "2", "--workers", "127.0.0.1:1"], "--workers|--local-workers")
    case([*run, "--prompt", "hello"], "--prompt")
    case(["logits", "--model", V3, "--ids", bench.ids], "--out")
    case(["logits", "--model", V3, "--out", bench.path("o.npy")], "--ids")
    worker = bench.worker_program
    case(["--frobnicate"], "--frobnicate", program=worker)
    case(["--listen", "nonsense"], "--listen", program=worker)
    case(["--listen", "0.0.0.0:0"], "--insecure", program=worker)
    case(["--listen", "127.0.0.1:0", "--memory", "lots"], "--memory", program=worker)
    case(["--listen", "127.0.0.1:0", "--threads", "x"], "--threads", program=worker)
