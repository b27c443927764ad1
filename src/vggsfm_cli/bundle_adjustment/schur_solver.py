"""Levenberg-Marquardt with the points eliminated: the default adjuster, differentiable, CPU and CUDA.

Each step solves the normal equations by their Schur complement (Triggs et al., "Bundle adjustment - a modern
synthesis", 2000, Sec. 6.1): with ``B`` the block of cameras, ``C`` the block-diagonal one of points and ``E`` what
couples them, ``(B - E^T C^-1 E) dc = -(g_c - E^T C^-1 g_p)``, then ``dp = -C^-1 (g_p + E dc)``. Damping follows the
gain ratio (Madsen, Nielsen & Tingleff, "Methods for non-linear least squares problems", 2004, Sec. 3.2); robust losses
enter by iterated reweighting.

Observations are sorted by frame and handled one frame at a time. Every frame has a block of its own: its pose and the
parameters of its camera; blocks of frames that share a camera are added up afterwards. ``E^T C^-1 E`` is a sum, over
pairs of frames, of products over the points that both see. Within a frame, arrays lie component by component,
``[components, observations]``, which is what makes elementwise arithmetic fast.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import BundleProblem, linearize, move_poses, residuals
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust
from vggsfm_cli.scene import Cameras, Points

NEGLIGIBLE_RESIDUAL = 1e-9
"""Root mean square residual, in standard deviations, that counts as none."""

PRECONDITIONER_DAMPING = 1e-9
MAX_CONJUGATE_STEPS = 100

DIAGONAL = [0, 3, 5]
"""Where the diagonal stands among the six numbers 00 10 20 11 21 22 of a symmetric or triangular 3 x 3 matrix."""


class Backward(StrEnum):
    """How gradients pass through the solver."""

    UNROLL = "unroll"  # through every step taken
    TRUNCATED = "truncated"  # through a few more steps from the solution
    IMPLICIT = "implicit"  # by the implicit function theorem at the solution: exact there, memory of one step


@dataclass(frozen=True, kw_only=True)
class SchurConfig:
    """Settings of the solver."""

    max_iterations: int = 30
    initial_damping: float = 1e-4  # relative to the diagonal of the normal equations
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    gradient_tolerance: float = 1e-10  # largest cosine between the residuals and a column of the Jacobian
    max_rejections: int = 8  # steps in a row that may fail to lower the cost
    covariance: bool = False  # also give the posterior covariance of the camera parameters
    backward: Backward = Backward.UNROLL
    truncated_steps: int = 2  # steps with gradients, for ``truncated``

    def build(self) -> "SchurAdjuster":
        """The solver."""
        return SchurAdjuster(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """What moves, of one scene."""

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solved:
    """The end of one scene's iteration."""

    state: _State
    status: SolveStatus
    cost_initial: Tensor
    cost: Tensor
    iterations: int
    damping: float


class SchurAdjuster(BundleAdjuster):
    """Direct solver of the reduced camera system in float64."""

    differentiable: ClassVar[bool] = True

    def __init__(self, config: SchurConfig) -> None:
        """Keep the settings; there are no weights."""
        super().__init__()
        self.config = config

    def forward(self, problem: BundleProblem) -> Solution:
        """Solve every scene of the problem; scenes do not influence each other.

        Gradients reach the observations, their covariances, and starting values that are held fixed. Those that are
        free only matter through the gauge, and only for ``unroll``.
        """
        systems = [_System(problem, b) for b in range(problem.points.xyz_world.shape[0])]
        solved = [self._solve_scene(system) for system in systems]
        states = [one.state for one in solved]
        covariances = []
        if self.config.covariance:
            covariances = [system.params_covariance(state) for system, state in zip(systems, states, strict=True)]
        return Solution(
            cameras=Cameras(
                cam_from_world=torch.stack([state.cam_from_world for state in states]),
                models=problem.cameras.models,
                params=torch.stack([state.params for state in states]),
                camera_index=problem.cameras.camera_index,
                registered=problem.cameras.registered,
            ),
            points=Points(
                xyz_world=torch.stack([state.xyz_world for state in states]),
                valid=problem.points.valid,
                color=problem.points.color,
            ),
            status=tuple(one.status for one in solved),
            cost_initial=torch.stack([one.cost_initial for one in solved]),
            cost_final=torch.stack([one.cost for one in solved]),
            iterations=tuple(one.iterations for one in solved),
            params_covariance=torch.stack(covariances) if covariances else None,
        )

    def _solve_scene(self, system: "_System") -> _Solved:
        if self.config.backward is Backward.UNROLL or not torch.is_grad_enabled():
            return self._iterate(system)
        with torch.no_grad():
            solved = self._iterate(system)
        if solved.status in (SolveStatus.EMPTY, SolveStatus.NOT_FINITE):
            return self._replace(system, solved, system.start())
        state = system.held_at(solved.state)
        if self.config.backward is Backward.IMPLICIT:
            return self._replace(system, solved, system.move(state, *_implicit_step(system, state)))
        damping = min(solved.damping, self.config.initial_damping)
        for _ in range(self.config.truncated_steps):
            normal = system.normal_equations(state)
            step = normal.factor(damping).solve(normal.gradient_cameras, normal.gradient_points)
            state = system.move(state, *step)
        return self._replace(system, solved, state)

    @staticmethod
    def _replace(system: "_System", solved: _Solved, state: _State) -> _Solved:
        return _Solved(
            state=state,
            status=solved.status,
            cost_initial=system.cost(system.start()),
            cost=system.cost(state),
            iterations=solved.iterations,
            damping=solved.damping,
        )

    def _iterate(self, system: "_System") -> _Solved:
        config = self.config
        state = system.start()
        cost = cost_initial = system.cost(state)
        damping, growth, rejections, steps = config.initial_damping, 2.0, 0, 0

        def finish(status: SolveStatus) -> _Solved:
            return _Solved(
                state=state, status=status, cost_initial=cost_initial, cost=cost, iterations=steps, damping=damping
            )

        if system.empty:
            return finish(SolveStatus.EMPTY)
        if not bool(cost.isfinite()):
            return finish(SolveStatus.NOT_FINITE)
        negligible = system.count * NEGLIGIBLE_RESIDUAL**2
        normal = system.normal_equations(state)
        for _ in range(config.max_iterations):
            if float(cost.detach()) <= negligible:
                return finish(SolveStatus.COST)
            if normal.largest_cosine(cost) < config.gradient_tolerance:
                return finish(SolveStatus.GRADIENT)
            step = normal.factor(damping).solve(normal.gradient_cameras, normal.gradient_points)
            candidate = system.move(state, *step)
            candidate_cost = system.cost(candidate)
            promised = normal.promised_fall(*step, damping)
            fall = float((cost - candidate_cost).detach())
            if fall > 0 and promised > 0:
                steps += 1
                state, cost = candidate, candidate_cost
                damping = max(damping * max(1 / 3, 1 - (2 * fall / promised - 1) ** 3), 1e-12)
                growth, rejections = 2.0, 0
                if fall < config.cost_tolerance * float(cost.detach()):
                    return finish(SolveStatus.COST)
                normal = system.normal_equations(state)
            else:
                damping, growth, rejections = damping * growth, growth * 2, rejections + 1
                if rejections > config.max_rejections:
                    return finish(SolveStatus.NO_STEP)
        return finish(SolveStatus.ITERATIONS)


@dataclass(frozen=True, kw_only=True)
class _View:
    """One frame's observations: a range of the sorted list."""

    frame: int
    camera: int
    model: str
    rows: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Points seen by two views: where their observations stand in each."""

    first: int
    second: int
    in_first: Int[Tensor, " n"]
    in_second: Int[Tensor, " n"]


class _System:
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
        self.pairs = self._pairs() if problem.points_free else []
        self._number_unknowns()
        self.empty = self.count == 0 or (self.unknowns == 0 and not problem.points_free)
        self.prior_weight = problem.log_focal_spread[b].square().reciprocal()

    def _views(self, counts: list[int], cameras: list[int]) -> list[_View]:
        views, begin = [], 0
        for frame, count in enumerate(counts):
            if count:
                camera = cameras[frame]
                rows = slice(begin, begin + count)
                views.append(_View(frame=frame, camera=camera, model=self.models[camera], rows=rows))
                begin += count
        return views

    def _pairs(self) -> list[_Pair]:
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
            pairs.append(_Pair(first=i, second=j, in_first=in_first.int(), in_second=in_second.int()))
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

    def start(self) -> _State:
        """The given cameras and points, in double precision."""
        return _State(
            cam_from_world=self.problem.cameras.cam_from_world[self.b].double(),
            params=self.problem.cameras.params[self.b].double(),
            xyz_world=self.problem.points.xyz_world[self.b].double(),
        )

    def held_at(self, solution: _State) -> _State:
        """Free values at a solution, as constants; fixed ones as given, with their graph."""
        start = self.start()
        moved = torch.zeros_like(self.problem.points.valid[self.b])
        moved[self.active] = self.problem.points_free
        return _State(
            cam_from_world=torch.where(
                self.pose_free.any(-1)[:, None, None], solution.cam_from_world.detach(), start.cam_from_world
            ),
            params=torch.where(self.params_free, solution.params.detach(), start.params),
            xyz_world=torch.where(moved[:, None], solution.xyz_world.detach(), start.xyz_world),
        )

    def cost(self, state: _State) -> Tensor:
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

    def _prior(self, state: _State) -> tuple[Float[Tensor, "Q D"], Float[Tensor, " Q"]]:
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

    def normal_equations(self, state: _State) -> "_Normal":
        """Linearise around ``state``."""
        loss = self.problem.loss
        xyz = state.xyz_world.index_select(0, self.active).T.contiguous()
        by_cameras, by_points, blocks, products = [], [], [], []
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
            by_cameras.append(columns[:, :-1])
            by_points.append(by_point)
        block = torch.stack(blocks)
        summed = xyz.new_zeros(9, len(self.active)).index_add(1, self.point, torch.cat(products, 1))
        prior, error = self._prior(state)
        return _Normal(
            system=self,
            by_camera=by_cameras,
            by_point=by_points,
            cameras=self.collect(block[:, :-1, :-1]) + prior.T @ prior,
            points=summed[:6],
            gradient_cameras=self.collect_vector(block[:, :-1, -1]) + prior.T @ error,
            gradient_points=summed[6:],
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

    def move(self, state: _State, cameras: Float[Tensor, " D"], points: Float[Tensor, "3 K"]) -> _State:
        """The state after a step."""
        full = cameras.new_zeros(self.pose_free.numel() + self.params_free.numel()).index_put((self.free,), cameras)
        poses, params = full[: self.pose_free.numel()], full[self.pose_free.numel() :]
        moved = move_poses(state.cam_from_world, poses.reshape(-1, 6))
        still = ~self.pose_free.any(-1)
        return _State(
            cam_from_world=torch.where(still[:, None, None], state.cam_from_world, moved),
            params=state.params + params.reshape(state.params.shape),
            xyz_world=state.xyz_world.index_add(0, self.active, points.T) if points.numel() else state.xyz_world,
        )

    @torch.no_grad()
    def params_covariance(self, state: _State) -> Float[Tensor, "C P P"]:
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


def _at(components: Float[Tensor, "k K"], index: Int[Tensor, " n"]) -> Float[Tensor, "k n"]:
    return components.gather(1, index.expand(len(components), -1))


def _components(jacobian: Float[Tensor, "n 2 k"]) -> Float[Tensor, "2 k n"]:
    return jacobian.movedim(0, -1)


def _point_products(by_point: Float[Tensor, "2 3 n"], residual: Float[Tensor, "2 n"]) -> Float[Tensor, "9 n"]:
    """Six numbers of ``J^T J`` and three of ``J^T r``."""
    x, y, z = by_point.unbind(1)
    parts = [x[:, None] * by_point, torch.stack([y * y, y * z, z * z], 1), by_point * residual[:, None]]
    return torch.cat(parts, 1).sum(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Normal:
    """Normal equations at one state.

    Attributes:
        system: what they belong to.
        by_camera, by_point: whitened, weighted Jacobians of each view.
        cameras: ``B``.
        points: ``C``, six numbers a point.
        gradient_cameras, gradient_points: of the cost.
    """

    system: _System
    by_camera: list[Float[Tensor, "2 W _"]]
    by_point: list[Float[Tensor, "2 3 _"]]
    cameras: Float[Tensor, "D D"]
    points: Float[Tensor, "6 K"]
    gradient_cameras: Float[Tensor, " D"]
    gradient_points: Float[Tensor, "3 K"]

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

    def factor(self, damping: float) -> "_Factor":
        """Eliminate the points of the damped equations."""
        matrix = self.cameras + torch.diag_embed(damping * self.cameras.diagonal().clamp(min=1e-12))
        if not self.system.problem.points_free:
            return _Factor(normal=self, matrix=matrix, inverse_root=None)
        diagonal = self.points[DIAGONAL]
        ridge = damping * diagonal + 1e-12 * diagonal.sum(0) + 1e-300
        damped = self.points.index_add(0, torch.tensor(DIAGONAL, device=ridge.device), ridge)
        inverse_root = _inverse_cholesky(damped)
        return _Factor(normal=self, matrix=matrix - self._eliminated(inverse_root), inverse_root=inverse_root)

    def _eliminated(self, inverse_root: Float[Tensor, "6 K"]) -> Float[Tensor, "D D"]:
        """``E^T C^-1 E``."""
        system = self.system
        if system.unknowns == 0:
            return self.cameras
        coupled, blocks = [], []
        for view, by_camera, by_point in zip(system.views, self.by_camera, self.by_point, strict=True):
            root = _at(inverse_root, system.point[view.rows])
            x, y, z = by_point.unbind(1)
            whitened = torch.stack(
                [root[0] * x, root[1] * x + root[3] * y, root[2] * x + root[4] * y + root[5] * z], 1
            )
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
class _Factor:
    """Normal equations with the points eliminated.

    Attributes:
        normal: the equations.
        matrix: the reduced camera matrix.
        inverse_root: lower triangular ``F`` of each point with ``F^T F = C^-1``; None when points are fixed.
    """

    normal: _Normal
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


def _implicit_step(system: _System, state: _State) -> tuple[Float[Tensor, " D"], Float[Tensor, "3 K"]]:
    """A step of zero length that carries the derivative of the solution.

    Where the gradient ``g(x, t)`` vanishes, ``dx/dt = -H^-1 dg/dt`` with the full Hessian ``H``.
    """
    normal = system.normal_equations(state)
    flat = _join_step(normal.gradient_cameras, normal.gradient_points)
    return _split_step(system, _Implicit.apply(flat, system, state))


def _join_step(cameras: Tensor, points: Tensor) -> Tensor:
    return torch.cat([cameras, points.flatten()])


def _split_step(system: _System, flat: Tensor) -> tuple[Tensor, Tensor]:
    points = flat[system.unknowns :].reshape(3, -1)
    return flat[: system.unknowns], points if system.problem.points_free else torch.zeros_like(points)


class _Implicit(torch.autograd.Function):
    """Zero in the forward pass; ``-H^-1`` in the backward one."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, system: _System, state: _State) -> Tensor:
        """No step: the state is a minimum already."""
        ctx.system, ctx.state = system, state
        return torch.zeros_like(gradient)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The Hessian is symmetric, so its inverse is its own adjoint."""
        return -_solve_hessian(ctx.system, ctx.state, upstream), None, None


def _solve_hessian(system: _System, state: _State, rhs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """``H^-1 rhs`` by conjugate gradients, preconditioned by the Gauss-Newton system (Nocedal & Wright, Alg. 5.3)."""
    constant = _State(
        cam_from_world=state.cam_from_world.detach(), params=state.params.detach(), xyz_world=state.xyz_world.detach()
    )
    step = torch.zeros_like(rhs).requires_grad_()
    with torch.enable_grad():
        normal = system.normal_equations(system.move(constant, *_split_step(system, step)))
        gradient = _join_step(normal.gradient_cameras, normal.gradient_points)
    with torch.no_grad():
        factor = system.normal_equations(constant).factor(PRECONDITIONER_DAMPING)

    def precondition(vector: Tensor) -> Tensor:
        return -_join_step(*factor.solve(*_split_step(system, vector)))

    residual = _join_step(*_split_step(system, rhs)).detach()
    solution, preconditioned = torch.zeros_like(residual), precondition(residual)
    direction, along = preconditioned, residual @ preconditioned
    enough = 1e-24 * along
    for _ in range(MAX_CONJUGATE_STEPS):
        if bool(along <= enough):
            break
        (bent,) = torch.autograd.grad(gradient, step, direction, retain_graph=True)
        curvature = direction @ bent
        if bool(curvature <= 0):  # not a strict minimum: the best that the directions so far can do
            break
        solution = solution + along / curvature * direction
        residual = residual - along / curvature * bent
        preconditioned = precondition(residual)
        before, along = along, residual @ preconditioned
        direction = preconditioned + along / before * direction
    return solution
