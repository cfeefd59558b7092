#!/usr/bin/python3
"""The memory of each process against what it holds: memory.py SKEIN

Writes models of V2-Lite's dimensions with fewer layers and experts (one at a time, under 2 GiB, in a temporary
folder), runs them in process and on two worker daemons, and watches every process while the run goes on: anonymous
memory, and the peak of all memory, which shows copies that were only there for a moment. Each process may take 5 %
more than the weights it holds, its KV cache, and a fixed amount for code and buffers. Prints the figures of each
process; exit status 1 when one is over its bound. Needs python3-numpy.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from error_bench import ON_WORKERS, ROOT, Bench, Failed, Worker  # noqa: E402

MIB = 1 << 20
SHARE = 1.05
WORKER_FIXED = 40 * MIB  # code, threads' scratch, frames of 16 rows
COORDINATOR_FIXED = 60 * MIB  # the same, and the shard that is on its way to each worker
IN_PROCESS_FIXED = 100 * MIB  # both of them
CONTEXT = 512
CACHE_CONTEXT = 65536  # of the runs that watch the KV cache grow
CACHE_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8": 34 / 32}  # q8: 32 values of 8 bits with a scale of 16
PROMPT_TOKENS = 40  # three chunks of 16
ANSWER_TOKENS = 8
RUN_TIMEOUT_S = 300
POLL_S = 0.02


class Process:
    """A process being watched: the most anonymous memory seen, and the kernel's own peak of all memory."""

    def __init__(self, name, pid):
        self.name, self.pid = name, pid
        self.anonymous = self.peak = 0

    def look(self):
        try:
            with open(f"/proc/{self.pid}/status") as f:
                status = f.read()
        except OSError:
            return
        values = {
            key: int(kib) * 1024
            for key, kib in re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.MULTILINE)
        }
        self.anonymous = max(self.anonymous, values.get("RssAnon", 0))
        self.peak = max(self.peak, values.get("VmHWM", 0))

    def compare(self, held, limit):
        """Prints the figures; says what is over the limit, "" if nothing is."""
        print(
            f"       {self.name:12} holds {held / MIB:7.1f} MiB  anonymous {self.anonymous / MIB:7.1f}"
            f"  peak {self.peak / MIB:7.1f}  limit {limit / MIB:7.1f}",
            flush=True,
        )
        worst = max(self.anonymous, self.peak)
        if self.peak == 0:
            return f"{self.name} was never seen"
        return f"{self.name} is {(worst - limit) / MIB:.1f} MiB over its limit" if worst > limit else ""


class Model:
    """A model on disk and what `skein inspect` says of it."""

    def __init__(self, bench, name, *options):
        self.name = name
        self.path = bench.path(name)
        program = os.path.join(ROOT, "tests", "bench", "make_model.py")
        subprocess.run([sys.executable, program, self.path, *options], check=True, stdout=subprocess.DEVNULL)
        inspect = subprocess.run(
            [bench.skein, "inspect", "--model", self.path, "--json"], check=True, capture_output=True
        )
        facts = json.loads(inspect.stdout)
        self.own, self.routed = facts["memory"]["coordinator_bytes"], facts["memory"]["routed_experts_bytes"]
        width = facts["attention"]["kv_rank"] + facts["attention"]["rope_dim"]
        self.cache_values = facts["layers"] * width  # of each position
        self.kv_cache = CONTEXT * self.cache_values * 4


def watch_run(bench, model, processes, *options):
    """A short run; its process is watched as "coordinator", which is returned, together with `processes`."""
    ids = bench.write("prompt.json", json.dumps([7 * i % 1000 for i in range(PROMPT_TOKENS)]))
    command = [bench.skein, "run", "--model", model.path, "--prompt-ids", ids, "--ignore-eos", "--json"]
    command += [
        "--max-tokens",
        str(ANSWER_TOKENS),
        "--context",
        str(CONTEXT),
        "--batch-tokens",
        "16",
        "--threads",
        "2",
    ]
    with open(bench.path("answer"), "wb") as out, open(bench.path("errors"), "wb") as errors:
        run = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
    coordinator = Process("coordinator", run.pid)
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while run.poll() is None:
        for process in (coordinator, *processes):
            process.look()
        if time.monotonic() > deadline:
            run.kill()
            run.wait()
            raise Failed(f"no end after {RUN_TIMEOUT_S} s")
        time.sleep(POLL_S)
    with open(bench.path("errors"), errors="replace") as f:
        if run.returncode:
            raise Failed(f"exit status {run.returncode}: {f.read()[-300:]}")
    with open(bench.path("answer")) as f:
        if len(json.load(f)["ids"]) != ANSWER_TOKENS:
            raise Failed("the run gave another number of tokens")
    return coordinator


def check_cache(bench, model):
    """The anonymous memory of a bench run that fills the KV cache grows by what its format takes for each position."""

    def peak(depth, form):
        command = [bench.skein, "bench", "--model", model.path, "--kv-cache", form, "--threads", "2"]
        command += ["-p", "1", "-n", "1", "-r", "1", "-d", str(depth), "--context", str(CACHE_CONTEXT)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process = Process("bench", run.pid)
        while run.poll() is None:
            process.look()
            time.sleep(POLL_S)
        if run.returncode:
            raise Failed(f"exit status {run.returncode}")
        return process.anonymous

    depth = CACHE_CONTEXT - 128
    for form, value_bytes in CACHE_VALUE_BYTES.items():
        grown = peak(depth, form) - peak(0, form)
        expected = depth * model.cache_values * value_bytes
        print(f"       {form:12} {depth} positions take {grown / MIB:7.1f} MiB, expected {expected / MIB:7.1f}")
        # The smaller run's peak may have been missed by a few pages, in either direction.
        if not 0.95 * expected <= grown <= 1.05 * expected + 2 * MIB:
            raise Failed(f"{form} takes {grown / depth / model.cache_values:.2f} bytes for each value")


def require(*problems):
    found = [problem for problem in problems if problem]
    if found:
        raise Failed("; ".join(found))


def check_in_process(bench, model):
    coordinator = watch_run(bench, model, [])
    held = model.own + model.routed
    require(coordinator.compare(held, held * SHARE + model.kv_cache + IN_PROCESS_FIXED))


def shard_bytes(worker):
    """What the worker has held last, by its log."""
    return int(re.findall(r"ready with \d+ shards, .* \((\d+) bytes\)", worker.text())[-1])


def check_workers(bench, model, has_copy, placements, offload=False):
    """Runs on two fresh worker daemons, one after the other with each placement."""
    copy = ["--model", model.path] if has_copy else []
    with Worker(bench, "one", copy) as one, Worker(bench, "two", copy) as two:
        workers = (one, two)
        processes = [Process(f"worker {i + 1}", worker.process.pid) for i, worker in enumerate(workers)]
        addresses = ",".join(worker.address for worker in workers)
        for placement in placements:
            options = ("--workers", addresses, "--placement", placement, "--offload", "on" if offload else "off")
            coordinator = watch_run(bench, model, processes, *ON_WORKERS, *options)
            held = [shard_bytes(worker) for worker in workers]
            problems = [process.compare(b, b * SHARE + WORKER_FIXED) for process, b in zip(processes, held)]
            limit = model.own * SHARE + model.kv_cache + COORDINATOR_FIXED
            # FP8 slices share blocks of scales at their edges, so the sum may be a little more.
            if not offload and not model.routed <= sum(held) <= model.routed * 1.01:
                problems.append(f"the workers hold {sum(held)} bytes of {model.routed}")
            if offload and sum(held) <= model.routed * 1.01:
                problems.append(f"the workers hold {sum(held)} bytes, the routed experts alone are {model.routed}")
            require(coordinator.compare(model.own, limit), *problems)


def remember_figures(bench, model):
    """The first worker to join measures its machine, in memory that it gives back; later ones on this machine do not."""
    with Worker(bench, "first") as worker:
        watch_run(bench, model, [], *ON_WORKERS, "--workers", worker.address)


def check_model(bench, model):
    bench.case(f"{model.name}, the first worker", lambda: remember_figures(bench, model))
    bench.case(f"{model.name}, in process", lambda: check_in_process(bench, model))
    for has_copy in (True, False):
        source = "with their own copy" if has_copy else "filled by the coordinator"
        for placements in (["experts"], ["slices"]):
            name = f"{model.name}, two workers {source}, {placements[0]}"
            bench.case(name, lambda: check_workers(bench, model, has_copy, placements))
    name = f"{model.name}, two workers that have slices of what all rows meet"
    bench.case(name, lambda: check_workers(bench, model, True, ["experts"], True))
    name = f"{model.name}, workers that go from whole experts to slices and back"
    bench.case(name, lambda: check_workers(bench, model, False, ["experts", "slices", "experts"]))


def main():
    skein = os.path.abspath(sys.argv[1])
    with Bench(os.path.dirname(skein), None, False) as bench:
        for dtype in ("bf16", "fp8"):
            model = Model(
                bench, dtype, "--shape", "v2-lite", "--layers", "3", "--experts", "12", "--dtype", dtype
            )
            check_model(bench, model)
            if dtype == "bf16":
                bench.case("KV cache", lambda: check_cache(bench, model))
            shutil.rmtree(model.path)
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
