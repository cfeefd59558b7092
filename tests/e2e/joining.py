#!/usr/bin/python3
"""What a worker that joins is measured by, on real daemons:

    joining.py SKEIN

Figures of machines are plausible, remembered, and what plans are made with. Links are measured as they are: one that is
slowed down by a relay, and, as root with iproute2, one between network namespaces that is limited to known rates."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from error_bench import DEMO, Bench, Failed, Worker, call, require  # noqa: E402

RELAY_DELAY_S = 0.005
TO_MBIT, FROM_MBIT = 200, 40
TRIES = 3  # a busy machine makes a link look slower than it is, for a while


def join(bench, address, *args):
    """The worker's part of a benchmark's report."""
    text = call(
        bench.skein, "bench", "--model", DEMO, "-p", "4", "-n", "1", "-r", "1", "--json", "--memory", "0", "--threads", "1",
        "--workers", address, "--cache", bench.path("here"), *args,
    )  # fmt: skip
    result = json.loads(text)
    require(result["predicted"]["plan"]["decode_tokens_per_s"] > 0, "nothing is predicted")
    return result["workers"]


def rates(worker):
    return [worker["read_gb_per_s"], *worker["formats"]["BF16"].values()]


def state(path):
    """Changes whenever the file is written, even with the same content."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def check_remembers(bench):
    there, here = bench.path("there"), bench.path("here")
    with Worker(bench, "first", ["--cache", there]) as worker:
        (first,) = join(bench, worker.address)
        require(list(first["formats"]) == ["BF16"], f"it reports {first}")
        require(min(rates(first)) > 0.01, f"it reports {first}")
        before = [state(os.path.join(place, "machines.json")) for place in (there, here)]
        (second,) = join(bench, worker.address)
        worker.check_alive()
    with Worker(bench, "second", ["--cache", there, "--model", DEMO]) as worker:
        (third,) = join(bench, worker.address)
        worker.check_alive()
    for later in (second, third):
        for before_it, rate in zip(rates(first), rates(later)):
            require(abs(rate / before_it - 1) < 1e-4, f"{rates(first)} became {rates(later)}")
    after = [state(os.path.join(place, "machines.json")) for place in (there, here)]
    require(before == after, "remembered figures were measured again")


def check_without_cache(bench):
    """A directory that cannot be made is no reason not to serve."""
    blocker = bench.write("file", "")
    with Worker(bench, "uncached", ["--cache", os.path.join(blocker, "cache")]) as worker:
        (found,) = join(bench, worker.address)
        require(min(rates(found)) > 0.01, f"it reports {found}")
        worker.check_alive()
        require("warning" in worker.text(), "it does not say that figures are not remembered")


def check_plan(bench):
    with Worker(bench, "planned", ["--cache", bench.path("there")]) as worker:
        path = bench.write("cluster.yaml", f"workers: ['{worker.address}']\n")
        text = call(bench.skein, "plan", "--model", DEMO, "--cluster", path, "--cache", bench.path("here"), "--json")
        result = json.loads(text)
        require(result["decode"]["tokens_per_s"] > 0, f"the plan is {text}")
        require(result["machines"][0]["memory_bytes"] > 0, f"the plan is {text}")
        worker.check_alive()


class Relay(peers.Peer):
    """Passes everything on a few milliseconds later, in both directions, as a long wire does."""

    def __init__(self, target):
        self.target = target

    def serve(self, client):
        worker = peers.connect(self.target)
        worker.settimeout(None)
        self.open.append(worker)
        thread = threading.Thread(target=self.move, args=(worker, client), daemon=True)
        thread.start()
        self.move(client, worker)
        thread.join()

    def move(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 22):
                time.sleep(RELAY_DELAY_S)
                sink.sendall(data)
        self.end(source)
        self.end(sink)


def check_round_trip(bench):
    wanted = 2 * RELAY_DELAY_S
    with Worker(bench, "far", ["--cache", bench.path("there")]) as worker, Relay(worker.address) as relay:
        for _ in range(TRIES):
            (found,) = join(bench, relay.address)
            seconds = found["link"]["round_trip_us"] / 1e6
            require(seconds >= wanted, f"{seconds:.4f} s for a round trip of more than {wanted} s")
            if seconds < 1.5 * wanted:
                return f"{seconds * 1e3:.1f} ms for {wanted * 1e3:.0f} ms"
    raise Failed(f"{seconds:.4f} s for a round trip of {wanted} s")


@contextlib.contextmanager
def limited_link():
    """A namespace behind a link with known rates: its name and the address in it."""
    name = f"skein-{os.getpid()}"
    outer, inner = f"sk{os.getpid() % 100000}a", f"sk{os.getpid() % 100000}b"

    def limit(device, mbit):
        return ["tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "200ms"]

    try:
        for command in (
            ["ip", "netns", "add", name],
            ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name],
            ["ip", "addr", "add", "10.213.77.1/30", "dev", outer],
            ["ip", "link", "set", outer, "up"],
            ["ip", "-n", name, "addr", "add", "10.213.77.2/30", "dev", inner],
            ["ip", "-n", name, "link", "set", inner, "up"],
            limit(outer, TO_MBIT),
            ["ip", "netns", "exec", name, *limit(inner, FROM_MBIT)],
        ):
            subprocess.run(command, check=True, capture_output=True)
        yield name, "10.213.77.2:7717"
    finally:
        # The link by itself, because a namespace takes its own with it some time later.
        subprocess.run(["ip", "link", "del", outer], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def check_rates(bench):
    with limited_link() as (name, address):
        command = ["ip", "netns", "exec", name, bench.worker_program, "--listen", address, "--insecure", "--threads", "1"]
        with open(bench.path("limited.log"), "wb") as log:
            process = subprocess.Popen(
                [*command, "--cache", bench.path("there")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + 10
            while not peers.listening(address) and time.monotonic() < deadline:
                time.sleep(0.05)
            for _ in range(TRIES):
                (found,) = join(bench, address)
                mbit = [found["link"][key] * 1e3 for key in ("to_gbit_per_s", "from_gbit_per_s")]
                text = f"{mbit[0]:.0f} and {mbit[1]:.0f} Mbit/s over a link of {TO_MBIT} and {FROM_MBIT}"
                parts = [found / limit for found, limit in zip(mbit, (TO_MBIT, FROM_MBIT))]
                require(max(parts) < 1.5, text)
                if min(parts) > 1 / 1.5:
                    return text
        finally:
            process.kill()
            process.wait()
    raise Failed(text)


def can_limit():
    """Why rates cannot be tested here; empty when they can."""
    if os.geteuid() != 0:
        return "not root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "no ip or tc (package iproute2)"
    try:
        with limited_link():
            return ""
    except subprocess.CalledProcessError as problem:
        return f"{' '.join(problem.cmd)}: {problem.stderr.decode().strip()}"


def main():
    skein = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/bin/skein")
    with Bench(os.path.dirname(skein), None, True) as bench:
        for name, check in (
            ("a machine's figures are remembered", check_remembers),
            ("no place to remember them", check_without_cache),
            ("a plan for a worker that is there", check_plan),
            ("the round trip", check_round_trip),
        ):
            bench.case(name, lambda: check(bench))
        reason = can_limit()
        if reason:
            print(f"skipped the rates of a link: {reason}")
        else:
            bench.case("the rates of a link", lambda: check_rates(bench))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
