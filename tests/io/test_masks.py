"""Masks in COLMAP's names and polarity, on stored pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggsfm_cli.errors import InputError
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
