#!/usr/bin/python3
"""Models that do not fit a worker's memory run with --spill: spill.py SKEIN

Real daemons that keep a part of the demo model's experts on their disks, by io_uring and without, from their own copy and
shipped: always the tokens of a run in one process. A disk takes what a lost worker had, until it is back. Files that are
cut, damaged or removed below a worker cost time, or end the run with a line, and never a token. What cannot be is refused
with a line. Rates are printed, never asserted."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from error_bench import DEMO, NETWORK_TIMEOUT_S, Bench, Failed, Worker, check_failure, run_args  # noqa: E402
from plan import cluster, machine, plan  # noqa: E402

TOKENS = 32
EXPERTS_BYTES = 6 << 20  # of the demo model, 128 shards
INTERRUPTED = 130  # exit status
LITTLE = "2M"
LONG_TOKENS = 400
LOST_TOKENS = 2000  # enough for a worker to be started again, and interrupted then


def start(bench, name, *args, address=None):
    return Worker(
        bench, name, ["--cache", bench.path(name + ".cache"), "--spill", "1G", "--memory", LITTLE, *args], address
    )


def files(bench, name):
    folder = bench.path(name + ".cache/shards")
    return [os.path.join(at, file) for at, _, names in os.walk(folder) for file in names if file.endswith(".shard")]


def command(bench, addresses, tokens=TOKENS, *args):
    """Arguments that come later count."""
    return [bench.skein, *run_args(bench.prompt, tokens, addresses, DEMO), *args]


def ids_of(result):
    if result.returncode or "Sanitizer" in result.stderr:
        raise Failed(f"exit status {result.returncode}: {result.stdout[:200]} {result.stderr[-400:]}")
    return json.loads(result.stdout)


def run(bench, addresses, *args):
    """A run must give the right tokens; returns its statistics."""
    result = subprocess.run(
        command(bench, addresses, TOKENS, *args), capture_output=True, text=True, timeout=NETWORK_TIMEOUT_S
    )
    answer = ids_of(result)
    if answer["ids"] != bench.tokens[: len(answer["ids"])] or len(answer["ids"]) != TOKENS:
        raise Failed(f"other tokens: {answer['ids']}")
    return answer["stats"]


def whole_log(worker):
    with open(worker.log, errors="replace") as f:
        return f.read()


def describe(worker, stats):
    found = re.findall(r"read \d+ spilled shards, .* in .* s, .* GB/s", whole_log(worker))
    if not found:
        raise Failed(f"nothing was read from the disk: {worker.text()}")
    return f"{stats['decode_tokens_per_s']:.0f} tokens/s, predicted {stats['predicted']['decode_tokens_per_s']:.0f}; {found[-1]}"


def check_runs(bench, name, *args):
    with start(bench, name, *args) as worker:
        stats = run(bench, worker.address)
        run(bench, worker.address)
        worker.check_alive()
        line = describe(worker, stats)
    if "on disks" not in stats["predicted"]["placement"]:
        raise Failed(f"nothing is on the disk: {stats['predicted']['placement']}")
    return line


def check_kept(bench):
    """A worker that is started again finds its files, and needs neither a copy nor that they are sent."""
    with start(bench, "kept") as worker:
        run(bench, worker.address)
        address = worker.address
    before = {path: os.stat(path).st_mtime_ns for path in files(bench, "kept")}
    with Worker(
        bench, "again", ["--cache", bench.path("kept.cache"), "--spill", "1G", "--memory", LITTLE], address
    ) as worker:
        run(bench, worker.address)
    after = {path: os.stat(path).st_mtime_ns for path in files(bench, "kept")}
    if before != after or not before:
        raise Failed(f"{len(before)} files before, {len(after)} after, or written again")
    return f"{len(after)} files"


def check_two(bench):
    """One worker with memory, one with a disk; every placement gives the same tokens."""
    with start(bench, "disk") as disk, Worker(bench, "memory", ["--memory", "3M"]) as memory:
        lines = []
        for placement in ("experts", "slices", "auto"):
            stats = run(bench, f"{disk.address},{memory.address}", "--placement", placement)
            lines.append(f"{stats['predicted']['placement']}: {stats['decode_tokens_per_s']:.0f} tokens/s")
        disk.check_alive()
    return "; ".join(lines)


def begin_run(bench, workers, *args):
    return subprocess.Popen(
        command(bench, ",".join(worker.address for worker in workers), LOST_TOKENS, *args),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_until(process, words, said):
    """Reads what it says, until that has all the words; adds it to `said`."""
    for line in process.stderr:
        said.append(line)
        if all(re.search(word, line) for word in words):
            return
    raise Failed(f"it never says {words}: {''.join(said)[-800:]}")


def check_lost(bench, memory, later, *args):
    """What one of two workers had goes to the other one's disk when it is lost, and leaves it when it is back; `later`
    is on that disk in the end."""
    said = []
    with start(bench, f"stays-{memory}", "--memory", memory) as stays, contextlib.ExitStack() as stack:
        with Worker(bench, "goes", ["--memory", "4M", "--model", DEMO]) as goes:
            process = begin_run(bench, (stays, goes), "--replicas", "off", "--worker-timeout", "60", *args)
            stack.callback(process.kill)
            while whole_log(goes).count("ready with") < 1 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.2)
        read_until(process, (stays.address, "takes its shards anew", "[0-9.]+ .iB on its disk"), said)
        read_until(process, ("goes on after",), said)
        returns = stack.enter_context(Worker(bench, "returns", ["--memory", "4M", "--model", DEMO], goes.address))
        read_until(process, (stays.address, "takes its shards anew", f"{later} on its disk"), said)
        read_until(process, ("goes on after",), said)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=NETWORK_TIMEOUT_S)
        said.append(rest)
        stays.check_alive()
        returns.check_alive()
    return describe_loss(bench, process, out, said)


def describe_loss(bench, process, out, said):
    ids = json.loads(out)["ids"] if process.returncode in (0, INTERRUPTED) else []
    if not ids or ids != bench.tokens[: len(ids)]:
        raise Failed(f"exit status {process.returncode}, or other tokens: {''.join(said)[-800:]}")
    return "; ".join(re.findall(r"(?:anew: |)(\S+ \S+, \S+.* on its disk|goes on after .*)", "".join(said)))


def check_lost_to_late(bench):
    """The disk of a worker that was not there when the run began, and so was not measured."""
    said, address = [], peers.free_address()
    with contextlib.ExitStack() as stack:
        with Worker(bench, "early", ["--memory", "8M", "--model", DEMO]) as early:
            process = subprocess.Popen(
                command(bench, f"{early.address},{address}", LOST_TOKENS, "--worker-timeout", "60"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(process.kill)
            read_until(process, ("goes on without 1 of 2 workers",), said)
            late = stack.enter_context(start(bench, "late", "--model", DEMO, address=address))
            read_until(process, (address, "joins"), said)
        read_until(process, (address, "takes its shards anew", "[0-9.]+ .iB on its disk"), said)
        read_until(process, ("goes on after",), said)
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=NETWORK_TIMEOUT_S)
        said.append(rest)
        late.check_alive()
    return describe_loss(bench, process, out, said)


def check_without(bench):
    """Neither without --spill, nor with too little of it, nor with no memory to read into."""
    for name, args in (
        ("none", ["--memory", LITTLE]),
        ("little", ["--memory", LITTLE, "--spill", "1M", "--cache", bench.path("little.cache")]),
        ("tiny", ["--memory", "50K", "--spill", "1G", "--cache", bench.path("tiny.cache")]),
    ):
        with Worker(bench, name, args) as worker:
            result = subprocess.run(command(bench, worker.address), capture_output=True, timeout=NETWORK_TIMEOUT_S)
            check_failure(result.returncode, result.stderr, ["MiB missing", "raise --memory or workers"])
            worker.check_alive()


def check_no_room(bench):
    """A folder that cannot be written to."""
    with Worker(bench, "blocked", ["--memory", LITTLE, "--spill", "1G", "--cache", bench.prompt]) as worker:
        result = subprocess.run(command(bench, worker.address), capture_output=True, timeout=NETWORK_TIMEOUT_S)
        check_failure(result.returncode, result.stderr, ["MiB missing"])
        worker.check_alive()


def flip(path):
    with open(path, "r+b") as f:
        f.seek(500)
        byte = f.read(1)
        f.seek(500)
        f.write(bytes([byte[0] ^ 1]))


SPOILERS = {"cut short": lambda path: os.truncate(path, 4096), "emptied": lambda path: os.truncate(path, 0),
            "damaged": flip, "removed": os.remove}  # fmt: skip


def spoil_while_running(bench, name, spoil, *args):
    """Starts a long run and spoils all files of the worker once it is under way."""
    with start(bench, name) as worker:
        run(bench, worker.address)  # so that the files are there

        def act():
            while whole_log(worker).count("ready with") < 2 and process.poll() is None:
                time.sleep(0.01)
            for path in files(bench, name):
                spoil(path)

        process = subprocess.Popen(
            command(bench, worker.address, LONG_TOKENS, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        thread = threading.Thread(target=act)
        thread.start()
        out, said = process.communicate(timeout=NETWORK_TIMEOUT_S)
        thread.join()
        worker.check_alive()
        log = whole_log(worker)
        if "cannot read the spilled shard" not in log:
            raise Failed(f"the worker does not say what it cannot read: {log[-400:]}")
        return process.returncode, out, said, log


def check_spoiled(bench, how):
    """The run ends with a line that names the worker where it is to; else it waits, and goes on with the same tokens."""
    code, _, said, log = spoil_while_running(bench, how.replace(" ", "-"), SPOILERS[how])
    try:
        check_failure(code, said, ["127.0.0.1:", "cannot read expert", "from its disk"])
    except Failed as failed:
        raise Failed(f"{failed}; the worker's log ends with {log[-1000:]}") from None
    code, out, said, _ = spoil_while_running(bench, how.replace(" ", "-") + "-2", SPOILERS[how], "--worker-timeout", "60")
    if code or json.loads(out)["ids"] != bench.tokens[:LONG_TOKENS]:
        raise Failed(f"exit status {code}, or other tokens: {said.decode()[-400:]}")
    found = re.findall(r"goes on after ([0-9.]+) s", said.decode())
    return f"goes on after {found} s"


def check_plan(bench):
    """What `skein plan` says of a machine that spills."""
    disk = machine(0.002, 20, 200, spill="1G", disk_gb_per_s=1)
    result = plan(bench, DEMO, cluster([disk], machine(8, 20, 200)), "--memory", "0")
    only = result["machines"][0]
    held, spilled = only["experts_bytes"], only["spilled_bytes"]
    if not (held - spilled <= only["memory_bytes"] and 0.6 < spilled / held < 0.8):
        raise Failed(f"{spilled} of {held} bytes are on the disk")
    if not 0 < only["decode"]["disk_s"] <= result["decode"]["step_s"] or result["decode"]["layer"]["disk_s"] <= 0:
        raise Failed("the disk takes no time")
    path = bench.write("cluster.yaml", cluster([disk], machine(8, 20, 200)))
    text = subprocess.run(
        [bench.skein, "plan", "--model", DEMO, "--cluster", path, "--memory", "0"], capture_output=True, text=True
    ).stdout
    for words in ("on disks, the experts that are chosen least", "of its experts on its disk", "for its disk"):
        if words not in text:
            raise Failed(f"the plan does not say {words!r}: {text}")
    return result["placement"]


def main():
    bench = Bench(os.path.dirname(os.path.abspath(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else None, True)
    bench.prompt = bench.write("prompt.json", json.dumps([3, 50, 17, 200]))
    with bench:
        alone = command(bench, "", LOST_TOKENS)
        del alone[alone.index("--workers") :]
        bench.tokens = ids_of(subprocess.run(alone, capture_output=True, text=True, timeout=NETWORK_TIMEOUT_S))["ids"]
        for name, args in (
            ("shipped", []),
            ("own-copy", ["--model", DEMO]),
            ("without-uring", ["--transport", "sockets"]),
            ("two-threads", ["--threads", "2"]),
            ("hardly-any-memory", ["--memory", "160K"]),
        ):
            bench.case(f"a model on a disk, {name}", lambda: check_runs(bench, name, *args))
        bench.case("a worker that is started again", lambda: check_kept(bench))
        bench.case("a disk beside memory", lambda: check_two(bench))
        whole = ["--placement", "experts"]
        bench.case("a worker that is lost", lambda: check_lost(bench, "4M", "none", *whole))
        bench.case("one whose slices are lost", lambda: check_lost(bench, "4M", "none", "--placement", "slices"))
        bench.case("a worker that is lost beside a disk", lambda: check_lost(bench, LITTLE, "[0-9.]+ .iB", *whole))
        bench.case("a worker that is lost to the disk of one that joined late", lambda: check_lost_to_late(bench))
        bench.case("a cluster that is too small all the same", lambda: check_without(bench))
        bench.case("no place for files", lambda: check_no_room(bench))
        for how in SPOILERS:
            bench.case(f"files that are {how}", lambda: check_spoiled(bench, how))
        bench.case("a plan with a disk", lambda: check_plan(bench))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
