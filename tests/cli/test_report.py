"""``vggsfm report`` and ``vggsfm view``."""

import json
import socket
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from example_model import example_model
from pictured_model import pictured_model
from report_page import Page
from vggsfm_cli.cli import view as view_command
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import model_folders, write_colmap

run = CliRunner().invoke


@pytest.fixture
def project(tmp_path: Path) -> Path:
    models = [pictured_model(tmp_path / "photos"), pictured_model(tmp_path / "more", names=("d.png", "e.png"))]
    write_colmap(models, tmp_path / "sparse")
    return tmp_path


def test_a_folder_of_models(project: Path) -> None:
    out = project / "page.html"
    arguments = ["report", str(project / "sparse"), "--images", str(project / "photos"), "--out", str(out)]
    result = run(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "5 images" in result.stdout and "pictures" in result.stderr
    data = Page(out.read_text(encoding="utf-8")).data
    assert [len(model["cameras"]) for model in data["models"]] == [3, 2]
    pictures = [bool(camera["picture"]) for model in data["models"] for camera in model["cameras"]]
    assert pictures == [True, True, True, False, False]
    again = run(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert run(app, [*arguments, "--overwrite", "-q"]).stderr == ""


def test_one_of_several_models_with_its_part_of_the_run(project: Path) -> None:
    run_report = {
        "options": {"images": str(project / "more")},
        "models": [{"confidence_level": "high"}, {"confidence_level": "low", "doubts": ["flat scene"]}],
        "images": [{"name": "z.png", "registered": False, "reason": "no overlap"}],
        "weights": {"licence": "Apache-2.0"},
    }
    (project / "sparse" / "report.json").write_text(json.dumps(run_report))
    out = project / "page.html"
    result = run(app, ["report", str(project / "sparse" / "1"), "--out", str(out), "--title", "Hall & <yard>"])
    assert result.exit_code == 0, result.stderr
    page = Page(out.read_text(encoding="utf-8"))
    text = " ".join(page.texts("body"))
    assert "flat scene" in text and "no overlap" in text and page.texts("h1") == ["Hall & <yard>"]
    assert all(camera["picture"] for camera in page.data["models"][0]["cameras"])


def test_a_damaged_report_is_said_and_left_out(project: Path) -> None:
    (project / "sparse" / "report.json").write_text("{")
    result = run(app, ["report", str(project / "sparse"), "--out", str(project / "page.html")])
    assert result.exit_code == 0 and "is not used" in result.stderr and "--images" in result.stderr
    assert Page((project / "page.html").read_text(encoding="utf-8")).texts("h1") == [project.name]


def test_it_fails_with_a_sentence(project: Path) -> None:
    model = str(project / "sparse")
    for arguments, code, word in (
        (["report", str(project / "photos")], 3, "No COLMAP model"),
        (["report", model, "--images", str(project / "no"), "--out", str(project / "a.html")], 3, "No folder"),
        (["report", model, "--out", str(project)], 2, "is a folder"),
        (["report", model, "--out", str(project / "no" / "a.html")], 2, "no folder"),
        (["view", str(project / "photos")], 3, "No COLMAP model"),
    ):
        result = run(app, arguments)
        assert result.exit_code == code and word in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
    assert not (project / "a.html").exists()


@pytest.mark.parametrize("command", ["report", "view"])
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    shown = run(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: vggsfm {command}" in shown.stdout and "Exit codes:" in shown.stdout


def test_models_are_found_in_their_order(tmp_path: Path) -> None:
    write_colmap([example_model(points=10)] * 11, tmp_path / "sparse")
    (tmp_path / "sparse" / "12").mkdir()
    assert [folder.name for folder in model_folders(tmp_path / "sparse")] == [str(i) for i in range(11)]
    assert model_folders(tmp_path / "sparse" / "3") == [tmp_path / "sparse" / "3"]


def test_view_without_viser_says_what_to_install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    result = run(app, ["view", str(project / "sparse")])
    assert result.exit_code == 2 and "vggsfm-cli[view]" in result.stderr


@pytest.mark.skipif(find_spec("viser") is None, reason="viser is not installed: pip install 'vggsfm-cli[view]'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_view_serves_until_it_is_interrupted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = []

    def look_and_interrupt(_: float) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            answers.append(answer.read())
        raise KeyboardInterrupt

    monkeypatch.setattr(view_command.time, "sleep", look_and_interrupt)
    result = run(app, ["view", str(project / "sparse"), "--port", str(port)])
    assert result.exit_code == 0, result.stderr
    assert b"<html" in answers[0].lower() and f"127.0.0.1:{port} shows 3 cameras" in result.stderr
