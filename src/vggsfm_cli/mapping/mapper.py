"""From tracks to models: candidates, growth, the last rounds, one model for each connected group of frames."""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import (
    PreliminaryCameraEstimator,
    PreliminaryCamerasConfig,
    cameras_without_poses,
)
from vggsfm_cli.camera_estimation.sweep import Start
from vggsfm_cli.camera_estimation.view_graph import Pair, ViewGraph, build_view_graph, physical_cameras, relative_poses
from vggsfm_cli.devices import MAPPING
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.mapping.confidence import ConfidenceConfig, judge_model
from vggsfm_cli.mapping.finish import figures, normalized, to_reconstruction
from vggsfm_cli.mapping.growth import GrowthConfig, grow, seed_model, settle
from vggsfm_cli.mapping.model import Model, Scene, in_double, parallax_px, score, sensible, triangulate
from vggsfm_cli.mapping.resection import Attempt
from vggsfm_cli.mapping.schedule import (
    ScheduleConfig,
    growth_tracks,
    noise_px,
    run_first_rounds,
    run_last_round,
)
from vggsfm_cli.scene import Cameras, ImageSet, Progress, ProgressCallback, Reconstruction, Tracks, silent
from vggsfm_cli.triangulation.interface import Triangulator

logger = logging.getLogger(__name__)


Starts = Literal["both", "pairs", "estimator"]
"""Where models start: at pairs of frames with the focal lengths of the sweep, at the cameras of the estimator, or at
the pairs first and at the estimator's cameras if they do not settle it."""


@dataclass(frozen=True, kw_only=True)
class MappingOptions:
    """Settings of the mapping; thresholds in network pixels."""

    preliminary: PreliminaryCamerasConfig = field(default_factory=PreliminaryCamerasConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    model_error_px: float = 0.1  # deviation, added to every track's own, of what no camera model explains
    starts: Starts = "both"
    max_candidates: int = 4  # models grown before the best is chosen
    further_seeds: int = 3  # best pairs of each start, tried after all starts
    good_enough: float = 0.85  # a candidate with all frames and this share of the expected inliers ends the search
    agreement: float = 0.02  # so do two candidates with all frames whose scores differ by less than this
    growth_cells: int = 8  # along each side of a frame, for the choice of tracks that models grow on
    growth_per_cell: int = 4
    score_px: float = 2.0
    min_frames: int = 2  # of the first model
    min_further_frames: int = 3  # of every model after it
    min_points: int = 30
    min_parallax_px: float = 1.0  # left between the most different frames when a rotation alone is fitted
    min_parallax_noise: float = 15.0  # and so many standard deviations of the residuals


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A model, where it comes from and how much it explains."""

    model: Model
    origin: str
    score: float
    failed: dict[int, Attempt]


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
    options = options or MappingOptions()
    tracks = with_model_error(images, tracks, options.model_error_px)
    mapper = _Mapper(images, tracks, camera_estimator, triangulator, adjuster, options, seed, progress)
    return mapper.run()


def with_model_error(images: ImageSet, tracks: Tracks, deviation_px: float) -> Tracks:
    """Tracks whose covariance also holds what the lens model leaves over, so that no observation rules alone.

    Args:
        images: says how large a network pixel is.
        tracks: in stored pixels.
        deviation_px: network pixels, the same in all directions.
    """
    variance = (deviation_px * images.pixel_scale).square()[..., None, None, None].to(tracks.covariance)
    eye = torch.eye(2, dtype=variance.dtype, device=variance.device)
    return dataclasses.replace(tracks, covariance=tracks.covariance + variance * eye)


class _Mapper:
    """One run: the scene, the view graph and the settings, so that the steps below need no long argument lists."""

    def __init__(
        self,
        images: ImageSet,
        tracks: Tracks,
        camera_estimator: CameraEstimator | None,
        triangulator: Triangulator,
        adjuster: BundleAdjuster,
        options: MappingOptions,
        seed: int,
        progress: ProgressCallback,
    ) -> None:
        self.options, self.adjuster, self.triangulator, self.progress = options, adjuster, triangulator, progress
        self.camera_estimator = camera_estimator
        self.preliminary = PreliminaryCameraEstimator(_seeded(options.preliminary, seed))
        self.images = images.to(MAPPING)
        self.tracks = tracks
        self.scene = Scene(
            images=self.images,
            tracks=in_double(tracks.to(MAPPING).detach()),
            triangulator=triangulator.geometric,
            scale=self.images.pixel_scale.double(),
        )
        index = growth_tracks(self.scene, options.growth_per_cell, options.growth_cells, seed)
        self.sparse = dataclasses.replace(self.scene, tracks=self.scene.tracks.some(index))

    def run(self) -> list[Reconstruction]:
        """All models."""
        self._tell("pairs", 0, 1)
        graph = build_view_graph(self.images, self.scene.tracks, self.preliminary.config.view_graph)
        self._tell("pairs", 1, 1, f"{len(graph.pairs)} verified")
        components = graph.components()
        if not components:
            raise self._nothing_connects()
        models: list[tuple[Model, dict[str, Any]]] = []
        reasons: dict[int, str] = {}
        for component in components:
            waiting = list(component)
            while len(waiting) >= (self.options.min_further_frames if models else self.options.min_frames):
                found = self._model(graph, waiting)
                needed = self.options.min_further_frames if models else self.options.min_frames
                if found is None or len(found[0].frames) < needed:
                    break
                model, origin, failed = found
                reasons.update({s: attempt.reason for s, attempt in failed.items()})
                confidence = judge_model(self.scene, model, self.options.confidence)
                models.append((normalized(model), {**figures(self.scene, model, origin), **confidence.as_dict()}))
                waiting = [s for s in waiting if s not in model.frames]
        if not models:
            raise ReconstructionFailed(
                f"Mapping: no model could be grown from any of {len(graph.pairs)} verified pairs of frames.",
                "The photographs may lack overlap, or were taken from one spot without moving sideways.",
            )
        models.sort(key=lambda item: (-len(item[0].frames), -int(item[0].inliers.sum())))
        unregistered = self._unregistered(graph, [model for model, _ in models], reasons)
        return [
            to_reconstruction(self.scene, model, {**figures, "unregistered": unregistered if number == 0 else {}})
            for number, (model, figures) in enumerate(models)
        ]

    def _nothing_connects(self) -> ReconstructionFailed:
        seen = self.scene.seen
        shared = (seen.double() @ seen.double().mT).fill_diagonal_(0)
        most = int(shared.max()) if shared.numel() else 0
        usable = int((seen.sum(0) > 1).sum())
        return ReconstructionFailed(
            f"Camera estimation: no two of {int(self.images.frame_valid.sum())} frames are connected; the best pair "
            f"shares {most} of {usable} tracks, {self.preliminary.config.view_graph.min_shared} are needed.",
            "Take photographs with more overlap, or with more texture.",
        )

    def _model(self, graph: ViewGraph, frames: list[int]) -> tuple[Model, str, dict[int, Attempt]] | None:
        """The best model of ``frames``, refined on all tracks."""
        best: _Candidate | None = None
        expected = self._expected_inliers(graph, frames)
        for number, candidate in enumerate(self._candidates(graph, frames)):
            count = int(candidate.model.inliers.sum())
            logger.info(
                "candidate %s: %d of %d frames, %d of about %d inliers, score %.0f",
                candidate.origin, len(candidate.model.frames), len(frames), count, expected, candidate.score,
            )  # fmt: skip
            self._tell("growth", number + 1, self.options.max_candidates, candidate.origin)
            agrees = best is not None and abs(candidate.score - best.score) < self.options.agreement * best.score
            if best is None or candidate.score > best.score:
                best = candidate
            complete = len(candidate.model.frames) == len(frames)
            if complete and (agrees or count >= self.options.good_enough * expected):
                break
        if best is None or best.score <= 0:
            return None
        model, failed = run_last_round(
            self.scene, self.sparse, best.model, frames, self.adjuster, self.triangulator, self.options.schedule
        )
        self._tell("refinement", 1, 1)
        if int(model.points.valid.sum()) < self.options.min_points or not sensible(self.images, model.cameras):
            return None
        parallax = parallax_px(self.scene, model)
        if parallax < max(self.options.min_parallax_px, self.options.min_parallax_noise * noise_px(self.scene, model)):
            logger.info("the model is dropped: its frames differ by a rotation and %.2f px", parallax)
            return None
        return model, best.origin, {**best.failed, **failed}

    def _expected_inliers(self, graph: ViewGraph, frames: list[int]) -> float:
        """Observations of the sparse tracks that two-view geometry supports, roughly."""
        used, agreed = 0, 0
        for pair in graph.pairs:
            if pair.frame1 in frames and pair.frame2 in frames:
                used += len(pair.inliers)
                agreed += int(pair.inliers.sum())
        share = (agreed / used) ** 0.5 if used else 0.0
        seen = self.sparse.seen[frames]
        return share * float(seen[:, seen.sum(0) > 1].sum())

    def _candidates(self, graph: ViewGraph, frames: list[int]) -> Iterator[_Candidate]:
        """Models grown from the most promising starts, then the estimator's, then from the starts' other pairs."""
        pairs = self.options.starts != "estimator"
        starts = self.preliminary.starts(self.images, graph, frames) if pairs else []
        tried = 0
        for candidate in self._in_turn(graph, frames, starts):
            if candidate is not None:
                tried += 1
                yield candidate
            if tried >= self.options.max_candidates:
                return

    def _in_turn(self, graph: ViewGraph, frames: list[int], starts: list[Start]) -> Iterator[_Candidate | None]:
        for start in starts:
            yield self._grown(graph, frames, start.params, start.pair)
        if self.camera_estimator is not None and self.options.starts != "pairs":
            yield self._estimated(self.camera_estimator(self.images, self.tracks), frames)
        for start in starts:
            cameras = cameras_without_poses(self.images, start.params)
            for pair in self.preliminary.seeds(graph, cameras, frames)[: self.options.further_seeds]:
                if pair is not start.pair:
                    yield self._grown(graph, frames, start.params, pair)

    def _grown(
        self, graph: ViewGraph, frames: list[int], params: Float[Tensor, "C P"], pair: Pair
    ) -> _Candidate | None:
        """The model that grows from a pair of frames."""
        cameras = cameras_without_poses(self.images, params)
        posed = relative_poses(graph, cameras, physical_cameras(self.images, cameras), [pair])
        model = seed_model(self.sparse, cameras, posed[0], self.options.growth) if posed else None
        if model is None:
            return None
        model, failed = grow(self.sparse, model, frames, self.options.growth)
        focal = float(camera_models.focal(cameras.models[0], params[0]))
        return self._candidate(model, f"frames {pair.frame1} and {pair.frame2}, focal length {focal:.0f} px", failed)

    def _estimated(self, cameras: Cameras, frames: list[int]) -> _Candidate | None:
        """The model of the estimator's cameras, grown by the frames it could not place."""
        chosen = torch.zeros_like(cameras.registered, device=MAPPING)
        chosen[0, frames] = True
        cameras = cameras.to(MAPPING)
        cameras = dataclasses.replace(
            cameras,
            cam_from_world=cameras.cam_from_world.double(),
            params=cameras.params.double(),
            registered=cameras.registered & chosen,
        )
        if int(cameras.registered.sum()) < 2:  # noqa: PLR2004
            return None
        model = triangulate(self.sparse, cameras, 2 * self.options.growth.max_error_px)
        model = settle(self.sparse, model, self.options.growth)
        if int(model.points.valid.sum()) < self.options.growth.min_seed_points:
            return None
        model, failed = grow(self.sparse, model, frames, self.options.growth)
        return self._candidate(model, "camera estimator", failed)

    def _candidate(self, model: Model, origin: str, failed: dict[int, Attempt]) -> _Candidate:
        model = run_first_rounds(self.sparse, model, self.options.schedule)
        value = score(self.sparse, model, self.options.score_px) if sensible(self.images, model.cameras) else 0.0
        return _Candidate(model=model, origin=origin, score=value, failed=failed)

    def _unregistered(self, graph: ViewGraph, models: list[Model], reasons: dict[int, str]) -> dict[str, str]:
        """Why frames are in no model."""
        placed = {s for model in models for s in model.frames}
        connected = {s for pair in graph.pairs for s in (pair.frame1, pair.frame2)}
        seen = self.scene.seen.sum(1).tolist()
        out = {}
        for s in self.images.frame_valid[0].nonzero().flatten().tolist():
            if s in placed:
                continue
            reason = reasons.get(s) or "its matches agree with no model"
            if s not in connected:
                reason = f"no other image shares enough of its {seen[s]} tracks"
            out[self.images.names[0][s]] = reason
        return out

    def _tell(self, stage: str, done: int, total: int, detail: str = "") -> None:
        self.progress(Progress(stage=stage, done=done, total=total, detail=detail))


def _seeded(config: PreliminaryCamerasConfig, seed: int) -> PreliminaryCamerasConfig:
    ransac = dataclasses.replace(config.view_graph.ransac, seed=seed)
    return dataclasses.replace(config, view_graph=dataclasses.replace(config.view_graph, ransac=ransac))
