"""Training of the camera transformer: from preliminary cameras of the tracker's own tracks to the true ones."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from vggsfm_cli.camera_estimation import CameraState, CameraTransformer, CameraTransformerConfig, views_of
from vggsfm_cli.devices import with_float64
from vggsfm_cli.evaluation.poses import auc_max, pair_errors
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.training.losses import camera_loss
from vggsfm_cli.training.stages import StageSample, stack, stage_pool
from vggsfm_cli.training.task import Task, seed_of
from vggsfm_cli.training.tracked import TrackedPoolConfig

DISCOUNT = 0.8
"""Weight of a round's cameras against the next one's."""


@dataclass(frozen=True, kw_only=True)
class CamerasTaskConfig:
    """Settings of the camera transformer's training."""

    pool: TrackedPoolConfig = field(default_factory=TrackedPoolConfig)
    pool_folder: str = "runs"
    model: CameraTransformerConfig = field(default_factory=CameraTransformerConfig)
    sizes: tuple[int, ...] = (3, 5, 8)  # numbers of frames
    scenes: int = 8  # in one step
    disturbed: float = 0.3  # share of the samples whose preliminary cameras are made worse
    validation_scenes: int = 48

    def build(self, seed: int, device: torch.device) -> "CamerasTask":
        """The task, with a fresh transformer."""
        return CamerasTask(self, seed, with_float64(device))


class CamerasTask(Task):
    """Errors of all pairs of cameras after every round."""

    def __init__(self, config: CamerasTaskConfig, seed: int, device: torch.device) -> None:
        self.config = config
        self.transformer: CameraTransformer = config.model.build().to(device)
        self.module: nn.Module = self.transformer
        self.examples = config.scenes
        self._device, self._seed = device, seed
        folder = Path(config.pool_folder)
        self._training = stage_pool(config.pool, folder, seed, config.sizes, held_out=False)
        self._validation = stage_pool(config.pool, folder, seed, config.sizes, held_out=True)

    def batch(self, step: int) -> StageSample:
        """Scenes of equally many frames."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, step))
        variant = int(torch.randint(len(self.config.sizes), (1,), generator=generator))
        numbers = torch.randint(self.config.pool.scenes, (self.config.scenes,), generator=generator).tolist()
        with one_thread_each():
            batch = stack([self._training(number, variant) for number in numbers])
        return disturbed(batch, self.config.disturbed, generator).to(self._device)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Discounted over the rounds."""
        states = run(self.transformer, batch)
        true = batch.cameras.cam_from_world.double()
        focal = true_log_focal(batch)
        total = torch.zeros((), dtype=torch.float64, device=true.device)
        weights = [DISCOUNT ** (len(states) - 1 - k) for k in range(len(states))]
        for state, weight in zip(states, weights, strict=True):
            total = total + weight * camera_loss(state.cam_from_world, true, state.log_focal, focal)
        return {"cameras": (total / sum(weights)).float()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss of the last round, and the pairs' AUC before and after, for each number of frames."""
        figures: dict[str, float] = {}
        losses = []
        for variant, size in enumerate(self.config.sizes):
            before, after = [], []
            for number in range(self.config.validation_scenes):
                sample = self._validation(number, variant).to(self._device)
                state = run(self.transformer, sample)[-1]
                true = sample.cameras.cam_from_world.double()
                losses.append(float(camera_loss(state.cam_from_world, true, state.log_focal, true_log_focal(sample))))
                placed = torch.ones_like(sample.start.registered[0])
                start = sample.start.cam_from_world[0].double()
                before.append(auc_max(pair_errors(start, true[0], sample.start.registered[0]), 10))
                after.append(auc_max(pair_errors(state.cam_from_world[0], true[0], placed), 10))
            figures[f"preliminary AUC@10 of {size}"] = sum(before) / len(before)
            figures[f"AUC@10 of {size}"] = sum(after) / len(after)
        return {"loss": sum(losses) / len(losses), **figures}

    def export(self, folder: Path) -> None:
        """Write ``cameras.safetensors``: the weights under the names that a model has for them."""
        state = {f"camera_estimator.{name}": value.cpu() for name, value in self.module.state_dict().items()}
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "cameras.safetensors")


def run(transformer: CameraTransformer, sample: StageSample) -> list[CameraState]:
    """The cameras of a batch after every round."""
    images = sample.images()
    views, state = views_of(images, sample.tracks, sample.start)
    return transformer.refine(views, state, sample.thumbnail, images.frame_valid)


def true_log_focal(sample: StageSample) -> Float[Tensor, "B S"]:
    """In half long sides."""
    return (sample.cameras.frame_params[..., 0].double() / (sample.size.amax(-1) / 2)).log()


def disturbed(batch: StageSample, share: float, generator: torch.Generator) -> StageSample:
    """Some scenes with preliminary cameras that are turned, moved and of other focal lengths."""
    start = batch.start
    scenes, frames = start.registered.shape
    chosen = (torch.rand(scenes, generator=generator) < share).float()
    strength = chosen * torch.rand(scenes, generator=generator)
    turn = 0.3 * strength[:, None, None] * torch.randn(scenes, frames, 3, generator=generator)
    spread = start.cam_from_world[..., 3].norm(dim=-1).mean(-1)[:, None, None]
    shift = 0.3 * strength[:, None, None] * spread * torch.randn(scenes, frames, 3, generator=generator)
    zoom = (0.4 * strength[:, None] * torch.randn(scenes, start.params.shape[1], generator=generator)).exp()
    update = torch.cat([rotation.exp(turn), shift[..., None]], -1).to(start.cam_from_world)
    params = start.params.clone()
    params[..., 0] = params[..., 0] * zoom.to(params)
    moved = dataclasses.replace(start, cam_from_world=pose.compose(update, start.cam_from_world), params=params)
    return dataclasses.replace(batch, start=moved)
