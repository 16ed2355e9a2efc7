"""Bytes with faults in them: what damaged disks, cut transfers and attackers make of files."""

from collections.abc import Sequence

import numpy as np

# What stands in fields of sizes, counts and offsets where somebody wants to do harm.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> tuple[bytes, str]:
    """One to three faults; returns the bytes and the faults' names.

    Args:
        others: files that pieces are taken from.
    """
    names = []
    for _ in range(rng.integers(1, 4)):
        fault = FAULTS[rng.integers(len(FAULTS))]
        if data:
            data = fault(data, rng, others[rng.integers(len(others))])
        names.append(fault.__name__.strip("_"))
    return data, "+".join(names)


def _flip(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Single bits, anywhere."""
    out = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 20)):
        out[place] ^= 1 << rng.integers(8)
    return bytes(out)


def _overwrite(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Random bytes in a row."""
    place = int(rng.integers(len(data)))
    piece = rng.bytes(int(rng.integers(1, 40)))
    return data[:place] + piece + data[place + len(piece) :]


def _truncate(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return data[: rng.integers(len(data))]


def _drop(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    first, last = sorted(rng.integers(len(data), size=2))
    return data[:last] + data[first:last] * int(rng.integers(1, 4)) + data[last:]


def _splice(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def _insert(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    place, start = int(rng.integers(len(data))), int(rng.integers(len(other)))
    return data[:place] + other[start : start + int(rng.integers(1, 500))] + data[place:]


def _header(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A number that does harm among the first 64 bytes, where sizes stand."""
    return _number(data, rng, min(64, len(data)))


def _field(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return _number(data, rng, len(data))


def _number(data: bytes, rng: np.random.Generator, end: int) -> bytes:
    width, order = int(rng.choice([1, 2, 4, 8])), ("little", "big")[rng.integers(2)]
    value = NUMBERS[rng.integers(len(NUMBERS))] & (256**width - 1)
    place = int(rng.integers(end))
    return data[:place] + value.to_bytes(width, order) + data[place + width :]


FAULTS = (_flip, _overwrite, _truncate, _drop, _repeat, _splice, _insert, _header, _field)
