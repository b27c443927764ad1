"""VGGSfM v2 from squares to models. Experimental: never run with the published file."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.errors import UsageError
from vggsfm_cli.memory.plan import Need, size_of, weight_bytes
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import Preset, ReconstructOptions
from vggsfm_cli.recipes.interface import Mapped, Recipe, Sighted, precision_of, within_memory
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictor, V2CameraPredictorConfig
from vggsfm_cli.recipes.v2.detectors import load_detector
from vggsfm_cli.recipes.v2.mapping import V2MappingOptions, reconstruct_as_v2
from vggsfm_cli.recipes.v2.memory import memory_parts
from vggsfm_cli.recipes.v2.ranking import middle_first
from vggsfm_cli.recipes.v2.rounds import V2RoundsConfig, frame_order, track_from_frames
from vggsfm_cli.recipes.v2.squares import square_images
from vggsfm_cli.recipes.v2.tracker import V2TrackerConfig
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, silent
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig


@dataclass(frozen=True, kw_only=True)
class V2Recipe(Recipe):
    """Settings; the published values."""

    name: ClassVar[str] = "v2"
    note: ClassVar[str] = "experimental: never run with the published file"
    stages: ClassVar[tuple[type, ...]] = (V2TrackerConfig, V2CameraPredictorConfig, RansacTriangulatorConfig)

    rounds: V2RoundsConfig = field(default_factory=V2RoundsConfig)
    mapping: V2MappingOptions = field(default_factory=V2MappingOptions)

    def check_tracking(self, model: VGGSfM, options: ReconstructOptions) -> None:
        """The tracker has no dense features, which extra points need."""
        if options.extra_points > 0:
            raise UsageError(
                f"Extra points need the dense features of small; {model.config.name!r} has none.",
                "Leave out --extra-points, or use --model small.",
            )

    def check_mapping(self, options: ReconstructOptions) -> None:
        """Principal points stay where they are."""
        if options.refine_principal_point == "yes":
            raise UsageError(
                "The preset v2 keeps principal points where they are.",
                "Use --preset small, or leave the choice to auto.",
            )

    def sight(
        self, images: ImageSet, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Sighted:
        """Cameras from squares, then tracks from the frames that are least like one another."""
        rounds = dataclasses.replace(self.rounds, points_per_frame=options.query_points or self.rounds.points_per_frame)
        size = size_of(
            images,
            queries=rounds.points_per_frame,
            query_frames=rounds.query_frames,
            at_once=1,
            pixels=options.long_side**2,
        )
        need = Need(size=size, parts=lambda plan: memory_parts(size, model.config, plan), weights=weight_bytes(model))
        tracker = within_memory(model, need, images.pixels.device, options, progress)
        detector = load_detector(options.queries, images.pixels.device)
        predictor, cameras = model.camera_estimator, None
        images = square_images(images, options.long_side)
        frames = images.frame_valid[0].nonzero().flatten().tolist()
        order = [frames[i] for i in middle_first(len(frames))]
        if isinstance(predictor, V2CameraPredictor):
            progress(Progress(stage="cameras", done=0, total=1))
            seen = tracker.budget.run(lambda _: predictor.look(images))
            order = frame_order(seen[0], frames, rounds)
            cameras = tracker.budget.run(lambda _: predictor.predict(images, seen, order[: rounds.query_frames]))
            progress(Progress(stage="cameras", done=1, total=1))
        tracks = track_from_frames(tracker, images, order, detector, rounds, precision_of(options), progress)
        return Sighted(images=images, tracks=tracks, cameras=cameras, queries=detector.name, tracker=tracker)

    def map(
        self, sighted: Sighted, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Mapped:
        """One model, from the best pair with the first frame."""
        images, tracks = sighted.images.to(MAPPING), sighted.tracks.to(MAPPING)
        return reconstruct_as_v2(
            images,
            tracks,
            sighted.estimator(model)(images, tracks),
            adjuster=copy_on(model.adjuster, MAPPING),
            options=self.mapping,
            seed=options.seed,
            progress=progress,
        )


PRESETS: Mapping[Preset, V2Recipe] = {"v2": V2Recipe()}
"""The recipe by the preset that asks for it."""
