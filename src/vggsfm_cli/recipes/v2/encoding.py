"""Cameras as eight numbers, as VGGSfM v2 predicts them, and back.

An encoding is ``(T_x, T_y, T_z, q_w, q_x, q_y, q_z, f)``: the pose in PyTorch3D's convention (row vectors,
``x_cam = x_world R + T``, x to the left, y up), its quaternion of any length but zero, and the focal length in half
short sides of the picture. Everything outside this file has OpenCV's axes and pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import pose, rotation

FOCAL_RANGE = (0.1, 30.0)
"""Encoded focal lengths are held in this range."""

LENGTH = 8
"""Numbers of an encoding."""


def from_pytorch3d(
    rotation_p3d: Float[Tensor, "*b 3 3"], translation_p3d: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3 4"]:
    """``cam_from_world`` of PyTorch3D's ``R`` and ``T``."""
    flip = translation_p3d.new_tensor([-1.0, -1.0, 1.0])
    return torch.cat([(rotation_p3d * flip).mT, (translation_p3d * flip).unsqueeze(-1)], -1)


def to_pytorch3d(cam_from_world: Float[Tensor, "*b 3 4"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """PyTorch3D's ``R`` and ``T`` of ``cam_from_world``."""
    flip = cam_from_world.new_tensor([-1.0, -1.0, 1.0])
    return cam_from_world[..., :3].mT * flip, cam_from_world[..., 3] * flip


def encode(cam_from_world: Float[Tensor, "*b 3 4"], focal: Float[Tensor, "*b"]) -> Float[Tensor, "*b 8"]:
    """Encodings of cameras.

    Args:
        cam_from_world: poses.
        focal: in half short sides of the picture.
    """
    turned, translation = to_pytorch3d(cam_from_world)
    focal = focal.clamp(*FOCAL_RANGE).unsqueeze(-1)
    return torch.cat([translation, rotation.to_quaternion(turned), focal], -1)


def decode(encoding: Float[Tensor, "*b 8"]) -> tuple[Float[Tensor, "*b 3 4"], Float[Tensor, "*b"]]:
    """``cam_from_world`` and focal lengths, in half short sides of the picture, of encodings."""
    poses = from_pytorch3d(rotation.from_quaternion(encoding[..., 3:7]), encoding[..., :3])
    return poses, encoding[..., 7].clamp(*FOCAL_RANGE)


def relative_to(cam_from_world: Float[Tensor, "*b S 3 4"], frame: int) -> Float[Tensor, "*b S 3 4"]:
    """The same cameras in a world where ``frame`` is at the origin."""
    return pose.compose(cam_from_world, pose.inverse(cam_from_world[..., frame : frame + 1, :, :]))


def average(
    cam_from_world: Float[Tensor, "R S 3 4"], focal: Float[Tensor, "R S"]
) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "S"]]:
    """Mean of R predictions of the same cameras that have the same origin and scale.

    Rotations by ``rotation.mean``, which turns the quaternions to one side first: the published code does not, and
    two equal rotations with opposite quaternions cancel there.
    """
    turned = rotation.mean(cam_from_world[..., :3])
    return torch.cat([turned, cam_from_world[..., 3:].mean(0)], -1), focal.mean(0)
