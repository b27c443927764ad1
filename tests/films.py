"""Films made for tests, as cameras and phones write them."""

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

RATE = 8
"""Frames a second."""


def write_film(path: Path, frames: Iterable[Any], codec: str, pix_fmt: str, **options: Any) -> Path:
    """A film of frames; ``options`` are attributes of its codec, ``aspect`` is that of its pixels."""
    aspect = options.pop("aspect", None)
    coder_options = options.pop("coder", {})
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=coder_options)
        for number, frame in enumerate(frames):
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                if aspect is not None:
                    stream.sample_aspect_ratio = aspect
                for name, value in options.items():
                    setattr(stream.codec_context, name, value)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The film with the matrix in its track header by which players turn it, as phones write it."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # version and flags, times and numbers, reserved, layer...
    a, b, c, d = (value * 0x10000 for value in matrix)
    assert struct.unpack_from(">iii", data, place) == (0x10000, 0, 0)
    struct.pack_into(">iiiiii", data, place, a, b, 0, c, d, 0)
    path.write_bytes(data)
    return path
