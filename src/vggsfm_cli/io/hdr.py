"""High dynamic range to sRGB: what phones film in (HLG) and what films are mastered in (PQ), as an SDR screen shows it.

Written from ITU-R BT.2100 (both transfer functions, system gamma 1.2 for a display of 1000 cd/m2), BT.2408 (diffuse
white at 203 cd/m2) and IEC 61966-2-1 (sRGB).
"""

from enum import IntEnum
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8, UInt16

DIFFUSE_WHITE_NITS = 203.0
"""Of paper in full light; what is brighter are highlights."""

HLG_PEAK_NITS = 1000.0
HLG_SYSTEM_GAMMA = 1.2
PQ_PEAK_NITS = 10_000.0

KNEE = 0.8
"""Linear light, of diffuse white: below it nothing changes, above it highlights are pressed together."""
BRIGHTEST = 1000.0 / DIFFUSE_WHITE_NITS
"""Becomes white as well; few displays, and few masters, go beyond 1000 cd/m2."""


class Transfer(IntEnum):
    """Transfer functions of high dynamic range, by their numbers in ITU-T H.273."""

    PQ = 16
    HLG = 18


BT2020 = 9
"""Number of the primaries in ITU-T H.273."""

_PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),  # BT.709
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_D65 = (0.3127, 0.3290)

_LUMINANCE_BT2020 = (0.2627, 0.6780, 0.0593)


def to_srgb(
    values: UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"], transfer: Transfer, primaries: int = BT2020
) -> UInt8[np.ndarray, "H W 3"]:
    """What an SDR screen shows of pixels of high dynamic range.

    Args:
        values: non-linear R'G'B' over the whole range of their type.
        transfer: function they are coded with.
        primaries: H.273's number; unknown ones count as BT.2020, which is what HDR comes with.

    Returns:
        sRGB. Up to ``KNEE`` light is that of the source; diffuse white is nearly white, and highlights keep their hue.
    """
    matrix = _bt709_from(primaries if primaries in _PRIMARIES else BT2020)
    out = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, 2**20 // max(1, values.shape[1]))  # a part at a time, as floats need twelve times the memory
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        nits = _display_light(_linear_table(transfer, values.dtype.str)[values[part]], transfer)
        linear = np.maximum(nits @ matrix.T / DIFFUSE_WHITE_NITS, 0)
        out[part] = _srgb(_without_highlights(linear))
    return out


@cache
def _linear_table(transfer: Transfer, dtype: str) -> Float[np.ndarray, " n"]:
    """Linear light of every value of an integer type: of the scene for HLG, cd/m2 of the display for PQ."""
    top = int(np.iinfo(np.dtype(dtype)).max)
    coded = np.arange(top + 1) / top
    if transfer is Transfer.PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = coded ** (1 / m2)
        light = PQ_PEAK_NITS * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        light = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)  # noqa: PLR2004
    return np.asarray(light, dtype=np.float32)


def _display_light(linear: Float[np.ndarray, "h w 3"], transfer: Transfer) -> Float[np.ndarray, "h w 3"]:
    """In cd/m2; HLG is coded for any display, PQ for itself."""
    if transfer is Transfer.PQ:
        return linear
    luminance = linear @ np.array(_LUMINANCE_BT2020, dtype=np.float32)
    gain = np.float32(HLG_PEAK_NITS) * np.maximum(luminance, 1e-9) ** np.float32(HLG_SYSTEM_GAMMA - 1)
    return linear * gain[..., None]


def _without_highlights(linear: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Light of at most 1: the brightest channel is bent above the knee, the others go along, so that hues stay."""
    brightest = linear.max(-1)
    over = np.clip((brightest - KNEE) / (BRIGHTEST - KNEE), 0, 1)
    # a power whose slope is 1 at the knee and that reaches white at the brightest value
    slope = (BRIGHTEST - KNEE) / (1 - KNEE)
    bent = KNEE + (1 - KNEE) * (1 - (1 - over) ** slope)
    gain = np.where(brightest > KNEE, bent / np.maximum(brightest, KNEE), 1)
    return np.minimum(linear * gain[..., None], 1)


def _srgb(linear: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return _srgb_table()[np.rint(linear * (len(_srgb_table()) - 1)).astype(np.uint16)]


@cache
def _srgb_table() -> UInt8[np.ndarray, " n"]:
    """Linear light as sRGB, in steps fine enough for its steep beginning."""
    linear = np.arange(2**16) / (2**16 - 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004
    return np.rint(255 * coded).astype(np.uint8)


@cache
def _bt709_from(primaries: int) -> Float[np.ndarray, "3 3"]:
    """Linear light with other primaries to linear light with BT.709's, which are sRGB's."""
    return np.asarray(np.linalg.inv(_xyz_from(1)) @ _xyz_from(primaries), dtype=np.float32)


def _xyz_from(primaries: int) -> Float[np.ndarray, "3 3"]:
    columns = np.array([_xyz(*xy) for xy in _PRIMARIES[primaries]]).T
    return columns * np.linalg.solve(columns, _xyz(*_D65))


def _xyz(x: float, y: float) -> Float[np.ndarray, "3"]:
    return np.array([x / y, 1.0, (1 - x - y) / y])
