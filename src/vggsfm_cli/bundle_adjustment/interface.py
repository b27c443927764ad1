"""The contract of stage 4."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vggsfm_cli.bundle_adjustment.problem import BundleProblem
from vggsfm_cli.scene import Cameras, Points


class SolveStatus(StrEnum):
    """Why a solver stopped."""

    COST = "the cost no longer falls"
    GRADIENT = "the gradient vanishes"
    ITERATIONS = "the iteration limit was reached"
    NO_STEP = "no step lowers the cost"
    EMPTY = "there is nothing to adjust"
    NOT_FINITE = "the cost is not finite at the start"

    @property
    def converged(self) -> bool:
        """Whether the result can be taken for a minimum."""
        return self in (SolveStatus.COST, SolveStatus.GRADIENT, SolveStatus.NO_STEP)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Adjusted cameras and points, one status and one cost a scene.

    Attributes:
        cameras, points: adjusted; whatever took no part is as it was.
        status: why the solver stopped, for each scene.
        cost_initial, cost_final: robust cost, for each scene.
        iterations: steps taken, for each scene.
        params_covariance: posterior covariance of the camera parameters, scaled by the residuals; zero where fixed;
            None unless asked for.
        poses_covariance: likewise of the poses' updates (rotation, translation; see ``problem.py``).
        points_covariance: likewise of the points.
    """

    cameras: Cameras
    points: Points
    status: tuple[SolveStatus, ...]
    cost_initial: Float[Tensor, " B"]
    cost_final: Float[Tensor, " B"]
    iterations: tuple[int, ...]
    params_covariance: Float[Tensor, "B C P P"] | None = None
    poses_covariance: Float[Tensor, "B S 6 6"] | None = None
    points_covariance: Float[Tensor, "B N 3 3"] | None = None


class BundleAdjuster(nn.Module, ABC):
    """Moves cameras and points until reprojection errors are least (VGGSfM, Sec. 3.4)."""

    differentiable: ClassVar[bool]

    @abstractmethod
    def forward(self, problem: BundleProblem) -> Solution:
        """Solve; degenerate input ends finite, with a status that says so."""
