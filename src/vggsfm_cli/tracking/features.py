"""Dense features of photographs and where in them tracks can start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from kornia.feature import XFeatModel
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.scene import ImageSet, TensorRecord
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking.lucas_kanade import Pyramid

STRIDE = 8
"""Network pixels per feature cell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSeeds(TensorRecord):
    """Points of two frames that are the same.

    Attributes:
        first: index of each among the points of the first frame.
        second: index among those of the second frame.
        probability: of their being the same.
    """

    first: Int[Tensor, " K"]
    second: Int[Tensor, " K"]
    probability: Float[Tensor, " K"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seeds:
    """Points of the frames of one scene, and which of them are the same.

    Attributes:
        points: network pixels, of each frame.
        pairs: of the frames that were compared; each two frames stand here once at most.
        least: two frames with fewer seeds share nothing.
    """

    points: tuple[Float[Tensor, "_ 2"], ...]
    pairs: Mapping[tuple[int, int], PairSeeds]
    least: int = 1

    def between(
        self, source: int, target: int
    ) -> tuple[Float[Tensor, "K 2"], Float[Tensor, "K 2"], Float[Tensor, " K"]] | None:
        """Positions in both frames, network pixels, and probabilities; None if the two share nothing."""
        turned = (source, target) not in self.pairs
        pair = self.pairs.get((target, source) if turned else (source, target))
        if pair is None or len(pair.probability) < self.least:
            return None
        here, there = (pair.second, pair.first) if turned else (pair.first, pair.second)
        return self.points[source][here], self.points[target][there], pair.probability

    def counts(self) -> Int[Tensor, "S S"]:
        """How many seeds each two frames have; none where they were not compared."""
        frames = len(self.points)
        counts = torch.zeros(frames, frames, dtype=torch.long)
        for (first, second), pair in self.pairs.items():
            counts[first, second] = counts[second, first] = len(pair.probability)
        return counts

    def related(self) -> Bool[Tensor, "S S"]:
        """Which frames share enough."""
        return self.counts() >= self.least

    def some(self, frames: Sequence[int]) -> "Seeds":
        """Those of some frames."""
        place = {frame: number for number, frame in enumerate(frames)}
        return Seeds(
            points=tuple(self.points[frame] for frame in frames),
            pairs={
                (place[first], place[second]): pair
                for (first, second), pair in self.pairs.items()
                if first in place and second in place
            },
            least=self.least,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMaps(TensorRecord):
    """What the tracker knows about every frame.

    Attributes:
        descriptors: unit vectors, one for each cell of ``STRIDE`` network pixels; zero where the cell is not usable.
        keypoint_score: how well a track could start at each network pixel, 0 to 1.
        usable: cells that lie inside the mask.
        photographs: brightness pyramids of the original files, for B scenes of S frames.
        seeds: points that frames share, for B scenes; empty where nobody looked for any.
    """

    descriptors: Float[Tensor, "B S C h w"]
    keypoint_score: Float[Tensor, "B S H W"]
    usable: Bool[Tensor, "B S h w"]
    photographs: tuple[tuple[Pyramid, ...], ...] = ()
    seeds: tuple[Seeds, ...] = ()

    def some(self, frames: Sequence[int]) -> "FeatureMaps":
        """Some frames of every scene."""
        index = torch.tensor(list(frames), dtype=torch.long, device=self.usable.device)
        return FeatureMaps(
            descriptors=self.descriptors[:, index],
            keypoint_score=self.keypoint_score[:, index],
            usable=self.usable[:, index],
            photographs=tuple(tuple(scene[s] for s in frames) for scene in self.photographs),
            seeds=tuple(scene.some(frames) for scene in self.seeds),
        )


class DenseEncoder(nn.Module):
    """Descriptors, keypoints and their reliability from one small network.

    The network is XFeat's (Potje et al., CVPR 2024) without its refinement of matches, which the tracker does on the
    photographs instead. It normalises each photograph by its own mean and deviation; padding must not count there, so
    that step is done here over usable pixels, and the network's own is switched off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = XFeatModel()
        self.net.add_module("norm", nn.Identity())
        del self.net.fine_matcher

    def forward(self, images: ImageSet) -> FeatureMaps:
        """Encode every frame, a few at a time, so that memory does not grow with the scene."""
        scenes, frames = images.pixels.shape[:2]

        def encode(place: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
            b, s = place
            return self._encode(images.pixels[b, s, None], images.mask[b, s, None])

        places = [(b, s) for b in range(scenes) for s in range(frames)]
        encoded = list(map_threads(encode, places, images.pixels.device))
        descriptors, score, usable = (
            torch.cat(part).unflatten(0, (scenes, frames)) for part in zip(*encoded, strict=True)
        )
        return FeatureMaps(descriptors=descriptors, keypoint_score=score, usable=usable)

    def keypoint_score(self, pixels: Float[Tensor, "K 3 H W"], mask: Bool[Tensor, "K H W"]) -> Float[Tensor, "K H W"]:
        """How well a track could start at each pixel of K pictures, 0 to 1; sides are multiples of 32."""
        return self._encode(pixels, mask)[1]

    def _encode(
        self, pixels: Float[Tensor, "K 3 H W"], mask: Bool[Tensor, "K H W"]
    ) -> tuple[Float[Tensor, "K C h w"], Float[Tensor, "K H W"], Bool[Tensor, "K h w"]]:
        descriptors, logits, reliability = self.dense(pixels, mask)
        inside = mask.to(pixels.dtype)
        usable = functional.avg_pool2d(inside[:, None], STRIDE)[:, 0] > 0.5  # noqa: PLR2004
        score = functional.pixel_shuffle(logits.softmax(1)[:, :-1], STRIDE)
        reliability = functional.interpolate(reliability, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        return descriptors * usable[:, None], (score * reliability)[:, 0] * inside, usable

    def dense(
        self, pixels: Float[Tensor, "K 3 H W"], mask: Bool[Tensor, "K H W"]
    ) -> tuple[Float[Tensor, "K C h w"], Float[Tensor, "K 65 h w"], Float[Tensor, "K 1 h w"]]:
        """What the network says of K pictures: unit descriptors, logits of keypoints in each cell, reliability."""
        grey = pixels.mean(1)
        inside = mask.to(grey.dtype)
        count = inside.sum((1, 2), keepdim=True).clamp(min=1)
        mean = (grey * inside).sum((1, 2), keepdim=True) / count
        variance = ((grey - mean).square() * inside).sum((1, 2), keepdim=True) / count
        normalised = (grey - mean) * inside / (variance + 1e-5).sqrt()
        said = self.net(normalised[:, None])
        # half precision ends here; double stays double
        descriptors, logits, reliability = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in said)
        return functional.normalize(descriptors, dim=1), logits, reliability


def select_keypoints(
    score: Float[Tensor, "H W"], count: int, *, radius: int = 2, threshold: float = 0.01, taken: Tensor | None = None
) -> Float[Tensor, "Q 2"]:
    """Network pixel positions of local maxima of ``score``, the best ``count`` of them.

    Args:
        score: of each pixel.
        count: at most so many.
        radius: no two within this many pixels.
        threshold: lowest score.
        taken: ``[T 2]`` positions whose neighbourhood of 4 pixels is left out.

    Returns:
        Positions, corner origin, best first; fewer than ``count`` where the picture has no more.
    """
    peak = functional.max_pool2d(score[None, None], 2 * radius + 1, 1, radius)[0, 0]
    keep = (score == peak) & (score > threshold)
    if taken is not None and len(taken):
        height, width = score.shape
        blocked = torch.zeros_like(score)
        column = taken[:, 0].long().clamp(0, width - 1)
        row = taken[:, 1].long().clamp(0, height - 1)
        blocked[row, column] = 1
        keep &= functional.max_pool2d(blocked[None, None], 9, 1, 4)[0, 0] == 0
    row, column = keep.nonzero(as_tuple=True)
    best = score[row, column].argsort(descending=True, stable=True)[:count]
    return torch.stack([column[best], row[best]], -1).to(score.dtype) + 0.5
