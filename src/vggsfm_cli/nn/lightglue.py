"""Points of two frames that attend to one another, and which of them are the same (LightGlue).

After Lindenberger, Sarlin and Pollefeys, "LightGlue: Local Feature Matching at Light Speed" (ICCV 2023): in each layer
every point attends to those of its own frame, with rotary encoding of their relative positions, and then to those of
the other frame. An assignment compares what came of them, and says of each point whether it has a partner at all.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

NEVER = -1e4
"""Score of what may not be chosen; finite, so that gradients are."""

Masks = tuple[Bool[Tensor, "B n"] | None, Bool[Tensor, "B m"] | None]
"""Of the points of two frames, those that are no padding; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class LightGlueConfig:
    """Size of the network; the defaults are those of LighterGlue, for XFeat's descriptors."""

    descriptor: int = 64  # width of the descriptors
    width: int = 96  # of the tokens
    heads: int = 1  # of every attention
    layers: int = 6
    drop_below: float = 0.05  # points are dropped once they surely have a partner with less probability; 0: never

    def build(self) -> "LightGlue":
        """The network, with weights still to be loaded."""
        return LightGlue(self)


def normalize_positions(xy: Float[Tensor, "*b n 2"], size: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b n 2"]:
    """Positions about the centre of their picture, in units of half its long side.

    Args:
        xy: pixels.
        size: width and height of the picture, pixels.
    """
    return (xy - 0.5 * size[..., None, :]) / (0.5 * size.amax(-1))[..., None, None]


class RotaryEncoding(nn.Module):
    """Turns by which queries and keys are rotated, so that their product depends on the difference of positions.

    Args:
        width: of a head; every two channels are one plane.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Linear(2, width // 2, bias=False)

    def forward(self, positions: Float[Tensor, "*b n 2"]) -> Float[Tensor, "*b n half 2"]:
        """Cosine and sine of each plane's turn."""
        angle = self.frequencies(positions)
        return torch.stack([angle.cos(), angle.sin()], -1)


def rotate(tokens: Float[Tensor, "*b H n d"], turn: Float[Tensor, "*b n half 2"]) -> Float[Tensor, "*b H n d"]:
    """Turn the planes of every head."""
    x, y = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn[..., None, :, :, :].unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1).flatten(-2)


class Update(nn.Module):
    """Two layers that change a token by what it was told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Float[Tensor, "*b D"], message: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        """The changed tokens."""
        out: Tensor = tokens + self.layers(torch.cat([tokens, message], -1))
        return out


class SelfLayer(nn.Module):
    """Attention among the points of one frame."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.update = Update(width)

    def forward(
        self,
        tokens: Float[Tensor, "B n D"],
        turn: Float[Tensor, "B n half 2"],
        keep: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n D"]:
        """Update the tokens; those that are not kept are not attended to."""
        q, k, v = (_split(part, self.heads) for part in self.in_proj(tokens).chunk(3, -1))
        out: Tensor = self.update(tokens, self.out_proj(_attend(rotate(q, turn), rotate(k, turn), v, keep)))
        return out


class CrossLayer(nn.Module):
    """Attention from the points of each of two frames to those of the other; one projection is query and key."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query_key = nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.update = Update(width)

    def forward(
        self,
        first: Float[Tensor, "B n D"],
        second: Float[Tensor, "B m D"],
        keep: Masks = (None, None),
    ) -> tuple[Float[Tensor, "B n D"], Float[Tensor, "B m D"]]:
        """Update both sides at the same time."""
        keys = [_split(self.to_query_key(side), self.heads) for side in (first, second)]
        values = [_split(self.to_value(side), self.heads) for side in (first, second)]
        to_first = self.out_proj(_attend(keys[0], keys[1], values[1], keep[1]))
        to_second = self.out_proj(_attend(keys[1], keys[0], values[0], keep[0]))
        return self.update(first, to_first), self.update(second, to_second)


class Assignment(nn.Module):
    """Which points of two frames are the same, and which have no partner."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matchability = nn.Linear(width, 1)
        self.projection = nn.Linear(width, width)

    def has_partner(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B n"]:
        """Log-odds of each point being seen in the other frame."""
        logit: Tensor = self.matchability(tokens)[..., 0]
        return logit

    def forward(
        self,
        first: Float[Tensor, "B n D"],
        second: Float[Tensor, "B m D"],
        keep: Masks = (None, None),
    ) -> Float[Tensor, "B n m"]:
        """Logarithm of the probability of each two points being the same; very low where one is not kept."""
        scores = self.projection(first) @ self.projection(second).mT * first.shape[-1] ** -0.5
        for axis, mask in zip((-1, -2), keep, strict=True):
            if mask is not None:
                scores = scores.masked_fill(~mask.unsqueeze(axis), NEVER)
        # two softmaxes, over rows and columns, whose normalisations are taken out of the large matrix
        rows = functional.logsigmoid(self.has_partner(first)) - scores.logsumexp(2)
        columns = functional.logsigmoid(self.has_partner(second)) - scores.logsumexp(1)
        kept = scores > NEVER / 2
        return torch.where(kept, 2 * scores + rows[:, :, None] + columns[:, None], NEVER)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameTokens:
    """Points of B frames on their way through the network.

    Attributes:
        tokens: of each point.
        turn: of its position, see ``RotaryEncoding``.
        index: of the point among those of the frame, where some were dropped.
        keep: False for padding; None where there is none.
    """

    tokens: Float[Tensor, "B n D"]
    turn: Float[Tensor, "B n half 2"]
    index: Int[Tensor, "B n"]
    keep: Bool[Tensor, "B n"] | None = None

    def frames(self, chosen: Int[Tensor, " b"]) -> "FrameTokens":
        """Some of the frames, in that order, as often as they are named."""
        return FrameTokens(
            tokens=self.tokens[chosen],
            turn=self.turn[chosen],
            index=self.index[chosen],
            keep=None if self.keep is None else self.keep[chosen],
        )

    def dropping(self, needed: Bool[Tensor, "B n"]) -> "FrameTokens":
        """Without the points that are not needed, as far as all B frames have such."""
        needed = needed if self.keep is None else needed & self.keep
        counts = needed.sum(1)
        longest = max(int(counts.max()), 1)
        order = needed.to(torch.uint8).argsort(stable=True, dim=1, descending=True)[:, :longest]
        keep = needed.gather(1, order)
        return FrameTokens(
            tokens=self.tokens.gather(1, order[..., None].expand(-1, -1, self.tokens.shape[-1])),
            turn=self.turn.gather(1, order[..., None, None].expand(-1, -1, *self.turn.shape[2:])),
            index=self.index.gather(1, order),
            keep=None if bool((counts == longest).all()) else keep,
        )


class LightGlue(nn.Module):
    """What two frames' points have to do with each other, by attention within and between the frames."""

    def __init__(self, config: LightGlueConfig) -> None:
        super().__init__()
        self.config = config
        width, heads, layers = config.width, config.heads, config.layers
        self.in_proj = nn.Identity() if config.descriptor == width else nn.Linear(config.descriptor, width)
        self.positions = RotaryEncoding(width // heads)
        self.self_layers = nn.ModuleList(SelfLayer(width, heads) for _ in range(layers))
        self.cross_layers = nn.ModuleList(CrossLayer(width, heads) for _ in range(layers))
        self.assignments = nn.ModuleList(Assignment(width) for _ in range(layers))
        self.confidences = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers - 1))

    def look(
        self,
        descriptors: Float[Tensor, "B n C"],
        positions: Float[Tensor, "B n 2"],
        keep: Bool[Tensor, "B n"] | None = None,
    ) -> FrameTokens:
        """What frames say by themselves, which is the same whatever they are compared with: the first self-attention.

        Args:
            descriptors: unit vectors.
            positions: see ``normalize_positions``.
            keep: False for padding.
        """
        turn = self.positions(positions)
        index = torch.arange(positions.shape[1], device=positions.device).expand(positions.shape[:2])
        tokens = self.self_layers[0](self.in_proj(descriptors), turn, keep)
        return FrameTokens(tokens=tokens, turn=turn, index=index, keep=keep)

    def forward(
        self, first: FrameTokens, second: FrameTokens
    ) -> tuple[Float[Tensor, "B n m"], FrameTokens, FrameTokens]:
        """Logarithm of the probability of each two points being the same, and the points that are left.

        Points that are sure to have no partner are dropped on the way, where the configuration says so.
        """
        sides = [first, second]
        last = self.config.layers - 1
        for layer in range(self.config.layers):
            if layer:
                sides = [
                    replace(side, tokens=self.self_layers[layer](side.tokens, side.turn, side.keep)) for side in sides
                ]
            tokens = self.cross_layers[layer](sides[0].tokens, sides[1].tokens, (sides[0].keep, sides[1].keep))
            sides = [replace(side, tokens=changed) for side, changed in zip(sides, tokens, strict=True)]
            if layer < last and self.config.drop_below > 0:
                sides = [side.dropping(self._needed(side.tokens, layer)) for side in sides]
        scores = self.assignments[last](sides[0].tokens, sides[1].tokens, (sides[0].keep, sides[1].keep))
        return scores, sides[0], sides[1]

    def _needed(self, tokens: Float[Tensor, "B n D"], layer: int) -> Bool[Tensor, "B n"]:
        """Points that may have a partner, or of which the network is not sure yet."""
        assignment = self.assignments[layer]
        assert isinstance(assignment, Assignment)
        may = assignment.has_partner(tokens).sigmoid() > self.config.drop_below
        sure = min(0.8 + 0.1 * math.exp(-4 * layer / self.config.layers), 1.0)
        return may | (self.confidences[layer](tokens)[..., 0].sigmoid() <= sure)


def _split(tokens: Float[Tensor, "B n D"], heads: int) -> Float[Tensor, "B H n d"]:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(
    q: Float[Tensor, "B H n d"],
    k: Float[Tensor, "B H m d"],
    v: Float[Tensor, "B H m d"],
    keep: Bool[Tensor, "B m"] | None,
) -> Float[Tensor, "B n D"]:
    mask = None if keep is None else keep[:, None, None]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
