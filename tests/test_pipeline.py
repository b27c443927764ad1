"""Presets: what a user asks for is what the stages are told."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vggsfm_cli import pipeline
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.pipeline import FAST, ReconstructOptions
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig


def test_fast_starts_fewer_tracks() -> None:
    usual, fast = QueryConfig(), ReconstructOptions(preset="fast").tracking_rounds().queries
    assert fast == FAST
    for name in ("points_per_frame", "max_carried", "enough_tracks"):
        assert getattr(fast, name) < getattr(usual, name)
    assert ReconstructOptions(preset="fast").mapping_options() == ReconstructOptions().mapping_options()


@pytest.mark.parametrize("preset", ["auto", "small"])
def test_other_presets_leave_the_rounds_alone(preset: str) -> None:
    rounds = RoundsConfig(queries=QueryConfig(points_per_frame=700), merge_px=2.0)
    assert ReconstructOptions(preset=preset, rounds=rounds).tracking_rounds() == rounds


def test_a_number_of_tracks_goes_before_the_preset() -> None:
    rounds = RoundsConfig(frames_at_once=3)
    found = ReconstructOptions(preset="fast", query_points=300, rounds=rounds).tracking_rounds()
    assert found == dataclasses.replace(rounds, queries=dataclasses.replace(FAST, points_per_frame=300))


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

    monkeypatch.setattr(pipeline, "track_in_rounds", stop)
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["reconstruct", str(tmp_path), "--out", out, "--model", "small", *arguments])
    assert result.exit_code == 4, result.stderr
    assert [config.queries for config in told] == [expected]
