"""What search and alignment found out about a track, and the contract of the part that judges it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vggsfm_cli.scene import TensorRecord

CUES = ("correlation", "similarity", "support", "drift", "way_back", "stretch_min", "stretch_max", "spread", "residual")
"""Names of the numbers in ``Evidence.cues``: correlation of the aligned patches; cosine of the descriptors; share of
the neighbours whose starts agree; distance from the start and error after matching back, network pixels; singular
values of the affinity; deviation of the position by curvature and noise, network pixels; brightness that stays
unexplained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence(TensorRecord):
    """What is known of Q queries of one frame in S frames before anyone judges it.

    Attributes:
        query: network pixels in the query frame.
        xy: position found, network pixels.
        affinity: offsets in the query frame to offsets here, network pixels.
        aligned: offsets in pixels of the aligned patches to offsets in stored pixels.
        covariance: of the position by the curvature of the alignment, in squared stored pixels.
        cues: numbers named by ``CUES``.
        patches: template and aligned patch, finest and coarsest level; zero where not tried. None where a judge has
            looked at them.
        looked: what the judge made of the patches; zero where not tried. None where none has looked at them yet.
        tried: whether a start was accepted and aligned, and ended inside the photograph; the rest has no meaning.
        scale: stored pixels per network pixel.
    """

    query: Float[Tensor, "Q 2"]
    xy: Float[Tensor, "S Q 2"]
    affinity: Float[Tensor, "S Q 2 2"]
    aligned: Float[Tensor, "S Q 2 2"]
    covariance: Float[Tensor, "S Q 2 2"]
    cues: Float[Tensor, "S Q K"]
    patches: Float[Tensor, "S Q 4 P"] | None
    looked: Float[Tensor, "S Q D"] | None = None
    tried: Bool[Tensor, "S Q"]
    scale: Float[Tensor, " S"]

    def cue(self, name: str) -> Float[Tensor, "S Q"]:
        """One of the cues."""
        return self.cues[..., CUES.index(name)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict(TensorRecord):
    """What the judge makes of it.

    Attributes:
        logit: log-odds of the point being seen there, at the position found.
        move: correction of the position, stored pixels.
        covariance: squared stored pixels.
    """

    logit: Float[Tensor, "S Q"]
    move: Float[Tensor, "S Q 2"]
    covariance: Float[Tensor, "S Q 2 2"]


class Judge(nn.Module, ABC):
    """Predicts for every observation of the tracks of one frame how likely it is to be correct."""

    def look(self, patches: Float[Tensor, "K 4 P"]) -> Float[Tensor, "K D"]:
        """What the judge needs of K aligned patches, which are large and need not be kept after it; here nothing."""
        return patches.new_zeros(len(patches), 0)

    @abstractmethod
    def forward(self, evidence: Evidence, pairs_at_once: int = 2048) -> Verdict:
        """Judge all queries in all frames; permuting either permutes the verdict.

        Args:
            evidence: on the queries of one frame.
            pairs_at_once: observations computed together; bounds the memory, changes nothing else.
        """


@dataclass(frozen=True, kw_only=True)
class LogOddsConfig:
    """How what the geometric stages say of a match adds up to the log-odds of its being right."""

    correlation: tuple[float, float] = (10.0, 0.8)  # weight and break-even of the patches' correlation
    similarity: tuple[float, float] = (5.0, 0.85)  # of the descriptors' cosine
    support: tuple[float, float] = (4.0, 0.5)  # of the share of neighbours that agree
    drift: tuple[float, float] = (-0.15, 3.0)  # of the distance from the start, network pixels
    max_stretch: float = 3.0  # the affinity may stretch or shrink by so much along any axis
    noise_floor_px: float = 0.05  # the covariance never claims less, network pixels

    def build(self) -> "LogOddsJudge":
        """The judge, which has no parameters."""
        return LogOddsJudge(self)


class LogOddsJudge(Judge):
    """The classical judge: a fixed sum of cues, and the covariance of the alignment's curvature."""

    def __init__(self, config: LogOddsConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, evidence: Evidence, pairs_at_once: int = 2048) -> Verdict:
        """Add up the cues."""
        del pairs_at_once
        config = self.config
        logit = torch.zeros_like(evidence.cue("correlation"))
        for name in ("correlation", "similarity", "support", "drift"):
            weight, even = getattr(config, name)
            logit = logit + weight * (evidence.cue(name) - even)
        folded = (evidence.cue("stretch_max") > config.max_stretch) | (
            evidence.cue("stretch_min") < 1 / config.max_stretch
        )
        floor = (config.noise_floor_px * evidence.scale).square()[:, None, None, None]
        eye = torch.eye(2, dtype=floor.dtype, device=floor.device)
        return Verdict(
            logit=logit.masked_fill(folded, -torch.inf),
            move=torch.zeros_like(evidence.xy),
            covariance=evidence.covariance + floor * eye,
        )
