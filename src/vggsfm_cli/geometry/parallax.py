"""What of the motion between two views a turn of the camera does not explain."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vggsfm_cli.geometry import rotation


def beyond_rotation(
    xy1_normalized: Float[Tensor, "*batch m 2"], xy2_normalized: Float[Tensor, "*batch m 2"]
) -> Float[Tensor, "*batch"]:
    """Median distance, on the plane z = 1 of the second view, that no rotation between the views explains."""
    one = torch.ones_like(xy1_normalized[..., :1])
    rays1, rays2 = (torch.cat([xy, one], -1) for xy in (xy1_normalized, xy2_normalized))
    turn = rotation.between_rays(normalize(rays1, dim=-1), normalize(rays2, dim=-1), one.squeeze(-1))
    turned = rays1 @ turn.mT
    return (turned[..., :2] / turned[..., 2:] - xy2_normalized).norm(dim=-1).median(-1).values
