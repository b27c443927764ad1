"""Dense features of photographs and where in them tracks can start."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from kornia.feature import XFeatModel
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.scene import ImageSet, TensorRecord
from vggsfm_cli.tracking.lucas_kanade import Pyramid

STRIDE = 8
"""Network pixels per feature cell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMaps(TensorRecord):
    """What the tracker knows about every frame.

    Attributes:
        descriptors: unit vectors, one for each cell of ``STRIDE`` network pixels; zero where the cell is not usable.
        keypoint_score: how well a track could start at each network pixel, 0 to 1.
        usable: cells that lie inside the mask.
        photographs: brightness pyramids of the original files, for B scenes of S frames.
    """

    descriptors: Float[Tensor, "B S C h w"]
    keypoint_score: Float[Tensor, "B S H W"]
    usable: Bool[Tensor, "B S h w"]
    photographs: tuple[tuple[Pyramid, ...], ...] = ()


class XFeatEncoder(nn.Module):
    """XFeat (Potje et al., CVPR 2024): descriptors, keypoints and their reliability from one small network.

    The network normalises each photograph by its own mean and deviation. Padding must not count there, so that step is
    done here over usable pixels, and the network's own is switched off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = XFeatModel()
        self.net.add_module("norm", nn.Identity())

    def forward(self, images: ImageSet) -> FeatureMaps:
        """Encode every frame; one frame at a time, so that memory does not grow with the scene."""
        scenes = [
            [self._encode(images.pixels[b, s], images.mask[b, s]) for s in range(images.pixels.shape[1])]
            for b in range(images.pixels.shape[0])
        ]
        descriptors, score, usable = (
            torch.stack([torch.stack([frame[i] for frame in scene]) for scene in scenes]) for i in range(3)
        )
        return FeatureMaps(descriptors=descriptors, keypoint_score=score, usable=usable)

    def _encode(
        self, pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
    ) -> tuple[Float[Tensor, "C h w"], Float[Tensor, "H W"], Bool[Tensor, "h w"]]:
        grey = pixels.mean(0)
        inside = mask.to(grey.dtype)
        count = inside.sum().clamp(min=1)
        mean = (grey * inside).sum() / count
        variance = ((grey - mean).square() * inside).sum() / count
        normalised = (grey - mean) * inside / (variance + 1e-5).sqrt()
        descriptors, logits, reliability = self.net(normalised[None, None])
        descriptors, logits, reliability = descriptors.float(), logits.float(), reliability.float()
        usable = functional.avg_pool2d(inside[None, None], STRIDE)[0, 0] > 0.5  # noqa: PLR2004
        descriptors = functional.normalize(descriptors[0], dim=0) * usable
        score = functional.pixel_shuffle(logits.softmax(1)[:, :-1], STRIDE)
        reliability = functional.interpolate(reliability, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        return descriptors, (score * reliability)[0, 0] * inside, usable


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
