"""Photographs by name: stored pixels and orientation, from files and from a set that was read."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.images import read_images
from vggsfm_cli.io.lookup import photographs_in, photographs_of
from vggsfm_cli.io.photographs import decode


class Colors:
    """``Originals`` that are not files."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def grey(self, b, s):
        raise NotImplementedError

    def color(self, b, s):
        import torch

        return torch.from_numpy(decode(self.files[s]).pixels).permute(2, 0, 1).float() / 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    rng = np.random.default_rng(0)
    for orientation in range(1, 9):
        image = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"{orientation}.png", exif=exif)
    image.save(tmp_path / "sub" / "below.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_files_of_a_folder(folder: Path) -> None:
    find = photographs_in(folder)
    for orientation in range(1, 9):
        pixels, number = find(f"{orientation}.png")
        assert number == orientation and pixels.shape == (64, 96, 3)
    assert find("sub/below.png") is not None
    for name in ("damaged.png", "missing.png", "../" + folder.name + "/1.png", str(folder / "1.png"), "sub", ""):
        assert find(name) is None
    with pytest.raises(InputError):
        photographs_in(folder / "missing")


def test_a_set_that_was_read(folder: Path) -> None:
    files = [folder / f"{orientation}.png" for orientation in range(1, 9)]
    images = read_images(files)
    for found in (images, dataclasses.replace(images, originals=Colors(files))):
        find = photographs_of(found)
        for orientation in range(1, 9):
            pixels, number = find(f"{orientation}.png")
            assert number == orientation
            np.testing.assert_array_equal(pixels, decode(folder / f"{orientation}.png").pixels)
        assert find("other.png") is None
    assert photographs_of(dataclasses.replace(images, originals=None))("1.png") is None
