"""Panoramas and circles of fisheyes are named before a run, with what to do; ordinary photographs are not."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vggsfm_cli.io import read_images
from vggsfm_cli.io.projections import CIRCULAR, PANORAMA, STITCHED, TWO_CIRCLES, projection
from vggsfm_cli.io.sequence import PhotographSequence
from warped import EXAMPLE


def photograph(size: tuple[int, int], name: str = "view_08.jpg") -> np.ndarray:
    with Image.open(EXAMPLE / "images" / name) as image:
        return np.asarray(image.resize(size, Image.Resampling.BOX))


def sphere(size: tuple[int, int]) -> np.ndarray:
    """Smooth colours of directions, all around."""
    width, height = size
    longitude, latitude = np.meshgrid(
        np.linspace(-np.pi, np.pi, width, endpoint=False), np.linspace(np.pi / 2, -np.pi / 2, height)
    )
    x, y, z = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    waves = np.stack([np.sin(9 * x + 4 * z), np.sin(8 * y - 5 * z), np.cos(7 * z + 6 * x * y)], -1)
    return (127.5 + 110 * waves).astype(np.uint8)


def circle(size: tuple[int, int], noise: int = 6) -> np.ndarray:
    pixels = photograph(size).astype(int)
    y, x = np.mgrid[: size[1], : size[0]]
    outside = np.hypot(x - size[0] / 2, y - size[1] / 2) > min(size) / 2 - 2
    pixels = np.maximum(pixels, 60)
    pixels[outside] = np.random.default_rng(0).integers(0, noise, (int(outside.sum()), 3))
    return pixels.astype(np.uint8)


def sets() -> dict[str, tuple[np.ndarray, str | None]]:
    both = np.concatenate([circle((200, 200)), circle((200, 200))], 1)
    vignette = photograph((320, 240)) * np.clip(1.3 - np.hypot(*np.mgrid[-1:1:240j, -1:1:320j])[..., None], 0.05, 1)
    return {
        "all around": (sphere((512, 256)), PANORAMA),
        "circle": (circle((320, 240)), CIRCULAR),
        "square circle": (circle((240, 240)), CIRCULAR),
        "two circles": (both, TWO_CIRCLES),
        "phone's panorama": (photograph((900, 240)), STITCHED),
        "photograph": (photograph((320, 240)), None),
        "crop of 2 : 1": (photograph((400, 200)), None),
        "wall of 2 : 1": (np.full((200, 400, 3), 180, dtype=np.uint8), None),
        "wide film": (photograph((470, 200)), None),
        "vignette": (vignette.astype(np.uint8), None),
        "night": (photograph((320, 240)) // 12, None),
        "dark room": (cv2.copyMakeBorder(photograph((100, 80)), 80, 80, 110, 110, cv2.BORDER_CONSTANT), None),
    }


@pytest.mark.parametrize("kind", sets())
def test_kinds_of_pictures(kind: str, tmp_path: Path) -> None:
    pixels, right = sets()[kind]
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    assert projection(pixels, path) == right


def test_what_a_camera_notes_counts(tmp_path: Path) -> None:
    pixels = photograph((400, 200))
    note = b'<rdf:Description GPano:ProjectionType="equirectangular"/>'
    Image.fromarray(pixels).save(tmp_path / "a.jpg", xmp=note)
    assert projection(pixels, tmp_path / "a.jpg") == PANORAMA


@pytest.mark.parametrize(
    ("pixels", "told"), [(sphere((256, 128)), "v360"), (circle((160, 120)), "OPENCV_FISHEYE")], ids=["sphere", "circle"]
)
def test_they_are_told_before_the_run(
    pixels: np.ndarray, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for s in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{s}.png")
    for read in (read_images, lambda folder: PhotographSequence(folder).facts):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            said = read(tmp_path).caution
        assert told in said and said in caplog.text and "3 of 3" in said
    Image.fromarray(photograph((160, 120))).save(tmp_path / "1.png")
    Image.fromarray(photograph((160, 120))).save(tmp_path / "2.png")
    assert read_images(tmp_path).caution == ""
