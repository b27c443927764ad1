"""One scene's normal equations, with the points eliminated.

Triggs et al., "Bundle adjustment - a modern synthesis", 2000, Sec. 6.1: with ``B`` the block of cameras, ``C`` the
block-diagonal one of points and ``E`` what couples them, ``(B - E^T C^-1 E) dc = -(g_c - E^T C^-1 g_p)``, then
``dp = -C^-1 (g_p + E dc)``. With ``F^T F = C^-1`` and ``Y = F E``, ``E^T C^-1 E`` is ``Y^T Y``: a sum, over pairs of
frames, of products over the points that both see.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment import small_matrices
from vggsfm_cli.bundle_adjustment.camera_matrix import CameraMatrix, Pattern
from vggsfm_cli.bundle_adjustment.layout import Layout, PairBatch, RowBatch
from vggsfm_cli.bundle_adjustment.problem import BundleProblem
from vggsfm_cli.bundle_adjustment.residual import (
    BEHIND_RESIDUAL,
    POSE,
    Rows,
    Slopes,
    linearize_rows,
    residual_rows,
)
from vggsfm_cli.bundle_adjustment.unknowns import Unknowns
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What moves, of one scene."""

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]


class SchurSystem:
    """One scene of a problem: its observations laid out, its unknowns numbered.

    Attributes:
        problem, b: what it belongs to.
        layout: the observations.
        unknowns: the free coordinates of cameras.
        empty: nothing to adjust.
    """

    def __init__(self, problem: BundleProblem, b: int, dtype: torch.dtype, dense_unknowns: int) -> None:
        """Sort and number; nothing here depends on where the cameras and points are.

        Args:
            problem: any number of scenes.
            b: which one.
            dtype: to calculate in.
            dense_unknowns: up to so many camera unknowns their matrix is factorised.
        """
        self.problem, self.b, self.dtype = problem, b, dtype
        self.layout = Layout(problem, b, dtype)
        self.unknowns = Unknowns(problem, b, self.layout.seen)
        self.pairs: list[PairBatch] = []
        if problem.points_free and self.unknowns.count:
            self.pairs = self.layout.pairs()
        self.pattern = Pattern(self.unknowns, self.pairs, dense=self.unknowns.count <= dense_unknowns)
        self.empty = self.layout.count == 0 or (self.unknowns.count == 0 and not problem.points_free)
        self._models = [
            (name, [c for c, each in enumerate(problem.cameras.models) if each == name])
            for name in sorted(set(problem.cameras.models))
        ]
        root = torch.where(self.unknowns.params_free.any(-1), problem.log_focal_spread[b].reciprocal(), 0.0)
        self._prior_root = root.to(dtype) if bool((root > 0).any()) else None
        used = problem.cameras.camera_index[b][self.layout.seen].unique().tolist()
        width = problem.cameras.params.shape[-1]
        focals = [c * width + k for c in used for k in camera_models.focal_indices(problem.cameras.models[c])]
        self._focals = torch.tensor(focals, dtype=torch.long, device=self.layout.device)
        self.diagonal = torch.tensor(small_matrices.DIAGONAL, device=self.layout.device)
        self._scratch: Tensor | None = None

    def scratch(self, width: int) -> Float[Tensor, "s 3 W"]:
        """Memory for one block a slot; the one at the end is zero."""
        if self._scratch is None:
            self._scratch = torch.zeros(self.layout.slots + 1, 3, width, dtype=self.dtype, device=self.layout.device)
        return self._scratch

    def start(self) -> State:
        """The given cameras and points, in the precision of the calculation."""
        return State(
            cam_from_world=self.problem.cameras.cam_from_world[self.b].to(self.dtype),
            params=self.problem.cameras.params[self.b].to(self.dtype),
            xyz_world=self.problem.points.xyz_world[self.b].to(self.dtype),
        )

    def held_at(self, solution: State) -> State:
        """Free values at a solution, as constants; fixed ones as given, with their graph."""
        start, unknowns = self.start(), self.unknowns
        moved = torch.zeros_like(self.problem.points.valid[self.b])
        moved[self.layout.active] = self.problem.points_free
        return State(
            cam_from_world=torch.where(
                unknowns.pose_free.any(-1)[:, None, None], solution.cam_from_world.detach(), start.cam_from_world
            ),
            params=torch.where(unknowns.params_free, solution.params.detach(), start.params),
            xyz_world=torch.where(moved[:, None], solution.xyz_world.detach(), start.xyz_world),
        )

    def move(self, state: State, cameras: Float[Tensor, " D"], points: Float[Tensor, "3 K"]) -> State:
        """The state after a step."""
        cam_from_world, params = self.unknowns.move(state.cam_from_world, state.params, cameras)
        xyz_world = state.xyz_world
        if self.problem.points_free:
            xyz_world = xyz_world.index_add(0, self.layout.active, points.T)
        return State(cam_from_world=cam_from_world, params=params, xyz_world=xyz_world)

    def _rows(self, batch: RowBatch, state: State, xyz: Float[Tensor, "3 K"]) -> Rows:
        return Rows(
            model=batch.model,
            cam_from_world=state.cam_from_world[batch.frame],
            params=state.params[batch.camera],
            xyz_world=at_points(xyz, batch),
            xy=batch.xy,
            whitening=batch.whitening,
        )

    def _observed(self, state: State) -> Float[Tensor, "3 K"]:
        return state.xyz_world[self.layout.active].T.contiguous()

    def cost(self, state: State) -> Float[Tensor, ""]:
        """Robust cost; infinite where a focal length is not positive or nothing can be computed."""
        loss, xyz = self.problem.loss, self._observed(state)
        total = state.params.new_zeros((), dtype=torch.float64)
        for batch in self.layout.batches:
            squared = residual_rows(self._rows(batch, state, xyz)).square().sum(1)
            total = total + _total(robust.evaluate(loss.kind, squared, loss.scale)[0], batch)
        return self._with_prior(total, state)

    def _with_prior(self, total: Float[Tensor, ""], state: State) -> Float[Tensor, ""]:
        """The cost when the losses of the observations add up to ``total``."""
        if self._prior_root is not None:
            total = total + self._prior(state)[1].square().sum()
        total = torch.where((state.params.flatten()[self._focals] > 0).all(), total, torch.inf)
        return 0.5 * torch.nan_to_num(total, nan=torch.inf, posinf=torch.inf)

    def _prior(self, state: State) -> tuple[Float[Tensor, "C P"], Float[Tensor, " C"]]:
        """Whitened errors of the logarithms of the focal lengths, and their derivatives."""
        root = self._prior_root
        assert root is not None
        rows, means = torch.zeros_like(state.params), torch.ones_like(root)
        for name, cameras in self._models:
            mean = camera_models.focal(name, state.params[cameras]).clamp(min=1e-6)
            index = camera_models.focal_indices(name)
            rows[cameras, : len(index)] = (root[cameras] / (len(index) * mean))[:, None]
            means[cameras] = mean
        return rows, root * (means.log() - self.problem.log_focal[self.b].to(self.dtype))

    def _prior_blocks(self, state: State) -> tuple[Tensor, Tensor]:
        """Blocks of the prior as those of observations are; one frame of each camera takes its camera's."""
        rows, errors = self._prior(state)
        wanted = [k - POSE for k in self.unknowns.wanted if k >= POSE]
        of_pose = rows.new_zeros(len(rows), len(self.unknowns.wanted) - len(wanted))
        columns = torch.cat([of_pose, rows[:, wanted], errors[:, None]], -1)
        camera_index = self.unknowns.camera_index
        frame = torch.zeros_like(rows[:, 0], dtype=camera_index.dtype)
        seen = self.layout.seen.nonzero().flatten()
        frame[camera_index[seen]] = seen
        assert self._prior_root is not None
        weighted = (self._prior_root > 0).nonzero().flatten()
        return frame[weighted], (columns[:, :, None] * columns[:, None])[weighted]

    def normal_equations(self, state: State) -> "NormalEquations":
        """Linearise around ``state``."""
        layout, unknowns, xyz = self.layout, self.unknowns, self._observed(state)
        width = len(unknowns.wanted) + 1
        blocks = xyz.new_zeros(layout.seen.shape[0], width, width)
        points = xyz.new_zeros(9, layout.active.shape[0])
        slopes, behind = [], torch.zeros((), dtype=torch.long, device=xyz.device)
        total = xyz.new_zeros((), dtype=torch.float64)
        loss = self.problem.loss
        for batch in layout.batches:
            at = linearize_rows(self._rows(batch, state, xyz), unknowns.wanted, loss.kind, loss.scale)
            flat = at.columns.flatten(2)
            blocks.index_add_(0, batch.frame, flat @ flat.mT)
            if self.problem.points_free:
                each = small_matrices.products(at.by_point, at.columns[:, -1])
                points.index_add_(1, batch.point.flatten(), each.movedim(1, 0).flatten(1))
            total = total + _total(at.value, batch)
            behind += (~at.in_front & batch.real).count_nonzero()
            slopes.append(at)
        if self._prior_root is not None:
            blocks = blocks.index_add(0, *self._prior_blocks(state))
        return NormalEquations(
            system=self,
            state=state,
            cost=self._with_prior(total, state),
            slopes=slopes,
            blocks=blocks,
            points=points,
            diagonal_points=points[self.diagonal],
            diagonal_cameras=unknowns.add_vectors(blocks.diagonal(dim1=1, dim2=2)[:, :-1]),
            gradient_cameras=unknowns.add_vectors(blocks[:, :-1, -1]),
            behind=int(behind),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """Normal equations at one state.

    Attributes:
        system: what they belong to.
        state, cost: where, and what that costs.
        slopes: whitened, weighted Jacobians of each batch.
        blocks: ``B``, one block a frame, with the gradient in the last row and column.
        points: six numbers of ``C`` and three of the gradient for each point.
        diagonal_points, diagonal_cameras: diagonals of ``C`` and ``B``.
        gradient_cameras: gradient of the cost by the unknowns of cameras.
        behind: observations behind their cameras, which take no part.
    """

    system: SchurSystem
    state: State
    cost: Float[Tensor, ""]
    slopes: list[Slopes]
    blocks: Float[Tensor, "S W W"]
    points: Float[Tensor, "9 K"]
    diagonal_points: Float[Tensor, "3 K"]
    diagonal_cameras: Float[Tensor, " D"]
    gradient_cameras: Float[Tensor, " D"]
    behind: int

    @property
    def gradient_points(self) -> Float[Tensor, "3 K"]:
        """Gradient of the cost by the observed points."""
        return self.points[6:]

    def constant_cost(self) -> float:
        """The part of the cost that comes from points behind cameras and does not change with small steps."""
        if not self.behind:
            return 0.0
        loss = self.system.problem.loss
        each = robust.evaluate(loss.kind, torch.tensor(BEHIND_RESIDUAL**2, dtype=torch.float64), loss.scale)[0]
        return 0.5 * self.behind * float(each)

    @torch.no_grad()
    def largest_cosine(self) -> float:
        """Largest cosine of an angle between the residuals and a column of the Jacobian."""
        parts = [self.gradient_cameras.abs() * self.diagonal_cameras.clamp(min=1e-30).rsqrt()]
        parts.append((self.gradient_points.abs() * self.diagonal_points.clamp(min=1e-30).rsqrt()).flatten())
        both = torch.cat(parts)
        return float(both.max() / (2 * self.cost).sqrt()) if both.numel() else 0.0

    @torch.no_grad()
    def promised_fall(self, cameras: Float[Tensor, " D"], points: Float[Tensor, "3 K"], damping: float) -> float:
        """By how much the linear model falls: ``1/2 step^T (damping diag(H) step - gradient)``."""
        fall = cameras @ (damping * self.diagonal_cameras * cameras - self.gradient_cameras)
        fall = fall + (points * (damping * self.diagonal_points * points - self.gradient_points)).sum()
        return 0.5 * float(fall)

    def factor(self, damping: float, tolerance: float) -> "ReducedSystem":
        """Eliminate the points of the damped equations.

        Args:
            damping: relative to the diagonal.
            tolerance: of the solution, where conjugate gradients find it.
        """
        system, own = self.system, self.blocks[:, :-1, :-1]
        added = damping * self.diagonal_cameras.clamp(min=1e-12)
        mixed = own.new_zeros(system.pattern.first.shape[0], *own.shape[1:])
        root, coupling = None, None
        if system.problem.points_free:
            diagonal = self.diagonal_points
            ridge = damping * diagonal + 1e-12 * diagonal.sum(0) + torch.finfo(diagonal.dtype).tiny
            root = small_matrices.inverse_cholesky(self.points[:6].index_add(0, system.diagonal, ridge))
            coupling, eliminated = self._coupling(root)
            own = own - eliminated
            if system.pairs:
                mixed = -torch.cat([_pair_products(coupling, batch) for batch in system.pairs])
        matrix = CameraMatrix(system.pattern, own, mixed, added, tolerance)
        return ReducedSystem(normal=self, matrix=matrix, inverse_root=root, coupling=coupling)

    def _coupling(self, root: Float[Tensor, "6 K"]) -> tuple[Float[Tensor, "s 3 W"], Float[Tensor, "S W W"]]:
        """``Y``, one block a slot and an empty one at the end; blocks of ``Y^T Y`` of frames with themselves."""
        system, width = self.system, self.blocks.shape[1] - 1
        # filled in place without a graph; kept from one call to the next, since fresh memory of this size is slow
        buffer = None if torch.is_grad_enabled() else system.scratch(width)
        pieces = []
        eliminated = self.blocks.new_zeros(self.blocks.shape[0], width, width)
        for batch, at in zip(system.layout.batches, self.slopes, strict=True):
            i00, i10, i20, i11, i21, i22 = at_points(root, batch).unsqueeze(2).unbind(1)
            x, y, z = at.by_point.unbind(1)
            parts = [i00 * x, torch.addcmul(i10 * x, i11, y), torch.addcmul(torch.addcmul(i20 * x, i21, y), i22, z)]
            whitened = torch.stack(parts, 1)[:, :, None]
            columns = at.columns[:, None, :-1]
            each = torch.addcmul(whitened[..., 0, :] * columns[..., 0, :], whitened[..., 1, :], columns[..., 1, :])
            rows = each.permute(0, 3, 1, 2)
            if buffer is None:
                pieces.append(rows.flatten(0, 1))
            else:
                rows = buffer[batch.slots].unflatten(0, batch.point.shape).copy_(rows)
            flat = rows.flatten(1, 2)
            eliminated.index_add_(0, batch.frame, flat.mT @ flat)
        if buffer is None:
            buffer = torch.cat([*pieces, root.new_zeros(1, 3, width)])
        return buffer, eliminated


def _total(values: Float[Tensor, "F n"], batch: RowBatch) -> Float[Tensor, ""]:
    return (values * batch.real).sum(dtype=torch.float64)


def at_points(values: Float[Tensor, "k K"], batch: RowBatch) -> Float[Tensor, "F k n"]:
    """Values of the point of each observation of a batch."""
    rows, count = batch.point.shape
    index = batch.point[:, None].expand(rows, values.shape[0], count)
    return values.expand(rows, *values.shape).gather(2, index)


def _pair_products(coupling: Float[Tensor, "s 3 W"], batch: PairBatch) -> Float[Tensor, "Q W W"]:
    flat = coupling.flatten(1)
    count, width = batch.first.shape[1], coupling.shape[2]
    first = flat.index_select(0, batch.first.flatten()).view(-1, 3 * count, width)
    second = flat.index_select(0, batch.second.flatten()).view(-1, 3 * count, width)
    return first.mT @ second


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedSystem:
    """Normal equations with the points eliminated; valid until its system is reduced again.

    Attributes:
        normal: the equations.
        matrix: the reduced camera matrix.
        inverse_root: lower triangular ``F`` of each point; None when points are fixed.
        coupling: ``Y`` of each observation.
    """

    normal: NormalEquations
    matrix: CameraMatrix
    inverse_root: Float[Tensor, "6 K"] | None
    coupling: Float[Tensor, "s 3 W"] | None

    def solve(
        self, gradient_cameras: Float[Tensor, " D"], gradient_points: Float[Tensor, "3 K"]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, "3 K"]]:
        """The step that brings a gradient to zero; without change of the points when they are fixed."""
        if self.inverse_root is None:
            return self.matrix.solve(-gradient_cameras), torch.zeros_like(gradient_points)
        along = small_matrices.times(self.inverse_root, gradient_points)
        cameras = self.matrix.solve(self._to_cameras(along) - gradient_cameras)
        along = along + self._to_points(cameras)
        return cameras, -small_matrices.transposed_times(self.inverse_root, along)

    def _to_cameras(self, points: Float[Tensor, "3 K"]) -> Float[Tensor, " D"]:
        """``Y^T v``."""
        assert self.coupling is not None
        system = self.normal.system
        blocks = points.new_zeros(system.layout.seen.shape[0], self.coupling.shape[2])
        rows = points.T.contiguous()
        for batch in system.layout.batches:
            flat = self.coupling[batch.slots].unflatten(0, batch.point.shape).flatten(1, 2)
            values = rows.index_select(0, batch.point.flatten()).reshape(batch.frame.shape[0], -1, 1)
            blocks.index_add_(0, batch.frame, (flat.mT @ values).squeeze(-1))
        return system.unknowns.add_vectors(blocks)

    def _to_points(self, cameras: Float[Tensor, " D"]) -> Float[Tensor, "3 K"]:
        """``Y v``."""
        assert self.coupling is not None
        system = self.normal.system
        spread = system.unknowns.spread(cameras)
        out = cameras.new_zeros(system.layout.active.shape[0], 3)
        for batch in system.layout.batches:
            flat = self.coupling[batch.slots].unflatten(0, batch.point.shape).flatten(1, 2)
            values = flat @ spread[batch.frame][..., None]
            out.index_add_(0, batch.point.flatten(), values.reshape(-1, 3))
        return out.T
