"""Errors of skein quantize: its arguments, what it reads and where it writes."""

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile

from error_bench import DEMO, GGUF, LOCAL_TIMEOUT_S, V1, V3, V3_FP8, Failed, check_failure
from error_cases_files import Safetensors

EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
# A file may be so long and no longer, as if the disk were full.
FILE_BYTES_MAX = 1 << 20


def refuse(bench, model, *places, out=None, kind="q4_k", status=1):
    """The command must fail so, and leave nothing beside what was there."""
    folder = tempfile.mkdtemp(dir=bench.folder)
    out = out or os.path.join(folder, "out.gguf")
    line = bench.refuse(["quantize", model, out, "--type", kind], places, status)
    if os.listdir(folder):
        raise Failed(f"it leaves {os.listdir(folder)}")
    return line


def poisoned(file, tensor, value):
    """The file with `value` (packed) as the last of the tensor's values."""
    _, end = file.header[tensor]["data_offsets"]
    data = file.data[: end - len(value)] + value + file.data[end:]
    copy = Safetensors.__new__(Safetensors)
    copy.header, copy.data = file.header, data
    return copy.bytes()


def check_full_disk(bench):
    folder = tempfile.mkdtemp(dir=bench.folder)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))

    command = [bench.skein, "quantize", DEMO, os.path.join(folder, "out.gguf"), "--type", "bf16"]
    result = subprocess.run(command, capture_output=True, timeout=LOCAL_TIMEOUT_S, preexec_fn=limit)
    if os.listdir(folder):
        raise Failed(f"it leaves {os.listdir(folder)}")
    return check_failure(result.returncode, result.stderr, ["out.gguf", "disk"], 1)


def check_own_input(bench):
    """Under its own name, and by a link."""
    model = bench.write("own.gguf", open(GGUF, "rb").read())
    link = bench.path("link.gguf")
    os.symlink(model, link)
    refuse(bench, model, "own.gguf", "another name", out=model, status=2)
    line = refuse(bench, model, "link.gguf", "another name", out=link, status=2)
    with open(GGUF, "rb") as a, open(model, "rb") as b:
        if a.read() != b.read():
            raise Failed("the model was changed")
    return line


def argument_cases(bench):
    out = bench.path("out.gguf")
    for name, args, places in (
        ("no arguments", [], ["IN", r"OUT\.gguf"]),
        ("no type", [DEMO, out], ["--type"]),
        ("an unknown type", [DEMO, out, "--type", "q4_1"], ["--type", "q4_1", "q4_k_m"]),
        ("a name that is not GGUF's", [DEMO, bench.path("out.bin"), "--type", "q8_0"], [r"\.gguf"]),
        ("a part's name", [DEMO, bench.path("a-00001-of-00002.gguf"), "--type", "q8_0"], ["00001-of-00002"]),
        ("loud and quiet", [DEMO, out, "--type", "q8_0", "-v", "-q"], ["--verbose", "--quiet"]),
    ):
        bench.case(
            f"quantize: {name}",
            lambda args=args, places=places: bench.refuse(["quantize", *args], places, status=2),
        )


def quantize_cases(bench):
    argument_cases(bench)
    file, fp8 = (Safetensors(os.path.join(model, "model.safetensors")) for model in (V3, V3_FP8))
    v1 = Safetensors(os.path.join(V1, "model.safetensors"))
    scale = "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"
    norm, key = "model.layers.2.input_layernorm.weight", "model.layers.1.self_attn.kv_b_proj.weight"
    nan, infinite = struct.pack("<H", 0x7FC0), struct.pack("<H", 0xFF80)
    for name, base, weights, place in (
        ("a weight that is no number", V3, poisoned(file, EXPERT, nan), EXPERT),
        ("an infinite weight", V3, poisoned(file, EXPERT, infinite), EXPERT),
        ("an infinite weight of keys", V3, poisoned(file, key, infinite), key),
        ("a norm that is no number", V3, poisoned(file, norm, nan), norm),
        ("a query weight that is no number", V1, poisoned(v1, "model.layers.0.self_attn.q_proj.weight", nan), "q_proj"),
        ("an infinite scale", V3_FP8, poisoned(fp8, scale, struct.pack("<f", float("inf"))), EXPERT),
        ("a missing expert", V3, file.without(EXPERT), r"experts\.\d"),
        ("a missing projection", V3, file.without("model.layers.1.self_attn.o_proj.weight"), "layer 1"),
        ("a missing scale", V3_FP8, fp8.without(scale), re.escape(scale)),
        ("an expert of another shape", V3, file.changed(EXPERT, shape=[16, 256]), EXPERT),
        ("latent matrices of another shape", V3, file.changed(key, shape=[128, 128]), key),
        ("a type that weights cannot have", V3, file.changed(EXPERT, dtype="I16"), "I16"),
        ("a file that is cut off", V3, file.bytes()[:-1000], "model.safetensors"),
        ("no file", V3, False, "model.safetensors"),
    ):
        bench.case(
            f"quantize: {name}",
            lambda base=base, weights=weights, place=place: refuse(
                bench, bench.variant(base, weights=weights), place
            ),
        )
    bench.case(
        "quantize: dense layers in between",
        lambda: refuse(bench, bench.variant(config={"moe_layer_freq": 2}), "moe_layer_freq|layer"),
    )
    with open(os.path.join(DEMO, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    del tokenizer["pre_tokenizer"]["pretokenizers"][0]
    bench.case(
        "quantize: a pre-tokenizer without a name",
        lambda: refuse(bench, bench.variant(DEMO, tokenizer=json.dumps(tokenizer)), "pre_tokenizer"),
    )
    bench.case("quantize: no such model", lambda: refuse(bench, "/nowhere/at-all", "/nowhere/at-all"))
    bench.case("quantize: no such GGUF file", lambda: refuse(bench, "/nowhere/m.gguf", "/nowhere/m.gguf"))
    bench.case("quantize: onto the model itself", lambda: check_own_input(bench))
    bench.case(
        "quantize: into no directory", lambda: refuse(bench, DEMO, "/nowhere/out.gguf", out="/nowhere/out.gguf")
    )
    directory = bench.path("directory.gguf")
    os.mkdir(directory)
    bench.case("quantize: onto a directory", lambda: refuse(bench, DEMO, "directory", out=directory, status=2))
    bench.case("quantize: a full disk", lambda: check_full_disk(bench))
    shutil.rmtree(directory)
