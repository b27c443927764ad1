"""``vggsfm train`` from a recipe to exported weights."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from shift_task import ShiftConfig
from vggsfm_cli.cli.app import app
from vggsfm_cli.training.tasks import TASKS

run = CliRunner().invoke

RECIPE = """
name = "tiny"
steps = 40
learning_rate = 0.02
validate_every = 10
log_every = 5
threads = 1

[task]
type = "shift"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(TASKS, "shift", ShiftConfig)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def steps_of(folder: Path) -> list[int]:
    return [
        line["step"] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "terms" in line
    ]


def test_pieces_make_a_whole(recipe: Path) -> None:
    first = run(app, ["train", str(recipe), "--stop-after-steps", "12", "--device", "cpu"])
    assert first.exit_code == 0, first.stderr
    assert first.stdout == "runs/tiny/export\n" and "paused at step 12 of 40; --resume" in first.stderr
    refused = run(app, ["train", str(recipe)])
    assert refused.exit_code == 2 and "--resume" in refused.stderr
    rest = run(app, ["train", str(recipe), "--resume", "--device", "cpu"])
    assert rest.exit_code == 0 and rest.stdout == "runs/tiny/export\n" and "training       40/40" in rest.stderr
    whole = run(app, ["train", str(recipe), "--out", "whole", "-q", "--device", "cpu"])
    assert whole.exit_code == 0 and whole.stdout == "whole/export\n" and whole.stderr == ""
    one, other = (load_file(Path(folder) / "export/shift.safetensors") for folder in ("runs/tiny", "whole"))
    assert all((one[name] == other[name]).all() for name in one)
    assert steps_of(Path("whole")) == steps_of(Path("runs/tiny")) == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    written = {path.name for path in Path("whole").iterdir()}
    assert written == {"config.json", "log.jsonl", "curves.png", "last.pt", "best.pt", "export"}
    settings = json.loads(Path("whole/config.json").read_text())
    assert settings["config"]["task"] == {"type": "shift", **settings["config"]["task"]} and settings["device"] == "CPU"


def test_steps_replaces_the_recipes(recipe: Path) -> None:
    assert run(app, ["train", str(recipe), "--steps", "10"]).exit_code == 0
    assert steps_of(Path("runs/tiny"))[-1] == 10
    assert run(app, ["train", str(recipe), "--steps", "15", "--resume", "-v"]).exit_code == 0
    assert steps_of(Path("runs/tiny"))[-1] == 15


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_signal_ends_it_with_a_checkpoint(recipe: Path, prefetch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    recipe.write_text(RECIPE.replace("[task]", f"prefetch = {prefetch}\n[task]") + "signal_at = 17\n")
    stopped = run(app, ["train", str(recipe)])
    assert stopped.exit_code == 143 and stopped.stdout == ""
    assert "interrupted at step 1" in stopped.stderr and "--resume" in stopped.stderr
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    monkeypatch.setattr(os, "kill", lambda *arguments: None)
    resumed = run(app, ["train", str(recipe), "--resume"])
    assert resumed.exit_code == 0 and steps_of(Path("runs/tiny"))[-1] == 40


def test_a_second_signal_stops_at_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text(RECIPE + "signal_at = 17\n")
    kill = os.kill

    def twice(process: int, number: int) -> None:
        first = signal.getsignal(number)
        kill(process, number)
        until = time.monotonic() + 10
        while signal.getsignal(number) is first and time.monotonic() < until:  # two signals at once may count as one
            time.sleep(0.01)
        kill(process, signal.SIGINT)

    monkeypatch.setattr(os, "kill", twice)
    stopped = run(app, ["train", str(recipe)])
    assert stopped.exit_code == 143 and "stopped at once" in stopped.stderr


def test_the_help_has_an_example_and_the_exit_codes() -> None:
    shown = run(app, ["train", "--help"])
    assert shown.exit_code == 0 and "Example: vggsfm train" in shown.stdout and "130  interrupted" in shown.stdout


def test_the_time_limit_is_no_failure(recipe: Path) -> None:
    result = run(app, ["train", str(recipe), "--steps", "1000000", "--stop-after-minutes", "0.005"])
    assert result.exit_code == 0 and "paused at step" in result.stderr


def test_verbose_tells_of_validations(recipe: Path) -> None:
    result = run(app, ["train", str(recipe), "-v"])
    assert result.stderr.count("validation: loss") == 4 and "step 40 of 40" in result.stderr


def test_mistakes(recipe: Path, tmp_path: Path) -> None:
    assert run(app, ["train", str(tmp_path / "nowhere.toml")]).exit_code == 3
    nothing = run(app, ["train", str(recipe), "--resume"])
    assert nothing.exit_code == 2 and "no run to resume" in nothing.stderr
    recipe.write_text(RECIPE + "rowz = 3\n")
    result = run(app, ["train", str(recipe)])
    assert result.exit_code == 2 and "task.rowz" in result.stderr and "tiny.toml" in result.stderr
    assert not Path("runs").exists()
    recipe.write_text(RECIPE + f"broken_steps = {list(range(40))}\n")
    assert run(app, ["train", str(recipe)]).exit_code == 8
