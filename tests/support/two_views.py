"""What tests of two-view geometry measure with. Source: Hartley & Zisserman, chapters 9 and 11."""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import epipolar


def fundamental_from_pose(
    cam2_from_cam1: Float[Tensor, "*batch 3 4"], k1: Float[Tensor, "*batch 3 3"], k2: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """``F = K2^-T E K1^-1`` of a relative pose and two calibration matrices."""
    return torch.linalg.inv(k2).mT @ epipolar.essential_from_pose(cam2_from_cam1) @ torch.linalg.inv(k1)


def sampson_error(
    matrix: Float[Tensor, "*batch 3 3"], xy1: Float[Tensor, "*batch N 2"], xy2: Float[Tensor, "*batch N 2"]
) -> Float[Tensor, "*batch N"]:
    """Signed first-order distance of correspondences to the epipolar constraint, in units of ``xy`` (H&Z 11.4.3)."""
    x1, x2 = (torch.cat([xy, torch.ones_like(xy[..., :1])], -1) for xy in (xy1, xy2))
    line2 = x1 @ matrix.mT
    line1 = x2 @ matrix
    algebraic = (x2 * line2).sum(-1)
    squared = line1[..., :2].square().sum(-1) + line2[..., :2].square().sum(-1)
    return algebraic / squared.clamp_min(torch.finfo(squared.dtype).tiny ** 0.5).sqrt()
