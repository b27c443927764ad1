"""Giant photographs: halved as they are read, and never more of them at a time than fit into the memory."""

import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io import images as reading
from vggsfm_cli.io import photographs
from vggsfm_cli.io.images import read_images
from vggsfm_cli.io.photographs import PhotographFiles, decode, halvings_of, limit_decoding

SIZE = 1203, 902


@pytest.fixture
def giants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures that count as giant, so that the test takes no gigabytes: a slope, a wave and fine noise."""
    monkeypatch.setattr(photographs, "LARGE_PIXELS", 500_000)
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    noise = np.random.default_rng(0).normal(0, 3, x.shape)
    grey = (40 + 120 * x / SIZE[0] + 40 * np.sin(y / 30) + noise).clip(0, 255).astype(np.uint8)
    for kind in ("jpg", "png"):
        options = {"quality": 97, "subsampling": 0} if kind == "jpg" else {}
        Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / f"a.{kind}", **options)
    return tmp_path


def test_halving_keeps_twice_what_is_looked_at() -> None:
    assert halvings_of(4000, 3000, 1024) == 0 and halvings_of(12000, 9000, None) == 0
    for width, height in ((12000, 9000), (30000, 20000), (9000, 30000), (8192, 8000)):
        times = halvings_of(width, height, 1024)
        assert max(width, height) / 2**times >= 2048 and (times == 3 or max(width, height) / 2**times < 4096)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_pixels_stay_where_they_are(kind: str, giants: Path) -> None:
    whole = decode(giants / f"a.{kind}").pixels
    halved = decode(giants / f"a.{kind}", long_side=128)
    small = halved.pixels
    assert halved.size == SIZE and small.shape[:2] == tuple(math.ceil(side / 4) for side in SIZE[::-1])
    means = whole[:900, :1200, 0].reshape(225, 4, 300, 4).mean((1, 3))
    assert abs(small[:225, :300, 0] - means).mean() < 1.0
    assert decode(giants / f"a.{kind}", long_side=1024).pixels.shape == whole.shape


def test_a_set_of_giants_keeps_its_stored_pixels(giants: Path) -> None:
    found = read_images(giants, long_side=128)
    assert found.stored_size[0].tolist() == [list(SIZE)] * 2
    corner = found.stored_from_network[0, 0] @ torch.tensor([128.0, 96.0, 1.0])
    torch.testing.assert_close(corner, torch.tensor(SIZE, dtype=torch.float32), atol=0.5, rtol=0)
    assert found.originals is not None
    assert found.originals.grey(0, 0).shape == found.originals.color(0, 0).shape[1:] == (226, 301)
    again = PhotographFiles([giants / "a.jpg"], long_side=128)
    assert torch.equal(again.grey(0, 0), found.originals.grey(0, 0))


def test_what_does_not_fit_alone_is_told_with_the_figure(giants: Path) -> None:
    limit_decoding(10_000_000)
    try:
        with pytest.raises(NotEnoughMemory, match=r"a\.png needs about 0\.0 GB to be decoded"):
            read_images(giants, long_side=128)
        assert decode(giants / "a.jpg", long_side=128).size == SIZE  # is never whole
    finally:
        limit_decoding(None)


def test_no_more_are_decoded_at_a_time_than_fit(giants: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    real = photographs._rgb

    def slow(*given: Any, **options: Any) -> np.ndarray:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        pixels = real(*given, **options)
        with lock:
            inside -= 1
        return pixels

    monkeypatch.setattr(photographs, "_rgb", slow)
    for limit, expected in ((2 * photographs.DECODING_BYTES * SIZE[0] * SIZE[1], 2), (16_000_000, 1)):
        most = 0
        limit_decoding(limit)
        try:
            threads = [threading.Thread(target=decode, args=(giants / "a.png",)) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            limit_decoding(None)
        assert most == expected
    assert reading.decode is decode
