"""Levenberg-Marquardt with the points eliminated: the default adjuster, differentiable, CPU and CUDA.

Damping follows the gain ratio (Madsen, Nielsen & Tingleff, "Methods for non-linear least squares problems", 2004, Sec.
3.2); robust losses enter by iterated reweighting. The linear algebra of one step is in ``normal_equations.py``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vggsfm_cli.bundle_adjustment.implicit import implicit_step
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.normal_equations import SchurSystem, State
from vggsfm_cli.bundle_adjustment.problem import BundleProblem
from vggsfm_cli.scene import Cameras, Points

NEGLIGIBLE_RESIDUAL = 1e-9
"""Root mean square residual, in standard deviations, that counts as none."""


Backward = Literal["unroll", "truncated", "implicit"]
"""How gradients pass through the solver: through every step taken; through a few more steps from the solution; or by
the implicit function theorem at the solution, which is exact there and needs the memory of one step."""


@dataclass(frozen=True, kw_only=True)
class SchurConfig:
    """Settings of the solver."""

    max_iterations: int = 30
    initial_damping: float = 1e-4  # relative to the diagonal of the normal equations
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    gradient_tolerance: float = 1e-10  # largest cosine between the residuals and a column of the Jacobian
    max_rejections: int = 8  # steps in a row that may fail to lower the cost
    covariance: bool = False  # also give the posterior covariance of the camera parameters
    backward: Backward = "unroll"
    truncated_steps: int = 2  # steps with gradients, for ``truncated``

    def build(self) -> "SchurAdjuster":
        """The solver."""
        return SchurAdjuster(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solved:
    """The end of one scene's iteration."""

    state: State
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
        systems = [SchurSystem(problem, b) for b in range(problem.points.xyz_world.shape[0])]
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

    def _solve_scene(self, system: SchurSystem) -> _Solved:
        if self.config.backward == "unroll" or not torch.is_grad_enabled():
            return self._iterate(system)
        with torch.no_grad():
            solved = self._iterate(system)
        if solved.status in (SolveStatus.EMPTY, SolveStatus.NOT_FINITE):
            return self._replace(system, solved, system.start())
        state = system.held_at(solved.state)
        if self.config.backward == "implicit":
            return self._replace(system, solved, system.move(state, *implicit_step(system, state)))
        damping = min(solved.damping, self.config.initial_damping)
        for _ in range(self.config.truncated_steps):
            normal = system.normal_equations(state)
            step = normal.factor(damping).solve(normal.gradient_cameras, normal.gradient_points)
            state = system.move(state, *step)
        return self._replace(system, solved, state)

    @staticmethod
    def _replace(system: SchurSystem, solved: _Solved, state: State) -> _Solved:
        return _Solved(
            state=state,
            status=solved.status,
            cost_initial=system.cost(system.start()),
            cost=system.cost(state),
            iterations=solved.iterations,
            damping=solved.damping,
        )

    def _iterate(self, system: SchurSystem) -> _Solved:
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
        normal = None
        for _ in range(config.max_iterations):
            if float(cost.detach()) <= negligible:
                return finish(SolveStatus.COST)
            normal = normal or system.normal_equations(state)
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
                if fall < config.cost_tolerance * (float(cost.detach()) - normal.constant_cost()):
                    return finish(SolveStatus.COST)
                normal = None
            else:
                damping, growth, rejections = damping * growth, growth * 2, rejections + 1
                if rejections > config.max_rejections:
                    return finish(SolveStatus.NO_STEP)
        return finish(SolveStatus.ITERATIONS)
