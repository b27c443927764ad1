"""Measures of tracks, as pure functions. Every convention that could be guessed wrong is stated where it is used."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.scene import TensorRecord

TAP_SIDE_PX = 256.0
"""TAP-Vid measures on pictures of 256 x 256 pixels, whatever their shape was."""

TAP_THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)


def epipolar_distance(
    fundamental: Float[Tensor, "*batch 3 3"], xy1: Float[Tensor, "*batch N 2"], xy2: Float[Tensor, "*batch N 2"]
) -> Float[Tensor, "*batch N"]:
    """Distance in the second image from ``xy2`` to the epipolar line of ``xy1``.

    One-sided: the first position is taken as exact, as that of a query is. Only the part of an error across the line
    shows; a random position comes out within ``d`` px of the line in about ``2 d / height`` of all cases.

    Args:
        fundamental: ``x2^T F x1 = 0``.
        xy1: x then y, in the units that ``fundamental`` takes on its right.
        xy2: x then y, in the units that ``fundamental`` takes on its left; the distance has these units too.

    Returns:
        Distances, not negative; zero where ``xy1`` is the epipole, which has no line.
    """
    x1 = torch.cat([xy1, torch.ones_like(xy1[..., :1])], -1)
    line = x1 @ fundamental.mT
    algebraic = (line[..., :2] * xy2).sum(-1) + line[..., 2]
    return algebraic.abs() / line[..., :2].norm(dim=-1).clamp_min(torch.finfo(line.dtype).tiny ** 0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class TapVid(TensorRecord):
    """TAP-Vid's figures, each from 0 to 1, one per scene; NaN where nothing was there to be measured.

    Attributes:
        points_within: share of the truly visible positions within each threshold, predicted visible or not.
        jaccard: of each threshold.
        occlusion_accuracy: OA, share of the positions whose visibility is predicted rightly.
    """

    points_within: Float[Tensor, "B T"]
    jaccard: Float[Tensor, "B T"]
    occlusion_accuracy: Float[Tensor, " B"]

    @property
    def delta_average(self) -> Float[Tensor, " B"]:
        """``< delta_avg``: mean of ``points_within`` over the thresholds."""
        return self.points_within.mean(-1)

    @property
    def average_jaccard(self) -> Float[Tensor, " B"]:
        """AJ: mean of ``jaccard`` over the thresholds."""
        return self.jaccard.mean(-1)


def tap_vid(
    predicted_xy: Float[Tensor, "B S N 2"],
    predicted_visible: Bool[Tensor, "B S N"],
    true_xy: Float[Tensor, "B S N 2"],
    true_visible: Bool[Tensor, "B S N"],
    evaluated: Bool[Tensor, "B S N"],
    size: Int[Tensor, "B S 2"],
) -> TapVid:
    """The measures of TAP-Vid (Doersch et al., NeurIPS 2022, Sec. 3.2 and appendix), scene by scene.

    - Positions are x then y, in pixels of pictures of ``size`` (width, height). They are rescaled to 256 x 256, width
      and height each by its own factor, and the thresholds of 1, 2, 4, 8 and 16 px refer to that size. Only differences
      of positions count, so the origin of the pixels does not matter as long as both use the same.
    - Within means strictly nearer than the threshold.
    - ``delta``: of the positions that are truly visible; whether they are predicted visible does not matter.
    - Jaccard: true positives (truly visible, predicted visible, within) over all truly visible positions plus the false
      positives (predicted visible, but not truly visible or not within). A position that is predicted visible but too
      far off counts twice in the denominator, once as missed and once as false, as in the benchmark.
    - All tracks of a scene are pooled, then the mean over scenes is to be taken, as over videos there.

    Unlike the benchmark's ``first`` mode, a query need not lie in the first frame where its point is seen: frames
    before the query frame may count as well as those after it. ``evaluated`` says which; leave out the query frames,
    padding frames and padding tracks.
    """
    evaluated_count = evaluated.sum((1, 2))
    correct_visibility = ((predicted_visible == true_visible) & evaluated).sum((1, 2))
    offset = (predicted_xy - true_xy) * (TAP_SIDE_PX / size[:, :, None].to(predicted_xy.dtype))
    squared = offset.square().sum(-1)
    real = true_visible & evaluated
    claimed = predicted_visible & evaluated
    within_share, jaccard = [], []
    for threshold in TAP_THRESHOLDS_PX:
        within = squared < threshold**2
        true_positives = (real & claimed & within).sum((1, 2))
        false_positives = (claimed & ~(true_visible & within)).sum((1, 2))
        within_share.append((real & within).sum((1, 2)) / real.sum((1, 2)))
        jaccard.append(true_positives / (real.sum((1, 2)) + false_positives))
    return TapVid(
        points_within=torch.stack(within_share, -1),
        jaccard=torch.stack(jaccard, -1),
        occlusion_accuracy=correct_visibility / evaluated_count,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class VisibilityCounts(TensorRecord):
    """Counts that precision and recall are made of, one per scene, to be added over scenes.

    Attributes:
        right: predicted visible, truly visible and near enough to the truth.
        claimed: predicted visible.
        real: truly visible.
    """

    right: Int[Tensor, " B"]
    claimed: Int[Tensor, " B"]
    real: Int[Tensor, " B"]


def visibility_counts(
    error_px: Float[Tensor, "B S N"],
    predicted_visible: Bool[Tensor, "B S N"],
    true_visible: Bool[Tensor, "B S N"],
    evaluated: Bool[Tensor, "B S N"],
    max_error_px: float,
) -> VisibilityCounts:
    """What precision (``right / claimed``) and recall (``right / real``) of the visibility need.

    Visible is right only where the track also is: a truly visible point that is predicted visible ``max_error_px`` or
    more away from the truth counts against both.
    """
    claimed = predicted_visible & evaluated
    right = claimed & true_visible & (error_px < max_error_px)
    real = true_visible & evaluated
    return VisibilityCounts(right=right.sum((1, 2)), claimed=claimed.sum((1, 2)), real=real.sum((1, 2)))


def inside_ellipse(
    offset: Float[Tensor, "*batch 2"], covariance: Float[Tensor, "*batch 2 2"], probability: float
) -> Bool[Tensor, "*batch"]:
    """Whether an error lies inside the ellipse that a Gaussian with this covariance fills with ``probability``.

    The squared Mahalanobis distance of two dimensions has the quantile ``-2 ln(1 - p)`` (chi-square, 2 degrees of
    freedom): 1.386 for one half, 4.605 for nine tenths. Offset and covariance are in the same pixels; the first axis of
    both is x. A covariance that is not positive definite has no ellipse: nothing is inside.
    """
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = offset.unbind(-1)
    determinant = a * c - b * b
    proper = (determinant > 0) & (a > 0)
    safe = torch.where(proper, determinant, torch.ones_like(determinant))
    squared = (c * x * x - 2 * b * x * y + a * y * y) / safe
    return proper & (squared < -2 * math.log(1 - probability))
