"""What the features alone say about a pair of frames, before any refinement: the classical counterparts of tracks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.tracking.features import STRIDE, FeatureMaps
from vggsfm_cli.tracking.starts import StartConfig, find_starts, nearest, peaks


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Some key points of one frame and where they are in another.

    Attributes:
        query: which key points.
        xy: network pixels of the other frame.
    """

    query: Int[Tensor, " M"]
    xy: Float[Tensor, "M 2"]


def mutual_matches(
    features: FeatureMaps, b: int, source: int, target: int, here: Tensor, there: Tensor, config: StartConfig
) -> Matches:
    """Mutual nearest neighbours among the descriptors sampled at the key points of both frames; no other test."""
    del config
    first, second = _sampled(features, b, source, here), _sampled(features, b, target, there)
    if len(first) == 0 or len(second) == 0:
        return Matches(query=torch.zeros(0, dtype=torch.long, device=here.device), xy=there[:0])
    similarity = first @ second.T
    best, back = similarity.argmax(1), similarity.argmax(0)
    query = torch.arange(len(here), device=here.device)
    query = query[back[best] == query]
    return Matches(query=query, xy=there[best[query]])


def dense_matches(
    features: FeatureMaps, b: int, source: int, target: int, here: Tensor, there: Tensor, config: StartConfig
) -> Matches:
    """Each key point's descriptor against every cell of the other frame; kept if matching back returns to it."""
    del there
    query_map, target_map = features.descriptors[b, source], features.descriptors[b, target]
    xy, similarity, cell = peaks(_sampled(features, b, source, here), target_map, config)
    back, _, _ = peaks(target_map.flatten(1).T[cell], query_map, config)
    kept = ((back - here).norm(dim=-1) < config.way_back_px) & (similarity > config.min_similarity)
    query = kept.nonzero().squeeze(-1)
    return Matches(query=query, xy=xy[query])


def believed_starts(
    features: FeatureMaps, b: int, source: int, target: int, here: Tensor, there: Tensor, config: StartConfig
) -> Matches:
    """The starts that the geometric tracker refines: dense ones that their neighbours agree with or lend."""
    del there
    neighbours = nearest(here, config.neighbours)
    starts = find_starts(here, features.descriptors[b, source], features.descriptors[b, target], neighbours, config)
    query = starts.believed.nonzero().squeeze(-1)
    return Matches(query=query, xy=starts.xy[query])


def _sampled(features: FeatureMaps, b: int, s: int, xy: Tensor) -> Float[Tensor, "Q C"]:
    return functional.normalize(sample(features.descriptors[b, s][None], xy[None] / STRIDE)[0], dim=-1)


Matcher = Callable[[FeatureMaps, int, int, int, Tensor, Tensor, StartConfig], Matches]

MATCHERS: dict[str, Matcher] = {"mutual": mutual_matches, "dense": dense_matches, "starts": believed_starts}
"""Each takes the features, the scene, both frames, the key points of both and the tracker's settings of the start."""
