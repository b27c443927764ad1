"""Measures of camera poses, as pure functions. Angles are degrees, shares go from 0 to 1."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry import alignment, pose, rotation
from vggsfm_cli.scene import TensorRecord

MIN_BASELINE = 0.005
"""As a share of the scene's extent: below it the direction between two cameras means nothing and is not scored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairErrors(TensorRecord):
    """Errors of the relative pose of every pair of true images; infinite where an image has no pose."""

    rotation_deg: Float[Tensor, " P"]
    translation_deg: Float[Tensor, " P"]

    @property
    def worse_deg(self) -> Float[Tensor, " P"]:
        """The larger of both."""
        return torch.maximum(self.rotation_deg, self.translation_deg)


def pair_errors(
    found: Float[Tensor, "S 3 4"], true: Float[Tensor, "S 3 4"], registered: Bool[Tensor, " S"]
) -> PairErrors:
    """Compare the relative poses of all pairs, which no choice of world frame or scale changes.

    Args:
        found: ``cam_from_world``; anything where not registered.
        true: ``cam_from_world`` of the same images.
        registered: which images have a pose.

    Returns:
        The angle of the rotation between both relative rotations, and the angle between the translations (its sign
        counts: 0 to 180). Pairs whose true cameras stand closer than ``MIN_BASELINE`` have no translation error.
    """
    first, second = torch.triu_indices(len(true), len(true), 1, device=true.device)
    found_relative, true_relative = pose.relative(found[first], found[second]), pose.relative(true[first], true[second])
    rotation_deg = rotation.angle_deg(found_relative[..., :3] @ true_relative[..., :3].mT)
    translation_deg = between_deg(found_relative[..., 3], true_relative[..., 3])
    near = true_relative[..., 3].norm(dim=-1) <= MIN_BASELINE * extent(pose.center(true))
    translation_deg = torch.where(near, torch.zeros_like(translation_deg), translation_deg)
    both = registered[first] & registered[second]
    infinite = torch.full_like(rotation_deg, torch.inf)
    return PairErrors(
        rotation_deg=torch.where(both, rotation_deg, infinite),
        translation_deg=torch.where(both, translation_deg, infinite),
    )


def without_sign(errors: PairErrors) -> PairErrors:
    """Pair errors in which the sign of a direction does not count: translation errors folded at 90 degrees.

    VGGSfM and PoseDiffusion (ICCV 2023) evaluate so, on all benchmarks. Infinite errors stay infinite.
    """
    between = errors.translation_deg
    folded = torch.where(between.isfinite(), torch.minimum(between, 180 - between), between)
    return dataclasses.replace(errors, translation_deg=folded)


def between_deg(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Angle between vectors, 0 to 180; 180 if just one of them is zero."""
    angle = torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))
    missing = (a.norm(dim=-1) == 0) ^ (b.norm(dim=-1) == 0)
    return torch.where(missing, torch.full_like(angle, 180.0), angle)


def extent(centers: Float[Tensor, "S 3"]) -> Float[Tensor, ""]:
    """Largest distance between two of the positions; 0 if there is just one."""
    return torch.cdist(centers, centers).max()


def accuracy(error_deg: Float[Tensor, " P"], threshold_deg: float | int) -> float:
    """Share of errors strictly below the threshold (RRA and RTA); 0 if there is none."""
    return float((error_deg < threshold_deg).double().mean()) if len(error_deg) else 0.0


def auc_max(errors: PairErrors, threshold_deg: float | int) -> float:
    """Area under the share of pairs whose larger error is below tau, for tau from 0 to the threshold, exact.

    As in the Image Matching Challenge, but without its bins.
    """
    worse = errors.worse_deg
    return float((1 - worse / threshold_deg).clamp(0, 1).mean()) if len(worse) else 0.0


def auc_min(errors: PairErrors, threshold_deg: int) -> float:
    """Mean over tau = 1, 2, ... threshold of the smaller of RRA@tau and RTA@tau.

    So the texts of PoseDiffusion and VGGSfM describe it; their figures are those of ``auc_by_degrees``.
    """
    shares = [
        min(accuracy(errors.rotation_deg, tau), accuracy(errors.translation_deg, tau))
        for tau in range(1, threshold_deg + 1)
    ]
    return sum(shares) / len(shares)


def auc_by_degrees(errors: PairErrors, threshold_deg: int) -> float:
    """Mean over tau = 1, 2, ... threshold of the share of pairs whose larger error is below tau, as VGGSfM reports it.

    This is the mean of a cumulative histogram with bins of one degree; ``auc_max`` is the exact area, which is larger
    by up to half a degree's worth. 0 without pairs.
    """
    worse = errors.worse_deg
    shares = [accuracy(worse, tau) for tau in range(1, threshold_deg + 1)]
    return sum(shares) / len(shares)


def aligned_distances(found: Float[Tensor, "S 3 4"], true: Float[Tensor, "S 3 4"]) -> Float[Tensor, " S"]:
    """Distance of every camera to the true one, in the units of ``true``, after the best similarity of the centres.

    The root of its mean square is the absolute trajectory error (ATE).
    """
    centers, goal = pose.center(found), pose.center(true)
    return (alignment.apply_to_points(*umeyama_of(centers, goal), centers) - goal).norm(dim=-1)


def umeyama_of(
    source: Float[Tensor, "S 3"], target: Float[Tensor, "S 3"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """The similarity between positions of equal weight."""
    return alignment.umeyama(source, target, torch.ones_like(source[..., 0]))
