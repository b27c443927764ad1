"""The end of a sequence: frames between keyframes are placed in the map, and the map becomes a ``Reconstruction``."""

from collections.abc import Sequence
from typing import Any

import torch

from vggsfm_cli.camera_estimation import physical_cameras
from vggsfm_cli.colmap import estimators
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import Cameras, Reconstruction
from vggsfm_cli.sequence.joint import inliers_of
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap
from vggsfm_cli.threads import map_threads


def place_frames_between(scene_map: SceneMap, options: SequenceOptions) -> dict[int, str]:
    """Resect every frame that was followed but has no pose, each on its own against the points of the map.

    Returns:
        Why frames could not be placed.
    """
    frames = [s for s in scene_map.sightings if not scene_map.registered[s]]
    config = options.mapping.growth.resection
    physical = physical_cameras(scene_map.facts.some(frames), scene_map.cameras(frames)) if frames else []
    scale = scene_map.facts.pixel_scale[0]

    def place(k: int) -> tuple[int, int, estimators.AbsolutePose | None]:
        s = frames[k]
        seen = scene_map.sightings[s]
        seen = seen.select(scene_map.valid[seen.track])
        xyz = scene_map.xyz_world[seen.track].numpy()
        max_error_px = options.mapping.growth.max_error_px * float(scale[s])
        found = estimators.estimate_absolute_pose(physical[k], seen.xy.numpy(), xyz, max_error_px, config.ransac)
        return s, len(seen), found

    reasons = {}
    for s, visible, found in map_threads(place, range(len(frames))):
        inliers = 0 if found is None else int(found.inliers.sum())
        if found is not None and inliers >= max(config.min_inliers, config.min_inlier_ratio * visible):
            scene_map.cam_from_world[s] = torch.from_numpy(found.cam_from_world.copy())
            scene_map.registered[s] = True
        else:
            reasons[s] = f"only {inliers} of {visible} visible 3D points agree with any pose"
    return reasons


def to_reconstruction(scene_map: SceneMap, report: dict[str, Any], options: SequenceOptions) -> Reconstruction:
    """All placed frames and the points that two of them see; the first frame at the origin, unit median depth."""
    frames = [s for s in sorted(scene_map.sightings) if scene_map.registered[s]]
    frame, track, xy, error = inliers_of(scene_map, frames, options.max_error_px)
    views = torch.bincount(track, minlength=scene_map.tracks)
    held = views[track] > 1
    frame, track, xy, error = frame[held], track[held], xy[held], error[held]
    tracks, point = track.unique(return_inverse=True)
    poses, xyz = _normalized(scene_map, frames, frame, tracks, point)
    camera_index = scene_map.camera_index[frames]
    used, camera = camera_index.unique(return_inverse=True)
    total = torch.zeros(len(tracks), dtype=error.dtype).index_add(0, point, error)
    color = scene_map.color_sum[tracks] / scene_map.color_count[tracks].clamp_min(1)[:, None]
    params = scene_map.params[used]
    models = tuple(scene_map.models[int(c)] for c in used)
    scale = scene_map.facts.pixel_scale[0, frames].double()[frame]
    report = {
        "registered": len(frames),
        "points": len(tracks),
        "observations": len(frame),
        "noise_px": float((error / scale).median()) / 1.1774 if len(error) else 0.0,
        "focal_px": [float(camera_models.focal(name, params[c])) for c, name in enumerate(models)],
        **report,
    }
    return Reconstruction(
        cameras=Cameras(
            cam_from_world=poses[None],
            models=models,
            params=params[None],
            camera_index=camera[None],
            registered=torch.ones(1, len(frames), dtype=torch.bool),
        ),
        names=tuple(scene_map.facts.names[0][s] for s in frames),
        sizes=scene_map.facts.stored_size[0, frames],
        xyz_world=xyz,
        color=color.to(xyz.dtype),
        error_px=total / views[tracks].clamp_min(1),
        frame=frame,
        point=point,
        xy=xy,
        report=report,
    )


def _normalized(
    scene_map: SceneMap, frames: Sequence[int], frame: torch.Tensor, tracks: torch.Tensor, point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    poses, xyz = scene_map.cam_from_world[list(frames)], scene_map.xyz_world[tracks]
    depth = (poses[frame, 2, :3] * xyz[point]).sum(-1) + poses[frame, 2, 3]
    unit = depth.median().clamp_min(1e-12) if len(depth) else torch.ones((), dtype=poses.dtype)
    first = poses[0]
    poses = pose.compose(poses, pose.inverse(first)[None])
    return torch.cat([poses[..., :3], poses[..., 3:] / unit], -1), pose.transform(first, xyz) / unit
