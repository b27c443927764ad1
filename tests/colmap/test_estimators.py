"""RANSAC and averaging, through pycolmap."""

import numpy as np
import pytest
import torch
from worlds import WorldConfig, make_world, observe

from support.two_views import sampson_error
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import PhysicalCamera, RansacConfig, RelativeEdge
from vggsfm_cli.geometry import pose, rotation

TRUTH = make_world(WorldConfig(points=600, frames=6), 0)
TRACKS = observe(TRUTH)
CAMERA = PhysicalCamera(model="SIMPLE_RADIAL", width=1024, height=768, params=TRUTH.cameras.params[0, 0].numpy())
CONFIG = RansacConfig(seed=1)


def shared(a: int, b: int, outliers: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seen = (TRACKS.visibility[0, a] > 0) & (TRACKS.visibility[0, b] > 0)
    xy1, xy2 = TRACKS.xy[0, a, seen].numpy(), TRACKS.xy[0, b, seen].numpy().copy()
    wrong = np.zeros(len(xy1), dtype=bool)
    wrong[:outliers] = True
    xy2[wrong] = np.random.default_rng(0).uniform(0, 700, (outliers, 2))
    return xy1, xy2, wrong


def motion(a: int, b: int) -> torch.Tensor:
    return pose.relative(TRUTH.cameras.cam_from_world[0, a], TRUTH.cameras.cam_from_world[0, b])


def angle_deg(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(rotation.angle_deg(torch.from_numpy(found[:, :3].copy()) @ expected[:, :3].mT))


def test_fundamental_matrix() -> None:
    xy1, xy2, wrong = shared(0, 1)
    found = estimators.estimate_fundamental(xy1, xy2, 3.0, CONFIG)
    assert found is not None
    assert found.inliers[~wrong].mean() > 0.95
    assert found.inliers[wrong].mean() < 0.3
    error = sampson_error(*(torch.from_numpy(v) for v in (found.matrix, xy1[~wrong], xy2[~wrong])))
    assert error.abs().median() < 1


def test_homography_of_a_plane() -> None:
    xy1 = np.random.default_rng(0).uniform(0, 500, (60, 2))
    expected = np.array([[1.1, 0.1, 5], [0.05, 0.9, -3], [1e-4, 2e-4, 1]])
    mapped = np.c_[xy1, np.ones(60)] @ expected.T
    found = estimators.estimate_homography(xy1, mapped[:, :2] / mapped[:, 2:], 1.0, CONFIG)
    assert found is not None
    assert found.inliers.all()
    np.testing.assert_allclose(found.matrix / found.matrix[2, 2], expected, atol=1e-6)


def test_relative_pose() -> None:
    xy1, xy2, wrong = shared(0, 2)
    found = estimators.estimate_relative_pose(CAMERA, xy1, CAMERA, xy2, 2.0, CONFIG)
    assert found is not None
    assert found.inliers[~wrong].all()
    assert angle_deg(found.cam2_from_cam1, motion(0, 2)) < 0.01
    assert np.linalg.norm(found.cam2_from_cam1[:, 3]) == pytest.approx(1)


@pytest.mark.parametrize("free_focal", [False, True])
def test_absolute_pose(free_focal: bool) -> None:
    seen = TRACKS.visibility[0, 3] > 0
    xy, xyz = TRACKS.xy[0, 3, seen].numpy(), TRUTH.points.xyz_world[0, seen].numpy().copy()
    xyz[:30] += 1
    params = CAMERA.params * (np.array([1.2, 1, 1, 1]) if free_focal else 1)
    camera = PhysicalCamera(model="SIMPLE_RADIAL", width=1024, height=768, params=params)
    found = estimators.estimate_absolute_pose(camera, xy, xyz, 3.0, CONFIG, free_focal=free_focal)
    assert found is not None
    assert found.inliers[30:].all()
    assert found.inliers[:30].sum() < 5
    assert angle_deg(found.cam_from_world, TRUTH.cameras.cam_from_world[0, 3]) < 0.05
    assert found.params[0] == pytest.approx(CAMERA.params[0], rel=2e-3)


def test_the_same_seed_gives_the_same_result() -> None:
    xy1, xy2, _ = shared(0, 3)
    one, two = (estimators.estimate_relative_pose(CAMERA, xy1, CAMERA, xy2, 2.0, CONFIG) for _ in range(2))
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.cam2_from_cam1, two.cam2_from_cam1)


def test_too_few_points_find_nothing() -> None:
    few = np.zeros((3, 2))
    assert estimators.estimate_fundamental(few, few, 1.0, CONFIG) is None
    assert estimators.estimate_homography(few, few, 1.0, CONFIG) is None
    assert estimators.estimate_relative_pose(CAMERA, few, CAMERA, few, 1.0, CONFIG) is None
    assert estimators.estimate_absolute_pose(CAMERA, few, np.zeros((3, 3)), 1.0, CONFIG) is None


def test_averaged_poses(capfd: pytest.CaptureFixture[str]) -> None:
    edges = []
    for a in range(6):
        for b in range(a + 1, 6):
            relative = motion(a, b).numpy().copy()
            relative[:, 3] /= np.linalg.norm(relative[:, 3])
            edges.append(RelativeEdge(frame1=a, frame2=b, cam2_from_cam1=relative, support=100))
    edges[3] = RelativeEdge(frame1=0, frame2=4, cam2_from_cam1=np.eye(3, 4), support=30)
    seen = TRACKS.visibility[0].numpy() > 0
    found = estimators.average_poses([CAMERA] * 6, edges, TRACKS.xy[0].numpy(), seen, CONFIG)
    assert found is not None
    assert found.registered.all()
    first = torch.from_numpy(found.cam_from_world[0])
    for s in range(1, 6):
        relative = pose.relative(first, torch.from_numpy(found.cam_from_world[s]))
        assert angle_deg(relative.numpy(), motion(0, s)) < 0.5
    assert estimators.average_poses([CAMERA] * 6, [], TRACKS.xy[0].numpy(), seen, CONFIG) is None
    assert capfd.readouterr().err == ""
