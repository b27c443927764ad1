"""Cameras from two-view geometry of the tracks: the focal length by vote, then all poses at once.

Two candidates are made, by global averaging of relative poses and by a star that grows from the best pair by resection;
the one that explains more observations wins.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.camera_estimation.focal import FocalVoteConfig, vote_focal
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.star import (
    StarConfig,
    camera_matrices,
    explained,
    grow_star,
    star_tracks,
)
from vggsfm_cli.camera_estimation.sweep import InitialPair, SweepConfig, sweep_focals
from vggsfm_cli.camera_estimation.view_graph import (
    Pair,
    ViewGraph,
    ViewGraphConfig,
    build_view_graph,
    physical_cameras,
    relative_poses,
    two_view_points,
)
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import RelativeEdge
from vggsfm_cli.geometry import epipolar, pose
from vggsfm_cli.scene import Cameras, ImageSet, Tracks


@dataclass(frozen=True, kw_only=True)
class PreliminaryCamerasConfig:
    """Settings of the estimator; thresholds in network pixels."""

    view_graph: ViewGraphConfig = field(default_factory=ViewGraphConfig)
    focal: FocalVoteConfig = field(default_factory=FocalVoteConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    star: StarConfig = field(default_factory=StarConfig)
    max_edges: int = 150  # relative poses that are averaged
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
    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        """Cameras of all frames; frames that could not be placed have ``registered`` False."""
        batch = [one_scene(images, b) for b in range(tracks.xy.shape[0])]
        if graphs is None:
            graphs = [build_view_graph(one, tracks.scene(b), self.config.view_graph) for b, one in enumerate(batch)]
        scenes = [self._scene(one, graph) for one, graph in zip(batch, graphs, strict=True)]
        like = tracks.xy
        return Cameras(
            cam_from_world=torch.cat([c.cam_from_world for c in scenes]).to(like),
            models=scenes[0].models,
            params=torch.cat([c.params for c in scenes]).to(like),
            camera_index=images.priors.camera_index,
            registered=torch.cat([c.registered for c in scenes]).to(like.device),
        )

    def _scene(self, images: ImageSet, graph: ViewGraph) -> Cameras:
        params = vote_focal(images, graph, self.config.focal)[0]
        cameras = cameras_without_poses(images, params)
        components = graph.components()
        if not components:
            return cameras
        candidates = [self.averaged(images, graph, cameras, components[0])]
        for seed in self.seeds(graph, cameras, components[0])[:1]:
            candidates.append(self.star(images, graph, cameras, seed))
        found = [candidate for candidate in candidates if candidate is not None]
        return max(found, key=lambda c: explained(graph, c, self.config.star), default=cameras)

    def averaged(self, images: ImageSet, graph: ViewGraph, cameras: Cameras, frames: list[int]) -> Cameras | None:
        """Poses of ``frames`` by rotation averaging and global positioning; None where that fails."""
        pairs = graph.among(frames)
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
        tracks = star_tracks(graph, cameras, self.config.star)
        found = estimators.average_poses(physical, edges, tracks.xy.numpy(), tracks.seen.numpy(), graph.config.ransac)
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
        pairs = graph.among(frames)
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
        """Poses of all frames that can be reached from one pair; None where the pair fails."""
        return grow_star(images, graph, cameras, seed, self.config.star)

    def initial_pairs(self, images: ImageSet, graph: ViewGraph, frames: list[int]) -> list[InitialPair]:
        """Focal lengths and pairs of ``frames`` that a model can grow from, the most promising first."""
        sweep = self.config.sweep
        small = dataclasses.replace(self.config.star, max_tracks=sweep.tracks, max_frames=sweep.frames)

        def grow(params: Float[Tensor, "C P"]) -> list[InitialPair]:
            cameras = cameras_without_poses(images, params)
            found = []
            for pair in self.seeds(graph, cameras, frames)[: sweep.seeds]:
                star = grow_star(images, graph, cameras, pair, small, frames)
                if star is not None:
                    found.append(InitialPair(params=params, pair=pair, worth=explained(graph, star, small, pair)))
            return found

        return sweep_focals(images, vote_focal(images, graph, self.config.focal), grow, sweep)


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
