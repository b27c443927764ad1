"""The transformer that moves points: over the frames of a track, and over the tracks of a frame."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vggsfm_cli.nn.attention import CrossBlock, SelfBlock
from vggsfm_cli.recipes.v2.pieces import tracks_at_once
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class UpdateTransformerConfig:
    """Size of the transformer; the defaults are those of the coarse tracker."""

    tokens_in: int = 664  # width of the tokens it is given
    width: int = 384
    heads: int = 8
    blocks: int = 6
    virtual_tracks: int = 64  # through which tracks look at one another; 0: each track is alone

    def build(self, channels_out: int) -> "UpdateTransformer":
        """The transformer, with weights still to be loaded."""
        return UpdateTransformer(self, channels_out)


class UpdateTransformer(nn.Module):
    """Answers each observation, a track in a frame, with a move and an update of its feature.

    Frames are a set: nothing says which comes first. Tracks look at one another through a fixed number of learned
    virtual tracks, so that the cost grows with their number and not with its square.
    """

    def __init__(self, config: UpdateTransformerConfig, channels_out: int) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.input_transform = nn.Linear(config.tokens_in, width)
        self.time_blocks = nn.ModuleList(SelfBlock(width, heads) for _ in range(config.blocks))
        if config.virtual_tracks:
            self.virtual_tracks = nn.Parameter(torch.zeros(1, config.virtual_tracks, 1, width))
            self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.blocks))
            self.space_virtual_blocks = nn.ModuleList(SelfBlock(width, heads) for _ in range(config.blocks))
            self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.blocks))
        self.flow_head = nn.Linear(width, channels_out)

    def forward(self, tokens: Float[Tensor, "B S N W"], pairs_at_once: int = 2048) -> Float[Tensor, "B S N O"]:
        """Update all tracks of all frames.

        Args:
            tokens: after ``input_transform``, which the caller applies piece by piece.
            pairs_at_once: observations that go through a layer together; bounds the memory, changes nothing else.
        """
        points = tokens
        if self.config.virtual_tracks:
            virtual = self.virtual_tracks.transpose(1, 2).expand(*tokens.shape[:2], -1, -1)
        for i, time in enumerate(self.time_blocks):
            points = self._each_track(i, points, pairs_at_once)
            if self.config.virtual_tracks:
                points, virtual = self._each_frame(i, points, _over_frames(time, virtual), pairs_at_once)
        with torch.autocast(tokens.device.type, enabled=False):  # moves are positions: half precision loses them
            out: Tensor = self.flow_head(points.float() + tokens.float())
        return out

    def _each_track(self, i: int, points: Float[Tensor, "B S N W"], pairs_at_once: int) -> Float[Tensor, "B S N W"]:
        """Each track looks at itself in all frames."""
        scenes, frames, tracks = points.shape[:3]
        size = tracks_at_once(tracks, scenes * frames, pairs_at_once, points.device)
        look = partial(_over_frames, self.time_blocks[i])
        return torch.cat(list(map_threads(look, points.split(size, 2), points.device)), 2)

    def _each_frame(
        self, i: int, points: Float[Tensor, "B S N W"], virtual: Float[Tensor, "B S V W"], pairs_at_once: int
    ) -> tuple[Float[Tensor, "B S N W"], Float[Tensor, "B S V W"]]:
        """In each frame tracks look at one another, by way of the virtual ones."""
        scenes, frames, tracks = points.shape[:3]
        size = tracks_at_once(frames, scenes * tracks, pairs_at_once, points.device)

        def look(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self._over_tracks(i, *part, pairs_at_once)

        parts = zip(points.split(size, 1), virtual.split(size, 1), strict=True)
        seen, saw = zip(*map_threads(look, parts, points.device), strict=True)
        return torch.cat(seen, 1), torch.cat(saw, 1)

    def _over_tracks(
        self, i: int, points: Float[Tensor, "B s N W"], virtual: Float[Tensor, "B s V W"], pairs_at_once: int
    ) -> tuple[Float[Tensor, "B s N W"], Float[Tensor, "B s V W"]]:
        """Virtual tracks look at the points, at themselves, and are looked at by the points, in some of the frames."""
        virtual = self.space_virtual2point_blocks[i](virtual, points)
        virtual = self.space_virtual_blocks[i](virtual)
        look = self.space_point2virtual_blocks[i]
        size = max(1, pairs_at_once // (points.shape[0] * points.shape[1]))
        return torch.cat([look(part, virtual) for part in points.split(size, 2)], 2), virtual


def _over_frames(block: nn.Module, tokens: Float[Tensor, "B S N W"]) -> Float[Tensor, "B S N W"]:
    """Apply a block along the frames of each track."""
    out: Tensor = block(tokens.transpose(1, 2)).transpose(1, 2)
    return out
