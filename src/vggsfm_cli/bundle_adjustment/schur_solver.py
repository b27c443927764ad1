"""Levenberg-Marquardt with the points eliminated: the default adjuster, differentiable, CPU and CUDA.

Each step solves the normal equations by their Schur complement (Triggs et al., "Bundle adjustment - a modern synthesis",
2000, Sec. 6.1): with ``B`` the block of cameras, ``C`` the block-diagonal one of points and ``E`` what couples them,
``(B - E^T C^-1 E) dc = -(g_c - E^T C^-1 g_p)``, then ``dp = -C^-1 (g_p + E dc)``. Damping follows Nielsen's gain ratio.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import BundleProblem, linearize, move_poses, residuals
from vggsfm_cli.geometry import robust
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.scene import Cameras, Points

MAX_ELEMENTS = 30_000_000
"""Points are eliminated in chunks whose coupling block has at most so many numbers."""


@dataclass(frozen=True, kw_only=True)
class SchurConfig:
    """Settings of the solver."""

    max_iterations: int = 30
    initial_damping: float = 1e-4
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    gradient_tolerance: float = 1e-10
    max_rejections: int = 8  # steps in a row that may fail to lower the cost
    covariance: bool = False  # also give the posterior covariance of the camera parameters

    def build(self) -> "SchurAdjuster":
        """The solver."""
        return SchurAdjuster(self)


class SchurAdjuster(BundleAdjuster):
    """Dense reduced camera system, float64; gradients flow through every step taken (``unroll``)."""

    differentiable: ClassVar[bool] = True

    def __init__(self, config: SchurConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, problem: BundleProblem) -> Solution:
        """Solve every scene of the problem; scenes do not influence each other."""
        scenes = problem.points.xyz_world.shape[0]
        frames, count = problem.cameras.camera_index.shape[1], problem.points.xyz_world.shape[1]
        order = problem.point.argsort(stable=True)
        of_scene = torch.div(problem.point[order], max(count, 1), rounding_mode="floor")
        states, statuses, initial, final, iterations, covariances = [], [], [], [], [], []
        for b in range(scenes):
            chosen = order[of_scene == b]
            system = _System(problem, b, chosen, problem.frame[chosen] - b * frames, problem.point[chosen] - b * count)
            state, status, cost_initial, cost_final, steps = self._solve(system)
            states.append(state)
            statuses.append(status)
            initial.append(cost_initial)
            final.append(cost_final)
            iterations.append(steps)
            if self.config.covariance:
                covariances.append(system.params_covariance(state))
        return Solution(
            cameras=_replace_cameras(problem.cameras, states),
            points=_replace_points(problem.points, states),
            status=tuple(statuses),
            cost_initial=torch.stack(initial),
            cost_final=torch.stack(final),
            iterations=tuple(iterations),
            params_covariance=torch.stack(covariances) if covariances else None,
        )

    def _solve(self, system: "_System") -> tuple["_State", SolveStatus, Tensor, Tensor, int]:
        config = self.config
        state = system.start()
        cost = system.cost(state)
        cost_initial = cost
        if system.empty:
            return state, SolveStatus.EMPTY, cost_initial, cost, 0
        damping, growth, rejections = config.initial_damping, 2.0, 0
        normal = system.normal_equations(state)
        steps = 0
        for _ in range(config.max_iterations):
            if float(normal.largest_gradient()) < config.gradient_tolerance:
                return state, SolveStatus.GRADIENT, cost_initial, cost, steps
            step = normal.solve(damping)
            candidate = system.move(state, step)
            candidate_cost = system.cost(candidate)
            predicted = float(step.predicted)
            fall = float(cost - candidate_cost)
            if fall > 0 and predicted > 0:
                steps += 1
                gain = fall / predicted
                damping = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 1e-12)
                growth, rejections = 2.0, 0
                state, cost = candidate, candidate_cost
                if fall < config.cost_tolerance * float(cost):
                    return state, SolveStatus.COST, cost_initial, cost, steps
                normal = system.normal_equations(state)
            else:
                damping, growth, rejections = damping * growth, growth * 2, rejections + 1
                if rejections > config.max_rejections:
                    return state, SolveStatus.NO_STEP, cost_initial, cost, steps
        return state, SolveStatus.ITERATIONS, cost_initial, cost, steps


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """What moves, of one scene."""

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """An update of the free camera coordinates and the points, and the fall of the cost it promises."""

    cameras: Float[Tensor, " D"]
    points: Float[Tensor, "K 3"]
    predicted: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Normal:
    """Normal equations of one linearisation; K active points, D free camera coordinates."""

    b: Float[Tensor, "D D"]
    c: Float[Tensor, "K 3 3"]
    coupling: Callable[[int, int], Float[Tensor, "k 3 D"]]
    gradient_cameras: Float[Tensor, " D"]
    gradient_points: Float[Tensor, "K 3"]
    points_free: bool

    def largest_gradient(self) -> Tensor:
        """Largest entry of the gradient."""
        largest = self.gradient_cameras.abs().max() if self.gradient_cameras.numel() else self.b.new_zeros(())
        if self.points_free and self.gradient_points.numel():
            largest = torch.maximum(largest, self.gradient_points.abs().max())
        return largest.detach()

    def reduced(self, damping: float) -> tuple[Tensor, Tensor, Tensor, list[tuple[int, int, Tensor]]]:
        """Damped Schur complement, its right-hand side, inverse factors of the points, and chunks of the coupling."""
        size = self.b.shape[0]
        matrix = self.b + torch.diag_embed(damping * self.b.diagonal().clamp(min=1e-12))
        rhs = -self.gradient_cameras
        if not self.points_free:
            return matrix, rhs, self.c, []
        diagonal = self.c.diagonal(dim1=-2, dim2=-1)
        damped = self.c + torch.diag_embed(damping * diagonal + 1e-12 * diagonal.sum(-1, keepdim=True) + 1e-300)
        factor = _inverse_cholesky(damped)
        chunks = []
        length = max(MAX_ELEMENTS // max(3 * size, 1), 1)
        for begin in range(0, self.c.shape[0], length):
            end = min(begin + length, self.c.shape[0])
            whitened = factor[begin:end] @ self.coupling(begin, end)
            rows = whitened.reshape(-1, size)
            matrix = matrix - rows.mT @ rows
            rhs = rhs + rows.mT @ (factor[begin:end] @ self.gradient_points[begin:end, :, None]).reshape(-1)
            chunks.append((begin, end, whitened))
        return matrix, rhs, factor, chunks

    def solve(self, damping: float) -> _Step:
        """The damped step."""
        matrix, rhs, factor, chunks = self.reduced(damping)
        cameras = _solve_positive(matrix, rhs)
        points = torch.zeros_like(self.gradient_points)
        if self.points_free:
            # dp = -F^T (F g_p + (F E) dc) with F^T F = C^-1
            pieces = [
                -(
                    factor[begin:end].mT
                    @ (factor[begin:end] @ self.gradient_points[begin:end, :, None] + (whitened @ cameras)[..., None])
                ).squeeze(-1)
                for begin, end, whitened in chunks
            ]
            points = torch.cat(pieces) if pieces else points
        gradient = (cameras * self.gradient_cameras).sum() + (points * self.gradient_points).sum()
        scaled = damping * (
            (cameras.square() * self.b.diagonal()).sum()
            + (points.square() * self.c.diagonal(dim1=-2, dim2=-1)).sum()
        )
        return _Step(cameras=cameras, points=points, predicted=0.5 * (scaled - gradient).detach())


def _inverse_cholesky(matrix: Float[Tensor, "K 3 3"]) -> Float[Tensor, "K 3 3"]:
    """``F`` lower triangular with ``F^T F`` the inverse, written out for 3 x 3: LAPACK is slow on many small ones."""
    tiny = 1e-150
    a = matrix[:, 0, 0].clamp(min=tiny).sqrt()
    b = matrix[:, 1, 0] / a
    c = matrix[:, 2, 0] / a
    d = (matrix[:, 1, 1] - b * b).clamp(min=tiny).sqrt()
    e = (matrix[:, 2, 1] - b * c) / d
    f = (matrix[:, 2, 2] - c * c - e * e).clamp(min=tiny).sqrt()
    zero = torch.zeros_like(a)
    rows = [1 / a, zero, zero, -b / (a * d), 1 / d, zero, (b * e - c * d) / (a * d * f), -e / (d * f), 1 / f]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


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


class _System:
    """One scene of a problem: sorted by point, reduced to the points that are observed."""

    def __init__(
        self, problem: BundleProblem, b: int, chosen: Int[Tensor, " M"], frame: Int[Tensor, " M"], point: Int[Tensor, " M"]
    ) -> None:
        cameras = problem.cameras
        self.problem, self.b = problem, b
        self.frame, self.xy, self.whitening = frame, problem.xy[chosen], problem.whitening[chosen]
        self.camera = cameras.camera_index[b][frame]
        self.active, self.point = point.unique(sorted=True, return_inverse=True)
        self.models = cameras.models
        present = [c for c in range(len(self.models)) if bool((self.camera == c).any())]
        self.groups: list[tuple[str, Tensor | slice]] = []
        for model in dict.fromkeys(self.models[c] for c in present):
            of_model = torch.tensor([name == model for name in self.models], device=frame.device)[self.camera]
            self.groups.append((model, slice(None) if bool(of_model.all()) else of_model.nonzero().flatten()))
        self.pose_free = problem.pose_free[b]
        in_use = torch.zeros(len(self.models), dtype=torch.bool, device=frame.device)
        in_use[present] = True
        self.params_free: Bool[Tensor, "C P"] = problem.params_free[b] & in_use[:, None]
        self.free = torch.cat([self.pose_free.flatten(), self.params_free.flatten()]).nonzero().flatten()
        self.empty = len(chosen) == 0 or (len(self.free) == 0 and not problem.points_free)
        self.prior_weight = problem.log_focal_spread[b].square().reciprocal()

    def start(self) -> _State:
        """The given cameras and points, in double precision."""
        return _State(
            cam_from_world=self.problem.cameras.cam_from_world[self.b].double(),
            params=self.problem.cameras.params[self.b].double(),
            xyz_world=self.problem.points.xyz_world[self.b].double(),
        )

    def _gather(self, state: _State, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return (
            state.cam_from_world[self.frame[rows]],
            state.params[self.camera[rows]],
            state.xyz_world[self.active][self.point[rows]],
            self.xy[rows],
            self.whitening[rows],
        )

    def _log_focal_error(self, state: _State) -> Float[Tensor, " C"]:
        focals = torch.stack([camera_models.focal(m, state.params[c]) for c, m in enumerate(self.models)])
        return focals.clamp(min=1e-6).log() - self.problem.log_focal[self.b]

    def _has_prior(self) -> Bool[Tensor, " C"]:
        return (self.prior_weight > 0) & self.params_free.any(-1)

    def cost(self, state: _State) -> Tensor:
        """Robust cost; infinite where a focal length is not positive."""
        loss = self.problem.loss
        total = state.params.new_zeros(())
        for model, rows in self.groups:
            squared = residuals(model, *self._gather(state, rows)).square().sum(-1)
            total = total + robust.evaluate(loss.kind, squared, loss.scale)[0].sum()
            index = list(camera_models.focal_indices(model))
            used = state.params[self.camera[rows].unique()][:, index]
            if not bool((used > 0).all()):
                return total + torch.inf
        prior = self._has_prior()
        total = total + (self._log_focal_error(state)[prior].square() * self.prior_weight[prior]).sum()
        return 0.5 * torch.nan_to_num(total, nan=torch.inf)

    def normal_equations(self, state: _State) -> _Normal:
        """Linearise around ``state``."""
        frames, cameras, width = self.pose_free.shape[0], *self.params_free.shape
        count = len(self.active)
        like = state.params
        loss = self.problem.loss
        poses_b = like.new_zeros(frames, 6, 6)
        mixed_b = like.new_zeros(frames, cameras, 6, width)
        params_b = like.new_zeros(cameras, width, width)
        pose_gradient, params_gradient = like.new_zeros(frames, 6), like.new_zeros(cameras, width)
        c, point_gradient = like.new_zeros(count, 3, 3), like.new_zeros(count, 3)
        couplings = []
        for model, rows in self.groups:
            lin = linearize(model, *self._gather(state, rows))
            weight = robust.evaluate(loss.kind, lin.residual.square().sum(-1).detach(), loss.scale)[1].sqrt()
            frame, camera, point = self.frame[rows], self.camera[rows], self.point[rows]
            residual = lin.residual * weight[:, None]
            by_pose, by_params, by_point = (
                jacobian * weight[:, None, None] for jacobian in (lin.by_pose, lin.by_params, lin.by_point)
            )
            by_params = by_params * self.params_free[camera][:, None]
            poses_b = poses_b.index_add(0, frame, by_pose.mT @ by_pose)
            pair = frame * cameras + camera
            mixed_b = mixed_b.flatten(0, 1).index_add(0, pair, by_pose.mT @ by_params).reshape(mixed_b.shape)
            params_b = params_b.index_add(0, camera, by_params.mT @ by_params)
            pose_gradient = pose_gradient.index_add(0, frame, (by_pose.mT @ residual[..., None]).squeeze(-1))
            params_gradient = params_gradient.index_add(0, camera, (by_params.mT @ residual[..., None]).squeeze(-1))
            c = c.index_add(0, point, by_point.mT @ by_point)
            point_gradient = point_gradient.index_add(0, point, (by_point.mT @ residual[..., None]).squeeze(-1))
            couplings.append((point, frame, camera, by_point.mT @ by_pose, by_point.mT @ by_params))
        params_b, params_gradient = self._add_prior(state, params_b, params_gradient)
        size = frames * 6
        full = like.new_zeros(size + cameras * width, size + cameras * width)
        full[:size, :size] = torch.block_diag(*poses_b)
        full[:size, size:] = mixed_b.permute(0, 2, 1, 3).reshape(size, cameras * width)
        full[size:, :size] = full[:size, size:].mT
        full[size:, size:] = torch.block_diag(*params_b)
        gradient = torch.cat([pose_gradient.flatten(), params_gradient.flatten()])

        def coupling(begin: int, end: int) -> Float[Tensor, "k 3 D"]:
            """Rows of points ``begin`` to ``end``."""
            k = end - begin
            by_frame = like.new_zeros(k * 3 * frames, 6)
            by_camera = like.new_zeros(k * 3 * cameras, width)
            axis = torch.arange(3, device=like.device)
            for point, frame, camera, to_pose, to_params in couplings:
                low, high = torch.searchsorted(point, torch.tensor([begin, end], device=point.device)).tolist()
                cut = slice(low, high)
                row = (point[cut, None] - begin) * 3 + axis
                by_frame = by_frame.index_add(
                    0, (row * frames + frame[cut, None]).flatten(), to_pose[cut].reshape(-1, 6)
                )
                by_camera = by_camera.index_add(
                    0, (row * cameras + camera[cut, None]).flatten(), to_params[cut].reshape(-1, width)
                )
            joined = torch.cat([by_frame.reshape(k, 3, frames * 6), by_camera.reshape(k, 3, cameras * width)], -1)
            return joined[..., self.free]

        return _Normal(
            b=full[self.free][:, self.free],
            c=c,
            coupling=coupling,
            gradient_cameras=gradient[self.free],
            gradient_points=point_gradient,
            points_free=self.problem.points_free,
        )

    def _add_prior(self, state: _State, params_b: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        prior = self._has_prior()
        error = self._log_focal_error(state)
        for c in prior.nonzero().flatten().tolist():
            index = list(camera_models.focal_indices(self.models[c]))
            slope = state.params.new_zeros(params_b.shape[-1])
            slope[index] = 1 / state.params[c, index].sum().detach()
            slope = slope * self.params_free[c]
            block = torch.zeros_like(params_b)
            block[c] = self.prior_weight[c] * slope[:, None] * slope
            change = torch.zeros_like(gradient)
            change[c] = self.prior_weight[c] * slope
            params_b = params_b + block
            gradient = gradient + change * error[c]
        return params_b, gradient

    def move(self, state: _State, step: _Step) -> _State:
        """The state after a step."""
        full = step.cameras.new_zeros(self.pose_free.numel() + self.params_free.numel())
        full = full.index_put((self.free,), step.cameras)
        poses, params = full.split([self.pose_free.numel(), self.params_free.numel()])
        moved = move_poses(state.cam_from_world, poses.reshape(-1, 6))
        still = ~self.pose_free.any(-1)
        return _State(
            cam_from_world=torch.where(still[:, None, None], state.cam_from_world, moved),
            params=state.params + params.reshape(state.params.shape),
            xyz_world=state.xyz_world.index_add(0, self.active, step.points),
        )

    def params_covariance(self, state: _State) -> Float[Tensor, "C P P"]:
        """Posterior covariance of the camera parameters, points and poses marginalised, scaled by the residuals."""
        cameras, width = self.params_free.shape
        out = state.params.new_zeros(cameras * width, cameras * width)
        if self.empty or not bool(self.params_free.any()):
            return out.reshape(cameras, width, cameras, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        normal = self.normal_equations(state)
        matrix, *_ = normal.reduced(0.0)
        scale = matrix.diagonal().clamp(min=1e-30).rsqrt()
        inverse = torch.linalg.pinv(matrix * scale[:, None] * scale, hermitian=True, rtol=1e-13)
        freedom = max(2 * len(self.frame) - len(self.free) - 3 * len(self.active), 1)
        variance = 2 * self.cost(state) / freedom
        covariance = variance * inverse * scale[:, None] * scale
        where = self.free - self.pose_free.numel()
        keep = (where >= 0).nonzero().flatten()
        out[where[keep][:, None], where[keep]] = covariance[keep][:, keep]
        return out.reshape(cameras, width, cameras, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _replace_cameras(cameras: Cameras, states: list[_State]) -> Cameras:
    poses = torch.stack([state.cam_from_world for state in states])
    params = torch.stack([state.params for state in states])
    return Cameras(
        cam_from_world=poses,
        models=cameras.models,
        params=params,
        camera_index=cameras.camera_index,
        registered=cameras.registered,
    )


def _replace_points(points: Points, states: list[_State]) -> Points:
    return Points(xyz_world=torch.stack([state.xyz_world for state in states]), valid=points.valid, color=points.color)
