"""What a worker does, in whatever process it lives: scene after scene, with one model in memory."""

import datetime
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from vggsfm_cli.batch.fingerprint import Stamps, hash_inputs, stamp_inputs
from vggsfm_cli.batch.inputs import input_files, options_of
from vggsfm_cli.batch.locks import scene_lock
from vggsfm_cli.batch.outcome import Finished, Outcome, SceneFailure, figures_of, read_finished
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.devices import choose_device
from vggsfm_cli.errors import UsageError, VGGSfMError
from vggsfm_cli.job import Networks, load_networks, reconstruct_scene, require_registered
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.options import Device, SceneOptions
from vggsfm_cli.threads import limit_cores


@runtime_checkable
class Explained(Protocol):
    """What a user is told of an exception."""

    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def hint(self) -> str: ...  # noqa: D102
    @property
    def exit_code(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """All that a worker is told once; it goes to other processes and machines.

    Attributes:
        out: the batch's folder, which every worker reaches under this path.
        options: about each scene, with absolute paths.
        options_hash: of ``hash_options``.
        explain: makes words of an exception.
        adjuster: solver of the last adjustments; None for the model's own.
        force: do finished scenes again, and replace results that no batch made.
        threads: CPU threads of each worker.
        reconstruct: does one scene; has the signature of ``reconstruct_scene``.
    """

    out: Path
    options: SceneOptions
    options_hash: str
    explain: Callable[[BaseException], Explained]
    adjuster: AdjusterConfig | None = None
    force: bool = False
    threads: int = 1
    reconstruct: Callable[..., dict[str, Any]] = reconstruct_scene


class SceneWorker:
    """Does scenes one after the other."""

    def __init__(self, setup: WorkerSetup, index: int = 0) -> None:
        """The model is loaded with the first scene.

        Args:
            setup: of the batch.
            index: of this worker, which decides on its GPU.
        """
        self._setup = setup
        self._index = index
        self._networks: Networks | None = None

    def run(self, scene: Scene) -> Outcome:
        """Do one scene, unless it is finished or another process is working on it; a failure is an outcome too."""
        attempt = Attempt(scene.name)
        with _heard_warnings() as warnings:
            try:
                with scene_lock(self._setup.out, scene.name) as ours:
                    return self._run_locked(scene, attempt, warnings) if ours else attempt.outcome("busy")
            except Exception as error:
                return attempt.outcome("failed", failure=self._failure(error), warnings=_once(warnings))

    def _run_locked(self, scene: Scene, attempt: "Attempt", warnings: list[str]) -> Outcome:
        setup, folder = self._setup, self._setup.out / scene.name
        options = options_of(scene, setup.options)
        files = input_files(scene.images, options)
        finished, stamps = read_finished(folder), stamp_inputs(files)
        inputs = None
        if finished is not None and not setup.force and finished.options == setup.options_hash:
            inputs = finished.inputs if finished.stamps == stamps else hash_inputs(files)
            if inputs == finished.inputs:
                return kept_outcome(scene, finished, setup)
        if finished is None and (folder / "0").exists() and not setup.force:
            hint = "Add --force to replace it, or choose another --out."
            raise UsageError(f"{str(folder)!r} holds a reconstruction that no batch made.", hint)
        record = attempt.finished(inputs or hash_inputs(files), setup.options_hash, stamps)
        report = setup.reconstruct(
            scene.images,
            folder,
            options,
            self._load,
            overwrite=setup.force or finished is not None,
            notes=record.record(),
        )
        failure = _require(report, scene, setup)
        status = "done" if failure is None else "failed"
        return attempt.outcome(status, figures=figures_of(report), failure=failure, warnings=_once(warnings))

    def _load(self) -> Networks:
        if self._networks is None:
            device = _device(self._setup.options.device, self._index)
            self._networks = load_networks(self._setup.options, device, self._setup.adjuster)
        return self._networks

    def _failure(self, error: Exception) -> SceneFailure:
        return _failure(error, self._setup)


class ProcessWorker(SceneWorker):
    """A worker that has a process to itself, whose threads it takes."""

    def __init__(self, setup: WorkerSetup, index: int = 0) -> None:
        """Set the threads of this process.

        Args:
            setup: of the batch.
            index: of this worker.
        """
        super().__init__(setup, index)
        limit_cores(setup.threads)
        torch.set_num_threads(setup.threads)

    def ready(self) -> bool:
        """True; an answer says that this process has started."""
        return True


def kept_outcome(scene: Scene, finished: Finished, setup: WorkerSetup) -> Outcome:
    """Of a result that was there, held against what is asked of it now."""
    failure = _require(finished.report, scene, setup)
    return Outcome(
        scene=scene.name,
        status="done" if failure is None else "failed",
        attempt=finished.attempt,
        started=finished.started,
        seconds=0.0,
        host=finished.host,
        kept=True,
        figures=figures_of(finished.report),
        failure=failure,
    )


def _require(report: Any, scene: Scene, setup: WorkerSetup) -> SceneFailure | None:
    try:
        require_registered(report, setup.options, setup.out / scene.name)
    except VGGSfMError as error:
        return _failure(error, setup)
    return None


def _failure(error: Exception, setup: WorkerSetup) -> SceneFailure:
    explained = setup.explain(error)
    return SceneFailure(
        kind=type(error).__name__,
        message=explained.message,
        hint=explained.hint,
        exit_code=explained.exit_code,
        unexpected=not isinstance(error, VGGSfMError),
    )


class Attempt:
    """One try at a scene, from its start."""

    def __init__(self, scene: str) -> None:
        """Start now.

        Args:
            scene: its name.
        """
        self._scene = scene
        self._attempt = secrets.token_hex(8)
        self._started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._host = socket.gethostname()
        self._clock = time.monotonic()

    def finished(self, inputs: str, options: str, stamps: Stamps) -> Finished:
        """What the report will say of it."""
        return Finished(
            report={},
            attempt=self._attempt,
            started=self._started,
            host=self._host,
            inputs=inputs,
            options=options,
            stamps=stamps,
        )

    def outcome(self, status: Any, **values: Any) -> Outcome:
        """Its end, now."""
        return Outcome(
            scene=self._scene,
            status=status,
            attempt=self._attempt,
            started=self._started,
            seconds=round(time.monotonic() - self._clock, 3),
            host=self._host,
            **values,
        )

    def died(self, message: str, hint: str = "") -> Outcome:
        """Its end, by that of its worker."""
        failure = SceneFailure(kind="WorkerDied", message=message, hint=hint, exit_code=1, unexpected=True)
        return self.outcome("failed", failure=failure)


def _once(lines: list[str]) -> tuple[str, ...]:
    """Without repetitions: files are looked for twice, to see whether they changed and to read them."""
    return tuple(dict.fromkeys(lines))


def _device(choice: Device, index: int) -> torch.device:
    """The device of a worker; several workers go round the GPUs."""
    device = choose_device(choice)
    if device.type == "cuda":
        device = torch.device("cuda", index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


class _Hearing(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _heard_warnings() -> Iterator[list[str]]:
    """The package's warnings within this block."""
    hearing = _Hearing()
    logger = logging.getLogger("vggsfm_cli")
    logger.addHandler(hearing)
    try:
        yield hearing.lines
    finally:
        logger.removeHandler(hearing)
