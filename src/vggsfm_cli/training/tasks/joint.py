"""Training of all learned stages together, through the adjustment (Sec. 3.5).

Search and alignment are given; the judge of the tracks, the camera transformer and the triangulation transformer start
from their own trainings. A few steps of bundle adjustment follow, and the loss on what comes out reaches them all by
implicit gradients. With ``joint = false`` the same stages go on learning at the same time, each from its own loss on
detached input, without the adjustment: the comparison that tells what learning together brings.
"""

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vggsfm_cli.bundle_adjustment.problem import RobustLoss
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.transformer import (
    CameraTransformer,
    CameraTransformerConfig,
    views_of,
    with_lenses,
)
from vggsfm_cli.camera_estimation.views import CameraState
from vggsfm_cli.devices import with_float64
from vggsfm_cli.errors import InputError, ReconstructionFailed
from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.geometry import pose, robust
from vggsfm_cli.model import Record, finish_stages
from vggsfm_cli.scene import Cameras, Points, Tracks
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.training.losses import camera_loss, point_loss, position_loss, visibility_loss
from vggsfm_cli.training.stages import StageSample, stage_pool, tracks_of
from vggsfm_cli.training.task import Task, seed_of
from vggsfm_cli.training.tasks.cameras import DISCOUNT, true_log_focal
from vggsfm_cli.training.tracked import TrackedPoolConfig, TrackedScene
from vggsfm_cli.triangulation.transformer import TriangulationTransformer, TriangulationTransformerConfig

POINT_SCALE = 0.002
"""Error of a point, in median depths, at which it counts less than in proportion."""


FARTHEST = 100.0
"""Error of a point, in median depths, beyond which it does not matter how far off it is."""

LONGEST_GRADIENT = 10.0
"""Of what a stage sends back to those before it: near a degenerate view a derivative may be of any length."""


@dataclass(frozen=True, kw_only=True)
class JointTaskConfig:
    """Settings of the joint training."""

    pool: TrackedPoolConfig = field(default_factory=TrackedPoolConfig)
    pool_folder: str = "runs"
    cameras: CameraTransformerConfig = field(default_factory=CameraTransformerConfig)
    points: TriangulationTransformerConfig = field(default_factory=TriangulationTransformerConfig)
    adjuster: SchurConfig = field(default_factory=lambda: SchurConfig(max_iterations=5, backward="implicit"))
    start: tuple[str, ...] = ()  # files of the trained stages; what none brings is fresh
    joint: bool = True
    sizes: tuple[int, ...] = (3, 5)  # numbers of frames
    variants: tuple[int, ...] = (0, 1)  # of these, by their place, are used
    scenes: int = 2  # in one step
    max_error_px: float = 4.0  # of an inlier, pixels of a picture of 1024
    right_px: float = 1.5
    likelihood_px: float = 3.0
    validation_scenes: int = 24

    def build(self, seed: int, device: torch.device) -> "JointTask":
        """The task, its stages as far as they are trained."""
        return JointTask(self, seed, with_float64(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjusted:
    """What the adjustment made of one scene (B = 1)."""

    cameras: Cameras
    points: Points


class JointTask(Task):
    """The losses of all stages, and of the adjusted cameras and points."""

    def __init__(self, config: JointTaskConfig, seed: int, device: torch.device) -> None:
        self.config = config
        folder = Path(config.pool_folder)
        self._training = stage_pool(config.pool, folder, seed, config.sizes, held_out=False)
        self._validation = stage_pool(config.pool, folder, seed, config.sizes, held_out=True)
        self.tracker = copy.deepcopy(self._training.tracker).requires_grad_(False).to(device)
        self.judge = self.tracker.judge.requires_grad_(True)
        self.cameras: CameraTransformer = config.cameras.build().to(device)
        self.points: TriangulationTransformer = config.points.build().to(device)
        self.adjuster = config.adjuster.build()
        self.module = nn.ModuleDict({"judge": self.judge, "cameras": self.cameras, "points": self.points})
        self.examples = config.scenes
        self._device, self._seed = device, seed
        self._read(config.start)

    def _read(self, files: tuple[str, ...]) -> None:
        prefixes = {"tracker.judge.": "judge.", "camera_estimator.": "cameras.", "triangulator.": "points."}
        found = {}
        for file in files:
            for name, value in load_file(file).items():
                for theirs, ours in prefixes.items():
                    if name.startswith(theirs):
                        found[ours + name.removeprefix(theirs)] = value
        unknown = found.keys() - self.module.state_dict().keys()
        if unknown:
            raise InputError(f"{', '.join(files)}: no stage has a parameter {min(unknown)!r}.")
        self.module.load_state_dict({**self.module.state_dict(), **found})

    def batch(self, step: int) -> list[tuple[TrackedScene, StageSample]]:
        """Evidence, and the sample with its preliminary cameras and the truth."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, step))
        chosen = []
        with one_thread_each():
            for _ in range(self.config.scenes):
                place = int(torch.randint(len(self.config.variants), (1,), generator=generator))
                variant = self.config.variants[place]
                number = int(torch.randint(self.config.pool.scenes, (1,), generator=generator))
                scene = self._training.scenes[number].of_frames(self._training.frames(number, variant))
                chosen.append((scene.to(self._device), self._training(number, variant).to(self._device)))
        return chosen

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Mean over the scenes; a term that a scene cannot give is left out of its mean."""
        found: dict[str, list[Tensor]] = {name: [] for name in ("tracks", "cameras", "points", "adjusted")}
        for scene, sample in batch:
            for name, term in self._terms(scene, sample).items():
                found[name].append(term.float())
        nothing = sum(p.sum() for p in self.module.parameters()) * torch.zeros(())
        return {name: torch.stack(terms).mean() if terms else nothing for name, terms in found.items()}

    def _terms(self, scene: TrackedScene, sample: StageSample) -> dict[str, Tensor]:
        joint = self.config.joint
        tracks = tracks_of(self.tracker, scene)
        terms = {"tracks": self._track_loss(scene, tracks, sample)}
        passed = bounded(tracks) if joint else tracks.detach()
        images = sample.images()
        views, state = views_of(images, passed, sample.start)
        states = self.cameras.refine(views, state, sample.thumbnail, images.frame_valid)
        true, focal = sample.cameras.cam_from_world.double(), true_log_focal(sample)
        weights = [DISCOUNT ** (len(states) - 1 - k) for k in range(len(states))]
        each = [camera_loss(one.cam_from_world, true, one.log_focal, focal) for one in states]
        terms["cameras"] = (
            torch.stack(each) * torch.tensor(weights, dtype=true.dtype, device=true.device)
        ).sum() / sum(weights)
        adjusted = self._finish(sample, passed, states[-1])
        if adjusted is None:
            return terms
        # the stage itself learns at the true cameras: wrong ones have no true points
        at_truth = self.points(sample.cameras, passed, self._limit(sample))
        known = (at_truth.valid & sample.points.valid)[0]
        if int(known.sum()) > 1:
            scale = POINT_SCALE * _typical_depth(sample)
            terms["points"] = point_loss(
                at_truth.xyz_world[0, known].double(),
                sample.points.xyz_world[0, known].double(),
                scale.expand(int(known.sum())),
            )
        if joint:
            terms["adjusted"] = self._adjusted_loss(sample, adjusted)
        return terms

    def _track_loss(self, scene: TrackedScene, tracks: Tracks, sample: StageSample) -> Tensor:
        error = scene.true_xy - tracks.xy[0]
        per_frame = scene.query.shape[1]
        tried = scene.tried.transpose(0, 1).reshape(scene.frames, scene.frames * per_frame)
        length = error.detach().norm(dim=-1)
        seen = tried & sample.visible[0]
        right, near = (seen & (length < limit) for limit in (self.config.right_px, self.config.likelihood_px))
        logit = torch.logit(tracks.visibility[0].clamp(1e-6, 1 - 1e-6))
        believed = visibility_loss(logit, right, tried.to(logit))
        return believed + 0.3 * position_loss(error, tracks.covariance[0], near.to(logit))

    def _limit(self, sample: StageSample) -> Float[Tensor, "B S"]:
        return self.config.max_error_px * sample.size.amax(-1).float() / 1024

    def _finish(self, sample: StageSample, tracks: Tracks, last: CameraState) -> Adjusted | None:
        """The later stages; None where there is too little to adjust."""
        images = sample.images()
        cameras = dataclasses.replace(
            sample.start,
            cam_from_world=last.cam_from_world,
            params=with_lenses(images, sample.start, last).double(),
            registered=torch.ones_like(sample.start.registered),
        )
        try:
            found = finish_stages(
                bounded(cameras),
                bounded(tracks),
                self.points,
                self.adjuster,
                images.priors,
                max_error_px=2 * self._limit(sample),
                loss=RobustLoss(kind=robust.Loss.CAUCHY, scale=3.0),
                min_inliers=30,
                between=lambda _, record: bounded(record),
            )
        except ReconstructionFailed:
            return None
        return Adjusted(cameras=found.solution.cameras, points=found.solution.points)

    def _adjusted_loss(self, sample: StageSample, adjusted: Adjusted) -> Tensor:
        true, focal = sample.cameras.cam_from_world.double(), true_log_focal(sample)
        half = (sample.size.amax(-1) / 2).double()
        found = adjusted.cameras.cam_from_world.double()
        log_focal = (adjusted.cameras.frame_params[..., 0].double() / half).clamp(min=1e-3).log()
        loss = camera_loss(found, true, log_focal, focal, degrees=0.5, share=0.02)
        error = adjusted_point_error(sample, adjusted)
        return loss + torch.log1p(error / POINT_SCALE).mean() if len(error) else loss

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The sum of the terms, and figures of adjusted cameras and points: medians and AUC."""
        total, angles, points, areas = [], [], [], []
        for variant in self.config.variants:
            for number in range(self.config.validation_scenes):
                scene = self._validation.scenes[number].of_frames(self._validation.frames(number, variant))
                scene, sample = scene.to(self._device), self._validation(number, variant).to(self._device)
                total.append(float(sum(self._terms(scene, sample).values())))
                errors, error = self.measure(scene, sample)
                angles.append(errors.cpu())
                points.append(error.cpu())
                areas.append(float((1 - errors / 5).clamp(min=0).mean()))
        angle, point = torch.cat(angles), torch.cat(points)
        return {
            "loss": sum(total) / len(total),
            "median deg": float(angle.median()),
            "median point %": 100 * float(point.median()),
            "AUC@5": sum(areas) / len(areas),
        }

    @torch.no_grad()
    def measure(self, scene: TrackedScene, sample: StageSample) -> tuple[Float[Tensor, " P"], Float[Tensor, " K"]]:
        """Pair errors in degrees, and relative errors of the points, of adjusted cameras; as inference would do it."""
        tracks = tracks_of(self.tracker, scene)
        images = sample.images()
        views, state = views_of(images, tracks, sample.start)
        states = self.cameras.refine(views, state, sample.thumbnail, images.frame_valid)
        adjusted = self._finish(sample, tracks, states[-1])
        frames = sample.visible.shape[1]
        if adjusted is None:
            return torch.full((frames * (frames - 1) // 2,), 180.0).double(), torch.zeros(0).double()
        true = sample.cameras.cam_from_world[0].double()
        placed = torch.ones_like(sample.start.registered[0])
        errors = pair_errors(adjusted.cameras.cam_from_world[0].double(), true, placed)
        return errors.worse_deg, adjusted_point_error(sample, adjusted)

    def export(self, folder: Path) -> None:
        """Write ``joint.safetensors``: the weights under the names that a model has for them."""
        prefixes = {"judge.": "tracker.judge.", "cameras.": "camera_estimator.", "points.": "triangulator."}
        state = {}
        for name, value in self.module.state_dict().items():
            start = next(prefix for prefix in prefixes if name.startswith(prefix))
            state[prefixes[start] + name.removeprefix(start)] = value.cpu().contiguous()
        save_file(state, folder / "joint.safetensors")


def bounded(record: Record) -> Record:
    """The same record; a gradient that comes back is finite and no longer than ``LONGEST_GRADIENT``, each tensor's."""

    def bound(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        passed = tensor.clone()
        passed.register_hook(_shortened)
        return passed

    return record._map(bound)


def _shortened(gradient: Tensor) -> Tensor:
    finite = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return finite * (LONGEST_GRADIENT / finite.norm().clamp(min=LONGEST_GRADIENT))


def adjusted_point_error(sample: StageSample, adjusted: Adjusted) -> Float[Tensor, " K"]:
    """Distances of adjusted points to the true ones in the first frame, both scaled to a median depth of one."""
    known = (adjusted.points.valid & sample.points.valid)[0]
    ours = pose.transform(adjusted.cameras.cam_from_world[0, 0].double(), adjusted.points.xyz_world[0].double())
    theirs = pose.transform(sample.cameras.cam_from_world[0, 0].double(), sample.points.xyz_world[0].double())
    ours, theirs = ours[known], theirs[known]
    if len(ours) == 0:
        return ours.new_zeros(0)
    depth, true_depth = ours[:, 2].median().abs().clamp(min=1e-6), theirs[:, 2].median().abs().clamp(min=1e-6)
    error = ((ours / depth - theirs / true_depth).square().sum(-1) + 1e-18).sqrt()
    return torch.where(error.isfinite(), error, torch.full_like(error, FARTHEST)).clamp(max=FARTHEST)


def _typical_depth(sample: StageSample) -> Float[Tensor, ""]:
    seen = pose.transform(sample.cameras.cam_from_world[0, 0].double(), sample.points.xyz_world[0].double())
    return seen[:, 2].abs().median().clamp(min=1e-6)
