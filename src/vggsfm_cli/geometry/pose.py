"""Rigid transforms ``[..., 3, 4]``, written ``target_from_source``: names cancel when transforms are composed."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def transform(
    target_from_source: Float[Tensor, "*batch 3 4"], xyz: Float[Tensor, "*points 3"]
) -> Float[Tensor, "*result 3"]:
    """Move points from the source frame to the target frame; batch axes of both broadcast."""
    rotated = (target_from_source[..., :3] @ xyz.unsqueeze(-1)).squeeze(-1)
    return rotated + target_from_source[..., 3]


def compose(
    c_from_b: Float[Tensor, "*batch 3 4"], b_from_a: Float[Tensor, "*other 3 4"]
) -> Float[Tensor, "*result 3 4"]:
    """``c_from_a``: first ``b_from_a``, then ``c_from_b``."""
    rotation = c_from_b[..., :3] @ b_from_a[..., :3]
    translation = c_from_b[..., :3] @ b_from_a[..., 3:] + c_from_b[..., 3:]
    return torch.cat([rotation, translation], dim=-1)


def inverse(target_from_source: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
    """``source_from_target``."""
    transposed = target_from_source[..., :3].mT
    return torch.cat([transposed, -transposed @ target_from_source[..., 3:]], dim=-1)


def center(cam_from_world: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3"]:
    """Camera centre in world coordinates."""
    return -(cam_from_world[..., :3].mT @ cam_from_world[..., 3:]).squeeze(-1)


def relative(
    cam1_from_world: Float[Tensor, "*batch 3 4"], cam2_from_world: Float[Tensor, "*other 3 4"]
) -> Float[Tensor, "*result 3 4"]:
    """``cam2_from_cam1``."""
    return compose(cam2_from_world, inverse(cam1_from_world))


def identity(*batch: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Identity transforms ``[*batch, 3, 4]``."""
    return torch.eye(3, 4, dtype=dtype, device=device).expand(*batch, 3, 4).clone()


def look_at(
    centers: Float[Tensor, "*b 3"], targets: Float[Tensor, "*b 3"], roll: Float[Tensor, "*b"]
) -> Float[Tensor, "*b 3 4"]:
    """``cam_from_world`` of cameras at ``centers`` that look at ``targets``; y of the world points down."""
    z = functional.normalize(targets - centers, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0], dtype=centers.dtype, device=centers.device).expand_as(z)
    x = functional.normalize(torch.linalg.cross(down, z), dim=-1)
    y = torch.linalg.cross(z, x)
    cosine, sine = roll.cos().unsqueeze(-1), roll.sin().unsqueeze(-1)
    rotation = torch.stack([cosine * x + sine * y, cosine * y - sine * x, z], -2)
    return torch.cat([rotation, -(rotation @ centers.unsqueeze(-1))], -1)
