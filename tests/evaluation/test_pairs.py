"""Groups of pairs, true epipolar lines, and sums over pairs."""

import math

import pytest
import torch

from vggsfm_cli.evaluation.pairs import PairDistances, distance_to_line, pair_groups, summarize_distances
from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import Cameras


def cameras_turned(angles_deg, model="PINHOLE", params=(500.0, 480.0, 310.0, 250.0)):
    """Cameras on a circle, turned about the vertical by so many degrees."""
    turn = torch.zeros(len(angles_deg), 3, dtype=torch.float64)
    turn[:, 1] = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float64))
    shift = torch.tensor([0.1, 0.2, 5.0], dtype=torch.float64).expand(len(angles_deg), 3)
    return Cameras(
        cam_from_world=torch.cat([rotation.exp(turn), shift[..., None]], -1)[None],
        models=(model,),
        params=torch.tensor([[params]], dtype=torch.float64),
        camera_index=torch.zeros(1, len(angles_deg), dtype=torch.long),
        registered=torch.ones(1, len(angles_deg), dtype=torch.bool),
    )


def test_pairs_are_grouped_by_the_angle_between_them():
    groups = pair_groups(cameras_turned([0.0, 4.0, 20.0, 80.0]))
    assert groups == {
        (0, 2): "25",
        (2, 0): "25",
        (1, 2): "10",
        (2, 1): "10",
        (0, 3): "80",
        (3, 0): "80",
        (1, 3): "80",
        (3, 1): "80",
        (2, 3): "50",
        (3, 2): "50",
    }


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("PINHOLE", (500.0, 480.0, 310.0, 250.0)),
        ("OPENCV", (500.0, 480.0, 310.0, 250.0, -0.1, 0.02, 1e-3, -2e-3)),
    ],
)
def test_projections_of_one_point_lie_on_its_line(model, params):
    cameras = cameras_turned([0.0, 30.0], model, params)
    xyz = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    xy, _ = cameras.project(xyz)
    assert distance_to_line(cameras, 0, 1, xy[0, 0], xy[0, 1]).max() < 1e-7
    half = xy[0, 1] + 0.5  # another origin of the pixels would look like this
    assert distance_to_line(cameras, 0, 1, xy[0, 0], half).median() > 0.3
    assert distance_to_line(cameras, 0, 1, xy[0, 0].flip(-1), xy[0, 1].flip(-1)).median() > 3


def test_distance_is_that_of_the_nearest_point_of_the_line():
    """Points of one ray of the first camera trace the line in the second; the nearest of many is as far as it says."""
    cameras = cameras_turned([0.0, 30.0])
    start = cameras.unproject(torch.tensor([[[[200.0, 100.0]], [[0.0, 0.0]]]], dtype=torch.float64))[0, 0]
    depth = torch.linspace(1, 60, 400_000, dtype=torch.float64)[:, None]
    in_first = torch.cat([start, torch.ones_like(start[:, :1])], -1) * depth
    world = cameras.cam_from_world[0, 0]
    trace, _ = cameras.project(((in_first - world[:, 3]) @ world[:, :3])[None])
    found = torch.tensor([[250.0, 160.0]], dtype=torch.float64)
    nearest = (trace[0, 1] - found).norm(dim=-1).min()
    distance = distance_to_line(cameras, 0, 1, torch.tensor([[200.0, 100.0]], dtype=torch.float64), found)
    assert distance.item() == pytest.approx(nearest.item(), abs=0.01) and distance > 1


def test_summary_of_a_group_is_over_all_its_observations():
    figures = summarize_distances([torch.tensor([0.5, 1.0, 4.0]), torch.tensor([math.inf])])
    assert figures == {
        "pairs": 2,
        "per_pair": 2.0,
        "within_1px_per_pair": 0.5,
        "median_px": 2.5,
        "within_1px": 25.0,
        "within_5px": 75.0,
    }


def test_summary_without_observations_has_no_figures():
    figures = summarize_distances([torch.zeros(0)])
    assert figures["pairs"] == 1 and figures["per_pair"] == 0
    assert figures["median_px"] is None and figures["within_1px"] is None
    assert summarize_distances([torch.tensor([math.inf])])["median_px"] is None


def test_pooling_adds_pairs():
    first, second = PairDistances(), PairDistances()
    first.add("tracks", "10", torch.tensor([0.0]))
    second.add("tracks", "10", torch.tensor([2.0, 2.0]))
    second.add("mutual", "80", torch.tensor([9.0]))
    first.update(second)
    summary = first.summary()
    assert summary["tracks"]["10"]["per_pair"] == 1.5 and summary["tracks"]["10"]["median_px"] == 2.0
    assert summary["mutual"] == {"80": summarize_distances([torch.tensor([9.0])])}
