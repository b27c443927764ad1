"""How much cameras and points explain of what was observed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def explained(error: Float[Tensor, "*batch V N"], inliers: Bool[Tensor, "*batch V N"]) -> float:
    """Two per inlier observation, less as its error grows, minus three per point.

    Points that explain less than their own three coordinates cost add nothing, so cameras gain by long tracks that fit
    and not by pairs of views, which fit easily.

    Args:
        error: reprojection errors of N points in V views, over the threshold of an inlier.
        inliers: observations that agree.
    """
    gain = torch.where(inliers, 2 * (1 - error.square()).clamp_min(0), torch.zeros_like(error)).sum(-2) - 3
    return float(gain.clamp_min(0).sum())
