"""A disk that refuses: at each write, rename and sync of every command, the old or the new result stands whole.

``VGGSFM_FAULTS=all`` tries every call; otherwise a few of each command, always the same ones.
"""

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from commands import SHAPES, Commands, commands
from pictured_model import pictured_model
from vggsfm_cli.colmap.files import write_colmap

TRIED = 6
FULL_AT = 3
VOLATILE = (
    "report.json",
    "report.html",
    "log.jsonl",
    "curves.png",
    "results.jsonl",
    "last.pt",
    "best.pt",
    "config.json",
)
"""Files with times in them, or that are written step by step; that they can be read is checked by what reads them."""

RECIPE = """
name = "tiny"
steps = 4
learning_rate = 0.02
validate_every = 2
log_every = 2
threads = 1

[task]
type = "shift"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Commands]:
    with commands() as running:
        if not running.with_faults:
            pytest.skip("a C compiler and Linux are needed to let calls of the system fail")
        yield running


@dataclass
class Case:
    """A command that writes.

    Attributes:
        arguments: with OUT for what it writes.
        out: name of what is written, a folder or a file.
        first: arguments of the run that makes the earlier result; None if there may be none.
    """

    arguments: list[str]
    out: str = "out"
    first: list[str] | None = field(default_factory=list)
    others: tuple[str, ...] = ()


def replacing(arguments: list[str]) -> Case:
    return Case(arguments=[*arguments, "--overwrite"], first=arguments)


def export(target: str, *more: str) -> Case:
    return replacing(["export", "model", "--out", "out", "--target", target, "-q", *more])


CASES = {
    "reconstruct": replacing(["reconstruct", "photos", "--out", "out", "--report", "--no-overview", "-q"]),
    "reconstruct and undistort": Case(
        arguments=["reconstruct", "photos", "--out", "out", "--undistort", "splat", "--overwrite", "-q"],
        first=["reconstruct", "photos", "--out", "out", "--undistort", "splat", "-q"],
        others=("splat",),
    ),
    "batch": Case(
        arguments=["batch", "scenes", "--out", "out", "--force", "-q", "--retry", "0"],
        out="out/a",
        first=None,
        others=("out/b",),
    ),
    "adjust": replacing(["adjust", "model", "--out", "out", "--iterations", "2", "-q"]),
    "undistort": replacing(["undistort", "model", "--images", "photos", "--out", "out", "-q"]),
    "export 3dgs": export("3dgs", "--images", "photos"),
    "export gsplat": export("gsplat", "--images", "photos", "--downscale", "2"),
    "export nerfstudio": export("nerfstudio", "--images", "photos"),
    "export instant-ngp": export("instant-ngp", "--images", "photos"),
    "export ply": export("ply"),
    "export txt": export("txt"),
    "inspect --repair": replacing(["inspect", "model", "--repair", "--out", "out"]),
    "report": Case(
        arguments=["report", "model", "--images", "photos", "--out", "out.html", "--overwrite", "-q"],
        out="out.html",
        first=["report", "model", "--out", "out.html", "-q"],
    ),
    "weights convert": Case(arguments=["weights", "convert", "published.bin", "--out", "out"], first=None),
    "synth": Case(
        arguments=["synth", "--out", "out", "--frames", "2", "--size", "32", "--no-photometry", "-q"], first=None
    ),
    "train": Case(
        arguments=["train", "tiny.toml", "--out", "out", "--resume", "--device", "cpu", "-q"],
        first=["train", "tiny.toml", "--out", "out", "--stop-after-steps", "2", "--device", "cpu", "-q"],
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    model = pictured_model(folder / "photos")
    write_colmap(model, folder / "model")
    for scene in ("a", "b"):
        shutil.copytree(folder / "photos", folder / "scenes" / scene)
    torch.save({name: torch.ones(shape) for name, shape in SHAPES.items()}, folder / "published.bin")
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def state(place: Path) -> str:
    """A hash of names and contents; empty if nothing stands there."""
    if not place.exists():
        return ""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    parts = [
        (str(path.relative_to(place.parent)), b"" if path.name in VOLATILE else path.read_bytes())
        for path in files
        if ".locks" not in path.parts
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Trial:
    """A command, what stood before it, and what stands after it when nothing fails."""

    def __init__(self, case: Case, server: Commands, inputs: Path, folder: Path) -> None:
        self.case, self.server, self.inputs, self.folder = case, server, inputs, folder
        self.before = folder / "before"
        shutil.copytree(inputs, self.before)
        if case.first:
            made = server.run(case.first, cwd=str(self.before), model=str(inputs / "model"))
            assert made["code"] == 0, made
        self.work = folder / "work"
        self.old = self.states(self.before)
        whole = self.run()
        assert whole["code"] == 0 and not whole["escaped"], whole
        self.new, self.calls = self.states(self.work), int(whole["counted"])
        self.bytes = sum(path.stat().st_size for place in self.places() for path in place.rglob("*") if path.is_file())
        self.bytes += sum(place.stat().st_size for place in self.places() if place.is_file())

    def places(self) -> list[Path]:
        return [self.work / name for name in (self.case.out, *self.case.others) if (self.work / name).exists()]

    def states(self, folder: Path) -> list[str]:
        return [state(folder / name) for name in (self.case.out, *self.case.others)]

    def run(self, **fault: int) -> dict[str, object]:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before, self.work)
        return self.server.run(
            self.case.arguments, cwd=str(self.work), root=str(self.work), model=str(self.inputs / "model"), **fault
        )

    def check(self, ended: dict[str, object], what: str) -> None:
        """The old or the new result, whole, and an exit code that says which."""
        told = f"{what}, {ended['failed']}: {ended}"
        assert not ended["escaped"] and "Traceback" not in str(ended["stderr"]), told
        assert "Internal error" not in str(ended["stderr"]), told
        for old, new, now in zip(self.old, self.new, self.states(self.work), strict=True):
            assert now in (old, new), told
            assert ended["code"] != 0 or now == new, told
        assert ended["code"] in (0, 9) or (ended["code"] == 4 and self.case.arguments[0] == "batch"), told
        left = {path.name for path in self.work.iterdir()} - {path.name for path in self.before.iterdir()}
        assert left <= {Path(name).parts[0] for name in (self.case.out, *self.case.others)}, told


@pytest.mark.parametrize("name", CASES)
def test_the_old_or_the_new_result_is_whole(name: str, server: Commands, inputs: Path, tmp_path: Path) -> None:
    trial = Trial(CASES[name], server, inputs, tmp_path)
    every = range(1, trial.calls + 1)
    dice = random.Random(name)
    chosen = every if os.environ.get("VGGSFM_FAULTS") == "all" else sorted(dice.sample(every, min(TRIED, len(every))))
    codes = set()
    for number in chosen:
        ended = trial.run(number=number, error=dice.choice((errno.EIO, errno.ENOSPC)))
        assert ended["failed"], ended
        trial.check(ended, f"call {number} of {trial.calls}")
        codes.add(ended["code"])
    assert codes - {0}, "no fault was noticed"


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("batch", "train")])
def test_a_full_disk_is_told(name: str, server: Commands, inputs: Path, tmp_path: Path) -> None:
    trial = Trial(CASES[name], server, inputs, tmp_path)
    parts = 100 if os.environ.get("VGGSFM_FAULTS") == "all" else FULL_AT
    for k in range(parts):
        ended = trial.run(bytes=trial.bytes * k // parts)
        assert ended["code"] == 9 and "Cannot write" in str(ended["stderr"]), ended
        trial.check(ended, f"full after {k} of {parts} parts")


@pytest.mark.parametrize("error", [errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_names_that_cannot_be_exchanged_change_in_two_steps(
    error: int, server: Commands, inputs: Path, tmp_path: Path
) -> None:
    """As on network and container file systems."""
    trial = Trial(CASES["export ply"], server, inputs, tmp_path)
    for number in range(trial.calls, 0, -1):
        ended = trial.run(number=number, error=error)
        if str(ended["failed"]).startswith("exchange"):
            break
    assert str(ended["failed"]).startswith("exchange"), "no exchange was tried"
    assert ended["code"] == 0 and trial.states(trial.work) == trial.new, ended
