"""Adjusting many keyframes of the map together, and finding its points anew."""

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss, problem_from_observations
from vggsfm_cli.geometry.robust import Loss
from vggsfm_cli.mapping.calibration import sensible
from vggsfm_cli.mapping.rounds import covariance_excess, triangulate
from vggsfm_cli.scene import Cameras
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap
from vggsfm_cli.triangulation.interface import Triangulator

logger = logging.getLogger(__name__)

TRACKS_AT_ONCE = 4000
"""Tracks whose dense arrays are held together while points are found anew."""


def adjust_jointly(
    scene_map: SceneMap,
    frames: Sequence[int],
    adjuster: BundleAdjuster,
    options: SequenceOptions,
    *,
    fixed: Sequence[int] = (),
    max_error_px: float | None = None,
) -> None:
    """Adjust placed keyframes and the points they see.

    Args:
        scene_map: changed in place.
        frames: that move, and those that are ``fixed``.
        adjuster: the solver.
        options: loss, and the threshold of observations that take part.
        fixed: of the frames, those that keep their pose; the lenses are free only if there are none.
        max_error_px: of observations that take part, network pixels.
    """
    max_error_px = max_error_px or options.mapping.growth.max_error_px
    frames = [s for s in frames if scene_map.registered[s]]
    frame, track, xy, covariance = scene_map.observations(frames)
    cameras = scene_map.cameras(frames)
    error = observation_errors(scene_map, cameras, frame, track, xy)
    near = error <= max_error_px * scale_of(scene_map, frames)[frame]
    frame, track, xy, covariance, error = (values[near] for values in (frame, track, xy, covariance, error))
    if not len(frame):
        return
    used, point = track.unique(return_inverse=True)
    facts = scene_map.facts.some(frames)
    solution = adjuster(
        problem_from_observations(
            cameras,
            scene_map.points(used),
            frame=frame,
            point=point,
            xy=xy,
            covariance=covariance * covariance_excess(error, covariance),
            free=FreeParameters(focal=False, distortion=False)
            if fixed
            else FreeParameters(principal_point=options.refine_principal_point),
            priors=facts.priors,
            loss=RobustLoss(kind=Loss.CAUCHY, scale=options.mapping.schedule.round.loss_scale),
            fixed_frames=torch.tensor([[s in set(fixed) for s in frames]]) if fixed else None,
        )
    )
    logger.info(
        "joint adjustment of %d frames and %d points: cost %.0f to %.0f in %d steps, %s",
        len(frames), len(used), float(solution.cost_initial[0]), float(solution.cost_final[0]),
        solution.iterations[0], solution.status[0],
    )  # fmt: skip
    if not sensible(facts, solution.cameras):
        logger.warning("A joint adjustment gave impossible cameras and is dropped.")
        return
    scene_map.put_cameras(frames, solution.cameras, params=not fixed)
    scene_map.put_points(used, solution.points)


def find_points_anew(scene_map: SceneMap, triangulator: Triangulator, options: SequenceOptions) -> None:
    """Triangulate all tracks of the placed keyframes; those without a point that holds lose it."""
    frames = scene_map.placed_keyframes
    seen = torch.cat([scene_map.sightings[s].track for s in frames])
    tracks = (torch.bincount(seen, minlength=scene_map.tracks) > 1).nonzero().flatten()
    scene_map.valid[:] = False
    for some in tracks.split(TRACKS_AT_ONCE):
        here = [s for s in frames if bool(torch.isin(scene_map.sightings[s].track, some).any())]
        scene, _ = scene_map.scene(here, triangulator, some)
        scene_map.put_points(some, triangulate(scene, scene_map.cameras(here), options.max_error_px).points)


def scale_of(scene_map: SceneMap, frames: Sequence[int]) -> Float[Tensor, " s"]:
    """Stored pixels per network pixel of some frames."""
    return scene_map.facts.pixel_scale[0, list(frames)].double()


def observation_errors(
    scene_map: SceneMap,
    cameras: Cameras,
    frame: Int[Tensor, " M"],
    track: Int[Tensor, " M"],
    xy: Float[Tensor, "M 2"],
) -> Float[Tensor, " M"]:
    """Reprojection errors in stored pixels; infinite behind a camera.

    Args:
        scene_map: has the points.
        cameras: some frames (B = 1).
        frame: of each observation, among these.
        track: of each observation.
        xy: stored pixels.
    """
    errors = torch.full((len(frame),), torch.inf, dtype=torch.float64)
    for k in frame.unique().tolist():
        here = (frame == k).nonzero().flatten()
        one = Cameras(
            cam_from_world=cameras.cam_from_world[:, [k]],
            models=cameras.models,
            params=cameras.params,
            camera_index=cameras.camera_index[:, [k]],
            registered=cameras.registered[:, [k]],
        )
        projected, in_front = one.project(scene_map.xyz_world[track[here]][None])
        error = (projected[0, 0] - xy[here]).norm(dim=-1)
        errors[here] = torch.where(in_front[0, 0], error, torch.full_like(error, torch.inf))
    return errors


def inliers_of(
    scene_map: SceneMap, frames: Sequence[int], max_error_px: float
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Float[Tensor, "M 2"], Float[Tensor, " M"]]:
    """Observations of placed frames that agree with their points: place in ``frames``, track, stored pixels, error."""
    frame, track, xy, _ = scene_map.observations(frames)
    error = observation_errors(scene_map, scene_map.cameras(frames), frame, track, xy)
    keep: Bool[Tensor, " M"] = error <= max_error_px * scale_of(scene_map, frames)[frame]
    return frame[keep], track[keep], xy[keep], error[keep]
