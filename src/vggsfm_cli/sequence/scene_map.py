"""The growing model of a sequence: the only mutable object of the package, private to this room."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.camera_estimation.preliminary import cameras_without_poses
from vggsfm_cli.mapping.partial import TrackedScene
from vggsfm_cli.scene import Cameras, ImageSet, Points, Tracks
from vggsfm_cli.triangulation.interface import Triangulator


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """Tracks that one frame sees: their numbers, stored pixels and covariances, in double precision."""

    track: Int[Tensor, " m"]
    xy: Float[Tensor, "m 2"]
    covariance: Float[Tensor, "m 2 2"]

    def __len__(self) -> int:
        return len(self.track)

    def select(self, chosen: Bool[Tensor, " m"] | Int[Tensor, " k"]) -> "Sightings":
        """Some of them."""
        return Sightings(track=self.track[chosen], xy=self.xy[chosen], covariance=self.covariance[chosen])

    def add(self, other: "Sightings") -> "Sightings":
        """Both, one after the other."""
        return Sightings(
            track=torch.cat([self.track, other.track]),
            xy=torch.cat([self.xy, other.xy]),
            covariance=torch.cat([self.covariance, other.covariance]),
        )


class SceneMap:
    """Cameras, tracks and points of a sequence so far; frames and tracks are numbered from its start.

    Attributes:
        facts: all frames of the sequence without their pixels.
        cam_from_world, registered, params: as in ``Cameras``, without the batch axis.
        sightings: of each frame that was followed.
        keyframes: in their order.
        xyz_world, valid: of each track.
        color_sum, color_count: of each track, over its keyframes.
    """

    def __init__(self, facts: ImageSet) -> None:
        cameras = cameras_without_poses(facts, facts.priors.params[0].double())
        self.facts = facts
        self.models, self.camera_index = cameras.models, cameras.camera_index[0]
        self.params: Float[Tensor, "C P"] = cameras.params[0].double()
        self.cam_from_world: Float[Tensor, "S 3 4"] = cameras.cam_from_world[0].double()
        self.registered: Bool[Tensor, " S"] = torch.zeros(len(self.cam_from_world), dtype=torch.bool)
        self.sightings: dict[int, Sightings] = {}
        self.keyframes: list[int] = []
        self.xyz_world: Float[Tensor, "T 3"] = torch.zeros(0, 3, dtype=torch.float64)
        self.valid: Bool[Tensor, " T"] = torch.zeros(0, dtype=torch.bool)
        self.color_sum: Float[Tensor, "T 3"] = torch.zeros(0, 3)
        self.color_count: Float[Tensor, " T"] = torch.zeros(0)

    @property
    def tracks(self) -> int:
        """How many tracks were started."""
        return len(self.valid)

    @property
    def placed_keyframes(self) -> list[int]:
        """Keyframes with a pose."""
        return [s for s in self.keyframes if self.registered[s]]

    def start_tracks(self, count: int) -> Int[Tensor, " k"]:
        """Numbers of new tracks."""
        first = self.tracks
        self.xyz_world = torch.cat([self.xyz_world, self.xyz_world.new_zeros(count, 3)])
        self.valid = torch.cat([self.valid, torch.zeros(count, dtype=torch.bool)])
        self.color_sum = torch.cat([self.color_sum, torch.zeros(count, 3)])
        self.color_count = torch.cat([self.color_count, torch.zeros(count)])
        return torch.arange(first, first + count)

    def see(self, frame: int, sightings: Sightings) -> None:
        """Add what a frame sees."""
        known = self.sightings.get(frame)
        self.sightings[frame] = sightings if known is None else known.add(sightings)

    def paint(self, tracks: Int[Tensor, " m"], color: Float[Tensor, "m 3"]) -> None:
        """Add a look at the colours of tracks."""
        self.color_sum.index_add_(0, tracks, color)
        self.color_count.index_add_(0, tracks, torch.ones(len(tracks)))

    def cameras(self, frames: Sequence[int]) -> Cameras:
        """Some frames (B = 1), all physical cameras."""
        index = list(frames)
        return Cameras(
            cam_from_world=self.cam_from_world[index][None],
            models=self.models,
            params=self.params[None],
            camera_index=self.camera_index[index][None],
            registered=self.registered[index][None],
        )

    def points(self, tracks: Int[Tensor, " n"]) -> Points:
        """Some points (B = 1)."""
        return Points(xyz_world=self.xyz_world[tracks][None], valid=self.valid[tracks][None])

    def put_cameras(self, frames: Sequence[int], cameras: Cameras, *, params: bool) -> None:
        """Take over poses of registered frames (B = 1), and the parameters of their cameras if asked to."""
        for k, s in enumerate(frames):
            if cameras.registered[0, k]:
                self.cam_from_world[s] = cameras.cam_from_world[0, k]
                self.registered[s] = True
                camera = int(cameras.camera_index[0, k])
                if params:
                    self.params[camera] = cameras.params[0, camera]

    def put_points(self, tracks: Int[Tensor, " n"], points: Points) -> None:
        """Take over points (B = 1)."""
        self.xyz_world[tracks] = points.xyz_world[0]
        self.valid[tracks] = points.valid[0]

    def observations(
        self, frames: Sequence[int]
    ) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Float[Tensor, "M 2"], Float[Tensor, "M 2 2"]]:
        """What some frames see of valid points: place in ``frames``, track, stored pixels, covariance."""
        pieces = []
        for k, s in enumerate(frames):
            seen = self.sightings[s]
            seen = seen.select(self.valid[seen.track])
            pieces.append((torch.full_like(seen.track, k), seen.track, seen.xy, seen.covariance))
        frame, track, xy, covariance = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return frame, track, xy, covariance

    def scene(
        self, frames: Sequence[int], triangulator: Triangulator, tracks: Int[Tensor, " n"] | None = None
    ) -> tuple[TrackedScene, Int[Tensor, " n"]]:
        """The dense scene of some frames, and the numbers of its tracks.

        Args:
            frames: of the window.
            triangulator: of the scene.
            tracks: which ones; those that two of the frames see if None.
        """
        facts = self.facts.some(frames)
        if tracks is None:
            seen = torch.cat([self.sightings[s].track for s in frames])
            tracks = (torch.bincount(seen, minlength=self.tracks) > 1).nonzero().flatten()
        place = torch.full((self.tracks,), -1)
        place[tracks] = torch.arange(len(tracks))
        xy = torch.zeros(1, len(frames), len(tracks), 2, dtype=torch.float64)
        visibility = torch.zeros(1, len(frames), len(tracks), dtype=torch.float64)
        covariance = torch.eye(2, dtype=torch.float64).repeat(1, len(frames), len(tracks), 1, 1)
        for k, s in enumerate(frames):
            seen_here = self.sightings[s]
            seen_here = seen_here.select(place[seen_here.track] >= 0)
            column = place[seen_here.track]
            xy[0, k, column] = seen_here.xy
            visibility[0, k, column] = 1.0
            covariance[0, k, column] = seen_here.covariance
        dense = Tracks(
            xy=xy,
            visibility=visibility,
            covariance=covariance,
            query_frame=torch.zeros(1, len(tracks), dtype=torch.long),
            valid=torch.ones(1, len(tracks), dtype=torch.bool),
        )
        scale = facts.pixel_scale.double()
        return TrackedScene(images=facts, tracks=dense, triangulator=triangulator, scale=scale), tracks

    def merge_tracks(self, kept: Int[Tensor, " m"], dropped: Int[Tensor, " m"]) -> None:
        """Make ``dropped`` tracks one with ``kept`` ones, in all frames; where a frame sees both, the first stays."""
        new = torch.arange(self.tracks)
        for a, b in zip(kept.tolist(), dropped.tolist(), strict=True):
            first, second = sorted((_root(new, a), _root(new, b)))
            new[second] = first
        new = torch.tensor([_root(new, n) for n in range(self.tracks)], dtype=torch.long)
        gone = new != torch.arange(self.tracks)
        self.color_sum.index_add_(0, new[gone], self.color_sum[gone])
        self.color_count.index_add_(0, new[gone], self.color_count[gone])
        self.valid[gone] = False
        for s, seen in self.sightings.items():
            if bool(gone[seen.track].any()):
                self.sightings[s] = _first_of_each(
                    Sightings(track=new[seen.track], xy=seen.xy, covariance=seen.covariance)
                )


def _root(parent: Int[Tensor, " T"], track: int) -> int:
    while int(parent[track]) != track:
        track = int(parent[track])
    return track


def _first_of_each(seen: Sightings) -> Sightings:
    """Sightings without those of a track that comes before."""
    order = seen.track.argsort(stable=True)
    ordered = seen.track[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return seen.select(order[first].sort().values)
