"""A tracker on rendered scenes with exact truth.

Distances are in pixels of the network's picture unless another size is named. The queries are the tracker's own key
points, so two trackers with different features are measured at different points.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vggsfm_cli.devices import with_float64
from vggsfm_cli.evaluation import metrics
from vggsfm_cli.evaluation.observed import PairConfig, device_of, find, inference, look, queries_from, query_frames
from vggsfm_cli.evaluation.pairs import PairDistances, pair_groups, rounded
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, Tracks, silent
from vggsfm_cli.synthetic.photometry import PhotometryConfig
from vggsfm_cli.synthetic.render import RenderedScenes, render, true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import Textures, procedural_textures
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking import PointTracker

HELD_OUT_SEED = 3_900_000_000
"""Scenes are drawn from seeds at and above this one, which training does not reach: it counts from zero. The generator
of the CPU heeds 32 bits of a seed, so a larger number would meet those of training again."""

MOST_SCENES = 10_000
"""Of one seed; the next seed's scenes begin after as many."""

PROCEDURAL_TEXTURES = 96
TEXTURE_SIDE_PX = 256


@dataclass(frozen=True, kw_only=True)
class RenderedConfig(PairConfig):
    """How rendered scenes are measured."""

    query_frames: int = 2
    queries: int = 1024
    scene: SceneConfig = field(
        default_factory=lambda: SceneConfig(width=1024, height=768, photometry=PhotometryConfig())
    )
    scenes: int = 12
    textures: str = "procedural"  # what they are, for the record
    seed: int = 0  # another one gives other scenes
    right_px: float = 3.0  # a visible track this far off is wrong
    calibration_px: float = 5.0  # farther errors are outliers, which no covariance describes


def render_held_out(
    config: RenderedConfig,
    textures: Textures | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
) -> list[RenderedScenes]:
    """Rendered scenes, one by one (B = 1), the same for the same configuration and textures.

    Args:
        config: how many, of what kind, and the seed.
        textures: of the surfaces; procedural ones if None.
        device: where they are rendered, if it can compute in double precision; else the CPU.
        progress: told of each scene.
    """
    if textures is None:
        generator = torch.Generator().manual_seed(HELD_OUT_SEED - 1)
        textures = procedural_textures(PROCEDURAL_TEXTURES, TEXTURE_SIDE_PX, generator)
    device = with_float64(torch.device(device))
    textures = textures.to(device)
    scenes = []
    with one_thread_each():
        for n in range(config.scenes):
            progress(Progress(stage="rendering", done=n, total=config.scenes))
            generator = torch.Generator().manual_seed(HELD_OUT_SEED + config.seed * MOST_SCENES + n)
            scenes.append(render(config.scene, textures, 1, generator, device))
    progress(Progress(stage="rendering", done=config.scenes, total=config.scenes))
    return scenes


def evaluate_rendered(
    tracker: PointTracker,
    config: RenderedConfig | None = None,
    rendered: Sequence[RenderedScenes] | None = None,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Tracks and matches against the exact truth of rendered scenes.

    Args:
        tracker: what is measured.
        config: how.
        rendered: scenes of ``render_held_out``; rendered now if None.
        progress: told of each scene.

    Returns:
        ``scenes``, ``tracks`` (evaluated positions), ``seconds``; TAP-Vid's ``delta_average``, ``average_jaccard``,
        ``occlusion_accuracy`` and ``points_within`` in percent (``metrics.tap_vid``, mean over scenes);
        ``precision`` and ``recall`` of visibility in percent (``metrics.visibility_counts``, over all positions);
        ``median_px`` and ``median_px_at_1024`` (as if the long side were 1024) of positions that are visible and
        predicted so; ``inside_50`` and ``inside_90``, percent of the errors of these below ``calibration_px`` that lie
        in the predicted ellipses; ``distances[kind][group]`` (``pairs.summarize_distances``), the distance to the true
        position, infinite where the point is not visible.
    """
    config = config or RenderedConfig()
    rendered = render_held_out(config, device=device_of(tracker)) if rendered is None else rendered
    begin = time.perf_counter()
    distances, positions = PairDistances(), []
    with inference(tracker):
        for done, scene in enumerate(rendered):
            progress(Progress(stage="rendered", done=done, total=len(rendered)))
            positions.append(_measure_rendered(tracker, scene, config, distances))
    progress(Progress(stage="rendered", done=len(rendered), total=len(rendered)))
    return {
        "scenes": len(rendered),
        "positions": int(sum(int(p.evaluated.sum()) for p in positions)),
        "seconds": round(time.perf_counter() - begin, 2),
        **_figures(positions, config),
        "distances": distances.summary(),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Positions:
    """Tracks of one scene beside the truth, all query frames together; stored pixels."""

    tracks: Tracks
    truth: Tracks
    evaluated: Tensor
    images: ImageSet


def _measure_rendered(
    tracker: PointTracker, scene: RenderedScenes, config: RenderedConfig, distances: PairDistances
) -> _Positions:
    images = scene.images.to(device_of(tracker))
    groups = pair_groups(scene.cameras)
    seen = look(tracker, images, config)
    tracked, true = [], []
    for source in query_frames(seen, config.query_frames):
        queries = queries_from(seen, source)
        tracks = tracker(images, queries, seen.features)
        truth = true_tracks(scene, queries.to(scene.depth.device)).to(queries.xy.device)
        tracked.append(tracks)
        true.append(truth)
        targets = [target for target in range(seen.frames) if (source, target) in groups]
        for found in find(tracker, seen, tracks, source, targets, config):
            known = truth.valid[0, found.query]
            query, xy = found.query[known], found.xy[known]
            distance = (xy - truth.xy[0, found.target, query]).norm(dim=-1) / images.pixel_scale[0, found.target]
            there = truth.visible()[0, found.target, query]
            distance = torch.where(there, distance, torch.full_like(distance, torch.inf))
            distances.add(found.kind, groups[source, found.target], distance.cpu().double())
    tracks, truth = _join(tracked), _join(true)
    home = torch.arange(seen.frames, device=tracks.query_frame.device)[:, None] == tracks.query_frame[:, None]
    evaluated = truth.valid[:, None] & tracks.valid[:, None] & images.frame_valid[..., None] & ~home
    return _Positions(tracks=tracks, truth=truth, evaluated=evaluated, images=images)


def _join(parts: Sequence[Tracks]) -> Tracks:
    """The tracks of several query frames as one record."""
    return dataclasses.replace(
        parts[0],
        xy=torch.cat([p.xy for p in parts], 2),
        visibility=torch.cat([p.visibility for p in parts], 2),
        covariance=torch.cat([p.covariance for p in parts], 2),
        query_frame=torch.cat([p.query_frame for p in parts], 1),
        valid=torch.cat([p.valid for p in parts], 1),
    )


def _figures(positions: Sequence[_Positions], config: RenderedConfig) -> dict[str, Any]:
    tap: dict[str, list[Tensor]] = {
        name: [] for name in ("delta_average", "average_jaccard", "occlusion_accuracy", "points_within")
    }
    counts = torch.zeros(3, dtype=torch.long)
    errors: list[Tensor] = []
    at_1024: list[Tensor] = []
    inside: dict[str, list[Tensor]] = {"inside_50": [], "inside_90": []}
    for p in positions:
        predicted, true = p.tracks.visible(config.min_visibility), p.truth.visible()
        offset = p.tracks.xy - p.truth.xy.to(p.tracks.xy.dtype)
        scale = p.images.pixel_scale[:, :, None]
        error = offset.norm(dim=-1) / scale
        measured = metrics.tap_vid(
            p.tracks.xy, predicted, p.truth.xy.to(p.tracks.xy.dtype), true, p.evaluated, p.images.stored_size
        )
        for name, values in tap.items():
            values.append(getattr(measured, name))
        found = metrics.visibility_counts(error, predicted, true, p.evaluated, config.right_px)
        counts += torch.stack([found.right, found.claimed, found.real]).sum(1).cpu()
        both = predicted & true & p.evaluated
        long_side = p.images.stored_size.amax(-1)[:, :, None] / scale
        errors.append(error[both].cpu())
        at_1024.append((error * 1024 / long_side)[both].cpu())
        near = both & (error < config.calibration_px)
        for probability, values in zip((0.5, 0.9), inside.values(), strict=True):
            values.append(metrics.inside_ellipse(offset[near], p.tracks.covariance[near], probability).cpu())
    right, claimed, real = counts.tolist()
    return {
        **{name: _percent(torch.stack(values).flatten(0, 1).nanmean(0)) for name, values in tap.items()},
        "precision": _percent(torch.tensor(right / claimed if claimed else torch.nan)),
        "recall": _percent(torch.tensor(right / real if real else torch.nan)),
        "median_px": _median(errors),
        "median_px_at_1024": _median(at_1024),
        **{name: _percent(torch.cat(values).cpu().double().mean()) for name, values in inside.items()},
    }


def _percent(share: Tensor) -> Any:
    values = (100 * share.cpu().double()).tolist()
    return [rounded(value, 2) for value in values] if isinstance(values, list) else rounded(values, 2)


def _median(parts: Sequence[Tensor]) -> float | None:
    return rounded(float(torch.cat(list(parts)).cpu().double().nanquantile(0.5)))
