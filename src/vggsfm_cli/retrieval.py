"""Which frames look alike: one pooled descriptor a frame, and the partners that each frame is tracked into.

Descriptors of a frame's best key points are pooled as residuals to the words of a small vocabulary (VLAD; Jegou et al.,
"Aggregating local descriptors into a compact image representation", CVPR 2010), each word's part and the whole of unit
length. The vocabulary is made from the very frames it serves.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.tracking import STRIDE, FeatureMaps, select_keypoints


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Settings of the descriptors and of the choice of partners."""

    words: int = 32
    descriptors: int = 256  # of each frame
    iterations: int = 10  # of the vocabulary
    training: int = 20_000  # descriptors that make the vocabulary, at most
    complete_to: int = 100  # in sets of so many frames every frame is tracked into all others
    partners: int = 30  # in larger ones into so many
    far: int = 4  # of them not the most similar ones but spread evenly over the rest


def local_descriptors(features: FeatureMaps, frame: int, config: RetrievalConfig) -> Float[Tensor, "n C"]:
    """Descriptors of the best key points of one frame of the first scene; few or none where it shows little."""
    xy = select_keypoints(features.keypoint_score[0, frame], config.descriptors)
    return normalize(sample(features.descriptors[0, frame][None], xy[None] / STRIDE)[0], dim=-1)


def make_vocabulary(
    descriptors: list[Float[Tensor, "_ C"]], config: RetrievalConfig, generator: torch.Generator
) -> Float[Tensor, "W C"]:
    """Words by k-means on unit vectors; fewer where there are not so many descriptors.

    Args:
        descriptors: of each frame.
        config: how many words.
        generator: on the CPU.
    """
    pool = torch.cat(descriptors)
    order = torch.randperm(len(pool), generator=generator).to(pool.device)
    pool = pool[order[: config.training]]
    words = pool[: config.words]
    for _ in range(config.iterations):
        nearest = (pool @ words.T).argmax(-1)
        total = torch.zeros_like(words).index_add(0, nearest, pool)
        empty = torch.bincount(nearest, minlength=len(words)) == 0
        words = torch.where(empty[:, None], words, normalize(total, dim=-1))
    return words


def pool(descriptors: Float[Tensor, "n C"], words: Float[Tensor, "W C"]) -> Float[Tensor, " D"]:
    """The descriptor of a frame, of unit length; zero if it has no key points."""
    nearest = (descriptors @ words.T).argmax(-1)
    residual = torch.zeros_like(words).index_add(0, nearest, descriptors - words[nearest])
    return normalize(normalize(residual, dim=-1).flatten(), dim=0)


def likeness(
    descriptors: list[Float[Tensor, "_ C"]], config: RetrievalConfig, generator: torch.Generator
) -> Float[Tensor, "S S"]:
    """Cosine of the pooled descriptors of every two frames; minus one with a frame that has no key points.

    Args:
        descriptors: of each frame, see ``local_descriptors``.
        config: of the vocabulary.
        generator: on the CPU.
    """
    words = make_vocabulary(descriptors, config, generator)
    pooled = torch.stack([pool(each, words) for each in descriptors])
    empty = torch.tensor([len(each) == 0 for each in descriptors], device=pooled.device)
    return (pooled @ pooled.T).masked_fill(empty | empty[:, None], -1.0)


def choose_partners(
    features: FeatureMaps, frame_valid: Bool[Tensor, " S"], config: RetrievalConfig, generator: torch.Generator
) -> Bool[Tensor, "S S"]:
    """Into which frames (second axis) each frame of the first scene is to be tracked; symmetric.

    All of them in sets of at most ``complete_to`` frames. In larger ones those that look most alike, and some spread
    over the rest, since likeness is a guess; so the number of pairs grows as that of the frames. A frame is its own
    partner.
    """
    frames = len(frame_valid)
    valid = frame_valid[:, None] & frame_valid
    if int(frame_valid.sum()) <= config.complete_to:
        return valid
    alike = likeness([local_descriptors(features, s, config) for s in range(frames)], config, generator)
    alike = alike.masked_fill(~valid, -2.0)
    order = alike.fill_diagonal_(2.0).argsort(dim=-1, descending=True, stable=True)
    near = config.partners - config.far + 1
    steps = torch.linspace(near, int(frame_valid.sum()) - 1, config.far + 1).round().long()[1:]
    chosen = torch.cat([order[:, :near], order[:, steps.to(order.device)]], 1)
    partners = torch.zeros_like(valid).scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool))
    return (partners | partners.T) & valid
