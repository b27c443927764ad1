"""Seeds between frames, and the search that goes by them."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.scene import Queries
from vggsfm_cli.tracking.context import no_seeds
from vggsfm_cli.tracking.features import STRIDE, PairSeeds, Seeds, select_keypoints
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from vggsfm_cli.tracking.starts import StartConfig, find_starts, nearest
from warped import homography, image_set, move, photograph, warp

PERIOD = 10
"""Cells from one window of the facade to the next."""

CONFIG = StartConfig(guided_cells=2)


@pytest.fixture(scope="module")
def tracker():
    return load_model("small").tracker


def facade():
    """A descriptor map that repeats itself, the same moved by one period, and queries in the middle."""
    generator = torch.Generator().manual_seed(0)
    tile = torch.randn(32, 24, PERIOD, generator=generator)
    first = functional.normalize(tile.repeat(1, 1, 5), dim=0)
    rows, columns = torch.meshgrid(torch.arange(4, 20), torch.arange(12, 28), indexing="ij")
    return first, first.clone(), (torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * STRIDE


def test_seeds_tell_windows_apart_that_look_alike():
    first, second, xy = facade()
    moved = torch.tensor([PERIOD * STRIDE, 0.0])
    seeds = xy[::9] + 2.0
    near = nearest(xy, 12)
    guided = find_starts(xy, first, second, near, CONFIG, (seeds, seeds + moved, torch.ones(len(seeds))))
    assert guided.believed.float().mean() > 0.95
    assert (guided.xy - xy - moved)[guided.believed].norm(dim=-1).max() < 1.0
    alone = find_starts(xy, first, second, near, CONFIG)
    assert (alone.xy - xy - moved).norm(dim=-1).median() > 0.5 * PERIOD * STRIDE


def test_a_query_that_is_a_seed_goes_where_the_seed_does():
    first, second, xy = facade()
    target = torch.tensor([[203.0, 97.0]])
    guided = find_starts(xy, first, second, nearest(xy, 12), CONFIG, (xy[:1], target, torch.ones(1)))
    assert guided.believed[0]
    torch.testing.assert_close(guided.xy[0], target[0])
    alone = torch.arange(len(xy)) > 0
    assert not guided.believed[alone].any()  # one seed says nothing of what is far from it


def pair_of(first, second):
    return PairSeeds(first=torch.tensor(first), second=torch.tensor(second), probability=torch.ones(len(first)))


def test_seeds_read_from_either_side():
    points = (torch.rand(5, 2), torch.rand(6, 2), torch.rand(7, 2))
    seeds = Seeds(points=points, pairs={(0, 2): pair_of([1, 3], [4, 6]), (0, 1): pair_of([0], [5])}, least=2)
    here, there, _ = seeds.between(2, 0)
    assert torch.equal(here, points[2][[4, 6]]) and torch.equal(there, points[0][[1, 3]])
    assert seeds.between(0, 1) is None and seeds.between(1, 2) is None
    assert seeds.counts().tolist() == [[0, 1, 2], [1, 0, 0], [2, 0, 0]]
    some = seeds.some([2, 0])
    assert torch.equal(some.between(0, 1)[0], here)
    assert some.related().tolist() == [[False, True], [True, False]]


def test_seeds_of_a_photograph_and_its_warped_copy_are_right(tracker):
    picture = photograph()
    matrix = homography(12, 1.15, (20, -9), picture.shape[::-1])
    images = image_set([picture, warp(picture, matrix)])
    with torch.no_grad():
        seeds = tracker.relate(images, tracker.encode(images), None).seeds[0]
    here, there, probability = seeds.between(0, 1)
    error = (there - move(matrix, here).float()).norm(dim=-1)
    assert len(here) > 60 and (probability > 0.1).all()
    assert error.median() < 1.5 and (error < 4).float().mean() > 0.9


def test_frames_that_share_nothing_share_no_tracks(tracker):
    picture = photograph()
    generator = torch.Generator().manual_seed(0)
    other = functional.interpolate(torch.rand(1, 1, 40, 60, generator=generator), picture.shape, mode="bicubic")[0, 0]
    images = image_set([picture, warp(picture, homography(5, 1.05, (9, 4), picture.shape[::-1])), other.clamp(0, 1)])
    config = RoundsConfig(queries=QueryConfig(points_per_frame=200))
    tracks = track_in_rounds(tracker, images, config)
    seen = tracks.visible()[0]
    assert int((seen[0] & seen[1]).sum()) > 50
    assert not seen[2].any()


def test_pairs_without_points_have_no_seeds(tracker):
    images = image_set([photograph(), 0 * photograph() + 0.5])
    with torch.no_grad():
        features = tracker.relate(images, tracker.encode(images), None)
        xy = select_keypoints(features.keypoint_score[0, 0], 50)
        queries = Queries(
            frame=torch.zeros(1, len(xy), dtype=torch.long),
            xy=xy[None],
            valid=torch.ones(1, len(xy), dtype=torch.bool),
        )
        tracks = tracker(images, queries, features)
    assert features.seeds[0].between(0, 1) is None
    assert not tracks.visible()[0, 1].any()
    assert len(no_seeds(xy).probability) == 0


def test_a_model_without_context_searches_everywhere(tracker):
    plain = dataclasses.replace(tracker.config, context=None).build()
    images = image_set([photograph()])
    features = plain.encode(images)
    assert plain.relate(images, features, None) is features


def test_only_pairs_with_few_seeds_are_looked_at_again(tracker):
    picture = photograph()
    images = image_set([picture, warp(picture, homography(5, 1.05, (9, 4), picture.shape[::-1]))])
    context = tracker.context
    few = dataclasses.replace(context.config, few_pairs=0, points=100, more_points=400)
    largest = {}
    with torch.no_grad():
        features = tracker.encode(images)
        for enough in (0.1, 1.0):
            other = dataclasses.replace(few, enough=enough).build()
            other.load_state_dict(context.state_dict())
            pair = other.seeds(images, features, 0, [(0, 1)]).pairs[0, 1]
            largest[enough] = int(pair.first.max())
    assert largest[0.1] < 100 <= largest[1.0]
