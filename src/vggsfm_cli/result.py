"""The result of a run: the models, and the facts about the run itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from vggsfm_cli.scene import Reconstruction

OWN_QUERIES = "the tracker's own"
"""What finds the points where tracks start, if no option says."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage took.

    Attributes:
        seconds: all visits together.
        peak_memory_mb: largest resident set of the process, MiB.
        peak_cuda_mb: largest sum of torch's allocations on CUDA, MiB; None without CUDA.
    """

    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    peak_cuda_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What was planned for networks and tracks, and what became of the plan.

    Attributes:
        limit: where the limit comes from.
        limit_gb: GB of 10^9 bytes; None without a limit.
        planned_gb: that the first plan was expected to take.
        pairs_at_once, side_by_side, threads: the pieces at the end, as in ``memory.plan.Plan``.
        out_of_memory: how often memory ran out.
    """

    limit: str
    limit_gb: float | None
    planned_gb: float
    pairs_at_once: int
    side_by_side: int
    threads: int
    out_of_memory: int


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run did where its options left the choice.

    Attributes:
        recipe: that made the tracks, or ``sequence``.
        preset: by which they became models; None of a sequence.
        queries: what found the points where tracks start.
    """

    recipe: str
    preset: str | None = None
    queries: str = OWN_QUERIES


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult(Sequence[Reconstruction]):
    """The models of one scene, largest first; a sequence of them.

    Attributes:
        models: one for each connected group of images.
        unregistered: images that are in no model, with the reason.
        stages: what each took, in the order they were entered.
        memory: of networks and tracks; None where nothing was planned.
        settings: what the run chose.
    """

    models: tuple[Reconstruction, ...]
    unregistered: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, StageCost] = field(default_factory=dict)
    memory: MemoryUse | None = None
    settings: RunSettings

    @overload
    def __getitem__(self, index: int) -> Reconstruction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Reconstruction, ...]: ...

    def __getitem__(self, index: int | slice) -> Reconstruction | tuple[Reconstruction, ...]:
        """A model, or some."""
        return self.models[index]

    def __len__(self) -> int:
        """How many models there are."""
        return len(self.models)

    def __iter__(self) -> Iterator[Reconstruction]:
        """All models."""
        return iter(self.models)
