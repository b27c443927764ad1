"""How much memory is free, from the files that say so."""

from pathlib import Path

import pytest
import torch

from vggsfm_cli.memory import machine
from vggsfm_cli.memory.machine import SHARE, left_in_group, usable_bytes


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")


def membership(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text(text)
    return file


def test_the_tightest_group_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    root = tmp_path / "groups"
    group(root / "outer", max=900, current=300, stat="anon 1\ninactive_file 100")
    group(root / "outer" / "inner", max="max", current=300, stat="inactive_file 0")
    assert left_in_group(root, membership(tmp_path, "0::/outer/inner\n")) == 700
    group(root / "outer" / "inner", max=500, current=300, stat="inactive_file 50")
    assert left_in_group(root, membership(tmp_path, "0::/outer/inner\n")) == 250
    assert left_in_group(root, membership(tmp_path, "0::/\n")) is None


def test_old_groups(tmp_path: Path) -> None:
    root = tmp_path / "groups"
    group(root / "memory" / "job", limit_in_bytes=1000, usage_in_bytes=800, stat="total_inactive_file 30")
    assert left_in_group(root, membership(tmp_path, "3:cpu,cpuacct:/job\n2:memory:/job\n")) == 230


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert left_in_group(tmp_path, tmp_path / "absent") is None


def test_the_smaller_of_machine_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_resident_bytes", lambda: 100)
    monkeypatch.setattr(machine, "_left_on_machine", lambda: 900)
    monkeypatch.setattr(machine, "left_in_group", lambda: None)
    assert usable_bytes(torch.device("cpu")) == round(SHARE * 1000)
    monkeypatch.setattr(machine, "left_in_group", lambda: 400)
    assert usable_bytes(torch.device("cpu")) == round(SHARE * 500)
    monkeypatch.setattr(machine, "_left_on_machine", lambda: None)
    monkeypatch.setattr(machine, "left_in_group", lambda: None)
    assert usable_bytes(torch.device("cpu")) is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
def test_this_machine_has_some() -> None:
    free = usable_bytes(torch.device("cpu"))
    assert free is not None and free > 10**8


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_memory_of_the_accelerator() -> None:
    device = torch.device("cuda")
    free, total = torch.cuda.mem_get_info(device)
    assert 0 < usable_bytes(device) <= SHARE * total  # type: ignore[operator]
    assert usable_bytes(device) >= round(SHARE * free) - 2**28  # type: ignore[operator]
