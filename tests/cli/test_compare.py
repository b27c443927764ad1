"""``vggsfm evaluate model`` and ``vggsfm compare``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from example_model import example_model
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import write_colmap

run = CliRunner().invoke


@pytest.mark.parametrize("command", [["evaluate", "model"], ["compare"]])
def test_help_has_an_example(command: list[str]) -> None:
    assert f"Example: vggsfm {' '.join(command)}" in run(app, [*command, "--help"]).stdout


def test_tables_and_json(tmp_path: Path) -> None:
    write_colmap(example_model(), tmp_path / "a")
    write_colmap(example_model(frames=5), tmp_path / "b")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    for command, words in (
        (["evaluate", "model", b, "--ground-truth", a], ["5 of 6", "view 5.jpg", "AUC_max", "ATE", "focal error"]),
        (["compare", a, b], ["shared images           5", "only in A", "camera rotation", "points"]),
    ):
        shown = run(app, command)
        assert shown.exit_code == 0, shown.stderr
        assert all(word in shown.stdout for word in words), shown.stdout
        result = json.loads(run(app, [*command, "--json"]).stdout)
        assert result.get("registered", result.get("shared_images")) == 5


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    write_colmap(example_model(), tmp_path / "a")
    (tmp_path / "gt.json").write_text("{}")
    a = str(tmp_path / "a")
    for command in (
        ["evaluate", "model", a, "--ground-truth", str(tmp_path / "gt.json")],
        ["evaluate", "model", a, "--ground-truth", str(tmp_path / "none.json")],
        ["compare", a, str(tmp_path)],
    ):
        shown = run(app, command)
        assert shown.exit_code == 3 and "error: " in shown.stderr and "hint: " in shown.stderr
