"""Files as damage and malice make them: valid ones with something changed, each from a seed."""

import random
import struct
from collections.abc import Callable

Change = Callable[[bytes, random.Random], bytes]


def truncated(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def flipped(data: bytes, dice: random.Random) -> bytes:
    """A few bits the other way round."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def flipped_early(data: bytes, dice: random.Random) -> bytes:
    """The same in the first bytes, where headers are."""
    return flipped(data[:64], dice) + data[64:]


def overwritten(data: bytes, dice: random.Random) -> bytes:
    """A number that means trouble somewhere: giant, negative, or none."""
    values = (
        struct.pack("<Q", 2**64 - 1), struct.pack("<q", -1), struct.pack("<Q", 2**40), struct.pack("<I", 2**31),
        struct.pack("<d", float("nan")), struct.pack("<d", float("inf")), struct.pack("<d", 1e300), bytes(8),
        struct.pack(">I", 2**31 - 1), struct.pack(">H", 0xFFFF), b"\xff" * 16,
    )  # fmt: skip
    value, at = dice.choice(values), dice.randrange(len(data) + 1) // 4 * 4
    return data[:at] + value + data[at + len(value) :]


def overwritten_early(data: bytes, dice: random.Random) -> bytes:
    return overwritten(data[:128], dice) + data[128:]


def spliced(data: bytes, dice: random.Random) -> bytes:
    """A piece taken out, or in twice."""
    a, b = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:] if dice.random() < 0.5 else data[:b] + data[a:]


def noise(data: bytes, dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 7, 64, 4096)))


CHANGES: tuple[Change, ...] = (
    truncated, flipped, flipped_early, overwritten, overwritten_early, spliced, noise,
)  # fmt: skip


def hostile(data: bytes, seed: int) -> bytes:
    """One of the many wrong files that ``data`` can become."""
    dice = random.Random(seed)
    for _ in range(dice.choice((1, 1, 1, 2))):
        data = dice.choice(CHANGES)(data, dice) if data else data
    return data
