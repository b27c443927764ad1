"""The package's own recipe: tracks in rounds from dense features, models grown from pairs of frames."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformerConfig
from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.errors import UsageError
from vggsfm_cli.mapping.calibration import Choice
from vggsfm_cli.mapping.densify import DensifyConfig, add_points
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.memory.plan import Need, Plan, Size, size_of, weight_bytes
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import Preset, ReconstructOptions
from vggsfm_cli.recipes.interface import Mapped, Recipe, Sighted, precision_of, within_memory
from vggsfm_cli.retrieval import RetrievalConfig, choose_partners
from vggsfm_cli.scene import ImageSet, ProgressCallback, Reconstruction, silent
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformerConfig


@dataclass(frozen=True, kw_only=True)
class SmallRecipe(Recipe):
    """Settings of the steps, each declared beside its code; options of the user go before them."""

    name: ClassVar[str] = "small"
    stages: ClassVar[tuple[type, ...]] = (
        CoarseToFineTrackerConfig,
        PreliminaryCamerasConfig,
        CameraTransformerConfig,
        RansacTriangulatorConfig,
        TriangulationTransformerConfig,
    )

    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)  # partners of each frame in large sets
    mapping: MappingOptions = field(default_factory=MappingOptions)
    densify: DensifyConfig = field(default_factory=DensifyConfig)  # of the largest model

    def check_tracking(self, model: VGGSfM, options: ReconstructOptions) -> None:
        """The tracker has key points of its own."""
        if options.queries != "auto":
            raise UsageError(
                f"The tracker of {model.config.name!r} finds key points itself; {options.queries!r} are for v2.",
                "Leave out --queries, or use --model v2.",
            )

    def check_mapping(self, options: ReconstructOptions) -> None:
        """There is nothing that it cannot follow."""

    def sight(
        self, images: ImageSet, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Sighted:
        """Tracks in rounds, each from frames that see too few; into similar frames only where there are many."""
        rounds = self._rounds(options)
        size = size_of(
            images,
            queries=rounds.queries.points_per_frame,
            query_frames=rounds.max_query_frames,
            at_once=rounds.at_once(images.pixels.shape[1]),
        )
        need = Need(size=size, parts=lambda plan: memory_parts(size, plan), weights=weight_bytes(model))
        tracker = within_memory(model, need, images.pixels.device, options, progress)

        def partners(features: FeatureMaps) -> Bool[Tensor, "S S"]:
            dice = torch.Generator().manual_seed(options.seed)
            return choose_partners(features, images.frame_valid[0], self.retrieval, dice)

        tracks = track_in_rounds(
            tracker,
            images,
            dataclasses.replace(rounds, side_by_side=tracker.budget.plan.side_by_side),
            precision=precision_of(options),
            progress=progress,
            choose_partners=partners,
        )
        return Sighted(images=images, tracks=tracks, tracker=tracker)

    def map(
        self, sighted: Sighted, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Mapped:
        """Models that grow from pairs of frames or from the estimator's cameras; the best of each group is kept."""
        models = reconstruct_from_tracks(
            sighted.images.to(MAPPING),
            sighted.tracks.to(MAPPING),
            camera_estimator=sighted.estimator(model),
            triangulator=copy_on(model.triangulator, MAPPING),
            adjuster=copy_on(model.adjuster, MAPPING),
            options=self._mapping(options),
            seed=options.seed,
            progress=progress,
        )
        reasons = {name: why for found in models for name, why in found.report["unregistered"].items()}
        kept = [{key: value for key, value in found.report.items() if key != "unregistered"} for found in models]
        return Mapped(
            models=[dataclasses.replace(found, report=own) for found, own in zip(models, kept, strict=True)],
            unregistered=reasons,
        )

    def add_points(
        self,
        reconstruction: Reconstruction,
        sighted: Sighted,
        options: ReconstructOptions,
        progress: ProgressCallback = silent,
    ) -> Reconstruction:
        """A grid of queries between the points, tracked with the cameras held."""
        config = dataclasses.replace(self.densify, points=options.extra_points)
        return add_points(reconstruction, sighted.images, sighted.tracker, config, precision_of(options), progress)

    def _rounds(self, options: ReconstructOptions) -> RoundsConfig:
        if options.query_points is None:
            return self.rounds
        queries = dataclasses.replace(self.rounds.queries, points_per_frame=options.query_points)
        return dataclasses.replace(self.rounds, queries=queries)

    def _mapping(self, options: ReconstructOptions) -> MappingOptions:
        schedule = self.mapping.schedule
        refine = Choice(options.refine_principal_point)
        principal_point = dataclasses.replace(schedule.principal_point, refine=refine)
        return dataclasses.replace(
            self.mapping, schedule=dataclasses.replace(schedule, principal_point=principal_point)
        )


PRESETS: Mapping[Preset, SmallRecipe] = {
    "small": SmallRecipe(),
    "fast": SmallRecipe(
        rounds=RoundsConfig(queries=QueryConfig(points_per_frame=512, max_carried=128, enough_tracks=600))
    ),
}
"""The recipe by the preset that asks for it; the first row belongs to the model."""


def memory_parts(size: Size, plan: Plan) -> dict[str, int | float]:
    """Bytes at the peak of the networks and the tracks, less the weights; the factors were measured on the CPU."""
    pairs, at_once = size.frames * size.queries, plan.side_by_side
    workers = plan.threads if at_once == 1 else at_once
    aligned = min(size.stored_pixels, 4 * size.pixels)  # of a file, after what is finer was halved
    return {
        # colours, mask, descriptors, scores; brightness of the files
        "pictures": size.frames * (21 * size.pixels + 6 * aligned),
        "encoder": plan.threads * max(130 * size.pixels, 20 * size.stored_pixels),
        "search": workers * 512 * size.pixels / 64 * 8,
        "templates": at_once * 30_000 * size.queries,
        "pieces": workers * 40_000 * min(plan.pairs_at_once, size.queries),
        "evidence": at_once * 5_000 * pairs,
        "tracks": 28 * min(size.frames, size.query_frames) * pairs,
    }
