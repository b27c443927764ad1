"""A batch from its scenes to their outcomes, on whatever workers."""

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vggsfm_cli.batch.fingerprint import stamp_inputs
from vggsfm_cli.batch.inputs import input_files, options_of
from vggsfm_cli.batch.log import ResultsLog
from vggsfm_cli.batch.outcome import Outcome, read_finished
from vggsfm_cli.batch.plan import RESULTS_FILE, Scene
from vggsfm_cli.batch.worker import WorkerSetup, kept_outcome
from vggsfm_cli.errors import InputError
from vggsfm_cli.folders import write_failed

logger = logging.getLogger(__name__)

POLL_S = 1.0
BUSY_S = 2.0
"""After which time a scene that another process is working on is looked at again."""


@runtime_checkable
class Pool(Protocol):
    """Workers, wherever they are."""

    def idle(self) -> int:
        """How many scenes can be submitted."""

    def submit(self, scene: Scene) -> None:
        """Give a scene to an idle worker."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The scenes that ended, as soon as there are any, or nothing after the timeout."""

    def close(self) -> None:
        """Stop all workers, also those that are working."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """The end of an attempt.

    Attributes:
        outcome: what became of it.
        final: whether the scene will not be tried again in this batch.
    """

    outcome: Outcome
    final: bool


def unheard(event: Event) -> None:
    """The listener that does nothing."""


def run_batch(
    scenes: Sequence[Scene],
    setup: WorkerSetup,
    start: Callable[[], Pool],
    *,
    retry: int = 1,
    told: Callable[[Event], None] = unheard,
) -> list[Outcome]:
    """Do all scenes that are not finished, and complete ``results.jsonl``.

    Args:
        scenes: with distinct names.
        setup: of the workers.
        start: makes the workers; is called only if there is work.
        retry: how many more times a scene is tried whose worker died or which failed unexpectedly.
        told: is told of each attempt, and of each scene that is finished already.

    Returns:
        The final outcome of each scene, in their order.

    Raises:
        WriteFailed: the batch's folder or its ``results.jsonl`` cannot be written to.
    """
    try:
        setup.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(setup.out, error) from error
    log = ResultsLog(setup.out / RESULTS_FILE)
    final: dict[str, Outcome] = {}

    def take(event: Event) -> None:
        log.add(event.outcome)
        if event.final:
            final[event.outcome.scene] = event.outcome
        told(event)

    missing = []
    for scene in scenes:
        kept = None if setup.force else find_kept(scene, setup)
        if kept is None:
            missing.append(scene)
        else:
            take(Event(outcome=kept, final=True))
    if missing:
        with closing(start()) as pool:
            for event in attempts(pool, missing, retry):
                take(event)
    return [final[scene.name] for scene in scenes]


def find_kept(scene: Scene, setup: WorkerSetup) -> Outcome | None:
    """The result of a finished scene, if that can be told without reading its photographs."""
    finished = read_finished(setup.out / scene.name)
    if finished is None or finished.options != setup.options_hash:
        return None
    try:
        unchanged = finished.stamps == stamp_inputs(input_files(scene.images, options_of(scene, setup.options)))
    except (OSError, InputError):  # the worker will say why
        return None
    return kept_outcome(scene, finished, setup) if unchanged else None


def attempts(pool: Pool, scenes: Sequence[Scene], retry: int) -> Iterator[Event]:
    """Keep the workers busy until each scene has its final outcome.

    Scenes that another process is working on are looked at again, and taken over should that process die.
    """
    by_name = {scene.name: scene for scene in scenes}
    pending = deque(scenes)
    later: deque[tuple[float, Scene]] = deque()
    awaited: set[str] = set()
    tried: Counter[str] = Counter()
    working = 0
    while pending or later or working:
        while later and later[0][0] <= time.monotonic():
            pending.append(later.popleft()[1])
        while pending and pool.idle():
            pool.submit(pending.popleft())
            working += 1
        if later and not pending and not working:
            time.sleep(POLL_S)
            continue
        for outcome in pool.wait(POLL_S):
            working -= 1
            scene = by_name[outcome.scene]
            if outcome.status == "busy":
                if scene.name not in awaited:
                    logger.warning("%s: another batch is working on it; it is looked at again later", scene.name)
                awaited.add(scene.name)
                later.append((time.monotonic() + BUSY_S, scene))
                continue
            tried[scene.name] += 1
            again = outcome.failure is not None and outcome.failure.unexpected and tried[scene.name] <= retry
            if again:
                pending.append(scene)
            counted = outcome if outcome.kept else dataclasses.replace(outcome, tried=tried[scene.name])
            yield Event(outcome=counted, final=not again)
