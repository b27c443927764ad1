"""Presets: what a user asks for is what the stages are told."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.recipes import small
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig

FAST = small.PRESETS["fast"].rounds.queries


def test_fast_starts_fewer_tracks_and_maps_them_alike() -> None:
    usual, fast = small.PRESETS["small"], small.PRESETS["fast"]
    for name in ("points_per_frame", "max_carried", "enough_tracks"):
        assert getattr(fast.rounds.queries, name) < getattr(usual.rounds.queries, name)
    assert dataclasses.replace(fast, rounds=usual.rounds) == usual


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], QueryConfig()),
        (["--preset", "small"], QueryConfig()),
        (["--preset", "fast"], FAST),
        (["--preset", "fast", "--query-points", "200"], dataclasses.replace(FAST, points_per_frame=200)),
    ],
)
def test_the_command_reaches_the_tracker(
    arguments: list[str], expected: QueryConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for s in range(2):
        Image.fromarray(np.full((64, 96, 3), 50 * s, dtype=np.uint8)).save(tmp_path / f"{s}.png")
    told: list[RoundsConfig] = []

    def stop(tracker: object, images: object, config: RoundsConfig, **rest: object) -> None:
        told.append(config)
        raise ReconstructionFailed("Enough is seen.", "A hint.")

    monkeypatch.setattr(small, "track_in_rounds", stop)
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["reconstruct", str(tmp_path), "--out", out, "--model", "small", *arguments])
    assert result.exit_code == 4, result.stderr
    assert [config.queries for config in told] == [expected]
