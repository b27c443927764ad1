"""The same problem through Theseus (Pineda et al., NeurIPS 2022), the library that VGGSfM uses: a witness for ours.

Theseus owns the objective, Levenberg-Marquardt, its damping and stopping, and the backward modes. Residuals, gauge,
priors and loss are ``problem.py``'s; ``theseus_problem.py`` brings them together, ``theseus_linear.py`` solves the
linear systems.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from vggsfm_cli.bundle_adjustment import evaluate
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import BundleProblem
from vggsfm_cli.errors import MissingDependency
from vggsfm_cli.scene import Cameras, Points

if TYPE_CHECKING:
    from vggsfm_cli.bundle_adjustment.theseus_problem import Layout

NEEDED = ("theseus", "torchlie", "torchkin", "scipy")

NEGLIGIBLE_RESIDUAL = 1e-9
"""Root mean square residual, in standard deviations, that counts as none."""


@dataclass(frozen=True, kw_only=True)
class TheseusConfig:
    """Settings of the solver.

    ``backward`` says how gradients pass: through every step taken, or by the implicit function theorem at the solution.
    Theseus' own implicit mode puts the Gauss-Newton matrix for the Hessian, which is exact only without residuals;
    here the Hessian is whole.
    """

    max_iterations: int = 30
    initial_damping: float = 1e-4  # relative to the diagonal of the normal equations
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    covariance: bool = False  # also give the posterior covariance of the camera parameters
    backward: Literal["unroll", "implicit"] = "unroll"

    def build(self) -> "TheseusAdjuster":
        """The solver.

        Raises:
            MissingDependency: Theseus is not installed.
        """
        return TheseusAdjuster(self)


def require_theseus() -> None:
    """Import Theseus.

    Raises:
        MissingDependency: it is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"The adjuster 'theseus' needs theseus-ai, which is not installed (missing: {', '.join(missing)}).",
            "Either `make setup` in a checkout, or in this environment: pip install 'vggsfm-cli[theseus]' setuptools "
            "wheel, and then pip install --no-build-isolation --no-deps theseus-ai==0.2.3 torchlie==0.1.0 "
            "torchkin==0.1.1. The adjusters schur and ceres need neither.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says at every import which of its own extras are not there
        import theseus  # noqa: F401


class TheseusAdjuster(BundleAdjuster):
    """Levenberg-Marquardt of Theseus on sparse normal equations, in float64; systems are factorised on the CPU."""

    differentiable: ClassVar[bool] = True

    def __init__(self, config: TheseusConfig) -> None:
        """Keep the settings; there are no weights."""
        super().__init__()
        require_theseus()
        self.config = config

    def forward(self, problem: BundleProblem) -> Solution:
        """Solve every scene of the problem; scenes do not influence each other.

        Gradients reach the observations, their covariances, and starting values that are held fixed.
        """
        solved = [self._solve_scene(problem, b) for b in range(len(problem.points.xyz_world))]
        given = problem.cameras
        cameras = Cameras(
            cam_from_world=torch.stack([one[0] for one in solved]),
            models=given.models,
            params=torch.stack([one[1] for one in solved]),
            camera_index=given.camera_index,
            registered=given.registered,
        )
        points = Points(
            xyz_world=torch.stack([one[2] for one in solved]), valid=problem.points.valid, color=problem.points.color
        )
        return Solution(
            cameras=cameras,
            points=points,
            status=tuple(one[3] for one in solved),
            cost_initial=evaluate.cost(problem, given, problem.points),
            cost_final=evaluate.cost(problem, cameras, points),
            iterations=tuple(one[4] for one in solved),
            params_covariance=torch.stack([one[5] for one in solved]) if self.config.covariance else None,
        )

    def _solve_scene(self, problem: BundleProblem, b: int) -> tuple[Tensor, Tensor, Tensor, SolveStatus, int, Tensor]:
        """Poses, parameters, points, status, iterations, covariance of the parameters (zero unless asked for)."""
        from vggsfm_cli.bundle_adjustment.theseus_linear import params_covariance
        from vggsfm_cli.bundle_adjustment.theseus_problem import Layout, build_objective

        layout = Layout(problem, b)
        xyz_world = problem.points.xyz_world[b].double()
        poses, params, _ = layout.given()
        covariance = params.new_zeros(*params.shape, params.shape[-1])
        if layout.unknowns == 0 or len(layout.rows) == 0:
            return poses, params, xyz_world, SolveStatus.EMPTY, 0, covariance
        objective = build_objective(layout)
        with torch.no_grad():
            finite = bool(objective.error_metric().isfinite())
        if not finite:
            return poses, params, xyz_world, SolveStatus.NOT_FINITE, 0, covariance
        status, iterations = self._optimize(objective, layout)
        variable = objective.optim_vars["scene"].tensor
        poses, params, points = layout.values(variable)
        if self.config.covariance:
            covariance = params_covariance(objective)
        return poses, params, xyz_world.index_copy(0, layout.active, points), status, iterations, covariance

    def _optimize(self, objective: Any, layout: "Layout") -> tuple[SolveStatus, int]:
        import theseus

        from vggsfm_cli.bundle_adjustment.theseus_linear import SparseLevenbergMarquardt

        config = self.config
        optimizer = SparseLevenbergMarquardt(
            objective,
            max_iterations=config.max_iterations,
            abs_err_tolerance=len(layout.rows) * NEGLIGIBLE_RESIDUAL**2,
            rel_err_tolerance=config.cost_tolerance,
        )
        _, info = theseus.TheseusLayer(optimizer, vectorize=False).forward(
            optimizer_kwargs={
                "backward_mode": config.backward if torch.is_grad_enabled() else "unroll",
                "damping": config.initial_damping,
                "adaptive_damping": True,
                "ellipsoidal_damping": True,
            }
        )
        converged = info.status[0] == theseus.NonlinearOptimizerStatus.CONVERGED
        steps = int(info.converged_iter[0]) if converged else config.max_iterations
        return (SolveStatus.COST if converged else SolveStatus.ITERATIONS), steps
