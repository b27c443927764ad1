"""Presets: what a user asks for is what the stages are told."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vggsfm_cli
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.options import Preset
from vggsfm_cli.recipes import choose_recipes, small, v2
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig

FAST = small.PRESETS["fast"].rounds.queries


def test_fast_starts_fewer_tracks_and_maps_them_alike() -> None:
    usual, fast = small.PRESETS["small"], small.PRESETS["fast"]
    for name in ("points_per_frame", "max_carried", "enough_tracks"):
        assert getattr(fast.rounds.queries, name) < getattr(usual.rounds.queries, name)
    assert dataclasses.replace(fast, rounds=usual.rounds) == usual


@pytest.mark.parametrize(
    ("recipe", "preset", "expected"),
    [
        ("small", "auto", ("small", "small", "small")),
        ("small", "fast", ("fast", "fast", "fast")),
        ("small", "v2", ("small", "v2", "v2")),
        ("v2", "auto", ("v2", "v2", "v2")),
        ("v2", "small", ("v2", "small", "small")),
        ("v2", "fast", ("v2", "fast", "fast")),
    ],
)
def test_the_model_makes_the_tracks_and_the_preset_maps_them(
    recipe: str, preset: Preset, expected: tuple[Preset, Preset, Preset]
) -> None:
    rows = {**small.PRESETS, **v2.PRESETS}
    tracking, mapping, meant = expected
    assert choose_recipes(recipe, preset) == (rows[tracking], rows[mapping], meant)


def test_only_the_recipe_of_v2_knows_v2() -> None:
    """What is particular to v2 could be lifted out with its folder; the names of the model and the preset stay."""
    source = Path(vggsfm_cli.__file__).parent
    outside = [path for path in source.rglob("*.py") if "v2" not in path.relative_to(source).parts]
    for path in outside:
        assert not re.search(r"isinstance\([^)]*V2|\bV2[A-Z]\w+", path.read_text()), path
    doors = {path.relative_to(source).as_posix() for path in outside if "recipes.v2" in path.read_text()}
    assert doors <= {"checkpoints/convert.py"}
    assert "Experimental: never run with the published file." in (v2.__doc__ or "")


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
