"""``vggsfm export``, ``vggsfm undistort`` and ``vggsfm reconstruct --undistort``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pictured_model import pictured_model
from vggsfm_cli import job
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import read_colmap, write_colmap
from vggsfm_cli.result import RunResult, RunSettings

run = CliRunner().invoke


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_colmap(pictured_model(tmp_path / "photos"), tmp_path / "sparse")
    return tmp_path


@pytest.mark.parametrize("command", ["export", "undistort"])
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    shown = run(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: vggsfm {command}" in shown.stdout and "Exit codes:" in shown.stdout


def test_undistort(project: Path) -> None:
    arguments = ["undistort", str(project / "sparse"), "--images", str(project / "photos")]
    result = run(app, [*arguments, "--out", str(project / "out")])
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (project / "out").iterdir()) == ["export.json", "images", "sparse"]
    assert "3 images" in result.stdout and "undistortion" in result.stderr
    again = run(app, [*arguments, "--out", str(project / "out")])
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    result = run(app, [*arguments, "--out", str(project / "out"), "--overwrite", "--json", "-q"])
    assert result.exit_code == 0 and result.stderr == ""
    assert json.loads(result.stdout)["images"] == 3


def test_export_fails_with_a_sentence(project: Path) -> None:
    model, out = str(project / "sparse"), str(project / "out")
    for arguments, code, word in (
        (["export", model, "--out", out, "--target", "gsplat"], 2, "--images"),
        (["export", model, "--out", out, "--target", "nonsense"], 2, "nonsense"),
        (["export", str(project / "photos"), "--out", out, "--target", "ply"], 3, "No COLMAP model"),
        (["export", model, "--out", out, "--target", "3dgs", "--images", str(project / "no")], 3, "No folder"),
        (["undistort", model, "--out", str(project), "--images", str(project / "photos")], 2, "other files"),
    ):
        result = run(app, arguments)
        assert result.exit_code == code and word in result.stderr, arguments
        assert "Traceback" not in result.stderr and result.stdout == ""
    assert not (project / "out").exists()


def test_reconstruct_undistorts_its_largest_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_colmap(project / "sparse")
    result = RunResult(models=(model,), settings=RunSettings(recipe="small"))
    monkeypatch.setattr(job, "reconstruct", lambda *_, **__: result)
    out, undistorted = project / "new", project / "undistorted"
    arguments = ["reconstruct", str(project / "photos"), "--out", str(out), "--undistort", str(undistorted)]
    result = run(app, [*arguments, "--no-overview", "-q"])
    assert result.exit_code == 0, result.stderr
    assert str(undistorted) in result.stdout
    assert set(read_colmap(undistorted / "sparse" / "0").cameras.models) == {"PINHOLE"}
    assert sorted(path.name for path in (undistorted / "images").iterdir()) == list(model.names)
    (project / "busy").mkdir()
    (project / "busy" / "file").touch()
    result = run(app, [*arguments[:-1], str(project / "busy"), "--overwrite"])
    assert result.exit_code == 2 and "other files" in result.stderr
