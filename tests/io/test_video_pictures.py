"""Frames of films that are not plain: what is written is what a screen shows of them."""

import io
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from films import RATE, hdr_film, in_high_dynamic_range, linear, pq, to_bt2020, turned, write_film
from vggsfm_cli.io.video import VideoConfig, extract_frames
from warped import EXAMPLE

av = pytest.importorskip("av")

SIZE = (192, 144)


def photograph(size: tuple[int, int] = SIZE) -> np.ndarray:
    with Image.open(EXAMPLE / "images" / "view_08.jpg") as image:
        return np.asarray(image.resize(size, Image.Resampling.BOX))


def pictures(film: Path, out: Path) -> tuple[list[np.ndarray], tuple[str, ...]]:
    found = extract_frames(film, out, VideoConfig(fps=float(RATE)))
    return [np.asarray(Image.open(file)) for file in found.files], found.changes


def jpeg_error(right: np.ndarray) -> float:
    """What JPEG alone changes."""
    file = io.BytesIO()
    Image.fromarray(right).save(file, "JPEG", quality=95, subsampling=0)
    return float(np.abs(np.asarray(Image.open(file)).astype(int) - right).mean())


def saturation(pixels: np.ndarray) -> float:
    return float((pixels.max(-1).astype(int) - pixels.min(-1)).mean())


@pytest.mark.parametrize("transfer", ["HLG", "PQ"])
def test_high_dynamic_range_becomes_srgb(transfer: str, tmp_path: Path) -> None:
    right = (photograph() * 0.85).round().astype(np.uint8)  # below the knee of highlights
    film = hdr_film(tmp_path / "film.mkv", [in_high_dynamic_range(right, transfer)] * 3, transfer)
    found, changes = pictures(film, tmp_path / "images")
    assert len(changes) == 1 and transfer in changes[0]
    for pixels in found:
        assert np.abs(pixels.astype(int) - right).mean() < jpeg_error(right) + 0.5
        assert saturation(pixels) == pytest.approx(saturation(right), rel=0.03)


def test_highlights_keep_their_order_and_their_hue(tmp_path: Path) -> None:
    ramp = np.linspace(50, 900, SIZE[0])[None, :, None] * np.array([1.0, 0.6, 0.3])
    frame = np.broadcast_to(ramp, (SIZE[1], SIZE[0], 3))
    film = hdr_film(tmp_path / "film.mkv", [pq(to_bt2020(frame))] * 2, "PQ")
    pixels = pictures(film, tmp_path / "images")[0][0].astype(float).mean(0)
    assert (np.diff(pixels[::8, 0]) >= -1).all() and pixels[-1, 0] > 250
    shares = linear(pixels[10:]) / linear(pixels[10:, :1])
    np.testing.assert_allclose(shares, np.broadcast_to([1.0, 0.6, 0.3], shares.shape), atol=0.03)


@pytest.mark.parametrize("turn", [0, 90])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9)])
def test_pixels_become_square(aspect: Fraction, turn: int, tmp_path: Path) -> None:
    shown = cv2.GaussianBlur(photograph((240, 180)), (0, 0), 2.0)
    stored = cv2.resize(
        shown, (180, 180) if aspect > 1 else (240, 160), interpolation=cv2.INTER_AREA
    )  # what a camera of such pixels sees
    frames = (av.VideoFrame.from_ndarray(stored, format="rgb24") for _ in range(3))
    film = write_film(tmp_path / "film.mp4", frames, "mpeg4", "yuv420p", aspect=aspect, bit_rate=20_000_000)
    if turn:
        turned(film, (0, 1, -1, 0))
    found, changes = pictures(film, tmp_path / "images")
    assert any("stretched" in change for change in changes)
    right = np.rot90(shown, -1) if turn else shown
    for pixels in found:
        assert pixels.shape == right.shape
        assert np.abs(pixels.astype(int) - right).mean() < 3


def test_fields_are_taken_apart(tmp_path: Path) -> None:
    """A picture that moves 3 pixels a field: both fields in one frame are a comb, one of them alone is right."""
    wide = cv2.GaussianBlur(photograph((SIZE[0] + 60, SIZE[1])), (0, 0), 1.0)
    moments = [wide[:, 3 * k : 3 * k + SIZE[0]] for k in range(16)]
    woven = []
    for first, second in zip(moments[::2], moments[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        woven.append(frame)
    film = write_film(
        tmp_path / "film.mpg", (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in woven),
        "mpeg2video", "yuv420p", bit_rate=20_000_000, coder={"flags": "+ildct+ilme", "field_order": "tt"},
    )  # fmt: skip
    found, changes = pictures(film, tmp_path / "images")
    assert len(found) == len(woven) and any("interlaced" in change for change in changes)
    for k, (pixels, comb) in enumerate(zip(found, woven, strict=True)):
        errors, combed = (
            [np.abs(p.astype(int) - moment).mean() for moment in moments[2 * k : 2 * k + 2]] for p in (pixels, comb)
        )
        assert min(errors) < min(combed) and max(errors) > 2 * min(errors), (errors, combed)
        assert max(combed) < 1.2 * min(combed)  # belongs to neither


def test_a_film_that_needs_nothing_is_left_as_it_is(tmp_path: Path) -> None:
    right = photograph()
    frames = (av.VideoFrame.from_ndarray(right, format="rgb24") for _ in range(3))
    found, changes = pictures(write_film(tmp_path / "film.mkv", frames, "ffv1", "yuv444p"), tmp_path / "images")
    assert changes == () and np.abs(found[0].astype(int) - right).mean() < jpeg_error(right) + 0.5
