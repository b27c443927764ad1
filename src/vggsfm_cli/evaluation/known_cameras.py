"""Points of photographs whose cameras are known: tracking and triangulation alone, the cameras held."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.mapping.calibration import adjusted
from vggsfm_cli.mapping.mapper import MappingOptions
from vggsfm_cli.mapping.partial import TrackedScene, with_model_error
from vggsfm_cli.mapping.rounds import filtered, triangulate
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.pipeline import require_tracks
from vggsfm_cli.recipes import choose_recipes
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, ProgressCallback, silent
from vggsfm_cli.threads import one_thread_each

POINTS_ONLY = FreeParameters(poses=False, points=True, focal=False, principal_point=False, distortion=False)


@torch.no_grad()
def triangulate_known(
    images: ImageSet,
    cameras: Cameras,
    model: VGGSfM,
    options: ReconstructOptions | None = None,
    progress: ProgressCallback = silent,
) -> Float[Tensor, "N 3"]:
    """Points of one scene (B = 1) in the world of its cameras, which do not move; in double precision, on the CPU.

    The steps are those of a reconstruction: tracks in rounds, triangulation, adjustment (of points only) and filters
    over the falling thresholds of the schedule.

    Raises:
        ReconstructionFailed: there are no tracks.
    """
    options, mapping = options or ReconstructOptions(), MappingOptions()
    recipe, *_ = choose_recipes(model.config.recipe, options.preset)
    with one_thread_each():
        sighted = recipe.sight(images, model, options, progress)
        require_tracks(sighted.tracks, images)
        images, tracks, cameras = _knowing(sighted.images.to(MAPPING), cameras), sighted.tracks, cameras.to(MAPPING)
        tracks = with_model_error(images, tracks.to(MAPPING), mapping.model_error_px)
        scene = TrackedScene.of(images, tracks, copy_on(model.triangulator, MAPPING))
        schedule, adjuster = mapping.schedule, copy_on(model.adjuster, MAPPING)
        found = triangulate(scene, cameras, schedule.reprojection_px[0])
        for threshold in schedule.reprojection_px:
            found = adjusted(scene, found, adjuster, POINTS_ONLY, schedule.round.loss_scale)
            found = filtered(scene, found, threshold)
    return found.points.xyz_world[0, found.points.valid[0]].double()


def _knowing(images: ImageSet, cameras: Cameras) -> ImageSet:
    """The photographs with these cameras as all that is known of them."""
    priors = CameraPriors(
        camera_index=cameras.camera_index,
        models=cameras.models,
        params=cameras.params,
        known=torch.ones_like(cameras.params, dtype=torch.bool),
        focal_spread=torch.zeros_like(cameras.params[..., 0]),
    )
    return dataclasses.replace(images, priors=priors)
