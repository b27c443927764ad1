"""Levenberg-Marquardt with the points eliminated: the default adjuster, differentiable, CPU and CUDA.

Damping follows the gain ratio (Madsen, Nielsen & Tingleff, "Methods for non-linear least squares problems", 2004, Sec.
3.2); robust losses enter by iterated reweighting. The linear algebra of one step is in ``normal_equations.py``.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vggsfm_cli.bundle_adjustment.covariance import covariances
from vggsfm_cli.bundle_adjustment.implicit import implicit_step
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.normal_equations import NormalEquations, SchurSystem, State
from vggsfm_cli.bundle_adjustment.problem import BundleProblem

NEGLIGIBLE_RESIDUAL = 1e-9
"""Root mean square residual, in standard deviations, that counts as none."""

KEPT_MEMORY = 31 * 2**20
"""Bytes. The C library of Linux takes the largest block freed so far, up to 32 MiB, for the size of memory that it
keeps instead of giving it back; without it, each iteration on a small problem gets and clears its memory anew."""

LONGEST_STRETCH = 1.7
FARTHEST_EXCESS = 1.5
"""Beyond this the cost is far from any quadratic, and steps are taken as they are."""

Backward = Literal["unroll", "truncated", "implicit"]
"""How gradients pass through the solver: through every step taken; through a few more steps from the solution; or by
the implicit function theorem at the solution, which is exact there and needs the memory of one step."""

Precision = Literal["float64", "float32"]


@dataclass(frozen=True, kw_only=True)
class SchurConfig:
    """Settings of the solver."""

    max_iterations: int = 30
    initial_damping: float = 1e-4  # relative to the diagonal of the normal equations
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    gradient_tolerance: float = 1e-10  # largest cosine between the residuals and a column of the Jacobian
    max_rejections: int = 8  # steps in a row that may fail to lower the cost
    covariance: bool = False  # also give the posterior covariance of the camera parameters
    full_covariance: bool = False  # that, and those of poses and points
    backward: Backward = "unroll"
    truncated_steps: int = 2  # steps with gradients, for ``truncated``
    precision: Precision = "float64"  # of the calculation
    dense_unknowns: int = 2400  # more unknowns of cameras than this are found by conjugate gradients
    conjugate_tolerance: float = 1e-3  # relative residual at which these stop

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
    """Solves for the cameras after eliminating the points."""

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
        config = self.config
        torch.empty(KEPT_MEMORY, dtype=torch.uint8)
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        scenes = range(problem.points.xyz_world.shape[0])
        systems = [SchurSystem(problem, b, dtype, config.dense_unknowns) for b in scenes]
        solved = [self._solve_scene(system) for system in systems]
        states = [one.state for one in solved]
        found = []
        if config.covariance or config.full_covariance:
            pairs = zip(systems, states, strict=True)
            found = [covariances(system, state, points=config.full_covariance) for system, state in pairs]
        full = found if config.full_covariance else []
        return Solution(
            cameras=replace(
                problem.cameras,
                cam_from_world=torch.stack([state.cam_from_world for state in states]),
                params=torch.stack([state.params for state in states]),
            ),
            points=replace(problem.points, xyz_world=torch.stack([state.xyz_world for state in states])),
            status=tuple(one.status for one in solved),
            cost_initial=torch.stack([one.cost_initial for one in solved]),
            cost_final=torch.stack([one.cost for one in solved]),
            iterations=tuple(one.iterations for one in solved),
            params_covariance=torch.stack([one.params for one in found]) if found else None,
            poses_covariance=torch.stack([one.poses for one in full]) if full else None,
            points_covariance=torch.stack([one.points for one in full]) if full else None,
        )

    def _solve_scene(self, system: SchurSystem) -> _Solved:
        if self.config.backward == "unroll" or not torch.is_grad_enabled():
            return self._iterate(system)
        with torch.no_grad():
            solved = self._iterate(system)
        if solved.status in (SolveStatus.EMPTY, SolveStatus.NOT_FINITE):
            return self._replaced(system, solved, system.start())
        state = system.held_at(solved.state)
        if self.config.backward == "implicit":
            return self._replaced(system, solved, system.move(state, *implicit_step(system, state)))
        damping = min(solved.damping, self.config.initial_damping)
        for _ in range(self.config.truncated_steps):
            state = system.move(state, *self._step(system.normal_equations(state), damping))
        return self._replaced(system, solved, state)

    @staticmethod
    def _replaced(system: SchurSystem, solved: _Solved, state: State) -> _Solved:
        return replace(solved, state=state, cost_initial=system.cost(system.start()), cost=system.cost(state))

    def _step(self, normal: NormalEquations, damping: float) -> tuple[Tensor, Tensor]:
        reduced = normal.factor(damping, self.config.conjugate_tolerance)
        return reduced.solve(normal.gradient_cameras, normal.gradient_points)

    def _iterate(self, system: SchurSystem) -> _Solved:
        config = self.config
        if system.empty:
            cost = system.cost(system.start())
            return _Solved(
                state=system.start(), status=SolveStatus.EMPTY, cost_initial=cost, cost=cost, iterations=0, damping=0.0
            )
        normal = system.normal_equations(system.start())
        cost_initial = normal.cost
        damping, growth, rejections, steps = config.initial_damping, 2.0, 0, 0

        def finish(status: SolveStatus) -> _Solved:
            return _Solved(
                state=normal.state,
                status=status,
                cost_initial=cost_initial,
                cost=normal.cost,
                iterations=steps,
                damping=damping,
            )

        if not bool(cost_initial.isfinite()):
            return finish(SolveStatus.NOT_FINITE)
        negligible = system.layout.count * NEGLIGIBLE_RESIDUAL**2
        excess = 0.0
        for _ in range(config.max_iterations):
            if float(normal.cost.detach()) <= negligible:
                return finish(SolveStatus.COST)
            if normal.largest_cosine() < config.gradient_tolerance:
                return finish(SolveStatus.GRADIENT)
            step = self._step(normal, damping)
            promised = normal.promised_fall(*step, damping)
            stretch = _stretch(excess)
            candidate = system.normal_equations(system.move(normal.state, stretch * step[0], stretch * step[1]))
            fall = float((normal.cost - candidate.cost).detach())
            if fall > 0 and promised > 0:
                steps, normal = steps + 1, candidate
                # a quadratic through the slope, 2 promised, and the fall: what a step of length one would have gained
                gain = 2 + (fall / promised - 2 * stretch) / stretch**2
                damping = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 1e-12)
                growth, rejections = 2.0, 0
                excess = 0.0 if torch.is_grad_enabled() else gain - 1
                if fall < config.cost_tolerance * (float(normal.cost.detach()) - normal.constant_cost()):
                    return finish(SolveStatus.COST)
            elif stretch > 1:
                excess = 0.0
            else:
                damping, growth, rejections = damping * growth, growth * 2, rejections + 1
                if rejections > config.max_rejections:
                    return finish(SolveStatus.NO_STEP)
        return finish(SolveStatus.ITERATIONS)


def _stretch(excess: float) -> float:
    """How far to go along a step, when the last one gained more than its model promised, by this share.

    Iterated reweighting takes the loss for more curved than it is, by a factor that changes little from one step to
    the next: ``1 + excess`` times the promise is what a quadratic gains whose curvature is ``1 - excess`` times the
    model's, and its minimum lies at ``1 / (1 - excess)``.
    """
    if not 0 < excess < FARTHEST_EXCESS:
        return 1.0
    return min(1 / max(1 - excess, 1e-3), LONGEST_STRETCH)
