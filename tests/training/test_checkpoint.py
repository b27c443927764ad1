"""Checkpoint files: whole or not there, and small."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shift_task import ShiftConfig, ShiftTask
from vggsfm_cli.errors import InputError, WriteFailed
from vggsfm_cli.training.checkpoint import read_checkpoint, write_checkpoint
from vggsfm_cli.training.config import TrainingConfig
from vggsfm_cli.training.loop import train

STATE: dict[str, Any] = {
    "step": 3,
    "best": None,
    "empty": {},
    "moments": {0: {"step": torch.tensor(4.0), "mean": torch.arange(6.0).reshape(2, 3)}, 1: {"mean": torch.ones(5)}},
    "weights": {"a.b": torch.zeros(2, dtype=torch.bfloat16), "count": torch.tensor(7)},
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("part_bytes", [1, 24, 10**6])
def test_what_is_written_is_read(tmp_path: Path, part_bytes: int) -> None:
    path = tmp_path / "last.pt"
    for step in (3, 3, 4):  # the same step twice: the parts in use are not written over
        write_checkpoint(path, {**STATE, "step": step}, part_bytes)
        assert equal(read_checkpoint(path), {**STATE, "step": step})
        assert len(list(tmp_path.iterdir())) == {1: 5, 24: 4, 10**6: 1}[part_bytes]


def test_a_view_is_written_without_what_it_is_a_view_of(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt", {"step": 0, "view": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "last.pt").stat().st_size < 10_000


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_failure_amid_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, STATE, 24)
    calls = 0

    def full(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        write(*arguments)
        if calls == failing_call:
            raise OSError(28, "No space left on device")

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    changed = {**STATE, "weights": {"a.b": torch.ones(2)}}
    with pytest.raises(WriteFailed, match="No space"):
        write_checkpoint(path, changed, 24)
    assert equal(read_checkpoint(path), STATE) and not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    write_checkpoint(path, changed, 24)
    assert equal(read_checkpoint(path), changed) and len(list(tmp_path.iterdir())) == 4


def test_nothing_appears_under_the_true_name_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, there = tmp_path / "last.pt", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: there.append(path.exists()))
    write_checkpoint(path, {"step": 0})
    assert there == [False, True] and path.is_file()  # the file, then its name in the folder


def test_damage_is_said(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(InputError, match="missing"):
        read_checkpoint(path)
    write_checkpoint(path, STATE, 24)
    part = next(tmp_path.glob("last-*-1.pt"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last-.*-1.pt' is damaged"):
        read_checkpoint(path)
    part.unlink()
    with pytest.raises(InputError, match=r"last-.*-1.pt' is missing"):
        read_checkpoint(path)


def test_files_of_a_large_module_stay_under_16_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LargeTask(ShiftTask):
        def __init__(self, config: ShiftConfig, seed: int, device: torch.device) -> None:
            super().__init__(config, seed, device)
            self.module = nn.Sequential(nn.Linear(32, 1100), nn.ReLU(), nn.Linear(1100, 1100), nn.Linear(1100, 1))

    def build(config: ShiftConfig, seed: int, device: torch.device) -> ShiftTask:
        return LargeTask(config, seed, device)

    monkeypatch.setattr(ShiftConfig, "build", build)
    config = TrainingConfig(name="large", steps=2, learning_rate=1e-3, task=ShiftConfig(), threads=1)
    train(config, tmp_path / "run", device=torch.device("cpu"))
    files = list((tmp_path / "run").glob("*.pt"))
    assert sum(file.stat().st_size for file in files) > 20e6
    assert max(file.stat().st_size for file in files) < 16 * 2**20
    assert (tmp_path / "run" / "best.pt").stat().st_size < 5.1e6  # weights alone
