"""Badly behaved peers for the end-to-end tests, written against the bytes of docs/protocol.md alone.

FakeWorker answers a coordinator with whatever it is told to. Proxy stands between a coordinator and a real worker and
spoils one direction of one plane; the worker behind it must survive. Both listen on a free loopback port.
"""
import contextlib
import socket
import struct
import threading

WIRE_MAGIC = b"SKIN"
WIRE_HEADER = struct.Struct("<4sHHQIIIIQII")  # the last field is the checksum of all before it
WIRE_OPEN, WIRE_DISPATCH, WIRE_COMBINE, WIRE_ERROR, WIRE_PROBE, WIRE_PROBE_REPLY = 1, 2, 3, 4, 5, 6
CONTROL_ASSIGN, CONTROL_HEALTH, CONTROL_MEASURE, CONTROL_FETCH = 4, 9, 11, 15
SOCKET_TIMEOUT_S = 30


# ---- Bytes ----


def wire_checksum(data):
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def wire_header(
    magic=WIRE_MAGIC,
    version=1,
    type=WIRE_OPEN,
    sequence=0,
    layer=0,
    rows=0,
    entries=0,
    hidden=0,
    payload_bytes=0,
    busy_us=0,
):
    head = WIRE_HEADER.pack(
        magic, version, type, sequence, layer, rows, entries, hidden, payload_bytes, busy_us, 0
    )
    return head[:-4] + struct.pack("<I", wire_checksum(head[:-4]))


def change_header(frame, **changes):
    """The frame with other header fields and a checksum that fits them."""
    names = (
        "magic",
        "version",
        "type",
        "sequence",
        "layer",
        "rows",
        "entries",
        "hidden",
        "payload_bytes",
        "busy_us",
    )
    fields = dict(zip(names, WIRE_HEADER.unpack(frame[: WIRE_HEADER.size])))
    return wire_header(**{**fields, **changes}) + frame[WIRE_HEADER.size :]


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field_number(number, value):
    return varint(number << 3) + varint(value)


def field_bytes(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def control_message(kind, body):
    """A length-prefixed control message: field `kind` of the union holds `body`."""
    message = field_bytes(kind, body)
    return struct.pack("<I", len(message)) + message


def hello(version=4, fingerprint=0):
    return control_message(
        1,
        field_number(1, version)
        + field_bytes(2, b"0.0.0")
        + field_bytes(3, b"test")
        + varint(4 << 3 | 1)
        + struct.pack("<Q", fingerprint),
    )


def welcome(version=4, memory_bytes=1 << 40):
    return control_message(
        2,
        field_number(1, version)
        + field_bytes(2, b"0.0.0")
        + field_bytes(3, b"test")
        + field_bytes(4, b"none")
        + field_number(5, 1)
        + field_number(6, memory_bytes),
    )


def error(text):
    return control_message(3, field_bytes(1, text))


def figures(formats, read=1e10, decode=None, batch=None):
    """What a worker measured. Rates: one for each format, as they should be unless given."""
    decode, batch = (
        struct.pack(f"<{len(rates)}d", *rates)
        for rates in (decode or [1e10] * len(formats), batch or [1e11] * len(formats))
    )
    return control_message(
        12,
        varint(1 << 3 | 1)
        + struct.pack("<d", read)
        + field_bytes(2, b"".join(varint(f) for f in formats))
        + field_bytes(3, decode)
        + field_bytes(4, batch),
    )


def control_kind(message):
    """The field of the union that a control message has; all of them are below 16."""
    return message[4] >> 3


def measured_formats(message):
    """The formats that a Measure asks for: its first field, a packed list of one-byte varints."""
    body = message[6:]  # behind the length prefix, the kind, and the body's length
    return list(body[2 : 2 + body[1]]) if body[:1] == b"\x0a" else []


# ---- Reading ----


class Closed(Exception):
    """The peer closed, or said nothing for too long."""


def receive(connection, count):
    data = b""
    while len(data) < count:
        try:
            part = connection.recv(count - len(data))
        except OSError:
            part = b""
        if not part:
            raise Closed
        data += part
    return data


def receive_control(connection):
    prefix = receive(connection, 4)
    return prefix + receive(connection, struct.unpack("<I", prefix)[0])


def receive_frame(connection):
    header = receive(connection, WIRE_HEADER.size)
    return header + receive(connection, WIRE_HEADER.unpack(header)[8])


def connect(address):
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=SOCKET_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def free_address():
    """An address that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


# ---- Peers ----


class Peer:
    """Accepts connections in a thread of its own and serves each in another one, until the `with` block ends."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = []
        self.ended = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.listener.close()
        for connection in self.open:
            self.end(connection)

    @staticmethod
    def end(connection):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def accept(self):
        while not self.ended.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open.append(connection)
            threading.Thread(target=self.serve_and_end, args=(connection,), daemon=True).start()

    def serve_and_end(self, connection):
        with contextlib.suppress(OSError, Closed):
            self.serve(connection)
        self.end(connection)


class FakeWorker(Peer):
    """Reads the greeting, then does what `behave(connection)` does, then closes. On the first data connection it does what
    `probe(connection)` does, by itself answers to probes; later ones it closes."""

    def __init__(self, behave, probe=None):
        self.behave, self.probe, self.has_data = behave, probe or answer_probes, False

    def serve(self, connection):
        first = receive(connection, 4)
        if first != WIRE_MAGIC:
            receive(connection, struct.unpack("<I", first)[0])
            self.behave(connection)
        elif not self.has_data:
            self.has_data = True
            receive(connection, WIRE_HEADER.size - 4)
            self.probe(connection)


def answer_probes(connection):
    while True:
        fields = WIRE_HEADER.unpack(receive_frame(connection)[: WIRE_HEADER.size])
        connection.sendall(probe_reply(fields[3], fields[6]))


def probe_reply(sequence, count):
    return wire_header(type=WIRE_PROBE_REPLY, sequence=sequence, payload_bytes=count) + bytes(count)


def join(connection):
    """What a FakeWorker says until it has been measured."""
    connection.sendall(welcome())
    connection.sendall(figures(measured_formats(receive_kind(connection, CONTROL_MEASURE))))


def receive_kind(connection, kind):
    """The next control message of this kind; others, reports of health, are skipped."""
    while control_kind(message := receive_control(connection)) != kind:
        pass
    return message


class Proxy(Peer):
    """Forwards both planes to the worker at `target`, except that `spoil(source, sink)` moves the bytes of one direction
    ("request": to the worker, "reply": from it) of one plane ("control"; "probe", the first data connection; "data").
    When it returns, both sides close.
    """

    def __init__(self, target, plane, direction, spoil):
        self.target, self.plane, self.direction, self.spoil = target, plane, direction, spoil
        self.has_probe = False

    def serve(self, client):
        first = receive(client, 4)
        worker = connect(self.target)
        worker.settimeout(None)
        self.open.append(worker)
        plane = "control" if first != WIRE_MAGIC else "data" if self.has_probe else "probe"
        self.has_probe |= plane == "probe"
        spoil_request = (plane, "request") == (self.plane, self.direction)
        spoil_reply = (plane, "reply") == (self.plane, self.direction)
        # The greeting of either plane, a Hello or a WIRE_OPEN frame, is never touched.
        rest = WIRE_HEADER.size - 4 if first == WIRE_MAGIC else struct.unpack("<I", first)[0]
        worker.sendall(first + receive(client, rest))
        replies = threading.Thread(target=self.move, args=(worker, client, spoil_reply), daemon=True)
        replies.start()
        self.move(client, worker, spoil_request)
        replies.join()

    def move(self, source, sink, spoiled):
        with contextlib.suppress(OSError, Closed):
            if spoiled:
                self.spoil(source, sink)
            else:
                while data := source.recv(1 << 16):
                    sink.sendall(data)
        self.end(source)
        self.end(sink)


def change_first(receive_one, change, passes=lambda message: False):
    """For Proxy: the first message goes through `change` (None: it is swallowed), and nothing follows. Messages for which
    `passes(message)` holds are let through before."""

    def spoil(source, sink):
        while passes(message := receive_one(source)):
            sink.sendall(message)
        message = change(message)
        if message is not None:
            sink.sendall(message)
            # What follows is dropped; whoever was sent the message decides when to close.
            while source.recv(1 << 16):
                pass

    return spoil


def cut_first(receive_one, passes=lambda message: False):
    """For Proxy: half of the first message, then both sides close. `passes` as above."""

    def spoil(source, sink):
        while passes(message := receive_one(source)):
            sink.sendall(message)
        sink.sendall(message[: len(message) // 2])

    return spoil


def garbage(count):
    return (b"\xa5\x3c\x00\xff" * (count // 4 + 1))[:count]


def listening(address):
    try:
        connect(address).close()
        return True
    except OSError:
        return False
