#!/usr/bin/python3
"""A machine that another program slows down while every expert is sliced over all machines:

    slow_worker.py SKEIN [--tokens N]

A worker, or the coordinator, is stopped for most of the time, for some milliseconds each, and what it holds of each expert
must become less: the log says so, and tokens are those of an undisturbed run in one process. Some seconds after that the
answer is interrupted. The model is the demo model with experts that are wider by columns of zeros, so that workers have
something to do and answers are the same. Needs python3-numpy."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from error_bench import DEMO, Bench, Failed, Worker  # noqa: E402

WIDER = 8  # times the demo model's experts
ON_S, OFF_S = 0.001, 0.029  # that the slow one runs and is stopped in turn: slower than others on a busy machine
PROMPT_TOKENS = 30
TOKENS = 1200  # a minute or two with sanitizers, if nothing ends it before
GOES_ON_S = 6  # after the change, in which load is looked at once more
LOOKED_AT_S = 20  # load is looked at every five seconds, and must be the same twice
RUN_TIMEOUT_S = 300
CUTS_MAX = 3  # of an expert: copies beyond the first
# The plainest loops where experts are computed, so that their part of the time is large.
PLAINLY = ["--isa", "reference"]
INTERRUPTED = 130  # exit status
BEGUN = "data plane: "  # all machines were measured, and hold their slices
MOVED = "keeps less, and others get more"


def widen(source, out):
    """The same model with WIDER times the inner dimension of experts."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    with open(os.path.join(source, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    parts, at = [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        content = data[begin:end]
        if "experts." in name:  # shared ones, too, whose width follows from the others'
            values = np.frombuffer(content, np.uint16).reshape(tensor["shape"])
            axis = 1 if "down_proj" in name else 0
            tensor["shape"][axis] *= WIDER
            wide = np.zeros(tensor["shape"], np.uint16)
            (wide[:, ::WIDER] if axis else wide[::WIDER])[:] = values
            content = wide.tobytes()
        tensor["data_offsets"] = [at, at + len(content)]
        at += len(content)
        parts.append(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(parts))
    path = os.path.join(out, "config.json")
    with open(path) as f:
        config = json.load(f)
    config["moe_intermediate_size"] *= WIDER
    with open(path, "w") as f:
        json.dump(config, f)


@contextlib.contextmanager
def slowed(process):
    """The process gets ON_S of each ON_S + OFF_S."""
    over = threading.Event()

    def stop_and_go():
        while not over.is_set():
            process.send_signal(signal.SIGSTOP)
            time.sleep(OFF_S)
            process.send_signal(signal.SIGCONT)
            time.sleep(ON_S)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def begin(bench, *args):
    command = [
        bench.skein, "run", "--model", bench.model, "--prompt-ids", bench.prompt, "--max-tokens", str(bench.count),
        "--temperature", "0", "--ignore-eos", "--json", "--threads", "1", *args,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def check_ended(process, said, statuses):
    if process.returncode not in statuses or "Sanitizer" in said:
        raise Failed(f"exit status {process.returncode}: {said[-800:]}")


def tokens_alone(bench):
    process = begin(bench)
    try:
        out, said = process.communicate(timeout=RUN_TIMEOUT_S)
    finally:
        process.kill()
    check_ended(process, said, (0,))
    return json.loads(out)["ids"]


def end_after_change(process, slow_one):
    """The result, and what it said; `slow_one` is slowed down once answers begin, and it is interrupted GOES_ON_S after the
    first change."""
    timers = [threading.Timer(RUN_TIMEOUT_S, process.kill)]
    timers[0].start()
    said, slowing = [], contextlib.ExitStack()
    try:
        for line in process.stderr:
            said.append(line)
            if BEGUN in line:
                slowing.enter_context(slowed(slow_one))
            if MOVED in line and len(timers) == 1:
                timers.append(threading.Timer(GOES_ON_S, process.send_signal, [signal.SIGINT]))
                timers[1].start()
        out = process.stdout.read()
        process.wait()
    finally:
        slowing.close()
        for timer in timers:
            timer.cancel()
        process.kill()
    check_ended(process, "".join(said), (0, INTERRUPTED))
    return json.loads(out), "".join(said)


def on_two(bench, slow_one, *args):
    """The same on two workers; `slow_one` chooses from these and the coordinator. And how long that took."""
    worker_args = ["--model", bench.model, *PLAINLY]
    with Worker(bench, "first", worker_args) as first, Worker(bench, "second", worker_args) as second:
        workers = f"{first.address},{second.address}"
        started = time.monotonic()
        coordinator = begin(bench, "--verbose", "--offload", "off", "--workers", workers, *args)
        result, log = end_after_change(coordinator, slow_one(coordinator, first.process))
        took_s = time.monotonic() - started
        first.check_alive()
        second.check_alive()
    count = len(result["ids"])
    if not count or result["ids"] != bench.tokens[:count]:
        raise Failed(f"other tokens: {log[-800:]}")
    return result["stats"], [line for line in log.splitlines() if MOVED in line], took_s


def describe(stats, index):
    busy = [worker["busy_s"] for worker in stats["workers"]]
    speed, share = stats["decode_tokens_per_s"], 100 * busy[index] / sum(busy)
    return f"{speed:.0f} tokens/s, {share:.0f} % of the time computed at the slow one"


def check_worker(bench):
    placement = ["--memory", "0", "--placement", "slices"]
    return check(bench, 0, *on_two(bench, lambda _, worker: worker, *placement))


def check_coordinator(bench):
    placement = ["--memory", "1G", "--placement", "slices", *PLAINLY]
    stats, lines, took_s = on_two(bench, lambda coordinator, _: coordinator, *placement)
    if lines and not lines[0].split(" the former")[0].count("this machine computed"):
        raise Failed(f"{lines[0]}")
    return check(bench, len(stats["workers"]) - 1, stats, lines, took_s)


def check(bench, slow_one, stats, lines, took_s):
    if not lines and took_s < LOOKED_AT_S:
        print("skipped the slow machine: the run was over before it was looked at twice")
        return None
    if not 1 <= len(lines) <= CUTS_MAX:
        raise Failed(f"{len(lines)} lines say that slices become narrower: {lines}; {describe(stats, slow_one)}")
    shards = [worker["experts"] for worker in stats["workers"]]
    if min(shards) <= bench.experts:
        raise Failed(f"workers hold {shards} shards")
    return f"{describe(stats, slow_one)}: {lines[0]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("skein", nargs="?", default="build/bin/skein")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    args = parser.parse_args()
    bench = Bench(os.path.dirname(os.path.abspath(args.skein)), None, True)
    bench.prompt = bench.write("prompt.json", json.dumps([3 + 7 * i % 900 for i in range(PROMPT_TOKENS)]))
    bench.model, bench.count = bench.path("wide"), args.tokens
    with bench:
        widen(DEMO, bench.model)
        with open(os.path.join(DEMO, "config.json")) as f:
            config = json.load(f)
        bench.experts = config["n_routed_experts"] * (config["num_hidden_layers"] - config["first_k_dense_replace"])
        bench.tokens = tokens_alone(bench)
        bench.case("the slices of a slow worker become narrower", lambda: check_worker(bench))
        bench.case("so do those of a slow coordinator", lambda: check_coordinator(bench))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
