"""Training of the dense encoder: descriptors that find their point again from another view.

The encoder starts from XFeat's weights and stays near them by distillation on photographs and renders alike; what it
learns anew is correspondence under wide changes of view. Its keypoint head is XFeat's and is not trained.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.tracking.features import STRIDE, DenseEncoder
from vggsfm_cli.tracking.xfeat import xfeat_state
from vggsfm_cli.training.data import Example, Pool, PoolConfig
from vggsfm_cli.training.losses import distillation_loss, reliability_loss, start_loss
from vggsfm_cli.training.task import Task


@dataclass(frozen=True, kw_only=True)
class EncoderTaskConfig:
    """Settings of the encoder's training."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    pool_folder: str = "runs"  # where kept examples lie
    temperature: float = 0.05
    distillation: float = 0.5  # weight of staying near XFeat
    reliability: float = 0.1  # weight of the reliability head
    validation_examples: int = 12

    def build(self, seed: int, device: torch.device) -> "EncoderTask":
        """The task, its encoder at XFeat's weights."""
        return EncoderTask(self, seed, device)


class EncoderTask(Task):
    """Descriptors by correspondence (the search of ``tracking.starts``), kept near their teacher."""

    def __init__(self, config: EncoderTaskConfig, seed: int, device: torch.device) -> None:
        self.config = config
        encoder = DenseEncoder()
        encoder.net.load_state_dict(xfeat_state(), strict=True)
        self.teacher = copy.deepcopy(encoder).eval().requires_grad_(False).to(device)
        # statistics of the normalisation stay XFeat's: batches of renders are no sample of the world's photographs
        self.module: nn.Module = encoder.eval().to(device)
        for parameter in encoder.net.keypoint_head.parameters():
            parameter.requires_grad_(False)
        folder = Path(config.pool_folder)
        self._training = Pool(config.pool, seed, folder=folder, device=device)
        self._validation = Pool(config.pool, seed + 1, folder=folder, device=device, held_out=True)

    def batch(self, step: int) -> Example:
        """Scenes of one step."""
        return self._training[step]

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Correspondence in both directions between all frames, distillation, reliability."""
        example: Example = batch
        found = self._measure(example)
        return {
            "start": found["start"],
            "distillation": self.config.distillation * found["distillation"],
            "reliability": self.config.reliability * found["reliability"],
        }

    def _measure(self, example: Example) -> dict[str, Tensor]:
        assert isinstance(self.module, DenseEncoder)
        scenes, frames = example.pixels.shape[:2]
        pixels = example.pixels.flatten(0, 1).float() / 255
        mask = torch.ones_like(pixels[:, 0], dtype=torch.bool)
        maps, _, reliability = self.module.dense(pixels, mask)
        with torch.no_grad():
            taught = self.teacher.dense(pixels, mask)[0]
        # every query in its own frame, looked for in every other frame of its scene
        b = torch.arange(scenes, device=pixels.device)[:, None]
        home = (b * frames + example.query_frame).flatten()
        own = example.xy.gather(1, example.query_frame[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
        descriptors, certainty = self._at_queries(maps, reliability, home, own)
        losses, hits, weights = [], [], []
        for s in range(frames):
            weight = (example.visible[:, s] & example.valid & (example.query_frame != s)).to(pixels.dtype)
            target = maps.unflatten(0, (scenes, frames))[:, s]
            loss, hit = start_loss(
                descriptors.unflatten(0, (scenes, -1)),
                target,
                example.xy[:, s] / STRIDE,
                weight,
                self.config.temperature,
            )
            losses.append(loss)
            hits.append(hit)
            weights.append(weight)
        hit, weight = torch.stack(hits), torch.stack(weights)
        return {
            "start": torch.stack(losses).mean(),
            "distillation": distillation_loss(maps, taught),
            "reliability": reliability_loss(
                certainty.unflatten(0, (scenes, -1)).expand(frames, -1, -1).flatten(0, 1),
                hit.flatten(0, 1),
                weight.flatten(0, 1),
            ),
            "found": (hit * weight).sum() / weight.sum().clamp(min=1),
        }

    @staticmethod
    def _at_queries(maps: Tensor, reliability: Tensor, home: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptor and reliability of every query, read from its own frame; ``[B * N, ...]``."""
        both = torch.cat([maps, reliability], 1)
        flat = own.flatten(0, 1) / STRIDE
        values = flat.new_zeros(len(flat), both.shape[1])
        for frame in home.unique().tolist():
            chosen = (home == frame).nonzero().squeeze(-1)
            values = values.index_put((chosen,), sample(both[frame, None], flat[None, chosen])[0].to(values.dtype))
        return functional.normalize(values[:, :-1], dim=-1), values[:, -1]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, share of starts found, and cosine to the teacher, on scenes of held-out textures."""
        totals: dict[str, float] = {}
        for number in range(self.config.validation_examples):
            for name, value in self._measure(self._validation[number]).items():
                totals[name] = totals.get(name, 0.0) + float(value) / self.config.validation_examples
        return {"loss": totals["start"], **totals}

    def export(self, folder: Path) -> None:
        """Write ``encoder.safetensors``: the weights under the names the tracker has for them."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            f"tracker.encoder.{name}": value.cpu().contiguous() for name, value in self.module.state_dict().items()
        }
        save_file(state, folder / "encoder.safetensors")
