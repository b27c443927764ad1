"""Reconstructing one window of keyframes, and bringing it into the map."""

import dataclasses
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.geometry import alignment, pose
from vggsfm_cli.mapping.calibration import Choice
from vggsfm_cli.mapping.growth import GrowthConfig, grow
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.mapping.rounds import RoundConfig, ScheduleConfig, filtered, run_first_rounds, triangulate
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import Cameras
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap

logger = logging.getLogger(__name__)

NEVER = 10**9
"""Frames from which the distortion of a window would be freed: only joint adjustments do that."""

Similarity = tuple[Float[Tensor, ""], Float[Tensor, "3 3"], Float[Tensor, "3"]]


def map_first_window(scene_map: SceneMap, frames: Sequence[int], model: VGGSfM, options: SequenceOptions) -> bool:
    """Reconstruct a window from nothing; its cameras and points are the map's. False where that fails."""
    found = _from_nothing(scene_map, frames, model, options)
    if found is None:
        return False
    window, tracks = found
    scene_map.put_cameras(frames, window.cameras, params=True)
    scene_map.put_points(tracks, window.points)
    return True


def map_window(scene_map: SceneMap, frames: Sequence[int], model: VGGSfM, options: SequenceOptions) -> list[int]:
    """Reconstruct a window that overlaps the map, and merge it.

    It grows from the cameras and points that it shares with the map. Where that fails it is reconstructed from nothing.
    Either way a similarity on what is shared brings it into the map.

    Returns:
        Keyframes that were placed.
    """
    shared = [k for k, s in enumerate(frames) if scene_map.registered[s]]
    new = [k for k in range(len(frames)) if k not in shared]
    scene, tracks = scene_map.scene(frames, copy_on(model.triangulator.geometric, MAPPING))
    window = _grown(scene_map, scene, frames, tracks, new, options)
    if not any(k in window.frames for k in new):
        logger.info("frames %s cannot be placed from the map", [frames[k] for k in new])
        found = _from_nothing(scene_map, frames, model, options)
        if found is None or len([k for k in shared if k in found[0].frames]) < 2:  # noqa: PLR2004
            return []
        window, tracks = found
    similarity = _onto_map(scene_map, frames, window, tracks)
    moved = _moved(window.cameras, similarity)
    scene_map.put_cameras(frames, moved, params=False)
    chosen = window.points.valid[0]
    xyz = alignment.apply_to_points(*similarity, window.points.xyz_world[0])
    points = dataclasses.replace(window.points, xyz_world=xyz[chosen][None], valid=window.points.valid[:, chosen])
    scene_map.put_points(tracks[chosen], points)
    return [frames[k] for k in new if k in window.frames]


def _grown(
    scene_map: SceneMap,
    scene: TrackedScene,
    frames: Sequence[int],
    tracks: Int[Tensor, " n"],
    new: list[int],
    options: SequenceOptions,
) -> Partial:
    growth, schedule = held(options)
    scene = with_known_cameras(scene)
    max_error_px = growth.max_error_px
    points = scene_map.points(tracks)
    start = Partial(cameras=scene_map.cameras(frames), points=points, inliers=scene.seen[None])
    grown, _ = grow(scene, filtered(scene, start, max_error_px), new, growth)
    return run_first_rounds(scene, grown, schedule)


def _from_nothing(
    scene_map: SceneMap, frames: Sequence[int], model: VGGSfM, options: SequenceOptions
) -> tuple[Partial, Int[Tensor, " n"]] | None:
    """The largest model of a window on its own, and the numbers of its tracks."""
    scene, tracks = scene_map.scene(frames, copy_on(model.triangulator.geometric, MAPPING))
    try:
        found = reconstruct_from_tracks(
            scene.images,
            scene.tracks,
            camera_estimator=None,
            triangulator=copy_on(model.triangulator.geometric, MAPPING),
            adjuster=copy_on(model.adjuster, MAPPING),
            options=_alone(options.mapping),
            seed=options.seed,
        )[0]
    except ReconstructionFailed as failure:
        logger.info("window of frames %d to %d: %s", frames[0], frames[-1], failure.message)
        return None
    cameras = scene_map.cameras(frames)
    places = [scene.images.names[0].index(name) for name in found.names]
    poses, registered, params = (
        cameras.cam_from_world.clone(),
        torch.zeros_like(cameras.registered),
        cameras.params.clone(),
    )
    poses[0, places] = found.cameras.cam_from_world[0].double()
    registered[0, places] = True
    for k, place in enumerate(places):
        params[0, cameras.camera_index[0, place]] = found.cameras.params[0, found.cameras.camera_index[0, k]].double()
    cameras = dataclasses.replace(cameras, cam_from_world=poses, registered=registered, params=params)
    return triangulate(scene, cameras, options.max_error_px), tracks


def _alone(mapping: MappingOptions) -> MappingOptions:
    """The mapping's settings for a window: tracks have their model error already, and lenses are refined jointly."""
    principal_point = dataclasses.replace(mapping.schedule.principal_point, refine=Choice.NO)
    schedule = dataclasses.replace(mapping.schedule, principal_point=principal_point)
    return dataclasses.replace(mapping, model_error_px=0.0, schedule=schedule)


def held(options: SequenceOptions) -> tuple[GrowthConfig, ScheduleConfig]:
    """The mapping's settings without any calibration."""

    def without(config: RoundConfig) -> RoundConfig:
        return dataclasses.replace(config, distortion=dataclasses.replace(config.distortion, min_frames=NEVER))

    growth, schedule = options.mapping.growth, options.mapping.schedule
    return (
        dataclasses.replace(growth, round=without(growth.round)),
        dataclasses.replace(schedule, round=without(schedule.round)),
    )


def with_known_cameras(scene: TrackedScene) -> TrackedScene:
    """The scene with the parameters of all cameras known."""
    priors = scene.images.priors
    priors = dataclasses.replace(priors, known=torch.ones_like(priors.known))
    return dataclasses.replace(scene, images=dataclasses.replace(scene.images, priors=priors))


def _onto_map(scene_map: SceneMap, frames: Sequence[int], window: Partial, tracks: Int[Tensor, " n"]) -> Similarity:
    """The similarity from a window to the map, on shared cameras and points, robustly.

    Cameras give a first one; then camera centers and points count alike, less the farther they stay apart.
    """
    shared = [k for k in window.frames if scene_map.registered[frames[k]]]
    theirs = scene_map.cam_from_world[[frames[k] for k in shared]]
    ours = window.cameras.cam_from_world[0, shared]
    similarity = alignment.align_cameras(ours, theirs)
    both = (window.points.valid[0] & scene_map.valid[tracks]).nonzero().flatten()
    source = torch.cat([pose.center(ours), window.points.xyz_world[0, both]])
    target = torch.cat([pose.center(theirs), scene_map.xyz_world[tracks[both]]])
    weights = torch.cat([source.new_full((len(ours),), max(len(both) / len(ours), 1.0)), source.new_ones(len(both))])
    for _ in range(5):
        distance = (alignment.apply_to_points(*similarity, source) - target).norm(dim=-1)
        reliable = 1 / (1 + (distance / distance.median().clamp_min(1e-12)).square())
        similarity = alignment.umeyama(source, target, weights * reliable)
    return similarity


def _moved(cameras: Cameras, similarity: Similarity) -> Cameras:
    poses = alignment.apply_to_cameras(*similarity, cameras.cam_from_world[0])
    return dataclasses.replace(cameras, cam_from_world=poses[None])
