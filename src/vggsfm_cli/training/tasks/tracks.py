"""Training of the track transformer: visibility, covariance and correction of observations.

The tracker searches and aligns with an encoder whose weights are given; its evidence on rendered scenes, beside the
exact truth, is what the transformer learns from. Evidence is gathered once for each example and kept in memory.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vggsfm_cli.evaluation.metrics import inside_ellipse
from vggsfm_cli.scene import CameraPriors, ImageSet, TensorRecord
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.evidence import Evidence, LogOddsConfig, Verdict
from vggsfm_cli.tracking.starts import StartConfig
from vggsfm_cli.tracking.tracker import CoarseToFineTracker, CoarseToFineTrackerConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig
from vggsfm_cli.tracking.xfeat import xfeat_state
from vggsfm_cli.training.data import Example, Pool, PoolConfig
from vggsfm_cli.training.losses import mahalanobis_squared, position_loss, visibility_loss
from vggsfm_cli.training.task import Task, seed_of

INSIDE_50, INSIDE_90 = 1.386, 4.605
"""Squared Mahalanobis distances that hold 50 and 90 % of a 2D Gaussian."""

CALIBRATION_PX = 5.0
"""Errors beyond are outliers that no covariance describes; the evaluation of tracks draws the same line."""

CALIBRATION_EXAMPLES = 20
"""Training examples that the last factor on the covariances is taken from."""


@dataclass(frozen=True, kw_only=True)
class TracksTaskConfig:
    """Settings of the track transformer's training."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    pool_folder: str = "runs"
    model: TrackTransformerConfig = field(default_factory=TrackTransformerConfig)
    start: StartConfig = field(default_factory=StartConfig)  # how the tracker searches
    encoder: str = ""  # file of the trained encoder; empty for XFeat's weights
    groups: int = 8  # query frames in one step
    right_px: float = 1.5  # an observation within so many pixels of the truth is right
    likelihood_px: float = 3.0  # errors beyond count as mistakes, not as noise
    position: float = 0.3  # weight of the likelihood
    validation_examples: int = 20

    def build(self, seed: int, device: torch.device) -> "TracksTask":
        """The task, with a fresh transformer."""
        return TracksTask(self, seed, device)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged(TensorRecord):
    """Evidence on the queries of one frame, and the truth; patches are kept in half precision, they fill the memory."""

    evidence: Evidence
    xy: Float[Tensor, "S Q 2"]
    visible: Bool[Tensor, "S Q"]


class TracksTask(Task):
    """Visibility, correction and covariance by likelihood."""

    def __init__(self, config: TracksTaskConfig, seed: int, device: torch.device) -> None:
        self.config = config
        self.module: nn.Module = config.model.build().to(device)
        self.classical = LogOddsConfig().build()
        tracker = CoarseToFineTracker(CoarseToFineTrackerConfig(start=config.start))
        self.tracker = tracker.eval().requires_grad_(False).to(device)
        if config.encoder:
            state = load_file(config.encoder)
            state = {name.removeprefix("tracker.encoder."): value for name, value in state.items()}
            self.tracker.encoder.load_state_dict(state, strict=True)
        else:
            self.tracker.encoder.net.load_state_dict(xfeat_state(), strict=True)
        folder = Path(config.pool_folder)
        self._training = Pool(config.pool, seed, folder=folder, device=device)
        self._validation = Pool(config.pool, seed + 1, folder=folder, device=device, held_out=True)
        self._kept: dict[tuple[bool, int], list[Judged]] = {}
        self._seed = seed

    def batch(self, step: int) -> list[Judged]:
        """Query frames of one step, drawn over all examples."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, step))
        chosen = []
        for _ in range(self.config.groups):
            number = int(torch.randint(max(self.config.pool.examples, 1), (1,), generator=generator))
            number = number if self.config.pool.examples else step
            judged = self._judged(number, held_out=False)
            chosen.append(judged[int(torch.randint(len(judged), (1,), generator=generator))])
        return chosen

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Mean over the query frames."""
        terms = [self._terms(judged, judge(self.module, judged)) for judged in batch]
        return {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}

    def _terms(self, judged: Judged, verdict: Verdict) -> dict[str, Tensor]:
        error, right, near = self._compare(judged, verdict)
        tried = judged.evidence.tried
        return {
            "visibility": visibility_loss(verdict.logit, right, tried.to(verdict.logit)),
            "position": self.config.position * position_loss(error, verdict.covariance, near.to(verdict.logit)),
        }

    def _compare(self, judged: Judged, verdict: Verdict) -> tuple[Tensor, Tensor, Tensor]:
        """Error of the corrected position, whether the observation is right, whether its error counts as noise."""
        error = judged.xy - (judged.evidence.xy + verdict.move)
        length = error.detach().norm(dim=-1)
        tried = judged.evidence.tried & judged.visible
        return error, tried & (length < self.config.right_px), tried & (length < self.config.likelihood_px)

    def _judged(self, number: int, *, held_out: bool) -> list[Judged]:
        key = (held_out, number)
        if key in self._kept:
            return self._kept[key]
        example = (self._validation if held_out else self._training)[number]
        with torch.no_grad(), one_thread_each():
            judged = gather(self.tracker, example)
        if self.config.pool.examples or held_out:
            self._kept[key] = judged
        return judged

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss, and beside each figure of the transformer that of the classical judge."""
        rows = [
            judged
            for number in range(self.config.validation_examples)
            for judged in self._judged(number, held_out=True)
        ]
        terms = [self._terms(judged, judge(self.module, judged)) for judged in rows]
        loss = sum(float(sum(term.values())) for term in terms) / len(terms)
        return {
            "loss": loss,
            **self._figures(rows, self.module, ""),
            **self._figures(rows, self.classical, "classical "),
        }

    def _figures(self, rows: list[Judged], module: nn.Module, prefix: str) -> dict[str, float]:
        parts = []
        for judged in rows:
            verdict = judge(module, judged)
            error, right, near = self._compare(judged, verdict)
            tried = judged.evidence.tried
            half, most = (inside_ellipse(error, verdict.covariance, share) for share in (0.5, 0.9))
            parts.append([x[tried] for x in (error.norm(dim=-1), right, near, verdict.logit, half, most)])
        error, right, near, logit, half, most = (torch.cat(column) for column in zip(*parts, strict=True))
        believed = logit > 0
        return {
            f"{prefix}precision": float(right[believed].float().mean()),
            f"{prefix}recall": float(believed[right].float().mean()),
            f"{prefix}average precision": average_precision(logit, right),
            f"{prefix}median px": float(error[believed].median()) if bool(believed.any()) else float("nan"),
            f"{prefix}inside 50": float(half[near].float().mean()),
            f"{prefix}inside 90": float(most[near].float().mean()),
        }

    def export(self, folder: Path) -> None:
        """Write ``tracks.safetensors``: the weights under the names the tracker has for them, covariances calibrated.

        Errors have longer tails than a Gaussian, so ellipses hold too much near the middle and too little far out. One
        factor on all covariances, from training examples, shares that out between the two.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.cpu().contiguous() for name, value in self.module.state_dict().items()}
        state["head.bias"] = state["head.bias"] + torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]) * self.calibration()
        save_file({f"tracker.judge.{name}": value for name, value in state.items()}, folder / "tracks.safetensors")

    @torch.no_grad()
    def calibration(self) -> float:
        """Logarithm of the factor on covariances after which the shares in the 50 and 90 % ellipses miss least.

        The errors are those of believed observations in ``CALIBRATION_EXAMPLES`` training examples; what counts is the
        larger of the two misses.
        """
        parts = []
        for number in range(CALIBRATION_EXAMPLES):
            for judged in self._judged(number, held_out=False):
                verdict = judge(self.module, judged)
                error = judged.xy - (judged.evidence.xy + verdict.move)
                noise = error.norm(dim=-1) < CALIBRATION_PX
                counted = judged.evidence.tried & judged.visible & noise & (verdict.logit > 0)
                parts.append(mahalanobis_squared(error, verdict.covariance)[counted])
        squared = torch.cat(parts)
        if len(squared) == 0:  # nothing is believed yet
            return 0.0
        factors = torch.linspace(-6, 6, 601, device=squared.device)
        scaled = squared / factors.exp()[:, None]
        half, most = ((scaled < level).float().mean(1) for level in (INSIDE_50, INSIDE_90))
        return float(factors[torch.maximum((half - 0.5).abs(), (most - 0.9).abs()).argmin()])


def average_precision(logit: Float[Tensor, " K"], right: Bool[Tensor, " K"]) -> float:
    """Area under precision over recall, by rank."""
    hits = right[logit.argsort(descending=True, stable=True)].cpu().double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)
    return float((precision * hits).sum() / hits.sum().clamp(min=1))


def judge(module: nn.Module, judged: Judged) -> Verdict:
    """The verdict of a judge on kept evidence."""
    assert judged.evidence.patches is not None
    evidence = dataclasses.replace(judged.evidence, patches=judged.evidence.patches.float())
    verdict: Verdict = module(evidence)
    return verdict


def gather(tracker: CoarseToFineTracker, example: Example) -> list[Judged]:
    """The tracker's evidence on the queries of every frame of every scene, beside the truth."""
    images = image_set(example)
    features = tracker.encode(images)
    judged = []
    for b in range(len(example.pixels)):
        for source in range(example.pixels.shape[1]):
            chosen = ((example.query_frame[b] == source) & example.valid[b]).nonzero().squeeze(-1)
            if len(chosen) > 1:
                evidence = tracker.gather(images, features, b, source, example.xy[b, source, chosen])
                assert evidence.patches is not None
                evidence = dataclasses.replace(evidence, patches=evidence.patches.half())
                judged.append(
                    Judged(evidence=evidence, xy=example.xy[b][:, chosen], visible=example.visible[b][:, chosen])
                )
    return judged


def image_set(example: Example) -> ImageSet:
    """Rendered pictures as the tracker takes them; network pixels are the pictures' own."""
    scenes, frames, _, height, width = example.pixels.shape
    pixels = example.pixels.float() / 255
    identity = torch.eye(2, 3, device=pixels.device).expand(scenes, frames, 2, 3)
    return ImageSet(
        pixels=pixels,
        mask=torch.ones(scenes, frames, height, width, dtype=torch.bool, device=pixels.device),
        frame_valid=torch.ones(scenes, frames, dtype=torch.bool, device=pixels.device),
        stored_from_network=identity,
        stored_size=torch.tensor([width, height], device=pixels.device).expand(scenes, frames, 2),
        names=(tuple(f"{s:03d}" for s in range(frames)),) * scenes,
        originals=None,
        priors=CameraPriors(
            camera_index=torch.zeros(scenes, frames, dtype=torch.long, device=pixels.device),
            models=("SIMPLE_PINHOLE",),
            params=torch.tensor([[[1.2 * width, width / 2, height / 2]]]).expand(scenes, 1, 3),
            known=torch.zeros(scenes, 1, 3, dtype=torch.bool),
            focal_spread=torch.full((scenes, 1), 0.5),
        ),
    )
