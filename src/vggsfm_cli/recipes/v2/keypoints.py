"""Where tracks may start in one picture, found by detectors that no tracker needs for anything else."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.io.keypoints import sift_keypoints
from vggsfm_cli.tracking.features import select_keypoints


class KeypointDetector(ABC):
    """Finds points in one picture; ``name`` is what the report calls it."""

    name: str

    @abstractmethod
    def __call__(self, pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], count: int) -> Float[Tensor, "Q 2"]:
        """At most ``count`` positions in network pixels, corner origin, best first; none where ``mask`` is False."""


class ScoreDetector(KeypointDetector):
    """The local maxima of a map that a network makes of a picture.

    Args:
        name: of the network.
        score: from a picture and its mask to how well a track could start at each pixel.
        threshold: lowest score.
    """

    def __init__(
        self,
        name: str,
        score: Callable[[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]], Float[Tensor, "H W"]],
        threshold: float,
    ) -> None:
        self.name, self.score, self.threshold = name, score, threshold

    def __call__(self, pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], count: int) -> Float[Tensor, "Q 2"]:
        """The best maxima, in float32 also under autocast."""
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            score = self.score(pixels, mask) * mask
        return select_keypoints(score, count, radius=2, threshold=self.threshold)


class SiftDetector(KeypointDetector):
    """OpenCV's SIFT; needs no weights."""

    name: str = "sift"

    def __call__(self, pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], count: int) -> Float[Tensor, "Q 2"]:
        """The strongest key points."""
        weights = pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        grey = (255 * (pixels * weights).sum(0)).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        xy = sift_keypoints(grey, np.asarray(mask.cpu().numpy()), count)
        return torch.from_numpy(xy).to(pixels)


class GridDetector(KeypointDetector):
    """Points on a grid over the usable part of the picture, whatever it shows."""

    name: str = "grid"

    def __call__(self, pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], count: int) -> Float[Tensor, "Q 2"]:
        """The grid, less what is masked."""
        row, column = mask.nonzero(as_tuple=True)
        if len(row) == 0:
            return pixels.new_zeros(0, 2)
        box = [float(value) + 0.5 for value in (column.min(), row.min(), column.max(), row.max())]
        xy = grid_points((box[0], box[1], box[2], box[3]), count).to(pixels)
        return xy[mask[xy[:, 1].long(), xy[:, 0].long()]]


def grid_points(box: tuple[float, float, float, float], count: int) -> Float[Tensor, "Q 2"]:
    """About ``count`` points, column by column, from edge to edge of a box (left, top, right, bottom)."""
    width, height = max(box[2] - box[0], 1.0), max(box[3] - box[1], 1.0)
    columns = max(1, int(math.sqrt(count * width / height)))
    rows = max(1, count // columns)
    x, y = torch.linspace(box[0], box[2], columns), torch.linspace(box[1], box[3], rows)
    return torch.cartesian_prod(x, y).reshape(-1, 2)
