"""What each stage is asked for, as pure functions: one loss a stage."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import pose, rotation


def start_loss(
    descriptors: Float[Tensor, "K Q C"],
    target: Float[Tensor, "K C h w"],
    xy: Float[Tensor, "K Q 2"],
    weight: Float[Tensor, "K Q"],
    temperature: float,
) -> tuple[Float[Tensor, ""], Bool[Tensor, "K Q"]]:
    """Cross entropy of finding each query among all cells of another frame: the search that starts a track.

    The truth is spread over the four cells around ``xy``, as bilinear weights.

    Args:
        descriptors: unit vectors of the queries.
        target: unit vectors of each cell of the other frame.
        xy: true position there, in cells, corner origin.
        weight: of each query; 0 where it is not seen there.
        temperature: of the softmax over cells.

    Returns:
        loss: mean over the weights.
        found: the best cell is the truth's own or a neighbour.
    """
    height, width = target.shape[-2:]
    scores = descriptors @ target.flatten(2) / temperature
    log_share = scores.log_softmax(-1)
    corner = (xy - 0.5).floor()
    part = xy - 0.5 - corner
    loss = torch.zeros_like(weight)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1])
            column = (corner[..., 0] + dx).clamp(0, width - 1).long()
            row = (corner[..., 1] + dy).clamp(0, height - 1).long()
            loss = loss - share * log_share.gather(-1, (row * width + column)[..., None])[..., 0]
    best = scores.detach().argmax(-1)
    where = torch.stack([best % width, best // width], -1) + 0.5
    found = (where - xy).abs().amax(-1) < 1.5  # noqa: PLR2004
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6), found


def distillation_loss(student: Float[Tensor, "K C h w"], teacher: Float[Tensor, "K C h w"]) -> Float[Tensor, ""]:
    """Mean of one minus the cosine between unit descriptors of two networks."""
    return 1 - (student * teacher).sum(1).mean()


def reliability_loss(
    reliability: Float[Tensor, "K Q"], found: Bool[Tensor, "K Q"], weight: Float[Tensor, "K Q"]
) -> Float[Tensor, ""]:
    """Binary cross entropy of the reliability at queries, against whether the search found them."""
    loss = functional.binary_cross_entropy(reliability.clamp(1e-4, 1 - 1e-4), found.to(reliability), reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def visibility_loss(
    logit: Float[Tensor, "*b"], right: Bool[Tensor, "*b"], weight: Float[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Binary cross entropy of an observation being right: the point is seen there, and at that position."""
    loss = functional.binary_cross_entropy_with_logits(logit, right.to(logit), reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def position_loss(
    error: Float[Tensor, "*b 2"], covariance: Float[Tensor, "*b 2 2"], weight: Float[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Negative log-likelihood of position errors under a 2D Gaussian, without its constant."""
    loss = 0.5 * (mahalanobis_squared(error, covariance) + determinant(covariance).log())
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def determinant(covariance: Float[Tensor, "*b 2 2"]) -> Float[Tensor, "*b"]:
    """Of 2 x 2 matrices, written out and kept positive."""
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    return (a * c - b * b).clamp(min=1e-12)


def mahalanobis_squared(error: Float[Tensor, "*b 2"], covariance: Float[Tensor, "*b 2 2"]) -> Float[Tensor, "*b"]:
    """``e^T C^-1 e``, written out for 2 x 2."""
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = error.unbind(-1)
    return (c * x * x - 2 * b * x * y + a * y * y) / determinant(covariance)


def pair_angles_deg(
    found: Float[Tensor, "B S 3 4"], true: Float[Tensor, "B S 3 4"]
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Errors of the relative rotation and of the direction of the relative translation of every pair, 0 to 180."""
    first, second = torch.triu_indices(true.shape[1], true.shape[1], 1, device=true.device)
    ours, theirs = (pose.relative(poses[:, first], poses[:, second]) for poses in (found, true))
    turned = rotation.angle_deg(ours[..., :3] @ theirs[..., :3].mT)
    a, b = ours[..., 3], theirs[..., 3]
    across = torch.linalg.cross(a, b)
    return turned, torch.rad2deg(torch.atan2((across.square().sum(-1) + 1e-18).sqrt(), (a * b).sum(-1) + 1e-12))


def camera_loss(
    found: Float[Tensor, "B S 3 4"],
    true: Float[Tensor, "B S 3 4"],
    log_focal: Float[Tensor, "B S"],
    true_log_focal: Float[Tensor, "B S"],
    *,
    degrees: float = 2.0,
    share: float = 0.05,
) -> Float[Tensor, ""]:
    """Logarithm of the errors of all pairs of cameras and of the focal lengths: no scene counts without bounds.

    Args:
        found: ``cam_from_world``.
        true: ``cam_from_world``.
        log_focal: logarithm of the focal lengths.
        true_log_focal: of the true ones.
        degrees: error at which a pair counts less than in proportion.
        share: relative error of the focal length at which it does.
    """
    angles = torch.stack(pair_angles_deg(found, true))
    off = (log_focal - true_log_focal).abs()
    return torch.log1p(angles / degrees).mean() + 0.3 * torch.log1p(off / share).mean()


def point_loss(
    found: Float[Tensor, "N 3"], true: Float[Tensor, "N 3"], deviation: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Logarithm of the distances to the true points, in deviations of a fit: mistakes do not rule."""
    distance = ((found - true).square().sum(-1) + 1e-18).sqrt()
    return torch.log1p(distance / deviation).mean()
