"""``vggsfm doctor``: checks of the installation."""

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

LITTLE_MEMORY_GB = 2.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor: ``note`` is good to know, ``problem`` stands in the way of a run."""

    status: Literal["ok", "note", "problem"]
    subject: str
    detail: str
    exit_code: int = 0


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check the installation.

    Exits with 0 if everything that a reconstruction needs is present, with 6 if only weights are missing, with 1
    otherwise.

    Example: vggsfm doctor
    """
    findings = [finding for check in CHECKS for finding in _guarded(check)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))  # noqa: T201
    else:
        for finding in findings:
            print(f"{finding.status:<8} {finding.subject:<22} {finding.detail}")  # noqa: T201
    codes = [finding.exit_code for finding in findings if finding.status == "problem"]
    if codes:
        raise typer.Exit(min(codes))


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    """A broken installation may fail in any way; that is what is to be found out."""
    try:
        return check()
    except Exception as error:
        subject = check.__name__.removeprefix("_check_")
        return [Finding(status="problem", subject=subject, detail=f"{type(error).__name__}: {error}", exit_code=1)]


def _check_versions() -> list[Finding]:
    from vggsfm_cli.report import versions

    return [
        Finding(status="ok", subject=name, detail=version)
        if version != "absent"
        else Finding(status="problem", subject=name, detail="not installed; run pip install vggsfm-cli", exit_code=1)
        for name, version in versions().items()
    ]


def _check_torch() -> list[Finding]:
    import torch

    total = float(torch.ones(8).sum())
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    if total != 8.0:  # noqa: PLR2004
        return [Finding(status="problem", subject="torch on the CPU", detail=f"8 ones sum to {total}", exit_code=1)]
    return [Finding(status="ok", subject="torch on the CPU", detail=threads)]


def _check_devices() -> list[Finding]:
    import torch

    from vggsfm_cli.devices import choose_device

    findings = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            detail = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GB free"
            findings.append(Finding(status="ok", subject=f"device cuda:{index}", detail=detail))
    else:
        findings.append(Finding(status="note", subject="device cuda", detail="torch finds none"))
    if torch.backends.mps.is_available():
        detail = "found; steps in double precision run on the CPU"
        findings.append(Finding(status="ok", subject="device mps", detail=detail))
    else:
        findings.append(Finding(status="note", subject="device mps", detail="torch finds none"))
    findings.append(Finding(status="ok", subject="--device auto", detail=f"means {choose_device('auto')} here"))
    return findings


def _check_colmap() -> list[Finding]:
    importlib.import_module("vggsfm_cli.colmap.convert")
    return [Finding(status="ok", subject="COLMAP files", detail="can be written")]


def _check_theseus() -> list[Finding]:
    from importlib import metadata

    try:
        version = metadata.version("theseus-ai")
    except metadata.PackageNotFoundError:
        return [Finding(status="note", subject="Theseus", detail="absent; only needed for its own adjuster")]
    return [Finding(status="ok", subject="Theseus", detail=version)]


def _check_weights() -> list[Finding]:
    from vggsfm_cli.checkpoints import load_model

    try:
        load_model("small", "cpu")
    except Exception as error:
        return [Finding(status="problem", subject="weights 'small'", detail=str(error), exit_code=6)]
    return [Finding(status="ok", subject="weights 'small'", detail="found")]


def _check_memory() -> list[Finding]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return [Finding(status="note", subject="memory", detail="unknown on this system")]
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    status: Literal["ok", "note"] = "ok" if available >= LITTLE_MEMORY_GB else "note"
    return [Finding(status=status, subject="memory", detail=f"{available:.1f} GB free")]


CHECKS = (_check_versions, _check_torch, _check_devices, _check_colmap, _check_theseus, _check_weights, _check_memory)
