"""Training of the triangulation transformer: true points from the tracker's own tracks and nearly true cameras."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from vggsfm_cli.devices import with_float64
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.scene import Cameras, Tracks
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.training.losses import point_loss
from vggsfm_cli.training.stages import StageSample, stage_pool
from vggsfm_cli.training.task import Task, seed_of
from vggsfm_cli.training.tracked import TrackedPoolConfig
from vggsfm_cli.triangulation import (
    Fitted,
    TriangulationTransformer,
    TriangulationTransformerConfig,
    depth_deviation,
    fit,
)


@dataclass(frozen=True, kw_only=True)
class PointsTaskConfig:
    """Settings of the triangulation transformer's training."""

    pool: TrackedPoolConfig = field(default_factory=TrackedPoolConfig)
    pool_folder: str = "runs"
    model: TriangulationTransformerConfig = field(default_factory=TriangulationTransformerConfig)
    sizes: tuple[int, ...] = (3, 5, 8)  # numbers of frames
    scenes: int = 6  # in one step
    disturbed: float = 0.5  # share of the scenes whose cameras are a little wrong
    turn_deg: float = 0.1  # deviation of their rotations
    max_error_px: float = 4.0  # of an inlier, pixels of a picture of 1024
    validation_scenes: int = 48

    def build(self, seed: int, device: torch.device) -> "PointsTask":
        """The task, with a fresh transformer."""
        return PointsTask(self, seed, with_float64(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedScene:
    """The tracks of one scene that have a point, fitted by DLT, and where the points are in truth."""

    cameras: Cameras
    tracks: Tracks
    fitted: Fitted
    true: Float[Tensor, "N 3"]


class PointsTask(Task):
    """Distance to the true point, in deviations of the fit."""

    def __init__(self, config: PointsTaskConfig, seed: int, device: torch.device) -> None:
        self.config = config
        self.transformer: TriangulationTransformer = config.model.build().to(device)
        self.module: nn.Module = self.transformer
        self.examples = config.scenes
        self._device, self._seed = device, seed
        folder = Path(config.pool_folder)
        self._training = stage_pool(config.pool, folder, seed, config.sizes, held_out=False)
        self._validation = stage_pool(config.pool, folder, seed, config.sizes, held_out=True)

    def batch(self, step: int) -> list[FittedScene]:
        """Scenes of any number of frames, triangulated."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, step))
        scenes = []
        with one_thread_each(), torch.no_grad():
            for _ in range(self.config.scenes):
                variant = int(torch.randint(len(self.config.sizes), (1,), generator=generator))
                number = int(torch.randint(self.config.pool.scenes, (1,), generator=generator))
                sample = self._training(number, variant).to(self._device)
                wrong = float(torch.rand((), generator=generator)) < self.config.disturbed
                cameras = sample.cameras
                if wrong:
                    cameras = shaken(cameras, self.config.turn_deg, generator)
                scenes.append(self.prepare(sample, cameras))
        return scenes

    def prepare(self, sample: StageSample, cameras: Cameras) -> FittedScene:
        """Triangulate and fit one sample (B = 1) with the given cameras."""
        return prepare(self.transformer, sample, cameras, self.config.max_error_px)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Mean over all points."""
        terms = []
        for scene in batch:
            if len(scene.true) > 1:
                moved = self.transformer.correct(scene.cameras, scene.tracks, scene.fitted)
                terms.append(point_loss(moved, scene.true, depth_deviation(scene.cameras, scene.tracks, scene.fitted)))
        if not terms:
            return {"points": sum(p.sum() for p in self.module.parameters()) * torch.zeros(())}
        return {"points": torch.stack(terms).mean().float()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss, and beside the errors of the points those of the fit alone: in percent of the depth."""
        losses, before, after = [], [], []
        for variant in range(len(self.config.sizes)):
            for number in range(self.config.validation_scenes):
                sample = self._validation(number, variant).to(self._device)
                scene = self.prepare(sample, sample.cameras)
                if len(scene.true) < 2:  # noqa: PLR2004
                    continue
                moved = self.transformer.correct(scene.cameras, scene.tracks, scene.fitted)
                deviation = depth_deviation(scene.cameras, scene.tracks, scene.fitted)
                losses.append(float(point_loss(moved, scene.true, deviation)))
                before.append(relative_error(scene, scene.fitted.xyz))
                after.append(relative_error(scene, moved))
        figures = {"loss": sum(losses) / len(losses)}
        for name, parts in (("DLT ", before), ("", after)):
            error = torch.cat(parts)
            figures[f"{name}median %"] = 100 * float(error.median())
            figures[f"{name}mean of the best 95 %"] = 100 * float(error.sort().values[: int(0.95 * len(error))].mean())
        return figures

    def export(self, folder: Path) -> None:
        """Write ``points.safetensors``: the weights under the names that a model has for them."""
        state = {f"triangulator.{name}": value.cpu() for name, value in self.module.state_dict().items()}
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "points.safetensors")


def prepare(
    transformer: TriangulationTransformer, sample: StageSample, cameras: Cameras, max_error_px: float
) -> FittedScene:
    """Points of one sample (B = 1) by RANSAC, fitted to their inliers; the threshold is for a picture of 1024."""
    limit = max_error_px * sample.size.amax(-1).to(cameras.cam_from_world) / 1024
    found = transformer.ransac(cameras, sample.tracks, limit)
    inliers = transformer.ransac.inliers(cameras, found, sample.tracks, limit)[0].mT
    chosen = (found.valid[0] & sample.points.valid[0]).nonzero().flatten()
    tracks = sample.tracks.some(chosen)
    fitted = fit(cameras, tracks, found.xyz_world[0, chosen].double(), inliers[chosen])
    return FittedScene(cameras=cameras, tracks=tracks, fitted=fitted, true=sample.points.xyz_world[0, chosen].double())


def shaken(cameras: Cameras, turn_deg: float, generator: torch.Generator) -> Cameras:
    """Cameras that are a little wrong: turned, and moved by as much as that turns the scene's middle."""
    shape = cameras.registered.shape
    angle = torch.deg2rad(torch.tensor(turn_deg))
    turn = rotation.exp(angle * torch.randn(*shape, 3, generator=generator))
    spread = cameras.centers[0].std(0).norm()
    shift = angle * spread * torch.randn(*shape, 3, generator=generator)
    update = torch.cat([turn, shift[..., None]], -1).to(cameras.cam_from_world)
    return dataclasses.replace(cameras, cam_from_world=pose.compose(update, cameras.cam_from_world))


def relative_error(scene: FittedScene, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    """Distance to the true points over their distance from the query frame's camera."""
    center = scene.cameras.centers[0].double()[scene.tracks.query_frame[0]]
    return (xyz - scene.true).norm(dim=-1) / (scene.true - center).norm(dim=-1)
