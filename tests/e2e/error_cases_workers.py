"""Errors on the way to workers and in them: peers that are no workers, frames that were spoilt, daemons that die."""

import contextlib
import math
import re
import signal
import struct
import subprocess
import threading
import time

import peers
from error_bench import NETWORK_TIMEOUT_S, READY_TIMEOUT_S, V1, V3, Failed, Worker, check_failure, run_args
from peers import FakeWorker, Proxy

LONG_TOKENS = 2000


def unreachable_cases(bench):
    """Peers that are no workers."""
    silent = threading.Event()

    def case(name, behave, *places):
        def check():
            with FakeWorker(behave) as fake:
                return bench.refuse_workers(fake.address, re.escape(fake.address), *places)

        bench.case(f"worker: {name}", check)

    def refused():
        address = peers.free_address()
        return bench.refuse_workers(address, re.escape(address))

    def send(data):
        # The coordinator closes first; then nothing is lost on the way.
        def behave(connection):
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass

        return behave

    bench.case("worker: nobody listens", refused)
    bench.case(
        "worker: a name that does not exist",
        lambda: bench.refuse_workers("no-such-host.invalid:7717", "no-such-host.invalid"),
    )
    case("never answers", lambda connection: silent.wait(NETWORK_TIMEOUT_S))
    case("closes without a word", lambda connection: None)
    case("speaks HTTP", send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
    case("answers garbage", send(peers.garbage(4096)))
    case("answers garbage of a plausible length", send(struct.pack("<I", 300) + peers.garbage(300)))
    case("announces 2 GiB", send(struct.pack("<I", 0x7FFFFFFF)))
    case("speaks version 99", send(peers.welcome(version=99)), "version|99")
    case("speaks version 0", send(peers.welcome(version=0)), "version|protocol 0")
    case("sends an empty message", send(struct.pack("<I", 0)))
    case("greets out of turn", send(peers.control_message(8, b"")))
    case(
        "says so in a line of its own",
        send(peers.error(b"sorry\nskein: error: forged; \x1b[31mgo on")),
        "sorry",
    )
    case("says so in broken UTF-8", send(peers.error(b"sorry \xff\xfe; try another")))
    case("closes in the middle of its greeting", lambda connection: connection.sendall(peers.welcome()[:9]))
    def assigned(behave):
        """Behaves well until it has an assignment."""

        def join(connection):
            peers.join(connection)
            peers.receive_kind(connection, peers.CONTROL_ASSIGN)
            behave(connection)

        return join

    case("closes when shards are assigned", assigned(lambda connection: None))
    case(
        "falls silent when shards are assigned", assigned(lambda connection: silent.wait(NETWORK_TIMEOUT_S))
    )
    case(
        "wants shards that nobody assigned",
        assigned(
            send(
                peers.control_message(
                    5, peers.field_bytes(1, peers.varint(0)) + peers.field_bytes(2, peers.varint(1 << 31))
                )
            )
        ),
        "slots",
    )
    case("is ready, but has no data plane", assigned(send(peers.control_message(8, b""))))
    silent.set()


def measured_cases(bench):
    """Workers that measure nonsense, or do not answer probes as they should."""

    def figures_case(name, answer, *places):
        def behave(connection):
            connection.sendall(peers.welcome())
            formats = peers.measured_formats(peers.receive_kind(connection, peers.CONTROL_MEASURE))
            connection.sendall(answer(formats))
            while connection.recv(1 << 16):
                pass

        def check():
            with FakeWorker(behave) as fake:
                return bench.refuse_workers(fake.address, re.escape(fake.address), *(places or ("figures",)))

        bench.case(f"figures: {name}", check)

    def rates(count, value):
        return [value] + [1e10] * (count - 1)

    for name, value in (
        ("no number", math.nan),
        ("infinite", math.inf),
        ("negative", -1e10),
        ("zero", 0.0),
        ("1e19", 1e19),
        ("a denormal", 5e-324),
    ):
        figures_case(f"a reading rate that is {name}", lambda f, v=value: peers.figures(f, read=v))
        figures_case(
            f"a decoding rate that is {name}", lambda f, v=value: peers.figures(f, decode=rates(len(f), v))
        )
        figures_case(
            f"a multiplying rate that is {name}", lambda f, v=value: peers.figures(f, batch=rates(len(f), v))
        )
    figures_case("none at all", lambda f: peers.control_message(12, b""))
    figures_case("of no format", lambda f: peers.figures([]))
    figures_case("fewer rates than formats", lambda f: peers.figures(f, decode=[1e10] * (len(f) + 1)))
    figures_case("more rates than formats", lambda f: peers.figures(f, batch=[1e10] * 1000))
    figures_case("a format twice", lambda f: peers.figures(f + f[:1]))
    figures_case("a format that nobody asked for", lambda f: peers.figures(f + [next(i for i in range(9) if i not in f)]))
    figures_case("a format that does not exist", lambda f: peers.figures(f[1:] + [77]))
    figures_case("a format that overflows", lambda f: peers.figures(f[1:] + [(1 << 32) - 1]))
    figures_case("twice", lambda f: 2 * peers.figures(f), "Figures")
    figures_case("a sentence instead", lambda f: peers.error(b"no memory; lower its --memory"), "no memory")

    def probe_case(name, answer, *places):
        """`answer(sequence, count)`: the bytes that answer the first probe."""

        def probe(connection):
            fields = peers.WIRE_HEADER.unpack(peers.receive_frame(connection))
            connection.sendall(answer(fields[3], fields[6]))

        def behave(connection):
            peers.join(connection)
            while connection.recv(1 << 16):
                pass

        def check():
            with FakeWorker(behave, probe) as fake:
                return bench.refuse_workers(fake.address, re.escape(fake.address), *places)

        bench.case(f"probes: {name}", check)

    def never():
        """Alive, but its data plane hangs."""

        def behave(connection):
            peers.join(connection)
            while True:
                connection.sendall(peers.control_message(peers.CONTROL_HEALTH, b""))
                time.sleep(1)

        ended = threading.Event()
        with FakeWorker(behave, lambda connection: ended.wait(NETWORK_TIMEOUT_S)) as fake:
            line = bench.refuse_workers(fake.address, re.escape(fake.address), "10 s")
        ended.set()
        return line

    bench.case("probes: never answers", never)

    def reply(sequence, **changes):
        return peers.change_header(peers.probe_reply(sequence, 0), **changes)

    probe_case("closes instead of an answer", lambda sequence, count: b"", "link")
    probe_case("garbage for an answer", lambda sequence, count: peers.garbage(500))
    probe_case("half an answer", lambda sequence, count: reply(sequence)[:20], "link")
    probe_case("an answer to something else", lambda sequence, count: reply(sequence + 1), "probe")
    probe_case("more than was asked for", lambda sequence, count: peers.probe_reply(sequence, 64), "probe")
    probe_case("a reply of 2^60 bytes", lambda sequence, count: reply(sequence, payload_bytes=1 << 60))
    probe_case("a probe for an answer", lambda sequence, count: reply(sequence, type=peers.WIRE_PROBE), "probe")
    probe_case("an empty sum", lambda sequence, count: reply(sequence, type=peers.WIRE_COMBINE, payload_bytes=16) + bytes(16))


CONTROL, FRAME = peers.receive_control, peers.receive_frame


def spoilt_cases(bench, worker):
    """A real worker behind a proxy that spoils what passes; it must serve a good run afterwards."""
    first = peers.change_first

    def header(**changes):
        return first(FRAME, lambda frame: peers.change_header(frame, **changes))

    def next_sequence(frame):
        return peers.change_header(
            frame, sequence=peers.WIRE_HEADER.unpack(frame[: peers.WIRE_HEADER.size])[3] + 1
        )

    def flip(frame):
        return frame[:20] + bytes([frame[20] ^ 1]) + frame[21:]

    def bad_slot(frame):
        size = peers.WIRE_HEADER.size
        return frame[: size + 4] + b"\xff\xff\xff\x7f" + frame[size + 8 :]

    def before_assignment(message):
        return peers.control_kind(message) != peers.CONTROL_ASSIGN

    largest = dict(rows=8192, hidden=65536, payload_bytes=16 + 8192 * 65536 * 4)
    cases = [
        ("control", "reply", "garbage instead of a greeting", first(CONTROL, lambda m: peers.garbage(500))),
        ("control", "reply", "half a greeting", peers.cut_first(CONTROL)),
        ("control", "request", "garbage after the greeting", first(CONTROL, lambda m: peers.garbage(5000))),
        ("control", "request", "half an assignment", peers.cut_first(CONTROL, before_assignment)),
        (
            "control",
            "request",
            "an assignment of garbage",
            first(CONTROL, lambda m: m[:20] + peers.garbage(len(m) - 20), before_assignment),
        ),
        ("control", "request", "a wish to measure garbage", first(CONTROL, lambda m: m[:6] + peers.garbage(len(m) - 6))),
        (
            "control",
            "request",
            "a wish to measure a format that does not exist",
            first(CONTROL, lambda m: peers.control_message(11, peers.field_bytes(1, b"\x4d"))),
        ),
        ("probe", "request", "garbage for a probe", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("probe", "request", "half a probe", peers.cut_first(FRAME)),
        ("probe", "request", "a probe that wants 4 GiB", header(entries=(1 << 32) - 1)),
        ("probe", "request", "a probe of 2^60 bytes", header(payload_bytes=1 << 60)),
        ("probe", "request", "rows before there is an assignment", header(type=peers.WIRE_DISPATCH, payload_bytes=16)),
        ("probe", "reply", "garbage for an answer", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("probe", "reply", "half an answer", peers.cut_first(FRAME)),
        ("data", "reply", "garbage for a reply", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("data", "reply", "a damaged header", first(FRAME, flip)),
        ("data", "reply", "version 7", header(version=7)),
        ("data", "reply", "an unknown type", header(type=77)),
        ("data", "reply", "a dispatch for a reply", header(type=peers.WIRE_DISPATCH)),
        ("data", "reply", "a reply of 2^60 bytes", header(payload_bytes=1 << 60)),
        ("data", "reply", "the largest reply there is", header(**largest)),
        ("data", "reply", "a reply to something else", first(FRAME, next_sequence)),
        (
            "data",
            "reply",
            "a reply of no rows",
            first(FRAME, lambda f: peers.change_header(f[:64], rows=0, payload_bytes=16)),
        ),
        ("data", "reply", "half a reply", peers.cut_first(FRAME)),
        ("data", "request", "garbage for rows", first(FRAME, lambda f: peers.garbage(len(f)))),
        ("data", "request", "rows of version 7", header(version=7)),
        ("data", "request", "more rows than agreed", header(**{**largest, "entries": 0})),
        ("data", "request", "rows for a shard that is not there", first(FRAME, bad_slot)),
        ("data", "request", "half of the rows", peers.cut_first(FRAME)),
    ]
    for plane, direction, name, spoil in cases:

        def check(plane=plane, direction=direction, spoil=spoil):
            with Proxy(worker.address, plane, direction, spoil) as proxy:
                line = bench.refuse_workers(proxy.address, re.escape(proxy.address))
            worker.check_alive()
            bench.good_run(worker.address)
            return line

        bench.case(f"{plane} plane, {direction}: {name}", check)


def stranger_cases(bench, worker):
    """Whoever connects to a worker can do no harm."""

    def reply_to(data):
        with contextlib.closing(peers.connect(worker.address)) as connection:
            connection.sendall(data)
            try:
                return peers.receive_control(connection)
            except peers.Closed:
                return b""

    def case(name, data, wanted=None):
        def check():
            reply = reply_to(data)
            worker.check_alive()
            bench.good_run(worker.address)
            if wanted and not re.search(wanted, reply):
                raise Failed(f"it answered {reply!r}, expected {wanted!r}")

        bench.case(f"stranger: {name}", check)

    case("a coordinator of version 99", peers.hello(version=99), rb"protocol|version")
    case("garbage", peers.garbage(5000))
    case("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    case("a message of 4 GiB", b"\xff\xff\xff\xff")
    case("goodbye before hello", peers.control_message(10, b""))
    case("a data connection for no session", peers.wire_header(sequence=12345))
    case(
        "a data connection that opens with rows",
        peers.wire_header(type=peers.WIRE_DISPATCH, rows=1, hidden=128, payload_bytes=16 + 512),
    )
    case("a data frame of 2^60 bytes", peers.wire_header(payload_bytes=1 << 60))

    def silent_crowd():
        crowd = [peers.connect(worker.address) for _ in range(40)]
        for connection in crowd[::2]:
            connection.sendall(peers.hello()[:7])
        try:
            worker.check_alive()
        finally:
            for connection in crowd:
                connection.close()
        bench.good_run(worker.address)

    bench.case("stranger: forty connections that say nothing", silent_crowd)


def start_long_run(bench, address):
    return subprocess.Popen(
        [bench.skein, *run_args(bench.ids, LONG_TOKENS, address)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process):
    process.kill()
    process.communicate()


class Midway:
    """For Proxy: lets frames pass; `reached` is set after the tenth, in the midst of a generation."""

    def __init__(self, then_hold):
        self.reached, self.then_hold, self.release = threading.Event(), then_hold, threading.Event()

    def __call__(self, source, sink):
        for _ in range(10):
            sink.sendall(FRAME(source))
        self.reached.set()
        if self.then_hold:
            self.release.wait(NETWORK_TIMEOUT_S)
            return
        while True:
            sink.sendall(FRAME(source))

    def wait(self):
        if not self.reached.wait(READY_TIMEOUT_S):
            raise Failed("the generation did not begin")


def accident_cases(bench, worker):
    def busy():
        midway = Midway(then_hold=True)
        with Proxy(worker.address, "data", "reply", midway) as proxy:
            first = start_long_run(bench, proxy.address)
            try:
                midway.wait()
                line = bench.refuse_workers(
                    worker.address, re.escape(worker.address), "busy|another coordinator"
                )
                if first.poll() is not None:
                    raise Failed("the first coordinator was disturbed")
            finally:
                midway.release.set()
                end(first)
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def coordinator_killed():
        midway = Midway(then_hold=False)
        with Proxy(worker.address, "data", "reply", midway) as proxy:
            first = start_long_run(bench, proxy.address)
            try:
                midway.wait()
            finally:
                end(first)
        worker.check_alive()
        bench.good_run(worker.address)

    def worker_stricken(strike, afterwards):
        midway = Midway(then_hold=False)
        with Worker(bench, "stricken", ["--model", V3]) as victim, Proxy(
            victim.address, "data", "reply", midway
        ) as proxy:
            run = start_long_run(bench, proxy.address)
            try:
                midway.wait()
                victim.process.send_signal(strike)
                try:
                    _, stderr = run.communicate(timeout=NETWORK_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    raise Failed(f"the coordinator hangs for more than {NETWORK_TIMEOUT_S} s") from None
                line = check_failure(run.returncode, stderr, [re.escape(proxy.address)])
            finally:
                end(run)
            afterwards(victim)
            return line

    def wake(victim):
        victim.process.send_signal(signal.SIGCONT)
        victim.check_alive()
        bench.good_run(victim.address)

    bench.case("cluster: a second coordinator while the worker is busy", busy)
    bench.case("cluster: the coordinator is killed in the middle", coordinator_killed)
    bench.case(
        "cluster: the worker is killed in the middle",
        lambda: worker_stricken(signal.SIGKILL, lambda victim: None),
    )
    bench.case("cluster: the worker freezes in the middle", lambda: worker_stricken(signal.SIGSTOP, wake))


def cluster_cases(bench, worker):
    def too_small():
        with Worker(bench, "small", ["--memory", "256K"]) as small, Worker(
            bench, "smaller", ["--memory", "128K"]
        ) as smaller:
            addresses = f"{small.address},{smaller.address}"
            line = bench.refuse_workers(addresses, r"missing|short|lack|more", r"\d[\d.]* ?([KMG]i?B|bytes)")
            small.check_alive()
            smaller.check_alive()
            # With a large third worker, the same two serve.
            bench.good_run(f"{addresses},{worker.address}")
            return line

    def same_worker_twice():
        line = bench.refuse_workers(
            f"{worker.address},{worker.address}", re.escape(worker.address), status=(1, 2)
        )
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def one_of_two_is_missing():
        address = peers.free_address()
        line = bench.refuse_workers(f"{worker.address},{address}", re.escape(address))
        worker.check_alive()
        bench.good_run(worker.address)
        return line

    def port_taken():
        line = bench.refuse(
            ["--listen", worker.address], [re.escape(worker.address)], program=bench.worker_program
        )
        worker.check_alive()
        return line

    bench.case("cluster: too small for the model", too_small)
    bench.case("cluster: the same worker twice", same_worker_twice)
    bench.case("cluster: one of two workers is not there", one_of_two_is_missing)
    bench.case("worker: its port is taken", port_taken)
    bench.case(
        "worker: its model is not there",
        lambda: bench.refuse(
            ["--listen", "127.0.0.1:0", "--model", "/nowhere/at-all"],
            ["/nowhere/at-all"],
            program=bench.worker_program,
        ),
    )

    def other_model():
        # A worker with a copy of another model is sent its shards.
        with Worker(bench, "other", ["--model", V1]) as other:
            bench.good_run(other.address)

    bench.case("worker: its copy is another model's", other_model)
