#!/usr/bin/python3
"""Every error a user can run into, on the real programs.

error_cases.py [BIN_DIR] [--only TEXT] [--verbose]     default BIN_DIR: build/bin

Each case must end in time with the right exit status and exactly one "error:" line on standard error, which names the
place and what to do about it. Worker daemons that took part must still be there and answer a good run afterwards.
Prints "ok" or "FAILED" for each case; exit status 1 when any failed. Needs the golden and the demo model only.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import peers  # noqa: E402
from peers import FakeWorker, Proxy  # noqa: E402

GOLDEN = os.path.join(ROOT, "tests", "data", "golden")
DEMO = os.path.join(ROOT, "deploy", "demo-model")
V1, V3, V3_FP8 = (
    os.path.join(GOLDEN, name) for name in ("deepseek-moe-tiny", "deepseek-v3-tiny", "deepseek-v3-tiny-fp8")
)

LOCAL_TIMEOUT_S = 30
NETWORK_TIMEOUT_S = 60
READY_TIMEOUT_S = 10
RELEASE_TIMEOUT_S = 8  # a worker lets go of a coordinator that vanished: three missed health reports and some
GOOD_TOKENS = 3
LONG_TOKENS = 2000


class Failed(Exception):
    """One sentence about what was not as it must be."""


class Bench:
    """The programs under test, a scratch folder and the tally."""

    def __init__(self, binaries, only, verbose):
        self.skein = os.path.join(binaries, "skein")
        self.worker_program = os.path.join(binaries, "skein-worker")
        self.only, self.verbose = only, verbose
        self.passed = self.failed = 0
        self.folder = tempfile.mkdtemp(prefix="skein-errors-")
        self.ids = self.write("ids.json", json.dumps([0, 5, 9, 13]))

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)
        return self.path(name)

    def case(self, name, check):
        if self.only and self.only not in name:
            return
        try:
            line = check()
            self.passed += 1
            print(f"ok     {name}" + (f"\n       {line}" if self.verbose and line else ""), flush=True)
        except (Failed, OSError, subprocess.SubprocessError, peers.Closed) as problem:
            self.failed += 1
            print(f"FAILED {name}: {problem or type(problem).__name__}", flush=True)

    # -- Commands that must fail --

    def refuse(self, args, places, status=1, program=None, timeout_s=LOCAL_TIMEOUT_S, stdin=None):
        """Runs the command and checks how it fails; returns its error line. `places`: patterns that the line must have."""
        command = [program or self.skein, *args]
        try:
            # Bytes and not text: even broken UTF-8 is to be judged here.
            result = subprocess.run(command, capture_output=True, timeout=timeout_s, input=stdin or b"")
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {timeout_s} s") from None
        return check_failure(result.returncode, result.stderr, places, status)

    def refuse_model(self, directory, *places, status=1):
        return self.refuse(
            ["logits", "--model", directory, "--ids", self.ids, "--out", self.path("out.npy")], places, status
        )

    def refuse_workers(self, addresses, *places, status=1):
        """A short run on these workers must fail; returns its error line."""
        return self.refuse(run_args(self.ids, 2, addresses), places, status, timeout_s=NETWORK_TIMEOUT_S)

    # -- Models --

    def variant(self, base=V3, config=None, remove=(), weights=None, index=None, tokenizer=None):
        """A copy of the model `base` with changes: config keys set and removed, other bytes of model.safetensors
        (False: no such file), an index, a tokenizer's text."""
        directory = tempfile.mkdtemp(dir=self.folder)
        with open(os.path.join(base, "config.json")) as f:
            merged = {**json.load(f), **(config or {})}
        with open(os.path.join(directory, "config.json"), "w") as f:
            json.dump({key: value for key, value in merged.items() if key not in remove}, f)
        target = os.path.join(directory, "model.safetensors")
        if weights is None:
            os.symlink(os.path.join(base, "model.safetensors"), target)
        elif weights is not False:
            with open(target, "wb") as f:
                f.write(weights)
        for name, text in (("model.safetensors.index.json", index), ("tokenizer.json", tokenizer)):
            if text is not None:
                with open(os.path.join(directory, name), "w") as f:
                    f.write(text)
        return directory

    # -- Runs that must work --

    def good_run(self, address, wait_s=RELEASE_TIMEOUT_S):
        """The worker answers correctly; right after an accident it may take a moment to let go of its coordinator."""
        with open(os.path.join(V3, "golden.json")) as f:
            golden = json.load(f)
        prompt = self.write("good.json", json.dumps(golden["prompt_ids"]))
        deadline = time.monotonic() + wait_s
        while True:
            result = subprocess.run(
                [self.skein, *run_args(prompt, GOOD_TOKENS, address)],
                capture_output=True,
                text=True,
                timeout=NETWORK_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
            if result.returncode == 0 or "busy" not in result.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if result.returncode:
            raise Failed(f"the worker does not serve a good run afterwards: {result.stderr.strip()[-300:]}")
        if json.loads(result.stdout)["ids"] != golden["greedy_ids"][:GOOD_TOKENS]:
            raise Failed(f"a good run afterwards gives other tokens: {result.stdout[:200]}")


class Worker:
    """A skein-worker daemon of ours."""

    def __init__(self, bench, name, args=()):
        self.address = peers.free_address()
        self.log = bench.path(name + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [bench.worker_program, "--listen", self.address, "--threads", "1", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not peers.listening(self.address):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error_cases: skein-worker does not start: {self.text()}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read().strip()[-400:]

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"the worker daemon ended with {self.process.returncode}: {self.text()}")
        if "Sanitizer" in self.text():
            raise Failed(f"the worker daemon was caught by a sanitizer: {self.text()}")


def run_args(prompt, tokens, address, model=V3):
    return [
        "run",
        "--model",
        model,
        "--prompt-ids",
        prompt,
        "--max-tokens",
        str(tokens),
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
        "--workers",
        address,
    ]


def check_failure(code, stderr, places, status=1):
    try:
        text = stderr.decode()
    except UnicodeDecodeError:
        raise Failed(f"standard error is not UTF-8: {stderr[-300:]!r}") from None
    lines = [line for line in text.splitlines() if "error:" in line]
    if "Sanitizer" in text:
        raise Failed(f"caught by a sanitizer: {text[:600]}")
    if code not in (status if isinstance(status, tuple) else (status,)):
        raise Failed(f"exit status {code}, expected {status}; it said: {text.strip()[-300:] or '(nothing)'}")
    if len(lines) != 1:
        raise Failed(f"{len(lines)} error lines instead of one: {text.strip()[-500:] or '(nothing)'}")
    message = lines[0].split("error:", 1)[1].strip()
    for place in places:
        if not re.search(place, message, re.IGNORECASE):
            raise Failed(f"the line does not name /{place}/: {message}")
    # What is wrong and what to do about it are two clauses.
    if len(message.split()) < 6 or not re.search(r"[;,?:] \S", message):
        raise Failed(f"the line has no remedy: {message}")
    return message


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
        directory = bench.variant(
            index=json.dumps(
                {"weight_map": {name: "model.safetensors" for name in [*names, "model.layers.0.x"]}}
            )
        )
        return bench.refuse_model(directory, r"model\.layers\.0\.x")

    bench.case("index: a tensor that its file lacks", lacks)


# ---- Paths, prompts, tokenizers, options ----


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
        ("none", "[]"),
        ("more than 64 bits", "[99999999999999999999]"),
    ):
        path = bench.write(f"ids-{name.replace(' ', '-')}.json", text)
        bench.case(
            f"prompt ids: {name}",
            lambda path=path: bench.refuse([*run, "--prompt-ids", path], [os.path.basename(path)]),
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
        name = f"{'skein-worker' if program else 'skein'} {' '.join(a.replace(ROOT, '') for a in args if a not in run) or '(alone)'}"
        bench.case(f"usage: {name}", lambda: bench.refuse(args, places, status=2, program=program))

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
        ("--top-p", ("7",)),
        ("--seed", ("x",)),
        ("--workers", ("localhost", "127.0.0.1:", "127.0.0.1:99999", ":", "127.0.0.1:x")),
    ):
        for value in values:
            case([*run, option, value], option)
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


# ---- Workers ----


def unreachable_cases(bench):
    """Peers that are no workers."""
    silent = threading.Event()

    def case(name, behave, *places):
        def check():
            with FakeWorker(behave) as fake:
                return bench.refuse_workers(fake.address, re.escape(fake.address), *places)

        bench.case(f"worker: {name}", check)

    def refused():
        address = peers.free_address()
        return bench.refuse_workers(address, re.escape(address))

    def send(data):
        # The coordinator closes first; then nothing is lost on the way.
        def behave(connection):
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass

        return behave

    bench.case("worker: nobody listens", refused)
    bench.case(
        "worker: a name that does not exist",
        lambda: bench.refuse_workers("no-such-host.invalid:7717", "no-such-host.invalid"),
    )
    case("never answers", lambda connection: silent.wait(NETWORK_TIMEOUT_S))
    case("closes without a word", lambda connection: None)
    case("speaks HTTP", send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
    case("answers garbage", send(peers.garbage(4096)))
    case("answers garbage of a plausible length", send(struct.pack("<I", 300) + peers.garbage(300)))
    case("announces 2 GiB", send(struct.pack("<I", 0x7FFFFFFF)))
    case("speaks version 99", send(peers.welcome(version=99)), "version|99")
    case("speaks version 0", send(peers.welcome(version=0)), "version")
    case("sends an empty message", send(struct.pack("<I", 0)))
    case("greets out of turn", send(peers.control_message(8, b"")))
    case("says so in a line of its own", send(peers.error(b"sorry\nskein: error: forged\x1b[31m")), "sorry")
    case("says so in broken UTF-8", send(peers.error(b"sorry \xff\xfe")))
    case("closes in the middle of its greeting", lambda connection: connection.sendall(peers.welcome()[:9]))
    case(
        "closes when shards are assigned",
        lambda connection: (connection.sendall(peers.welcome()), peers.receive_control(connection)),
    )
    case(
        "falls silent when shards are assigned",
        lambda connection: (connection.sendall(peers.welcome()), silent.wait(NETWORK_TIMEOUT_S)),
    )
    case(
        "wants shards that nobody assigned",
        send(
            peers.welcome()
            + peers.control_message(
                5, peers.field_bytes(1, peers.varint(0)) + peers.field_bytes(2, peers.varint(1 << 31))
            )
        ),
    )
    case(
        "is ready, but has no data plane",
        lambda connection: (
            connection.sendall(peers.welcome()),
            peers.receive_control(connection),
            send(peers.control_message(8, b""))(connection),
        ),
    )
    silent.set()


CONTROL, FRAME = peers.receive_control, peers.receive_frame


def spoilt_cases(bench, worker):
    """A real worker behind a proxy that spoils what passes; it must serve a good run afterwards."""
    first = peers.change_first

    def header(**changes):
        return first(FRAME, lambda frame: peers.change_header(frame, **changes))

    def next_sequence(frame):
        return peers.change_header(
            frame, sequence=peers.WIRE_HEADER.unpack(frame[: peers.WIRE_HEADER.size])[3] + 1
        )

    def flip(frame):
        return frame[:20] + bytes([frame[20] ^ 1]) + frame[21:]

    def bad_slot(frame):
        size = peers.WIRE_HEADER.size
        return frame[: size + 4] + b"\xff\xff\xff\x7f" + frame[size + 8 :]

    largest = dict(rows=8192, hidden=65536, payload_bytes=16 + 8192 * 65536 * 4)
    cases = [
        ("control", "reply", "garbage instead of a greeting", first(CONTROL, lambda m: peers.garbage(500))),
        ("control", "reply", "half a greeting", peers.cut_first(CONTROL)),
        ("control", "request", "garbage after the greeting", first(CONTROL, lambda m: peers.garbage(5000))),
        ("control", "request", "half an assignment", peers.cut_first(CONTROL)),
        (
            "control",
            "request",
            "an assignment of garbage",
            first(CONTROL, lambda m: m[:20] + peers.garbage(len(m) - 20)),
        ),
        ("data", "reply", "garbage for a reply", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("data", "reply", "a damaged header", first(FRAME, flip)),
        ("data", "reply", "version 7", header(version=7)),
        ("data", "reply", "an unknown type", header(type=77)),
        ("data", "reply", "a dispatch for a reply", header(type=peers.WIRE_DISPATCH)),
        ("data", "reply", "a reply of 2^60 bytes", header(payload_bytes=1 << 60)),
        ("data", "reply", "the largest reply there is", header(**largest)),
        ("data", "reply", "a reply to something else", first(FRAME, next_sequence)),
        (
            "data",
            "reply",
            "a reply of no rows",
            first(FRAME, lambda f: peers.change_header(f[:64], rows=0, payload_bytes=16)),
        ),
        ("data", "reply", "half a reply", peers.cut_first(FRAME)),
        ("data", "request", "garbage for rows", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("data", "request", "rows of version 7", header(version=7)),
        ("data", "request", "more rows than agreed", header(**{**largest, "entries": 0})),
        ("data", "request", "rows for a shard that is not there", first(FRAME, bad_slot)),
        ("data", "request", "half of the rows", peers.cut_first(FRAME)),
    ]
    for plane, direction, name, spoil in cases:

        def check(plane=plane, direction=direction, spoil=spoil):
            with Proxy(worker.address, plane, direction, spoil) as proxy:
                line = bench.refuse_workers(proxy.address, re.escape(proxy.address))
            worker.check_alive()
            bench.good_run(worker.address)
            return line

        bench.case(f"{plane} plane, {direction}: {name}", check)


def stranger_cases(bench, worker):
    """Whoever connects to a worker can do no harm."""

    def reply_to(data):
        with contextlib.closing(peers.connect(worker.address)) as connection:
            connection.sendall(data)
            try:
                return peers.receive_control(connection)
            except peers.Closed:
                return b""

    def case(name, data, wanted=None):
        def check():
            reply = reply_to(data)
            worker.check_alive()
            bench.good_run(worker.address)
            if wanted and not re.search(wanted, reply):
                raise Failed(f"it answered {reply!r}, expected {wanted!r}")

        bench.case(f"stranger: {name}", check)

    case("a coordinator of version 99", peers.hello(version=99), rb"version")
    case("garbage", peers.garbage(5000))
    case("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    case("a message of 4 GiB", b"\xff\xff\xff\xff")
    case("goodbye before hello", peers.control_message(10, b""))
    case("a data connection for no session", peers.wire_header(sequence=12345))
    case(
        "a data connection that opens with rows",
        peers.wire_header(type=peers.WIRE_DISPATCH, rows=1, hidden=128, payload_bytes=16 + 512),
    )
    case("a data frame of 2^60 bytes", peers.wire_header(payload_bytes=1 << 60))

    def silent_crowd():
        crowd = [peers.connect(worker.address) for _ in range(40)]
        for connection in crowd[::2]:
            connection.sendall(peers.hello()[:7])
        try:
            worker.check_alive()
        finally:
            for connection in crowd:
                connection.close()
        bench.good_run(worker.address)

    bench.case("stranger: forty connections that say nothing", silent_crowd)


def start_long_run(bench, address):
    return subprocess.Popen(
        [bench.skein, *run_args(bench.ids, LONG_TOKENS, address)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process):
    process.kill()
    process.communicate()


class Midway:
    """For Proxy: lets frames pass; `reached` is set after the tenth, in the midst of a generation."""

    def __init__(self, then_hold):
        self.reached, self.then_hold, self.release = threading.Event(), then_hold, threading.Event()

    def __call__(self, source, sink):
        for _ in range(10):
            sink.sendall(FRAME(source))
        self.reached.set()
        if self.then_hold:
            self.release.wait(NETWORK_TIMEOUT_S)
            return
        while True:
            sink.sendall(FRAME(source))

    def wait(self):
        if not self.reached.wait(READY_TIMEOUT_S):
            raise Failed("the generation did not begin")


def accident_cases(bench, worker):
    def busy():
        midway = Midway(then_hold=True)
        with Proxy(worker.address, "data", "reply", midway) as proxy:
            first = start_long_run(bench, proxy.address)
            try:
                midway.wait()
                line = bench.refuse_workers(
                    worker.address, re.escape(worker.address), "busy|another coordinator"
                )
                if first.poll() is not None:
                    raise Failed("the first coordinator was disturbed")
            finally:
                midway.release.set()
                end(first)
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def coordinator_killed():
        midway = Midway(then_hold=False)
        with Proxy(worker.address, "data", "reply", midway) as proxy:
            first = start_long_run(bench, proxy.address)
            try:
                midway.wait()
            finally:
                end(first)
        worker.check_alive()
        bench.good_run(worker.address)

    def worker_stricken(strike, afterwards):
        midway = Midway(then_hold=False)
        with Worker(bench, "stricken", ["--model", V3]) as victim, Proxy(
            victim.address, "data", "reply", midway
        ) as proxy:
            run = start_long_run(bench, proxy.address)
            try:
                midway.wait()
                victim.process.send_signal(strike)
                try:
                    _, stderr = run.communicate(timeout=NETWORK_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    raise Failed(f"the coordinator hangs for more than {NETWORK_TIMEOUT_S} s") from None
                line = check_failure(run.returncode, stderr, [re.escape(proxy.address)])
            finally:
                end(run)
            afterwards(victim)
            return line

    def wake(victim):
        victim.process.send_signal(signal.SIGCONT)
        victim.check_alive()
        bench.good_run(victim.address)

    bench.case("cluster: a second coordinator while the worker is busy", busy)
    bench.case("cluster: the coordinator is killed in the middle", coordinator_killed)
    bench.case(
        "cluster: the worker is killed in the middle",
        lambda: worker_stricken(signal.SIGKILL, lambda victim: None),
    )
    bench.case("cluster: the worker freezes in the middle", lambda: worker_stricken(signal.SIGSTOP, wake))


def cluster_cases(bench, worker):
    def too_small():
        with Worker(bench, "small", ["--memory", "256K"]) as small, Worker(
            bench, "smaller", ["--memory", "128K"]
        ) as smaller:
            addresses = f"{small.address},{smaller.address}"
            line = bench.refuse_workers(addresses, r"missing|short|lack|more", r"\d[\d.]* ?([KMG]i?B|bytes)")
            small.check_alive()
            smaller.check_alive()
            # With a large third worker, the same two serve.
            bench.good_run(f"{addresses},{worker.address}")
            return line

    def same_worker_twice():
        line = bench.refuse_workers(
            f"{worker.address},{worker.address}", re.escape(worker.address), status=(1, 2)
        )
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def one_of_two_is_missing():
        address = peers.free_address()
        line = bench.refuse_workers(f"{worker.address},{address}", re.escape(address))
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def port_taken():
        line = bench.refuse(
            ["--listen", worker.address], [re.escape(worker.address)], program=bench.worker_program
        )
        worker.check_alive()
        return line

    bench.case("cluster: too small for the model", too_small)
    bench.case("cluster: the same worker twice", same_worker_twice)
    bench.case("cluster: one of two workers is not there", one_of_two_is_missing)
    bench.case("worker: its port is taken", port_taken)
    bench.case(
        "worker: its model is not there",
        lambda: bench.refuse(
            ["--listen", "127.0.0.1:0", "--model", "/nowhere/at-all"],
            ["/nowhere/at-all"],
            program=bench.worker_program,
        ),
    )

    def other_model():
        # A worker with a copy of another model is sent its shards.
        with Worker(bench, "other", ["--model", V1]) as other:
            bench.good_run(other.address)

    bench.case("worker: its copy is another model's", other_model)


def main():
    parser = argparse.ArgumentParser(description="Every error a user can run into, on the real programs.")
    parser.add_argument("binaries", nargs="?", default=os.path.join(ROOT, "build", "bin"), metavar="BIN_DIR")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show the error lines")
    args = parser.parse_args()
    bench = Bench(os.path.abspath(args.binaries), args.only, args.verbose)
    try:
        config_cases(bench)
        weight_cases(bench)
        prompt_cases(bench)
        option_cases(bench)
        unreachable_cases(bench)
        with Worker(bench, "shipped") as shipped, Worker(bench, "own-copy", ["--model", V3]) as own:
            spoilt_cases(bench, shipped)
            stranger_cases(bench, own)
            accident_cases(bench, shipped)
            cluster_cases(bench, own)
    finally:
        shutil.rmtree(bench.folder)
    print(f"{bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0 or bench.passed == 0)


if __name__ == "__main__":
    main()
