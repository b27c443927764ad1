"""Workers as processes of this machine: one that is killed takes nothing with it but its scene."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from vggsfm_cli.batch.outcome import Outcome
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.batch.worker import Attempt, ProcessWorker, WorkerSetup

PATIENCE_S = 5.0
"""How long a worker that is told to stop may take."""


@dataclass(eq=False)
class _Slot:
    """A place for one worker, and what it is working on."""

    index: int
    process: SpawnProcess | None = None
    connection: Connection | None = None
    attempt: Attempt | None = None


class LocalPool:
    """Up to ``jobs`` processes, started when there is work for them and replaced when they die."""

    def __init__(self, setup: WorkerSetup, jobs: int) -> None:
        self._setup = setup
        self._slots = [_Slot(index) for index in range(jobs)]

    def idle(self) -> int:
        """How many scenes can be submitted."""
        return sum(slot.attempt is None for slot in self._slots)

    def submit(self, scene: Scene) -> None:
        """Give a scene to an idle worker."""
        free = [slot for slot in self._slots if slot.attempt is None]
        slot = next((slot for slot in free if slot.process is not None and slot.process.is_alive()), free[0])
        if slot.process is None or not slot.process.is_alive():
            self._start(slot)
        assert slot.connection is not None
        slot.attempt = Attempt(scene.name)
        with suppress(OSError):  # it has just died, which ``wait`` will see
            slot.connection.send(scene)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The scenes that ended, as soon as there are any, or nothing after the timeout."""
        working = {slot.connection: slot for slot in self._slots if slot.attempt is not None and slot.connection}
        ready = wait(list(working), timeout_s)
        return [self._collect(slot) for connection, slot in working.items() if connection in ready]

    def close(self) -> None:
        """Stop the workers, at once those that are working; what a scene has not finished leaves nothing behind."""
        for slot in self._slots:
            if slot.process is not None and slot.attempt is not None:
                slot.process.terminate()
        for slot in self._slots:
            self._stop(slot)

    def _collect(self, slot: _Slot) -> Outcome:
        assert slot.connection is not None and slot.attempt is not None
        try:
            outcome: Outcome = slot.connection.recv()
        except (EOFError, OSError):
            outcome = slot.attempt.died(*self._last_words(slot))
        slot.attempt = None
        if outcome.failure is not None and outcome.failure.unexpected:
            self._stop(slot)  # its memory or its GPU may be spoiled
        return outcome

    def _last_words(self, slot: _Slot) -> tuple[str, str]:
        assert slot.process is not None
        slot.process.join(PATIENCE_S)
        code = slot.process.exitcode
        if code is None or code >= 0:
            return f"The worker process ended without an answer (exit code {code}).", ""
        name = signal.Signals(-code).name
        hint = ""
        if -code == signal.SIGKILL:
            hint = "Often the system's answer to a lack of memory: fewer --jobs, or a smaller --long-side."
        return f"The worker process was killed by {name}.", hint

    def _start(self, slot: _Slot) -> None:
        self._stop(slot)
        context = multiprocessing.get_context("spawn")
        slot.connection, theirs = context.Pipe()
        slot.process = context.Process(
            target=_serve, args=(theirs, self._setup, slot.index), name=f"vggsfm-worker-{slot.index}", daemon=True
        )
        with _interrupts_blocked():
            slot.process.start()
        theirs.close()  # else the end of the worker would not be seen

    def _stop(self, slot: _Slot) -> None:
        process, connection = slot.process, slot.connection
        slot.process = slot.connection = slot.attempt = None
        if connection is not None:
            with suppress(OSError):
                connection.send(None)
            connection.close()
        if process is not None:
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started within this block never see Ctrl-C; it is for their parent to decide."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, setup: WorkerSetup, index: int) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGTERM, _leave)
    _end_with_parent()
    threading.Thread(target=_die_with_parent, name="parent watch", daemon=True).start()
    worker = ProcessWorker(setup, index)
    with suppress(EOFError, OSError):
        while (scene := connection.recv()) is not None:
            connection.send(worker.run(scene))


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that unfinished folders are removed."""
    del frame
    sys.exit(128 + number)


PR_SET_PDEATHSIG = 1
"""Of Linux: the signal that a process gets when the thread that started it ends."""


def _end_with_parent() -> None:
    """Let the system kill this process when its parent dies, whatever it computes then; where the system can."""
    ask = getattr(ctypes.CDLL(None), "prctl", None)
    if ask is not None:
        ask(PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_parent() -> None:
    """The same where the system cannot; it comes when this process lets its threads run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
