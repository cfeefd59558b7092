"""Reads GGUF files with numpy, independently of the C code: metadata and every tensor as float32.

read(path) -> (metadata, tensors): metadata maps a key to (type, value), tensors map a name to a Tensor.
"""
import struct
from dataclasses import dataclass

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass
class Tensor:
    type: str
    shape: tuple  # outermost first
    raw: np.ndarray  # bytes

    def values(self):
        return TYPES[self.number()][2](self.raw).reshape(self.shape)

    def number(self):
        return next(number for number, entry in TYPES.items() if entry[0] == self.type)


def half(raw):
    """Pairs of bytes -> float32 with a last axis of one."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def nibbles(raw):
    """(n, 16) bytes -> (n, 32): the low ones, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], -1)


def fifth_bits(raw):
    """(n, 4) bytes -> (n, 32) bits."""
    return np.unpackbits(raw, axis=-1, bitorder="little")


def q4_0(raw):
    b = raw.reshape(-1, 18)
    return half(b[:, :2]) * (nibbles(b[:, 2:]).astype(np.float32) - 8)


def q5_0(raw):
    b = raw.reshape(-1, 22)
    q = nibbles(b[:, 6:]) | fifth_bits(b[:, 2:6]) << 4
    return half(b[:, :2]) * (q.astype(np.float32) - 16)


def q5_1(raw):
    b = raw.reshape(-1, 24)
    q = nibbles(b[:, 8:]) | fifth_bits(b[:, 4:8]) << 4
    return half(b[:, :2]) * q + half(b[:, 2:4])


def q8_0(raw):
    b = raw.reshape(-1, 34)
    return half(b[:, :2]) * b[:, 2:].view(np.int8)


def six_bit_scales(s):
    """(n, 12) bytes -> scales and minimums, (n, 8) each."""
    low, high = s[:, :4], s[:, 4:8]
    scales = np.concatenate([low & 63, s[:, 8:] & 15 | low >> 6 << 4], -1)
    minimums = np.concatenate([high & 63, s[:, 8:] >> 4 | high >> 6 << 4], -1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def lines(b, q):
    """Blocks of Q4_K or Q5_K and their (n, 8, 32) quants."""
    scales, minimums = six_bit_scales(b[:, 4:16])
    return (half(b[:, :2]) * scales)[..., None] * q - (half(b[:, 2:4]) * minimums)[..., None]


def halves(raw):
    """(n, 128) bytes -> (n, 8, 32): each 32 bytes hold 32 low nibbles, then 32 high ones."""
    b = raw.reshape(-1, 4, 1, 32)
    return np.concatenate([b & 15, b >> 4], 2).reshape(-1, 8, 32)


def q4_k(raw):
    b = raw.reshape(-1, 144)
    return lines(b, halves(b[:, 16:]))


def q5_k(raw):
    b = raw.reshape(-1, 176)
    high = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return lines(b, halves(b[:, 48:]) | high << 4)


def q6_k(raw):
    b = raw.reshape(-1, 210)
    low = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], 2).reshape(-1, 2, 4, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    q = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    return half(b[:, 208:])[..., None] * b[:, 192:208].view(np.int8)[..., None] * q


# Name, bytes of a block and its values, expansion.
TYPES = {
    0: ("F32", (4, 1), lambda raw: raw.view(np.float32)),
    1: ("F16", (2, 1), lambda raw: raw.view(np.float16).astype(np.float32)),
    2: ("Q4_0", (18, 32), q4_0),
    6: ("Q5_0", (22, 32), q5_0),
    7: ("Q5_1", (24, 32), q5_1),
    8: ("Q8_0", (34, 32), q8_0),
    12: ("Q4_K", (144, 256), q4_k),
    13: ("Q5_K", (176, 256), q5_k),
    14: ("Q6_K", (210, 256), q6_k),
    30: ("BF16", (2, 1), lambda raw: (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)),
}


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])


def read(path):
    with open(path, "rb") as f:
        cursor = Cursor(f.read())
    magic, version, tensor_count, key_count = cursor.take("4sIQQ")
    if magic != b"GGUF" or version != 3:
        raise ValueError(f"{path}: no GGUF file of version 3")
    metadata, listed, tensors = {}, [], {}
    for _ in range(key_count):
        key, kind = cursor.text(), cursor.take("I")
        metadata[key] = (kind, cursor.value(kind))
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.take("I")
        shape = [cursor.take("Q") for _ in range(dimensions)]
        listed.append((name, tuple(reversed(shape)), *cursor.take("IQ")))
    alignment = metadata.get("general.alignment", (4, 32))[1]
    begin = cursor.at + -cursor.at % alignment
    for name, shape, number, offset in listed:
        kind, (size, values), _ = TYPES[number]
        count = int(np.prod(shape)) // values * size
        if offset % alignment or shape[-1] % values:
            raise ValueError(f"{path}: {name} is not where or what it must be")
        tensors[name] = Tensor(kind, shape, np.frombuffer(cursor.data, np.uint8, count, begin + offset))
    return metadata, tensors
