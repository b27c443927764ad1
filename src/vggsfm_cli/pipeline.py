"""One scene, start to end: the stages of a model with inference policy around them."""

import dataclasses
from dataclasses import dataclass, field

import torch

from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.model import AdjusterConfig, VGGSfM
from vggsfm_cli.refinement.calibration import Choice
from vggsfm_cli.refinement.finish import colorize
from vggsfm_cli.refinement.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.report import StageClock
from vggsfm_cli.scene import ImageSet, ProgressCallback, Reconstruction, Tracks, silent
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the precisions the networks may run in; geometry is always float32 or more."""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Inference policy, one part a step; each is owned by the file that uses it."""

    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    mapping: MappingOptions = field(default_factory=MappingOptions)
    precision: str = "float32"  # of the networks, a name in PRECISIONS
    seed: int = 0  # of everything random
    refine_principal_point: str = "auto"  # at the end: auto where the views determine it, yes, or no

    def mapping_options(self, adjuster: AdjusterConfig) -> MappingOptions:
        """The mapping's options with that choice in its place; ``adjuster`` frees the lens parameters."""
        schedule = self.mapping.schedule
        solver = dataclasses.replace(adjuster, covariance=True)
        principal_point = dataclasses.replace(
            schedule.principal_point, refine=Choice(self.refine_principal_point), solver=solver
        )
        distortion = dataclasses.replace(schedule.distortion, solver=solver)
        schedule = dataclasses.replace(schedule, principal_point=principal_point, distortion=distortion)
        return dataclasses.replace(self.mapping, schedule=schedule)


@torch.no_grad()
def reconstruct(
    images: ImageSet,
    model: VGGSfM,
    options: ReconstructOptions | None = None,
    progress: ProgressCallback = silent,
) -> list[Reconstruction]:
    """Cameras and points of one scene (B = 1).

    Returns:
        One reconstruction a connected group of images, largest first, with points in color. The ``report`` of each
        holds its figures; that of the first also the time and memory of each stage, and why images were left out.

    Raises:
        ReconstructionFailed: a stage found too little to go on; the message names it and the counts.
    """
    options = options or ReconstructOptions()
    clock = StageClock()
    with one_thread_each():
        with clock.stage("tracks"):
            precision = PRECISIONS[options.precision]
            tracks = track_in_rounds(model.tracker, images, options.rounds, precision=precision, progress=progress)
            require_tracks(tracks, images)
        with clock.stage("mapping"):
            found = reconstruct_from_tracks(
                images.to("cpu"),
                tracks.to("cpu"),
                camera_estimator=model.camera_estimator,
                triangulator=model.triangulator,
                adjuster=model.adjuster,
                options=options.mapping_options(model.config.adjuster),
                seed=options.seed,
                progress=progress,
            )
        with clock.stage("colors"):
            found = [colorize(reconstruction, images) for reconstruction in found]
    found[0] = dataclasses.replace(found[0], report={**found[0].report, "stages": clock.as_dict()})
    return found


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
