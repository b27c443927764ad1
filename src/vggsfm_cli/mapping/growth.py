"""Growing a reconstruction from two frames, or from given cameras, to all frames that connect to them.

Start, register, triangulate, adjust, filter: two frames give points, points place further frames, more frames give more
points. Each group of frames is followed by a short round, which keeps the reconstruction straight and frees the focal
length as soon as three frames hold it.
"""

import dataclasses
from dataclasses import dataclass, field

import torch

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.view_graph import physical_cameras
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import AbsolutePose, PhysicalCamera, RansacConfig
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.mapping.rounds import RoundConfig, run_round
from vggsfm_cli.scene import Cameras
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class ResectionConfig:
    """When a frame counts as registered."""

    min_inliers: int = 15
    min_inlier_ratio: float = 0.2
    max_error_px: float = 6.0  # network pixels
    free_focal_gain: float = 1.1  # a focal length of its own must raise the inliers of a new camera by this factor
    ransac: RansacConfig = field(default_factory=lambda: RansacConfig(confidence=0.99999, max_trials=10_000))

    def seeded(self, seed: int) -> "ResectionConfig":
        """The same with this seed of RANSAC."""
        return dataclasses.replace(self, ransac=dataclasses.replace(self.ransac, seed=seed))


def _short_round() -> RoundConfig:
    return RoundConfig(
        rescale_noise=False,
        loss_scale=2.0,
        adjuster=SchurConfig(max_iterations=8, cost_tolerance=1e-3),
        max_adjusted_tracks=None,
        noise_factor=0.0,
        min_frame_inliers=0,
        min_frame_ratio=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Settings of the growth; thresholds in network pixels."""

    max_error_px: float = 4.0
    min_seed_points: int = 30
    min_visible: int = 15  # known points a frame must see before it is tried
    visible_ratio: float = 0.6  # frames are tried together if they see this share of what the best one sees
    batch_ratio: float = 0.34  # at most so many new frames a round, as a share of those registered
    resection: ResectionConfig = field(default_factory=ResectionConfig)
    round: RoundConfig = field(default_factory=_short_round)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of registering one frame."""

    frame: int
    visible: int  # known points it sees
    inliers: int  # of those, the ones that agree with its pose
    placed: bool

    @property
    def reason(self) -> str:
        """Why it was not placed, or an empty string."""
        if self.placed:
            return ""
        return f"only {self.inliers} of {self.visible} visible 3D points agree with any pose"


def start(scene: TrackedScene, cameras: Cameras, config: GrowthConfig) -> Partial | None:
    """The registered frames of ``cameras`` and their points; None when these are too few."""
    partial = run_round(scene, cameras, config.max_error_px, config.round)
    return partial if int(partial.points.valid.sum()) >= config.min_seed_points else None


def grow(
    scene: TrackedScene, partial: Partial, allowed: list[int], config: GrowthConfig
) -> tuple[Partial, dict[int, Attempt]]:
    """Add frames of ``allowed`` until no more can be registered.

    Returns:
        The reconstruction, and the last attempt of every frame that stayed out.
    """
    failed: dict[int, Attempt] = {}
    retried = False
    while True:
        waiting = [s for s in allowed if s not in partial.frames]
        frames = _next_frames(scene, partial, [s for s in waiting if s not in failed], config)
        if not frames and not retried and failed:
            # what was added since may have made room for those that failed
            retried, frames = True, _next_frames(scene, partial, waiting, config)
        if not frames:
            return partial, failed
        partial, attempts = register(scene, partial, frames, config.resection)
        placed = [attempt.frame for attempt in attempts if attempt.placed]
        failed = {s: a for s, a in failed.items() if s not in placed}
        failed.update({a.frame: a for a in attempts if not a.placed})
        if placed:
            retried = False
            partial = run_round(scene, partial.cameras, config.max_error_px, config.round)


def _next_frames(scene: TrackedScene, partial: Partial, waiting: list[int], config: GrowthConfig) -> list[int]:
    """Frames that see most known points, at most a share of those registered."""
    counts = _visible_points(scene, partial)
    able = sorted((s for s in waiting if counts[s] >= config.min_visible), key=lambda s: (-counts[s], s))
    if not able:
        return []
    batch = max(1, int(config.batch_ratio * len(partial.frames)))
    return [s for s in able if counts[s] >= config.visible_ratio * counts[able[0]]][:batch]


def _visible_points(scene: TrackedScene, partial: Partial) -> list[int]:
    """Number of known points that each frame sees."""
    return [int(count) for count in (scene.seen & partial.points.valid[0]).sum(1)]


def register_missing(
    scene: TrackedScene, partial: Partial, allowed: list[int], config: ResectionConfig
) -> tuple[Partial, dict[int, Attempt]]:
    """Register what can be of the frames of ``allowed`` that are still out, all at once.

    Returns:
        The reconstruction, and the attempts of frames that stayed out, those without enough points included.
    """
    missing = [s for s in allowed if s not in partial.frames]
    counts = _visible_points(scene, partial)
    able = [s for s in missing if counts[s] >= config.min_inliers]
    failed = {s: Attempt(frame=s, visible=counts[s], inliers=0, placed=False) for s in missing if s not in able}
    if able:
        partial, attempts = register(scene, partial, able, config)
        failed.update({a.frame: a for a in attempts if not a.placed})
    return partial, failed


def register(
    scene: TrackedScene, partial: Partial, frames: list[int], config: ResectionConfig
) -> tuple[Partial, list[Attempt]]:
    """Resect ``frames``; those with enough inliers are registered. Points and inliers stay as they are."""
    cameras = partial.cameras
    physical = physical_cameras(scene.images, cameras)
    in_use = set(partial.cameras_in_use)

    def attempt(frame: int) -> tuple[Attempt, AbsolutePose | None]:
        camera = int(cameras.camera_index[0, frame])
        focal = list(camera_models.focal_indices(cameras.models[camera]))
        new = camera not in in_use and not bool(scene.images.priors.known[0, camera, focal].all())
        return _resect(scene, partial, frame, physical[frame], new, config)

    results = list(map_threads(attempt, frames))
    poses, params, registered = cameras.cam_from_world.clone(), cameras.params.clone(), cameras.registered.clone()
    for done, found in results:
        if found is None or not done.placed:
            continue
        poses[0, done.frame] = torch.from_numpy(found.cam_from_world.copy())
        registered[0, done.frame] = True
        camera = int(cameras.camera_index[0, done.frame])
        if camera not in in_use:
            params[0, camera] = torch.from_numpy(found.params)
            in_use.add(camera)
    cameras = dataclasses.replace(cameras, cam_from_world=poses, params=params, registered=registered)
    return dataclasses.replace(partial, cameras=cameras), [done for done, _ in results]


def _resect(
    scene: TrackedScene, partial: Partial, frame: int, camera: PhysicalCamera, new: bool, config: ResectionConfig
) -> tuple[Attempt, AbsolutePose | None]:
    tracks = (scene.seen[frame] & partial.points.valid[0]).nonzero().flatten()
    xy = scene.tracks.xy[0, frame, tracks].numpy()
    xyz = partial.points.xyz_world[0, tracks].numpy()
    max_error_px = config.max_error_px * float(scene.scale[0, frame])
    best = estimators.estimate_absolute_pose(camera, xy, xyz, max_error_px, config.ransac)
    if new:
        other = estimators.estimate_absolute_pose(camera, xy, xyz, max_error_px, config.ransac, free_focal=True)
        limit = 10.0 * max(camera.width, camera.height)
        if other is not None and 0.0 < other.params[0] < limit:
            needed = 0 if best is None else config.free_focal_gain * int(best.inliers.sum())
            best = other if int(other.inliers.sum()) > needed else best
    inliers = 0 if best is None else int(best.inliers.sum())
    placed = inliers >= max(config.min_inliers, config.min_inlier_ratio * len(tracks))
    return Attempt(frame=frame, visible=len(tracks), inliers=inliers, placed=placed), best
