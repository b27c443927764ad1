"""Transparent parts of photographs and of masks count as masked."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.masks import read_mask
from vggsfm_cli.io.photographs import decode
from vggsfm_cli.io.sequence import PhotographSequence

SIZE = (120, 80)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def shape() -> np.ndarray:
    alpha = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    alpha[10:51, 20:80] = 255
    alpha[10, 20:80] = 1  # nearly transparent is not transparent
    return alpha


def cut_out(folder: Path, mode: str, count: int = 2, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for s in range(count):
        image = Image.fromarray(np.dstack([noise(s), shape()]))
        if mode == "palette":
            image = image.convert("RGB").quantize(64)
            pixels = np.asarray(image).copy()
            pixels[shape() == 0] = 63
            opaque = Image.fromarray(pixels)
            opaque.putpalette(image.getpalette())
            opaque.save(folder / f"{s}.png", transparency=63)
        elif mode == "colour key":
            image = Image.fromarray(np.where(shape()[..., None] > 0, noise(s) | 1, 0).astype(np.uint8))
            image.save(folder / f"{s}.png", transparency=(0, 0, 0))
        else:
            image.convert(mode).save(folder / f"{s}.{'tif' if mode == 'LA' else 'png'}", exif=exif)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette", "colour key"])
def test_transparent_pixels_count_as_masked(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut_out(tmp_path, mode)
    images = read_images(tmp_path, long_side=60)
    right = torch.from_numpy(shape()[::2, ::2] > 0)
    right[(51 // 2), :] = False  # half a pixel is not enough
    if mode == "palette":
        assert int(images.mask[0, 0, :40, :60].sum()) <= int(right.sum())  # noise may use the colour, too
        assert not images.mask[0, 0, :40, :60][~right].any()
    else:
        assert torch.equal(images.mask[0, 0, :40, :60], right)
    assert "2 of 2" in caplog.text and "--ignore-alpha" in caplog.text
    assert bool(read_images(tmp_path, long_side=60, ignore_alpha=True).mask[0, 0, :40, :60].all())
    sequence = PhotographSequence(tmp_path, long_side=60)
    assert torch.equal(sequence.read([0, 1]).mask, images.mask)


def test_transparency_turns_with_its_photograph_and_joins_a_mask(tmp_path: Path) -> None:
    cut_out(tmp_path, "RGBA", orientation=6)
    (tmp_path / "masks").mkdir()
    keep = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    keep[:, 40:] = 255
    Image.fromarray(keep).save(tmp_path / "masks" / "0.png")
    images = read_images(tmp_path, masks=tmp_path / "masks")
    joined = (keep > 0) & (shape() > 0)
    assert torch.equal(images.mask[0, 0, : SIZE[0], : SIZE[1]], torch.from_numpy(np.rot90(joined, -1).copy()))
    assert torch.equal(images.mask[0, 1, : SIZE[0], : SIZE[1]], torch.from_numpy(np.rot90(shape() > 0, -1).copy()))


def test_an_alpha_channel_that_says_nothing_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for s in range(2):
        Image.fromarray(noise(s)).convert("RGBA").save(tmp_path / f"{s}.png")
    assert decode(tmp_path / "0.png").alpha is None
    assert bool(read_images(tmp_path).mask[0, :, : SIZE[1], : SIZE[0]].all()) and "ransparent" not in caplog.text


@pytest.mark.parametrize("color", [0, 255, 130])
def test_a_mask_may_lie_in_an_alpha_channel(color: int, tmp_path: Path) -> None:
    grey = np.full(shape().shape, color, dtype=np.uint8)
    for mode in ("RGBA", "LA"):
        Image.merge(mode, [Image.fromarray(grey)] * (len(mode) - 1) + [Image.fromarray(shape())]).save(
            tmp_path / "mask.png"
        )
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE), shape() > 0)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE, invert=True), shape() == 0)


def test_an_opaque_alpha_channel_leaves_a_mask_to_its_colours(tmp_path: Path) -> None:
    Image.fromarray(shape()).convert("RGBA").save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE), shape() > 0)


@pytest.mark.parametrize("sequence", [False, True])
def test_masks_that_leave_nothing_are_named(sequence: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def read() -> None:
        if sequence:
            PhotographSequence(tmp_path, masks=tmp_path / "masks").read([0, 1, 2])
        else:
            read_images(tmp_path, masks=tmp_path / "masks")

    (tmp_path / "masks").mkdir()
    for s in range(3):
        Image.fromarray(noise(s)).save(tmp_path / f"{s}.jpg")
        Image.new("L", SIZE, 0 if s else 255).save(tmp_path / "masks" / f"{s}.png")
    with pytest.raises(InputError, match=r"masks leave nothing of the photographs: 1\.jpg, 2\.jpg\.") as failure:
        read()
    assert "--mask-invert" in failure.value.hint
    Image.new("L", SIZE, 255).save(tmp_path / "masks" / "1.png")
    with caplog.at_level(logging.WARNING):
        read()
    assert "masks leave nothing of the photographs: 2.jpg." in caplog.text


def test_photographs_that_are_wholly_transparent_are_named(tmp_path: Path) -> None:
    for s in range(2):
        Image.new("RGBA", SIZE, (9, 9, 9, 0)).save(tmp_path / f"{s}.png")
    with pytest.raises(InputError, match="wholly transparent") as failure:
        read_images(tmp_path)
    assert "--ignore-alpha" in failure.value.hint
    assert len(read_images(tmp_path, ignore_alpha=True).names[0]) == 2
