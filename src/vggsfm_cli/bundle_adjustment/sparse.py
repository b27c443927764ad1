"""Adjusting a model that is there already: a ``Reconstruction`` in, the adjusted one and what it cost out."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.evaluate import reprojection_error_px
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, problem_from_reconstruction
from vggsfm_cli.errors import InputError
from vggsfm_cli.geometry.camera import PARAM_NAMES
from vggsfm_cli.scene import Reconstruction


@dataclass(frozen=True, kw_only=True)
class AdjustmentSummary:
    """What an adjustment did.

    Attributes:
        status: why the solver stopped.
        iterations: steps taken.
        observations: that took part.
        cost_before, cost_after: robust cost, for observations that deviate by one pixel.
        mean_error_before_px, mean_error_after_px: mean reprojection error of observations in front of their cameras;
            None when there are none.
        behind_before, behind_after: observations whose point is behind the camera.
    """

    status: SolveStatus
    iterations: int
    observations: int
    cost_before: float
    cost_after: float
    mean_error_before_px: float | None
    mean_error_after_px: float | None
    behind_before: int
    behind_after: int


@torch.no_grad()
def adjust_reconstruction(
    reconstruction: Reconstruction,
    adjuster: BundleAdjuster,
    *,
    free: FreeParameters | None = None,
    loss: RobustLoss | None = None,
) -> tuple[Reconstruction, AdjustmentSummary]:
    """Adjust a sparse model; every observation counts as much as any other.

    The first frame keeps its pose. Points that one frame sees take no part. The error of each point is computed anew.

    Args:
        reconstruction: the model.
        adjuster: the solver.
        free: what may change.
        loss: of the residual in pixels.

    Raises:
        InputError: there is nothing to adjust, a camera is of a model that cannot be adjusted, or a number of the
            model is not finite or not possible.
    """
    unknown = sorted(set(reconstruction.cameras.models) - set(PARAM_NAMES))
    if unknown:
        raise InputError(
            f"Cameras of model {', '.join(unknown)} cannot be adjusted.", f"Models that can: {', '.join(PARAM_NAMES)}."
        )
    problem = problem_from_reconstruction(reconstruction, free=free, loss=loss)
    solution = adjuster(problem)
    if solution.status[0] is SolveStatus.EMPTY:
        raise InputError(
            f"There is nothing to adjust: {len(problem.frame)} observations of points that two images see.",
            "Free more of focal, principal-point, distortion, poses, points, or check the model with `vggsfm inspect`.",
        )
    if solution.status[0] is SolveStatus.NOT_FINITE:
        raise InputError(
            "The cost of this model is not finite.", "Is a focal length zero or negative? See `vggsfm inspect`."
        )
    before = reprojection_error_px(problem, problem.cameras, problem.points)
    after = reprojection_error_px(problem, solution.cameras, solution.points)
    count = torch.bincount(problem.point, minlength=len(reconstruction.xyz_world))
    total = torch.zeros_like(count, dtype=after.dtype).index_add(0, problem.point, after)
    error_px = torch.where(count > 0, total / count.clamp_min(1), reconstruction.error_px.double())
    adjusted = dataclasses.replace(
        reconstruction, cameras=solution.cameras, xyz_world=solution.points.xyz_world[0], error_px=error_px
    )
    return adjusted, AdjustmentSummary(
        status=solution.status[0],
        iterations=solution.iterations[0],
        observations=len(problem.frame),
        cost_before=float(solution.cost_initial[0]),
        cost_after=float(solution.cost_final[0]),
        mean_error_before_px=_mean_in_front(before),
        mean_error_after_px=_mean_in_front(after),
        behind_before=int(before.isinf().sum()),
        behind_after=int(after.isinf().sum()),
    )


def _mean_in_front(error_px: Float[Tensor, " M"]) -> float | None:
    in_front = error_px[error_px.isfinite()]
    return float(in_front.mean()) if len(in_front) else None
