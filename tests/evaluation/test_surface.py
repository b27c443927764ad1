"""Points against scans, on surfaces whose answer is known, and against a search that compares everything."""

import math

import pytest
import torch

from vggsfm_cli.evaluation import surface
from vggsfm_cli.evaluation.surface import (
    Scan,
    SurfaceConfig,
    compare_with_scans,
    mean_over_voxels,
    nearest_within,
    passed_by_a_beam,
)

CONFIG = SurfaceConfig()


def random_points(count, seed, scale=1.0):
    return scale * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("max_pairs", [2**23, 2**12])
def test_distances_are_those_of_comparing_everything(monkeypatch, max_pairs):
    monkeypatch.setattr(surface, "MAX_PAIRS", max_pairs)
    points, reference = random_points(150, 0), random_points(400, 1)
    points[0] = torch.tensor([1e9, 0.0, 0.0])
    both = torch.cdist(points, reference)
    expected = both.amin(1), both.amin(0)
    found = nearest_within(points, reference, 0.1)
    for distance, true in zip(found, expected, strict=True):
        within = true <= 0.1
        assert 20 < int(within.sum()) < len(true)
        torch.testing.assert_close(distance[within], true[within])
        assert (distance[~within] > 0.1).all()


def test_no_points_are_far_from_everything():
    empty = torch.zeros(0, 3)
    to_reference, to_points = nearest_within(empty, random_points(5, 0), 0.1)
    assert len(to_reference) == 0 and to_points.isinf().all()


def test_a_dense_cube_counts_no_more_than_a_sparse_one():
    xyz = torch.cat([torch.full((9, 3), 0.05), torch.tensor([[0.95, 0.0, 0.0]])])
    good = torch.arange(10) == 9
    assert mean_over_voxels(xyz, good, 0.1) == pytest.approx(0.5)
    assert mean_over_voxels(
        torch.cat([xyz, torch.full((1, 3), 1e12)]), torch.cat([good, good[:1]]), 0.1
    ) == pytest.approx(1 / 3)
    assert math.isnan(mean_over_voxels(xyz[:0], good[:0], 0.1))


def wall(step=0.004):
    """A wall of one square metre, 2 m in front of the scanner."""
    side = torch.arange(-0.5, 0.5, step)
    x, y = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.full((x.numel(),), 2.0)], -1)


def test_beams_see_what_is_in_front_of_them_and_nothing_else():
    points = torch.tensor(
        [
            [0.0, 0.0, 1.0],  # in front of the wall
            [0.0, 0.0, 2.005],  # on it
            [0.0, 0.0, 1.995],  # before it, by less than the tolerance
            [0.0, 0.0, 2.5],  # behind it
            [2.0, 0.0, 1.0],  # beside it
            [0.0, 0.0, -1.0],  # behind the scanner
            [0.0, 0.0, 1e-4],  # in the scanner
            [0.525, 0.0, 1.999],  # beside its edge, farther than the tolerance
            [0.4916, 0.0, 1.95],  # beside its edge, nearer
        ]
    )
    seen = passed_by_a_beam(points, wall(), 0.01, CONFIG)
    assert seen.tolist() == [True, False, False, False, False, False, True, False, True]
    empty = torch.zeros(0, 3)
    assert (
        not passed_by_a_beam(points, empty, 0.01, CONFIG).any()
        and len(passed_by_a_beam(empty, wall(), 0.01, CONFIG)) == 0
    )


def test_accuracy_and_completeness_of_a_wall():
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    pose[:3, 3] = torch.tensor([5.0, -3.0, 1.0])
    scan = Scan(xyz=wall(), world_from_scan=pose)
    assert torch.allclose(scan.to_scan(scan.in_world()), wall(), atol=1e-5)
    left = wall(0.02)[wall(0.02)[:, 0] < 0]
    off = torch.tensor([0.0, 0.0, 0.03])
    floating = torch.tensor([[x, 0.2, 1.0] for x in torch.linspace(-0.2, 0.2, 25).tolist()])
    hidden = torch.tensor([[0.0, 0.0, 3.0]]).expand(50, 3)
    for points, tolerances, accuracy, completeness in (
        (left, (0.02, 0.05), (100, 100), (50, 53)),
        (left - off, (0.02, 0.05), (0, 100), (0, 52)),
        (torch.cat([left, floating]), (0.02,), (100 * 1250 / 1275,), (50,)),
        (torch.cat([left, hidden]), (0.02,), (100,), (50,)),
        (hidden, (0.02,), (math.nan,), (0,)),
        (left[:0], (0.02,), (math.nan,), (0,)),
    ):
        in_world = points @ pose[:3, :3].float().mT + pose[:3, 3].float()
        figures = compare_with_scans(in_world, [scan], SurfaceConfig(tolerances=tolerances))
        assert figures.accuracy == pytest.approx(accuracy, abs=0.5, nan_ok=True)
        assert figures.completeness == pytest.approx(completeness, abs=0.7)


def test_two_scans_see_together():
    near, far = wall(0.02), wall(0.02) + torch.tensor([0.0, 0.0, 2.0])
    scans = [
        Scan(xyz=near, world_from_scan=torch.eye(4, dtype=torch.float64)),
        Scan(xyz=far, world_from_scan=torch.eye(4, dtype=torch.float64)),
    ]
    between = torch.tensor([[0.0, 0.0, 3.0]])
    # behind the first wall for the first scan, in free space for the second
    assert all(math.isnan(value) for value in compare_with_scans(between, scans[:1]).accuracy)
    assert compare_with_scans(between, scans).accuracy == (0.0, 0.0, 0.0)
    both = torch.cat([near, far])
    assert compare_with_scans(both, scans).completeness == (100.0, 100.0, 100.0)
    assert compare_with_scans(near, scans).completeness == pytest.approx((50.0, 50.0, 50.0), abs=0.1)
