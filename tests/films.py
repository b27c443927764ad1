"""Films made for tests, as cameras and phones write them."""

import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


# high dynamic range, written from BT.2100 and BT.2087 in the direction that the package does not go

BT2020 = 9
TRANSFER = {"PQ": 16, "HLG": 18}


def linear(srgb: np.ndarray) -> np.ndarray:
    value = srgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def to_bt2020(rgb: np.ndarray) -> np.ndarray:
    """BT.2087's matrix."""
    matrix = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    return rgb @ matrix.T


def hlg(nits: np.ndarray) -> np.ndarray:
    """Signal of light of a display of 1000 cd/m2: the OOTF taken back, then the OETF."""
    display = nits / 1000
    luminance = display @ np.array([0.2627, 0.6780, 0.0593])
    scene = display * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def pq(nits: np.ndarray) -> np.ndarray:
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def ten_bits(signal: np.ndarray) -> Any:
    """A frame of 4:4:4 in ten bits, BT.2020's matrix, narrow range."""
    red, green, blue = np.moveaxis(signal, -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    import av

    frame = av.VideoFrame(signal.shape[1], signal.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // 2), dtype="<u2")
        padded[:, : plane.width] = np.rint(values)
        plane.update(padded.tobytes())
    return frame


def in_high_dynamic_range(srgb: np.ndarray, transfer: str) -> np.ndarray:
    """Signal in [0, 1] of a display that shows white at 203 cd/m2."""
    nits = 203 * np.maximum(to_bt2020(linear(srgb)), 0)
    return {"HLG": hlg, "PQ": pq}[transfer](nits)


def hdr_film(path: Path, signals: Iterable[np.ndarray], transfer: str) -> Path:
    return write_film(
        path, (ten_bits(signal) for signal in signals), "ffv1", "yuv444p10le",
        color_primaries=BT2020, color_trc=TRANSFER[transfer], colorspace=BT2020, color_range=1,
    )  # fmt: skip


def with_coding(path: Path, pixels: np.ndarray, transfer: int) -> None:
    """A PNG file with the chunk that names primaries (BT.2020), transfer function, matrix (RGB) and range (full)."""
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    chunk = b"cICP" + bytes([BT2020, transfer, 0, 1])
    at = 8 + 25  # behind the header
    path.write_bytes(data[:at] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:])
