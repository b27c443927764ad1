"""From the dense arrays of mapping to what is written."""

import dataclasses

import pytest
import torch

from mapped import arc, partial_of, scene_of
from vggsfm_cli.geometry import pose
from vggsfm_cli.mapping.output import figures, normalized, spanning, to_reconstruction
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.triangulation.ransac import reprojection_error


@pytest.fixture(scope="module")
def made() -> tuple[TrackedScene, Partial]:
    """Frame 2 and a third of the points are left out."""
    world = arc()
    scene = scene_of(world)
    partial = partial_of(scene, world)
    registered = partial.cameras.registered & (torch.arange(8) != 2)
    valid = partial.points.valid & (torch.arange(partial.points.valid.shape[1]) % 3 > 0)
    inliers = partial.inliers & registered[..., None] & valid[:, None]
    return scene, dataclasses.replace(
        partial,
        cameras=dataclasses.replace(partial.cameras, registered=registered),
        points=dataclasses.replace(partial.points, valid=valid),
        inliers=inliers,
    )


def test_the_first_frame_is_the_origin_and_the_median_depth_one(made: tuple[TrackedScene, Partial]) -> None:
    scene, partial = made
    found = normalized(partial)
    torch.testing.assert_close(found.cameras.cam_from_world[0, 0], torch.eye(3, 4, dtype=torch.float64))
    depth = pose.transform(found.cameras.cam_from_world[0][:, None], found.points.xyz_world[0])[..., 2]
    assert float(depth[found.inliers[0]].median()) == pytest.approx(1.0)
    before, after = (reprojection_error(p.cameras, p.points, scene.tracks)[p.inliers] for p in (partial, found))
    torch.testing.assert_close(after, before)


def test_a_spanning_world_has_the_registered_cameras_about_the_origin(made: tuple[TrackedScene, Partial]) -> None:
    scene, partial = made
    found = spanning(partial, 5.0)
    centers = found.cameras.centers[0, found.frames].sort(0).values[0:6]
    assert float((centers[5] - centers[0]).norm()) == pytest.approx(5.0)
    before, after = (reprojection_error(p.cameras, p.points, scene.tracks)[p.inliers] for p in (partial, found))
    torch.testing.assert_close(after, before)


def test_what_is_registered_and_observed_is_kept_and_renumbered(made: tuple[TrackedScene, Partial]) -> None:
    scene, partial = made
    found = to_reconstruction(scene, partial, {"a": 1})
    assert found.names == tuple(f"{s:03d}.jpg" for s in (0, 1, 3, 4, 5, 6, 7))
    assert found.report == {"a": 1}
    kept = partial.inliers[0].sum(0) >= 2
    assert torch.equal(found.xyz_world, partial.points.xyz_world[0, kept & partial.points.valid[0]])
    assert len(found.xy) == int(partial.inliers[0][:, kept].sum())
    projected, _ = found.cameras.project(found.xyz_world[None])
    error = (projected[0, found.frame, found.point] - found.xy).norm(dim=-1)
    assert float(error.max()) < 10.0
    mean = torch.zeros(len(found.xyz_world), dtype=error.dtype).index_add(0, found.point, error)
    torch.testing.assert_close(found.error_px, mean / torch.bincount(found.point))


def test_figures_count_what_there_is(made: tuple[TrackedScene, Partial]) -> None:
    _, partial = made
    found = figures(partial, "somewhere", 0.25)
    assert found["origin"] == "somewhere" and found["noise_px"] == 0.25
    assert found["registered"] == 7
    assert found["points"] == int(partial.points.valid.sum())
    assert found["observations"] == int(partial.inliers.sum())
    assert found["focal_px"] == [pytest.approx(float(partial.cameras.params[0, 0, 0]))]
