"""Frames of a sequence, read some at a time, are the same as all read at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.images import read_images
from vggsfm_cli.io.sequence import PhotographSequence

SIZES = [(90, 60), (90, 60), (64, 120), (90, 60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dice = np.random.default_rng(0)
    for k, (width, height) in enumerate(SIZES):
        exif = Image.Exif()
        if k == 3:
            exif[0x0112] = 6  # to be turned clockwise
        Image.fromarray(dice.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.jpg", quality=95, exif=exif
        )
    return tmp_path


def test_some_frames_are_those_of_the_whole(folder: Path) -> None:
    whole = read_images(folder, long_side=64)
    sequence = PhotographSequence(folder, long_side=64)
    assert sequence.names == whole.names[0] and len(sequence) == len(SIZES)
    frames = [3, 0, 2]
    some = sequence.read(frames)
    assert whole.originals is not None and some.originals is not None
    for name in ("pixels", "mask", "frame_valid", "stored_from_network", "stored_size"):
        torch.testing.assert_close(getattr(some, name), getattr(whole, name)[:, frames], rtol=0, atol=0)
    for name in ("params", "known", "focal_spread"):
        torch.testing.assert_close(getattr(some.priors, name), getattr(whole.priors, name), rtol=0, atol=0)
    assert some.priors.camera_index.tolist() == whole.priors.camera_index[:, frames].tolist()
    for k, s in enumerate(frames):
        torch.testing.assert_close(some.originals.grey(0, k), whole.originals.grey(0, s), rtol=0, atol=0)


def test_facts_hold_no_pixels(folder: Path) -> None:
    facts = PhotographSequence(folder, long_side=64).facts
    assert facts.pixels.numel() == facts.mask.numel() == 0
    torch.testing.assert_close(facts.pixel_scale, read_images(folder, long_side=64).pixel_scale)


def test_files_without_a_header_are_left_out_and_damaged_ones_not_valid(folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"no picture")
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[: len(data) // 2])
    sequence = PhotographSequence(folder, long_side=64)
    assert sequence.names == ("0.jpg", "2.jpg", "3.jpg")
    assert [(item.name, item.reason) for item in sequence.facts.skipped] == [("1.jpg", "not an image, or damaged")]
    read = sequence.read([0, 1])
    assert read.frame_valid.tolist() == [[True, False]] and not bool(read.mask[0, 1].any())


def test_one_image_is_no_sequence(folder: Path) -> None:
    with pytest.raises(InputError, match="Only one"):
        PhotographSequence([folder / "0.jpg"])
