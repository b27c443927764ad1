"""One scene's normal equations, with the points eliminated.

Triggs et al., "Bundle adjustment - a modern synthesis", 2000, Sec. 6.1: with ``B`` the block of cameras, ``C`` the
block-diagonal one of points and ``E`` what couples them, ``(B - E^T C^-1 E) dc = -(g_c - E^T C^-1 g_p)``, then
``dp = -C^-1 (g_p + E dc)``.

Observations are sorted by frame and handled one frame at a time. Every frame has a block of its own: its pose and the
parameters of its camera; blocks of frames that share a camera are added up afterwards. ``E^T C^-1 E`` is a sum, over
pairs of frames, of products over the points that both see. Within a frame, arrays lie component by component,
``[components, observations]``, which is what makes elementwise arithmetic fast.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BEHIND_RESIDUAL, BundleProblem, linearize, move_poses, residuals
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust

DIAGONAL = [0, 3, 5]
"""Where the diagonal stands among the six numbers 00 10 20 11 21 22 of a symmetric or triangular 3 x 3 matrix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What moves, of one scene."""

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]


@dataclass(frozen=True, kw_only=True)
class View:
    """One frame's observations: a range of the sorted list."""

    frame: int
    camera: int
    model: str
    rows: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewPair:
    """Points seen by two views: where their observations stand in each."""

    first: int
    second: int
    in_first: Int[Tensor, " n"]
    in_second: Int[Tensor, " n"]


class SchurSystem:
    """One scene of a problem: sorted by frame, reduced to the points that are observed, its unknowns numbered."""

    def __init__(self, problem: BundleProblem, b: int) -> None:
        """Sort and number; nothing here depends on where the cameras and points are."""
        cameras = problem.cameras
        frames, points = cameras.camera_index.shape[1], problem.points.xyz_world.shape[1]
        chosen = (torch.div(problem.frame, frames, rounding_mode="floor") == b).nonzero().flatten()
        chosen = chosen[((problem.frame[chosen] - b * frames) * points + problem.point[chosen] - b * points).argsort()]
        self.problem, self.b, self.count, self.models = problem, b, len(chosen), cameras.models
        self.xy = problem.xy[chosen].T.contiguous().T
        self.whitening = problem.whitening[chosen].movedim(0, -1).contiguous().movedim(-1, 0)
        frame, point = problem.frame[chosen] - b * frames, problem.point[chosen] - b * points
        seen = torch.bincount(point, minlength=points) > 0
        self.active = seen.nonzero().flatten()
        self.point = (seen.cumsum(0) - 1)[point]
        self.views = self._views(torch.bincount(frame, minlength=frames).tolist(), cameras.camera_index[b].tolist())
        self._number_unknowns()
        self.pairs = self._pairs() if problem.points_free and self.unknowns else []
        self.empty = self.count == 0 or (self.unknowns == 0 and not problem.points_free)
        self.prior_weight = problem.log_focal_spread[b].square().reciprocal()

    def _views(self, counts: list[int], cameras: list[int]) -> list[View]:
        views, begin = [], 0
        for frame, count in enumerate(counts):
            if count:
                camera = cameras[frame]
                rows = slice(begin, begin + count)
                views.append(View(frame=frame, camera=camera, model=self.models[camera], rows=rows))
                begin += count
        return views

    def _pairs(self) -> list[ViewPair]:
        """All pairs of observations of one point, sorted by their two views."""
        order = self.point.argsort(stable=True)
        point, view = self.point[order], torch.zeros_like(order)
        for i, each in enumerate(self.views):
            view[each.rows] = i
        first, second = [], []
        for lag in range(1, int(torch.bincount(point).max()) if len(point) else 0):
            same = (point[lag:] == point[:-lag]).nonzero().flatten()
            first.append(order[same])
            second.append(order[same + lag])
        if not first:
            return []
        one, two = torch.cat(first), torch.cat(second)
        key = view[one] * len(self.views) + view[two]
        by_key = key.argsort(stable=True)
        one, two = one[by_key], two[by_key]
        keys, counts = torch.unique_consecutive(key[by_key], return_counts=True)
        pairs = []
        split = counts.tolist()
        for k, of_first, of_second in zip(keys.tolist(), one.split(split), two.split(split), strict=True):
            i, j = divmod(k, len(self.views))
            in_first, in_second = of_first - self.views[i].rows.start, of_second - self.views[j].rows.start
            pairs.append(ViewPair(first=i, second=j, in_first=in_first.int(), in_second=in_second.int()))
        return pairs

    def _number_unknowns(self) -> None:
        """Number the free coordinates of poses and cameras in use; ``column`` finds those of each view's block."""
        self.pose_free = self.problem.pose_free[self.b]
        in_use = torch.zeros(len(self.models), dtype=torch.bool, device=self.pose_free.device)
        in_use[[view.camera for view in self.views]] = True
        self.params_free: Bool[Tensor, "C P"] = self.problem.params_free[self.b] & in_use[:, None]
        free = torch.cat([self.pose_free.flatten(), self.params_free.flatten()])
        self.free = free.nonzero().flatten()
        self.unknowns = len(self.free)
        number = torch.where(free, free.cumsum(0) - 1, self.unknowns)
        poses, self.params_column = number[: self.pose_free.numel()].reshape(-1, 6), number[self.pose_free.numel() :]
        self.params_column = self.params_column.reshape(self.params_free.shape)
        column = torch.cat(
            [poses[[view.frame for view in self.views]], self.params_column[[view.camera for view in self.views]]], -1
        )
        self.kept = (column < self.unknowns).any(0).nonzero().flatten()
        self.column: Int[Tensor, "V W"] = column[:, self.kept]

    def start(self) -> State:
        """The given cameras and points, in double precision."""
        return State(
            cam_from_world=self.problem.cameras.cam_from_world[self.b].double(),
            params=self.problem.cameras.params[self.b].double(),
            xyz_world=self.problem.points.xyz_world[self.b].double(),
        )

    def held_at(self, solution: State) -> State:
        """Free values at a solution, as constants; fixed ones as given, with their graph."""
        start = self.start()
        moved = torch.zeros_like(self.problem.points.valid[self.b])
        moved[self.active] = self.problem.points_free
        return State(
            cam_from_world=torch.where(
                self.pose_free.any(-1)[:, None, None], solution.cam_from_world.detach(), start.cam_from_world
            ),
            params=torch.where(self.params_free, solution.params.detach(), start.params),
            xyz_world=torch.where(moved[:, None], solution.xyz_world.detach(), start.xyz_world),
        )

    def cost(self, state: State) -> Tensor:
        """Robust cost; infinite where a focal length is not positive or nothing can be computed."""
        loss = self.problem.loss
        xyz = state.xyz_world.index_select(0, self.active).T.contiguous()
        total = state.params.new_zeros(())
        for view in self.views:
            squared = residuals(
                view.model,
                state.cam_from_world[view.frame],
                state.params[view.camera],
                _at(xyz, self.point[view.rows]).T,
                self.xy[view.rows],
                self.whitening[view.rows],
            ).square()
            total = total + robust.evaluate(loss.kind, squared.sum(-1), loss.scale)[0].sum()
        for camera in {view.camera for view in self.views}:
            focals = state.params[camera, : len(camera_models.focal_indices(self.models[camera]))]
            total = torch.where((focals > 0).all(), total, torch.inf)
        _, error = self._prior(state)
        return 0.5 * torch.nan_to_num(total + error.square().sum(), nan=torch.inf, posinf=torch.inf)

    def _prior(self, state: State) -> tuple[Float[Tensor, "Q D"], Float[Tensor, " Q"]]:
        """Whitened errors of the logarithms of the focal lengths, and their derivatives."""
        rows, errors = [], []
        for c in ((self.prior_weight > 0) & self.params_free.any(-1)).nonzero().flatten().tolist():
            weight = self.prior_weight[c].sqrt()
            index = list(camera_models.focal_indices(self.models[c]))
            mean = camera_models.focal(self.models[c], state.params[c]).clamp(min=1e-6)
            row = torch.zeros(self.unknowns + 1, dtype=mean.dtype, device=mean.device)
            rows.append(row.index_put((self.params_column[c, index],), weight / (len(index) * mean))[: self.unknowns])
            errors.append(weight * (mean.log() - self.problem.log_focal[self.b, c]))
        if not rows:
            return state.params.new_zeros(0, self.unknowns), state.params.new_zeros(0)
        return torch.stack(rows), torch.stack(errors)

    def normal_equations(self, state: State) -> "NormalEquations":
        """Linearise around ``state``."""
        loss = self.problem.loss
        xyz = state.xyz_world.index_select(0, self.active).T.contiguous()
        by_cameras, by_points, blocks, products, behind = [], [], [], [], 0
        for view in self.views:
            lin = linearize(
                view.model,
                state.cam_from_world[view.frame],
                state.params[view.camera],
                _at(xyz, self.point[view.rows]).T,
                self.xy[view.rows],
                self.whitening[view.rows],
            )
            weight = robust.evaluate(loss.kind, lin.residual.square().sum(-1), loss.scale)[1].sqrt()
            columns = torch.cat([_components(lin.by_pose), _components(lin.by_params)], 1)
            if len(self.kept) < columns.shape[1]:
                columns = columns.index_select(1, self.kept)
            columns = torch.cat([columns, lin.residual.T[:, None]], 1) * weight
            by_point = _components(lin.by_point) * weight
            blocks.append((columns @ columns.mT).sum(0))
            products.append(_point_products(by_point, columns[:, -1]))
            behind += len(weight) - int(lin.in_front.count_nonzero())
            by_cameras.append(columns[:, :-1])
            by_points.append(by_point)
        block = torch.stack(blocks)
        summed = xyz.new_zeros(9, len(self.active)).index_add(1, self.point, torch.cat(products, 1))
        prior, error = self._prior(state)
        return NormalEquations(
            system=self,
            by_camera=by_cameras,
            by_point=by_points,
            cameras=self.collect(block[:, :-1, :-1]) + prior.T @ prior,
            points=summed[:6],
            gradient_cameras=self.collect_vector(block[:, :-1, -1]) + prior.T @ error,
            gradient_points=summed[6:],
            behind=behind,
        )

    def collect(
        self,
        blocks: Float[Tensor, "Q W W"],
        first: Int[Tensor, " Q"] | None = None,
        second: Int[Tensor, " Q"] | None = None,
    ) -> Float[Tensor, "D D"]:
        """Add blocks of pairs of views (of each view with itself) up in the matrix of the unknowns."""
        size = self.unknowns + 1
        rows = self.column if first is None else self.column[first]
        columns = self.column if second is None else self.column[second]
        where = (rows[:, :, None] * size + columns[:, None]).flatten()
        return blocks.new_zeros(size * size).index_add(0, where, blocks.flatten()).reshape(size, size)[:-1, :-1]

    def collect_vector(self, blocks: Float[Tensor, "V W"]) -> Float[Tensor, " D"]:
        """Add blocks of views up in the vector of the unknowns."""
        return blocks.new_zeros(self.unknowns + 1).index_add(0, self.column.flatten(), blocks.flatten())[:-1]

    def spread(self, cameras: Float[Tensor, " D"]) -> Float[Tensor, "V W"]:
        """The unknowns of each view; zero where they are fixed."""
        return torch.cat([cameras, cameras.new_zeros(1)])[self.column]

    def move(self, state: State, cameras: Float[Tensor, " D"], points: Float[Tensor, "3 K"]) -> State:
        """The state after a step."""
        full = cameras.new_zeros(self.pose_free.numel() + self.params_free.numel()).index_put((self.free,), cameras)
        poses, params = full[: self.pose_free.numel()], full[self.pose_free.numel() :]
        moved = move_poses(state.cam_from_world, poses.reshape(-1, 6))
        still = ~self.pose_free.any(-1)
        return State(
            cam_from_world=torch.where(still[:, None, None], state.cam_from_world, moved),
            params=state.params + params.reshape(state.params.shape),
            xyz_world=state.xyz_world.index_add(0, self.active, points.T) if points.numel() else state.xyz_world,
        )

    @torch.no_grad()
    def params_covariance(self, state: State) -> Float[Tensor, "C P P"]:
        """Posterior covariance of the camera parameters, points and poses marginalised, scaled by the residuals."""
        out = state.params.new_zeros(self.params_free.numel() + 1, self.params_free.numel() + 1)
        if not self.empty and bool(self.params_free.any()):
            matrix = self.normal_equations(state).factor(0.0).matrix
            scale = matrix.diagonal().clamp(min=1e-30).rsqrt()
            inverse = torch.linalg.pinv(matrix * scale[:, None] * scale, hermitian=True, rtol=1e-13)
            held = 3 * len(self.active) if self.problem.points_free else 0
            freedom = max(2 * self.count - self.unknowns - held, 1)
            covariance = 2 * self.cost(state) / freedom * inverse * scale[:, None] * scale
            where = self.params_free.flatten().nonzero().flatten()
            chosen = self.params_column.flatten()[where]
            out[where[:, None], where] = covariance[chosen[:, None], chosen]
        cameras, width = self.params_free.shape
        return out[:-1, :-1].reshape(cameras, width, cameras, width).diagonal(dim1=0, dim2=2).movedim(-1, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """Normal equations at one state.

    Attributes:
        system: what they belong to.
        by_camera, by_point: whitened, weighted Jacobians of each view.
        cameras: ``B``.
        points: ``C``, six numbers a point.
        gradient_cameras, gradient_points: of the cost.
        behind: observations behind their cameras, which take no part.
    """

    system: SchurSystem
    by_camera: list[Float[Tensor, "2 W _"]]
    by_point: list[Float[Tensor, "2 3 _"]]
    cameras: Float[Tensor, "D D"]
    points: Float[Tensor, "6 K"]
    gradient_cameras: Float[Tensor, " D"]
    gradient_points: Float[Tensor, "3 K"]
    behind: int

    def constant_cost(self) -> float:
        """The part of the cost that comes from points behind cameras and does not change with small steps."""
        loss = self.system.problem.loss
        each = robust.evaluate(loss.kind, torch.tensor(BEHIND_RESIDUAL**2, dtype=torch.float64), loss.scale)[0]
        return 0.5 * self.behind * float(each)

    def largest_cosine(self, cost: Tensor) -> float:
        """Largest cosine of an angle between the residuals and a column of the Jacobian."""
        length = (2 * cost.detach()).sqrt()
        parts = [(self.gradient_cameras.detach(), self.cameras.detach().diagonal())]
        if self.system.problem.points_free:
            parts.append((self.gradient_points.detach(), self.points.detach()[DIAGONAL]))
        cosines = [gradient.abs() / (diagonal.clamp(min=1e-30).sqrt() * length) for gradient, diagonal in parts]
        return max(float(cosine.max()) if cosine.numel() else 0.0 for cosine in cosines)

    @torch.no_grad()
    def promised_fall(self, cameras: Float[Tensor, " D"], points: Float[Tensor, "3 K"], damping: float) -> float:
        """By how much the linear model falls: ``1/2 step^T (damping diag(H) step - gradient)``."""
        scaled = (cameras.square() * self.cameras.diagonal()).sum() + (points.square() * self.points[DIAGONAL]).sum()
        slope = (cameras * self.gradient_cameras).sum() + (points * self.gradient_points).sum()
        return 0.5 * float(damping * scaled - slope)

    def factor(self, damping: float) -> "ReducedSystem":
        """Eliminate the points of the damped equations."""
        matrix = self.cameras + torch.diag_embed(damping * self.cameras.diagonal().clamp(min=1e-12))
        if not self.system.problem.points_free:
            return ReducedSystem(normal=self, matrix=matrix, inverse_root=None)
        diagonal = self.points[DIAGONAL]
        ridge = damping * diagonal + 1e-12 * diagonal.sum(0) + 1e-300
        damped = self.points.index_add(0, torch.tensor(DIAGONAL, device=ridge.device), ridge)
        inverse_root = _inverse_cholesky(damped)
        return ReducedSystem(normal=self, matrix=matrix - self._eliminated(inverse_root), inverse_root=inverse_root)

    def _eliminated(self, inverse_root: Float[Tensor, "6 K"]) -> Float[Tensor, "D D"]:
        """``E^T C^-1 E``."""
        system = self.system
        if system.unknowns == 0:
            return self.cameras
        coupled, blocks = [], []
        for view, by_camera, by_point in zip(system.views, self.by_camera, self.by_point, strict=True):
            root = _at(inverse_root, system.point[view.rows])
            x, y, z = by_point.unbind(1)
            whitened = torch.stack([root[0] * x, root[1] * x + root[3] * y, root[2] * x + root[4] * y + root[5] * z], 1)
            coupling = torch.addcmul(whitened[0, :, None] * by_camera[0], whitened[1, :, None], by_camera[1])
            blocks.append((coupling @ coupling.mT).sum(0))
            coupled.append(coupling.flatten(0, 1).T.contiguous())  # [n, 3 W]: whole rows are gathered below
        total = system.collect(torch.stack(blocks))
        if not system.pairs:
            return total
        width = system.column.shape[1]
        products = [
            coupled[pair.first].index_select(0, pair.in_first).reshape(-1, width).mT
            @ coupled[pair.second].index_select(0, pair.in_second).reshape(-1, width)
            for pair in system.pairs
        ]
        first = torch.tensor([pair.first for pair in system.pairs], device=total.device)
        second = torch.tensor([pair.second for pair in system.pairs], device=total.device)
        mixed = system.collect(torch.stack(products), first, second)
        return total + mixed + mixed.mT

    def couple(self, cameras: Float[Tensor, " D"]) -> Float[Tensor, "3 K"]:
        """``E dc``."""
        system, pieces = self.system, []
        for change, by_camera, by_point in zip(system.spread(cameras), self.by_camera, self.by_point, strict=True):
            pieces.append((by_point * (change @ by_camera)[:, None]).sum(0))
        return cameras.new_zeros(3, len(system.active)).index_add(1, system.point, torch.cat(pieces, 1))

    def couple_back(self, points: Float[Tensor, "3 K"]) -> Float[Tensor, " D"]:
        """``E^T dp``."""
        system, blocks = self.system, []
        for view, by_camera, by_point in zip(system.views, self.by_camera, self.by_point, strict=True):
            along = (by_point * _at(points, system.point[view.rows])).sum(1)
            blocks.append((by_camera @ along[..., None]).sum(0).squeeze(-1))
        return system.collect_vector(torch.stack(blocks))


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedSystem:
    """Normal equations with the points eliminated.

    Attributes:
        normal: the equations.
        matrix: the reduced camera matrix.
        inverse_root: lower triangular ``F`` of each point with ``F^T F = C^-1``; None when points are fixed.
    """

    normal: NormalEquations
    matrix: Float[Tensor, "D D"]
    inverse_root: Float[Tensor, "6 K"] | None

    def solve(
        self, gradient_cameras: Float[Tensor, " D"], gradient_points: Float[Tensor, "3 K"]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, "3 K"]]:
        """The step that brings a gradient to zero; without change of the points when they are fixed."""
        if self.inverse_root is None:
            return _solve_positive(self.matrix, -gradient_cameras), torch.zeros_like(gradient_points)
        at_points = _apply_inverse(self.inverse_root, gradient_points)
        cameras = _solve_positive(self.matrix, self.normal.couple_back(at_points) - gradient_cameras)
        return cameras, -at_points - _apply_inverse(self.inverse_root, self.normal.couple(cameras))


def _inverse_cholesky(matrix: Float[Tensor, "6 K"]) -> Float[Tensor, "6 K"]:
    """Inverse of the lower Cholesky factor, written out for 3 x 3: LAPACK is slow on many small ones."""
    tiny = 1e-150
    a00, a10, a20, a11, a21, a22 = matrix.unbind(0)
    i00 = a00.clamp(min=tiny).rsqrt()
    l10, l20 = a10 * i00, a20 * i00
    i11 = (a11 - l10 * l10).clamp(min=tiny).rsqrt()
    l21 = (a21 - l20 * l10) * i11
    i22 = (a22 - l20 * l20 - l21 * l21).clamp(min=tiny).rsqrt()
    i10 = -l10 * i00 * i11
    return torch.stack([i00, i10, -(l20 * i00 + l21 * i10) * i22, i11, -l21 * i11 * i22, i22])


def _apply_inverse(root: Float[Tensor, "6 K"], vector: Float[Tensor, "3 K"]) -> Float[Tensor, "3 K"]:
    """``F^T F v`` with ``F`` lower triangular."""
    i00, i10, i20, i11, i21, i22 = root.unbind(0)
    x, y, z = vector.unbind(0)
    x, y, z = i00 * x, i10 * x + i11 * y, i20 * x + i21 * y + i22 * z
    return torch.stack([i00 * x + i10 * y + i20 * z, i11 * y + i21 * z, i22 * z])


def _solve_positive(matrix: Float[Tensor, "D D"], rhs: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Solve a positive (semi-)definite system, scaled to a unit diagonal; least squares where Cholesky fails."""
    if rhs.numel() == 0:
        return rhs
    scale = matrix.diagonal().clamp(min=1e-30).rsqrt()
    scaled = matrix * scale[:, None] * scale
    factor, info = torch.linalg.cholesky_ex(scaled)
    if int(info) == 0:
        return scale * torch.cholesky_solve((scale * rhs)[:, None], factor).squeeze(-1)
    ridge = 1e-8 * torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)
    return scale * torch.linalg.lstsq(torch.nan_to_num(scaled) + ridge, (scale * rhs)[:, None]).solution.squeeze(-1)


def _at(components: Float[Tensor, "k K"], index: Int[Tensor, " n"]) -> Float[Tensor, "k n"]:
    return components.gather(1, index.expand(len(components), -1))


def _components(jacobian: Float[Tensor, "n 2 k"]) -> Float[Tensor, "2 k n"]:
    return jacobian.movedim(0, -1)


def _point_products(by_point: Float[Tensor, "2 3 n"], residual: Float[Tensor, "2 n"]) -> Float[Tensor, "9 n"]:
    """Six numbers of ``J^T J`` and three of ``J^T r``."""
    x, y, z = by_point.unbind(1)
    parts = [x[:, None] * by_point, torch.stack([y * y, y * z, z * z], 1), by_point * residual[:, None]]
    return torch.cat(parts, 1).sum(0)
