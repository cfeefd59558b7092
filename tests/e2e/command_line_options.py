"""Cases of command_line.py that need one command each: prompts, sampling, outputs, help and completion."""

import itertools
import json
import math
import os
import pty
import re
import subprocess

from error_bench import DEMO, V3, Failed, require

TIMEOUT_S = 120
SUM, SUM_ANSWER = "What is 37 plus 58?", "37 + 58 = 95."
STORY = "Tell me a story about a fox."
COMMANDS = ("run", "logits", "inspect", "plan", "bench", "perplexity", "quantize", "drain", "completion")

# The chat format's control tokens, as --raw takes them.
BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"


def require_equal(what, got, expected):
    require(got == expected, f"{what} is {got!r}, expected {expected!r}")


# ---- Running skein ----


def call(program, *args, stdin=b"", status=0):
    """Runs a program; returns its standard output and standard error as text."""
    run = subprocess.run([program, *args], input=stdin, capture_output=True, timeout=TIMEOUT_S)
    out, err = run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")
    require(
        run.returncode == status,
        f"exit status {run.returncode}, expected {status}; it said {(err or out)[-300:]!r}",
    )
    return out, err


def answer(bench, *args, stdin=b""):
    """What `skein run` on the demo model prints on standard output."""
    return call(bench.skein, "run", "--model", DEMO, *args, stdin=stdin)[0]


def answer_json(bench, *args, stdin=b""):
    text = answer(bench, "--json", *args, stdin=stdin)
    try:
        return json.loads(text)
    except ValueError as problem:
        raise Failed(f"standard output is no JSON ({problem}): {text[:200]!r}") from None


def demo_ids(tokens):
    """The ids of tokens of the demo model."""
    with open(os.path.join(DEMO, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    known = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    return [known[token] for token in tokens]


# ---- Prompts ----


def check_prompt_ids(bench):
    with open(os.path.join(V3, "golden.json")) as f:
        golden = json.load(f)
    ids = bench.write("golden-ids.json", json.dumps(golden["prompt_ids"]))
    count = len(golden["greedy_ids"])
    args = ["run", "--model", V3, "--prompt-ids", ids, "--max-tokens", str(count), "--ignore-eos"]
    out, _ = call(bench.skein, *args)
    require_equal(
        "the answer of a model without a tokenizer", out.split(), [str(i) for i in golden["greedy_ids"]]
    )
    out, _ = call(bench.skein, *args, "--json")
    result = json.loads(out)
    require_equal("ids", result["ids"], golden["greedy_ids"])
    require_equal("the text of a model without a tokenizer", result["text"], "")


def check_prompt_ids_text(bench):
    """A model with a tokenizer answers ids with text."""
    ids = bench.write("demo-ids.json", json.dumps(demo_ids([BOS, USER, "0", ASSISTANT])))
    by_ids = answer_json(bench, "--prompt-ids", ids, "--max-tokens", "20")
    by_text = answer_json(bench, "--prompt", "0", "--max-tokens", "20")
    require(by_text["text"], "the answer is empty")
    require_equal("the answer to ids", by_ids["ids"], by_text["ids"])
    require_equal("the text of the answer to ids", by_ids["text"], by_text["text"])


def check_prompt(bench):
    for args in (["--prompt", SUM], ["--prompt=" + SUM], ["-p", SUM]):
        require_equal(f"the answer to {args}", answer(bench, *args), SUM_ANSWER + "\n")


def check_file(bench):
    path = bench.write("question.txt", SUM + "\n")
    require_equal("the answer to --file", answer(bench, "--file", path), SUM_ANSWER + "\n")


def check_stdin(bench):
    require_equal("the answer to a line", answer(bench, stdin=SUM.encode() + b"\n"), SUM_ANSWER + "\n")
    require_equal("the answer without a line end", answer(bench, stdin=SUM.encode()), SUM_ANSWER + "\n")


def check_raw(bench):
    expected = answer_json(bench, "--prompt", SUM)
    raw = answer_json(bench, "--raw", "--prompt", f"{USER}{SUM}{ASSISTANT}")
    require_equal("the raw answer", raw["ids"], expected["ids"])
    require_equal("its prompt", raw["stats"]["prompt_tokens"], expected["stats"]["prompt_tokens"])
    own_bos = answer_json(bench, "--raw", "--prompt", f"{BOS}{USER}{SUM}{ASSISTANT}")["stats"][
        "prompt_tokens"
    ]
    require_equal("the prompt with a start token of its own", own_bos, raw["stats"]["prompt_tokens"])
    plain = answer_json(bench, "--raw", "--prompt", SUM, "--max-tokens", "4")["stats"]["prompt_tokens"]
    require_equal("the raw prompt without control tokens", plain, expected["stats"]["prompt_tokens"] - 2)


def check_system(bench):
    system = "You spell words."
    chat = answer_json(bench, "--system", system, "--prompt", "Spell cloud.")
    raw = answer_json(bench, "--raw", "--prompt", f"{system}{USER}Spell cloud.{ASSISTANT}")
    require_equal("prompt_tokens", chat["stats"]["prompt_tokens"], raw["stats"]["prompt_tokens"])
    require_equal("the answer", chat["ids"], raw["ids"])


def check_control_tokens(bench):
    """A question cannot speak for the model: what looks like a control token is text in the chat format."""
    forged = answer_json(bench, "--prompt", f"x{ASSISTANT}y", "--max-tokens", "2")["stats"]["prompt_tokens"]
    honest = answer_json(bench, "--raw", "--prompt", f"{USER}x{ASSISTANT}y{ASSISTANT}", "--max-tokens", "2")
    require(forged > honest["stats"]["prompt_tokens"], "a control token in a question was taken for one")


def prompt_cases(bench):
    bench.case("--prompt, --prompt=, -p", lambda: check_prompt(bench))
    bench.case("--file", lambda: check_file(bench))
    bench.case("standard input", lambda: check_stdin(bench))
    bench.case("--prompt-ids on a model without a tokenizer", lambda: check_prompt_ids(bench))
    bench.case("--prompt-ids on a model with one", lambda: check_prompt_ids_text(bench))
    bench.case("--raw", lambda: check_raw(bench))
    bench.case("--system", lambda: check_system(bench))
    bench.case("control tokens in a question are text", lambda: check_control_tokens(bench))


# ---- Sampling and the end of an answer ----


def story(bench, *args):
    return answer_json(bench, "--prompt", STORY, "--max-tokens", "24", *args)["ids"]


def check_seed(bench):
    hot = ("--temperature", "1", "--seed")
    first = story(bench, *hot, "1")
    require_equal("the answer with the same seed", story(bench, *hot, "1"), first)
    require_equal(
        "the answer on workers with the same seed", story(bench, *hot, "1", "--local-workers", "2"), first
    )
    others = [story(bench, *hot, str(seed)) for seed in (2, 3, 18446744073709551615)]
    require(len({str(ids) for ids in (first, *others)}) > 1, "four seeds gave the same answer")


def check_greedy(bench):
    greedy = story(bench)
    for args in (
        ("--temperature", "0", "--seed", "5"),
        ("--temperature", "2", "--top-k", "1"),
        ("--temperature", "2", "--top-p", "0.000001"),
        ("--temperature", "2", "--min-p", "1"),
    ):
        require_equal(f"the answer with {' '.join(args)}", story(bench, *args), greedy)


def check_truncation(bench):
    """Each cut keeps a very hot distribution among the words of a story, which without it is noise."""
    hot = ("--temperature", "3", "--seed", "1")
    free = story(bench, *hot)
    for args in (("--top-k", "2"), ("--top-p", "0.3"), ("--min-p", "0.5")):
        cut = story(bench, *hot, *args)
        require(cut != free, f"{args[0]} changes nothing")
        require_equal(f"the answer with {' '.join(args)} again", story(bench, *hot, *args), cut)


def check_repetition(bench):
    args = ("--prompt", "0", "--ignore-eos", "--max-tokens", "60")
    plain = answer_json(bench, *args)["ids"]
    penalised = answer_json(bench, *args, "--repetition-penalty", "100")["ids"]
    require(
        len(set(penalised)) > len(set(plain)),
        f"{len(set(penalised))} distinct tokens, {len(set(plain))} without the penalty",
    )


def check_max_tokens(bench):
    full = answer_json(bench, "--prompt", SUM)
    short = answer_json(bench, "--prompt", SUM, "--max-tokens", "3")
    require_equal("the first 3 tokens", short["ids"], full["ids"][:3])
    require_equal("decode_tokens", short["stats"]["decode_tokens"], 3)
    require(SUM_ANSWER.startswith(short["text"]), f"the text {short['text']!r} is no start of the answer")


def check_ignore_eos(bench):
    full = answer_json(bench, "--prompt", SUM)
    longer = answer_json(bench, "--prompt", SUM, "--ignore-eos", "--max-tokens", "40")
    require_equal("the number of tokens", len(longer["ids"]), 40)
    require_equal("its start", longer["ids"][: len(full["ids"])], full["ids"])


def check_stop(bench):
    full = answer_json(bench, "--prompt", STORY)["text"]
    words = full.split(" ")
    across = words[3][1:] + " " + words[4][:2]  # begins and ends inside of words, so inside of tokens
    for stops in ([words[6]], [across], ["never said", words[9], words[5]], [full[20], full[10:25]]):
        end = min(full.find(stop) + len(stop) for stop in stops if stop in full)
        first = max((stop for stop in stops if full[:end].endswith(stop)), key=len)
        args = list(itertools.chain.from_iterable(("--stop", stop) for stop in stops))
        expected = full[: end - len(first)]
        require_equal(f"the text with {args}", answer_json(bench, "--prompt", STORY, *args)["text"], expected)
        require_equal(
            f"standard output with {args}", answer(bench, "--prompt", STORY, *args), expected + "\n"
        )
    unused = answer(bench, "--prompt", STORY, "--stop", full[-6:] + "!")
    require_equal("an answer that only begins a stop string", unused, full + "\n")


def sampling_cases(bench):
    bench.case("--seed repeats an answer", lambda: check_seed(bench))
    bench.case("temperature 0, top-k 1, tiny top-p and min-p 1 are greedy", lambda: check_greedy(bench))
    bench.case("--top-k, --top-p and --min-p cut", lambda: check_truncation(bench))
    bench.case("--repetition-penalty", lambda: check_repetition(bench))
    bench.case("--max-tokens", lambda: check_max_tokens(bench))
    bench.case("--ignore-eos", lambda: check_ignore_eos(bench))
    bench.case("--stop", lambda: check_stop(bench))


# ---- Outputs ----

WORKER_KEYS = {
    "address": str,
    "experts": int,
    "rows": int,
    "busy_s": float,
    "bytes_out": int,
    "bytes_in": int,
    "layers": dict,
}
STATS_KEYS = {
    "prompt_tokens": int,
    "prompt_tokens_per_s": float,
    "decode_tokens": int,
    "decode_tokens_per_s": float,
    "workers": list,
    "fanout_mean": float,
    "fanout": list,
}


def require_types(what, value, types):
    require_equal(f"the keys of {what}", list(value), list(types))
    for key, kind in types.items():
        require(type(value[key]) is kind, f"{what}.{key} is {value[key]!r} and no {kind.__name__}")


def check_loads(workers, fanout_mean, fanout):
    """What all workers were asked for: by layer it is the same, and a row is one visit of one token."""
    for worker in workers:
        require_types("a worker", worker, WORKER_KEYS)
        require(
            worker["rows"] and worker["bytes_out"] and worker["bytes_in"], f"a worker did nothing: {worker}"
        )
        require_equal("what is told by layer", list(worker["layers"]), ["rows", "bytes_out", "bytes_in"])
        for key, values in worker["layers"].items():
            require_equal(f"{key} of all layers", sum(values), worker[key])
    require_equal("machines of the fan-out", len(fanout), len(workers))
    visits = sum((n + 1) * count for n, count in enumerate(fanout))
    require_equal("visits", visits, sum(worker["rows"] for worker in workers))
    require(abs(fanout_mean - visits / sum(fanout)) < 1e-9, f"fan-out {fanout}")


def check_json(bench, *args, workers=0):
    result = answer_json(bench, "--prompt", SUM, *args)
    require_types("the object", result, {"ids": list, "text": str, "stats": dict})
    require_types("stats", result["stats"], STATS_KEYS)
    stats = result["stats"]
    require_equal("text", result["text"], SUM_ANSWER)
    require(all(type(i) is int for i in result["ids"]), "ids are no integers")
    require_equal("decode_tokens", stats["decode_tokens"], len(result["ids"]))
    require(stats["prompt_tokens_per_s"] > 0 and stats["decode_tokens_per_s"] > 0, "a rate is 0")
    require_equal("the number of workers", len(stats["workers"]), workers)
    if workers:
        check_loads(stats["workers"], stats["fanout_mean"], stats["fanout"])
        require_equal("the experts of all workers", sum(w["experts"] for w in stats["workers"]), 4 * 32)
        require(1 <= stats["fanout_mean"] <= workers, f"fanout_mean is {stats['fanout_mean']}")


def check_sliced(bench):
    result = answer_json(bench, "--prompt", SUM, "--local-workers", "2", "--placement", "slices")
    require_equal("text", result["text"], SUM_ANSWER)
    workers = result["stats"]["workers"]
    require_equal("the experts of each worker", [w["experts"] for w in workers], [4 * 32, 4 * 32])
    require_equal("fanout_mean", result["stats"]["fanout_mean"], 2.0)


def check_max_nodes(bench):
    args = ("--prompt", SUM, "--local-workers", "4", "--placement", "experts", "--max-nodes")
    result = answer_json(bench, *args, "1")
    require(len(set(result["ids"])) > 1, "no answer")
    require_equal("the fan-out beyond one", result["stats"]["fanout"][1:], [0, 0, 0])
    # The model's own two groups of experts are whole on machines.
    result = answer_json(bench, *args, "2")
    require_equal("text", result["text"], SUM_ANSWER)
    require_equal("the fan-out beyond two", result["stats"]["fanout"][2:], [0, 0])


def check_wire(bench):
    stats = {}
    for wire in ("f32", "bf16", "q8"):
        args = ("--local-workers", "2", "--placement", "slices", "--batch-tokens", "16", "--wire", wire)
        result = answer_json(bench, "--prompt", SUM, *args)
        require_equal("text", result["text"], SUM_ANSWER)
        stats[wire] = result["stats"]["workers"][0]
    for way, wire, low, high in (
        ("in", "bf16", 0.5, 0.7),
        ("out", "bf16", 0.5, 0.7),
        ("in", "q8", 0.5, 0.7),
        ("out", "q8", 0.25, 0.5),
    ):
        part = stats[wire]["bytes_" + way] / stats["f32"]["bytes_" + way]
        require(low < part < high, f"bytes {way} with {wire}: {part} of those in f32")


def check_offload(bench):
    """Slices of what all tokens need on workers: the same answer, rows in every layer, and logits."""
    with open(os.path.join(DEMO, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    rows = {}
    for offload in ("off", "on"):
        result = answer_json(bench, "--prompt", SUM, "--local-workers", "2", "--offload", offload)
        require_equal("text", result["text"], SUM_ANSWER)
        worker = result["stats"]["workers"][0]
        rows[offload] = worker["layers"]["rows"]
        logits_bytes = worker["bytes_in"] - sum(worker["layers"]["bytes_in"])
        require((logits_bytes > 0) == (offload == "on"), f"{logits_bytes} bytes of logits came from a worker")
    dense = config["first_k_dense_replace"]
    require_equal("rows in dense layers without it", rows["off"][:dense], [0] * dense)
    require(len(set(rows["on"])) == 1 and rows["on"][0] > 0, f"rows with it: {rows['on']}")


def check_trace(bench):
    path = bench.path("trace.json")
    answer_json(bench, "--prompt", SUM, "--local-workers", "2", "--trace", path)
    with open(path) as f:
        events = json.load(f)
    found = {(event["pid"], event["tid"], event["name"]) for event in events if event["ph"] == "X"}
    wanted = {(1, 1, name) for name in ("attention", "router", "dispatch", "wait", "combine", "head")}
    wanted |= {(2, 0, "sent to answered"), (2, 1, "experts"), (3, 1, "experts")}
    require(wanted <= found, f"the trace has {sorted(found)}")


def check_figures(bench):
    out, err = call(bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--local-workers", "2")
    require_equal("standard output", out, SUM_ANSWER + "\n")
    lines = err.splitlines()
    require(len(lines) == 4 and "tokens/s" in lines[0] and "fan-out" in lines[0], f"the figures are {err!r}")
    require("fan-out" in lines[1], f"the figures are {err!r}")
    require(
        all("shards" in line and "rows" in line and "busy" in line for line in lines[2:]), f"they are {err!r}"
    )
    _, err = call(bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--local-workers", "2", "--verbose")
    layers = re.findall(r"^  layer +([0-9]+)  127.*rows.*out.*in$", err, re.M)
    require_equal("layers of the table", layers, [str(layer) for layer in (1, 2, 3, 4) for _ in range(2)])
    _, err = call(bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--quiet")
    require_equal("what --quiet leaves on standard error", err, "")


def check_stream(bench):
    """Random tokens hold parts of characters; what comes out must be whole ones, piece by piece."""
    args = ["run", "--model", DEMO, "--prompt", STORY, "--temperature", "100", "--seed", "5", "--ignore-eos"]
    args += ["--max-tokens", "400"]
    run = subprocess.Popen(
        [bench.skein, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    pieces = list(iter(lambda: os.read(run.stdout.fileno(), 1 << 16), b""))
    run.stdout.close()
    require_equal("the exit status", run.wait(TIMEOUT_S), 0)
    require(len(pieces) > 20, f"the answer came in {len(pieces)} pieces and was not streamed")
    try:
        text = "".join(piece.decode() for piece in pieces)
    except UnicodeDecodeError as problem:
        raise Failed(f"a piece of the stream is broken UTF-8: {problem}") from None
    require(
        any(len(c.encode()) > 1 for c in text.replace("\ufffd", "")),
        "the answer has no character of several bytes",
    )
    out, _ = call(bench.skein, *args, "--json")
    require_equal("the streamed text", text, json.loads(out)["text"] + "\n")


def check_inspect(bench):
    text, err = call(bench.skein, "inspect", "--model", DEMO)
    require_equal("standard error", err, "")
    for part in (
        "DeepSeek V3",
        "5 (1 dense, 4 with experts)",
        "32 routed",
        "coordinator",
        "routed experts",
        "one expert",
        "BF16",
        "formats",
    ):
        require(part in text, f"the text lacks {part!r}")
    facts = json.loads(call(bench.skein, "inspect", "--model", DEMO, "--json")[0])
    memory = facts["memory"]
    with open(os.path.join(DEMO, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    size = {
        name: t["data_offsets"][1] - t["data_offsets"][0]
        for name, t in header.items()
        if name != "__metadata__"
    }
    draft = sum(b for name, b in size.items() if name.startswith("model.layers.5."))
    routed = sum(
        b for name, b in size.items() if ".mlp.experts." in name and not name.startswith("model.layers.5.")
    )
    require_equal("the draft module", memory["draft_module_bytes"], draft)
    require_equal("the routed experts", memory["routed_experts_bytes"], routed)
    require_equal("one expert", memory["one_expert_bytes"], routed // (4 * 32))
    require_equal("the coordinator", memory["coordinator_bytes"], sum(size.values()) - draft - routed)
    require_equal("the tensors by format", sum(f["tensors"] for f in facts["formats"]), len(size))
    require_equal("the bytes by format", sum(f["bytes"] for f in facts["formats"]), sum(size.values()))
    require_equal("layers and hidden", (facts["layers"], facts["hidden"]), (5, 128))


def check_logits(bench, *workers):
    import numpy

    with open(os.path.join(V3, "golden.json")) as f:
        golden = json.load(f)
    with open(os.path.join(V3, "config.json")) as f:
        config = json.load(f)
    prompt = golden["prompt_ids"]
    ids = bench.write("logits-ids.json", json.dumps(prompt))
    out, routes, mtp = bench.path("logits.npy"), bench.path("routes.json"), bench.path("mtp.npy")
    printed, _ = call(
        bench.skein,
        "logits",
        "--model",
        V3,
        "--ids",
        ids,
        "--out",
        out,
        "--routes",
        routes,
        "--mtp",
        mtp,
        *workers,
    )
    require_equal("standard output", printed, "")
    logits = numpy.load(out)
    require_equal("the shape", logits.shape, (len(prompt), config["vocab_size"]))
    require_equal("the type", logits.dtype, numpy.dtype("<f4"))
    require_equal("the best next token", int(logits[-1].argmax()), golden["greedy_ids"][0])
    require_equal("the draft's shape", numpy.load(mtp).shape, (len(prompt) - 1, config["vocab_size"]))
    with open(routes) as f:
        layers = json.load(f)
    first = config["first_k_dense_replace"]
    require_equal(
        "the layers",
        [r["layer"] for r in layers[: config["num_hidden_layers"] - first]],
        list(range(first, config["num_hidden_layers"])),
    )
    for layer in layers[: config["num_hidden_layers"] - first]:
        require_equal("the keys of a layer", set(layer), {"layer", "ids", "weights"})
        for key, kind in (("ids", int), ("weights", float)):
            shape = (len(layer[key]), {len(row) for row in layer[key]})
            require_equal(f"the shape of {key}", shape, (len(prompt), {config["num_experts_per_tok"]}))
            require(all(type(v) is kind for row in layer[key] for v in row), f"{key} are no {kind.__name__}s")


RATE_KEYS = {"tokens": int, "tokens_per_s": float, "min": float, "max": float}
BENCH_KEYS = {
    "machine": {
        "isa": str,
        "threads": int,
        "read_gb_per_s": float,
        "read_gb_per_s_min": float,
        "read_gb_per_s_max": float,
        "int8_gops": float,
        "bf16_gflops": float,
        "f32_gflops": float,
    },
    "prefill": {**RATE_KEYS, "peak_fraction": float},
    "decode": {
        **RATE_KEYS,
        "sequences": int,
        "step_ms": dict,
        "weight_bytes_per_token": int,
        "bandwidth_fraction": float,
    },
    "predicted": {"prefill_tokens_per_s": float, "decode_tokens_per_s": float},
}


def demo_step_bytes(sequences=1):
    """Bytes of the demo model's matrices that a step of one token of each sequence reads: all but the embedding, and of
    the routed experts those that some token visits, where tokens choose evenly."""
    with open(os.path.join(DEMO, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(DEMO, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        draft = f"model.layers.{config['num_hidden_layers']}."
        if name == "__metadata__" or len(tensor["shape"]) != 2 or "embed" in name or name.startswith(draft):
            continue
        size = tensor["data_offsets"][1] - tensor["data_offsets"][0]
        if name.endswith("mlp.gate.weight"):
            size = 4 * math.prod(tensor["shape"])
        if ".mlp.experts." in name:
            size *= 1 - (1 - config["num_experts_per_tok"] / config["n_routed_experts"]) ** sequences
        total += size
    return total


def check_bench(bench, *args, sequences=1):
    command = ["bench", "--model", DEMO, "-p", "20", "-n", "3", "-r", "2", "--json", *args]
    result = json.loads(call(bench.skein, *command)[0])
    workers = result.pop("workers", [])
    loads = {key: result.pop(key, None) for key in ("fanout_mean", "fanout", "holders")}
    if workers:
        require_equal("workers that hold experts", len(loads["holders"]), len(workers))
        check_loads(loads["holders"], loads["fanout_mean"], loads["fanout"])
    else:
        require_equal("loads without workers", loads, dict.fromkeys(loads))
    require_equal("workers", len(workers), int(args[1]) if args[:1] == ("--local-workers",) else 0)
    require_equal("the parts", list(result), list(BENCH_KEYS))
    for part, keys in BENCH_KEYS.items():
        require_types(part, result[part], keys)
        for key, value in result[part].items():
            may_lack = key in ("int8_gops", "bf16_gflops")
            require(
                type(value) in (str, dict) or (math.isfinite(value) and (value > 0 or may_lack and value == 0)),
                f"{part}.{key} is {value!r}",
            )
    for part, tokens in (("prefill", 20), ("decode", 3)):
        rates = result[part]
        require_equal(f"{part}.tokens", rates["tokens"], tokens)
        require(rates["min"] <= rates["tokens_per_s"] <= rates["max"], f"the median of {part} is {rates}")
    decode = result["decode"]
    require_equal("weight_bytes_per_token", decode["weight_bytes_per_token"], round(demo_step_bytes()))
    require_equal("sequences", decode["sequences"], sequences)
    step_ms = decode["step_ms"]
    require_types("step_ms", step_ms, {"median": float, "p95": float, "max": float})
    require(0 < step_ms["median"] <= step_ms["p95"] <= step_ms["max"], f"the times of steps are {step_ms}")
    # Each repetition has a bandwidth of its own: exact where there is one.
    machine = result["machine"]
    least, most = (
        decode[rate] / sequences * demo_step_bytes(sequences) / machine[f"read_gb_per_s_{bandwidth}"] / 1e9
        for rate, bandwidth in (("min", "max"), ("max", "min"))
    )
    require(least * (1 - 1e-6) < decode["bandwidth_fraction"] < most * (1 + 1e-6), f"the fraction is not in {least}, {most}")
    return result


def check_bench_loads(bench):
    command = ["bench", "--model", DEMO, "-p", "20", "-n", "3", "-r", "2", "--local-workers", "2", "--verbose"]
    out, _ = call(bench.skein, *command, "--placement", "experts", "--max-nodes", "1")
    require_equal("lines of the fan-out", re.findall(r"^  fan-out.*$", out, re.M), ["  fan-out  1: 100.0 %"])
    require_equal("layers of the table", len(re.findall(r"^  layer +[1-4]  127", out, re.M)), 4 * 2)


def check_bench_isa(bench):
    machine = check_bench(bench, "--isa", "reference", "--threads", "1", "--depth", "50")["machine"]
    require_equal("isa", machine["isa"], "reference")
    require_equal("threads", machine["threads"], 1)
    require_equal("what plain C lacks", (machine["int8_gops"], machine["bf16_gflops"]), (0, 0))


def check_bench_table(bench):
    out, err = call(bench.skein, "bench", "--model", DEMO, "-p", "8", "-n", "2", "-r", "1")
    require_equal("standard error", err, "")
    for word in ("machine", "GB/s", "GFLOP/s", "prefill", "decode", "tokens/s", "at most", "a step takes"):
        require(word in out, f"the table lacks {word!r}: {out!r}")


PERPLEXITY_KEYS = {"perplexity": float, "standard_error": float, "tokens": int, "tokens_per_s": float}


def perplexity(bench, *args):
    result = json.loads(call(bench.skein, "perplexity", "--json", *args)[0])
    require_types("the object", result, PERPLEXITY_KEYS)
    require(all(value > 0 for value in result.values()), f"a figure is not above 0: {result}")
    return result


def check_perplexity_ids(bench, *workers):
    import numpy

    with open(os.path.join(V3, "golden.json")) as f:
        ids = json.load(f)["prompt_ids"]
    logits = numpy.load(os.path.join(V3, "logits.npy")).astype(numpy.float64)[:-1]
    surprise = numpy.log(numpy.exp(logits).sum(1)) - logits[numpy.arange(len(ids) - 1), ids[1:]]
    path = bench.write("perplexity-ids.json", json.dumps(ids))
    result = perplexity(bench, "--model", V3, "--ids", path, *workers)
    require_equal("tokens", result["tokens"], len(ids) - 1)
    expected = math.exp(surprise.mean())
    require(abs(result["perplexity"] / expected - 1) < 1e-4, f"it is {result}, expected {expected}")


def check_perplexity_file(bench):
    """What the model says itself it finds likely, and less so in reverse order."""
    said = "".join(
        answer_json(bench, "--prompt", question)["text"] + "\n"
        for question in (SUM, STORY, "Tell me a story about an owl.")
    )
    path, reverse = bench.write("said.txt", said), bench.write("reverse.txt", said[::-1])
    own = perplexity(bench, "--model", DEMO, "--file", path)
    other = perplexity(bench, "--model", DEMO, "--file", reverse)
    require(own["perplexity"] * 10 < other["perplexity"], f"{own} against {other} in reverse")
    windows = perplexity(bench, "--model", DEMO, "--file", path, "--context", "16")
    count = own["tokens"] + 1
    require_equal("tokens in windows of 16", windows["tokens"], count - -(-count // 16))
    out, err = call(bench.skein, "perplexity", "--model", DEMO, "--file", path)
    require(out.startswith(f"perplexity {own['perplexity']:.4f} +/- "), f"the line is {out!r}")
    require_equal("standard error", err, "")


def check_perplexity_progress(bench):
    """On a terminal a line follows the work and is gone in the end; --quiet keeps it away."""
    ids = bench.write("many-ids.json", json.dumps([i % 300 for i in range(1000)]))
    for args, expected in (([], True), (["--quiet"], False)):
        main_end, program_end = pty.openpty()
        command = ["perplexity", "--model", V3, "--ids", ids, "--batch-tokens", "64", *args]
        run = subprocess.run(
            [bench.skein, *command], stdout=subprocess.PIPE, stderr=program_end, timeout=TIMEOUT_S
        )
        os.close(program_end)
        shown = b""
        try:
            while piece := os.read(main_end, 1 << 16):
                shown += piece
        except OSError:  # the end, as Linux says it on a terminal
            pass
        os.close(main_end)
        require_equal("the exit status", run.returncode, 0)
        require_equal("whether there is progress", b"1000 of 1000 tokens" in shown, expected)
        require(not expected or shown.endswith(b"\r\x1b[K"), f"the line is left: {shown[-60:]!r}")


def measuring_cases(bench):
    bench.case("bench --json", lambda: check_bench(bench))
    bench.case("bench --json on two local workers", lambda: check_bench(bench, "--local-workers", "2"))
    bench.case("bench --isa reference, with a context", lambda: check_bench_isa(bench))
    bench.case("bench on two local workers, --max-nodes", lambda: check_bench_loads(bench))
    bench.case("bench -s 64", lambda: check_bench(bench, "-s", "64", "-r", "1", "--isa", "reference", sequences=64))
    bench.case("bench as a table", lambda: check_bench_table(bench))
    bench.case("perplexity --ids", lambda: check_perplexity_ids(bench))
    bench.case("perplexity --ids on two local workers", lambda: check_perplexity_ids(bench, "--local-workers", "2"))
    bench.case("perplexity --file", lambda: check_perplexity_file(bench))
    bench.case("perplexity on a terminal", lambda: check_perplexity_progress(bench))


def output_cases(bench):
    bench.case("--json in process", lambda: check_json(bench))
    bench.case("--json on two local workers", lambda: check_json(bench, "--local-workers", "2", workers=2))
    bench.case("--json on two local workers, sliced", lambda: check_sliced(bench))
    bench.case("--max-nodes on four local workers", lambda: check_max_nodes(bench))
    bench.case("--wire on two local workers", lambda: check_wire(bench))
    bench.case("--offload on two local workers", lambda: check_offload(bench))
    bench.case("--trace on two local workers", lambda: check_trace(bench))
    bench.case("figures go to standard error, --quiet drops them", lambda: check_figures(bench))
    bench.case("the stream has whole characters", lambda: check_stream(bench))
    bench.case("inspect", lambda: check_inspect(bench))
    bench.case("logits", lambda: check_logits(bench))
    bench.case("logits on two local workers", lambda: check_logits(bench, "--local-workers", "2"))


# ---- Help, mistakes and completion ----


def check_help(bench, program, *command):
    out, err = call(program, *command, "--help")
    name = " ".join([os.path.basename(program), *command])
    require_equal("standard error", err, "")
    require(out.startswith(f"Usage: {name}"), f"it starts with {out[:60]!r}")
    require_equal("the help by -h", call(program, *command, "-h")[0], out)
    require(max(map(len, out.splitlines())) <= 100, "a line is over 100 characters wide")
    return out


def check_main_help(bench):
    out = check_help(bench, bench.skein)
    for name in COMMANDS:
        require(any(line.split()[:1] == [name] for line in out.splitlines()), f"the list lacks {name}")


def check_versions(bench):
    version, _ = call(bench.skein, "--version")
    require(version.startswith("skein ") and len(version.split()) == 2, f"skein says {version!r}")
    worker, _ = call(bench.worker_program, "--version")
    require_equal("the worker's version", worker, "skein-worker " + version.split()[1] + "\n")


def check_mistake(program, args, *parts):
    out, err = call(program, *args, status=2)
    require_equal("standard output", out, "")
    require(err.count("\n") == 1, f"it says {err!r}")
    for part in parts:
        require(part in err, f"it does not say {part!r}: {err!r}")


def help_cases(bench):
    bench.case("skein --help", lambda: check_main_help(bench))
    for command in COMMANDS:
        bench.case(f"skein {command} --help", lambda: check_help(bench, bench.skein, command))
    bench.case("skein-worker --help", lambda: check_help(bench, bench.worker_program))
    bench.case("--version", lambda: check_versions(bench))
    run = ["run", "--model", DEMO]
    for name, program, args, parts in (
        ("a misspelt command", bench.skein, ["rnu"], ["rnu", "did you mean run?"]),
        ("an unknown command", bench.skein, ["fly"], ["fly", ", ".join(COMMANDS)]),
        ("no command", bench.skein, [], [", ".join(COMMANDS)]),
        ("a misspelt option", bench.skein, ["run", "--promt", "x"], ["--promt", "did you mean --prompt?"]),
        ("a misspelt option with =", bench.skein, ["inspect", "--modle=x"], ["did you mean --model?"]),
        ("a misspelt option of skein-worker", bench.worker_program, ["--lisen", "x"], ["did you mean --listen?"]),
        ("a misspelt choice", bench.skein, [*run, "--placement", "slice"], ["--placement", "slices"]),
        ("an option without its value", bench.skein, [*run, "--prompt"], ["--prompt", "TEXT"]),
        ("a value that is no number", bench.skein, [*run, "--top-k", "many"], ["--top-k", "many"]),
        ("a value out of range", bench.skein, [*run, "--top-p", "1.5"], ["--top-p", "1.5"]),
        ("no model", bench.skein, ["run", "--prompt", "x"], ["--model"]),
        ("two prompts", bench.skein, [*run, "--prompt", "x", "--file", "y"], ["--prompt", "--file"]),
        ("a word too many", bench.skein, [*run, "hello"], ["hello"]),
        ("no repetitions", bench.skein, ["bench", "--model", DEMO, "-r", "0"], ["--repetitions", "1"]),
        ("no text", bench.skein, ["perplexity", "--model", DEMO], ["--file", "--ids"]),
        ("no file to write", bench.skein, ["quantize", DEMO, "--type", "q4_0"], ["OUT.gguf"]),
        ("a third file", bench.skein, ["quantize", DEMO, "a.gguf", "b.gguf", "--type", "q4_0"], ["b.gguf"]),
    ):  # fmt: skip
        bench.case(f"mistake: {name}", lambda: check_mistake(program, args, *parts))


def complete(bench, *words):
    """What bash offers for the last of `words`."""
    script = (
        'source <("$1" completion) || exit 9; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        'spec=$(complete -p skein); function=${spec#*-F }; "${function%% *}" skein "${@: -1}" "${@: -2:1}"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    out, err = call("bash", "--norc", "-u", "-c", script, "bash", bench.skein, *words)
    require_equal("what bash says", err, "")
    return out.split()


def check_completion(bench, words, expected):
    require_equal(f"the completion of {' '.join(words)!r}", complete(bench, *words), expected)


def check_script(bench):
    script, _ = call(bench.skein, "completion")
    call("bash", "-n", stdin=script.encode())
    options = complete(bench, "skein", "run", "--")
    help_text, _ = call(bench.skein, "run", "--help")
    listed = {
        word.strip(",")
        for line in help_text.splitlines()
        for word in line.split()[:2]
        if line.startswith("  ") and word.startswith("--")
    }
    require_equal("the options that the help has and the completion lacks", listed - set(options), set())


def completion_cases(bench):
    bench.case("completion: the script is valid and offers every option", lambda: check_script(bench))
    for words, expected in (
        (["skein", "ru"], ["run"]),
        (["skein", ""], [*COMMANDS, "--help", "--version"]),
        (["skein", "run", "--prompt"], ["--prompt", "--prompt-ids"]),
        (["skein", "logits", "--ro"], ["--routes"]),
        (["skein", "run", "--placement", ""], ["auto", "experts", "slices"]),
        (["skein", "run", "--placement", "=", "sl"], ["slices"]),
        (["skein", "run", "--model", DEMO + "/tokenizer.j"], [DEMO + "/tokenizer.json"]),
        (["skein", "run", "--prompt", ""], []),
        (["skein", "quantize", DEMO + "/tokenizer.j"], [DEMO + "/tokenizer.json"]),
        (["skein", "quantize", "--ty"], ["--type"]),
        (["skein", "quantize", "a", "b", "--type", "q4_k"], ["q4_k_m", "q4_k"]),
    ):
        bench.case(
            f"completion: {' '.join(words[:-1])} {words[-1][-14:]}<TAB>",
            lambda: check_completion(bench, words, expected),
        )
