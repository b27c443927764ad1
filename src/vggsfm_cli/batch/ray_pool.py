"""Workers as actors of a Ray cluster; one whose node is lost takes nothing with it but its scene."""

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

from vggsfm_cli.batch.outcome import Outcome
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.batch.worker import Attempt, ProcessWorker, WorkerSetup
from vggsfm_cli.errors import InputError, MissingDependency

logger = logging.getLogger(__name__)

KNOCK_S = 10.0
GROUP_CORES = 4
"""Cores of a worker without a GPU, if the user does not say."""
MAX_FAILED_STARTS = 5
"""In a row; then the cluster cannot run our workers at all."""


@dataclass(frozen=True, kw_only=True)
class WorkerShare:
    """How many workers there are, and what Ray reserves for each."""

    jobs: int
    cpus: int
    gpus: int


def plan_workers(cpus: int, gpus: int, *, jobs: int | None, threads: int | None) -> WorkerShare:
    """Divide a cluster: one worker a GPU, or without GPUs one worker a group of cores.

    Args:
        cpus: of the whole cluster.
        gpus: of the whole cluster that may be used.
        jobs: workers that the user asks for; None for as many as fit.
        threads: CPU threads a worker that the user asks for.
    """
    if gpus:
        count = min(jobs or gpus, gpus)
        return WorkerShare(jobs=count, cpus=threads or max(1, cpus // gpus), gpus=1)
    if jobs is not None:
        return WorkerShare(jobs=jobs, cpus=threads or max(1, cpus // jobs), gpus=0)
    group = threads or min(GROUP_CORES, max(1, cpus))
    return WorkerShare(jobs=max(1, cpus // group), cpus=group, gpus=0)


def connect(address: str | None) -> None:
    """Join a running Ray cluster, or start one on this machine if there is none.

    Args:
        address: of the cluster; None for the one of ``RAY_ADDRESS`` or of this machine.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("Ray is not installed.", "pip install 'vggsfm-cli[ray]'") from error
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        if named is not None:
            _knock(named)
        ray.init(address=named or "auto", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        if named is not None:
            hint = "Check the address with `ray status`; clusters with a token also need RAY_AUTH_MODE=token here."
            raise InputError(f"Cannot join the Ray cluster at {named!r}: {_first_line(error)}", hint) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


def cluster_size(*, with_gpus: bool) -> tuple[int, int]:
    """CPUs and GPUs of the cluster that is joined."""
    import ray

    resources = ray.cluster_resources()
    return int(resources.get("CPU", 1)), int(resources.get("GPU", 0)) if with_gpus else 0


class RayPool:
    """Warm actors, one per share of the cluster; a lost one is replaced by another, wherever there is room."""

    def __init__(self, setup: WorkerSetup, share: WorkerShare) -> None:
        import ray

        self._ray: Any = ray
        self._setup = setup
        self._options = {
            "num_cpus": share.cpus,
            "num_gpus": share.gpus,
            "max_restarts": 0,  # a scene must not wait for a worker that has no place to restart
            "scheduling_strategy": "SPREAD",
        }
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._working: dict[Any, tuple[Any, Attempt]] = {}
        self._failed_starts = 0
        for _ in range(share.jobs):
            self._start()

    def idle(self) -> int:
        """How many scenes can be submitted."""
        return len(self._idle)

    def submit(self, scene: Scene) -> None:
        """Give a scene to an idle worker."""
        actor = self._idle.pop()
        self._working[actor.run.remote(scene)] = (actor, Attempt(scene.name))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The scenes that ended, as soon as there are any, or nothing after the timeout."""
        references = [*self._starting, *self._working]
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
        outcomes = []
        for reference in done:
            if reference in self._starting:
                self._take_started(reference)
            else:
                outcomes.append(self._take_outcome(reference))
        return outcomes

    def close(self) -> None:
        """Stop the workers and leave the cluster."""
        for actor in [*self._starting.values(), *self._idle, *(actor for actor, _ in self._working.values())]:
            self._ray.kill(actor)
        self._ray.shutdown()

    def _start(self) -> None:
        actor = self._ray.remote(ProcessWorker).options(**self._options).remote(self._setup)
        self._starting[actor.ready.remote()] = actor

    def _take_started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                hint = "Is vggsfm-cli installed on every node, in the same version?"
                raise InputError(f"Ray cannot start workers: {_first_line(error)}", hint) from error
            self._start()
            return
        self._failed_starts = 0
        self._idle.append(actor)

    def _take_outcome(self, reference: Any) -> Outcome:
        actor, attempt = self._working.pop(reference)
        outcome: Outcome
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            logger.info("Ray says: %s", error)
            outcome = attempt.died(f"The Ray worker or its node was lost: {_first_line(error)}")
        if outcome.failure is not None and outcome.failure.unexpected:
            self._ray.kill(actor)  # its memory or its GPU may be spoiled
            self._start()
        else:
            self._idle.append(actor)
        return outcome


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
