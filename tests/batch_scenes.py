"""Scenes of a batch that take no time: their photographs are a few bytes, their folder says what is to happen."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from example_model import example_model
from vggsfm_cli.batch.fingerprint import hash_options
from vggsfm_cli.batch.outcome import Outcome
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.batch.worker import Attempt, SceneWorker, WorkerSetup
from vggsfm_cli.cli.failures import explain
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.options import SceneOptions

ORDER, CALLS = "order.txt", "calls.txt"


def make_scene(root: Path, name: str, order: str = "") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.jpg").write_text(f"{name} {k}")
    (folder / ORDER).write_text(order)
    return folder


def calls(folder: Path) -> list[int]:
    """The process of each time that the scene was reconstructed."""
    file = folder / CALLS
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def reconstruct(
    images: Path,
    out: Path,
    options: SceneOptions,
    networks: Callable[[], Any],
    *,
    overwrite: bool,
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Stands for ``reconstruct_scene``: obeys the order, and writes a true model."""
    with (images / CALLS).open("a") as file:
        file.write(f"{os.getpid()}\n")
    first = len(calls(images)) == 1
    match (images / ORDER).read_text():
        case "fail":
            raise ReconstructionFailed("Tracking found 3 tracks.", "A hint.")
        case "bug" if first:
            raise ValueError("a bug")
        case "die" if first:
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "warn":
            logging.getLogger("vggsfm_cli.io").warning("Skipped %s", "2.jpg")
        case "slow":
            time.sleep(0.3)
        case "hang" if first:
            time.sleep(60)
    report = {
        "models": [{"images": 3, "points": 200, "mean_reprojection_error_px": 0.5}],
        "images": [{}, {}, {}],
        "seconds": 0.1,
        "options": options.as_dict(),
        **notes,
    }
    write_colmap(
        example_model(3),
        out,
        overwrite=overwrite,
        extras=lambda folder: (folder / "report.json").write_text(json.dumps(report)) and None,
    )
    return report


def setup_for(out: Path, options: SceneOptions | None = None, *, force: bool = False) -> WorkerSetup:
    options = options or SceneOptions()
    return WorkerSetup(
        out=out,
        options=options,
        options_hash=hash_options(options),
        explain=explain,
        force=force,
        reconstruct=reconstruct,
    )


class InlinePool:
    """One worker in this process; the scene named ``lost`` loses its worker the first so many times."""

    def __init__(self, setup: WorkerSetup, losses: int = 0) -> None:
        self._worker, self._losses = SceneWorker(setup), losses
        self._scene: Scene | None = None
        self.closed = False

    def idle(self) -> int:
        return int(self._scene is None)

    def submit(self, scene: Scene) -> None:
        assert self._scene is None
        self._scene = scene

    def wait(self, timeout_s: float) -> list[Outcome]:
        if self._scene is None:
            return []
        scene, self._scene = self._scene, None
        if scene.name == "lost" and self._losses:
            self._losses -= 1
            return [Attempt(scene.name).died("The worker was lost.")]
        return [self._worker.run(scene)]

    def close(self) -> None:
        self.closed = True
