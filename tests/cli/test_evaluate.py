"""``vggsfm evaluate``: from folders to figures, and what goes wrong on the way."""

import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surveyed import write_scene
from vggsfm_cli.cli.app import app
from vggsfm_cli.cli.evaluate import tracks
from vggsfm_cli.evaluation.tracks import RealConfig, RenderedConfig

run = CliRunner().invoke
TRACKS = ["evaluate", "tracks", "--model", "classical", "--rendered", "0"]


@pytest.fixture(autouse=True)
def no_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VGGSFM_BENCH", raising=False)
    monkeypatch.delenv("VGGSFM_TEXTURES", raising=False)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    write_scene(tmp_path / "bench" / "data" / "wall", [0, 10])
    write_scene(tmp_path / "bench" / "data" / "broken", [0, 10])
    (tmp_path / "bench" / "data" / "broken" / "images" / "1.png").unlink()
    return tmp_path / "bench"


def test_help_has_an_example() -> None:
    shown = run(app, ["evaluate", "tracks", "--help"])
    assert shown.exit_code == 0 and "Example: vggsfm evaluate tracks" in shown.stdout
    assert "3    input that cannot be read" in shown.stdout


def test_defaults_are_those_of_the_library() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(tracks).parameters.items()}
    real, rendered = RealConfig(), RenderedConfig()
    assert (defaults["queries"], defaults["query_frames"]) == (real.queries, real.query_frames)
    assert (defaults["rendered"], defaults["seed"]) == (rendered.scenes, rendered.seed)


def test_figures_go_to_stdout_and_into_files(bench: Path, tmp_path: Path) -> None:
    arguments = [*TRACKS, "--bench", str(bench), "--scene", "wall", "--out", str(tmp_path / "out"), "--json", "-q"]
    result = run(app, [*arguments, "--queries", "64", "--query-frames", "1"])
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert document["settings"]["real"]["queries"] == 64
    figures = document["models"]["classical"]["real"]["scenes"]["wall"]["distances"]["tracks"]["10"]
    assert figures["pairs"] == 1
    assert {"machine", "versions", "failures"} <= set(document)
    assert "| wall | classical |" in (tmp_path / "out" / "tracks.md").read_text()


def test_a_scene_that_fails_is_named_and_the_others_go_on(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGSFM_BENCH", str(bench))
    result = run(app, [*TRACKS, "--scene", "broken", "--scene", "wall", "--queries", "64"])
    assert result.exit_code == 0, result.stderr
    assert "warning: broken: No such file" in result.stderr
    assert "- broken: No such file" in result.stdout and "| wall | classical |" in result.stdout


def test_a_wrong_folder_is_an_error_with_a_hint(tmp_path: Path) -> None:
    result = run(app, [*TRACKS, "--bench", str(tmp_path / "nowhere")])
    assert result.exit_code == 3 and "nowhere" in result.stderr and "hint: " in result.stderr
    result = run(app, [*TRACKS, "--bench", str(tmp_path)])
    assert result.exit_code == 3 and "data/SCENE/gt.json" in result.stderr


def test_nothing_to_measure_is_an_error() -> None:
    result = run(app, TRACKS)
    assert result.exit_code == 3
    assert "only rendered scenes are measured" in result.stderr and "Nothing could be measured" in result.stderr
