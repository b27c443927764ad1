"""The methods that are compared, each as the command a user would run, timed from start to end."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
USAGE_ERROR = 2
"""Exit code of a command that was called in the wrong way: a mistake of the benchmark, not a result."""

FREED = "sift + principal point"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command did.

    Attributes:
        method: its name in tables.
        models: folder of the models; does not exist if there are none.
        exit_code: of the command.
        seconds: wall time of the whole command.
        cpu_seconds: of all its threads.
        peak_memory_mb: its largest resident set.
        report: parts of ``report.json``, if the method writes one.
    """

    method: str
    models: Path
    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    report: dict[str, Any] | None = None


class Method(Protocol):
    """Something that makes models of photographs, in one or several variants."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the variants, as in ``Run.method``."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides the result beside the photographs, for the record."""
        ...

    def __call__(self, images: Path, folder: Path, shared_camera: bool) -> list[Run]:
        """Run on all photographs of a folder; ``folder`` is empty and takes what is written."""
        ...


class Snapshot:
    """A copy of the package and of its weights: what is measured stays the same while the sources are worked on."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "src"
        # compiled files come along, so that the first command is not slower than the others
        shutil.copytree(ROOT / "src", self.source)
        shutil.copytree(ROOT / "weights", folder / "weights")
        self.hash = hash_of(self.source, folder / "weights")


def hash_of(*folders: Path) -> str:
    """Of the names and contents of all files below some folders, compiled ones left out."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Vggsfm:
    """This tool: ``vggsfm reconstruct``."""

    snapshot: Snapshot
    preset: str | None = None
    model: str = "small"
    threads: int = 2
    options: tuple[str, ...] = ()  # added to the command line

    @property
    def names(self) -> tuple[str, ...]:
        return ("vggsfm" if self.preset is None else f"vggsfm {self.preset}",)

    def settings(self) -> dict[str, Any]:
        given = {"preset": self.preset, "model": self.model, "threads": self.threads, "options": list(self.options)}
        if Path(self.model).is_dir():
            given["weights"] = hash_of(Path(self.model))
        return {"source": self.snapshot.hash, **given, **versions("torch", "pycolmap", "numpy")}

    def __call__(self, images: Path, folder: Path, shared_camera: bool) -> list[Run]:
        out = folder / "sparse"
        command = [sys.executable, "-m", "vggsfm_cli", "reconstruct", str(images), "--out", str(out), "--quiet"]
        command += ["--camera-mode", "single" if shared_camera else "per-image", "--threads", str(self.threads)]
        command += ["--model", self.model, *(("--preset", self.preset) if self.preset else ()), *self.options]
        run = timed(self.names[0], command, out, self.threads, self.snapshot.source)
        report_file = out / "report.json"
        report = json.loads(report_file.read_text()) if report_file.is_file() else {}
        kept = {key: report[key] for key in ("models", "stages", "seconds") if key in report}
        return [dataclasses.replace(run, report=kept or None)]


@dataclass(frozen=True, kw_only=True)
class Sift:
    """COLMAP's pipeline, see ``sift.py``, and the same with the principal point free at the end."""

    threads: int = 2
    freed: bool = True  # run the second variant too

    @property
    def names(self) -> tuple[str, ...]:
        return ("sift", FREED) if self.freed else ("sift",)

    def settings(self) -> dict[str, Any]:
        script = hashlib.sha256((HERE / "sift.py").read_bytes()).hexdigest()[:16]
        return {"script": script, "threads": self.threads, **versions("pycolmap")}

    def __call__(self, images: Path, folder: Path, shared_camera: bool) -> list[Run]:
        script, threads = [sys.executable, str(HERE / "sift.py")], ["--threads", str(self.threads)]
        mode = ["--camera-mode", "single" if shared_camera else "per-image"]
        out, freed_out = folder / "sift", folder / "freed"
        reconstruct = [*script, "reconstruct", str(images), "--out", str(out), *mode, *threads]
        first = timed("sift", reconstruct, out, self.threads)
        if not self.freed:
            return [first]
        free = [*script, "free-principal-point", str(out), "--out", str(freed_out), *threads]
        second = timed(FREED, free, freed_out, self.threads)
        both = dataclasses.replace(
            second,
            exit_code=first.exit_code or second.exit_code,
            seconds=first.seconds + second.seconds,
            cpu_seconds=first.cpu_seconds + second.cpu_seconds,
            peak_memory_mb=max(first.peak_memory_mb, second.peak_memory_mb),
        )
        return [first, both]


def stop_on_request() -> None:
    """Let a polite request to end (SIGTERM) end the running command too: left alone it would disturb what is timed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def timed(method: str, command: list[str], out: Path, threads: int, source: Path | None = None) -> Run:
    """Run a command to its end; what it says stands in ``out.log``.

    Raises:
        RuntimeError: it calls itself misused.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    log = out.with_suffix(".log")
    with log.open("w") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)  # unlike ``process.wait`` it tells what was used
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == USAGE_ERROR:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text()[-2000:]}")
    return Run(
        method=method,
        models=out,
        exit_code=process.returncode,
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_mb=usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    )


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of installed packages."""
    return {"python": sys.version.split()[0], **{name: metadata.version(name) for name in packages}}
