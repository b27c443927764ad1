"""Sparse linear algebra for Theseus: normal equations, their direct solver, and derivatives of what it gives.

Theseus stores Jacobians dense, or sparse for libraries that are seldom there. Here scipy factorises, which needs
neither, and derivatives pass through the solution.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import theseus as th
import torch
from jaxtyping import Float
from theseus.optimizer import Linearization
from theseus.optimizer.linear import LinearSolver
from torch import Tensor
from torch.autograd.function import once_differentiable

from vggsfm_cli.bundle_adjustment.theseus_problem import Layout, SceneVariable

RIDGE = 1e-12
"""Added to the unit diagonal of scaled systems, so that what nothing determines stays where it is."""

MAX_CONJUGATE_STEPS = 100


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
