import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import normalize

from goldens import golden
from vggsfm_cli.geometry import camera, pose
from vggsfm_cli.geometry import triangulate as multiview
from vggsfm_cli.recipes.v2 import triangulation as v2
from vggsfm_cli.recipes.v2.triangulation import V2TriangulationConfig
from vggsfm_cli.scene import Cameras, Points, Tracks

AS_PUBLISHED = V2TriangulationConfig(all_frames=True)
FIXTURE = golden("triangulation")


def scene(xy: Tensor) -> tuple[Cameras, Tracks]:
    """The fixture's cameras and tracks."""
    frames, count = xy.shape[:2]
    params = torch.tensor([[[600.0, 256.0, 256.0]]], dtype=torch.float64)
    cameras = Cameras(
        cam_from_world=FIXTURE["extrinsics"][None],
        models=("SIMPLE_PINHOLE",),
        params=params,
        camera_index=torch.zeros(1, frames, dtype=torch.long),
        registered=torch.ones(1, frames, dtype=torch.bool),
    )
    tracks = Tracks(
        xy=xy[None],
        visibility=FIXTURE["vis"][None],
        covariance=torch.eye(2, dtype=torch.float64).expand(1, frames, count, 2, 2),
        query_frame=torch.zeros(1, count, dtype=torch.long),
        valid=torch.ones(1, count, dtype=torch.bool),
    )
    return cameras, tracks


def rays() -> Tensor:
    xy = FIXTURE["tracks_normalized"]
    return normalize(torch.cat([xy, torch.ones_like(xy[..., :1])], -1), dim=-1)


def test_pixels_to_the_plane_as_published() -> None:
    fixture = FIXTURE
    assert torch.equal(fixture["intrinsics"][:, 0, 0], torch.full((6,), 600.0, dtype=torch.float64))
    params = torch.cat([torch.tensor([600.0, 256.0, 256.0]).double().expand(6, 3), fixture["radial_k"]], -1)[:, None]
    found = camera.unproject("SIMPLE_PINHOLE", params[..., :3], fixture["tracks"])
    torch.testing.assert_close(found, fixture["tracks_normalized"], atol=1e-12, rtol=1e-9)
    # the published undistortion takes half steps and stops early: 6e-6 from the solution
    found = camera.unproject("SIMPLE_RADIAL", params, fixture["tracks"])
    torch.testing.assert_close(found, fixture["undistorted_tracks"], atol=1e-5, rtol=0)
    plane = torch.cat([torch.tensor([1.0, 0.0, 0.0]).double().expand(6, 3), fixture["radial_k"]], -1)[:, None]
    xy = fixture["tracks_normalized"]
    distorted, _ = camera.project("SIMPLE_RADIAL", plane, torch.cat([xy, torch.ones_like(xy[..., :1])], -1))
    torch.testing.assert_close(distorted, fixture["distorted_tracks"], atol=1e-12, rtol=1e-9)


def test_projection_as_published() -> None:
    fixture = FIXTURE
    xyz = pose.transform(fixture["extrinsics"][:, None], fixture["points3d_true"])
    torch.testing.assert_close(xyz.mT, fixture["points_cam"], atol=1e-12, rtol=1e-9)
    params = torch.cat([torch.tensor([600.0, 256.0, 256.0]).double().expand(6, 3), fixture["radial_k"]], -1)[:, None]
    for model, name in (("SIMPLE_PINHOLE", "no"), ("SIMPLE_RADIAL", "with")):
        found, _ = camera.project(model, params, xyz)
        torch.testing.assert_close(found, fixture[f"projected_{name}_distortion"], atol=1e-9, rtol=1e-9)


def test_linear_triangulation_as_published() -> None:
    forms = multiview.ray_forms(rays(), FIXTURE["extrinsics"][:, None].expand(-1, 160, -1, -1))
    found = multiview.triangulate_forms(forms.sum(0))
    torch.testing.assert_close(found, FIXTURE["dlt_all_views_points"], atol=1e-9, rtol=1e-6)
    weight = FIXTURE["dlt_masked_mask"].mT[..., None, None]
    found = multiview.triangulate_forms((weight * forms).sum(0))
    torch.testing.assert_close(found, FIXTURE["dlt_masked_points"], atol=1e-9, rtol=1e-6)
    centers = pose.center(FIXTURE["extrinsics"])
    one, two, point = torch.broadcast_tensors(centers[:, None], centers[None], found[:, None, None])
    angle = multiview.fold_deg(multiview.angle_deg(point, one, two))
    torch.testing.assert_close(angle.flatten(1), FIXTURE["dlt_masked_tri_angles_deg"], atol=1e-6, rtol=1e-6)
    seen = torch.ones(160, 6, dtype=torch.bool)
    widest = v2.widest_deg(found, FIXTURE["extrinsics"], seen)
    torch.testing.assert_close(widest, FIXTURE["dlt_masked_tri_angles_deg"].amax(-1), atol=1e-6, rtol=1e-6)


def test_pairs_with_the_first_frame_as_published() -> None:
    xyz, in_front, angle = v2.pair_points(FIXTURE["tracks_normalized"], FIXTURE["extrinsics"], 0)
    torch.testing.assert_close(xyz[1:], FIXTURE["pair_points"], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(angle[1:], FIXTURE["pair_tri_angle_deg"], atol=1e-6, rtol=1e-6)
    assert torch.equal(in_front[1:], FIXTURE["pair_cheirality"])
    xyz_cam = pose.transform(FIXTURE["extrinsics"][:, None], xyz[1:, None])
    error = v2.angular_error(rays(), xyz_cam)
    torch.testing.assert_close(error, FIXTURE["angular_error_of_pair_points"], atol=1e-9, rtol=1e-6)


def test_robust_triangulation_as_published() -> None:
    usable = (FIXTURE["vis"] > 0.05) & (FIXTURE["score"] > 0.5)
    for chunk in (4_000_000, 5_000):
        config = dataclasses.replace(AS_PUBLISHED, chunk_elements=chunk)
        xyz, inliers = v2.robust_points(
            FIXTURE["tracks_normalized"], FIXTURE["extrinsics"], usable, config, torch.Generator()
        )
        assert torch.equal(inliers.mT, FIXTURE["ransac_inlier_mask"])
        assert torch.equal(inliers.sum(0), FIXTURE["ransac_inlier_num"])
        # of two hypotheses whose mean errors differ by 1e-7 the published code takes the other, in float32
        assert ((xyz - FIXTURE["ransac_points"]).norm(dim=-1) < 1e-9).sum() >= 159


def test_filters_as_published() -> None:
    cameras, tracks = scene(FIXTURE["tracks"])
    # the fixture's filter took the points of the robust triangulation
    points = Points(xyz_world=FIXTURE["ransac_points"][None], valid=torch.ones(1, 160, dtype=torch.bool))
    counted = torch.ones(1, 6, 160, dtype=torch.bool)
    for limit, angle, names in (
        (4.0, True, ("valid", "inlier_detail")),
        (2.0, False, ("notri_valid_t2", "notri_detail_t2")),
    ):
        valid, inliers = v2.reprojection_filter(
            cameras, points, tracks, counted, torch.full((1, 6), limit).double(), AS_PUBLISHED, check_angle=angle
        )
        assert torch.equal(valid[0], FIXTURE[f"filter_{names[0]}"])
        assert torch.equal(inliers[0], FIXTURE[f"filter_{names[1]}"])


def test_a_frame_that_looks_away_changes_nothing() -> None:
    extrinsics = FIXTURE["extrinsics"].clone()
    extrinsics[5, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]).double()) @ extrinsics[5, :3]
    usable = FIXTURE["vis"] > 0.05
    usable[5] = False
    xy = FIXTURE["tracks_normalized"]
    changed = {}
    for all_frames in (False, True):
        config = V2TriangulationConfig(all_frames=all_frames)
        with_it, _ = v2.robust_points(xy, extrinsics, usable, config, torch.Generator())
        without, _ = v2.robust_points(xy[:5], extrinsics[:5], usable[:5], config, torch.Generator())
        changed[all_frames] = ((with_it - without).norm(dim=-1) > 1e-9).sum()
    assert changed[False] <= 2
    assert changed[True] > 50  # as published: no point may be fitted to more than two frames


def test_pairs_are_drawn_when_there_are_too_many() -> None:
    usable = FIXTURE["vis"] > 0.05
    config = V2TriangulationConfig(max_pairs=5)
    one, two = (
        v2.robust_points(
            FIXTURE["tracks_normalized"], FIXTURE["extrinsics"], usable, config, torch.Generator().manual_seed(seed)
        )[0]
        for seed in (0, 0)
    )
    assert torch.equal(one, two)
    good = ~FIXTURE["outlier_mask"].any(0)
    assert (one - FIXTURE["points3d_true"]).norm(dim=-1)[good].median() < 0.1
