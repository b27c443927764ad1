"""Cameras that grow from one pair of frames by resection, and how much such a star explains."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.camera_estimation.view_graph import Pair, PosedPair, ViewGraph, physical_cameras, relative_poses
from vggsfm_cli.colmap import estimators
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import consensus, pose, triangulate
from vggsfm_cli.scene import Cameras, ImageSet


@dataclass(frozen=True, kw_only=True)
class StarConfig:
    """Settings of the growth; thresholds in network pixels."""

    max_tracks: int = 1500  # longest tracks used
    max_error_px: float = 4.0
    min_inliers: int = 15  # of a resection
    max_frames: int | None = None


def grow_star(
    images: ImageSet,
    graph: ViewGraph,
    cameras: Cameras,
    seed: Pair,
    config: StarConfig,
    allowed: list[int] | None = None,
) -> Cameras | None:
    """Poses by resection on the points of one pair, in rounds with re-triangulation; None where the pair fails.

    Args:
        images: sizes.
        graph: pairs and tracks.
        cameras: intrinsics; poses are not used.
        seed: the first two frames.
        config: settings.
        allowed: frames that may be added; all if None.
    """
    physical = physical_cameras(images, cameras)
    posed = relative_poses(graph, cameras, physical, [seed])
    if not posed:
        return None
    cameras = seed_cameras(cameras, posed[0])
    tracks = star_tracks(graph, cameras, config, seed)
    tried_with: dict[int, int] = {}
    allowed = list(range(len(graph.scale))) if allowed is None else allowed
    while config.max_frames is None or int(cameras.registered.sum()) < config.max_frames:
        points = consensus_points(cameras, tracks)
        valid = points.inliers.any(0)
        counts = (tracks.seen & valid).sum(1)
        waiting = [
            s
            for s in allowed
            if not cameras.registered[0, s] and counts[s] >= max(config.min_inliers, 1.2 * tried_with.get(s, 0))
        ]
        if not waiting:
            break
        frame = max(waiting, key=lambda s: int(counts[s]))
        tried_with[frame] = int(counts[frame])
        visible = (tracks.seen[frame] & valid).nonzero().flatten()
        found = estimators.estimate_absolute_pose(
            physical[frame],
            tracks.xy[frame, visible].numpy(),
            points.xyz_world[visible].numpy(),
            float(tracks.max_error_px[frame]),
            graph.config.ransac,
        )
        if found is not None and int(found.inliers.sum()) >= config.min_inliers:
            poses, registered = cameras.cam_from_world.clone(), cameras.registered.clone()
            poses[0, frame] = torch.from_numpy(found.cam_from_world.copy())
            registered[0, frame] = True
            cameras = dataclasses.replace(cameras, cam_from_world=poses, registered=registered)
    return cameras


def seed_cameras(cameras: Cameras, seed: PosedPair) -> Cameras:
    """The two cameras of a pair registered, the first at the origin."""
    poses, registered = cameras.cam_from_world.clone(), torch.zeros_like(cameras.registered)
    poses[0, seed.pair.frame1] = pose.identity(dtype=poses.dtype)
    poses[0, seed.pair.frame2] = torch.from_numpy(np.ascontiguousarray(seed.cam2_from_cam1))
    registered[0, [seed.pair.frame1, seed.pair.frame2]] = True
    return dataclasses.replace(cameras, cam_from_world=poses, registered=registered)


@dataclass(frozen=True, kw_only=True, eq=False)
class StarTracks:
    """The tracks that a star is grown on.

    Attributes:
        xy: stored pixels.
        rays: the same on the z = 1 plane of each camera.
        seen: observations that count.
        max_error_px: threshold of each frame, stored pixels.
    """

    xy: Float[Tensor, "S n 2"]
    rays: Float[Tensor, "S n 2"]
    seen: Bool[Tensor, "S n"]
    max_error_px: Float[Tensor, " S"]


def star_tracks(graph: ViewGraph, cameras: Cameras, config: StarConfig, seed: Pair | None = None) -> StarTracks:
    """The tracks that most frames see; those that both frames of ``seed`` see come first."""
    length = graph.seen.sum(0)
    if seed is not None:
        length = length + len(graph.seen) * (graph.seen[seed.frame1] & graph.seen[seed.frame2])
    order = np.argsort(-length, kind="stable")[: config.max_tracks]
    chosen = np.sort(order[length[order] > 1])
    xy = torch.from_numpy(graph.xy[:, chosen])
    return StarTracks(
        xy=xy,
        rays=cameras.unproject(xy[None])[0],
        seen=torch.from_numpy(graph.seen[:, chosen]),
        max_error_px=config.max_error_px * torch.from_numpy(graph.scale),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConsensusPoints:
    """Points of one scene and how well each observation agrees.

    Attributes:
        xyz_world: points.
        error: reprojection errors in the R registered frames, over their thresholds.
        inliers: observations within the threshold, of points that two or more agree with.
    """

    xyz_world: Float[Tensor, "n 3"]
    error: Float[Tensor, "R n"]
    inliers: Bool[Tensor, "R n"]


def consensus_points(cameras: Cameras, tracks: StarTracks, rounds: int = 4) -> ConsensusPoints:
    """Points by triangulation from the registered frames that doubts the worst observations more and more."""
    frames = cameras.registered[0].nonzero().flatten()
    focal = camera_matrices(cameras)[frames, 0, 0]
    rays = tracks.rays[frames].transpose(0, 1)
    seen = tracks.seen[frames].mT
    poses = cameras.cam_from_world[:, frames].expand(rays.shape[0], -1, -1, -1)
    weight = seen.to(rays.dtype)
    for step in range(rounds):
        xyz = triangulate.triangulate(rays, poses, weight)
        xyz_cam = pose.transform(poses, xyz.unsqueeze(1))
        depth = xyz_cam[..., 2].clamp_min(1e-9)
        error = (xyz_cam[..., :2] / depth.unsqueeze(-1) - rays).norm(dim=-1) * focal / tracks.max_error_px[frames]
        error = torch.where(xyz_cam[..., 2] > 0, error, torch.full_like(error, 1e6))
        softness = 4.0 ** (rounds - 2 - step)
        weight = seen / (1 + (error / softness).square()).square()
    inliers = (error <= 1) & seen
    inliers = inliers & (inliers.sum(1, keepdim=True) > 1)
    return ConsensusPoints(xyz_world=xyz, error=error.mT, inliers=inliers.mT)


def camera_matrices(cameras: Cameras) -> Float[Tensor, "S 3 3"]:
    """``K`` of every frame of one scene."""
    k = [camera_models.calibration_matrix(model, cameras.params[0, c]) for c, model in enumerate(cameras.models)]
    return torch.stack(k)[cameras.camera_index[0]]


def explained(graph: ViewGraph, cameras: Cameras, config: StarConfig, seed: Pair | None = None) -> float:
    """How much cameras explain of the tracks that a star is grown on."""
    points = consensus_points(cameras, star_tracks(graph, cameras, config, seed))
    return consensus.explained(points.error, points.inliers)
