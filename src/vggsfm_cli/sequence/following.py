"""Following a film: tracks from the last keyframe into the next frames, and which of these become keyframes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry.parallax import beyond_rotation
from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.scene import ImageSet, Queries
from vggsfm_cli.sequence.options import KeyframeConfig
from vggsfm_cli.sequence.scene_map import SceneMap, Sightings
from vggsfm_cli.tracking.features import FeatureMaps, select_keypoints
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.triangulation.ransac import frame_focal


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """One frame as the tracker knows it: its number, pixels and features (B = S = 1)."""

    frame: int
    images: ImageSet
    features: FeatureMaps

    def to_network(self, xy: Float[Tensor, "m 2"]) -> Float[Tensor, "m 2"]:
        """Stored pixels to network pixels, on the device and in the precision of the pixels."""
        return self.images.to_network(xy.to(self.images.pixels)[None, None])[0, 0]

    @property
    def scale(self) -> float:
        """Stored pixels per network pixel."""
        return float(self.images.pixel_scale)

    @property
    def long_side(self) -> float:
        """Of the picture in stored pixels."""
        return float(self.images.stored_size.max())


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchor:
    """A keyframe, and the tracks that are followed from it."""

    look: Look
    sightings: Sightings


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """What of an anchor's tracks another frame sees.

    Attributes:
        look: the frame.
        sightings: in it.
        share: of the anchor's tracks.
        motion, parallax: median way of the tracks, and what no rotation explains of it, in long sides.
    """

    look: Look
    sightings: Sightings
    share: float
    motion: float
    parallax: float


def look_at(tracker: PointTracker, images: ImageSet, frames: Sequence[int]) -> list[Look]:
    """Features of some frames (B = 1), each on its own."""
    features: FeatureMaps = tracker.encode(images)
    return [Look(frame=frame, images=images.some([k]), features=features.some([k])) for k, frame in enumerate(frames)]


def shows_enough(look: Look, config: KeyframeConfig) -> bool:
    """Whether a film can be followed from this frame at all."""
    candidates = look.features.keypoint_score > config.min_score
    return bool(look.images.frame_valid.all()) and int(candidates.sum()) >= config.min_tracks


def follow(tracker: PointTracker, anchor: Anchor, look: Look, scene_map: SceneMap, config: KeyframeConfig) -> Followed:
    """Track the anchor's points into another frame."""
    found, kept = track_into(tracker, anchor.look, anchor.sightings, look, config.min_visibility)
    before = anchor.sightings.xy[kept]
    moved = (found.xy - before).norm(dim=-1) / look.long_side
    return Followed(
        look=look,
        sightings=found,
        share=len(found) / max(len(anchor.sightings), 1),
        motion=float(moved.median()) if len(moved) else 0.0,
        parallax=_parallax(scene_map, anchor.look, before, look, found.xy),
    )


def wants_keyframe(step: Followed, config: KeyframeConfig) -> bool:
    """Whether the scene looks different enough from the last keyframe."""
    return step.share < config.min_share or step.motion > config.motion or step.parallax > config.parallax


def become_anchor(
    look: Look, sightings: Sightings | None, scene_map: SceneMap, config: KeyframeConfig, model_error_px: float
) -> Anchor:
    """Make a frame a keyframe: start new tracks where it sees none, and note the colours of all.

    Args:
        look: the frame.
        sightings: what it sees of older tracks, already in the map; None if there are none.
        scene_map: takes the new tracks.
        config: how many.
        model_error_px: deviation added to every observation, network pixels.
    """
    old = sightings if sightings is not None else _no_sightings()
    taken = look.to_network(old.xy)
    xy = select_keypoints(
        look.features.keypoint_score[0, 0],
        max(config.points - len(old), 0),
        radius=config.nms_radius_px,
        threshold=config.min_score,
        taken=taken,
    )
    stored = look.images.to_stored(xy[None, None])[0, 0].cpu().double()
    variance = ((0.05**2 + model_error_px**2) * look.scale**2) * torch.eye(2, dtype=torch.float64)
    new = Sightings(track=scene_map.start_tracks(len(xy)), xy=stored, covariance=variance.expand(len(xy), 2, 2).clone())
    scene_map.see(look.frame, new)
    scene_map.keyframes.append(look.frame)
    both = old.add(new)
    positions = torch.cat([taken, xy.to(taken)])
    scene_map.paint(both.track, sample(look.images.pixels[0], positions[None])[0].float().cpu())
    return Anchor(look=look, sightings=both)


def track_into(
    tracker: PointTracker, source: Look, sightings: Sightings, target: Look, min_visibility: float
) -> tuple[Sightings, Bool[Tensor, " m"]]:
    """Track sightings of one frame into another.

    Returns:
        Those that are seen there, without any model error in their covariance, and which ones these are.
    """
    nothing = torch.zeros(len(sightings), dtype=torch.bool)
    if len(sightings) < 2 or not bool(target.images.frame_valid.all()):  # noqa: PLR2004
        return sightings.select(nothing), nothing
    xy = source.to_network(sightings.xy)
    queries = Queries(
        frame=torch.zeros(1, len(xy), dtype=torch.long, device=xy.device),
        xy=xy[None],
        valid=torch.ones(1, len(xy), dtype=torch.bool, device=xy.device),
    )
    tracks = tracker(_pair(source.images, target.images), queries, _pair_features(source.features, target.features))
    seen = (tracks.visibility[0, 1] > min_visibility).cpu()
    found = Sightings(
        track=sightings.track[seen],
        xy=tracks.xy[0, 1].cpu().double()[seen],
        covariance=tracks.covariance[0, 1].cpu().double()[seen],
    )
    return found, seen


def with_error(sightings: Sightings, deviation_px: float) -> Sightings:
    """The same with a deviation, in stored pixels, added to the covariance of each."""
    eye = torch.eye(2, dtype=torch.float64) * deviation_px**2
    return dataclasses.replace(sightings, covariance=sightings.covariance + eye)


def _no_sightings() -> Sightings:
    double = torch.float64
    return Sightings(
        track=torch.zeros(0, dtype=torch.long),
        xy=torch.zeros(0, 2, dtype=double),
        covariance=torch.zeros(0, 2, 2, dtype=double),
    )


def _parallax(
    scene_map: SceneMap, first: Look, xy1: Float[Tensor, "m 2"], second: Look, xy2: Float[Tensor, "m 2"]
) -> float:
    """Median distance in long sides, of the second frame, that no rotation between two frames explains."""
    if len(xy1) < 3:  # noqa: PLR2004
        return 0.0
    cameras = scene_map.cameras([first.frame, second.frame])
    uv = cameras.unproject(torch.stack([xy1, xy2])[None])[0]
    return float(beyond_rotation(uv[0], uv[1]) * frame_focal(cameras)[0, 1]) / second.long_side


def _pair(first: ImageSet, second: ImageSet) -> ImageSet:
    """Two frames as one scene."""

    def both(name: str) -> Tensor:
        return torch.cat([getattr(first, name), getattr(second, name)], 1)

    camera_index = torch.cat([first.priors.camera_index, second.priors.camera_index], 1)
    return ImageSet(
        pixels=both("pixels"),
        mask=both("mask"),
        frame_valid=both("frame_valid"),
        stored_from_network=both("stored_from_network"),
        stored_size=both("stored_size"),
        names=((first.names[0][0], second.names[0][0]),),
        originals=None,
        priors=dataclasses.replace(first.priors, camera_index=camera_index),
    )


def _pair_features(first: FeatureMaps, second: FeatureMaps) -> FeatureMaps:
    return FeatureMaps(
        descriptors=torch.cat([first.descriptors, second.descriptors], 1),
        keypoint_score=torch.cat([first.keypoint_score, second.keypoint_score], 1),
        usable=torch.cat([first.usable, second.usable], 1),
        photographs=tuple((*a, *b) for a, b in zip(first.photographs, second.photographs, strict=True)),
    )
