#!/usr/bin/python3
"""What is shipped to a worker once does not travel again: shard_cache.py SKEIN

Real daemons behind a relay that counts the bytes that go to the worker. The worker has no copy of the model, is killed
and started again with what its cache has: after a run, in the middle of loading, with damaged files, with a small cache
and with none that can be written; it reads by io_uring, and without. Always the tokens of a run in one process."""

import contextlib
import glob
import json
import os
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from error_bench import DEMO, NETWORK_TIMEOUT_S, Bench, Failed, Worker, run_args  # noqa: E402

TOKENS = 4
SHARDS, SHARDS_BYTES = 128, 6 << 20  # of the demo model, about
SLICES = 6  # of five layers and the head
SLOW_S = 0.02  # for each piece that the relay passes on, while it is to be slow
WRITE_TIMEOUT_S = 30


class Relay(peers.Peer):
    """A wire to the worker at `target` that counts what travels as control messages, shards among it."""

    def __init__(self, target):
        self.target, self.bytes, self.is_slow = target, 0, False

    def serve(self, client):
        with peers.connect(self.target) as worker:
            worker.settimeout(None)
            self.open.append(worker)
            back = threading.Thread(target=self.move, args=(worker, client, False), daemon=True)
            back.start()
            is_control = client.recv(len(peers.WIRE_MAGIC), socket.MSG_PEEK) != peers.WIRE_MAGIC
            self.move(client, worker, is_control)
            back.join()

    def move(self, source, sink, counts):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    self.bytes += len(data)
                    time.sleep(SLOW_S if self.is_slow else 0)
                sink.sendall(data)
        self.end(source)
        self.end(sink)


class Machine:
    """A worker without a copy of the model, and its cache."""

    def __init__(self, bench, name, *args):
        self.bench, self.name = bench, name
        self.folder = bench.path(name + ".cache")
        self.args = ["--cache", self.folder, "--cache-size", "1G", *args]
        self.worker = Worker(bench, name, self.args)
        self.relay = Relay(self.worker.address).__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.relay.__exit__()
        self.worker.__exit__()

    def start_again(self):
        """Killed, as after a power cut."""
        self.worker.__exit__()
        self.worker = Worker(self.bench, self.name, self.args, self.worker.address)

    def files(self):
        return glob.glob(os.path.join(self.folder, "shards", "*", "*.shard"))

    def await_files(self, count):
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        while len(self.files()) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{len(self.files())} of {count} shards are in the cache: {self.worker.text()}")
            time.sleep(0.02)

    def start(self, *args):
        self.relay.bytes = 0
        command = [self.bench.skein, *run_args(self.bench.prompt, TOKENS, self.relay.address, DEMO), *args]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args):
        """The bytes that went to the worker in a run, which must give the right tokens."""
        process = self.start(*args)
        out, said = process.communicate(timeout=NETWORK_TIMEOUT_S)
        if process.returncode or "Sanitizer" in said or json.loads(out)["ids"] != self.bench.tokens:
            raise Failed(f"exit status {process.returncode}: {out[:200]} {said[-400:]}")
        self.worker.check_alive()
        return self.relay.bytes


def check_comes_back(bench, transport):
    with Machine(bench, "back-" + transport, "--transport", transport) as machine:
        first = machine.run()
        machine.await_files(SHARDS)
        machine.start_again()
        second = machine.run()
        if first < SHARDS_BYTES or second > SHARDS_BYTES // 20:
            raise Failed(f"{first} bytes went to the worker at first, {second} after a restart")
        if "of shards from" not in machine.worker.text():
            raise Failed(f"the worker does not say that it read its cache: {machine.worker.text()}")
        return f"{first} bytes to the worker at first, {second} after a restart"


def check_offloaded(bench):
    """Slices of shared experts, dense layers and output head come the same way. The coordinator computes in plain C, so that
    the worker gets one of each, whatever was measured how."""
    options = ("--offload", "on", "--isa", "reference")
    with Machine(bench, "offloaded") as machine:
        first = machine.run(*options)
        machine.await_files(SHARDS + SLICES)
        machine.start_again()
        second = machine.run(*options)
        if first < SHARDS_BYTES + SHARDS_BYTES // 50 or second > first // 20:
            raise Failed(f"{first} bytes went to the worker at first, {second} after a restart")
        return f"{first} bytes to the worker at first, {second} after a restart"


def check_resumes(bench):
    with Machine(bench, "cut") as machine:
        machine.relay.is_slow = True
        process = machine.start()
        machine.await_files(SHARDS // 4)
        machine.worker.process.kill()
        before = machine.relay.bytes
        _, said = process.communicate(timeout=NETWORK_TIMEOUT_S)
        if process.returncode != 1 or "lost while it was loading" not in said:
            raise Failed(f"the run that is cut ends with {process.returncode}: {said[-300:]}")
        machine.relay.is_slow = False
        kept = len(machine.files())
        machine.start_again()
        after = machine.run()
        if kept == SHARDS or after > SHARDS_BYTES * (SHARDS - kept) // SHARDS + SHARDS_BYTES // 10:
            raise Failed(f"with {kept} shards in the cache {after} bytes went to the worker")
        return f"cut after {before} bytes with {kept} of {SHARDS} shards in the cache, then {after}"


def check_damage(bench, transport):
    with Machine(bench, "damaged-" + transport, "--transport", transport) as machine:
        machine.run()
        machine.await_files(SHARDS)
        flipped, cut, gone, *_ = machine.files()
        with open(flipped, "r+b") as f:
            f.seek(500)
            byte = f.read(1)
            f.seek(500)
            f.write(bytes([byte[0] ^ 1]))
        os.truncate(cut, 1000)
        os.remove(gone)
        machine.start_again()
        sent = machine.run()
        if sent > SHARDS_BYTES // 20 + 4 * SHARDS_BYTES // SHARDS:
            raise Failed(f"{sent} bytes went to the worker for three damaged shards")
        with open(machine.worker.log, errors="replace") as f:
            said = f.read()
        for path, reason in ((flipped, "it is damaged"), (cut, "it was cut short")):
            if f"cannot read {path}: {reason}; it is removed and fetched again" not in said:
                raise Failed(f"the worker does not say what is damaged: {said[-400:]}")
        if said.count("fetched again") != 2:
            raise Failed(f"the worker says more than that: {said[-400:]}")


def check_small(bench):
    with Machine(bench, "small", "--cache-size", "2M") as machine:
        machine.run()
        machine.await_files(30)
        time.sleep(0.2)
        size = sum(map(os.path.getsize, machine.files()))
        if size > 2 << 20:
            raise Failed(f"the cache has {size} bytes")
        machine.start_again()
        machine.run()


def check_no_place(bench):
    with Machine(bench, "none", "--cache", bench.prompt) as machine:
        machine.run()
        machine.run()


def main():
    bench = Bench(os.path.dirname(os.path.abspath(sys.argv[1])), None, True)
    bench.prompt = bench.write("prompt.json", json.dumps([3, 50, 17, 200]))
    with bench:
        alone = run_args(bench.prompt, TOKENS, "", DEMO)
        del alone[alone.index("--workers") :]
        reference = subprocess.run([bench.skein, *alone], capture_output=True, text=True, timeout=NETWORK_TIMEOUT_S)
        bench.tokens = json.loads(reference.stdout)["ids"]
        for transport in ("auto", "sockets"):
            bench.case(f"a worker that is started again, {transport}", lambda: check_comes_back(bench, transport))
            bench.case(f"damaged files, {transport}", lambda: check_damage(bench, transport))
        for name, check in (
            ("what all tokens need, in part on a worker", check_offloaded),
            ("a worker that is cut off while it loads", check_resumes),
            ("a small cache", check_small),
            ("no place for a cache", check_no_place),
        ):
            bench.case(name, lambda: check(bench))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
