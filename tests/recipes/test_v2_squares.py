import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from goldens import golden
from vggsfm_cli.io.images import read_images
from vggsfm_cli.recipes.v2.squares import centered_square, square_images, valid_box


@pytest.mark.parametrize("shape", ["landscape", "portrait", "square"])
def test_squares_as_published(shape: str) -> None:
    fixture = golden("preprocess")
    picture = fixture[f"{shape}_in_hwc"].permute(2, 0, 1).float() / 255
    height, width = picture.shape[1:]
    for side in (64, 32):
        expected = fixture[f"{shape}_out{side}"]
        torch.testing.assert_close(centered_square(picture, side), expected, atol=1e-6, rtol=0)
    mask = centered_square(fixture[f"{shape}_mask_in"][None].float() / 255, 64)
    torch.testing.assert_close(mask, fixture[f"{shape}_mask_out64"], atol=1e-6, rtol=0)
    box = torch.tensor(valid_box(width, height, 64))
    torch.testing.assert_close(box, fixture[f"{shape}_bound_bbox"], atol=1e-5, rtol=0)


def save(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """A photograph whose red grows to the right and green downwards as it is stored."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([x, y, np.full_like(x, 0.5)], -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("from_files", [True, False])
def test_the_way_back_reaches_the_same_place(tmp_path: Path, orientation: int, from_files: bool) -> None:
    for name, size in (("a.png", (140, 90)), ("b.png", (61, 120))):
        save(tmp_path / name, orientation, size)
    images = read_images(tmp_path, long_side=128)
    if not from_files:
        images = dataclasses.replace(images, originals=None)
    squares = square_images(images, 96)
    assert squares.pixels.shape == (1, 2, 3, 96, 96)
    for s in range(2):
        row, column = squares.mask[0, s].nonzero(as_tuple=True)
        assert len(row) > 2000
        network = torch.stack([column, row], -1).float() + 0.5
        stored = squares.to_stored(network.expand(1, 2, -1, -1))[0, s] / squares.stored_size[0, s]
        color = squares.pixels[0, s][:2, row, column].T
        assert (color - stored).abs().mean() < 0.006
        assert (color - stored).abs().max() < 0.03
        upright = images.pixels[0, s]
        torch.testing.assert_close(
            squares.pixels[0, s].mean((1, 2)) * 96**2 * float(squares.pixel_scale[0, s]) ** 2,
            upright[:, images.mask[0, s]].sum(1) * float(images.pixel_scale[0, s]) ** 2,
            rtol=0.02, atol=0,
        )  # fmt: skip


def test_what_is_masked_stays_masked(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1, (120, 80))
    save(tmp_path / "b.png", 1, (120, 80))
    images = read_images(tmp_path)
    mask = images.mask.clone()
    mask[0, 0, :40, :60] = False
    squares = square_images(dataclasses.replace(images, mask=mask), 60)
    assert not squares.mask[0, 0, :31, :31].any()
    assert squares.mask[0, 0, 31:45, 31:].all()
    assert squares.mask[0, 1, 16:44].all()
