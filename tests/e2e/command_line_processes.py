"""Cases of command_line.py about processes: worker daemons, one coordinator after another, signals, and that nothing
is left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import peers
from command_line_options import SUM, SUM_ANSWER, answer, answer_json, call, require, require_equal
from error_bench import DEMO, ON_WORKERS, V3, Worker

END_TIMEOUT_S = 15
LONG = ["--prompt", "Tell me a story about a fox.", "--ignore-eos", "--max-tokens", "4000"]


def wait_until(condition, problem, timeout_s=END_TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        require(time.monotonic() < deadline, f"{problem} after {timeout_s} s")
        time.sleep(0.02)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid):
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as f:
            found += map(int, f.read().split())
    return found


# ---- Worker daemons ----


def check_config(bench):
    address = peers.free_address()
    text = f"listen: {address}\nthreads: 1\nmemory: 64M\nmodel: {DEMO}\nverbose: true\n"
    config = bench.write("worker.yaml", text)
    with open(bench.path("config.log"), "wb") as log:
        worker = subprocess.Popen(
            [bench.worker_program, "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        require_equal("its first line", worker.stdout.readline().decode(), f"listening {address}\n")
        require_equal("the answer", answer(bench, "--prompt", SUM, *ON_WORKERS, "--workers", address), SUM_ANSWER + "\n")
        with open(bench.path("config.log")) as f:
            said = f.read()
        require(
            "1 threads" in said and "64.0 MiB" in said,
            f"threads and memory of the file are not used: {said[:300]}",
        )
        require("idle -> " in said, f"verbose of the file is not used: {said[:300]}")
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def check_config_precedence(bench):
    config = bench.write("other.yaml", "listen: 127.0.0.1:1\nthreads: 1\n")
    with Worker(
        bench, "precedence", ["--config", config]
    ) as worker:  # its --listen stands on the command line
        require_equal(
            "the answer", answer(bench, "--prompt", SUM, *ON_WORKERS, "--workers", worker.address), SUM_ANSWER + "\n"
        )


def check_config_mistake(bench):
    config = bench.write("mistake.yaml", "threads: 1\nlisten_on: 127.0.0.1:0\n")
    _, err = call(bench.worker_program, "--config", config, status=2)
    require("mistake.yaml:2" in err and "listen_on" in err, f"it says {err!r}")


def check_one_after_another(bench):
    """The second coordinator needs no loading: after the first, the worker's copy loses all but its header."""
    copy = bench.path("copy")
    shutil.copytree(DEMO, copy)
    weights = os.path.join(copy, "model.safetensors")
    with Worker(bench, "first-second", ["--model", copy, "--verbose"]) as worker:
        for _ in range(2):
            options = (*ON_WORKERS, "--workers", worker.address)
            got = answer_json(bench, "--prompt", SUM, *options)
            require_equal("the answer", got["text"], SUM_ANSWER)
            require_equal("the experts", got["stats"]["workers"][0]["experts"], 4 * 32)
            with open(weights, "r+b") as f:
                f.truncate(8 + int.from_bytes(f.read(8), "little"))
        require("cannot be read" not in worker.text(), f"the second run loaded anew: {worker.text()}")
        worker.check_alive()


def check_other_model(bench):
    """Filled by coordinators: one model, another, the first again."""
    with open(os.path.join(V3, "golden.json")) as f:
        golden = json.load(f)
    ids = bench.write("other-ids.json", json.dumps(golden["prompt_ids"]))
    count = len(golden["greedy_ids"])
    with Worker(bench, "other-model") as worker, Worker(bench, "other-model-2") as second:
        both = f"{worker.address},{second.address}"
        for address in (worker.address, both):
            require_equal(
                "the answer", answer(bench, "--prompt", SUM, *ON_WORKERS, "--workers", address), SUM_ANSWER + "\n"
            )
            args = [
                "--prompt-ids",
                ids,
                "--max-tokens",
                str(count),
                "--ignore-eos",
                "--json",
                *ON_WORKERS,
                "--workers",
                address,
            ]
            out, _ = call(bench.skein, "run", "--model", V3, *args)
            require_equal("the other model's answer", json.loads(out)["ids"], golden["greedy_ids"])
            sliced = answer(bench, "--prompt", SUM, *ON_WORKERS, "--workers", address, "--placement", "slices")
            require_equal("the sliced answer", sliced, SUM_ANSWER + "\n")
        worker.check_alive()


def check_worker_signal(bench, number, serves_first):
    with Worker(bench, f"signal-{number}-{serves_first}") as worker:
        if serves_first:
            require_equal(
                "the answer", answer(bench, "--prompt", SUM, *ON_WORKERS, "--workers", worker.address), SUM_ANSWER + "\n"
            )
        worker.process.send_signal(number)
        require_equal("the exit status", worker.process.wait(END_TIMEOUT_S), 0)


def check_worker_ended_busy(bench):
    """A worker that is ended in the middle of an answer ends well; the coordinator names it, once."""
    with Worker(bench, "busy") as worker, long_run(bench, *ON_WORKERS, "--workers", worker.address) as run:
        worker.process.send_signal(signal.SIGINT)
        require_equal("the worker's exit status", worker.process.wait(END_TIMEOUT_S), 0)
        require_equal("the coordinator's exit status", run.wait(END_TIMEOUT_S), 1)
        with open(bench.path("long.log"), errors="replace") as f:
            said = f.read()
        require(worker.address in said and said.count("error:") == 1, f"the coordinator says {said!r}")


def check_worker_drained_busy(bench):
    """A worker that may take its time, and that nobody can replace, ends after the answer."""
    with Worker(bench, "busy") as worker, long_run(bench, *ON_WORKERS, "--workers", worker.address) as run:
        worker.process.terminate()
        run.stdout.read()
        require_equal("the coordinator's exit status", run.wait(END_TIMEOUT_S), 0)
        require_equal("the worker's exit status", worker.process.wait(END_TIMEOUT_S), 0)


def worker_cases(bench):
    bench.case("worker: --config", lambda: check_config(bench))
    bench.case("worker: the command line wins over --config", lambda: check_config_precedence(bench))
    bench.case("worker: an unknown key in --config", lambda: check_config_mistake(bench))
    bench.case(
        "worker: the second coordinator finds everything loaded", lambda: check_one_after_another(bench)
    )
    bench.case("worker: coordinators with different models and placements", lambda: check_other_model(bench))
    for number in (signal.SIGTERM, signal.SIGINT):
        for serves_first in (False, True):
            when = "after a run" if serves_first else "at once"
            bench.case(
                f"worker: {number.name} {when}", lambda: check_worker_signal(bench, number, serves_first)
            )
    bench.case("worker: SIGINT in the middle of an answer", lambda: check_worker_ended_busy(bench))
    bench.case("worker: SIGTERM in the middle of an answer", lambda: check_worker_drained_busy(bench))


# ---- Ends of a run ----


@contextlib.contextmanager
def long_run(bench, *options):
    """A run in the middle of a long answer; killed at the end if it still runs."""
    with open(bench.path("long.log"), "wb") as log:
        run = subprocess.Popen(
            [bench.skein, "run", "--model", DEMO, *LONG, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        require(os.read(run.stdout.fileno(), 100), "the answer does not begin")
        yield run
    finally:
        run.kill()
        run.wait()
        run.stdout.close()


def check_run_signal(bench, number, status, workers):
    options = ["--local-workers", str(workers)] if workers else []
    with long_run(bench, *options) as run:
        local = children(run.pid)
        require_equal("the number of local workers", len(local), workers)
        run.send_signal(number)
        text = run.stdout.read()
        require_equal("the exit status", run.wait(END_TIMEOUT_S), status)
        wait_until(lambda: not any(map(is_running, local)), "a local worker still runs")
    if status == 130:
        text.decode()
        require(text.endswith(b"\n"), f"the answer ends with {text[-20:]!r} and no line end")


def check_normal_end(bench):
    args = [bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--local-workers", "2"]
    run = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        require(os.read(run.stdout.fileno(), 1), "the answer does not begin")
        local = children(run.pid)
        run.stdout.read()
        require_equal("the exit status", run.wait(END_TIMEOUT_S), 0)
        require(not any(map(is_running, local)), "a local worker still runs")
    finally:
        run.kill()
        run.wait()
        run.stdout.close()


def check_closed_output(bench):
    """`skein run … | head -c 1`: an error and no death by signal; a worker of its own ends with it."""
    with long_run(bench, "--local-workers", "1") as run:
        local = children(run.pid)
        run.stdout.close()
        require_equal("the exit status", run.wait(END_TIMEOUT_S), 1)
        require(not any(map(is_running, local)), "a local worker still runs")
        run.stdout = open(os.devnull, "rb")


def process_cases(bench):
    bench.case("a run ends its local workers", lambda: check_normal_end(bench))
    bench.case("Ctrl-C ends an answer with 130", lambda: check_run_signal(bench, signal.SIGINT, 130, 0))
    bench.case("Ctrl-C ends local workers too", lambda: check_run_signal(bench, signal.SIGINT, 130, 2))
    for number in (signal.SIGKILL, signal.SIGTERM):
        name = f"{number.name} of the coordinator leaves no local workers behind"
        bench.case(name, lambda: check_run_signal(bench, number, -number, 2))
    bench.case("a reader of the answer that goes away", lambda: check_closed_output(bench))
