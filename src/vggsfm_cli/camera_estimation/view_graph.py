"""Which frames see the same things, and the two-view geometry between them.

The graph is built without calibration (fundamental matrices), so it serves the vote on the focal length.
``relative_poses`` then measures the edges again with cameras.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import PhysicalCamera, RansacConfig
from vggsfm_cli.geometry import triangulate
from vggsfm_cli.scene import VISIBLE, Cameras, ImageSet, Tracks
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class ViewGraphConfig:
    """Which pairs of frames are looked at, and what counts as agreement."""

    min_visibility: float = VISIBLE
    min_shared: int = 20  # tracks that both frames see
    min_inliers: int = 15
    min_inlier_ratio: float = 0.2
    max_partners: int = 25  # pairs of a frame, those with most shared tracks
    max_correspondences: int = 500  # per pair, spread evenly
    max_error_px: float = 2.0  # network pixels
    planar_ratio: float = 0.8  # homography inliers over epipolar inliers from which a pair tells nothing of the focal
    ransac: RansacConfig = field(default_factory=lambda: RansacConfig(confidence=0.999, max_trials=5000))

    def seeded(self, seed: int) -> "ViewGraphConfig":
        """The same with this seed of RANSAC."""
        return replace(self, ransac=replace(self.ransac, seed=seed))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two frames that see the same things.

    Attributes:
        frame1, frame2: indices, ``frame1 < frame2``.
        tracks: indices of the correspondences used.
        inliers: those that agree with ``fundamental``.
        fundamental: ``x2^T F x1 = 0`` in stored pixels.
        planar_ratio: inliers of the best homography over those of ``fundamental``.
        shared: tracks that both frames see, used here or not.
    """

    frame1: int
    frame2: int
    tracks: Int[np.ndarray, " m"]
    inliers: Bool[np.ndarray, " m"]
    fundamental: Float[np.ndarray, "3 3"]
    planar_ratio: float
    shared: int

    @property
    def support(self) -> int:
        """Estimated number of correct shared tracks."""
        return round(self.shared * float(self.inliers.mean()))


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedPair:
    """A pair with its relative pose, unit baseline.

    Attributes:
        pair: the two frames.
        cam2_from_cam1: relative pose.
        inliers: correspondences (of ``pair.tracks``) that agree with it and lie in front of both.
        angle_deg: median angle between the rays to the inliers.
    """

    pair: Pair
    cam2_from_cam1: Float[np.ndarray, "3 4"]
    inliers: Bool[np.ndarray, " m"]
    angle_deg: float

    @property
    def support(self) -> int:
        """Estimated number of correct shared tracks."""
        return round(self.pair.shared * float(self.inliers.mean()))


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewGraph:
    """One scene: positions, who sees what, and the pairs.

    Attributes:
        xy: stored pixels of the tracks.
        seen: observations that count.
        scale: stored pixels per network pixel, frame by frame.
        pairs: verified pairs, those with most support first.
        config: what it was built with; whatever is estimated from it later takes its RANSAC.
    """

    xy: Float[np.ndarray, "S N 2"]
    seen: Bool[np.ndarray, "S N"]
    scale: Float[np.ndarray, " S"]
    pairs: tuple[Pair, ...]
    config: ViewGraphConfig

    def components(self) -> list[list[int]]:
        """Frames connected by pairs, the group with most frames (then support) first; single frames are left out."""
        group = list(range(len(self.scale)))
        for pair in self.pairs:
            old, new = group[pair.frame2], group[pair.frame1]
            group = [new if g == old else g for g in group]
        members: dict[int, list[int]] = {}
        for frame, g in enumerate(group):
            members.setdefault(g, []).append(frame)
        connected = [frames for frames in members.values() if len(frames) > 1]
        seen = self.seen.sum(1)
        return sorted(connected, key=lambda frames: (-len(frames), -int(seen[frames].sum())))

    def among(self, frames: Sequence[int]) -> list[Pair]:
        """Pairs of which both frames are given."""
        return [pair for pair in self.pairs if pair.frame1 in frames and pair.frame2 in frames]

    def max_error_px(self, pair: Pair) -> float:
        """Threshold of a pair in stored pixels."""
        return self.config.max_error_px * float(self.scale[pair.frame1] * self.scale[pair.frame2]) ** 0.5


def build_view_graph(images: ImageSet, tracks: Tracks, config: ViewGraphConfig) -> ViewGraph:
    """Two-view geometry between all frames of one scene (B = 1) that share enough tracks."""
    xy = tracks.xy[0].detach().double().cpu().numpy()
    seen = (tracks.visible(config.min_visibility) & images.frame_valid[..., None])[0].cpu().numpy()
    scale = images.pixel_scale[0].double().cpu().numpy()

    def verify(frames: tuple[int, int]) -> Pair | None:
        return _verify(frames, xy, seen, scale, config)

    found = [pair for pair in map_threads(verify, _candidates(seen, config)) if pair is not None]
    found.sort(key=lambda pair: (-pair.support, pair.frame1, pair.frame2))
    return ViewGraph(xy=xy, seen=seen, scale=scale, pairs=tuple(found), config=config)


def _candidates(seen: Bool[np.ndarray, "S N"], config: ViewGraphConfig) -> list[tuple[int, int]]:
    shared = seen.astype(np.float32) @ seen.astype(np.float32).T
    np.fill_diagonal(shared, 0)
    chosen = set()
    for frame in range(len(seen)):
        for partner in np.argsort(-shared[frame], kind="stable")[: config.max_partners]:
            if shared[frame, partner] >= config.min_shared:
                chosen.add((min(frame, int(partner)), max(frame, int(partner))))
    return sorted(chosen)


def _verify(
    frames: tuple[int, int],
    xy: Float[np.ndarray, "S N 2"],
    seen: Bool[np.ndarray, "S N"],
    scale: Float[np.ndarray, " S"],
    config: ViewGraphConfig,
) -> Pair | None:
    first, second = frames
    tracks = np.flatnonzero(seen[first] & seen[second])
    shared = len(tracks)
    if shared > config.max_correspondences:
        tracks = tracks[np.linspace(0, shared - 1, config.max_correspondences).round().astype(np.int64)]
    xy1, xy2 = xy[first, tracks], xy[second, tracks]
    max_error_px = config.max_error_px * float(scale[first] * scale[second]) ** 0.5
    epipolar = estimators.estimate_fundamental(xy1, xy2, max_error_px, config.ransac)
    if epipolar is None:
        return None
    count = int(epipolar.inliers.sum())
    if count < config.min_inliers or count < config.min_inlier_ratio * len(tracks):
        return None
    flat = estimators.estimate_homography(xy1[epipolar.inliers], xy2[epipolar.inliers], max_error_px, config.ransac)
    return Pair(
        frame1=first,
        frame2=second,
        tracks=tracks,
        inliers=epipolar.inliers,
        fundamental=epipolar.matrix,
        planar_ratio=0.0 if flat is None else float(flat.inliers.sum()) / count,
        shared=shared,
    )


def physical_cameras(images: ImageSet, cameras: Cameras) -> list[PhysicalCamera]:
    """The camera of each frame of one scene, for the estimators."""
    frame_params = cameras.frame_params[0].detach().double().cpu().numpy()
    sizes = images.stored_size[0].tolist()
    return [
        PhysicalCamera(
            model=cameras.models[int(c)], width=int(sizes[s][0]), height=int(sizes[s][1]), params=frame_params[s]
        )
        for s, c in enumerate(cameras.camera_index[0].tolist())
    ]


def relative_poses(
    graph: ViewGraph, cameras: Cameras, physical: list[PhysicalCamera], pairs: list[Pair]
) -> list[PosedPair]:
    """Relative poses of ``pairs`` with the given cameras; pairs without enough points in front are left out.

    Args:
        graph: where the correspondences are.
        cameras: intrinsics; poses are not used.
        physical: the same cameras, frame by frame, as ``physical_cameras`` gives them.
        pairs: some of ``graph.pairs``.
    """

    def pose_pair(pair: Pair) -> PosedPair | None:
        return _pose(graph, cameras, physical, pair)

    return [posed for posed in map_threads(pose_pair, pairs) if posed is not None]


def _pose(graph: ViewGraph, cameras: Cameras, physical: list[PhysicalCamera], pair: Pair) -> PosedPair | None:
    frames = [pair.frame1, pair.frame2]
    xy1, xy2 = graph.xy[pair.frame1, pair.tracks], graph.xy[pair.frame2, pair.tracks]
    found = estimators.estimate_relative_pose(
        physical[pair.frame1], xy1, physical[pair.frame2], xy2, graph.max_error_px(pair), graph.config.ransac
    )
    if found is None:
        return None
    cam2_from_cam1 = torch.from_numpy(np.ascontiguousarray(found.cam2_from_cam1))
    rays = normalized(cameras, frames, torch.from_numpy(np.stack([xy1, xy2])))
    in_front, angle = two_view_points(rays[0], rays[1], cam2_from_cam1)
    inliers = found.inliers & in_front.numpy()
    if inliers.sum() < graph.config.min_inliers:
        return None
    return PosedPair(
        pair=pair,
        cam2_from_cam1=found.cam2_from_cam1,
        inliers=inliers,
        angle_deg=float(np.median(angle.numpy()[inliers])),
    )


def normalized(cameras: Cameras, frames: list[int], xy: Float[Tensor, "F m 2"]) -> Float[Tensor, "F m 2"]:
    """Positions in some frames, on the z = 1 plane."""
    some = Cameras(
        cam_from_world=cameras.cam_from_world[:1, frames],
        models=cameras.models,
        params=cameras.params[:1].to(xy.dtype),
        camera_index=cameras.camera_index[:1, frames],
        registered=cameras.registered[:1, frames],
    )
    return some.unproject(xy[None])[0]


def two_view_points(
    xy1_normalized: Float[Tensor, "*batch m 2"],
    xy2_normalized: Float[Tensor, "*batch m 2"],
    cam2_from_cam1: Float[Tensor, "*batch 3 4"],
) -> tuple[Bool[Tensor, "*batch m"], Float[Tensor, "*batch m"]]:
    """Whether the triangulated points lie in front of both cameras, and the angle between their rays in degrees."""
    motion = cam2_from_cam1.unsqueeze(-3).expand(*xy1_normalized.shape[:-1], 3, 4)
    xyz1 = triangulate.triangulate_two_view(xy1_normalized, xy2_normalized, motion)
    depth2 = (motion[..., 2, :3] * xyz1).sum(-1) + motion[..., 2, 3]
    center2 = -(motion[..., :3].mT @ motion[..., 3:]).squeeze(-1)
    angle = triangulate.angle_deg(xyz1, torch.zeros_like(center2), center2)
    return (xyz1[..., 2] > 0) & (depth2 > 0), angle
