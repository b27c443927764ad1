"""Places that are seen again: found by likeness, verified by tracking, closed by a pose graph and merged tracks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.camera_estimation.view_graph import physical_cameras
from vggsfm_cli.colmap import estimators
from vggsfm_cli.geometry import pose
from vggsfm_cli.retrieval import RetrievalConfig, likeness, local_descriptors
from vggsfm_cli.sequence.following import Look, track_into, with_error
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.pose_graph import UNKNOWNS, Edges, Similarities, relax, residuals
from vggsfm_cli.sequence.scene_map import SceneMap, Sightings
from vggsfm_cli.tracking.interface import PointTracker

logger = logging.getLogger(__name__)

ROTATION_SPREAD, STEP_SPREAD, SCALE_SPREAD = 0.005, 0.05, 0.01
"""Standard deviations of an edge of the pose graph: radians, shares of a median step, logarithms of the scale."""

WORST_EDGE = 6.0
"""Standard deviations by which an edge may be missed; above it, the loop with the largest error is rejected."""

MIN_TWINS = 8
"""Points with a track of each visit, from which the scale between the visits is taken."""

MOST_NODES = 500
"""Of the pose graph; of more keyframes some follow the one before."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """What a keyframe looks like."""

    frame: int
    descriptors: Float[Tensor, "n C"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """A place that is seen again.

    Attributes:
        first, second: keyframes of the two visits.
        alike: cosine of their descriptors.
        relative: maps the first camera's coordinates to the second's.
        seen: tracks of the first visit in the second keyframe.
        twins: tracks of both visits that are one, in two columns.
    """

    first: int
    second: int
    alike: float
    relative: Similarities
    seen: Sightings
    twins: Int[Tensor, "k 2"]

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "frames": [self.first, self.second],
            "alike": round(self.alike, 3),
            "tracks": len(self.seen),
            "scale": round(float(self.relative.scale[0]), 4),
        }


def note_place(look: Look, config: RetrievalConfig) -> Place:
    """What is kept of a keyframe when its pixels are gone."""
    return Place(frame=look.frame, descriptors=local_descriptors(look.features, 0, config).half().cpu())


def find_loops(
    scene_map: SceneMap,
    places: list[Place],
    see: Callable[..., list[Look]],
    tracker: PointTracker,
    options: SequenceOptions,
) -> list[Loop]:
    """Verified loops.

    Args:
        scene_map: with all windows.
        places: of its keyframes.
        see: reads frames again.
        tracker: stage 1.
        options: what counts.
    """
    config, loops, failures = options.loops, [], 0
    placed = [place for place in places if scene_map.registered[place.frame]]
    for alike, first, second in _candidates(placed, options)[: config.max_checks]:
        one, other = see(first, second)
        loop = _verify(scene_map, one, other, alike, tracker, options)
        failures = failures + 1 if loop is None else 0
        if loop is not None:
            logger.info("frame %d sees again what frame %d saw: %d tracks", second, first, len(loop.seen))
            loops.append(loop)
        elif failures >= config.max_failures:
            break
    return loops


def _candidates(places: list[Place], options: SequenceOptions) -> list[tuple[float, int, int]]:
    """Each keyframe with the most similar one long before it, the best first."""
    if len(places) <= options.loops.min_gap:
        return []
    generator = torch.Generator().manual_seed(options.seed)
    alike = likeness([place.descriptors.float() for place in places], options.retrieval, generator)
    found = []
    for k in range(options.loops.min_gap, len(places)):
        value, first = alike[k, : k - options.loops.min_gap + 1].max(0)
        found.append((float(value), places[int(first)].frame, places[k].frame))
    return sorted(found, key=lambda item: (-item[0], item[2]))


def _verify(
    scene_map: SceneMap, first: Look, second: Look, alike: float, tracker: PointTracker, options: SequenceOptions
) -> Loop | None:
    """Track what the first keyframe sees into the second, and place the second among those points."""
    config, s = options.loops, second.frame
    known = scene_map.sightings[first.frame]
    known = known.select(scene_map.valid[known.track])
    found, _ = track_into(tracker, first, known, second, options.keyframes.min_visibility)
    camera = physical_cameras(scene_map.facts.some([s]), scene_map.cameras([s]))[0]
    xyz = scene_map.xyz_world[found.track]
    placed = estimators.estimate_absolute_pose(
        camera, found.xy.numpy(), xyz.numpy(), config.max_error_px * second.scale, config.ransac
    )
    inliers = 0 if placed is None else int(placed.inliers.sum())
    if placed is None or inliers < max(config.min_inliers, config.min_inlier_ratio * len(found)):
        return None
    cam_from_world = torch.from_numpy(placed.cam_from_world.copy())
    found = found.select(torch.from_numpy(placed.inliers))
    twins = _twins(scene_map, found, s, config.merge_px * second.scale)
    if len(twins) < MIN_TWINS:
        return None
    ours = _depth(cam_from_world, scene_map.xyz_world[twins[:, 0]])
    theirs = _depth(scene_map.cam_from_world[s], scene_map.xyz_world[twins[:, 1]])
    scale = (theirs / ours).median()
    motion = pose.compose(cam_from_world, pose.inverse(scene_map.cam_from_world[first.frame]))
    return Loop(
        first=first.frame,
        second=s,
        alike=alike,
        relative=Similarities(scale=scale[None], rotation=motion[None, :, :3], translation=scale * motion[None, :, 3]),
        seen=with_error(found, options.mapping.model_error_px * second.scale),
        twins=twins,
    )


def _twins(scene_map: SceneMap, found: Sightings, frame: int, max_distance: float) -> Int[Tensor, "k 2"]:
    """Pairs of tracks, of ``found`` and of what the frame saw before, that lie nearest to each other."""
    own = scene_map.sightings[frame]
    own = own.select(scene_map.valid[own.track] & ~torch.isin(own.track, found.track))
    if not len(own) or not len(found):
        return torch.zeros(0, 2, dtype=torch.long)
    distance = torch.cdist(found.xy, own.xy)
    nearest = distance.argmin(1)
    mutual = distance.argmin(0)[nearest] == torch.arange(len(found))
    close = mutual & (distance.gather(1, nearest[:, None])[:, 0] < max_distance)
    return torch.stack([found.track[close], own.track[nearest[close]]], -1)


def _depth(cam_from_world: Float[Tensor, "3 4"], xyz: Float[Tensor, "k 3"]) -> Float[Tensor, " k"]:
    return (xyz @ cam_from_world[2, :3] + cam_from_world[2, 3]).clamp_min(1e-9)


def close_loops(scene_map: SceneMap, loops: list[Loop]) -> list[Loop]:
    """Move the map so that its loops meet, and merge the tracks of both visits.

    Returns:
        The loops that agree with each other and with the way between.
    """
    frames = scene_map.placed_keyframes
    stride = -(-len(frames) // MOST_NODES)
    node_of = {s: k // stride for k, s in enumerate(frames)}
    loops = [loop for loop in loops if node_of[loop.first] != node_of[loop.second]]
    before = _similarities(scene_map, frames[::stride])
    while loops:
        edges = _edges(scene_map, before, loops, node_of, frames[::stride])
        after = relax(before, edges)
        miss = residuals(after, edges).abs().amax(-1)
        if float(miss.max()) <= WORST_EDGE:
            break
        worst = int(miss[len(before.scale) - 1 :].argmax())
        logger.info("the loop of frames %d and %d is rejected as an outlier", loops[worst].first, loops[worst].second)
        loops = loops[:worst] + loops[worst + 1 :]
    if not loops:
        return []
    _move(scene_map, frames, [node_of[s] for s in frames], before, after)
    for loop in loops:
        known = scene_map.sightings[loop.second].track
        new = ~torch.isin(loop.seen.track, known) & ~torch.isin(loop.seen.track, loop.twins[:, 0])
        scene_map.see(loop.second, loop.seen.select(new))
    twins = torch.cat([loop.twins for loop in loops])
    scene_map.merge_tracks(twins[:, 0], twins[:, 1])
    return loops


def _similarities(scene_map: SceneMap, frames: list[int]) -> Similarities:
    poses = scene_map.cam_from_world[frames]
    one = torch.ones(len(frames), dtype=poses.dtype)
    return Similarities(scale=one, rotation=poses[..., :3].clone(), translation=poses[..., 3].clone())


def _edges(
    scene_map: SceneMap, nodes: Similarities, loops: list[Loop], node_of: dict[int, int], frames: list[int]
) -> Edges:
    """The way from node to node as it is, and the loops."""
    count = len(nodes.scale)
    here = torch.arange(count - 1)
    way = nodes[here + 1].after(nodes[here].inverse())
    step = way.translation.norm(dim=-1).median()
    measured = [_between_nodes(scene_map, loop, node_of, frames) for loop in loops]
    spread = torch.tensor([ROTATION_SPREAD] * 3 + [STEP_SPREAD * float(step)] * 3 + [SCALE_SPREAD], dtype=torch.float64)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(way, name), *(getattr(one, name) for one in measured)])

    return Edges(
        first=torch.cat([here, torch.tensor([node_of[loop.first] for loop in loops])]),
        second=torch.cat([here + 1, torch.tensor([node_of[loop.second] for loop in loops])]),
        measured=Similarities(scale=joined("scale"), rotation=joined("rotation"), translation=joined("translation")),
        spread=spread.expand(count - 1 + len(loops), UNKNOWNS),
    )


def _between_nodes(scene_map: SceneMap, loop: Loop, node_of: dict[int, int], frames: list[int]) -> Similarities:
    """A loop as it is measured between the nodes that its keyframes follow."""
    ends = [
        _similarities(scene_map, [s]).after(_similarities(scene_map, [frames[node_of[s]]]).inverse())
        for s in (loop.first, loop.second)
    ]
    return ends[1].inverse().after(loop.relative).after(ends[0])


def _move(scene_map: SceneMap, frames: list[int], node: list[int], before: Similarities, after: Similarities) -> None:
    """Carry keyframes with their nodes, and every point with the first keyframe that sees it."""
    index = torch.tensor(node)
    world = after.inverse().after(before)[index]  # new world from old world, keyframe by keyframe
    old = _similarities(scene_map, frames)
    new = old.after(world.inverse())
    poses = torch.cat([new.rotation, (new.translation / new.scale[:, None])[..., None]], -1)
    owner = torch.full((scene_map.tracks,), -1)
    for k in reversed(range(len(frames))):
        owner[scene_map.sightings[frames[k]].track] = k
    owned = (owner >= 0).nonzero().flatten()
    scene_map.xyz_world[owned] = world[owner[owned]].of(scene_map.xyz_world[owned])
    scene_map.cam_from_world[frames] = poses
