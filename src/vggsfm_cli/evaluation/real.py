"""A tracker on photographs with surveyed cameras: distances to the true epipolar lines.

Distances are in pixels of the network's picture. The queries are the tracker's own key points, so two trackers with
different features are measured at different points.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggsfm_cli.evaluation.observed import (
    PairConfig,
    device_of,
    find,
    inference,
    look,
    queries_from,
    query_frames,
    to_stored,
)
from vggsfm_cli.evaluation.pairs import PairDistances, distance_to_line, pair_groups
from vggsfm_cli.evaluation.scenes import SurveyedScene, read_surveyed_scene
from vggsfm_cli.scene import Progress, ProgressCallback, silent
from vggsfm_cli.tracking import PointTracker


@dataclass(frozen=True, kw_only=True)
class RealConfig(PairConfig):
    """How surveyed scenes are measured."""

    long_side: int = 1024  # of the pictures the network sees; smaller ones are not enlarged


@dataclass(frozen=True, kw_only=True, eq=False)
class RealResult:
    """One scene measured; the distances themselves, to be pooled over scenes."""

    scene: str
    frames: int
    seconds: float
    distances: PairDistances

    def summary(self) -> dict[str, Any]:
        """JSON types, as ``evaluate_real`` says."""
        return {
            "scene": self.scene,
            "frames": self.frames,
            "seconds": round(self.seconds, 2),
            "distances": self.distances.summary(),
        }


def evaluate_real(
    tracker: PointTracker,
    scene: SurveyedScene | Path,
    config: RealConfig | None = None,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Distances of tracks and matches to the true epipolar lines of one surveyed scene.

    Args:
        tracker: what is measured.
        scene: read already, or its folder.
        config: how.
        progress: told of each query frame.

    Returns:
        ``scene``, ``frames``, ``seconds``, and ``distances[kind][group]`` with the figures of
        ``pairs.summarize_distances``.
    """
    config = config or RealConfig()
    if isinstance(scene, Path):
        scene = read_surveyed_scene(scene, long_side=config.long_side)
    return measure_real(tracker, scene, config, progress).summary()


def measure_real(
    tracker: PointTracker, scene: SurveyedScene, config: RealConfig, progress: ProgressCallback = silent
) -> RealResult:
    """As ``evaluate_real``, with the distances themselves."""
    begin = time.perf_counter()
    images = scene.images.to(device_of(tracker))
    groups = pair_groups(scene.cameras)
    result = PairDistances()
    with inference(tracker):
        seen = look(tracker, images, config)
        sources = query_frames(seen, config.query_frames)
        for done, source in enumerate(sources):
            progress(Progress(stage=scene.name, done=done, total=len(sources), detail=images.names[0][source]))
            tracks = tracker(images, queries_from(seen, source), seen.features)
            home = to_stored(images, source, seen.keypoints[source]).cpu()
            targets = [target for target in range(seen.frames) if (source, target) in groups]
            for found in find(tracker, seen, tracks, source, targets, config):
                query = found.query.cpu()
                distance = distance_to_line(scene.cameras, source, found.target, home[query], found.xy.cpu())
                distance = distance / float(images.pixel_scale[0, found.target])
                result.add(found.kind, groups[source, found.target], distance)
    progress(Progress(stage=scene.name, done=len(sources), total=len(sources)))
    seconds = time.perf_counter() - begin
    return RealResult(scene=scene.name, frames=seen.frames, seconds=seconds, distances=result)
