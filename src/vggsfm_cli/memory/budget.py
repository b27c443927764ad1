"""Work in the pieces of a plan, and in smaller ones when memory runs out."""

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from vggsfm_cli.errors import NotEnoughMemory, is_out_of_memory
from vggsfm_cli.memory.machine import usable_bytes
from vggsfm_cli.memory.plan import GB, Need, Plan, plan_within
from vggsfm_cli.result import MemoryUse
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.threads import at_most
from vggsfm_cli.tracking.interface import PointTracker

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Budget:
    """The plan of a run, which gets smaller when memory runs out.

    Attributes:
        plan: the pieces now.
        limit_bytes: that they were planned for; None without a limit.
        limit_name: where that limit comes from.
        estimate_bytes: what the plan was expected to take when it was made.
        halvings: how often memory ran out.
    """

    def __init__(self, plan: Plan, limit_bytes: int | None, limit_name: str, estimate_bytes: int) -> None:
        self.plan, self.halvings = plan, 0
        self.limit_bytes, self.limit_name, self.estimate_bytes = limit_bytes, limit_name, estimate_bytes
        self._lock = threading.RLock()

    @classmethod
    def make(cls, need: Need, device: torch.device, max_gb: float | None) -> "Budget":
        """The largest plan within ``max_gb``, or within a share of the memory that is free.

        Raises:
            NotEnoughMemory: the smallest pieces need more.
        """
        if max_gb is None:
            limit, name = usable_bytes(device), "free memory"
        else:
            limit, name = round(max_gb * GB), "--max-memory"
        plan = need.size.largest_plan() if limit is None else plan_within(need, limit, name)
        return cls(plan, limit, name, need.estimate(plan))

    def run(self, work: Callable[[Plan], Result]) -> Result:
        """What ``work`` gives; what runs out of memory is done again in smaller pieces, and nothing beside it.

        Raises:
            NotEnoughMemory: the smallest pieces do not fit.
        """
        while True:
            plan = self.plan
            try:
                with at_most(plan.threads):
                    if plan.side_by_side > 1:
                        return work(plan)
                    with self._lock:
                        return work(plan)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink(plan)

    def _shrink(self, tried: Plan) -> None:
        with self._lock:
            if self.plan != tried:  # another thread was faster
                return
            smaller = dataclasses.replace(tried, side_by_side=1).halved()
            if smaller is None:
                raise NotEnoughMemory(
                    f"Out of memory, even with {tried}.",
                    "Take fewer images, a smaller --long-side or fewer --query-points; on a GPU also --device cpu.",
                )
            self.plan, self.halvings = smaller, self.halvings + 1
        for backend, found in ((torch.cuda, torch.cuda.is_available()), (torch.mps, torch.backends.mps.is_available())):
            if found:
                backend.empty_cache()  # pieces of the old size are of no use to the new ones
        logger.warning("Out of memory; going on with %s.", smaller)

    def __str__(self) -> str:
        limit = "" if self.limit_bytes is None else f" of {self.limit_bytes / GB:.1f} GB ({self.limit_name})"
        return f"about {self.estimate_bytes / GB:.1f} GB{limit}: {self.plan}"

    def use(self) -> MemoryUse:
        """What was planned, and what became of it."""
        return MemoryUse(
            limit=self.limit_name,
            limit_gb=None if self.limit_bytes is None else round(self.limit_bytes / GB, 3),
            planned_gb=round(self.estimate_bytes / GB, 3),
            **dataclasses.asdict(self.plan),
            out_of_memory=self.halvings,
        )


class FrugalTracker(PointTracker):
    """A tracker that keeps to a budget."""

    def __init__(self, tracker: PointTracker, budget: Budget) -> None:
        super().__init__()
        self.tracker, self.budget = tracker, budget

    def encode(self, images: ImageSet) -> Any:
        """As the tracker does it."""
        return self.budget.run(lambda _: self.tracker.encode(images))

    def relate(self, images: ImageSet, features: Any, partners: Bool[Tensor, "S S"] | None) -> Any:
        """As the tracker does it."""
        return self.budget.run(lambda _: self.tracker.relate(images, features, partners))

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        """As the tracker does it."""

        def track(plan: Plan) -> Tracks:
            tracks: Tracks = self.tracker.in_pieces(plan.pairs_at_once)(images, queries, features)
            return tracks

        return self.budget.run(track)
