#!/usr/bin/python3
"""The ways in which frames travel, on real daemons: transport.py SKEIN

Coordinator and workers over io_uring and over plain sockets in every combination, where the system refuses io_uring, and
where next to nothing may be pinned. Always the golden model's tokens; and each process must say which way it took."""

import ctypes
import json
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import without_uring  # noqa: E402
from error_bench import NETWORK_TIMEOUT_S, V3, Bench, Failed, Worker, check_failure, run_args  # noqa: E402

FALLBACK = "io_uring cannot be used (Operation not permitted)"
TOKENS = 8
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
PINNED_BYTES = 400 << 10  # less than the buffers for one worker


def golden():
    with open(os.path.join(V3, "golden.json")) as f:
        return json.load(f)


def prepare_refusal():
    if not without_uring.forbid():
        raise OSError("no system call filters here")


def prepare_little_pinning():
    """A root process may pin what it likes unless it has lost that right, which it does with the next program."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0):
        raise OSError("no capabilities to give up")
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (PINNED_BYTES, PINNED_BYTES))


def prepare_no_pinning():
    prepare_little_pinning()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))


def start(bench, workers, *options, prepare=None):
    prompt = bench.write("prompt.json", json.dumps(golden()["prompt_ids"]))
    command = [bench.skein, *run_args(prompt, TOKENS, workers or ""), "--verbose", *options]
    if not workers:
        place = command.index("--workers")
        command[place : place + 2] = ["--local-workers", "2"]
    return subprocess.run(
        command,
        capture_output=True,
        timeout=NETWORK_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        preexec_fn=prepare,
    )


def run_well(bench, workers, wanted, *options, prepare=None):
    result = start(bench, workers, *options, prepare=prepare)
    said = result.stderr.decode()
    if result.returncode or "Sanitizer" in said:
        raise Failed(f"exit status {result.returncode}: {said[-600:]}")
    if json.loads(result.stdout)["ids"] != golden()["greedy_ids"][:TOKENS]:
        raise Failed(f"other tokens: {result.stdout[:200]!r}")
    for text in wanted:
        if text not in said:
            raise Failed(f"{text!r} is not said: {said[-600:]}")
    return said


def expect_none(text, said):
    if text in said:
        raise Failed(f"{text!r} is said: {said[-600:]}")


def mixed_cases(bench, ways):
    for theirs in ways:
        with Worker(bench, f"worker-{theirs}", ["--transport", theirs, "--model", V3, "--verbose"]) as worker:
            for ours in ways:

                def check(ours=ours, theirs=theirs, worker=worker):
                    said = run_well(bench, worker.address, [f"data plane: {ours}"], "--transport", ours)
                    worker.check_alive()
                    with open(worker.log, errors="replace") as f:
                        served = f.read()
                    # Neither for frames nor for the probes that measure the link.
                    for way in {"uring", "sockets"}:
                        if way != ours:
                            expect_none(f"data plane: {way}", said)
                        if way != theirs:
                            expect_none(f"data plane: {way}", served)
                    if f"data plane: {theirs}" not in served:
                        raise Failed(f"the worker does not say that it uses {theirs}: {served[-300:]}")

                bench.case(f"coordinator over {ours}, worker over {theirs}", check)


def refused_cases(bench):
    def fall_back():
        run_well(bench, None, [FALLBACK, "using plain sockets", "data plane: sockets"], prepare=prepare_refusal)

    def fall_back_on_one_side():
        with Worker(bench, "worker-auto", ["--model", V3]) as worker:
            run_well(bench, worker.address, [FALLBACK], prepare=prepare_refusal)
            worker.check_alive()

    def no_refusal():
        said = run_well(bench, None, ["data plane: sockets"], "--transport", "sockets", prepare=prepare_refusal)
        expect_none("io_uring", said)

    def insist():
        with Worker(bench, "worker-insisting", ["--model", V3]) as worker:
            result = start(bench, worker.address, "--transport", "uring", prepare=prepare_refusal)
            worker.check_alive()
            places = ["uring", "Operation not permitted", "--transport auto"]
            return check_failure(result.returncode, result.stderr, places)

    bench.case("io_uring is refused", fall_back)
    bench.case("io_uring is refused to the coordinator", fall_back_on_one_side)
    bench.case("io_uring is refused and not asked for", no_refusal)
    bench.case("io_uring is refused and insisted on", insist)


def pinning_cases(bench):
    def little():
        with Worker(bench, "worker-pinning", ["--model", V3]) as worker:
            wanted = ["data plane: uring", "buffers and no more"]
            run_well(bench, worker.address, wanted, "--transport", "uring", prepare=prepare_little_pinning)

    def nothing():
        # Some kernels count the ring itself and some do not.
        run_well(bench, None, ["data plane: "], prepare=prepare_no_pinning)

    bench.case("little may be pinned", little)
    bench.case("nothing may be pinned", nothing)


def option_cases(bench):
    for program, name in ((bench.skein, "skein"), (bench.worker_program, "skein-worker")):
        command = [] if program == bench.worker_program else ["run", "--model", V3]

        def check(program=program, command=command):
            places = ["--transport", "smoke-signals", "auto|uring|sockets"]
            return bench.refuse([*command, "--transport", "smoke-signals"], places, status=2, program=program)

        bench.case(f"{name} knows no such way", check)


def can_filter():
    child = os.fork()
    if child == 0:
        os._exit(0 if without_uring.forbid() else 1)
    return os.waitpid(child, 0)[1] == 0


def main():
    with Bench(os.path.dirname(os.path.abspath(sys.argv[1])), None, False) as bench:
        uring = start(bench, None, "--transport", "uring").returncode == 0
        option_cases(bench)
        mixed_cases(bench, ["uring", "sockets"] if uring else ["sockets"])
        if can_filter():
            refused_cases(bench)
        else:
            print("skipped a system that refuses io_uring: no system call filters here")
        if uring:
            pinning_cases(bench)
        else:
            print("skipped io_uring: this system refuses it")
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
