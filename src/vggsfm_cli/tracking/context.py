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
from vggsfm_cli.nn import FrameTokens, LightGlueConfig, normalize_positions
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking.features import STRIDE, FeatureMaps, PairSeeds, Seeds, select_keypoints

Pairs = Sequence[tuple[int, int]]
"""Two frames each, by their numbers."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Settings of the seeds."""

    network: LightGlueConfig = field(default_factory=LightGlueConfig)
    few_pairs: int = 45  # so many pairs are looked at once, with most points
    points: int = 512  # of each frame, the best key points, for a first look at every pair of larger scenes
    enough: float = 0.1  # share of them that are seeds, from which a second look is needless
    more_points: int = 2048  # of each frame for the second look; half of them in scenes of many pairs
    many_pairs: int = 200
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
        """Every frame is looked at once for each number of points, then every pair, on the threads there are.

        Pairs that look alike by few points are settled; all others are looked at again with more.
        """
        config = self.config
        named = sorted({frame for pair in pairs for frame in pair})
        most = config.more_points if len(pairs) <= config.many_pairs else config.more_points // 2
        points = [images.pixels.new_zeros(0, 2) for _ in range(images.pixels.shape[1])]
        for frame in named:
            score = features.keypoint_score[b, frame]
            points[frame] = select_keypoints(score, most, radius=config.nms_radius_px, threshold=config.min_score)
        found: dict[tuple[int, int], PairSeeds] = {}
        again = list(pairs)
        if len(pairs) > config.few_pairs:
            found = self._compare(images, features, b, points, pairs, config.points)
            enough = config.enough * config.points
            again = [pair for pair in pairs if len(found[pair].probability) < enough]
        found.update(self._compare(images, features, b, points, again, most))
        return Seeds(points=tuple(points), pairs={pair: found[pair] for pair in pairs}, least=config.min_seeds)

    def _compare(
        self, images: ImageSet, features: FeatureMaps, b: int, points: Sequence[Tensor], pairs: Pairs, count: int
    ) -> dict[tuple[int, int], PairSeeds]:
        """Seeds among the best ``count`` points of each frame."""
        named = sorted({frame for pair in pairs for frame in pair})

        def look(frame: int) -> FrameTokens:
            xy = points[frame][None, :count]
            descriptors = sample(features.descriptors[b, frame][None], xy / STRIDE)
            size = network_size(images, b, frame)
            positions = normalize_positions(xy, size[None])
            tokens: FrameTokens = self.network.look(functional.normalize(descriptors, dim=-1), positions)
            return tokens

        seen = dict(zip(named, map_threads(look, named, images.pixels.device), strict=True))

        def compare(pair: tuple[int, int]) -> PairSeeds:
            if any(len(points[frame]) == 0 for frame in pair):
                return no_seeds(points[pair[0]])
            return find_seeds(self.network(*(seen[frame] for frame in pair)), self.config.min_probability)

        return dict(zip(pairs, map_threads(compare, pairs, images.pixels.device), strict=True))


def no_seeds(like: Tensor) -> PairSeeds:
    """Of two frames that share nothing."""
    index = torch.zeros(0, dtype=torch.long, device=like.device)
    return PairSeeds(first=index, second=index, probability=like.new_zeros(0))


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
