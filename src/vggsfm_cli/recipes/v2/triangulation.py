"""Triangulation as VGGSfM v2 does it: all pairs of frames, consensus by angle, two rounds on the inliers.

Where the published code also counts frames that do not see a point, the configuration says so.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vggsfm_cli.geometry import pose
from vggsfm_cli.geometry import triangulate as multiview
from vggsfm_cli.scene import Cameras, Points, Tracks
from vggsfm_cli.triangulation.ransac import reprojection_error


@dataclass(frozen=True, kw_only=True)
class V2TriangulationConfig:
    """Settings; the published values."""

    max_pairs: int = 256  # hypotheses of a track
    refined: int = 50  # of them, best first, that are fitted to their inliers
    refined_again: int = 10
    max_error_deg: float = 2.0  # between the ray of an observation and that to the point
    min_angle_deg: float = 1.5  # between the rays of two views
    max_coordinate: float = 300.0  # of a point, where the cameras span 5
    # the published code asks that a refined point lies in front of all frames, also those that do not see it
    all_frames: bool = False
    chunk_elements: int = 4_000_000  # tracks x hypotheses x frames handled at once


def robust_points(
    xy_normalized: Float[Tensor, "S N 2"],
    cam_from_world: Float[Tensor, "S 3 4"],
    usable: Bool[Tensor, "S N"],
    config: V2TriangulationConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, "S N"]]:
    """A point for every track, and the observations that agree with it; none for a track that nothing supports.

    Args:
        xy_normalized: undistorted positions on the z = 1 plane.
        cam_from_world: pose of every frame.
        usable: observations that may agree.
        config: settings.
        generator: draws the pairs of frames when there are too many; on the CPU.
    """
    frames, count = usable.shape
    pairs = _pairs(frames, config.max_pairs, generator).to(usable.device)
    step = max(1, config.chunk_elements // (frames * (pairs.shape[1] + 2 * config.refined)))
    found = [
        _chunk(
            xy_normalized[:, at : at + step].transpose(0, 1),
            cam_from_world,
            usable[:, at : at + step].mT,
            pairs,
            config,
        )
        for at in range(0, count, step)
    ]
    if not found:
        return xy_normalized.new_zeros(0, 3), usable
    return torch.cat([xyz for xyz, _ in found]), torch.cat([inliers for _, inliers in found]).mT


def _pairs(frames: int, limit: int, generator: torch.Generator) -> Int[Tensor, "2 P"]:
    """All pairs of frames, or so many of them, drawn at random."""
    pairs = torch.triu_indices(frames, frames, 1)
    if pairs.shape[1] < limit:
        return pairs
    return pairs[:, torch.randperm(pairs.shape[1], generator=generator)[:limit]]


def _chunk(
    xy: Float[Tensor, "n S 2"],
    cam_from_world: Float[Tensor, "S 3 4"],
    usable: Bool[Tensor, "n S"],
    pairs: Int[Tensor, "2 P"],
    config: V2TriangulationConfig,
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, "n S"]]:
    rays = normalize(torch.cat([xy, torch.ones_like(xy[..., :1])], -1), dim=-1)
    forms = multiview.ray_forms(rays, cam_from_world.expand(len(xy), -1, -1, -1))
    xyz = multiview.triangulate_forms(forms[:, pairs[0]] + forms[:, pairs[1]])
    in_pair = torch.zeros(pairs.shape[1], usable.shape[1], dtype=torch.bool, device=usable.device)
    in_pair = in_pair.scatter(1, pairs.mT, True)
    error = _errors(xyz, rays, cam_from_world, usable, in_pair.expand(len(xy), -1, -1), config)
    stages = [(xyz, error)]
    for limit in (config.refined, config.refined_again):
        inliers = error <= torch.pi / 180 * config.max_error_deg
        best = inliers.sum(-1).argsort(dim=-1, descending=True, stable=True)[:, :limit]
        inliers = inliers.gather(1, best[..., None].expand(-1, -1, inliers.shape[-1]))
        weighted = inliers.to(forms.dtype) @ forms.flatten(-2)
        xyz = multiview.triangulate_forms(weighted.unflatten(-1, (4, 4)))
        held = torch.ones_like(inliers) if config.all_frames else inliers
        error = _errors(xyz, rays, cam_from_world, usable, held, config)
        stages.append((xyz, error))
    return _best(torch.cat([xyz for xyz, _ in stages], 1), torch.cat([error for _, error in stages], 1), config)


def _errors(
    xyz: Float[Tensor, "n K 3"],
    rays: Float[Tensor, "n S 3"],
    cam_from_world: Float[Tensor, "S 3 4"],
    usable: Bool[Tensor, "n S"],
    held: Bool[Tensor, "n K S"],
    config: V2TriangulationConfig,
) -> Float[Tensor, "n K S"]:
    """Angles in radians between observations and points; beyond pi where the observation or the point does not count.

    A point counts that lies in front of the frames that hold it, seen under a wide enough angle from two of them.
    """
    xyz_cam = pose.transform(cam_from_world, xyz.unsqueeze(-2))
    error = angular_error(rays.unsqueeze(1), xyz_cam)
    in_front = ((xyz_cam[..., 2] > 0) | ~held).all(-1)
    valid = in_front & (widest_deg(xyz, cam_from_world, held) >= config.min_angle_deg)
    error = error + torch.pi * (~valid[..., None]).to(error.dtype) + torch.pi * (~usable[:, None]).to(error.dtype)
    return torch.where(error.isfinite(), error, torch.full_like(error, 100 * torch.pi))


def angular_error(rays: Float[Tensor, "*r 3"], xyz_cam: Float[Tensor, "*b 3"]) -> Float[Tensor, "*c"]:
    """Angle in radians between rays and the directions to points, in camera coordinates."""
    rays, xyz_cam = torch.broadcast_tensors(rays, xyz_cam)
    return torch.atan2(torch.linalg.cross(rays, xyz_cam).norm(dim=-1), (rays * xyz_cam).sum(-1))


def widest_deg(
    xyz: Float[Tensor, "*b 3"], cam_from_world: Float[Tensor, "S 3 4"], held: Bool[Tensor, "*b S"]
) -> Float[Tensor, "*b"]:
    """Largest angle in degrees, 0 to 90, between the lines from a point to two of the frames that hold it."""
    to_frame = normalize(pose.center(cam_from_world) - xyz.unsqueeze(-2), dim=-1)
    cosine = (to_frame @ to_frame.mT).abs()
    both = held.unsqueeze(-1) & held.unsqueeze(-2)
    return torch.rad2deg(torch.acos(torch.where(both, cosine, 1.0).flatten(-2).amin(-1).clamp(max=1.0)))


def _best(
    xyz: Float[Tensor, "n K 3"], error: Float[Tensor, "n K S"], config: V2TriangulationConfig
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, "n S"]]:
    """The hypothesis with most inliers, and of those the one with the smallest mean error."""
    inliers = error <= torch.pi / 180 * config.max_error_deg
    count = inliers.sum(-1)
    mean = torch.where(inliers, error, torch.zeros_like(error)).sum(-1) / count.clamp_min(1)
    best = (count - mean / torch.pi).argmax(-1)
    each = torch.arange(len(best), device=best.device)
    return torch.where((count[each, best] > 0)[:, None], xyz[each, best], 0.0), inliers[each, best]


def pair_points(
    xy_normalized: Float[Tensor, "S N 2"], cam_from_world: Float[Tensor, "S 3 4"], reference: int
) -> tuple[Float[Tensor, "S N 3"], Bool[Tensor, "S N"], Float[Tensor, "S N"]]:
    """Points from ``reference`` and each other frame.

    Returns:
        xyz: world coordinates; meaningless for ``reference`` itself.
        in_front: of both frames.
        angle_deg: between the two lines of sight, 0 to 90.
    """
    rays = normalize(torch.cat([xy_normalized, torch.ones_like(xy_normalized[..., :1])], -1), dim=-1)
    forms = multiview.ray_forms(rays, cam_from_world[:, None].expand(-1, rays.shape[1], -1, -1))
    xyz = multiview.triangulate_forms(forms + forms[reference])
    depth = pose.transform(cam_from_world[:, None], xyz)[..., 2]
    depth_reference = pose.transform(cam_from_world[reference], xyz)[..., 2]
    centers = pose.center(cam_from_world)[:, None].expand_as(xyz)
    angle = multiview.fold_deg(multiview.angle_deg(xyz, centers, centers[reference].expand_as(xyz)))
    return xyz, (depth > 0) & (depth_reference > 0), angle


def reprojection_filter(
    cameras: Cameras,
    points: Points,
    tracks: Tracks,
    counted: Bool[Tensor, "1 S N"],
    max_error_px: Float[Tensor, "1 S"],
    config: V2TriangulationConfig,
    *,
    check_angle: bool,
) -> tuple[Bool[Tensor, "1 N"], Bool[Tensor, "1 S N"]]:
    """Points that at least two frames hold, and the observations that hold them.

    Args:
        cameras: of one scene.
        points: a track each.
        tracks: stored pixels.
        counted: observations that may count.
        max_error_px: of each frame, stored pixels.
        config: settings.
        check_angle: whether two of the frames must see the point under a wide enough angle.

    Returns:
        valid: the points.
        inliers: observations within ``max_error_px``; those of a point without a wide angle are out as well.
    """
    inliers = counted & (reprojection_error(cameras, points, tracks) <= max_error_px[..., None])
    if check_angle:
        angle = widest_deg(points.xyz_world[0], cameras.cam_from_world[0], inliers[0].mT)
        inliers = inliers & (angle >= config.min_angle_deg)[None, None]
    near = (points.xyz_world.abs() <= config.max_coordinate).all(-1)
    return points.valid & near & (inliers.sum(1) >= 2), inliers  # noqa: PLR2004
