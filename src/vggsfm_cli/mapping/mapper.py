"""From tracks to models: one for each connected group of frames.

The path of one model: the view graph says which frames connect. Candidates for their cameras are grown on a well
spread part of the tracks, and the best is taken (``candidates.py``, ``growth.py``). Frames that are still missing are
registered, and everything is triangulated and adjusted on all tracks (``_on_all_tracks``, ``rounds.py``). A model whose
frames only turn is refused; the others are judged (``quality.py``) and become what is written (``output.py``).
"""

import dataclasses
import logging
from dataclasses import dataclass, field

import torch

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.view_graph import ViewGraph, build_view_graph
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.mapping.calibration import sensible
from vggsfm_cli.mapping.candidates import CandidateConfig, CandidateSearch, growth_tracks
from vggsfm_cli.mapping.growth import Attempt, GrowthConfig, register_missing
from vggsfm_cli.mapping.output import figures, normalized, to_reconstruction
from vggsfm_cli.mapping.partial import Partial, TrackedScene, with_model_error
from vggsfm_cli.mapping.quality import Confidence, ConfidenceConfig, ParallaxConfig, judge, parallax_px
from vggsfm_cli.mapping.rounds import ScheduleConfig, noise_excess, noise_px, rescaled, run_last_round, triangulate
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, Reconstruction, Tracks, silent
from vggsfm_cli.triangulation.interface import Triangulator

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MappingOptions:
    """Settings of the mapping; thresholds in network pixels."""

    preliminary: PreliminaryCamerasConfig = field(default_factory=PreliminaryCamerasConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallax: ParallaxConfig = field(default_factory=ParallaxConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    model_error_px: float = 0.1  # deviation, added to every track's own, of what no camera model explains
    min_frames: int = 2  # of the first model
    min_further_frames: int = 3  # of every model after it
    min_points: int = 30

    def seeded(self, seed: int) -> "MappingOptions":
        """The same with this seed of all that is random: two-view geometry and resection."""
        replace = dataclasses.replace
        return replace(
            self,
            preliminary=replace(self.preliminary, view_graph=self.preliminary.view_graph.seeded(seed)),
            growth=replace(self.growth, resection=self.growth.resection.seeded(seed)),
        )


@torch.no_grad()
def reconstruct_from_tracks(
    images: ImageSet,
    tracks: Tracks,
    *,
    camera_estimator: CameraEstimator | None,
    triangulator: Triangulator,
    adjuster: BundleAdjuster,
    options: MappingOptions | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> list[Reconstruction]:
    """Models of one scene (B = 1), the one with most frames first; frames that do not connect form models of their own.

    Args:
        images: sizes, names and priors; pixels are not looked at.
        tracks: in stored pixels.
        camera_estimator: a candidate for the cameras beside those grown from pairs of frames; None for none.
        triangulator: finds points and inliers.
        adjuster: of the last rounds.
        options: policy.
        seed: of everything random.
        progress: told what is done.

    Returns:
        Sparse models without colours. The report of the first names every image that is in no model, with the reason.

    Raises:
        ReconstructionFailed: nothing can be built; says at which stage and from how much.
    """
    if images.frame_valid.shape[0] != 1:
        raise ValueError("reconstruct_from_tracks takes one scene at a time")
    options = (options or MappingOptions()).seeded(seed)
    tracks = with_model_error(images, tracks, options.model_error_px)
    scene = TrackedScene.of(images, tracks, triangulator.geometric)
    progress(Progress(stage="pairs", done=0, total=1))
    graph = build_view_graph(scene.images, scene.tracks, options.preliminary.view_graph)
    progress(Progress(stage="pairs", done=1, total=1, detail=f"{len(graph.pairs)} verified"))
    search = CandidateSearch(
        sparse=growth_tracks(scene, options.candidates, seed),
        tracks=tracks,
        graph=graph,
        preliminary=options.preliminary.build(),
        estimator=camera_estimator,
        config=options.candidates,
        growth=options.growth,
        schedule=options.schedule,
        progress=progress,
    )
    mapper = _Mapper(scene, graph, search, triangulator, adjuster, options, progress)
    return mapper.run()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Finished:
    """A reconstruction on all tracks, how far it is trusted, where it comes from, and why frames stayed out."""

    partial: Partial
    confidence: Confidence
    noise_px: float
    origin: str
    failed: dict[int, Attempt]


class _Mapper:
    """One run."""

    def __init__(
        self,
        scene: TrackedScene,
        graph: ViewGraph,
        search: CandidateSearch,
        triangulator: Triangulator,
        adjuster: BundleAdjuster,
        options: MappingOptions,
        progress: ProgressCallback,
    ) -> None:
        self.scene = scene
        self.graph = graph
        self.search = search
        self.triangulator, self.adjuster, self.options, self.progress = triangulator, adjuster, options, progress

    def run(self) -> list[Reconstruction]:
        """All models."""
        components = self.graph.components()
        if not components:
            raise self._nothing_connects()
        found: list[_Finished] = []
        for component in components:
            waiting = list(component)
            while len(waiting) >= self._least_frames(found):
                finished = self._finished(waiting)
                if finished is None or len(finished.partial.frames) < self._least_frames(found):
                    break
                found.append(finished)
                waiting = [s for s in waiting if s not in finished.partial.frames]
        if not found:
            raise ReconstructionFailed(
                f"Mapping: no model could be grown from any of {len(self.graph.pairs)} verified pairs of frames.",
                "The photographs may lack overlap, or were taken from one spot without moving sideways.",
            )
        unregistered = self._unregistered(found)
        found.sort(key=lambda one: (-len(one.partial.frames), -int(one.partial.inliers.sum())))
        return [self._output(one, {} if number else unregistered) for number, one in enumerate(found)]

    def _least_frames(self, found: list[_Finished]) -> int:
        return self.options.min_further_frames if found else self.options.min_frames

    def _finished(self, frames: list[int]) -> _Finished | None:
        """The best candidate of ``frames``, finished on all tracks; None if there is none that shows depth."""
        best = self.search.best(frames)
        if best is None:
            return None
        partial, failed = self._on_all_tracks(best.partial, frames)
        self.progress(Progress(stage="refinement", done=1, total=1))
        enough = int(partial.points.valid.sum()) >= self.options.min_points
        if not enough or not sensible(self.scene.images, partial.cameras):
            return None
        noise = noise_px(self.scene, partial)
        parallax = parallax_px(self.scene, partial, self.options.parallax)
        if not self.options.parallax.enough(parallax, noise):
            logger.info("the model is dropped: the camera only rotated; parallax is %.2f px", parallax)
            return None
        return _Finished(
            partial=partial,
            confidence=judge(self.scene, partial, self.options.confidence),
            noise_px=noise,
            origin=best.origin,
            failed={**best.failed, **failed},
        )

    def _on_all_tracks(self, partial: Partial, frames: list[int]) -> tuple[Partial, dict[int, Attempt]]:
        """Register what is missing of ``frames``, and adjust everything on all tracks."""
        sparse, schedule = self.search.sparse, self.options.schedule
        scene = rescaled(self.scene, noise_excess(sparse, partial))
        max_error_px = schedule.last_px(noise_px(sparse, partial))
        partial = triangulate(scene, partial.cameras, schedule.reprojection_px[0])
        partial, failed = register_missing(scene, partial, frames, self.options.growth.resection)
        partial = run_last_round(scene, partial.cameras, max_error_px, schedule, self.adjuster, self.triangulator)
        return partial, failed

    def _output(self, finished: _Finished, unregistered: dict[str, str]) -> Reconstruction:
        report = figures(finished.partial, finished.origin, finished.noise_px)
        report = {**report, **finished.confidence.as_dict(), "unregistered": unregistered}
        return to_reconstruction(self.scene, normalized(finished.partial), report)

    def _unregistered(self, found: list[_Finished]) -> dict[str, str]:
        """Why frames are in no model."""
        images = self.scene.images
        reasons = {s: attempt.reason for one in found for s, attempt in one.failed.items()}
        placed = {s for one in found for s in one.partial.frames}
        connected = {s for pair in self.graph.pairs for s in (pair.frame1, pair.frame2)}
        seen = self.scene.seen.sum(1).tolist()
        out = {}
        for s in images.frame_valid[0].nonzero().flatten().tolist():
            if s in placed:
                continue
            reason = reasons.get(s) or "its observations are consistent with no model"
            if s not in connected:
                reason = f"no other image shares enough of its {seen[s]} tracks"
            out[images.names[0][s]] = reason
        return out

    def _nothing_connects(self) -> ReconstructionFailed:
        seen = self.scene.seen
        shared = (seen.double() @ seen.double().mT).fill_diagonal_(0)
        most = int(shared.max()) if shared.numel() else 0
        usable = int((seen.sum(0) > 1).sum())
        return ReconstructionFailed(
            f"Camera estimation: no two of {int(self.scene.images.frame_valid.sum())} frames are connected; the best "
            f"pair shares {most} of {usable} tracks, {self.graph.config.min_shared} are needed.",
            "Take photographs with more overlap, or with more texture.",
        )
