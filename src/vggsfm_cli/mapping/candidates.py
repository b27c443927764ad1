"""Candidates for the cameras of a group of frames, and the choice among them.

Each candidate is grown on a well spread part of the tracks: from the initial pairs of frames that look best, from the
cameras of the estimator, then from further pairs. The one that explains most is taken, and the search ends early when
one explains about all that two-view geometry supports, or when two agree.
"""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCameraEstimator, cameras_without_poses
from vggsfm_cli.camera_estimation.star import seed_cameras
from vggsfm_cli.camera_estimation.sweep import InitialPair
from vggsfm_cli.camera_estimation.view_graph import Pair, ViewGraph, physical_cameras, relative_poses
from vggsfm_cli.devices import MAPPING
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import consensus
from vggsfm_cli.mapping.calibration import sensible
from vggsfm_cli.mapping.growth import Attempt, GrowthConfig, grow, start
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.mapping.rounds import ScheduleConfig, run_first_rounds
from vggsfm_cli.scene import Cameras, Progress, ProgressCallback, Tracks
from vggsfm_cli.triangulation.ransac import reprojection_error

logger = logging.getLogger(__name__)

Origins = Literal["both", "pairs", "estimator"]
"""Where candidates come from: pairs of frames with the focal lengths of the sweep, the cameras of the estimator, or the
pairs first and the estimator's cameras if they do not settle it."""


@dataclass(frozen=True, kw_only=True)
class CandidateConfig:
    """Which candidates are grown, and when one is taken."""

    origins: Origins = "both"
    max_candidates: int = 4  # grown before the best is chosen
    further_seeds: int = 3  # best pairs of each initial pair's cameras, tried after all others
    good_enough: float = 0.85  # a candidate with all frames and this share of the expected inliers ends the search
    agreement: float = 0.02  # so do two candidates with all frames whose scores differ by less than this
    score_px: float = 2.0  # network pixels at which an inlier explains nothing
    growth_cells: int = 8  # along each side of a frame, for the choice of tracks that candidates grow on
    growth_per_cell: int = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A partial reconstruction, where it comes from, and how much it explains.

    Attributes:
        partial: on the tracks that candidates grow on.
        origin: in words.
        score: as ``score`` says; 0 if its cameras make no sense.
        failed: the last attempt of every frame that stayed out.
    """

    partial: Partial
    origin: str
    score: float
    failed: dict[int, Attempt]


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateSearch:
    """What all searches in one scene have in common.

    Attributes:
        sparse: the scene with the tracks that candidates grow on.
        tracks: all tracks, for the estimator.
        graph: two-view geometry.
        preliminary: finds initial pairs.
        estimator: gives a candidate of its own; None for none.
        config: which candidates, and when one is taken.
        growth, schedule: how a candidate grows, and its rounds thereafter.
        progress: told what is done.
    """

    sparse: TrackedScene
    tracks: Tracks
    graph: ViewGraph
    preliminary: PreliminaryCameraEstimator
    estimator: CameraEstimator | None
    config: CandidateConfig
    growth: GrowthConfig
    schedule: ScheduleConfig
    progress: ProgressCallback

    def best(self, frames: list[int]) -> Candidate | None:
        """The candidate of ``frames`` that explains most; None if none explains anything."""
        best: Candidate | None = None
        expected = self._expected_inliers(frames)
        for number, candidate in enumerate(self._candidates(frames)):
            count, placed = int(candidate.partial.inliers.sum()), len(candidate.partial.frames)
            logger.info(
                "candidate %s: %d of %d frames, %d of about %d inliers, score %.0f",
                candidate.origin, placed, len(frames), count, expected, candidate.score,
            )  # fmt: skip
            self.progress(
                Progress(stage="growth", done=number + 1, total=self.config.max_candidates, detail=candidate.origin)
            )
            agrees = best is not None and abs(candidate.score - best.score) < self.config.agreement * best.score
            if best is None or candidate.score > best.score:
                best = candidate
            if placed == len(frames) and (agrees or count >= self.config.good_enough * expected):
                break
        return best if best is not None and best.score > 0 else None

    def _expected_inliers(self, frames: list[int]) -> float:
        """Observations of the sparse tracks that two-view geometry supports, roughly."""
        pairs = self.graph.among(frames)
        used, agreed = sum(len(pair.inliers) for pair in pairs), sum(int(pair.inliers.sum()) for pair in pairs)
        share = (agreed / used) ** 0.5 if used else 0.0
        seen = self.sparse.seen[frames]
        return share * float(seen[:, seen.sum(0) > 1].sum())

    def _candidates(self, frames: list[int]) -> Iterator[Candidate]:
        """At most so many, the most promising first."""
        tried = 0
        for candidate in self._in_turn(frames):
            if candidate is not None:
                tried += 1
                yield candidate
            if tried >= self.config.max_candidates:
                return

    def _in_turn(self, frames: list[int]) -> Iterator[Candidate | None]:
        images, origins = self.sparse.images, self.config.origins
        initial: list[InitialPair] = []
        if origins != "estimator":
            initial = self.preliminary.initial_pairs(images, self.graph, frames)
        for first in initial:
            yield self._from_pair(frames, first.params, first.pair)
        if self.estimator is not None and origins != "pairs":
            yield self._from_cameras(frames, self.estimator(images, self.tracks, [self.graph]), "camera estimator")
        for first in initial:
            cameras = cameras_without_poses(images, first.params)
            for pair in self.preliminary.seeds(self.graph, cameras, frames)[: self.config.further_seeds]:
                if pair is not first.pair:
                    yield self._from_pair(frames, first.params, pair)

    def _from_pair(self, frames: list[int], params: Float[Tensor, "C P"], pair: Pair) -> Candidate | None:
        cameras = cameras_without_poses(self.sparse.images, params)
        physical = physical_cameras(self.sparse.images, cameras)
        posed = relative_poses(self.graph, cameras, physical, [pair])
        if not posed:
            return None
        focal = float(camera_models.focal(cameras.models[0], params[0]))
        origin = f"frames {pair.frame1} and {pair.frame2}, focal length {focal:.0f} px"
        return self._from_cameras(frames, seed_cameras(cameras, posed[0]), origin)

    def _from_cameras(self, frames: list[int], cameras: Cameras, origin: str) -> Candidate | None:
        """The candidate that grows from the cameras of those of ``frames`` that are registered."""
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
        partial = start(self.sparse, cameras, self.growth)
        if partial is None:
            return None
        partial, failed = grow(self.sparse, partial, frames, self.growth)
        partial = run_first_rounds(self.sparse, partial, self.schedule)
        makes_sense = sensible(self.sparse.images, partial.cameras)
        value = score(self.sparse, partial, self.config.score_px) if makes_sense else 0.0
        return Candidate(partial=partial, origin=origin, score=value, failed=failed)


def score(scene: TrackedScene, partial: Partial, max_error_px: float) -> float:
    """How much a partial reconstruction explains, see ``consensus.explained``; the error is in network pixels."""
    if not partial.frames:
        return 0.0
    error = reprojection_error(partial.cameras, partial.points, scene.tracks) / (max_error_px * scene.scale[..., None])
    return consensus.explained(error, partial.inliers)


def growth_tracks(scene: TrackedScene, config: CandidateConfig, seed: int) -> TrackedScene:
    """The scene with a well spread part of its tracks: long ones first, until every cell of every frame has enough.

    Args:
        scene: with all tracks.
        config: how many cells, and observations wanted in each.
        seed: of the order among tracks of equal length.
    """
    cells, per_cell, seen = config.growth_cells, config.growth_per_cell, scene.seen
    length = seen.sum(0)
    shuffled = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffled[length[shuffled].argsort(descending=True, stable=True)]
    order = order[length[order] >= 2]  # noqa: PLR2004
    size = scene.images.stored_size[0, :, None].double()
    column_row = (scene.tracks.xy[0] / size * cells).floor().clamp(0, cells - 1).long()
    cell = column_row[..., 1] * cells + column_row[..., 0]
    frames = seen.shape[0]
    filled: list[list[int]] = [[0] * (cells * cells) for _ in range(frames)]
    cell_lists, seen_lists = cell[:, order].T.tolist(), seen[:, order].T.tolist()
    taken = []
    for index, where, visible in zip(order.tolist(), cell_lists, seen_lists, strict=True):
        views = [(s, where[s]) for s in range(frames) if visible[s]]
        if any(filled[s][c] < per_cell for s, c in views):
            taken.append(index)
            for s, c in views:
                filled[s][c] += 1
    index = torch.tensor(sorted(taken), dtype=torch.long)
    return dataclasses.replace(scene, tracks=scene.tracks.some(index))
