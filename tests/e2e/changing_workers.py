#!/usr/bin/python3
"""Workers that come and go while a chat waits for its user, and workers that are added to the cluster file and taken out:

    changing_workers.py SKEIN [CASE]

Real daemons, and a person on a pseudo-terminal who types nothing until what happened was dealt with. The next answer is
that of an undisturbed chat in one process. A generation lasts until it was dealt with; its tokens are those of one that
was left alone."""

import contextlib
import json
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
from failover import Link, ids_of  # noqa: E402

QUESTIONS = (SUM, "What is 15 plus 0?")
TIMEOUT_S = 60
LEAVES = "leaves; others hold what it held"
CHANGED = "cluster.yaml has changed: workers added {}, removed {};"
JOINING_MAX = 8
TOKENS = 4000  # more than there is time for over a Link


def wait_for(text_of, part, times=1):
    """Until `text_of` gives a text with the part so many times; returns the first line that has it."""
    deadline = time.monotonic() + TIMEOUT_S
    while text_of().count(part) < times:
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

    def wait_for(self, part, times=1):
        return wait_for(self.text, part, times)

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


ALL_THERE = ("--memory", "0", "--placement", "experts", "--replicas", "off")


def on_workers(*hosts):
    return (*ALL_THERE, "--workers", ",".join(host.address for host in hosts))


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


# ---- The cluster file. ----


class ClusterFile:
    """cluster.yaml with these workers; edited in place, or replaced as ansible and most editors do."""

    def __init__(self, bench, *hosts):
        self.bench, self.path = bench, bench.path("cluster.yaml")
        self.edit(*hosts)
        self.options = (*ALL_THERE, "--cluster", self.path)

    def text(self, hosts, more=""):
        return "workers:\n" + "".join(f"  - '{getattr(host, 'address', host)}'\n" for host in hosts) + more

    def edit(self, *hosts, more=""):
        self.bench.write("cluster.yaml", self.text(hosts, more))

    def replace(self, *hosts):
        os.rename(self.bench.write("cluster.new", self.text(hosts)), self.path)


class Generation:
    """An answer without an end, by a worker whose messages take their time."""

    def __init__(self, bench, *options):
        self.bench, self.log = bench, bench.path("run.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command(TOKENS, "--verbose", *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def command(self, tokens, *options):
        return [
            self.bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--max-tokens", str(tokens), "--temperature", "0",
            "--ignore-eos", "--json", "--threads", "1", *options,
        ]  # fmt: skip

    def __enter__(self):
        wait_for(self.all_text, "data plane: ")  # all is loaded
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def all_text(self):
        with open(self.log, errors="replace") as f:
            text = f.read()
        if self.process.poll() is not None:
            raise Failed(f"it ended: {text[-600:]}")
        return text

    def text(self):
        return "".join(line for line in self.all_text().splitlines(True) if "debug" not in line)

    def wait_for(self, part):
        return wait_for(self.text, part)

    def finish(self):
        """Ctrl-C; returns the figures of workers by address, after the tokens so far were found to be right."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        ids = ids_of(out)
        reference = subprocess.run(self.command(len(ids)), capture_output=True, text=True, timeout=TIMEOUT_S)
        require(ids == ids_of(reference.stdout), f"other tokens than those of one process, among {len(ids)}")
        stats = json.loads(out)["stats"]
        require(len(stats["fanout"]) == len(stats["workers"]), f"the fan-out is {stats['fanout']}")
        return {worker["address"]: worker for worker in stats["workers"]}


def check_exchanged(bench):
    """One worker is added while tokens are generated, then the other one is taken out: nothing but the new one is left."""
    with workers(bench) as (first, second), Link(first.address) as link:
        file = ClusterFile(bench, link)
        with Generation(bench, *file.options) as generation:
            file.replace(link, second)
            generation.wait_for(CHANGED.format(1, 0))
            generation.wait_for(f"worker {second.address} joins with 0 shards")
            file.edit(second)
            generation.wait_for(CHANGED.format(0, 1))
            line = generation.wait_for(f"worker {link.address} {LEAVES}")
            found = generation.finish()
            require(set(found) == {link.address, second.address}, f"figures are of {list(found)}")
            require(found[second.address]["rows"] > 0, f"it did nothing: {found[second.address]}")
        # Nobody has it any more, and it is still up.
        with Conversation(bench, *on_workers(first)) as conversation:
            conversation.finish()
        return line


def check_removed(bench):
    """While the chat waits, a worker is taken out, and later put back."""
    with workers(bench) as (first, second):
        file = ClusterFile(bench, first, second)
        with Conversation(bench, *file.options) as conversation:
            file.replace(second)
            line = conversation.wait_for(f"worker {first.address} {LEAVES}")
            # Another one may have it now.
            wait_for(first.text, "says goodbye")
            with Conversation(bench, *on_workers(first)) as other:
                other.finish()
            file.replace(second, first)
            conversation.wait_for(f"worker {first.address} is back")
            file.edit(first)
            conversation.wait_for(f"worker {second.address} {LEAVES}")
            conversation.finish()
        first.check_alive()
        second.check_alive()
        return line


WRONG = (
    ("linq: {gbit_per_s: 1}\n", "cluster.yaml:4: unknown key linq; did you mean link; keys are link, workers, coordinator"),
    ("  - [\n", "cluster.yaml:5: not valid YAML"),
    ("  - nowhere\n", "nowhere is not an address; write HOST:PORT"),
)


def check_broken(bench):
    with workers(bench) as (first, second):
        file = ClusterFile(bench, first)
        with Conversation(bench, *file.options) as conversation:
            for warnings, (more, place) in enumerate(WRONG):
                file.edit(first, second, more=more)
                conversation.wait_for(place)
                conversation.wait_for("stays as it was", 1 + warnings)
            os.remove(file.path)
            conversation.wait_for("cannot open cluster file")
            conversation.wait_for("stays as it was", 1 + len(WRONG))
            file.replace(first, second)
            conversation.wait_for(f"worker {second.address} joins")
            file.edit(first, second, more="link: {gbit_per_s: 2.5}\n")
            line = conversation.wait_for(CHANGED.format(0, 0))
            require_equal("warnings", conversation.text().count("stays as it was"), 1 + len(WRONG))
            conversation.finish()
        return line


def check_limit(bench):
    """So many can be added and no more; those that are not there do no harm."""
    with workers(bench, 1) as (first,):
        file = ClusterFile(bench, first)
        with Conversation(bench, *file.options) as conversation:
            file.edit(first, *(f"127.0.0.1:{port}" for port in range(1, JOINING_MAX + 3)))
            conversation.wait_for(CHANGED.format(JOINING_MAX, 0))
            line = conversation.wait_for(f"2 more workers take part from the next start only; {JOINING_MAX} addresses")
            conversation.wait_for("worker 127.0.0.1:8: connection refused")
            file.edit(first)
            conversation.wait_for(CHANGED.format(0, JOINING_MAX))
            conversation.finish()
        return line


def main():
    skein = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/bin/skein")
    bench = Bench(os.path.dirname(skein), sys.argv[2] if len(sys.argv) > 2 else None, True)
    try:
        with Chat(bench, "--threads", "1") as chat:
            bench.answers = [chat.ask(question) for question in QUESTIONS]
        for name, check in (
            ("a worker is drained while the chat waits", check_drained),
            ("a worker is ended by SIGTERM while the chat waits", check_terminated),
            ("workers are lost and come back while the chat waits", check_killed),
            ("a worker joins while the chat waits", check_joins),
            ("a worker is added to the file and another one taken out", check_exchanged),
            ("a worker is taken out of the file while the chat waits, and put back", check_removed),
            ("a file that is wrong", check_broken),
            ("more workers than can join", check_limit),
        ):
            bench.case(name, lambda: check(bench))
    finally:
        shutil.rmtree(bench.folder)
    print(f"{bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0 or bench.passed == 0)


if __name__ == "__main__":
    main()
