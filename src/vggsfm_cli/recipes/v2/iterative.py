"""Points followed by small steps: correlate around the guess, let the transformer move it, repeat.

One class, two settings: over whole frames with tracks that see one another, and within patches with tracks alone.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.nn.embeddings import flow_embedding, grid_embedding_at
from vggsfm_cli.recipes.v2.correlation import CorrelationPyramid, make_pyramid
from vggsfm_cli.recipes.v2.encoders import COARSE_CHANNELS, FINE_CHANNELS
from vggsfm_cli.recipes.v2.pieces import tracks_at_once
from vggsfm_cli.recipes.v2.transformer import UpdateTransformerConfig
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class IterativeTrackerConfig:
    """Settings of an iterative tracker; the defaults are those of the coarse one."""

    channels: int = COARSE_CHANNELS  # of the feature maps
    levels: int = 5  # of the correlation pyramid
    radius: int = 4  # of its windows, cells
    iterations: int = 6
    predicts_visibility: bool = True
    transformer: UpdateTransformerConfig = field(default_factory=UpdateTransformerConfig)

    def build(self) -> "IterativeTracker":
        """The tracker, with weights still to be loaded."""
        return IterativeTracker(self)


FINE = IterativeTrackerConfig(
    channels=FINE_CHANNELS,
    levels=3,
    radius=3,
    predicts_visibility=False,
    transformer=UpdateTransformerConfig(tokens_in=216, width=256, blocks=4, virtual_tracks=0),
)
"""Settings of the tracker within patches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """What an iterative tracker found.

    Attributes:
        steps: positions after each iteration, in cells, the centre of the first at (0, 0).
        features: of each track in each frame, after the last.
        query_features: of each track where it starts.
    """

    steps: tuple[Float[Tensor, "B S N 2"], ...]
    features: Float[Tensor, "B S N C"]
    query_features: Float[Tensor, "B N C"]

    @property
    def xy(self) -> Float[Tensor, "B S N 2"]:
        """The last positions."""
        return self.steps[-1]


class IterativeTracker(nn.Module):
    """Follows points through feature maps (VGGSfM, Sec. 3.1)."""

    def __init__(self, config: IterativeTrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = config.transformer.build(2 + config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.feature_update = nn.Linear(config.channels, config.channels)
        self.visibility = nn.Linear(config.channels, 1) if config.predicts_visibility else None

    def forward(
        self,
        maps: Float[Tensor, "B S C h w"],
        queries: Float[Tensor, "B N 2"],
        home: int = 0,
        iterations: int | None = None,
        pairs_at_once: int = 2048,
    ) -> Followed:
        """Follow ``queries`` of frame ``home`` through all frames; every track starts where its query is.

        No gradient flows through the positions from one iteration to the next.

        Args:
            maps: features of all frames.
            queries: positions in cells, the centre of the first at (0, 0).
            home: the frame they are in; its positions stay.
            iterations: how often, if not as configured.
            pairs_at_once: observations computed together; bounds the memory, changes nothing else.
        """
        config = self.config
        scenes, frames = maps.shape[:2]
        pyramid = make_pyramid(maps.flatten(0, 1), config.levels, config.radius, pairs_at_once)
        query_features = sample(maps[:, home], queries + 0.5)
        position = grid_embedding_at(queries, config.transformer.tokens_in, maps.shape[-2], maps.shape[-1])
        at_home = torch.zeros(frames, 1, 1, dtype=torch.bool, device=maps.device)
        at_home[home] = True
        xy = queries[:, None].expand(-1, frames, -1, -1)
        features = query_features[:, None].expand(-1, frames, -1, -1)
        steps = []
        size = tracks_at_once(queries.shape[1], scenes * frames, pairs_at_once, maps.device)

        def read(piece: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            with torch.autocast(maps.device.type, enabled=False):  # sines of a thousand times the motion are read here
                tokens: Tensor = self.transformer.input_transform(self.tokens(pyramid, *piece, home))
            return tokens

        for _ in range(config.iterations if iterations is None else iterations):
            pieces = zip(xy.detach().split(size, 2), features.split(size, 2), position.split(size, 1), strict=True)
            tokens = torch.cat(list(map_threads(read, pieces, maps.device)), 2)
            move, update = self.transformer(tokens.float(), pairs_at_once).float().split((2, config.channels), -1)
            features = features + functional.gelu(self.feature_update(self.norm(update))).float()
            xy = torch.where(at_home, queries[:, None], xy.detach() + move)
            steps.append(xy)
        return Followed(steps=tuple(steps), features=features, query_features=query_features)

    def tokens(
        self,
        pyramid: CorrelationPyramid,
        xy: Float[Tensor, "B S n 2"],
        features: Float[Tensor, "B S n C"],
        position: Float[Tensor, "B n W"],
        home: int,
    ) -> Float[Tensor, "B S n W"]:
        """What the transformer is told of each observation: its motion, the correlation around it, its feature.

        The rest of the width is zero; where the track starts is added to all of it.
        """
        flow = xy - xy[:, home, None]
        windows = pyramid.windows(features.flatten(0, 1), xy.flatten(0, 1)).unflatten(0, xy.shape[:2])
        token = torch.cat([flow_embedding(flow, self.config.channels // 2), flow, windows, features], -1)
        return functional.pad(token, (0, position.shape[-1] - token.shape[-1])) + position[:, None]

    def visibilities(self, features: Float[Tensor, "B S N C"]) -> Float[Tensor, "B S N"]:
        """Probability that each observation is seen, from the features after the last iteration."""
        assert self.visibility is not None, "this tracker predicts no visibility"
        logit: Tensor = self.visibility(features)
        return torch.sigmoid(logit.float()).squeeze(-1)
