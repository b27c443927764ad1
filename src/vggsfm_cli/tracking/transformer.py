"""The learned judge: a transformer over the frames of each track and over neighbouring tracks of each frame.

VGGSfM's tracker (arXiv 2312.04563, Sec. 3.1) ends with a transformer that refines positions and predicts visibility
and confidence. Here it looks at what search and alignment found: the aligned patches at two scales and the cues. It
answers with a correction below the pixel, the log-odds of visibility, and a 2 x 2 covariance trained by likelihood.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vggsfm_cli.nn.attention import Attention, Feedforward
from vggsfm_cli.tracking.evidence import CUES, Evidence, Judge, Verdict
from vggsfm_cli.tracking.starts import nearest

COVARIANCE_FLOOR_PX = 0.01
"""Deviation below which no position is claimed to be known, pixels of the aligned patch."""


@dataclass(frozen=True, kw_only=True)
class TrackTransformerConfig:
    """Size of the transformer."""

    width: int = 64
    heads: int = 4
    blocks: int = 2
    neighbours: int = 12  # tracks of the same frame that a track looks at
    max_move_px: float = 2.0  # longest correction, pixels of the aligned patch
    patch_side: int = 15

    def build(self) -> "TrackTransformer":
        """The transformer, with weights still to be loaded."""
        return TrackTransformer(self)


class PatchEncoder(nn.Module):
    """One token from a template and its aligned patch, at two scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(48 * 16, width),
        )

    def forward(self, patches: Float[Tensor, "K 4 P"], side: int) -> Float[Tensor, "K D"]:
        """Encode K pairs; each pair is brought to the template's mean and deviation, so exposure does not count."""
        pairs = patches.unflatten(1, (2, 2))
        centred = pairs - pairs.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt()
        pairs = (centred / (deviation + 0.01)).clamp(-4, 4)
        difference = pairs[:, :, 1] - pairs[:, :, 0]
        channels = torch.cat([pairs.flatten(1, 2), difference], 1).unflatten(-1, (side, side))
        token: Tensor = self.layers(channels)
        return token


class Block(nn.Module):
    """Attention over the frames of a track, attention over a track's neighbours, and two layers for each token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.frame_norm = nn.LayerNorm(width)
        self.frames = Attention(width, heads)
        self.track_norm = nn.LayerNorm(width)
        self.tracks = Attention(width, heads)
        self.relation = nn.Linear(4, width)
        self.feedforward = Feedforward(width)

    def forward(
        self,
        tokens: Float[Tensor, "S Q D"],
        tried: Float[Tensor, "S Q"],
        neighbours: Int[Tensor, "Q k"],
        relation: Float[Tensor, "S Q k 4"],
        pairs_at_once: int = 2048,
    ) -> Float[Tensor, "S Q D"]:
        """Update the tokens; only observations that were tried are attended to."""
        keep = tried > 0
        by_track, by_frame = (max(1, pairs_at_once // max(1, count)) for count in tokens.shape[:2])
        tracks = zip(tokens.split(by_track, 1), keep.split(by_track, 1), strict=True)
        tokens = torch.cat([self._over_frames(*part) for part in tracks], 1)
        own = self.track_norm(tokens)
        frames = zip(
            tokens.split(by_frame), own.split(by_frame), relation.split(by_frame), keep.split(by_frame), strict=True
        )
        return torch.cat([self._over_tracks(*part, neighbours) for part in frames])

    def _over_frames(self, tokens: Float[Tensor, "S q D"], keep: Bool[Tensor, "S q"]) -> Float[Tensor, "S q D"]:
        """Some of the tracks, each looking at itself in all frames."""
        across = self.frame_norm(tokens).transpose(0, 1)
        said: Tensor = self.frames(across, across, keep.T)
        return tokens + said.transpose(0, 1)

    def _over_tracks(
        self,
        tokens: Float[Tensor, "s Q D"],
        own: Float[Tensor, "s Q D"],
        relation: Float[Tensor, "s Q k 4"],
        keep: Bool[Tensor, "s Q"],
        neighbours: Int[Tensor, "Q k"],
    ) -> Float[Tensor, "s Q D"]:
        """All tracks in some of the frames, each looking at its neighbours there."""
        beside = own[:, neighbours] + self.relation(relation)
        tokens = tokens + self.tracks(own[:, :, None], beside, keep[:, neighbours])[:, :, 0]
        out: Tensor = tokens + self.feedforward(tokens)
        return out


class TrackTransformer(Judge):
    """Predicts correction, visibility and covariance of observations (VGGSfM, Sec. 3.1)."""

    def __init__(self, config: TrackTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = PatchEncoder(config.width)
        self.cues = nn.Linear(len(CUES), config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 5)  # log-odds, correction (2), logarithms of two variances

    def look(self, patches: Float[Tensor, "K 4 P"]) -> Float[Tensor, "K D"]:
        """One token from each patch."""
        token: Tensor = self.patches(patches, self.config.patch_side)
        return token

    def forward(self, evidence: Evidence, pairs_at_once: int = 2048) -> Verdict:
        """Judge all queries in all frames."""
        tried = evidence.tried
        looked = self._looked(evidence, pairs_at_once) + self.cues(_features(evidence)[tried])
        tokens = looked.new_zeros(*tried.shape, self.config.width)
        tokens = tokens.index_put(tried.nonzero(as_tuple=True), looked)
        neighbours = nearest(evidence.query, self.config.neighbours)
        relation = _relation(evidence, neighbours)
        for block in self.blocks:
            tokens = block(tokens, tried.to(tokens.dtype), neighbours, relation, pairs_at_once)
        logit, move, variance = self.head(self.norm(tokens)).split((1, 2, 2), -1)
        move = self.config.max_move_px * torch.tanh(move / self.config.max_move_px)
        return Verdict(
            logit=logit[..., 0],
            move=(evidence.aligned @ move[..., None])[..., 0],
            covariance=_covariance(evidence, variance),
        )

    def _looked(self, evidence: Evidence, pairs_at_once: int) -> Float[Tensor, "M D"]:
        """Tokens of the patches of all observations that were tried."""
        if evidence.looked is not None:
            return evidence.looked[evidence.tried]
        assert evidence.patches is not None, "evidence without patches that nobody has looked at"
        pieces = evidence.patches[evidence.tried].split(pairs_at_once)
        return torch.cat([self.look(piece) for piece in pieces])


def _covariance(evidence: Evidence, variance: Float[Tensor, "S Q 2"]) -> Float[Tensor, "S Q 2 2"]:
    """The curvature's covariance times one learned factor, plus a learned round one in the aligned patch."""
    factor, floor = variance.clamp(-12, 6).exp().unbind(-1)
    round_one = evidence.aligned @ evidence.aligned.mT
    floor = floor * 0.01 + COVARIANCE_FLOOR_PX**2
    return factor[..., None, None] * evidence.covariance + floor[..., None, None] * round_one


def _features(evidence: Evidence) -> Float[Tensor, "S Q K"]:
    """The cues on scales of about one: lengths, stretches and variances by their logarithms."""
    by_name = {name: evidence.cue(name) for name in CUES}
    for name in ("drift", "way_back"):
        by_name[name] = torch.log1p(by_name[name].clamp(0, 1e4))
    for name in ("stretch_min", "stretch_max", "spread", "residual"):
        by_name[name] = 0.5 * by_name[name].clamp(1e-6, 1e4).log()
    return torch.stack([by_name[name] for name in CUES], -1)


def _relation(evidence: Evidence, neighbours: Int[Tensor, "Q k"]) -> Float[Tensor, "S Q k 4"]:
    """How each neighbour's position fits what this track's affinity says of it, and the other way round.

    Lengths in network pixels, as logarithms: the two misses, the distance of the queries, and the larger miss as a
    share of the distance.
    """
    offset = evidence.query[neighbours] - evidence.query[:, None]
    moved = evidence.xy[:, neighbours] - evidence.xy[:, :, None]
    expected = (evidence.affinity[:, :, None] @ offset[None, ..., None])[..., 0]
    theirs = (evidence.affinity[:, neighbours] @ offset[None, ..., None])[..., 0]
    distance = offset.norm(dim=-1).clamp(min=1).expand(len(evidence.xy), -1, -1)
    misses = torch.stack([(moved - expected).norm(dim=-1), (moved - theirs).norm(dim=-1)], -1).clamp(max=1e4)
    share = misses.amax(-1) / distance
    return torch.cat([torch.log1p(misses), distance.log()[..., None], torch.log1p(share)[..., None]], -1)
