"""Which points of a frame start tracks, and which tracks are carried on from there."""

import pytest
import torch

from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.queries import QueryConfig, choose_queries, first_frame

HEIGHT, WIDTH = 96, 128
KEY_POINTS = 100


def feature_maps() -> FeatureMaps:
    """Two frames; the second has a hundred key points on a grid, the better the further down, the first has none."""
    score = torch.zeros(1, 2, HEIGHT, WIDTH)
    rows, columns = torch.meshgrid(torch.arange(5, 95, 9), torch.arange(6, 126, 12), indexing="ij")
    score[0, 1, rows, columns] = 0.1 + 0.005 * rows + 0.0001 * columns
    return FeatureMaps(
        descriptors=torch.zeros(1, 2, 4, HEIGHT // 8, WIDTH // 8),
        keypoint_score=score,
        usable=torch.ones(1, 2, HEIGHT // 8, WIDTH // 8, dtype=torch.bool),
    )


def choose(covered: int, config: QueryConfig, complete: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of the second frame where tracks lie in its top left corner; the first ``complete`` are seen by all."""
    xy = torch.full((covered, 2), 0.5)
    views = torch.arange(covered, 0, -1) + 1
    return choose_queries(feature_maps(), 1, xy, views, torch.arange(covered) < complete, config)


def test_an_untouched_frame_starts_its_best_key_points() -> None:
    new, carried = choose(0, QueryConfig(points_per_frame=30))
    assert new.shape == (30, 2) and len(carried) == 0
    assert float(new[:, 1].min()) == 68.5  # three of ten rows, those with the best scores
    assert new[0].tolist() == [114.5, 86.5]
    everything, _ = choose(0, QueryConfig())
    assert len(everything) == KEY_POINTS


@pytest.mark.parametrize(("covered", "new"), [(0, 40), (15, 25), (39, 1), (40, 0), (60, 0)])
def test_a_frame_starts_no_more_than_it_lacks(covered: int, new: int) -> None:
    found, carried = choose(covered, QueryConfig(enough_tracks=40, max_carried=10))
    assert len(found) == new
    assert len(carried) == min(covered, 10)


@pytest.mark.parametrize(
    ("points_per_frame", "max_carried", "new", "carried"), [(50, 20, 50, 0), (120, 15, 100, 15), (110, 50, 100, 10)]
)
def test_new_and_carried_share_the_budget(points_per_frame: int, max_carried: int, new: int, carried: int) -> None:
    found, index = choose(30, QueryConfig(points_per_frame=points_per_frame, max_carried=max_carried))
    assert (len(found), len(index)) == (new, carried)


def test_tracks_with_fewest_views_are_carried_and_complete_ones_never() -> None:
    config = QueryConfig(enough_tracks=0, max_carried=5)
    _, carried = choose(12, config)
    assert carried.tolist() == [11, 10, 9, 8, 7]
    _, carried = choose(12, config, complete=9)
    assert carried.tolist() == [11, 10, 9]
    _, carried = choose(12, config, complete=12)
    assert carried.tolist() == []


def test_nothing_starts_where_a_track_is() -> None:
    features = feature_maps()
    taken = torch.tensor([[18.5 + 3, 50.5 - 3], [114.5, 86.5]])
    views, complete = torch.tensor([2, 2]), torch.ones(2, dtype=torch.bool)
    new, _ = choose_queries(features, 1, taken, views, complete, QueryConfig())
    assert len(new) == KEY_POINTS - 2
    assert float(torch.cdist(taken, new).min()) > 4


def test_the_first_frame_is_the_one_most_like_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(8, 1, 1, generator=generator)
    alone = torch.randn(4, 8, 1, 1, generator=generator)
    own = torch.tensor([1.0, 2.0, 0.1, 1.5])
    descriptors = (shared + own[:, None, None, None] * alone).expand(4, 8, 3, 5)
    features = FeatureMaps(
        descriptors=descriptors[None],
        keypoint_score=torch.zeros(1, 4, 24, 40),
        usable=torch.ones(1, 4, 3, 5, dtype=torch.bool),
    )
    assert first_frame(features) == 2
