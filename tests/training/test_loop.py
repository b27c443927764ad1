"""The loop: it learns, goes on with the same bits, survives interruption and broken steps."""

import dataclasses
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shift_task import ShiftConfig, ShiftTask
from vggsfm_cli.errors import InputError, TrainingFailed, UsageError
from vggsfm_cli.scene import Progress
from vggsfm_cli.training.checkpoint import read_checkpoint, write_checkpoint
from vggsfm_cli.training.config import TrainingConfig
from vggsfm_cli.training.loop import Limits, Outcome, train
from vggsfm_cli.training.tasks import TASKS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "shift", ShiftConfig)
    monkeypatch.setattr(ShiftTask, "built", [])


def recipe(task: ShiftConfig | None = None, **changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "name": "tiny",
        "steps": 60,
        "learning_rate": 0.02,
        "warmup_steps": 5,
        "ema_decay": 0.9,
        "validate_every": 20,
        "checkpoint_every": 15,
        "log_every": 7,
        "threads": 1,
    }
    return TrainingConfig(task=task or ShiftConfig(), **{**values, **changes})


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Lines without what the clock decides."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in {"seconds", "examples_per_second"}} for line in lines]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    state = read_checkpoint(folder / "last.pt")
    moments = {f"{i}.{name}": value for i, item in state["moments"].items() for name, value in item.items()}
    best = read_checkpoint(folder / "best.pt")["weights"]
    parts = {"weights": state["weights"], "average": state["average"], "moments": moments, "best": best}
    return {f"{part}.{name}": value for part, items in parts.items() for name, value in items.items()}


def assert_same_run(one: Path, other: Path) -> None:
    mine, theirs = tensors_of(one), tensors_of(other)
    assert mine.keys() == theirs.keys() and len(mine) > 20
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for key in ("step", "updates", "scaler", "best_loss", "skipped", "in_a_row", "sums", "counted"):
        assert read_checkpoint(one / "last.pt").get(key) == read_checkpoint(other / "last.pt").get(key), key
    assert log_of(one) == log_of(other)
    exported = [load_file(folder / "export" / "shift.safetensors") for folder in (one, other)]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])


def test_it_learns_and_exports_the_best_average(tmp_path: Path) -> None:
    events: list[Progress] = []
    folder = tmp_path / "run"
    outcome = train(recipe(steps=150), folder, device=CPU, progress=events.append)
    lines = log_of(folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    validations = [line["validation"]["loss"] for line in lines if "validation" in line]
    assert losses[-1] < 0.2 * losses[0] and validations[-1] < 0.2 * validations[0]
    assert outcome == Outcome(status="finished", step=150, best_loss=min(validations), export=folder / "export")
    assert [event.done for event in events] == list(range(1, 151)) and "loss" in events[-1].detail
    line = lines[5]
    assert line["loss"] == pytest.approx(sum(line["terms"].values())) and line["terms"].keys() == {"shift", "size"}
    assert {"step", "learning_rate", "gradient_norm", "skipped"} <= line.keys()

    best, exported = read_checkpoint(folder / "best.pt"), load_file(folder / "export" / "shift.safetensors")
    assert best["loss"] == outcome.best_loss
    assert all(torch.equal(best["weights"][name], exported[name]) for name in exported)
    task = ShiftConfig().build(0, CPU)
    task.module.load_state_dict(exported)
    task.module.eval()
    with torch.no_grad():
        assert task.validate()["loss"] == outcome.best_loss
    assert (folder / "curves.png").stat().st_size > 5000
    assert not list(folder.glob(".*")), "no partial files are left"


@pytest.mark.parametrize(
    "changes",
    [{}, {"prefetch": 3}, {"precision": "bfloat16"}, {"precision": "float16"}],
    ids=["float32", "prefetch", "bfloat16", "float16"],
)
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = recipe(**changes)
    train(config, tmp_path / "whole", device=CPU)
    for resume in (False, True):
        # 31 steps lie amid an interval of the log, of validation and of checkpoints
        train(config, tmp_path / "halves", device=CPU, resume=resume, limits=Limits(steps=31))
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_prefetching_changes_nothing(tmp_path: Path) -> None:
    train(recipe(steps=25), tmp_path / "plain", device=CPU)
    before = threading.active_count()
    train(recipe(steps=25, prefetch=4), tmp_path / "ahead", device=CPU)
    assert_same_run(tmp_path / "plain", tmp_path / "ahead")
    assert threading.active_count() == before


def test_a_crash_after_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    config = recipe(log_every=5)
    train(config, tmp_path / "whole", device=CPU)

    def crash(event: Progress) -> None:
        if event.done == 50:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "crashed", device=CPU, progress=crash)
    assert (
        read_checkpoint(tmp_path / "crashed" / "last.pt")["step"] == 45
        and log_of(tmp_path / "crashed")[-1]["step"] > 45
    )
    with (tmp_path / "crashed" / "log.jsonl").open("a") as file:
        file.write('{"step": 5')
    train(config, tmp_path / "crashed", device=CPU, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "crashed")


def test_interruption_writes_a_checkpoint_and_stops(tmp_path: Path) -> None:
    config, interrupted = recipe(), threading.Event()

    def interrupt(event: Progress) -> None:
        if event.done == 23:
            interrupted.set()

    outcome = train(config, tmp_path / "run", device=CPU, interrupted=interrupted, progress=interrupt)
    assert (outcome.status, outcome.step, outcome.export) == ("interrupted", 23, None)
    assert train(config, tmp_path / "run", device=CPU, resume=True).status == "finished"
    train(config, tmp_path / "whole", device=CPU)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_time_limit_pauses_and_exports_the_best_so_far(tmp_path: Path) -> None:
    config = recipe(steps=10**6, validate_every=5)
    outcome = train(config, tmp_path / "run", device=CPU, limits=Limits(minutes=0.3 / 60))
    assert outcome.status == "paused" and 5 <= outcome.step < 10**6
    assert outcome.export is not None and (outcome.export / "shift.safetensors").is_file()
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == outcome.step


def test_a_broken_step_is_skipped_and_counted(tmp_path: Path) -> None:
    states: dict[int, dict[str, Tensor]] = {}

    def remember(event: Progress) -> None:
        states[event.done] = {name: item.clone() for name, item in ShiftTask.built[-1].module.state_dict().items()}

    config = recipe(ShiftConfig(broken_steps=(10, 11, 30)), steps=40, log_every=1)
    train(config, tmp_path / "run", device=CPU, progress=remember)
    assert all(torch.equal(states[10][name], states[12][name]) for name in states[10])
    assert not all(torch.equal(states[12][name], states[13][name]) for name in states[12])
    lines = {line["step"]: line for line in log_of(tmp_path / "run") if "skipped" in line}
    assert [lines[step]["skipped"] for step in (10, 11, 12, 13, 30, 31, 40)] == [0, 1, 2, 2, 2, 3, 3]
    assert "loss" not in lines[11] and math.isfinite(lines[13]["loss"])


def test_twenty_broken_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    config = recipe(ShiftConfig(broken_steps=tuple(range(18, 50))))
    with pytest.raises(TrainingFailed, match=r"20 steps in a row .* step 38 .*shift") as raised:
        train(config, tmp_path / "run", device=CPU)
    assert "learning_rate" in raised.value.hint
    weights = read_checkpoint(tmp_path / "run" / "last.pt")["weights"]
    assert all(value.isfinite().all() for value in weights.values())
    nineteen = recipe(ShiftConfig(broken_steps=(*range(10, 20), *range(21, 40))))  # not in a row with the ten before
    outcome = train(nineteen, tmp_path / "other", device=CPU)
    assert outcome.status == "finished" and outcome.best_loss is not None and outcome.export is not None


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    config = recipe(steps=3)
    with pytest.raises(UsageError, match="no run to resume"):
        train(config, tmp_path / "run", device=CPU, resume=True)
    (tmp_path / "run").mkdir()  # an empty folder is free
    train(config, tmp_path / "run", device=CPU)
    with pytest.raises(UsageError, match="exists already") as raised:
        train(config, tmp_path / "run", device=CPU)
    assert "--resume" in raised.value.hint and "--out" in raised.value.hint
    (tmp_path / "run" / "last.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        train(config, tmp_path / "run", device=CPU, resume=True)


def test_a_resumed_run_keeps_its_recipe(tmp_path: Path) -> None:
    config = recipe(steps=4)
    train(config, tmp_path / "run", device=CPU)
    for changed in (
        dataclasses.replace(config, learning_rate=0.5),
        dataclasses.replace(config, task=ShiftConfig(width=25)),
        dataclasses.replace(config, seed=1),
    ):
        with pytest.raises(UsageError, match=r"`(learning_rate|task\.width|seed)` \("):
            train(changed, tmp_path / "run", device=CPU, resume=True)
    again = train(config, tmp_path / "run", device=CPU, resume=True)
    assert (again.status, again.step) == ("finished", 4) and again.export is not None
    longer = dataclasses.replace(config, steps=6, prefetch=1, threads=2, checkpoint_every=2)
    assert train(longer, tmp_path / "run", device=CPU, resume=True).step == 6


def test_only_a_better_validation_replaces_the_best(tmp_path: Path) -> None:
    config = recipe(steps=40, schedule="constant")
    train(config, tmp_path / "run", device=CPU, limits=Limits(steps=30))
    state = read_checkpoint(tmp_path / "run" / "last.pt")
    write_checkpoint(tmp_path / "run" / "last.pt", {**state, "best_loss": 1e-9})
    outcome = train(config, tmp_path / "run", device=CPU, resume=True)
    assert outcome.best_loss == 1e-9 and read_checkpoint(tmp_path / "run" / "best.pt")["step"] == 20


def test_steps_are_as_long_as_the_schedule_says(tmp_path: Path) -> None:
    lengths = []
    for warmup_steps in (0, 10**6):
        folder = tmp_path / str(warmup_steps)
        train(recipe(steps=10, warmup_steps=warmup_steps, weight_decay=0.0), folder, device=CPU)
        weights = read_checkpoint(folder / "last.pt")["weights"]
        start = ShiftTask.built[-1].first_weights
        lengths.append(max(float((weights[name] - start[name]).abs().max()) for name in start))
    assert lengths[0] > 0.02 and 0 < lengths[1] < 1e-5


def test_settings_of_the_caller_survive(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe(steps=3, threads=2, prefetch=1), tmp_path / "run", device=CPU)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1


def test_parts_keep_the_mode_they_train_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FrozenStatistics(ShiftTask):
        def __init__(self, config: ShiftConfig, seed: int, device: torch.device) -> None:
            super().__init__(config, seed, device)
            self.module[1].eval()
            self.module[1].requires_grad_(False)

    def build(config: ShiftConfig, seed: int, device: torch.device) -> ShiftTask:
        return FrozenStatistics(config, seed, device)

    monkeypatch.setattr(ShiftConfig, "build", build)
    train(recipe(steps=25), tmp_path / "run", device=CPU)
    state = read_checkpoint(tmp_path / "run" / "last.pt")
    assert state["weights"]["1.num_batches_tracked"] == 0
    assert torch.equal(state["weights"]["1.weight"], torch.ones(24)) and "1.weight" not in state["average"]
    assert not torch.equal(state["weights"]["0.weight"], state["average"]["0.weight"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_cuda(tmp_path: Path, precision: str) -> None:
    config = recipe(steps=100, precision=precision, prefetch=2)
    for resume in (False, True):
        train(config, tmp_path / "run", device=torch.device("cuda"), resume=resume, limits=Limits(steps=50))
    losses = [line["loss"] for line in log_of(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.4 * losses[0]
