#!/usr/bin/python3
"""skein quantize on the golden and the demo models: quantize.py SKEIN

Every tensor of every file is read back by an independent reader (tests/reference/gguf.py) and compared with the
original: names, shapes, the order of rows, and the error against a bound for its format. BF16 files must give the
original's logits, others those of the float64 reference with the file's own weights. The demo model must answer in
every type, with a perplexity near the original's. Then memory, Ctrl-C, progress, a full disk. Needs python3-numpy.
"""
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "reference")]
import gguf  # noqa: E402
from error_bench import DEMO, GOLDEN, Bench, Failed, require  # noqa: E402
from gguf_models import (  # noqa: E402
    ANSWER,
    LAYER_NAMES,
    MODEL_NAMES,
    QUESTION,
    encode,
    list_tensors,
    model_metadata,
    write_file,
    write_model,
)
from memory import Process  # noqa: E402
from model import Model, read_tensors  # noqa: E402

TYPES = ("bf16", "q8_0", "q6_k", "q5_k", "q4_k_m", "q4_k", "q4_0")
GOLDEN_GGUF = os.path.join(ROOT, "tests", "data", "golden-gguf")

# Sum of squared errors over sum of squares of one tensor: what normal weights give, and a quarter for tensors that are
# small or have longer tails.
BOUNDS = {
    "F32": 0.0,
    "BF16": 6e-6,
    "Q8_0": 3.5e-5,
    "Q6_K": 3.6e-4,
    "Q5_K": 1.5e-3,
    "Q5_1": 1.4e-3,
    "Q5_0": 2.0e-3,
    "Q4_K": 6.1e-3,
    "Q4_0": 8.2e-3,
}
FLOATS = ("F32", "BF16")
# Formats that are read and not written, with GGUF's numbers.
OTHER_FORMATS = {"F16": 1, "Q4_1": 3, "Q2_K": 10, "Q3_K": 11, "IQ4_NL": 20, "IQ4_XS": 23}
FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
BASE = {"bf16": "BF16", "q8_0": "Q8_0", "q6_k": "Q6_K", "q5_k": "Q5_K", "q4_k_m": "Q4_K", "q4_k": "Q4_K", "q4_0": "Q4_0"}

# Between a model and its BF16 file, whose weights are compared bit by bit: V1's heads have their rows, and latent
# attention its Wk, in another order there, and so have sums (with some of OpenBLAS's kernels for AVX-512, at least).
SAME_WEIGHTS_TOLERANCE = 1e-4
REFERENCE_TOLERANCE = 2e-3
# Perplexity of the demo model's questions and answers against the original's, at most this factor up or down. Measured:
# 1.0000, 1.0007, 1.0007, 0.9995, 1.0002, 0.9959, 0.9855.
PERPLEXITY = {"bf16": 1.0001, "q8_0": 1.005, "q6_k": 1.005, "q5_k": 1.01, "q4_k_m": 1.015, "q4_k": 1.02, "q4_0": 1.03}
BOS, EOS, USER, ASSISTANT = 0, 1, 1022, 1023
MEMORY_BYTES = 64 << 20
POLL_S = 0.005


def call(*command, status=0):
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    require(result.returncode == status, f"exit status {result.returncode}: {result.stderr.strip()[-400:]}")
    return result.stdout, result.stderr


def quantize(bench, model, kind):
    out = bench.path("out.gguf")
    call(bench.skein, "quantize", model, out, "--type", kind)
    require(not os.path.exists(out + ".part"), "the temporary file is still there")
    return out


# ---- Tensors ----


def turn(values, heads):
    """Each head's two halves of rows, interleaved."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def expected_tensors(config, stored):
    """(GGUF name, values) of all that a file must have."""
    heads, multi_head = config["num_attention_heads"], config["model_type"] == "deepseek"
    for name, out in MODEL_NAMES.items():
        yield out + ".weight", stored[name + ".weight"]
    for layer in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        prefix, block = f"model.layers.{layer}.", f"blk.{layer}."
        names = {**LAYER_NAMES, "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
        for name, out in names.items():
            values = stored.get(prefix + name + ".weight")
            if values is None:
                continue
            if out == "attn_kv_b":
                nope = config["qk_nope_head_dim"]
                kv = values.reshape(heads, nope + config["v_head_dim"], -1)
                yield block + "attn_k_b.weight", kv[:, :nope].swapaxes(1, 2)
                yield block + "attn_v_b.weight", kv[:, nope:]
            elif multi_head and out in ("attn_q", "attn_k"):
                yield f"{block}{out}.weight", turn(values, heads if out == "attn_q" else config["num_key_value_heads"])
            else:
                yield f"{block}{out}.weight", values
        if prefix + "mlp.gate.weight" not in stored:
            continue
        bias = stored.get(prefix + "mlp.gate.e_score_correction_bias")
        if bias is not None:
            yield block + "exp_probs_b.bias", bias
        for part in ("gate", "up", "down"):
            experts = (stored[f"{prefix}mlp.experts.{e}.{part}_proj.weight"] for e in range(config["n_routed_experts"]))
            yield f"{block}ffn_{part}_exps.weight", np.stack(list(experts))


def expected_type(kind, name, shape):
    """A set, as the mixed recipe may choose."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return {"F32"}
    types = {BASE[kind]}
    if name == "output.weight" and kind not in ("bf16", "q8_0"):
        types = {"Q6_K"}
    elif kind == "q4_k_m" and re.search(r"ffn_down|attn_v|attn_kv_b", name):
        types = {"Q4_K", "Q6_K"}
    if shape[-1] % 256:
        types = {FALLBACKS.get(t, t) for t in types}
    if shape[-1] % 32:
        types = {"BF16"}
    return types


def relative_error(got, wanted):
    wanted = wanted.astype(np.float64)
    return ((got - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-300)


def check_tensors(kind, config, stored, tensors):
    wanted = dict(expected_tensors(config, stored))
    require(wanted.keys() == tensors.keys(), f"other tensors: {sorted(wanted.keys() ^ tensors.keys())[:6]}")
    for name, values in wanted.items():
        tensor = tensors[name]
        require(tensor.shape == values.shape, f"{name} is {tensor.shape}, not {values.shape}")
        require(tensor.type in expected_type(kind, name, values.shape), f"{name} is {tensor.type}")
        error = relative_error(tensor.values(), values)
        require(error <= BOUNDS[tensor.type], f"{name} in {tensor.type}: error {error:.2e}")


# ---- Logits ----


def logits(bench, model, ids, draft):
    out, mtp = bench.path("l.npy"), bench.path("m.npy")
    command = [bench.skein, "logits", "--model", model, "--ids", ids, "--out", out, "--activations", "f32"]
    call(*command, *(["--mtp", mtp] if draft else []))
    return [np.load(out)] + ([np.load(mtp)] if draft else [])


def as_checkpoint(config, tensors):
    """A file's tensors under the names that the reference knows."""
    out, heads = {}, config["num_attention_heads"]
    back = {gguf_name: name for name, gguf_name in {**MODEL_NAMES, **LAYER_NAMES}.items()}
    back.update({"attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"})
    for name, tensor in tensors.items():
        values, (stem, suffix) = tensor.values().astype(np.float64), name.rsplit(".", 1)
        layer = re.match(r"blk\.(\d+)\.(.*)", stem)
        prefix, stem = (f"model.layers.{layer[1]}.", layer[2]) if layer else ("", stem)
        stack = re.match(r"ffn_(gate|up|down)_exps", stem)
        if stack:
            for expert, matrix in enumerate(values):
                out[f"{prefix}mlp.experts.{expert}.{stack[1]}_proj.weight"] = matrix
        elif stem == "exp_probs_b":
            out[prefix + "mlp.gate.e_score_correction_bias"] = values
        elif stem == "attn_k_b":
            v_b = tensors[f"blk.{layer[1]}.attn_v_b.weight"].values().astype(np.float64)
            kv = np.concatenate([values.swapaxes(1, 2), v_b], 1)
            out[prefix + "self_attn.kv_b_proj.weight"] = kv.reshape(-1, kv.shape[-1])
        elif config["model_type"] == "deepseek" and stem in ("attn_q", "attn_k"):
            rows, columns = values.shape
            count = heads if stem == "attn_q" else config["num_key_value_heads"]
            pairs = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2)
            out[f"{prefix}{back[stem]}.weight"] = pairs.reshape(rows, columns)
        elif stem in back:
            out[f"{prefix}{back[stem]}.{suffix}"] = values
    return out


def largest_difference(pairs):
    return max(np.abs(a - b).max() for a, b in pairs)


def steady_prompt(reference):
    """Ids for which no route is about to flip between f32 and f64, and what the reference makes of them."""
    for start in range(100):
        prompt = [(37 * i + 11 * start + 5) % reference.config["vocab_size"] for i in range(12)]
        wanted = reference.forward(prompt)
        if wanted.margins.min() > 1e-5:
            return prompt, wanted
    raise Failed("no prompt without a close route")


def check_golden(bench, name, kind):
    model = DEMO if name == "demo-model" else os.path.join(GOLDEN, name)
    with open(os.path.join(model, "config.json")) as f:
        config = json.load(f)
    stored = read_tensors(model)
    out = quantize(bench, model, kind)
    _, tensors = gguf.read(out)
    check_tensors(kind, config, stored, tensors)
    prompt, wanted = steady_prompt(Model(config, as_checkpoint(config, tensors)))
    ids, draft = bench.write("ids.json", json.dumps(prompt)), config["num_nextn_predict_layers"] > 0
    got = logits(bench, out, ids, draft)
    if kind == "bf16" and "quantization_config" not in config:
        off = largest_difference(zip(got, logits(bench, model, ids, draft)))
        require(off <= SAME_WEIGHTS_TOLERANCE, f"logits are off by {off:.3g}")
        return f"logits off by {off:.2g}"
    off = np.abs(got[0] - wanted.logits).max()
    require(off <= REFERENCE_TOLERANCE, f"logits are off by {off:.3g}")
    return f"logits off by {off:.2g}"


# ---- From GGUF ----


def check_copy(bench, name, kind):
    """To the format that it has: every byte stays, and so does what the metadata says."""
    model = os.path.join(GOLDEN_GGUF, name, "model.gguf")
    before, tensors_before = gguf.read(model)
    after, tensors_after = gguf.read(quantize(bench, model, kind))
    written = {"general.file_type", "general.quantization_version"}
    require({k: v for k, v in after.items() if k not in written} == before, "the metadata differs")
    require(written <= after.keys(), "the file does not tell its type")
    require(tensors_before.keys() == tensors_after.keys(), "other tensors")
    for tensor_name, a in tensors_before.items():
        b = tensors_after[tensor_name]
        require((a.type, a.shape) == (b.type, b.shape), f"{tensor_name} is {b.type} {b.shape}")
        require(np.array_equal(a.raw, b.raw), f"{tensor_name} has other bytes")


def check_from_gguf(bench, name, kind):
    model = os.path.join(GOLDEN_GGUF, name, "model.gguf")
    _, before = gguf.read(model)
    _, err = call(bench.skein, "quantize", model, bench.path("out.gguf"), "--type", kind)
    _, after = gguf.read(bench.path("out.gguf"))
    twice = [n for n, a in before.items() if a.type not in FLOATS and after[n].type not in (*FLOATS, a.type)]
    warned = re.search(r"(\d+) tensors come in another quantised format", err)
    require((int(warned[1]) if warned else 0) == len(twice), f"{len(twice)} are rounded twice, it says {err!r}")
    for tensor_name, a in before.items():
        b = after[tensor_name]
        require(a.shape == b.shape, f"{tensor_name} is {b.shape}")
        require(b.type in expected_type(kind, tensor_name, b.shape), f"{tensor_name} is {b.type}")
        error = relative_error(b.values(), a.values())
        require(error <= BOUNDS[b.type], f"{tensor_name} in {b.type}: error {error:.2e}")


def check_other_format(bench, kind):
    """A format that is only read, as IN: known blocks (tests/data/quant-blocks) in place of one matrix."""
    blocks = os.path.join(ROOT, "tests", "data", "quant-blocks", kind)
    values, name = np.load(blocks + ".npy").reshape(-1), "blk.5.nextn.eh_proj.weight"
    with open(blocks + ".bin", "rb") as f:
        data = f.read()
    with open(os.path.join(DEMO, "config.json")) as f:
        config = json.load(f)
    tensors = [encode(*tensor, False) for tensor in list_tensors(config, read_tensors(DEMO))]
    place = next(i for i, tensor in enumerate(tensors) if tensor[0] == name)
    shape = tensors[place][1]
    repeat = -(-int(np.prod(shape)) // len(values))
    size = int(np.prod(shape)) * len(data) // len(values)
    tensors[place] = (name, shape, OTHER_FORMATS[kind], (data * repeat)[:size])
    write_file(bench.path("other.gguf"), model_metadata(config), tensors)
    wanted = np.tile(values, repeat)[: int(np.prod(shape))].reshape(shape)
    _, written = gguf.read(quantize(bench, bench.path("other.gguf"), "bf16"))
    error = relative_error(written[name].values(), wanted)
    require(error <= BOUNDS["BF16"], f"error {error:.2e}")
    _, err = call(bench.skein, "quantize", bench.path("other.gguf"), bench.path("out.gguf"), "--type", "q6_k")
    require(("1 tensors come in another quantised format" in err) == (kind != "F16"), f"it says {err!r}")
    _, written = gguf.read(bench.path("out.gguf"))
    error = relative_error(written[name].values(), wanted)
    require(error <= BOUNDS["Q6_K"], f"error {error:.2e}")


def check_parts(bench):
    """Of several parts the same file is made as of one."""
    written = []
    for parts in (1, 3):
        model = write_model(bench.folder, f"demo{parts}", False, parts)
        with open(quantize(bench, model, "q4_k_m"), "rb") as f:
            written.append(f.read())
    require(written[0] == written[1], "the file made of parts differs")


def check_again(bench):
    """A directory and its BF16 file make the same tensors; an existing file is replaced."""
    first, _ = quantize(bench, DEMO, "bf16"), None
    os.rename(first, bench.path("bf16.gguf"))
    _, direct = gguf.read(quantize(bench, DEMO, "q5_k"))
    _, detour = gguf.read(quantize(bench, bench.path("bf16.gguf"), "q5_k"))
    for name, tensor in direct.items():
        require(np.array_equal(tensor.raw, detour[name].raw), f"{name} differs")


def check_threads(bench):
    files = []
    for threads in ("1", "5"):
        out = bench.path("out.gguf")
        call(bench.skein, "quantize", DEMO, out, "--type", "q4_k", "--threads", threads)
        with open(out, "rb") as f:
            files.append(f.read())
    require(files[0] == files[1], "the file depends on the number of threads")


# ---- The demo model ----


def perplexity(bench, model, ids):
    out, _ = call(bench.skein, "perplexity", "--model", model, "--ids", ids, "--context", "256", "--json")
    return json.loads(out)["perplexity"]


def check_demo(bench, kind, ids, original):
    out = quantize(bench, DEMO, kind)
    stdout, _ = call(bench.skein, "run", "--model", out, "--prompt", QUESTION, "--temperature", "0")
    require(stdout.strip() == ANSWER, f"it answers {stdout!r}")
    ratio = perplexity(bench, out, ids) / original
    require(1 / PERPLEXITY[kind] <= ratio <= PERPLEXITY[kind], f"perplexity over the original's is {ratio:.4f}")
    return f"perplexity over the original's {ratio:.4f}"


def make_encoder():
    """Ids of plain ASCII sentences, as the demo model's tokenizer makes them."""
    with open(os.path.join(DEMO, "tokenizer.json"), encoding="utf-8") as f:
        model = json.load(f)["model"]
    ranks = {tuple(m.split(" ") if isinstance(m, str) else m): i for i, m in enumerate(model["merges"])}

    def encode_word(word):
        parts = list(word.replace(" ", "\u0120"))
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(zip(parts, parts[1:])))
            if rank == len(ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [model["vocab"][part] for part in parts]

    words = re.compile(r"[0-9]{1,3}| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+")
    return lambda text: [id for word in words.findall(text) for id in encode_word(word)]


def write_conversations(bench):
    """The demo model's questions with their answers, as it was trained on such."""
    encode = make_encoder()
    with open(os.path.join(DEMO, "questions.json"), encoding="utf-8") as f:
        questions = json.load(f)
    ids = []
    for q in questions:
        ids += [BOS, USER, *encode(q["question"]), ASSISTANT, *encode(q["answer"]), EOS]
    return bench.write("conversations.json", json.dumps(ids))


# ---- A larger model ----


def check_memory(bench, model, kind):
    """The peak of all memory stays under a bound that is far below the model's size."""
    command = ["quantize", model, bench.path("out.gguf"), "--type", kind, "--threads", "2", "--quiet"]
    running = subprocess.Popen([bench.skein, *command])
    watched = Process("quantize", running.pid)
    while running.poll() is None:
        watched.look()
        time.sleep(POLL_S)
    require(running.returncode == 0, f"exit status {running.returncode}")
    peak = watched.peak
    size = os.path.getsize(os.path.join(model, "model.safetensors"))
    require(size > 4 * MEMORY_BYTES, "the model is too small to tell")
    require(peak <= MEMORY_BYTES, f"{peak / 2**20:.0f} MiB of memory for {size / 2**20:.0f} MiB")
    return f"{peak / 2**20:.0f} MiB of memory for {size / 2**20:.0f} MiB"


def check_interrupt(bench, model):
    """Ctrl-C in the middle: what was there before stays, nothing else does. Progress shows on a terminal."""
    out = bench.write("kept.gguf", "before")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [bench.skein, "quantize", model, out, "--type", "q4_k", "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown, deadline = b"", time.monotonic() + 60
    while not re.search(rb"quantising\s+[1-9]\d*%", shown) and time.monotonic() < deadline:
        shown += os.read(controller, 4096)
    require(os.path.exists(out + ".part"), "there is no temporary file")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    os.close(controller)
    require(process.returncode == 130, f"exit status {process.returncode}")
    require(b"quantising" in shown, "no progress was shown")
    require(not os.path.exists(out + ".part"), "the temporary file is still there")
    with open(out) as f:
        require(f.read() == "before", "the file that was there is gone")


def main():
    bench = Bench(os.path.dirname(os.path.abspath(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else None, True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in [*sorted(os.listdir(GOLDEN)), "demo-model"]:
        for kind in TYPES:
            bench.case(f"{name} to {kind}", lambda: check_golden(bench, name, kind))
    for name in sorted(os.listdir(GOLDEN_GGUF)):
        own = "bf16" if "bf16" in name else "q8_0"
        bench.case(f"{name} to {own}: a copy", lambda: check_copy(bench, name, own))
        for kind in ("bf16", "q6_k", "q4_k_m", "q4_0"):
            bench.case(f"{name} to {kind}", lambda: check_from_gguf(bench, name, kind))
    for kind in OTHER_FORMATS:
        bench.case(f"from {kind}", lambda: check_other_format(bench, kind))
    bench.case("a model in parts", lambda: check_parts(bench))
    bench.case("a directory and its BF16 file", lambda: check_again(bench))
    bench.case("any number of threads", lambda: check_threads(bench))
    ids = write_conversations(bench)
    original = perplexity(bench, DEMO, ids)
    for kind in TYPES:
        bench.case(f"the demo model in {kind}", lambda: check_demo(bench, kind, ids, original))
    for dtype in ("bf16", "fp8"):
        model = bench.path(dtype)
        program = os.path.join(ROOT, "tests", "bench", "make_model.py")
        options = ["--shape", "v2-lite", "--layers", "2", "--experts", "16", "--dtype", dtype]
        subprocess.run([sys.executable, program, model, *options], check=True, stdout=subprocess.DEVNULL)
        bench.case(f"memory, {dtype} to q8_0", lambda: check_memory(bench, model, "q8_0"))
        if dtype == "bf16":
            bench.case("Ctrl-C, and progress", lambda: check_interrupt(bench, model))
        subprocess.run(["rm", "-r", model], check=True)
    subprocess.run(["rm", "-r", bench.folder], check=True)
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
