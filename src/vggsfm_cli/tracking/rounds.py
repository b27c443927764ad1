"""Inference policy of stage 1: from which frames to track, and how rounds add up.

Each round tracks from one frame, as long as there are frames that see too few tracks. Points of that frame which no
track covers start new tracks; tracks that are seen there but not everywhere are carried on from their very position, so
a track can reach frames that its first frame could not see. A new track that lands on an existing one is the same scene
point: it is merged into it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback, Queries, Tracks, silent
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.queries import QueryConfig, choose_queries, first_frame

ChoosePartners = Callable[[FeatureMaps], Bool[Tensor, "S S"]]


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Settings of the rounds."""

    queries: QueryConfig = field(default_factory=QueryConfig)
    max_query_frames: int = 50  # at most so many frames start tracks
    frames_at_once: int = 2  # after the first: their tracks do not know of each other until they are merged
    alone_below: int = 8  # with fewer frames than this one at a time: each needs what the others found
    side_by_side: int = 2  # of these, followed on threads at a time; bounds the memory, changes nothing else
    min_visibility: float = 0.5
    merge_px: float = 1.0  # network pixels within which two tracks are the same point

    def at_once(self, frames: int) -> int:
        """How many frames start tracks at the same time in a scene of so many."""
        return self.frames_at_once if frames >= self.alone_below else 1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pool:
    """Tracks so far, of one scene, in stored pixels; ``[S T ...]``."""

    xy: Float[Tensor, "S T 2"]
    visibility: Float[Tensor, "S T"]
    covariance: Float[Tensor, "S T 2 2"]
    query_frame: Int[Tensor, " T"]

    def seen(self, threshold: float) -> Bool[Tensor, "S T"]:
        return self.visibility > threshold

    def add(self, other: "_Pool") -> "_Pool":
        return _Pool(
            xy=torch.cat([self.xy, other.xy], 1),
            visibility=torch.cat([self.visibility, other.visibility], 1),
            covariance=torch.cat([self.covariance, other.covariance], 1),
            query_frame=torch.cat([self.query_frame, other.query_frame]),
        )

    def select(self, chosen: Int[Tensor, " K"]) -> "_Pool":
        return _Pool(
            xy=self.xy[:, chosen],
            visibility=self.visibility[:, chosen],
            covariance=self.covariance[:, chosen],
            query_frame=self.query_frame[chosen],
        )

    def fill(self, index: Int[Tensor, " K"], other: "_Pool", threshold: float) -> "_Pool":
        """Take observations of ``other`` for tracks ``index`` where they had none."""
        take = (self.visibility[:, index] <= threshold) & (other.visibility > threshold)
        frames, tracks = take.nonzero(as_tuple=True)
        target = (frames, index[tracks])
        return _Pool(
            xy=self.xy.index_put(target, other.xy[frames, tracks]),
            visibility=self.visibility.index_put(target, other.visibility[frames, tracks]),
            covariance=self.covariance.index_put(target, other.covariance[frames, tracks]),
            query_frame=self.query_frame,
        )


@torch.no_grad()
def track_in_rounds(
    tracker: PointTracker,
    images: ImageSet,
    config: RoundsConfig,
    precision: torch.dtype = torch.float32,
    progress: ProgressCallback = silent,
    choose_partners: ChoosePartners | None = None,
) -> Tracks:
    """Tracks through one scene (B = 1), started from as many frames as it takes.

    Args:
        tracker: stage 1.
        images: the scene.
        config: policy.
        precision: of the feature network; everything else is float32.
        progress: told what is done.
        choose_partners: into which frames each frame is tracked, from the features of all; all of them if None. Where
            these are not all, every frame may start tracks, however many there are.

    Raises:
        ValueError: more than one scene.
    """
    if images.pixels.shape[0] != 1:
        raise ValueError("track_in_rounds takes one scene at a time")
    frames = int(images.frame_valid[0].sum())
    progress(Progress(stage="features", done=0, total=frames))
    with torch.autocast(images.pixels.device.type, dtype=precision, enabled=precision != torch.float32):
        features: FeatureMaps = tracker.encode(images)
    partners = None if choose_partners is None else choose_partners(features)
    if partners is not None and bool(partners[images.frame_valid[0]][:, images.frame_valid[0]].all()):
        partners = None
    rounds = min(frames, config.max_query_frames) if partners is None else frames
    features = tracker.relate(images, features, partners)
    progress(Progress(stage="features", done=frames, total=frames))
    if features.seeds:
        partners = features.seeds[0].related().to(images.frame_valid.device)
    remaining = set(images.frame_valid[0].nonzero().flatten().tolist())
    pool = _empty(images)
    at_once = config.at_once(frames)
    chosen = [first_frame(features)]
    done = 0
    while chosen:
        progress(Progress(stage="tracks", done=done, total=rounds, detail=images.names[0][chosen[0]]))
        before = pool

        def follow(frame: int, pool: _Pool = before) -> _Round:
            return _round(tracker, images, features, frame, pool, config, None if partners is None else partners[frame])

        groups = [chosen[i : i + config.side_by_side] for i in range(0, len(chosen), config.side_by_side)]
        for group in groups:
            for found in map_threads(follow, group, images.pixels.device):
                pool = _add(pool, found, images, config)
        done += len(chosen)
        remaining -= set(chosen)
        counts = pool.seen(config.min_visibility).sum(1).tolist()
        waiting = sorted(
            (s for s in remaining if counts[s] < config.queries.enough_tracks), key=lambda s: (counts[s], s)
        )
        chosen = waiting[: max(min(at_once, rounds - done), 0)]
    progress(Progress(stage="tracks", done=rounds, total=rounds))
    kept = pool.select((pool.seen(config.min_visibility).sum(0) > 1).nonzero().flatten())
    return Tracks(
        xy=kept.xy[None],
        visibility=kept.visibility[None],
        covariance=kept.covariance[None],
        query_frame=kept.query_frame[None],
        valid=torch.ones_like(kept.query_frame, dtype=torch.bool)[None],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    """What came of one query frame: its tracks, those first that carry on tracks ``carried`` of the pool."""

    tracks: _Pool
    carried: Int[Tensor, " K"]


@torch.no_grad()
def _round(
    tracker: PointTracker,
    images: ImageSet,
    features: FeatureMaps,
    frame: int,
    pool: _Pool,
    config: RoundsConfig,
    partners: Bool[Tensor, " S"] | None = None,
) -> _Round:
    """Track from one frame, into its partners only if they are given."""
    seen = pool.seen(config.min_visibility)
    here = seen[frame].nonzero().flatten()
    matrix = images.stored_from_network[0, frame]
    covered = (pool.xy[frame, here] - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2]).mT
    views = seen[:, here].sum(0)
    wanted = images.frame_valid[0] if partners is None else partners
    complete = (seen[:, here] | ~wanted[:, None]).all(0)
    new, carried = choose_queries(features, frame, covered, views, complete, config.queries)
    xy = torch.cat([covered[carried], new])
    alone = partners is not None and not bool(partners.any())
    if len(xy) == 0 or alone:
        return _Round(tracks=_empty(images), carried=carried[:0])
    queries = Queries(
        frame=torch.full((1, len(xy)), frame, device=xy.device),
        xy=xy[None],
        valid=torch.ones(1, len(xy), dtype=torch.bool, device=xy.device),
    )
    if partners is None:
        tracks = tracker(images, queries, features)
        found = _Pool(
            xy=tracks.xy[0],
            visibility=tracks.visibility[0],
            covariance=tracks.covariance[0],
            query_frame=queries.frame[0],
        )
    else:
        found = _among_partners(tracker, images, features, queries, partners)
    return _Round(tracks=found, carried=here[carried])


def _among_partners(
    tracker: PointTracker, images: ImageSet, features: FeatureMaps, queries: Queries, partners: Bool[Tensor, " S"]
) -> _Pool:
    """Track the queries of one frame into some frames; in the others nothing is seen."""
    frame = int(queries.frame[0, 0])
    chosen = [frame, *(s for s in partners.nonzero().flatten().tolist() if s != frame)]
    first = dataclasses.replace(queries, frame=torch.zeros_like(queries.frame))
    tracks = tracker(images.some(chosen), first, features.some(chosen))
    frames, count = len(partners), queries.xy.shape[1]
    index = torch.tensor(chosen, device=partners.device)
    return _Pool(
        xy=tracks.xy.new_zeros(frames, count, 2).index_copy(0, index, tracks.xy[0]),
        visibility=tracks.visibility.new_zeros(frames, count).index_copy(0, index, tracks.visibility[0]),
        covariance=torch.eye(2, dtype=tracks.xy.dtype, device=tracks.xy.device)
        .repeat(frames, count, 1, 1)
        .index_copy(0, index, tracks.covariance[0]),
        query_frame=queries.frame[0],
    )


def _add(pool: _Pool, found: _Round, images: ImageSet, config: RoundsConfig) -> _Pool:
    """The pool with what a round found."""
    index = torch.arange(found.tracks.xy.shape[1], device=pool.xy.device)
    carried, fresh = index[: len(found.carried)], index[len(found.carried) :]
    pool = pool.fill(found.carried, found.tracks.select(carried), config.min_visibility)
    return _merge(pool, found.tracks.select(fresh), images, config)


def _merge(pool: _Pool, fresh: _Pool, images: ImageSet, config: RoundsConfig) -> _Pool:
    """Add ``fresh`` tracks to the pool; those that land on a pool track are merged into it."""
    threshold = config.min_visibility
    twin = torch.full((fresh.xy.shape[1],), -1, device=fresh.xy.device)
    pool_seen, fresh_seen = pool.seen(threshold), fresh.seen(threshold)
    for s in range(pool.xy.shape[0]):
        old = pool_seen[s].nonzero().flatten()
        new = (fresh_seen[s] & (twin < 0)).nonzero().flatten()
        if len(old) == 0 or len(new) == 0:
            continue
        # through products of matrices distances of a pixel are lost in the rounding of positions of thousands
        distances = torch.cdist(fresh.xy[s, new], pool.xy[s, old], compute_mode="donot_use_mm_for_euclid_dist")
        distance, nearest = distances.min(-1)
        hit = distance < config.merge_px * images.pixel_scale[0, s]
        twin[new[hit]] = old[nearest[hit]]
    merged = (twin >= 0).nonzero().flatten()
    pool = pool.fill(twin[merged], fresh.select(merged), threshold)
    return pool.add(fresh.select((twin < 0).nonzero().flatten()))


def _empty(images: ImageSet) -> _Pool:
    frames = images.pixels.shape[1]
    return _Pool(
        xy=images.pixels.new_zeros(frames, 0, 2),
        visibility=images.pixels.new_zeros(frames, 0),
        covariance=images.pixels.new_zeros(frames, 0, 2, 2),
        query_frame=torch.zeros(0, dtype=torch.long, device=images.pixels.device),
    )
