"""Masks in COLMAP's names and polarity, on stored pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.masks import find_mask, read_mask


def test_both_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg.png", "a.png", "sub/b.png"):
        (tmp_path / name).touch()
    assert find_mask(tmp_path, "a.jpg") == tmp_path / "a.jpg.png"
    assert find_mask(tmp_path, "sub/b.jpg") == tmp_path / "sub" / "b.png"
    assert find_mask(tmp_path, "b.jpg") is None


def test_black_is_ignored_and_upright_masks_are_turned_with_their_photograph(tmp_path: Path) -> None:
    stored = np.zeros((20, 30), dtype=np.uint8)
    stored[:5, :7] = 1  # nearly black is not black
    Image.fromarray(stored).save(tmp_path / "stored.png")
    upright = Image.fromarray(stored).transpose(Image.Transpose.ROTATE_270)  # as EXIF's orientation 6 asks for
    upright.save(tmp_path / "upright.png")
    for name, orientation in (("stored", 1), ("stored", 6), ("upright", 6)):
        assert (read_mask(tmp_path / f"{name}.png", (30, 20), orientation) == (stored > 0)).all()
    for orientation in (1, 3):
        with pytest.raises(InputError, match="20 x 30 pixels"):
            read_mask(tmp_path / "upright.png", (30, 20), orientation)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read"):
        read_mask(tmp_path / "broken.png", (30, 20))


def test_inverted_masks(tmp_path: Path) -> None:
    stored = np.zeros((20, 30), dtype=np.uint8)
    stored[:5, :7] = 9
    Image.fromarray(stored).save(tmp_path / "a.png")
    assert (read_mask(tmp_path / "a.png", (30, 20), invert=True) == (stored == 0)).all()


def test_masks_reach_the_pixels_the_networks_see(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "masks").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture = Image.fromarray(generator.integers(0, 256, (80, 120, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "b.jpg" else 1
        picture.save(tmp_path / name, exif=exif)
    keep = np.zeros((80, 120), dtype=np.uint8)
    keep[:41, :60] = 255
    Image.fromarray(keep).save(tmp_path / "masks" / "a.jpg.png")
    Image.fromarray(keep).save(tmp_path / "masks" / "b.png")
    images = read_images(tmp_path, long_side=60, masks=tmp_path / "masks")
    assert "1 of 3 photographs have no mask" in caplog.text
    assert images.mask[0].sum((1, 2)).tolist() == [20 * 30, 20 * 30, 40 * 60]  # half a pixel of row 40 is not enough
    rows, columns = images.mask[0, 1].nonzero(as_tuple=True)  # turned upright with its photograph
    xy = torch.stack([columns + 0.5, rows + 0.5], -1)[None, None].expand(1, 3, -1, -1)
    stored = images.to_stored(xy)[0, 1]
    assert stored.amin() > 0 and bool((stored < torch.tensor([60, 40])).all())
    inverted = read_images(tmp_path, long_side=60, masks=tmp_path / "masks", mask_invert=True)
    assert inverted.mask[0].sum((1, 2)).tolist() == [40 * 60 - 21 * 30] * 2 + [40 * 60]


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (50, 40)).save(tmp_path / name)
    for masks, said in ((tmp_path / "nowhere", "No folder"), (tmp_path / "masks", "No mask of any photograph")):
        with pytest.raises(InputError, match=said):
            read_images(tmp_path, masks=masks)
    Image.new("L", (40, 40)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(InputError, match="40 x 40 pixels, its photograph 50 x 40"):
        read_images(tmp_path, masks=tmp_path / "masks")
