"""How rounds add up: each scene point one track, through every frame it can reach, whatever runs side by side."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.scene import ImageSet, Progress, Queries, Tracks
from vggsfm_cli.threads import limit_cores
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from warped import homography, image_set, move, photograph, warp

HEIGHT, WIDTH, FRAMES, STEP = 64, 160, 5, 16


@pytest.fixture(autouse=True)
def all_cores_again() -> Iterator[None]:
    yield
    limit_cores(None)


class SlidingTracker(PointTracker):
    """The picture slides left by ``STEP`` pixels a frame; tracks reach the next frames on both sides and no further."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[int] = []

    def encode(self, images: ImageSet) -> FeatureMaps:
        score = torch.zeros(1, FRAMES, HEIGHT, WIDTH)
        score[:, :, 4::STEP, 8::STEP] = 0.5  # the same points in all frames, since the grid is as wide as the step
        descriptors = torch.ones(1, FRAMES, 2, HEIGHT // 8, WIDTH // 8)
        descriptors[0, :, 1, 0, 0] = 100 * (torch.arange(FRAMES) - 2.0)  # the middle one is like all others
        return FeatureMaps(
            descriptors=descriptors,
            keypoint_score=score,
            usable=torch.ones(1, FRAMES, HEIGHT // 8, WIDTH // 8, dtype=torch.bool),
        )

    def forward(self, images: ImageSet, queries: Queries, features: FeatureMaps | None = None) -> Tracks:
        frame, count = int(queries.frame[0, 0]), queries.xy.shape[1]
        self.started.append(frame)
        shift = STEP * (torch.arange(FRAMES) - frame).float()
        xy = queries.xy - torch.stack([shift, torch.zeros(FRAMES)], -1)[None, :, None]
        near = (torch.arange(FRAMES) - frame).abs() <= 1
        visible = (xy[..., 0] > 0) & (xy[..., 0] < WIDTH) & near[None, :, None]
        return Tracks(
            xy=xy,
            visibility=visible.float(),
            covariance=torch.eye(2).expand(1, FRAMES, count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def sliding_images() -> ImageSet:
    return image_set([torch.zeros(HEIGHT, WIDTH).numpy()] * FRAMES)


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_every_point_is_one_track_through_all_its_frames(at_once: int) -> None:
    tracker = SlidingTracker()
    tracks = track_in_rounds(tracker, sliding_images(), RoundsConfig(frames_at_once=at_once))
    assert tracker.started[0] == 2
    assert sorted(tracker.started) == list(range(FRAMES))
    visible = tracks.visible()[0]
    place = tracks.xy[0] + STEP * torch.arange(FRAMES)[:, None, None] * torch.tensor([1.0, 0.0])
    first = visible.int().argmax(0)
    world = place[first, torch.arange(place.shape[1])]
    assert float(((place - world) * visible[..., None]).abs().max()) < 1e-3
    columns, rows = WIDTH // STEP + FRAMES - 1, HEIGHT // STEP
    assert len(world.unique(dim=0)) == len(world) == (columns - 2) * rows  # the outermost are in a single frame
    column = ((world[:, 0] - 8) / STEP).round().long()
    expected = torch.stack([(column >= s) & (column < s + WIDTH // STEP) for s in range(FRAMES)])
    assert torch.equal(visible, expected)


def test_few_query_frames_are_kept_to_and_told() -> None:
    tracker, told = SlidingTracker(), []

    def tell(event: Progress) -> None:
        told.append((event.stage, event.done, event.total))

    track_in_rounds(tracker, sliding_images(), RoundsConfig(max_query_frames=4, frames_at_once=2), progress=tell)
    assert len(tracker.started) == 4
    assert told[2:] == [("tracks", 0, 4), ("tracks", 1, 4), ("tracks", 3, 4), ("tracks", 4, 4)]


def test_padding_frames_start_nothing() -> None:
    images, tracker = sliding_images(), SlidingTracker()
    valid = torch.tensor([[True, True, True, True, False]])
    track_in_rounds(tracker, dataclasses.replace(images, frame_valid=valid), RoundsConfig())
    assert sorted(tracker.started) == [0, 1, 2, 3]


def test_one_scene_at_a_time() -> None:
    images = image_set([torch.zeros(HEIGHT, WIDTH).numpy()] * 2, scenes=2)
    with pytest.raises(ValueError, match="one scene"):
        track_in_rounds(SlidingTracker(), images, RoundsConfig())


MATRICES = [
    homography(angle, scale, shift, (256, 160))
    for angle, scale, shift in [(0, 1, (0, 0)), (6, 1.05, (14, -6)), (-8, 0.95, (-30, 8)), (4, 1.0, (40, 4))]
]
SMALL = QueryConfig(points_per_frame=120, max_carried=50)


def follow(at_once: int, cores: int) -> Tracks:
    picture = photograph(width=256)[:160]
    images = image_set([picture, *[warp(picture, matrix) for matrix in MATRICES[1:]]])
    limit_cores(cores)
    return track_in_rounds(load_model("small").tracker, images, RoundsConfig(queries=SMALL, frames_at_once=at_once))


@pytest.fixture(scope="module")
def two_at_once() -> Tracks:
    return follow(2, 1)


def test_photographs_at_once_give_what_they_give_in_turn(two_at_once: Tracks) -> None:
    one = follow(1, 1)
    for tracks in (one, two_at_once):
        visible = tracks.visible()[0]
        assert (visible.sum(0) >= 2).all()
        assert ((tracks.query_frame >= 0) & (tracks.query_frame < 4)).all()
        assert len(tracks.query_frame.unique()) > 1
        inside = ((tracks.xy[0] >= 0) & (tracks.xy[0] <= torch.tensor([256.0, 160.0]))).all(-1)
        assert inside[visible].all()
        for s, matrix in enumerate(MATRICES[1:], 1):
            seen = visible[0] & visible[s]
            error = (tracks.xy[0, s, seen] - move(matrix, tracks.xy[0, 0, seen]).float()).norm(dim=-1)
            assert int(seen.sum()) > 60
            assert error.median() < 0.3
    counts = [tracks.visible()[0].sum(1).double() for tracks in (one, two_at_once)]
    assert bool(((counts[0] / counts[1]).log().abs() < 0.15).all())


@pytest.mark.parametrize("cores", [1, 2])
def test_the_same_again_whatever_the_threads(two_at_once: Tracks, cores: int) -> None:
    alone, other = two_at_once, follow(2, cores)
    assert torch.equal(alone.xy, other.xy)
    assert torch.equal(alone.visibility, other.visibility)
    assert torch.equal(alone.covariance, other.covariance)
    assert torch.equal(alone.query_frame, other.query_frame)
