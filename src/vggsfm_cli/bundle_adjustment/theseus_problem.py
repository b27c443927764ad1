"""One scene of a bundle problem as an objective of Theseus: one variable, and one cost function a camera model.

Theseus' stock reprojection cost is one Python object an observation and looks down -z without a principal point, so
these wrap ``problem.py``'s residuals of all observations at once. Theseus stores Jacobians dense; a bundle problem's
are sparse, so a linearization that keeps the entries and a sparse direct solver come with them.

Imported only where Theseus is installed: ``theseus_solver.py`` sees to that.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import theseus as th
import torch
from jaxtyping import Float, Int
from theseus.optimizer import Linearization
from theseus.optimizer.linear import LinearSolver
from torch import Tensor
from torch.autograd.function import once_differentiable

from vggsfm_cli.bundle_adjustment.problem import BundleProblem, linearize, move_poses, residuals
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust

RIDGE = 1e-12
"""Added to the unit diagonal of scaled systems, so that what nothing determines stays where it is."""

MAX_CONJUGATE_STEPS = 100


class Layout:
    """Which numbers of one scene are unknown, and where they stand in the variable and among the unknowns.

    The variable holds all poses, all camera parameters and the observed points, one after the other. Fixed ones are in
    it only for their place: their values come from the problem, with their graph.
    """

    def __init__(self, problem: BundleProblem, b: int) -> None:
        cameras, count = problem.cameras, problem.points.xyz_world.shape[1]
        self.problem, self.b = problem, b
        self.frames = cameras.camera_index.shape[1]
        self.rows = (torch.div(problem.frame, self.frames, rounding_mode="floor") == b).nonzero().flatten()
        self.frame = problem.frame[self.rows] - b * self.frames
        self.camera = cameras.camera_index[b][self.frame]
        self.active, self.point = (problem.point[self.rows] - b * count).unique(return_inverse=True)
        used = torch.zeros(len(cameras.models), dtype=torch.bool, device=self.frame.device)
        used[self.camera] = True
        pose_free, self.params_free = problem.pose_free[b], problem.params_free[b] & used[:, None]
        points_free = torch.full((3 * len(self.active),), problem.points_free, device=used.device)
        free = torch.cat([pose_free.flatten(), self.params_free.flatten(), points_free])
        self.pose_moves = pose_free.any(-1)
        self.free = free.nonzero().flatten()
        self.unknowns = len(self.free)
        column = torch.where(free, free.cumsum(0) - 1, self.unknowns)
        poses, params, points = self._split(column, 6)
        self.pose_column, self.point_column = poses.reshape(-1, 6), points.reshape(-1, 3)
        self.params_column = params.reshape(self.params_free.shape)

    def _split(self, flat: Tensor, numbers_a_pose: int) -> tuple[Tensor, Tensor, Tensor]:
        poses, params = numbers_a_pose * self.frames, self.params_free.numel()
        return flat[:poses], flat[poses : poses + params], flat[poses + params :]

    def given(self) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "C P"], Float[Tensor, "K 3"]]:
        """Poses, camera parameters and observed points of the problem."""
        cameras, b = self.problem.cameras, self.b
        xyz_world = self.problem.points.xyz_world[b][self.active]
        return cameras.cam_from_world[b].double(), cameras.params[b].double(), xyz_world.double()

    def start(self) -> Float[Tensor, "1 n"]:
        """The variable at the given values."""
        return torch.cat([part.flatten() for part in self.given()])[None]

    def values(
        self, variable: Float[Tensor, "1 n"]
    ) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "C P"], Float[Tensor, "K 3"]]:
        """Poses, camera parameters and observed points: free ones of the variable, fixed ones of the problem."""
        given = self.given()
        poses, params, points = (
            part.reshape(like.shape) for part, like in zip(self._split(variable[0], 12), given, strict=True)
        )
        return (
            torch.where(self.pose_moves[:, None, None], poses, given[0]),
            torch.where(self.params_free, params, given[1]),
            points if self.problem.points_free else given[2],
        )

    def move(self, variable: Float[Tensor, "1 n"], step: Float[Tensor, "1 D"]) -> Float[Tensor, "1 n"]:
        """The variable after a step of the unknowns."""
        size = 6 * self.frames + variable.shape[1] - 12 * self.frames
        full = step.new_zeros(size).index_put((self.free,), step[0])
        by_pose, by_params, by_point = self._split(full, 6)
        poses, params, points = self._split(variable[0], 12)
        moved = move_poses(poses.reshape(-1, 3, 4), by_pose.reshape(-1, 6))
        poses = torch.where(self.pose_moves[:, None, None], moved, poses.reshape(-1, 3, 4))
        return torch.cat([poses.flatten(), params + by_params, points + by_point])[None]


class SceneVariable(th.Manifold):  # type: ignore[misc]
    """All of a scene's numbers; moves as ``problem.py`` says."""

    def __init__(self, layout: Layout, tensor: Tensor, name: str = "scene") -> None:
        self.layout = layout
        super().__init__(tensor.shape[1], tensor=tensor, name=name)

    @staticmethod
    def _init_tensor(*args: Any) -> Tensor:
        return torch.empty(1, int(args[0]))

    def dof(self) -> int:
        """Number of unknowns."""
        return self.layout.unknowns

    def _retract_impl(self, delta: Tensor) -> "SceneVariable":
        return SceneVariable(self.layout, self.layout.move(self.tensor, delta), self.name)

    def _copy_impl(self, new_name: str | None = None) -> "SceneVariable":
        return SceneVariable(self.layout, self.tensor.clone(), new_name or self.name)

    def _local_impl(self, variable2: th.Manifold, jacobians: list[Tensor] | None = None) -> Tensor:
        raise NotImplementedError("bundle adjustment needs no differences of scenes")

    def _project_impl(self, euclidean_grad: Tensor, is_sparse: bool = False) -> Tensor:
        raise NotImplementedError("bundle adjustment has its Jacobians in closed form")

    @staticmethod
    def normalize(tensor: Tensor) -> Tensor:
        """Every tensor is valid."""
        return tensor

    @staticmethod
    def _check_tensor_impl(tensor: Tensor) -> bool:
        return True


class SparseCost(th.CostFunction):  # type: ignore[misc]
    """A cost function that gives the entries of its Jacobian.

    Attributes:
        columns: unknown of each entry; the number of unknowns where the entry belongs to nothing free.
    """

    columns: Int[Tensor, "R W"]

    def __init__(self, scene: SceneVariable, name: str) -> None:
        like = scene.tensor
        super().__init__(th.ScaleCostWeight(torch.ones(1, 1, dtype=like.dtype, device=like.device)), name=name)
        self.scene = scene
        self.register_optim_vars(["scene"])

    @property
    def layout(self) -> Layout:
        """Where the unknowns stand."""
        return self.scene.layout

    def dim(self) -> int:
        """Number of residuals."""
        return len(self.columns)

    def entries(self) -> tuple[Float[Tensor, "R W"], Float[Tensor, " R"]]:
        """Entries of the Jacobian in the order of ``columns``, and the error; their product is the gradient."""
        raise NotImplementedError

    def jacobians(self) -> tuple[list[Tensor], Tensor]:
        """The dense Jacobian that Theseus asks for; its solvers of small problems and its checks use it."""
        values, error = self.entries()
        dense = values.new_zeros(len(values), self.layout.unknowns + 1).scatter_add(1, self.columns, values)
        return [dense[None, :, :-1]], error[None]

    def weighted_error(self) -> Tensor:
        """The error carries its weight already."""
        return self.error()

    def weighted_jacobians_error(self) -> tuple[list[Tensor], Tensor]:
        """So do the Jacobians."""
        return self.jacobians()

    def _copy_impl(self, new_name: str | None = None) -> "SparseCost":
        copy: SparseCost = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.name, copy.scene = new_name or self.name, self.scene.copy()
        return copy


class ReprojectionCost(SparseCost):
    """Whitened residuals of all observations that cameras of one model made, under the robust loss.

    The squared norm of ``error`` is the robust cost; ``entries`` are those of reweighted least squares (Triggs et al.,
    "Bundle adjustment", 2000, Sec. 4.3).
    """

    def __init__(self, scene: SceneVariable, model: str, chosen: Int[Tensor, " m"]) -> None:
        super().__init__(scene, f"reprojection_{model}")
        layout = scene.layout
        self.model = model
        self.frame, self.camera, self.point = layout.frame[chosen], layout.camera[chosen], layout.point[chosen]
        rows = layout.rows[chosen]
        self.xy, self.whitening = layout.problem.xy[rows], layout.problem.whitening[rows]
        columns = [layout.pose_column[self.frame], layout.params_column[self.camera], layout.point_column[self.point]]
        self.columns = torch.cat(columns, -1).repeat_interleave(2, dim=0)

    def error(self) -> Tensor:
        """Residuals scaled so that their squares are the robust cost; infinite where no camera can be such."""
        poses, params, xyz = self.layout.values(self.scene.tensor)
        error = residuals(self.model, poses[self.frame], params[self.camera], xyz[self.point], self.xy, self.whitening)
        loss, squared = self.layout.problem.loss, error.square().sum(-1)
        nought = squared < torch.finfo(squared.dtype).tiny ** 0.5
        squared = torch.where(nought, torch.ones_like(squared), squared)
        scale = (robust.evaluate(loss.kind, squared, loss.scale)[0] / squared).sqrt()
        error = error * torch.where(nought, torch.ones_like(scale), scale)[:, None]
        focals = params[self.camera.unique()][:, list(camera_models.focal_indices(self.model))]
        possible = (focals > 0).all() & error.isfinite().all()
        return torch.where(possible, error, torch.inf).flatten()[None]

    def entries(self) -> tuple[Tensor, Tensor]:
        """Entries and residuals, times the root of the robust weight."""
        poses, params, xyz = self.layout.values(self.scene.tensor)
        lin = linearize(self.model, poses[self.frame], params[self.camera], xyz[self.point], self.xy, self.whitening)
        loss = self.layout.problem.loss
        weight = robust.evaluate(loss.kind, lin.residual.square().sum(-1), loss.scale)[1].sqrt()
        values = torch.cat([lin.by_pose, lin.by_params, lin.by_point], -1) * weight[:, None, None]
        return values.flatten(0, 1), (lin.residual * weight[:, None]).flatten()


class FocalPriorCost(SparseCost):
    """Distance of the logarithms of focal lengths to their priors, in standard deviations."""

    def __init__(self, scene: SceneVariable, cameras: list[int]) -> None:
        super().__init__(scene, "focal_prior")
        layout, problem = scene.layout, scene.layout.problem
        self.cameras = cameras
        self.columns = layout.params_column[cameras]
        self.log_focal = problem.log_focal[layout.b, cameras]
        self.spread = problem.log_focal_spread[layout.b, cameras]
        self.share = scene.tensor.new_zeros(self.columns.shape)
        for row, c in enumerate(cameras):
            index = list(camera_models.focal_indices(problem.cameras.models[c]))
            self.share[row, index] = 1 / len(index)

    def _focal(self) -> Tensor:
        _, params, _ = self.layout.values(self.scene.tensor)
        return (params[self.cameras] * self.share).sum(-1).clamp(min=1e-6)

    def error(self) -> Tensor:
        """In standard deviations."""
        return ((self._focal().log() - self.log_focal) / self.spread)[None]

    def entries(self) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to the parameters of each camera."""
        return self.share / (self._focal() * self.spread)[:, None], self.error()[0]


def build_objective(layout: Layout) -> th.Objective:
    """The objective of one scene."""
    problem = layout.problem
    scene = SceneVariable(layout, layout.start())
    objective = th.Objective(dtype=torch.float64)
    models = problem.cameras.models
    for model in sorted(set(models)):
        of_model = torch.tensor([name == model for name in models], device=layout.camera.device)
        chosen = of_model[layout.camera].nonzero().flatten()
        if len(chosen):
            objective.add(ReprojectionCost(scene, model, chosen))
    held = problem.log_focal_spread[layout.b].isfinite() & layout.params_free.any(-1)
    if bool(held.any()):
        objective.add(FocalPriorCost(scene, held.nonzero().flatten().tolist()))
    objective.to(scene.tensor.device)
    objective.update()
    return objective


class SparseLinearization(Linearization):  # type: ignore[misc]
    """Jacobian ``A`` by its entries, and ``b``, less the error; both keep their graph."""

    def __init__(self, objective: th.Objective, ordering: Any = None, **kwargs: Any) -> None:
        super().__init__(objective, ordering, **kwargs)
        columns = [cost.columns for cost in objective.cost_functions.values()]
        column = torch.cat([part.flatten() for part in columns])
        widths = torch.cat([torch.full((len(part),), part.shape[1]) for part in columns]).to(column.device)
        row = torch.arange(len(widths), device=column.device).repeat_interleave(widths)
        self._kept = (column < self.num_cols).nonzero().flatten()
        self.row, self.column = row[self._kept], column[self._kept]
        self._begin = np.searchsorted(self.row.cpu().numpy(), np.arange(self.num_rows + 1))
        self._column_on_cpu = self.column.cpu().numpy()
        self.detached = False

    def _linearize_jacobian_impl(self) -> None:
        parts = [cost.entries() for cost in self.objective.cost_functions.values()]
        self.entries = torch.cat([values.flatten() for values, _ in parts])[self._kept]
        self.b = -torch.cat([error for _, error in parts])

    def _linearize_hessian_impl(self, _detach_hessian: bool = False) -> None:
        self._linearize_jacobian_impl()
        self.detached = _detach_hessian

    def Av(self, v: Tensor) -> Tensor:
        """``A v``."""
        return self.b.new_zeros(self.num_rows).index_add(0, self.row, self.entries * v[0, self.column])[None]

    def transposed(self, u: Float[Tensor, " R"]) -> Float[Tensor, " D"]:
        """``A^T u``."""
        return u.new_zeros(self.num_cols).index_add(0, self.column, self.entries * u[self.row])

    def diagonal(self) -> Float[Tensor, " D"]:
        """Diagonal of ``A^T A``."""
        return self.b.new_zeros(self.num_cols).index_add(0, self.column, self.entries.square())

    def diagonal_scaling(self, v: Tensor) -> Tensor:
        """The diagonal of ``A^T A`` times ``v``."""
        return v * self.diagonal()

    def _atb_impl(self) -> Tensor:
        return self.transposed(self.b)[None, :, None]

    def _ata_impl(self) -> Tensor:
        dense = self.b.new_zeros(self.num_rows, self.num_cols).index_put((self.row, self.column), self.entries)
        return (dense.mT @ dense)[None]

    def matrix(self) -> scipy.sparse.csr_matrix:
        """``A`` for scipy."""
        values = self.entries.detach().cpu().numpy()
        return scipy.sparse.csr_matrix((values, self._column_on_cpu, self._begin), (self.num_rows, self.num_cols))


class Factor:
    """Sparse factors of ``A^T A`` plus a diagonal, scaled to a unit diagonal, on the CPU."""

    def __init__(self, linearization: SparseLinearization, ridge: Float[Tensor, " D"]) -> None:
        matrix = linearization.matrix()
        normal = matrix.T @ matrix + scipy.sparse.diags(ridge.detach().cpu().numpy())
        self.scale = 1 / np.sqrt(np.maximum(normal.diagonal(), 1e-30))
        scaling = scipy.sparse.diags(self.scale)
        scaled = scaling @ normal @ scaling + RIDGE * scipy.sparse.identity(len(self.scale))
        self.finite = bool(np.isfinite(scaled.data).all())
        if self.finite:
            # pivots on the diagonal: for a positive definite matrix that is a Cholesky factorisation
            self.factors = scipy.sparse.linalg.splu(
                scaled.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )

    def solve_scaled(self, rhs: np.ndarray) -> np.ndarray:
        """Solve the scaled system; zero where the matrix is not finite."""
        return self.factors.solve(rhs) if self.finite else np.zeros_like(rhs)

    def solve(self, rhs: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Solve without a graph."""
        right = rhs.detach().cpu().numpy() * self.scale
        return torch.from_numpy(self.scale * self.solve_scaled(right)).to(rhs)


class SparseSolver(LinearSolver):  # type: ignore[misc]
    """Solves the normal equations of a ``SparseLinearization``, differentiably."""

    linearization: SparseLinearization

    def __init__(self, objective: th.Objective, **kwargs: Any) -> None:
        super().__init__(objective, linearization_cls=SparseLinearization)

    def solve(self, damping: Any = None, damping_eps: float = 1e-8, **kwargs: Any) -> Float[Tensor, "1 D"]:
        """The step; ``damping`` is relative to the diagonal.

        In the last step of implicit differentiation, which starts at the solution, the step is zero and only its
        derivative counts: that of the inverse Hessian times the gradient, with the full Hessian.
        """
        lin = self.linearization
        diagonal = lin.diagonal()
        ridge = diagonal * damping + damping_eps if damping is not None else torch.zeros_like(diagonal)
        factor, rhs = Factor(lin, ridge), lin.transposed(lin.b)
        if lin.detached:
            hessian = Hessian(lin.objective, factor)
            step: Tensor = _StepOfNoLength.apply(rhs, hessian.solve)  # type: ignore[no-untyped-call]
        else:
            step = factor.solve(rhs)
            if torch.is_grad_enabled():
                # d(H^-1 r) = H^-1 (dr - dH H^-1 r); the value of what is solved for is zero
                left = rhs - lin.transposed(lin.Av(step[None])[0]) - ridge * step
                step = step + _ConstantSolve.apply(left, factor.solve)  # type: ignore[no-untyped-call]
        return step[None]


Solve = Callable[[Tensor], Tensor]


class _ConstantSolve(torch.autograd.Function):
    """A symmetric system whose matrix is a constant."""

    @staticmethod
    def forward(ctx: Any, rhs: Tensor, solve: Solve) -> Tensor:
        ctx.solve = solve
        return solve(rhs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(upstream), None


class _StepOfNoLength(torch.autograd.Function):
    """Zero in the forward pass, the inverse of a symmetric matrix in the backward one."""

    @staticmethod
    def forward(ctx: Any, rhs: Tensor, solve: Solve) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(rhs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(upstream), None


class Hessian:
    """The second derivatives of an objective where its variable is now, by differentiating its error twice."""

    def __init__(self, objective: th.Objective, factor: Factor) -> None:
        self.objective, self.factor = objective, factor
        self.scene: SceneVariable = objective.optim_vars["scene"]
        self.tensor = self.scene.tensor.detach()

    def solve(self, rhs: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """By conjugate gradients, preconditioned by the Gauss-Newton matrix."""
        layout, scale = self.scene.layout, self.factor.scale
        step = rhs.new_zeros(1, layout.unknowns).requires_grad_()
        with torch.enable_grad():
            error = self.objective.error_metric({"scene": layout.move(self.tensor, step)}, also_update=False)
            (gradient,) = torch.autograd.grad(error.sum(), step, create_graph=True)

        def times(vector: np.ndarray) -> np.ndarray:
            along = torch.from_numpy(scale * vector).to(rhs)[None]
            (bent,) = torch.autograd.grad(gradient, step, along, retain_graph=True)
            return scale * bent[0].cpu().numpy()

        size = (layout.unknowns, layout.unknowns)
        solution, _ = scipy.sparse.linalg.cg(
            scipy.sparse.linalg.LinearOperator(size, times, dtype=np.float64),
            scale * rhs.detach().cpu().numpy(),
            rtol=1e-12,
            maxiter=MAX_CONJUGATE_STEPS,
            M=scipy.sparse.linalg.LinearOperator(size, self.factor.solve_scaled, dtype=np.float64),
        )
        return torch.from_numpy(scale * solution).to(rhs)


class SparseLevenbergMarquardt(th.LevenbergMarquardt):  # type: ignore[misc]
    """Theseus' own, allowed to damp adaptively with a solver that it does not know."""

    def __init__(self, objective: th.Objective, **kwargs: Any) -> None:
        super().__init__(objective, linear_solver_cls=SparseSolver, **kwargs)
        self._allows_ellipsoidal = self._allows_adaptive = True


@torch.no_grad()
def params_covariance(objective: th.Objective) -> Float[Tensor, "C P P"]:
    """Posterior covariance of the camera parameters at the variable, scaled by the residuals; zero where fixed."""
    layout: Layout = objective.optim_vars["scene"].layout
    free = layout.params_free.flatten().nonzero().flatten()
    linearization = SparseLinearization(objective)
    linearization.linearize()
    factor = Factor(linearization, torch.zeros_like(linearization.diagonal()))
    where = layout.params_column.flatten()[free]
    columns = [
        factor.solve(torch.zeros_like(linearization.diagonal()).index_fill(0, column, 1.0))[where]
        for column in where[:, None]
    ]
    cameras, width = layout.params_free.shape
    out = linearization.b.new_zeros(cameras * width, cameras * width)
    if columns:
        freedom = max(2 * len(layout.rows) - layout.unknowns, 1)
        scale = 2 * objective.error_metric()[0] / freedom
        out[free[:, None], free] = scale * torch.stack(columns)
    return out.reshape(cameras, width, cameras, width).diagonal(dim1=0, dim2=2).movedim(-1, 0)
