#!/usr/bin/python3
"""Workers without a copy of the model get shards from each other: worker_to_worker.py SKEIN

Real daemons behind relays that tell the coordinator's connections from those of other workers, count what travels on each,
and can slow down or spoil what one worker gives another. Whatever happens, the tokens are those of a run in one process, and
where workers hold the same shards each byte leaves the coordinator once."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from error_bench import DEMO, NETWORK_TIMEOUT_S, Bench, Failed, Worker  # noqa: E402

SHARDS, SHARDS_BYTES = 128, 6 << 20  # of the demo model, about
TOKENS, LONG_TOKENS = 4, 160
DELAY_S = 0.002  # of each message of a run that is to last for seconds
SLOW_S = 0.02  # for each piece that a worker gives while the relay is slow
GIVEN_BYTES = 200000  # after which something happens to whoever gives


class Relay(peers.Peer):
    """A wire to the worker at `target`. `spoil(data)` is what becomes of the bytes that it gives other workers."""

    def __init__(self, target):
        self.target, self.spoil, self.delay_s, self.give_s = target, None, 0, 0
        self.shipped = self.given = self.askers = 0

    def serve(self, client):
        first = client.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
        is_data = first[:4] == peers.WIRE_MAGIC
        is_worker = not is_data and first[4] >> 3 == peers.CONTROL_FETCH
        self.askers += is_worker
        with peers.connect(self.target) as worker:
            worker.settimeout(None)
            self.open.append(worker)
            back = threading.Thread(target=self.move, args=(worker, client, is_worker, False, is_data), daemon=True)
            back.start()
            self.move(client, worker, False, not is_data and not is_worker, is_data)
            back.join()

    def move(self, source, sink, gives, ships, is_data):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.shipped += len(data) * ships
                self.given += len(data) * gives
                time.sleep(self.delay_s * is_data + self.give_s * gives)
                sink.sendall(self.spoil(data) if gives and self.spoil else data)
        self.end(source)
        self.end(sink)


class Machine:
    """A worker without a copy of the model that keeps nothing on disk, and its relay."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.worker = Worker(bench, name, ["--verbose"])
        self.relay = Relay(self.worker.address).__enter__()

    def start_again(self):
        """With empty hands."""
        self.worker.__exit__()
        self.worker = Worker(self.bench, self.name, ["--verbose"], self.worker.address)

    def log(self):
        with open(self.worker.log, errors="replace") as f:
            return f.read()

    def end(self):
        self.relay.__exit__()
        self.worker.process.send_signal(signal.SIGCONT)
        self.worker.__exit__()


@contextlib.contextmanager
def machines(bench, count=2):
    all_of_them = [Machine(bench, f"worker{i}") for i in range(count)]
    try:
        yield all_of_them
    finally:
        for machine in all_of_them:
            machine.end()


def command(bench, tokens):
    return [
        bench.skein, "run", "--model", DEMO, "--prompt-ids", bench.prompt, "--max-tokens", str(tokens), "--temperature", "0",
        "--ignore-eos", "--json", "--threads", "1",
    ]  # fmt: skip


class Run:
    """A generation with all experts on these machines."""

    def __init__(self, bench, hosts, tokens=TOKENS, replicas="spare"):
        self.bench, self.tokens, self.log = bench, tokens, bench.path("run.log")
        workers = ",".join(host.relay.address for host in hosts)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command(bench, tokens) + [
                    "--verbose", "--memory", "0", "--placement", "experts", "--replicas", replicas, "--workers", workers,
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def wait(self, what, holds):
        deadline = time.monotonic() + NETWORK_TIMEOUT_S
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"not so: {what}: {self.text()[-700:]}")
            time.sleep(0.005)

    def wait_serving(self, times):
        """Until workers have begun to serve so many times."""
        self.wait(f"workers serve {times} times", lambda: self.text().count("opening -> serving") >= times)

    def finish(self, hosts):
        """What it said, after its tokens were found to be right and the workers alive."""
        try:
            out, _ = self.process.communicate(timeout=NETWORK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"no end: {self.text()[-700:]}") from None
        text = self.text()
        if self.process.returncode or "Sanitizer" in text:
            raise Failed(f"exit status {self.process.returncode}: {text[-700:]}")
        if json.loads(out)["ids"] != self.bench.answers[self.tokens]:
            raise Failed(f"other tokens: {text[-700:]}")
        for host in hosts:
            host.worker.check_alive()
        return text


def expect_shipped(count, least, most, what):
    if not SHARDS_BYTES * least <= count <= SHARDS_BYTES * most:
        raise Failed(f"{count} bytes came from the coordinator {what}")


def check_start(bench, count):
    """All hold everything: each byte leaves the coordinator once."""
    with machines(bench, count) as hosts:
        Run(bench, hosts).finish(hosts)
        shipped = sum(host.relay.shipped for host in hosts)
        given = sum(host.relay.given for host in hosts)
        expect_shipped(shipped, 1, 1.1, f"for {count} workers")
        if count == 2 and not SHARDS_BYTES <= given <= SHARDS_BYTES * 1.1:
            raise Failed(f"workers gave each other {given} bytes")
        return f"{count} workers: {shipped} bytes from the coordinator, {given} from each other"


def check_returns(bench):
    """A worker that comes back with nothing gets everything from the other one."""
    with machines(bench) as hosts:
        for host in hosts:
            host.relay.delay_s = DELAY_S
        run = Run(bench, hosts, LONG_TOKENS)
        run.wait_serving(2)
        before = hosts[1].relay.shipped
        hosts[1].start_again()
        run.wait_serving(3)
        shipped = hosts[1].relay.shipped - before
        run.finish(hosts)
        expect_shipped(shipped, 0, 0.1, "when it was back")
        if "got 128 of its 128 shards from other workers" not in run.text():
            raise Failed(f"it does not say where shards came from: {run.text()[-700:]}")
        return f"{shipped} bytes from the coordinator, {hosts[0].relay.given} from the other worker"


def check_drained(bench):
    """What a worker that leaves holds, others get from it."""
    with machines(bench) as hosts:
        for host in hosts:
            host.relay.delay_s = DELAY_S
        run = Run(bench, hosts, LONG_TOKENS, "off")
        run.wait_serving(2)
        before = hosts[1].relay.shipped
        subprocess.run([bench.skein, "drain", hosts[0].worker.address], capture_output=True, timeout=NETWORK_TIMEOUT_S)
        shipped = hosts[1].relay.shipped - before
        text = run.finish(hosts[1:])
        expect_shipped(shipped, 0, 0.1, "for what the leaving worker had")
        return next(line for line in text.splitlines() if "from other workers" in line)


def check_gone(bench, what, act, reason):
    """Something happens to a worker in the middle of giving; the coordinator sends the rest."""
    with machines(bench) as hosts:
        for host in hosts:
            host.relay.delay_s = DELAY_S
        run = Run(bench, hosts, LONG_TOKENS)
        run.wait_serving(2)
        giver, taker = hosts
        given, shipped = giver.relay.given, taker.relay.shipped
        giver.relay.give_s = SLOW_S
        taker.start_again()
        run.wait("the worker gives", lambda: giver.relay.given >= given + GIVEN_BYTES)
        started = time.monotonic()
        act(giver)
        run.wait_serving(3)
        run.finish(hosts[1:])
        shipped = taker.relay.shipped - shipped
        expect_shipped(shipped, 0.3, 1, f"after the giver was {what}")
        if reason not in taker.log() or "asking the coordinator for the" not in taker.log():
            raise Failed(f"the worker does not say why: {taker.log()[-700:]}")
        return f"{shipped} bytes from the coordinator within {time.monotonic() - started:.1f} s"


def kill(machine):
    machine.worker.process.kill()


def freeze(machine):
    machine.worker.process.send_signal(signal.SIGSTOP)


def flip(data):
    """A byte in the middle of what is a shard's, mostly."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def check_nonsense(bench, spoil):
    """Both spoil what they give: everything comes from the coordinator, and each says so."""
    with machines(bench) as hosts:
        for host in hosts:
            host.relay.spoil = spoil
        Run(bench, hosts).finish(hosts)
        shipped = sum(host.relay.shipped for host in hosts)
        if not any("asking the coordinator for the" in host.log() for host in hosts):
            raise Failed(f"no worker says what it was given: {hosts[0].log()[-700:]}")
        if sum(host.relay.askers for host in hosts) > 2:
            raise Failed("a worker is asked again by one that it failed")
        return f"{shipped} bytes from the coordinator"


def main():
    bench = Bench(os.path.dirname(os.path.abspath(sys.argv[1])), None, True)
    bench.prompt = bench.write("prompt.json", json.dumps([3, 50, 17, 200]))
    bench.answers = {}
    with bench:
        for tokens in (TOKENS, LONG_TOKENS):
            alone = subprocess.run(command(bench, tokens), capture_output=True, text=True, timeout=NETWORK_TIMEOUT_S)
            bench.answers[tokens] = json.loads(alone.stdout)["ids"]
        for name, check in (
            ("two workers start at once", lambda: check_start(bench, 2)),
            ("three workers start at once", lambda: check_start(bench, 3)),
            ("a worker comes back with nothing", lambda: check_returns(bench)),
            ("a worker is drained", lambda: check_drained(bench)),
            ("a worker is killed while it gives", lambda: check_gone(bench, "killed", kill, "connection lost")),
            ("a worker freezes while it gives", lambda: check_gone(bench, "frozen", freeze, "no sign of life any more")),
            ("workers give nonsense", lambda: check_nonsense(bench, lambda data: peers.garbage(len(data)))),
            ("workers give what is damaged", lambda: check_nonsense(bench, flip)),
        ):
            bench.case(name, check)
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
