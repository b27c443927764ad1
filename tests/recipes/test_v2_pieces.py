"""Pieces of tracks: never too large, never more than there is work for, enough for all threads."""

import pytest
import torch

from vggsfm_cli.recipes.v2 import pieces
from vggsfm_cli.recipes.v2.pieces import SMALLEST_SHARE, tracks_at_once

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("tracks", [0, 1, 7, 512, 2048])
@pytest.mark.parametrize("frames", [1, 6, 100])
@pytest.mark.parametrize("at_once", [1, 64, 2048, 10**6])
def test_pieces(workers: int, tracks: int, frames: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "side_by_side", lambda _: workers)
    size = tracks_at_once(tracks, frames, at_once, CPU)
    assert size >= 1 and (size == 1 or size * frames <= at_once)
    count = -(-tracks // size)
    if tracks * frames >= SMALLEST_SHARE * workers * max(count, 1) and tracks >= workers:
        assert count >= workers  # nobody waits
    if tracks * frames < SMALLEST_SHARE and tracks * frames <= at_once:
        assert count <= 1


def test_an_accelerator_gets_one_piece_if_it_fits() -> None:
    assert tracks_at_once(2048, 10, 2**17, torch.device("cuda")) == 2048
    assert tracks_at_once(2048, 100, 2**17, torch.device("cuda")) == 1024
