"""The same problem through pycolmap, that is COLMAP and Ceres: for comparison and large scenes, without gradients.

Exact where pycolmap can express the problem: observations whose covariances are all the same multiple of the identity,
no prior on a focal length that is free, no point with a single observation, and groups of parameters (focal length,
principal point, distortion) that are free for all cameras that are not held as a whole. Everything else is refused, or,
where the configuration allows it, the nearest problem that can be expressed is solved instead.
"""

import dataclasses
import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment import evaluate
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import BundleProblem
from vggsfm_cli.colmap.adjust import Adjusted, AdjustOptions, adjust
from vggsfm_cli.errors import UsageError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.scene import Cameras, Points, Reconstruction
from vggsfm_cli.threads import available_cores

logger = logging.getLogger(__name__)

SAME = 1e-5
"""Relative difference up to which two covariances are the same; they may come in single precision."""

STATUS = {
    "gradient": SolveStatus.GRADIENT,
    "cost": SolveStatus.COST,
    "iterations": SolveStatus.ITERATIONS,
    "failure": SolveStatus.NO_STEP,
}


LOSSES: dict[Loss, Literal["none", "huber", "cauchy"]] = {
    Loss.NONE: "none",
    Loss.HUBER: "huber",
    Loss.CAUCHY: "cauchy",
}

GROUPS = {
    "focal length": camera_models.focal_indices,
    "principal point": camera_models.principal_point_indices,
    "distortion": camera_models.distortion_indices,
}


@dataclass(frozen=True, kw_only=True)
class CeresConfig:
    """Settings of the solver.

    With ``approximate``, a problem that pycolmap cannot express is replaced by the nearest one: all observations get
    one variance, the median of theirs; priors on focal lengths and points seen once are left out; a group of parameters
    that is held for one camera is held for all. A result that costs more than the start, by the problem as it was
    given, is not taken.
    """

    max_iterations: int = 30
    cost_tolerance: float = 1e-6  # relative fall of the cost below which it has converged
    covariance: bool = False  # also give the posterior covariance of the camera parameters
    approximate: bool = False  # solve the nearest problem where pycolmap cannot express the given one

    def build(self) -> "CeresAdjuster":
        """The solver."""
        return CeresAdjuster(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solved:
    """The end of one scene, on the CPU."""

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]
    status: SolveStatus
    iterations: int = 0
    params_covariance: Float[Tensor, "C P P"] | None = None


class CeresAdjuster(BundleAdjuster):
    """Levenberg-Marquardt of Ceres with COLMAP's cost functions, on the CPU."""

    differentiable: ClassVar[bool] = False

    def __init__(self, config: CeresConfig) -> None:
        """Keep the settings; there are no weights."""
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, problem: BundleProblem) -> Solution:
        """Solve every scene of the problem; scenes do not influence each other.

        The covariance of the parameters is None where Ceres finds it singular.

        Raises:
            UsageError: pycolmap cannot express the problem, and ``approximate`` is not set.
        """
        initial = evaluate.cost(problem, problem.cameras, problem.points)
        solved = [self._solve_scene(problem, b, bool(initial[b].isfinite())) for b in range(len(initial))]
        # COLMAP lets points behind cameras cost nothing, and an approximation has its minimum elsewhere
        worse = (~(evaluate.cost(problem, *_joined(problem, solved)) <= initial)).tolist()
        solved = [
            _start(problem, b, SolveStatus.NO_STEP) if bad and solved[b].status.converged else solved[b]
            for b, bad in enumerate(worse)
        ]
        cameras, points = _joined(problem, solved)
        final = evaluate.cost(problem, cameras, points)
        covariances = [one.params_covariance for one in solved if one.params_covariance is not None]
        covariance = None
        if self.config.covariance and len(covariances) == len(solved):
            covariance = torch.stack(covariances).to(final) * 2 * final[:, None, None, None]
        return Solution(
            cameras=cameras,
            points=points,
            status=tuple(one.status for one in solved),
            cost_initial=initial,
            cost_final=final,
            iterations=tuple(one.iterations for one in solved),
            params_covariance=covariance,
        )

    def _solve_scene(self, problem: BundleProblem, b: int, finite: bool) -> _Solved:
        scene = _Scene(problem, b)
        if scene.empty:
            return _start(problem, b, SolveStatus.EMPTY)
        if not finite:
            return _start(problem, b, SolveStatus.NOT_FINITE)
        options, deviation_px = scene.options(self.config)
        found = adjust(scene.reconstruction, options)
        if found.outcome == "failure":
            return _start(problem, b, SolveStatus.NO_STEP)
        return _Solved(
            cam_from_world=found.cam_from_world,
            params=found.params,
            xyz_world=found.xyz_world,
            status=STATUS[found.outcome],
            iterations=found.iterations,
            params_covariance=scene.spread(found, options, deviation_px),
        )


def _start(problem: BundleProblem, b: int, status: SolveStatus) -> _Solved:
    params = problem.cameras.params[b].cpu().double()
    return _Solved(
        cam_from_world=problem.cameras.cam_from_world[b].cpu().double(),
        params=params,
        xyz_world=problem.points.xyz_world[b].cpu().double(),
        status=status,
        params_covariance=params.new_zeros(*params.shape, params.shape[-1]),
    )


def _joined(problem: BundleProblem, solved: list[_Solved]) -> tuple[Cameras, Points]:
    device = problem.xy.device
    cameras = dataclasses.replace(
        problem.cameras,
        cam_from_world=torch.stack([one.cam_from_world for one in solved]).to(device),
        params=torch.stack([one.params for one in solved]).to(device),
    )
    xyz_world = torch.stack([one.xyz_world for one in solved]).to(device)
    return cameras, dataclasses.replace(problem.points, xyz_world=xyz_world)


class _Scene:
    """One scene of a problem, and what of it pycolmap can be told."""

    def __init__(self, problem: BundleProblem, b: int) -> None:
        cameras, count = problem.cameras, problem.points.xyz_world.shape[1]
        frames = cameras.camera_index.shape[1]
        rows = (torch.div(problem.frame, frames, rounding_mode="floor") == b).nonzero().flatten()
        self.problem, self.b = problem, b
        views = torch.bincount(problem.point[rows])[problem.point[rows]]
        self.lonely = int((views == 1).sum())
        rows = rows[views > 1]
        self.whitening = problem.whitening[rows]
        self.reconstruction = _reconstruction(
            cameras.scene(b),
            problem.points.xyz_world[b],
            problem.frame[rows] - b * frames,
            problem.point[rows] - b * count,
            problem.xy[rows],
        )
        self.frames = self.reconstruction.frame.unique().tolist()
        self.cameras = cameras.camera_index[b].cpu()[self.frames].unique().tolist()
        self.pose_free = problem.pose_free[b].cpu()
        self.params_free = problem.params_free[b].cpu()
        moves = problem.points_free or bool(self.pose_free[self.frames].any())
        self.empty = len(rows) + self.lonely == 0 or not (moves or bool(self.params_free[self.cameras].any()))

    def options(self, config: CeresConfig) -> tuple[AdjustOptions, float]:
        """What to tell pycolmap, and the standard deviation of the observations in pixels."""
        self._refuse_unknown(config)
        deviation = self._deviation_px(config)
        held_cameras = {c for c in self.cameras if not bool(self.params_free[c].any())}
        moving = [c for c in self.cameras if c not in held_cameras]
        free = {group: self._group_free(group, moving, config) for group in GROUPS}
        held_frames = {s for s in self.frames if not bool(self.pose_free[s].any())}
        options = AdjustOptions(
            held_frames=frozenset(held_frames),
            held_cameras=frozenset(held_cameras),
            poses=len(held_frames) < len(self.frames),
            points=self.problem.points_free,
            focal=free["focal length"],
            principal_point=free["principal point"],
            distortion=free["distortion"],
            fix_scale=self._fixes_scale(held_frames),
            loss=LOSSES[self.problem.loss.kind],
            loss_scale_px=self.problem.loss.scale * deviation,
            max_iterations=config.max_iterations,
            cost_tolerance=config.cost_tolerance,
            threads=available_cores(),
            covariance=config.covariance,
        )
        return options, deviation

    def _refuse_unknown(self, config: CeresConfig) -> None:
        """What pycolmap has no word for at all."""
        if self.problem.loss.kind not in LOSSES:
            raise UsageError(
                f"The adjuster 'ceres' does not know the loss {self.problem.loss.kind.value!r}.",
                f"Use {', '.join(kind.value for kind in LOSSES)}, or the adjuster schur or theseus.",
            )
        if self.lonely:
            _cannot(config, "points with a single observation", f"{self.lonely} of them are left out")
        models = self.problem.cameras.models
        prior = self.problem.log_focal_spread[self.b].isfinite().cpu()
        focal = [bool(self.params_free[c, list(camera_models.focal_indices(models[c]))].any()) for c in self.cameras]
        if any(free and bool(prior[c]) for c, free in zip(self.cameras, focal, strict=True)):
            _cannot(config, "a prior on a focal length that is free", "it is left out")

    def _deviation_px(self, config: CeresConfig) -> float:
        """Standard deviation of all observations, or the median of theirs."""
        each = torch.linalg.det(self.whitening).rsqrt()
        middle = float(each.median())
        eye = torch.eye(2, dtype=each.dtype, device=each.device)
        if bool(((self.whitening * middle - eye).abs() > SAME).any()):
            _cannot(config, "observations with different covariances", f"all deviate by {middle:.2f} px")
        return middle

    def _group_free(self, group: str, moving: list[int], config: CeresConfig) -> bool:
        """Whether a group of parameters is free for all cameras that have it."""
        models = self.problem.cameras.models
        states = [self.params_free[c, list(GROUPS[group](models[c]))] for c in moving]
        flat = torch.cat(states) if states else torch.zeros(0, dtype=torch.bool)
        if bool(flat.any()) and not bool(flat.all()):
            _cannot(config, f"a {group} that is free in part only", "it is held for all cameras")
        return bool(flat.all()) and len(flat) > 0

    def _fixes_scale(self, held_frames: set[int]) -> bool:
        """Whether one coordinate of one frame is held, to fix the scale beside one frame that is held."""
        partly = [s for s in self.frames if s not in held_frames and not bool(self.pose_free[s].all())]
        if not partly:
            return False
        if len(partly) > 1 or int((~self.pose_free[partly[0]]).sum()) > 1 or len(held_frames) != 1:
            raise UsageError(
                "The adjuster 'ceres' cannot hold single coordinates of poses.", "Use the adjuster schur or theseus."
            )
        return True

    def spread(self, found: Adjusted, options: AdjustOptions, deviation_px: float) -> Float[Tensor, "C P P"] | None:
        """The covariance of the parameters for a cost of one half."""
        if found.params_covariance is None:
            return None
        unknowns = int(self.pose_free[self.frames].sum()) if options.poses else 0
        unknowns += 3 * len(self.reconstruction.point.unique()) if options.points else 0
        models = self.problem.cameras.models
        unknowns += sum(len(options.refined_indices(models[c])) for c in self.cameras if c not in options.held_cameras)
        return found.params_covariance * deviation_px**2 / max(2 * len(self.whitening) - unknowns, 1)


def _reconstruction(
    cameras: Cameras,
    xyz_world: Float[Tensor, "N 3"],
    frame: Int[Tensor, " m"],
    point: Int[Tensor, " m"],
    xy: Float[Tensor, "m 2"],
) -> Reconstruction:
    """One scene without what its cost does not depend on: names, sizes and colours mean nothing here."""
    frames = cameras.camera_index.shape[1]
    return Reconstruction(
        cameras=cameras.to("cpu"),
        names=tuple(str(s) for s in range(frames)),
        sizes=torch.ones(frames, 2, dtype=torch.long),
        xyz_world=xyz_world.cpu(),
        color=torch.zeros(len(xyz_world), 3),
        error_px=torch.zeros(len(xyz_world)),
        frame=frame.cpu(),
        point=point.cpu(),
        xy=xy.cpu(),
    )


def _cannot(config: CeresConfig, what: str, instead: str) -> None:
    if not config.approximate:
        raise UsageError(
            f"The adjuster 'ceres' cannot take {what}: pycolmap has no way to say so.",
            "Use the adjuster schur or theseus, which solve the problem as it is.",
        )
    logger.info("ceres cannot take %s: %s", what, instead)
