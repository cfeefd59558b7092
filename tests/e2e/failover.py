#!/usr/bin/python3
"""Workers that die, freeze, are unplugged, talk nonsense or are drained while a generation runs, at random moments:

    failover.py SKEIN [--rounds N] [--seed N] [--ship]

Real daemons behind relays that make each message take a millisecond, so that a generation lasts for seconds. Whatever
happens, the tokens must be those of an undisturbed run in one process. With --ship workers have no copy of the model: they
are sent their shards, or get them from each other."""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from error_bench import DEMO, Bench, Failed, Worker  # noqa: E402

WORKERS = 3
PROMPT_TOKENS, TOKENS, BATCH = 60, 120, 16
DELAY_S = 0.001
SLOW_DELAY_S = 0.02  # so that a generation lasts for minutes, longer than anything that is waited for
UNDISTURBED_S = 1.2  # within which a run is surely at work: loading, the prompt and the answer
RUN_TIMEOUT_S = 90
EXPERTS_BYTES = 6 << 20
FLAPPING_TOKENS, FLAPS = 2000, 3
BALANCED_TOKENS = 4000  # as many as the model has positions for
LOOKED_AT_S = 8  # load is looked at every five seconds
BALANCED_S = 2  # in which copies are used
INTERRUPTED = 130  # exit status


class Link(peers.Peer):
    """A wire to the worker at `target`: slow, can be unplugged, and can carry nonsense once."""

    def __init__(self, target):
        self.target, self.delay_s = target, DELAY_S
        self.plugged, self.spoil = threading.Event(), threading.Event()
        self.plugged.set()

    def serve(self, client):
        self.plugged.wait()
        worker = peers.connect(self.target)
        worker.settimeout(None)
        self.open.append(worker)
        back = threading.Thread(target=self.move, args=(worker, client, True), daemon=True)
        back.start()
        self.move(client, worker, False)
        back.join()

    def move(self, source, sink, is_answer):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                time.sleep(self.delay_s)
                self.plugged.wait()
                if is_answer and self.spoil.is_set():
                    self.spoil.clear()
                    data = peers.garbage(len(data))
                sink.sendall(data)
        self.end(source)
        self.end(sink)


class Machine:
    """A worker that can be started again at the same address, and its link."""

    def __init__(self, bench, name, memory=None):
        self.bench, self.name = bench, name
        self.args = ([] if bench.ship else ["--model", DEMO]) + (["--memory", str(memory)] if memory else [])
        self.worker = Worker(bench, name, self.args)
        self.link = Link(self.worker.address).__enter__()

    def held_bytes(self):
        """What it said last that it holds."""
        return int(re.findall(r"ready with \d+ shards, .*\((\d+) bytes\)", self.worker.text())[-1])

    def start_again(self):
        self.worker.__exit__()
        self.worker = Worker(self.bench, self.name, self.args, self.worker.address)

    def end(self):
        self.link.plugged.set()
        self.link.__exit__()
        self.worker.process.send_signal(signal.SIGCONT)
        self.worker.__exit__()


def command(bench, *args):
    return [
        bench.skein, "run", "--model", DEMO, "--prompt-ids", bench.prompt, "--max-tokens", str(TOKENS),
        "--batch-tokens", str(BATCH), "--temperature", "0", "--ignore-eos", "--json", "--threads", "1", *args,
    ]  # fmt: skip


def ids_of(text):
    try:
        return json.loads(text)["ids"]
    except (ValueError, KeyError):
        raise Failed(f"no result: {text[-300:]!r}") from None


# ---- What may happen. Each takes the machine, and returns what is to be done some time later. ----


def kill(machine):
    machine.worker.process.kill()


def kill_and_start(machine):
    machine.worker.process.kill()
    return machine.start_again


def freeze(machine):
    machine.worker.process.send_signal(signal.SIGSTOP)


def freeze_and_wake(machine):
    freeze(machine)
    return lambda: machine.worker.process.send_signal(signal.SIGCONT)


def unplug(machine):
    machine.link.plugged.clear()


def unplug_and_plug(machine):
    unplug(machine)
    return machine.link.plugged.set


def talk_nonsense(machine):
    machine.link.spoil.set()


def drain(machine):
    # Not waited for: it ends when the worker does, which may be after the run.
    subprocess.Popen(
        [machine.bench.skein, "drain", machine.worker.address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def terminate(machine):
    machine.worker.process.terminate()


EVENTS = (kill, kill_and_start, freeze, freeze_and_wake, unplug, unplug_and_plug, talk_nonsense, drain, terminate)


@contextlib.contextmanager
def machines(bench, memory=None):
    all_of_them = [Machine(bench, f"worker{i}", memory) for i in range(WORKERS)]
    try:
        yield all_of_them
    finally:
        for machine in all_of_them:
            machine.end()


class Run:
    """A generation on these machines that has begun to load."""

    def __init__(self, bench, hosts, *args):
        self.bench, self.log = bench, bench.path("run.log")
        self.started = time.monotonic()
        addresses = ",".join(host if isinstance(host, str) else host.link.address for host in hosts)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command(bench, "--verbose", "--memory", "0", "--workers", addresses, *args),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while "-> loading" not in self.text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"it does not begin: {self.text()[-500:]}")
            time.sleep(0.01)

    def text(self):
        """What it said, without the details."""
        with open(self.log, errors="replace") as f:
            return "".join(line for line in f if "debug" not in line or "-> loading" in line)

    def end(self):
        """The exit status and the answer."""
        try:
            out, _ = self.process.communicate(timeout=RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"no end after {RUN_TIMEOUT_S} s: {self.text()[-600:]}") from None
        return self.process.returncode, out

    def finish(self):
        """What it said, after its tokens were found to be right."""
        status, out = self.end()
        text = self.text()
        if "Sanitizer" in text or status != 0:
            raise Failed(f"exit status {status}: {text[-800:]}")
        if ids_of(out) != self.bench.tokens:
            raise Failed(f"other tokens: {text[-800:]}")
        return text


def check_event(bench, event, after_s, later_s, victim, *args):
    with machines(bench) as hosts:
        run = Run(bench, hosts, *args)
        time.sleep(after_s)
        later = event(hosts[victim])
        time.sleep(later_s)
        if later:
            later()
        log = run.finish()
        for i, machine in enumerate(hosts):
            if i != victim:
                machine.worker.check_alive()
        lines = [line for line in log.splitlines() if "error" in line or "warning" in line]
        return lines[-1] if lines else "it was over by then"


def check_memory(bench):
    """Two machines that are left have no room; it says so and waits until the third is back."""
    with machines(bench, memory=EXPERTS_BYTES * 10 // 27) as hosts:
        run = Run(bench, hosts, "--placement", "experts", "--replicas", "off")
        time.sleep(UNDISTURBED_S / 2)
        hosts[1].worker.process.kill()
        time.sleep(1.5)
        if run.process.poll() is not None:
            raise Failed(f"it ended without its experts: {run.text()[-500:]}")
        hosts[1].start_again()
        log = run.finish()
        for part in ("memory too little", "is back", "goes on after"):
            if part not in log:
                raise Failed(f"it does not say '{part}': {log[-600:]}")
        return next(line for line in log.splitlines() if "memory too little" in line)


def wait_for(run, what, is_so):
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not is_so():
        if run.process.poll() is not None or time.monotonic() > deadline:
            run.process.kill()
            raise Failed(f"{what} does not come: {run.text()[-800:]}")
        time.sleep(0.05)


def slow_down(hosts, delay_s):
    for machine in hosts:
        machine.link.delay_s = delay_s


def check_joins_late(bench):
    """A machine that is switched on later is of use: here the only one with room for what another had."""
    with machines(bench, memory=EXPERTS_BYTES * 16 // 27) as hosts:
        hosts[2].worker.__exit__()
        run = Run(bench, hosts, "--placement", "experts", "--replicas", "off")
        slow_down(hosts, SLOW_DELAY_S)
        time.sleep(UNDISTURBED_S / 3)
        hosts[2].start_again()
        wait_for(run, "the third machine", lambda: "joins with 0 shards" in run.text())
        slow_down(hosts, DELAY_S)
        hosts[0].worker.process.kill()
        log = run.finish()
        for part in ("goes on without 1 of 3 workers", f"{hosts[2].link.address} takes over"):
            if part not in log:
                raise Failed(f"it does not say '{part}': {log[-600:]}")
        return next(line for line in log.splitlines() if f"{hosts[2].link.address} takes over" in line)


def check_balance(bench):
    """A worker that joins is soon given copies of what the other one computes, and tokens stay the same."""
    with machines(bench) as hosts:
        hosts[1].worker.__exit__()
        # Without the links, so that computing is what takes time.
        addresses = [machine.worker.address for machine in hosts[:2]]
        run = Run(bench, addresses, "--placement", "experts", "--max-tokens", str(BALANCED_TOKENS))
        hosts[1].start_again()
        deadline = run.started + RUN_TIMEOUT_S
        while "gets copies of" not in run.text() and run.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if run.process.poll() == 0 and time.monotonic() - run.started < LOOKED_AT_S:
            print("skipped the balance of load: the run was over before it was looked at; take a build with sanitizers")
            return None
        time.sleep(BALANCED_S)
        run.process.send_signal(signal.SIGINT)
        status, out = run.end()
    ids = ids_of(out) if status in (0, INTERRUPTED) else []
    reference = subprocess.run(
        command(bench, "--max-tokens", str(max(1, len(ids)))), capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )
    if not ids or ids != ids_of(reference.stdout):
        raise Failed(f"exit status {status}, or other tokens: {run.text()[-800:]}")
    helper = json.loads(out)["stats"]["workers"][1]
    if helper["experts"] == 0 or helper["rows"] == 0:
        raise Failed(f"the copies are not used: {helper}: {run.text()[-800:]}")
    lines = [line for line in run.text().splitlines() if "gets copies of" in line]
    if not lines:
        raise Failed(f"no copies were made: {run.text()[-800:]}")
    return lines[0]


FLAPPING = (
    ("--placement", "experts"),
    ("--placement", "experts", "--memory", "64M"),
    ("--placement", "slices", "--overlap", "on"),
)


def check_flapping(bench, *args):
    """A machine that comes and goes: others take over what it had, and give it back each time."""
    tokens = ["--max-tokens", str(FLAPPING_TOKENS)]
    reference = subprocess.run(
        command(bench, *tokens), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=RUN_TIMEOUT_S
    )
    with machines(bench) as hosts:
        slow_down(hosts, SLOW_DELAY_S)
        run = Run(bench, hosts, "--replicas", "off", "--offload", "off", *args, *tokens)
        victim, others = hosts[1], (hosts[0], hosts[2])
        wait_for(run, "the first token", lambda: all("ready with" in machine.worker.text() for machine in hosts))
        planned = [machine.held_bytes() for machine in hosts]
        for i in range(FLAPS):
            victim.worker.process.kill()
            wait_for(
                run, "a survivor that takes over", lambda: sum(m.held_bytes() for m in others) > planned[0] + planned[2]
            )
            victim.start_again()
            wait_for(run, "the machine's return", lambda: len(re.findall("(is back|joins) with", run.text())) > i)
            wait_for(
                run, f"memory that is given back the {i + 1}. time", lambda: [m.held_bytes() for m in hosts] == planned
            )
        run.process.send_signal(signal.SIGINT)
        _, out = run.end()
        if "Sanitizer" in run.text():
            raise Failed(run.text()[-800:])
        if "--memory" in args and "this machine takes over" not in run.text():
            raise Failed(f"nothing is taken over by this machine: {run.text()[-800:]}")
        ids, expected = ids_of(out), ids_of(reference.stdout)
        if not ids or ids != expected[: len(ids)]:
            raise Failed(f"other tokens: {run.text()[-800:]}")
        for machine in hosts:
            machine.worker.check_alive()
        return f"{len(ids)} tokens, {FLAPS} losses; each machine holds {planned} bytes as before"


def check_all_lost(bench):
    """All workers are gone at once, and come back."""
    with machines(bench) as hosts:
        run = Run(bench, hosts)
        time.sleep(UNDISTURBED_S / 2)
        for machine in hosts:
            machine.worker.process.kill()
        time.sleep(1)
        for machine in hosts:
            machine.start_again()
        return next(line for line in run.finish().splitlines() if "goes on after" in line)


def check_gives_up(bench):
    with machines(bench) as hosts:
        run = Run(bench, hosts, "--worker-timeout", "2")
        time.sleep(UNDISTURBED_S / 2)
        for machine in hosts:
            machine.worker.process.kill()
        status, _ = run.end()
        if status != 1 or "raise --worker-timeout" not in run.text():
            raise Failed(f"exit status {status}: {run.text()[-500:]}")


def check_drain_idle(bench):
    with Worker(bench, "idle") as worker:
        result = subprocess.run([bench.skein, "drain", worker.address], capture_output=True, text=True, timeout=30)
        if result.returncode != 0 or "has ended" not in result.stderr:
            raise Failed(f"exit status {result.returncode}: {result.stderr}")
        if worker.process.wait(timeout=10) != 0:
            raise Failed(f"the worker ends with {worker.process.returncode}: {worker.text()}")


def random_cases(bench, rounds, seed):
    chance = random.Random(seed)
    for i in range(rounds):
        event = EVENTS[i % len(EVENTS)]
        after_s = chance.uniform(0, UNDISTURBED_S)
        later_s = chance.uniform(0.2, 2.5)
        victim = chance.randrange(WORKERS)
        placement = chance.choice(("experts", "slices"))
        replicas = chance.choice(("off", "spare"))
        overlap = chance.choice(("on", "off"))
        offload = chance.choice(("on", "off"))
        name = (
            f"{event.__name__} worker {victim} after {after_s:.2f} s, {later_s:.2f} s later the rest; "
            f"{placement}, replicas {replicas}, overlap {overlap}, offload {offload}"
        )
        args = ("--placement", placement, "--replicas", replicas, "--overlap", overlap, "--offload", offload)
        bench.case(name, lambda: check_event(bench, event, after_s, later_s, victim, *args))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("skein", nargs="?", default="build/bin/skein")
    parser.add_argument("--rounds", type=int, default=len(EVENTS))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    bench = Bench(os.path.dirname(os.path.abspath(args.skein)), None, True)
    bench.ship = args.ship
    bench.prompt = bench.write("prompt.json", json.dumps([3 + 7 * i % 900 for i in range(PROMPT_TOKENS)]))
    print(f"seed {args.seed}", flush=True)
    with bench:
        reference = subprocess.run(command(bench), capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
        bench.tokens = ids_of(reference.stdout)
        random_cases(bench, args.rounds, args.seed)
        for name, check in (
            ("memory is short until the worker is back", check_memory),
            ("a worker joins late", check_joins_late),
            ("load moves to a worker that joins", check_balance),
            ("all workers are lost and come back", check_all_lost),
            ("nobody comes back", check_gives_up),
            ("an idle worker is drained", check_drain_idle),
        ):
            bench.case(name, lambda: check(bench))
        for options in FLAPPING[-1:] if args.ship else FLAPPING:
            bench.case(f"a machine comes and goes, {' '.join(options)}", lambda: check_flapping(bench, *options))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
