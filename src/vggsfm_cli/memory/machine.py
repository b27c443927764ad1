"""How much memory a machine or an accelerator has left."""

import os
from pathlib import Path

import torch

SHARE = 0.8
"""Of what is free, so much is planned with: estimates are not exact, and others use the machine too."""

CGROUPS = Path("/sys/fs/cgroup")


def usable_bytes(device: torch.device) -> int | None:
    """What a run on ``device`` may take in all, with what it has already; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return round(SHARE * (free + torch.cuda.memory_reserved(device)))
    if device.type not in ("cpu", "mps"):  # MPS shares the memory of the machine
        return None
    left = [rest for rest in (_left_on_machine(), left_in_group()) if rest is not None]
    return round(SHARE * (min(left) + _resident_bytes())) if left else None


def _left_on_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = file.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def left_in_group(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the control groups of this process leave it, as in a container; None without a limit.

    Files that are only cached count as free: the system drops them first.
    """
    try:
        names = [line.split(":", 2)[1:] for line in membership.read_text().splitlines()]
    except OSError:
        return None
    left = []
    for controllers, name in names:
        if controllers not in ("", "memory"):
            continue
        old = controllers == "memory"
        top = root / "memory" if old else root
        here = top / name.lstrip("/")
        for folder in (here, *here.parents):
            left.append(_left_in_folder(folder, old))
            if folder == top:
                break
    return min((rest for rest in left if rest is not None), default=None)


def _left_in_folder(folder: Path, old: bool) -> int | None:
    limit_file, used_file = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    try:
        limit = int((folder / f"memory.{limit_file}").read_text())
        used = int((folder / f"memory.{used_file}").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    cached = int(stat.get("total_inactive_file" if old else "inactive_file", 0))
    return max(0, limit - used + cached)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
