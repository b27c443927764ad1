"""Our two-view geometry against the numbers of VGGSfM v2's."""

import math

import torch
from torch import Tensor

from goldens import golden
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import RansacConfig
from vggsfm_cli.geometry import epipolar, pose, rotation
from vggsfm_cli.recipes.v2 import triangulation as v2

FIXTURE = golden("two_view")
XY = FIXTURE["tracks"].double()
CALIBRATION = FIXTURE["default_kmat"].double()


def normalized(matrix: Tensor) -> Tensor:
    """Unit norm, and the last entry positive: what a matrix that is known up to scale can be compared by."""
    return matrix / matrix.norm(dim=(-2, -1), keepdim=True) * matrix[..., 2:, 2:].sign()


def test_eight_points_as_published() -> None:
    weights = FIXTURE["eightpoint_mask"].double()
    found = epipolar.eight_point(XY[:1].expand(2, -1, -1), XY[1:], weights)
    expected = FIXTURE["eightpoint_F"].double()
    # theirs is float32, so that residuals and not entries say how close both are
    torch.testing.assert_close(normalized(found), normalized(expected), atol=1e-4, rtol=1e-2)
    error = epipolar.sampson_error(expected, XY[:1].expand(2, -1, -1), XY[1:]).square()
    torch.testing.assert_close(error, FIXTURE["sampson_sq_of_8pt"].double(), atol=1e-3, rtol=1e-3)
    inside = FIXTURE["eightpoint_mask"]
    ours, theirs = (
        epipolar.sampson_error(matrix, XY[:1].expand(2, -1, -1), XY[1:])[inside].abs() for matrix in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=0)


def test_normalisation_as_published() -> None:
    weights = FIXTURE["eightpoint_mask"].double()
    found = epipolar._normalisation(XY[:1].expand(2, -1, -1), weights)
    torch.testing.assert_close(found, FIXTURE["normalize_transform1"].double(), atol=1e-4, rtol=1e-4)
    moved = XY[0] * found[:, :1, :1] + found[:, None, :2, 2]
    torch.testing.assert_close(moved, FIXTURE["normalized_points1"].double(), atol=1e-4, rtol=1e-4)


def test_poses_of_an_essential_matrix_as_published() -> None:
    fundamental = FIXTURE["eightpoint_F"].double()
    essential = CALIBRATION.mT @ fundamental @ CALIBRATION
    torch.testing.assert_close(essential, FIXTURE["essential"].double(), atol=1e-4, rtol=1e-4)
    found = epipolar.poses_from_essential(essential)
    for pair in range(2):
        theirs = torch.cat([FIXTURE["decomp_R4"][pair], FIXTURE["decomp_t4"][pair][..., None]], -1).double()
        distance = (found[pair][:, None] - theirs[None]).abs().amax((-1, -2))
        assert (distance.amin(0) < 1e-4).all()
        assert (distance.amin(1) < 1e-4).all()


def test_the_pose_in_front_as_published() -> None:
    for pair in range(2):
        candidates = epipolar.poses_from_essential(FIXTURE["essential"][pair].double())
        rays = (XY[[0, pair + 1]] - CALIBRATION[pair, :2, 2]) / CALIBRATION[pair, 0, 0]
        counts = []
        for candidate in candidates:
            _, in_front, _ = v2.pair_points(rays, torch.stack([pose.identity(dtype=rays.dtype), candidate]), 0)
            counts.append(int(in_front[1].sum()))
        chosen = candidates[int(torch.tensor(counts).argmax())]
        assert max(counts) == int(FIXTURE["cheirality_count"][pair])
        torch.testing.assert_close(chosen[:, :3], FIXTURE["chosen_R"][pair].double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(chosen[:, 3], FIXTURE["chosen_t"][pair].double(), atol=1e-4, rtol=0)


def test_ransac_finds_the_published_inliers() -> None:
    # draws differ, so the sets may at their edges; the truth decides whether ours are as good
    for pair in range(2):
        seen = FIXTURE["vis"][pair + 1] >= 0.05
        xy1, xy2 = (XY[i, seen].numpy() for i in (0, pair + 1))
        found = estimators.estimate_fundamental(xy1, xy2, 4.0, RansacConfig(min_trials=1000, max_trials=20_000))
        assert found is not None
        ours = torch.from_numpy(found.inliers)
        published = FIXTURE["poselib_inlier_mask"][0, pair][seen]
        assert (ours == published).double().mean() > 0.95
        outliers = (FIXTURE["outlier_mask"][0] | FIXTURE["outlier_mask"][pair + 1])[seen]
        assert (ours & outliers).sum() <= (published & outliers).sum() + 1
        assert (ours & ~outliers).sum() >= 0.98 * (published & ~outliers).sum()


def test_ransac_beats_or_equals_the_published_poses() -> None:
    world = FIXTURE["extrinsics"]
    for pair in range(2):
        truth = pose.relative(world[0], world[pair + 1])
        k = FIXTURE["intrinsics"]
        errors = []
        seen = FIXTURE["vis"][pair + 1] >= 0.05
        found = estimators.estimate_fundamental(
            XY[0, seen].numpy(), XY[pair + 1, seen].numpy(), 4.0, RansacConfig(min_trials=1000, max_trials=20_000)
        )
        assert found is not None
        for fundamental in (torch.from_numpy(found.matrix), FIXTURE["poselib_F"][0, pair]):
            candidates = epipolar.poses_from_essential(k[pair + 1].mT @ fundamental @ k[0])
            errors.append(float(rotation.angle_deg(candidates[:, :, :3] @ truth[:, :3].mT).min()))
        assert errors[0] < max(1.0, 1.5 * errors[1])
        assert math.isfinite(errors[1])
