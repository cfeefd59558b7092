#!/usr/bin/python3
"""Workers that come and go while a chat waits for its user:

    changing_workers.py SKEIN

Real daemons, and a person on a pseudo-terminal who types nothing until what happened was dealt with. The next answer is
that of an undisturbed chat in one process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # noqa: E402
from command_line_chat import CTRL_D, Chat  # noqa: E402
from command_line_options import SUM, require, require_equal  # noqa: E402
from error_bench import DEMO, Bench, Failed, Worker  # noqa: E402

QUESTIONS = (SUM, "What is 15 plus 0?")
TIMEOUT_S = 60
LEAVES = "leaves; others hold what it held"


def wait_for(text_of, part):
    """Until `text_of` gives a text with the part; returns the line that has it."""
    deadline = time.monotonic() + TIMEOUT_S
    while part not in text_of():
        if time.monotonic() > deadline:
            raise Failed(f"it does not say '{part}': {text_of()[-600:]}")
        time.sleep(0.02)
    return next(line for line in text_of().splitlines() if part in line)


class Conversation:
    """A chat on these workers, which may be a list of addresses or options."""

    def __init__(self, bench, *options):
        self.bench, self.log = bench, bench.path("chat.log")
        self.chat = Chat(bench, "--threads", "1", "--verbose", *options, log=self.log)

    def __enter__(self):
        self.chat.__enter__()
        require_equal("the first answer", self.chat.ask(QUESTIONS[0]), self.bench.answers[0])
        return self

    def __exit__(self, *_):
        self.chat.__exit__()

    def text(self):
        with open(self.log, errors="replace") as f:
            return "".join(line for line in f if "debug" not in line)

    def wait_for(self, part):
        return wait_for(self.text, part)

    def finish(self):
        """The user is back."""
        require_equal("the second answer", self.chat.ask(QUESTIONS[1]), self.bench.answers[1])
        self.chat.type(CTRL_D)
        require_equal("the exit status", self.chat.end(), 0)
        require("Sanitizer" not in self.text(), self.text()[-800:])


@contextlib.contextmanager
def workers(bench, count=2):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(bench, f"worker{i}", ["--model", DEMO])) for i in range(count)]


def on_workers(*hosts):
    return ("--memory", "0", "--placement", "experts", "--replicas", "off", "--workers", ",".join(host.address for host in hosts))


def wait_end(worker):
    if worker.process.wait(TIMEOUT_S) != 0:
        raise Failed(f"the worker ends with {worker.process.returncode}: {worker.text()}")


def check_drained(bench):
    with workers(bench) as hosts, Conversation(bench, *on_workers(*hosts)) as conversation:
        subprocess.run([bench.skein, "drain", hosts[0].address], check=True, capture_output=True, timeout=TIMEOUT_S)
        wait_end(hosts[0])
        line = conversation.wait_for(LEAVES)
        conversation.finish()
        hosts[1].check_alive()
        return line


def check_terminated(bench):
    with workers(bench) as hosts, Conversation(bench, *on_workers(*hosts)) as conversation:
        hosts[1].process.send_signal(signal.SIGTERM)
        line = conversation.wait_for(LEAVES)
        wait_end(hosts[1])
        conversation.finish()
        return line


def check_killed(bench):
    """Its shards are with the other one before the user types, and it is taken back."""
    with workers(bench) as hosts, Conversation(bench, *on_workers(*hosts)) as conversation:
        hosts[0].process.kill()
        line = conversation.wait_for(f"{hosts[1].address} takes over")
        hosts[0].process.wait()
        with Worker(bench, "again", ["--model", DEMO], hosts[0].address):
            conversation.wait_for(f"worker {hosts[0].address} is back")
            hosts[1].process.kill()
            conversation.wait_for(f"{hosts[0].address} takes over")
            conversation.finish()
        return line


def check_joins(bench):
    """One that was off when the chat began gets all of another one's shards."""
    with workers(bench, 1) as (first,):
        address = peers.free_address()
        options = on_workers(first)
        with Conversation(bench, *options[:-1], f"{options[-1]},{address}") as conversation:
            with Worker(bench, "late", ["--model", DEMO], address) as late:
                conversation.wait_for(f"worker {address} joins with 0 shards")
                first.process.send_signal(signal.SIGTERM)
                line = conversation.wait_for(f"{address} takes over")
                wait_end(first)
                conversation.finish()
                late.check_alive()
        return line


def main():
    skein = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/bin/skein")
    bench = Bench(os.path.dirname(skein), None, True)
    try:
        with Chat(bench, "--threads", "1") as chat:
            bench.answers = [chat.ask(question) for question in QUESTIONS]
        for name, check in (
            ("a worker is drained while the chat waits", check_drained),
            ("a worker is ended by SIGTERM while the chat waits", check_terminated),
            ("workers are lost and come back while the chat waits", check_killed),
            ("a worker joins while the chat waits", check_joins),
        ):
            bench.case(name, lambda: check(bench))
    finally:
        shutil.rmtree(bench.folder)
    print(f"{bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0 or bench.passed == 0)


if __name__ == "__main__":
    main()
