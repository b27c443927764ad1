"""Which points of two frames are the same, judged with all that stands around them in view.

Descriptors compare places one by one, so windows of one facade are all alike to them. Here the key points of two frames
attend to one another before any query is searched for. What comes out are seeds: points of both frames that are the
same, each with a probability. Queries are then looked for near where the seeds around them point to, and frames that
share no seeds share no tracks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.nn.lightglue import FrameTokens, LightGlueConfig, normalize_positions
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking.features import STRIDE, FeatureMaps, PairSeeds, Seeds, select_keypoints

Pairs = Sequence[tuple[int, int]]
"""Two frames each, by their numbers."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Settings of the seeds."""

    network: LightGlueConfig = field(default_factory=LightGlueConfig)
    points: int = 1024  # of each frame, the best key points
    nms_radius_px: int = 2  # network pixels
    min_score: float = 0.01  # of a key point
    min_probability: float = 0.1  # of a seed
    min_seeds: int = 8  # two frames with fewer share nothing

    def build(self) -> "PointContext":
        """The network, with weights still to be loaded."""
        return PointContext(self)


class SeedFinder(nn.Module, ABC):
    """Finds seeds between frames."""

    @abstractmethod
    def seeds(self, images: ImageSet, features: FeatureMaps, b: int, pairs: Pairs) -> Seeds:
        """Seeds of some pairs of frames of scene ``b``; permuting the frames permutes the seeds.

        Args:
            images: the scenes.
            features: of all frames.
            b: the scene.
            pairs: frames to compare, each pair once.
        """


class PointContext(SeedFinder):
    """The tracker's own key points and descriptors, through LightGlue's attention."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build()

    def seeds(self, images: ImageSet, features: FeatureMaps, b: int, pairs: Pairs) -> Seeds:
        """Every frame is looked at once, then every pair, on the threads there are."""
        named = sorted({frame for pair in pairs for frame in pair})

        def look(frame: int) -> tuple[Tensor, FrameTokens]:
            return self._look(images, features, b, frame)

        seen = dict(zip(named, map_threads(look, named, images.pixels.device), strict=True))

        def compare(pair: tuple[int, int]) -> PairSeeds:
            return find_seeds(self.network(*(seen[frame][1] for frame in pair)), self.config.min_probability)

        found = map_threads(compare, pairs, images.pixels.device)
        nowhere = images.pixels.new_zeros(0, 2)
        points = tuple(seen[s][0] if s in seen else nowhere for s in range(images.pixels.shape[1]))
        return Seeds(points=points, pairs=dict(zip(pairs, found, strict=True)), least=self.config.min_seeds)

    def _look(self, images: ImageSet, features: FeatureMaps, b: int, frame: int) -> tuple[Tensor, FrameTokens]:
        config = self.config
        xy = select_keypoints(
            features.keypoint_score[b, frame], config.points, radius=config.nms_radius_px, threshold=config.min_score
        )
        descriptors = functional.normalize(sample(features.descriptors[b, frame][None], xy[None] / STRIDE), dim=-1)
        size = network_size(images, b, frame)
        tokens: FrameTokens = self.network.look(descriptors, normalize_positions(xy[None], size[None]))
        return xy, tokens


def network_size(images: ImageSet, b: int, s: int) -> Float[Tensor, "2"]:
    """Width and height of the photograph within the padded picture, network pixels."""
    to_network = torch.linalg.inv(images.stored_from_network[b, s, :, :2])
    return to_network.abs() @ images.stored_size[b, s].to(to_network.dtype)


def find_seeds(said: tuple[Float[Tensor, "1 n m"], FrameTokens, FrameTokens], min_probability: float) -> PairSeeds:
    """Pairs of points each of which is the other's best, from the scores of two frames."""
    scores, first, second = said[0][0], said[1], said[2]
    best, there = scores.max(1)
    here = torch.arange(len(best), device=best.device)
    kept = (scores.argmax(0)[there] == here) & (best.exp() > min_probability)
    return PairSeeds(
        first=first.index[0][here[kept]], second=second.index[0][there[kept]], probability=best[kept].exp()
    )
