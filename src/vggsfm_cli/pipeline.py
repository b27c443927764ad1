"""One scene, start to end: the stages of a model with inference policy around them."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from vggsfm_cli.camera_estimation.interface import GivenCameras
from vggsfm_cli.camera_estimation.v2 import V2CameraPredictor
from vggsfm_cli.checkpoints.keypoints import load_detector
from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.errors import ReconstructionFailed, UsageError
from vggsfm_cli.io.squares import square_images
from vggsfm_cli.mapping.calibration import Choice
from vggsfm_cli.mapping.densify import DensifyConfig, add_points
from vggsfm_cli.mapping.finish import colorize
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.mapping.v2 import V2MappingOptions, reconstruct_as_v2
from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.plan import size_of
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.report import StageClock
from vggsfm_cli.retrieval import RetrievalConfig, choose_partners
from vggsfm_cli.scene import Cameras, ImageSet, Progress, ProgressCallback, Reconstruction, Tracks, silent
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.keypoints import Keypoints
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from vggsfm_cli.tracking.v2.ranking import middle_first
from vggsfm_cli.tracking.v2.rounds import V2RoundsConfig, frame_order, track_from_frames
from vggsfm_cli.tracking.v2.tracker import V2TrackerConfig

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the precisions the networks may run in; geometry is always float32 or more."""


Preset = Literal["auto", "small", "fast", "v2"]
"""How tracks are chosen and become cameras and points: as this package does it for ``small``; the same with fewer
tracks; as VGGSfM v2 was published; ``auto`` is what belongs to the model."""

FAST = QueryConfig(points_per_frame=512, max_carried=128, enough_tracks=600)
"""Queries of the preset ``fast``."""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Inference policy, one part a step; each is owned by the file that uses it.

    Where there are two of a kind, the tracker decides about the rounds, and ``preset`` about the mapping.
    """

    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)  # partners of each frame in large sets
    rounds_v2: V2RoundsConfig = field(default_factory=V2RoundsConfig)
    preset: Preset = "auto"
    mapping: MappingOptions = field(default_factory=MappingOptions)
    densify: DensifyConfig = field(default_factory=DensifyConfig)  # of the largest model
    mapping_v2: V2MappingOptions = field(default_factory=V2MappingOptions)
    keypoints: Keypoints = "auto"  # where the tracks of v2 start; other trackers have key points of their own
    query_points: int | None = None  # tracks that a frame starts; the number in the rounds if None
    network_side: int | None = None  # of the squares that v2 sees, pixels; that of its rounds if None
    precision: str = "float32"  # of the networks, a name in PRECISIONS
    max_memory_gb: float | None = None  # for networks and tracks, GB of 10^9 bytes; a share of what is free if None
    seed: int = 0  # of everything random
    refine_principal_point: str = "auto"  # at the end: auto where the views determine it, yes, or no

    def tracking_rounds(self) -> RoundsConfig:
        """The rounds with the number of tracks in its place."""
        queries = FAST if self.preset == "fast" else self.rounds.queries
        if self.query_points is not None:
            queries = dataclasses.replace(queries, points_per_frame=self.query_points)
        return dataclasses.replace(self.rounds, queries=queries)

    def tracking_rounds_v2(self) -> V2RoundsConfig:
        """The rounds of v2 with the number of tracks and the size of the squares in their places."""
        return dataclasses.replace(
            self.rounds_v2,
            points_per_frame=self.query_points or self.rounds_v2.points_per_frame,
            side_px=self.network_side or self.rounds_v2.side_px,
        )

    def mapping_options(self) -> MappingOptions:
        """The mapping's options with that choice in its place."""
        schedule = self.mapping.schedule
        principal_point = dataclasses.replace(schedule.principal_point, refine=Choice(self.refine_principal_point))
        schedule = dataclasses.replace(schedule, principal_point=principal_point)
        return dataclasses.replace(self.mapping, schedule=schedule)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sighted:
    """What the networks make of a scene.

    Attributes:
        images: as they saw them.
        tracks: in stored pixels.
        cameras: predicted from the images; None where the model finds them from the tracks.
        keypoints: what found the points where tracks start.
        tracker: the model's, within the memory there may be.
    """

    images: ImageSet
    tracks: Tracks
    cameras: Cameras | None
    keypoints: str
    tracker: FrugalTracker


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
        NotEnoughMemory: networks and tracks need more than there may be.
        ReconstructionFailed: a stage found too little to go on; the message names it and the counts.
        UsageError: options that the model cannot follow.
    """
    options = options or ReconstructOptions()
    if options.densify.points > 0 and isinstance(model.config.tracker, V2TrackerConfig):
        raise UsageError(
            f"Extra points need the dense features of small; {model.config.name!r} has none.",
            "Leave out --extra-points, or use --model small.",
        )
    clock = StageClock()
    with one_thread_each():
        with clock.stage("tracks"):
            sighted = sight(images, model, options, progress)
            require_tracks(sighted.tracks, images)
        with clock.stage("mapping"):
            found = _map(sighted, model, options, progress)
        if options.densify.points > 0:
            with clock.stage("extra points"):
                precision = PRECISIONS[options.precision]
                found[0] = add_points(found[0], sighted.images, sighted.tracker, options.densify, precision, progress)
        with clock.stage("colors"):
            found = [colorize(reconstruction, sighted.images) for reconstruction in found]
    extra = {
        "preset": preset_of(model, options),
        "keypoints": sighted.keypoints,
        "memory": sighted.tracker.budget.as_dict(),
        "stages": clock.as_dict(),
    }
    found[0] = dataclasses.replace(found[0], report={**found[0].report, **extra})
    return found


def preset_of(model: VGGSfM, options: ReconstructOptions) -> Preset:
    """How the tracks of this model become cameras and points."""
    if options.preset != "auto":
        return options.preset
    return "v2" if isinstance(model.config.tracker, V2TrackerConfig) else "small"


def sight(images: ImageSet, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent) -> Sighted:
    """Tracks through one scene (B = 1), and cameras where the model predicts them from the images.

    Raises:
        NotEnoughMemory: the smallest pieces need more than there may be.
        UsageError: key points for a tracker that has its own.
    """
    is_v2 = isinstance(model.config.tracker, V2TrackerConfig)
    if options.keypoints != "auto" and not is_v2:
        raise UsageError(
            f"The tracker of {model.config.name!r} finds key points itself; {options.keypoints!r} are for v2.",
            "Leave out --queries, or use --model v2.",
        )
    budget = plan_memory(images, model, options)
    progress(Progress(stage="memory", done=1, total=1, detail=str(budget)))
    tracker = FrugalTracker(model.tracker.in_precision(PRECISIONS[options.precision]), budget)
    if is_v2:
        return _sight_as_v2(images, model, tracker, options, progress)
    rounds = dataclasses.replace(options.tracking_rounds(), side_by_side=budget.plan.side_by_side)

    def partners(features: FeatureMaps) -> Bool[Tensor, "S S"]:
        dice = torch.Generator().manual_seed(options.seed)
        return choose_partners(features, images.frame_valid[0], options.retrieval, dice)

    tracks = track_in_rounds(
        tracker,
        images,
        rounds,
        precision=PRECISIONS[options.precision],
        progress=progress,
        choose_partners=partners,
    )
    return Sighted(images=images, tracks=tracks, cameras=None, keypoints="the tracker's own", tracker=tracker)


def plan_memory(images: ImageSet, model: VGGSfM, options: ReconstructOptions) -> Budget:
    """The pieces in which networks and tracks of this scene are computed.

    Raises:
        NotEnoughMemory: the smallest pieces need more than there may be.
    """
    rounds, rounds_v2 = options.tracking_rounds(), options.tracking_rounds_v2()
    if isinstance(model.config.tracker, V2TrackerConfig):
        queries, query_frames, at_once = rounds_v2.points_per_frame, rounds_v2.query_frames, 1
    else:
        queries = rounds.queries.points_per_frame
        query_frames, at_once = rounds.max_query_frames, rounds.at_once(images.pixels.shape[1])
    size = size_of(
        images, model.config, queries=queries, query_frames=query_frames, at_once=at_once, side_px=rounds_v2.side_px
    )
    return Budget.make(size, model.config, images.pixels.device, options.max_memory_gb)


def _sight_as_v2(
    images: ImageSet, model: VGGSfM, tracker: FrugalTracker, options: ReconstructOptions, progress: ProgressCallback
) -> Sighted:
    config, predictor, cameras = options.tracking_rounds_v2(), model.camera_estimator, None
    detector = load_detector(options.keypoints, images.pixels.device)
    images = square_images(images, config.side_px)
    frames = images.frame_valid[0].nonzero().flatten().tolist()
    order = [frames[i] for i in middle_first(len(frames))]
    if isinstance(predictor, V2CameraPredictor):
        progress(Progress(stage="cameras", done=0, total=1))
        seen = tracker.budget.run(lambda _: predictor.look(images))
        order = frame_order(seen[0], frames, config)
        cameras = tracker.budget.run(lambda _: predictor.predict(images, seen, order[: config.query_frames]))
        progress(Progress(stage="cameras", done=1, total=1))
    precision = PRECISIONS[options.precision]
    tracks = track_from_frames(tracker, images, order, detector, config, precision, progress)
    return Sighted(images=images, tracks=tracks, cameras=cameras, keypoints=detector.name, tracker=tracker)


def _map(
    sighted: Sighted, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback
) -> list[Reconstruction]:
    images, tracks = sighted.images.to(MAPPING), sighted.tracks.to(MAPPING)
    cameras = sighted.cameras
    estimator = copy_on(model.camera_estimator, MAPPING) if cameras is None else GivenCameras(cameras.to(MAPPING))
    adjuster = copy_on(model.adjuster, MAPPING)
    if preset_of(model, options) != "v2":
        return reconstruct_from_tracks(
            images,
            tracks,
            camera_estimator=estimator,
            triangulator=copy_on(model.triangulator, MAPPING),
            adjuster=adjuster,
            options=options.mapping_options(),
            seed=options.seed,
            progress=progress,
        )
    if Choice(options.refine_principal_point) is Choice.YES:
        raise UsageError(
            "The preset v2 keeps principal points where they are.", "Use --preset small, or leave the choice to auto."
        )
    return reconstruct_as_v2(
        images,
        tracks,
        estimator(images, tracks),
        adjuster=adjuster,
        options=options.mapping_v2,
        seed=options.seed,
        progress=progress,
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
