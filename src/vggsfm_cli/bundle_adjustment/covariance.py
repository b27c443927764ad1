"""Posterior covariances at a solution: inverses of the normal equations, scaled by the residuals.

With ``S`` the reduced camera matrix, ``C`` the block of a point and ``Y = F E`` (see ``normal_equations.py``), cameras
have ``S^-1`` and a point ``C^-1 + C^-1 E S^-1 E^T C^-1 = F^T (1 + Y S^-1 Y^T) F`` (Triggs et al., 2000, Sec. 9.4). The
gauge is that of the problem: what it holds has no covariance.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.normal_equations import ReducedSystem, SchurSystem, State

SINGULAR = 1e-13
"""Eigenvalues below this, relative to the largest, are of directions that nothing holds; they get no covariance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariances:
    """Of one scene, zero where fixed: camera parameters, updates of poses, points."""

    params: Float[Tensor, "C P P"]
    poses: Float[Tensor, "S 6 6"]
    points: Float[Tensor, "N 3 3"]


@torch.no_grad()
def covariances(system: SchurSystem, state: State, *, points: bool) -> Covariances:
    """All of them; ``points`` stay zero where they are fixed or not asked for. Takes memory for the whole matrix."""
    unknowns = system.unknowns
    inverse = state.params.new_zeros(unknowns.count + 1, unknowns.count + 1)
    of_points = state.xyz_world.new_zeros(len(state.xyz_world), 3, 3)
    if not system.empty:
        reduced = system.normal_equations(state).factor(0.0, 0.0)
        held = 3 * len(system.layout.active) if system.problem.points_free else 0
        freedom = max(2 * system.layout.count - unknowns.count - held, 1)
        variance = (2 * system.cost(state) / freedom).to(inverse.dtype)
        inverse[:-1, :-1] = _inverse(reduced.matrix.dense())
        if points and system.problem.points_free:
            of_points[system.layout.active] = variance * _points(reduced, inverse)
        inverse = variance * inverse
    poses, params = unknowns.pose_column, unknowns.params_column
    return Covariances(
        params=inverse[params[:, :, None], params[:, None]],
        poses=inverse[poses[:, :, None], poses[:, None]],
        points=of_points,
    )


def _inverse(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    if not matrix.numel():
        return matrix
    scale = matrix.diagonal().clamp(min=1e-30).rsqrt()
    unit = torch.nan_to_num(matrix * scale[:, None] * scale)
    return torch.linalg.pinv(unit, hermitian=True, rtol=SINGULAR) * scale[:, None] * scale


def _points(reduced: ReducedSystem, inverse: Float[Tensor, "D+1 D+1"]) -> Float[Tensor, "K 3 3"]:
    """``F^T (1 + Y S^-1 Y^T) F`` of the observed points: a sum over pairs of a point's observations."""
    system, coupling, root = reduced.normal.system, reduced.coupling, reduced.inverse_root
    assert coupling is not None and root is not None
    column = system.unknowns.column
    inner = torch.eye(3, dtype=root.dtype, device=root.device).repeat(root.shape[1], 1, 1)
    point = torch.zeros(len(coupling), dtype=torch.long, device=root.device)
    for batch in system.layout.batches:
        slots = torch.arange(batch.slots.start, batch.slots.stop, device=root.device)
        point[batch.slots] = batch.point.flatten()
        frame = batch.frame[:, None].expand(batch.point.shape).flatten()
        own = inverse[column[frame][:, :, None], column[frame][:, None]]
        inner.index_add_(0, point[slots], coupling[slots] @ own @ coupling[slots].mT)
    for pairs in system.pairs:
        between = inverse[column[pairs.first_frame][:, :, None], column[pairs.second_frame][:, None]]
        first, second = coupling[pairs.first], coupling[pairs.second]
        each = (first @ between[:, None] @ second.mT).flatten(0, 1)
        inner.index_add_(0, point[pairs.first.flatten()], each + each.mT)
    factor = torch.zeros_like(inner)
    rows, columns = torch.tensor([0, 1, 2, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 2])
    factor[:, rows, columns] = root.T
    return factor.mT @ inner @ factor
