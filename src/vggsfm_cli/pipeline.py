"""One scene, start to end: two recipes and what is around them."""

import torch

from vggsfm_cli.clock import StageClock
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.mapping.output import colorize
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.recipes import Recipe, choose_recipes
from vggsfm_cli.result import RunResult, RunSettings
from vggsfm_cli.scene import ImageSet, ProgressCallback, Tracks, silent
from vggsfm_cli.threads import one_thread_each


@torch.no_grad()
def reconstruct(
    images: ImageSet,
    model: VGGSfM,
    options: ReconstructOptions | None = None,
    progress: ProgressCallback = silent,
    *,
    recipe: Recipe | None = None,
) -> RunResult:
    """Cameras and points of one scene (B = 1).

    Args:
        images: the scene, where the networks run.
        model: whose config names the recipe.
        options: what a user may choose.
        progress: told what is done.
        recipe: other settings of the steps; what the model and the preset name if None.

    Returns:
        The models, one for each connected group of images, largest first, with points in color; and facts about
        the run.

    Raises:
        NotEnoughMemory: networks and tracks need more than there may be.
        ReconstructionFailed: a stage found too little to go on; the message names it and the counts.
        UsageError: options that the recipes cannot follow.
    """
    options = options or ReconstructOptions()
    tracking, mapping, preset = choose_recipes(model.config.recipe, options.preset)
    if recipe is not None:
        tracking = mapping = recipe
    tracking.check_tracking(model, options)
    mapping.check_mapping(options)
    clock = StageClock()
    with one_thread_each():
        with clock.stage("tracks"):
            sighted = tracking.sight(images, model, options, progress)
            require_tracks(sighted.tracks, images)
        with clock.stage("mapping"):
            mapped = mapping.map(sighted, model, options, progress)
        models = list(mapped.models)
        if options.extra_points > 0:
            with clock.stage("extra points"):
                models[0] = tracking.add_points(models[0], sighted, options, progress)
        with clock.stage("colors"):
            models = [colorize(found, sighted.images) for found in models]
    return RunResult(
        models=tuple(models),
        unregistered=mapped.unregistered,
        stages=clock.stages,
        memory=sighted.tracker.budget.use(),
        settings=RunSettings(recipe=tracking.name, preset=preset, queries=sighted.queries),
    )


def require_tracks(tracks: Tracks, images: ImageSet) -> None:
    """Refuse to go on without tracks.

    Raises:
        ReconstructionFailed: no track is seen twice.
    """
    if tracks.xy.shape[2] == 0:
        raise ReconstructionFailed(
            f"Tracking: no point of {int(images.frame_valid.sum())} images was found in a second one.",
            "The photographs may show different things, be blurred, or lack texture.",
        )
