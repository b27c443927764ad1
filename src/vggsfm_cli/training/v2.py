"""What VGGSfM v2 was trained for: losses of its tracker and its camera predictor, and the cameras it was shown.

Nothing here trains that model; whoever fine-tunes it needs targets in the form it learnt.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import pose

DISCOUNT = 0.8
"""Weight of an iteration's output against the next one's."""


def sequence_loss(
    predicted: Float[Tensor, "K B S N 2"],
    true: Float[Tensor, "B S N 2"],
    valid: Bool[Tensor, "B S N"],
    *,
    weight: Float[Tensor, "B S N"] | None = None,
    huber_px: float | None = None,
) -> Float[Tensor, ""]:
    """Discounted error of all iterations of a tracker, in pixels, coordinates and observations averaged.

    The coarse tracker is weighted by the true visibility plus 0.1 over tracks whose query is visible; the fine one is
    not weighted, and counts what is visible, less the query's own frame.

    Args:
        predicted: positions after each iteration.
        true: positions.
        valid: observations that count.
        weight: of each error; one if None.
        huber_px: error beyond which the loss is linear; the plain distance if None.
    """
    error = (predicted - true).abs()
    if huber_px is not None:
        error = torch.where(error <= huber_px, 0.5 * error.square(), huber_px * (error - 0.5 * huber_px))
    each = error.mean(-1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if weight is not None:
        each = each * weight
    mean = torch.where(valid, each, torch.zeros_like(each)).sum((1, 2, 3)) / (valid.sum() + 1e-9)
    return (mean * _discounts(predicted)).mean()


def balanced_visibility_loss(
    logit: Float[Tensor, "*b"], visible: Bool[Tensor, "*b"], valid: Bool[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Binary cross entropy, visible and hidden observations averaged apart and added.

    The published training gave it the visibility itself, between 0 and 1, for ``logit``.
    """
    each = functional.binary_cross_entropy_with_logits(logit, visible.to(logit), reduction="none")
    total = logit.new_zeros(())
    for chosen in (visible & valid, ~visible & valid):
        total = total + torch.where(chosen, each, torch.zeros_like(each)).sum() / (chosen.sum() + 1e-9)
    return total


def encoding_loss(predicted: Float[Tensor, "K S 8"], true: Float[Tensor, "S 8"]) -> Float[Tensor, ""]:
    """Discounted distance of all iterations' pose encodings, ten times the mean over iterations."""
    return 10 * ((predicted - true).abs().mean((1, 2)) * _discounts(predicted)).mean()


def _discounts(predicted: Float[Tensor, "K *b"]) -> Float[Tensor, " K"]:
    return DISCOUNT ** torch.arange(len(predicted) - 1, -1, -1, dtype=predicted.dtype, device=predicted.device)


def normalize_cameras(
    cam_from_world: Float[Tensor, "S 3 4"], xyz_world: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "N 3"]]:
    """True cameras and points in the world and the scale that the camera predictor learnt.

    The first frame is at the origin, and the root mean square of the other translations is two. (Before that the
    published code divides by the first camera's distance to the point nearest to all optical axes, which only matters
    to the limits of the last scale, 0.01 and 100.)
    """
    nearest = nearest_to_axes(cam_from_world)
    distance = (pose.center(cam_from_world[0]) - nearest).norm()
    first = cam_from_world[0]
    moved = pose.compose(cam_from_world, pose.inverse(first))
    translations = moved[:, :, 3] / distance
    scale = (translations[1:].square().sum(-1).mean().sqrt() / 2).clamp(0.01, 100.0)
    translations = translations / scale
    points = pose.transform(first, xyz_world) / (distance * scale)
    return torch.cat([moved[..., :3], translations.unsqueeze(-1)], -1), points


def nearest_to_axes(cam_from_world: Float[Tensor, "S 3 4"]) -> Float[Tensor, "3"]:
    """The point with the least squared distance to the optical axes of all cameras."""
    axes = cam_from_world[:, 2, :3]
    across = torch.eye(3, dtype=axes.dtype, device=axes.device) - axes[:, :, None] * axes[:, None]
    right = (across @ pose.center(cam_from_world).unsqueeze(-1)).sum(0)
    return torch.linalg.lstsq(across.sum(0), right).solution.squeeze(-1)


def crop_calibration(
    focal: Float[Tensor, "2"],
    principal_point: Float[Tensor, "2"],
    size: Float[Tensor, "2"],
    box: Float[Tensor, "4"],
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """A calibration in half short sides, axes to the left and up, after the picture is cropped; resizing keeps it.

    Args:
        focal: in half short sides.
        principal_point: offset from the centre, in half short sides.
        size: width and height in pixels.
        box: left, top, width and height of the crop in pixels; may reach outside the picture.
    """
    half, half_crop = size.min() / 2, box[2:].min() / 2
    pixels = size / 2 - principal_point * half
    return focal * half / half_crop, (box[2:] / 2 - (pixels - box[:2])) / half_crop
