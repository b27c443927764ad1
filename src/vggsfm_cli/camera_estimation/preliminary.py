"""Cameras from two-view geometry of the tracks: the focal length by vote, then all poses at once.

Two candidates are made, by global averaging of relative poses and by a star that grows from the best pair by resection;
the one that explains more observations wins.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.camera_estimation.focal import FocalVoteConfig, vote_focal
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.view_graph import (
    Pair,
    PosedPair,
    ViewGraph,
    ViewGraphConfig,
    build_view_graph,
    physical_cameras,
    relative_poses,
    two_view_points,
)
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import RelativeEdge
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import epipolar, pose, triangulate
from vggsfm_cli.scene import Cameras, ImageSet, Tracks


@dataclass(frozen=True, kw_only=True)
class PreliminaryCamerasConfig:
    """Settings of the estimator; thresholds in network pixels."""

    view_graph: ViewGraphConfig = field(default_factory=ViewGraphConfig)
    focal: FocalVoteConfig = field(default_factory=FocalVoteConfig)
    max_edges: int = 150  # relative poses that are averaged
    max_tracks: int = 1500  # longest tracks used for positions and resection
    max_error_px: float = 4.0
    min_resection_inliers: int = 15
    wide_angle_deg: float = 16.0  # baselines beyond this make a pair no better
    quick_correspondences: int = 64  # to judge a pair's angle

    def build(self) -> "PreliminaryCameraEstimator":
        """The estimator."""
        return PreliminaryCameraEstimator(self)


class PreliminaryCameraEstimator(CameraEstimator):
    """Not learned and not differentiable: every number comes out of RANSAC."""

    def __init__(self, config: PreliminaryCamerasConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, images: ImageSet, tracks: Tracks) -> Cameras:
        """Cameras of all frames; frames that could not be placed have ``registered`` False."""
        scenes = [self._scene(one_scene(images, b), tracks.scene(b)) for b in range(tracks.xy.shape[0])]
        like = tracks.xy
        return Cameras(
            cam_from_world=torch.cat([c.cam_from_world for c in scenes]).to(like),
            models=scenes[0].models,
            params=torch.cat([c.params for c in scenes]).to(like),
            camera_index=images.priors.camera_index,
            registered=torch.cat([c.registered for c in scenes]).to(like.device),
        )

    def _scene(self, images: ImageSet, tracks: Tracks) -> Cameras:
        graph = build_view_graph(images, tracks, self.config.view_graph)
        params = vote_focal(images, graph, self.config.focal)[0]
        cameras = cameras_without_poses(images, params)
        components = graph.components()
        if not components:
            return cameras
        candidates = [self.averaged(images, graph, cameras, components[0])]
        for seed in self.seeds(graph, cameras, components[0])[:1]:
            candidates.append(self.star(images, graph, cameras, seed))
        found = [candidate for candidate in candidates if candidate is not None]
        return max(found, key=lambda c: self.explained(graph, c), default=cameras)

    def averaged(self, images: ImageSet, graph: ViewGraph, cameras: Cameras, frames: list[int]) -> Cameras | None:
        """Poses of ``frames`` by rotation averaging and global positioning; None where that fails."""
        pairs = [pair for pair in graph.pairs if pair.frame1 in frames and pair.frame2 in frames]
        physical = physical_cameras(images, cameras)
        edges = [
            RelativeEdge(
                frame1=posed.pair.frame1,
                frame2=posed.pair.frame2,
                cam2_from_cam1=posed.cam2_from_cam1,
                support=posed.support,
            )
            for posed in relative_poses(graph, cameras, physical, _strongest(pairs, frames, self.config.max_edges))
        ]
        tracks = _longest(graph, self.config.max_tracks)
        found = estimators.average_poses(
            physical, edges, graph.xy[:, tracks], graph.seen[:, tracks], self.config.view_graph.ransac
        )
        if found is None:
            return None
        registered = torch.from_numpy(found.registered) & torch.isin(
            torch.arange(len(graph.scale)), torch.tensor(frames)
        )
        return dataclasses.replace(
            cameras, cam_from_world=torch.from_numpy(found.cam_from_world)[None], registered=registered[None]
        )

    def seeds(self, graph: ViewGraph, cameras: Cameras, frames: list[int]) -> list[Pair]:
        """Pairs to start from, the best first: many correspondences, wide baseline, not planar."""
        pairs = [pair for pair in graph.pairs if pair.frame1 in frames and pair.frame2 in frames]
        if not pairs:
            return []
        in_front, angle = self._quick_points(graph, cameras, pairs)
        share = in_front.double().mean(-1)
        spread = torch.where(in_front, angle, torch.zeros_like(angle)).median(-1).values
        support = torch.tensor([float(pair.support) for pair in pairs], dtype=torch.float64)
        flat = torch.tensor([0.5 if pair.planar_ratio > 0.9 else 1.0 for pair in pairs])  # noqa: PLR2004
        worth = support.sqrt() * share * spread.clamp(max=self.config.wide_angle_deg) * flat
        return [pairs[i] for i in worth.argsort(descending=True, stable=True).tolist()]

    def _quick_points(
        self, graph: ViewGraph, cameras: Cameras, pairs: list[Pair]
    ) -> tuple[Bool[Tensor, "P m"], Float[Tensor, "P m"]]:
        """Whether inliers of every pair lie in front of both cameras, and their angles, from ``F`` and ``K`` alone."""
        samples = []
        for pair in pairs:
            chosen = pair.tracks[pair.inliers]
            chosen = chosen[np.linspace(0, len(chosen) - 1, self.config.quick_correspondences).round().astype(np.int64)]
            samples.append(graph.xy[[pair.frame1, pair.frame2]][:, chosen])
        k = camera_matrices(cameras)
        k1, k2 = k[[pair.frame1 for pair in pairs]], k[[pair.frame2 for pair in pairs]]
        fundamental = torch.from_numpy(np.stack([pair.fundamental for pair in pairs]))
        motions = epipolar.poses_from_essential(k2.mT @ fundamental @ k1)
        xy = torch.from_numpy(np.stack(samples)).transpose(0, 1)
        rays1, rays2 = ((xy[i] - m[:, None, :2, 2]) / m[:, None, [0, 1], [0, 1]] for i, m in enumerate((k1, k2)))
        shape = (len(pairs), 4, -1, 2)
        in_front, angle = two_view_points(rays1[:, None].expand(*shape), rays2[:, None].expand(*shape), motions)
        best = in_front.sum(-1).argmax(-1)
        each = torch.arange(len(pairs))
        return in_front[each, best], angle[each, best]

    def star(self, images: ImageSet, graph: ViewGraph, cameras: Cameras, seed: Pair) -> Cameras | None:
        """Poses by resection on the points of one pair, in rounds with re-triangulation; None where the pair fails."""
        physical = physical_cameras(images, cameras)
        posed = relative_poses(graph, cameras, physical, [seed])
        if not posed:
            return None
        cameras = seed_cameras(cameras, posed[0])
        tracks = _longest(graph, self.config.max_tracks)
        xy, seen = torch.from_numpy(graph.xy[:, tracks]), torch.from_numpy(graph.seen[:, tracks])
        max_error = self.config.max_error_px * torch.from_numpy(graph.scale)
        tried_with: dict[int, int] = {}
        while True:
            xyz, inliers = consensus_points(cameras, xy, seen, max_error)
            valid = inliers.any(0)
            counts = (seen & valid).sum(1)
            waiting = [
                s
                for s in (~cameras.registered[0]).nonzero().flatten().tolist()
                if counts[s] >= max(self.config.min_resection_inliers, 1.2 * tried_with.get(s, 0))
            ]
            if not waiting:
                return cameras
            frame = max(waiting, key=lambda s: int(counts[s]))
            tried_with[frame] = int(counts[frame])
            visible = (seen[frame] & valid).nonzero().flatten()
            found = estimators.estimate_absolute_pose(
                physical[frame],
                xy[frame, visible].numpy(),
                xyz[visible].numpy(),
                float(max_error[frame]),
                self.config.view_graph.ransac,
            )
            if found is not None and int(found.inliers.sum()) >= self.config.min_resection_inliers:
                poses, registered = cameras.cam_from_world.clone(), cameras.registered.clone()
                poses[0, frame] = torch.from_numpy(found.cam_from_world.copy())
                registered[0, frame] = True
                cameras = dataclasses.replace(cameras, cam_from_world=poses, registered=registered)

    def explained(self, graph: ViewGraph, cameras: Cameras) -> int:
        """Observations that agree with points triangulated from all registered frames."""
        tracks = _longest(graph, self.config.max_tracks)
        xy, seen = torch.from_numpy(graph.xy[:, tracks]), torch.from_numpy(graph.seen[:, tracks])
        max_error = self.config.max_error_px * torch.from_numpy(graph.scale)
        return int(consensus_points(cameras, xy, seen, max_error)[1].sum())


def one_scene(images: ImageSet, b: int) -> ImageSet:
    """Scene ``b`` alone, names included."""
    return dataclasses.replace(images.scene(b), names=images.names[b : b + 1])


def cameras_without_poses(images: ImageSet, params: Float[Tensor, "C P"]) -> Cameras:
    """Cameras with these parameters, none of them registered, in double precision."""
    frames = images.frame_valid.shape[1]
    return Cameras(
        cam_from_world=pose.identity(1, frames, dtype=torch.float64),
        models=images.priors.models,
        params=params[None].double().cpu(),
        camera_index=images.priors.camera_index.cpu(),
        registered=torch.zeros(1, frames, dtype=torch.bool),
    )


def seed_cameras(cameras: Cameras, seed: PosedPair) -> Cameras:
    """The two cameras of a pair registered, the first at the origin."""
    poses, registered = cameras.cam_from_world.clone(), torch.zeros_like(cameras.registered)
    poses[0, seed.pair.frame1] = pose.identity(dtype=poses.dtype)
    poses[0, seed.pair.frame2] = torch.from_numpy(np.ascontiguousarray(seed.cam2_from_cam1))
    registered[0, [seed.pair.frame1, seed.pair.frame2]] = True
    return dataclasses.replace(cameras, cam_from_world=poses, registered=registered)


def camera_matrices(cameras: Cameras) -> Float[Tensor, "S 3 3"]:
    """``K`` of every frame of one scene."""
    k = [camera_models.calibration_matrix(model, cameras.params[0, c]) for c, model in enumerate(cameras.models)]
    return torch.stack(k)[cameras.camera_index[0]]


def consensus_points(
    cameras: Cameras,
    xy: Float[Tensor, "S N 2"],
    seen: Bool[Tensor, "S N"],
    max_error_px: Float[Tensor, " S"],
    rounds: int = 4,
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, "S N"]]:
    """Points of one scene by triangulation that doubts the worst observations more and more.

    Returns:
        Points, and the observations within ``max_error_px`` of them (none for points seen by fewer than two).
    """
    seen = seen & cameras.registered[0, :, None]
    focal = camera_matrices(cameras)[:, 0, 0]
    rays = cameras.unproject(xy[None])[0].transpose(0, 1)
    poses = cameras.cam_from_world.expand(rays.shape[0], -1, -1, -1)
    weight = seen.mT.to(rays.dtype)
    for step in range(rounds):
        xyz = triangulate.triangulate(rays, poses, weight)
        xyz_cam = pose.transform(poses, xyz.unsqueeze(1))
        depth = xyz_cam[..., 2].clamp_min(1e-9)
        error = (xyz_cam[..., :2] / depth.unsqueeze(-1) - rays).norm(dim=-1) * focal / max_error_px
        error = torch.where(xyz_cam[..., 2] > 0, error, torch.full_like(error, 1e6))
        softness = 4.0 ** (rounds - 2 - step)
        weight = seen.mT / (1 + (error / softness).square()).square()
    inliers = (error <= 1) & seen.mT
    return xyz, (inliers & (inliers.sum(1, keepdim=True) > 1)).mT


def _longest(graph: ViewGraph, count: int) -> np.ndarray:
    """Indices of the tracks seen by most frames."""
    length = graph.seen.sum(0)
    order = np.argsort(-length, kind="stable")[:count]
    return np.sort(order[length[order] > 1])


def _strongest(pairs: list[Pair], frames: list[int], limit: int) -> list[Pair]:
    """At most ``limit`` pairs: a maximum spanning tree first, then those with most support."""
    group = {s: s for s in frames}
    tree, rest = [], []
    for pair in pairs:
        one, other = group[pair.frame1], group[pair.frame2]
        if one == other:
            rest.append(pair)
            continue
        tree.append(pair)
        group = {s: one if g == other else g for s, g in group.items()}
    return tree + rest[: max(limit - len(tree), 0)]
