"""One round: what it finds, adjusts and takes out, and each of its steps alone."""

import dataclasses

import pytest
import torch
from worlds import only_frames

from mapped import NOISE, arc, bent, moved_sideways, partial_of, pose_error_deg, scene_of
from support.noise import NoiseConfig
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.mapping.partial import Partial
from vggsfm_cli.mapping.rounds import (
    RoundConfig,
    ScheduleConfig,
    covariance_excess,
    filtered,
    noise_excess,
    noise_px,
    rescaled,
    run_first_rounds,
    run_last_round,
    run_round,
    triangulate,
    well_spread,
    without_weak_frames,
)
from vggsfm_cli.scene import Cameras
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig


def test_a_round_straightens_cameras_and_takes_out_what_does_not_agree() -> None:
    world = arc(-0.05)
    scene = scene_of(world, NoiseConfig(sigma_px=0.3, outliers=0.1, missing=0.1))
    start = bent(world, 0.004)
    found = run_round(scene, start, 8.0, RoundConfig())
    assert pose_error_deg(found.cameras, world) < 0.2 * pose_error_deg(start, world)
    error = (found.cameras.project(found.points.xyz_world)[0] - scene.tracks.xy).norm(dim=-1)
    assert float(error[found.inliers].max()) <= 8.0
    agreeing = found.inliers.sum() / scene.seen[:, scene.seen.sum(0) > 1].sum()
    assert 0.85 < float(agreeing) < 0.95  # nine in ten are right


@pytest.mark.parametrize(("frames", "moves"), [(2, False), (3, True)])
def test_the_focal_length_is_free_from_three_frames_on(frames: int, moves: bool) -> None:
    world = only_frames(arc(), list(range(frames)))
    scene = scene_of(world)
    params = world.cameras.params.clone()
    params[..., 0] *= 1.02
    start = dataclasses.replace(world.cameras, params=params)
    found = run_round(scene, start, 10.0, RoundConfig(focal_from=3))
    assert (float(found.cameras.params[0, 0, 0]) != float(params[0, 0, 0])) is moves


def test_another_solver_may_be_given() -> None:
    world = arc()
    scene, start = scene_of(world), bent(world, 0.004)
    still = run_round(scene, start, 10.0, RoundConfig(adjuster=SchurConfig(max_iterations=0)))
    moved = run_round(
        scene, start, 10.0, RoundConfig(adjuster=SchurConfig(max_iterations=0)), SchurConfig(max_iterations=15).build()
    )
    assert torch.equal(still.cameras.cam_from_world, start.cam_from_world)
    assert pose_error_deg(moved.cameras, world) < 0.5 * pose_error_deg(start, world)


def test_the_filter_is_not_below_the_noise() -> None:
    world = arc()
    scene = scene_of(world, NoiseConfig(sigma_px=1.0, outliers=0.0, missing=0.0))
    few = run_round(scene, world.cameras, 1.0, RoundConfig(noise_factor=0.0))
    more = run_round(scene, world.cameras, 1.0, RoundConfig(noise_factor=8.0))
    assert int(more.inliers.sum()) > 1.1 * int(few.inliers.sum())


def test_falling_thresholds_leave_less_and_the_last_round_is_left_out() -> None:
    world = arc()
    scene = scene_of(world, NoiseConfig(sigma_px=0.3, outliers=0.1, missing=0.0))
    config = RoundConfig(noise_factor=0.0)
    loose = run_first_rounds(scene, partial_of(scene, world), ScheduleConfig(reprojection_px=(8.0, 1.0), round=config))
    tight = run_first_rounds(
        scene, partial_of(scene, world), ScheduleConfig(reprojection_px=(8.0, 0.5, 0.1), round=config)
    )
    assert 0 < int(tight.inliers.sum()) < 0.9 * int(loose.inliers.sum())


def test_the_last_round_takes_points_from_the_given_triangulator() -> None:
    world = arc()
    scene = scene_of(world)
    strict = RansacTriangulatorConfig(min_views=4).build()
    found = run_last_round(scene, world.cameras, 4.0, ScheduleConfig(), SchurConfig().build(), strict)
    assert int(found.inliers.sum(1)[found.points.valid].min()) == 4
    assert pose_error_deg(found.cameras, world) < 0.1


def test_noise_is_measured_and_covariances_brought_to_it() -> None:
    world = arc()
    scene = scene_of(world, NoiseConfig(sigma_px=0.3, outliers=0.05, missing=0.0))
    partial = partial_of(scene, world)
    # points fit their own observations, so residuals are a little smaller than the noise
    assert 0.22 < noise_px(scene, partial) < 0.3
    assert 0.6 < float(noise_excess(scene, partial)) < 1.0
    wrong = rescaled(scene, torch.tensor(1 / 9.0))
    assert float(noise_excess(wrong, partial) / noise_excess(scene, partial)) == pytest.approx(9.0)
    assert float(noise_excess(rescaled(wrong, noise_excess(wrong, partial)), partial)) == pytest.approx(1.0)


def test_the_excess_is_a_robust_ratio_of_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    error = 3.0 * torch.randn(4000, 2, generator=generator, dtype=torch.float64).norm(dim=-1)
    covariance = torch.eye(2, dtype=torch.float64).expand(4000, 2, 2).clone()
    assert float(covariance_excess(error, covariance)) == pytest.approx(9.0, rel=0.1)
    error[:400] = 1e4
    assert float(covariance_excess(error, covariance)) < 13.0
    assert float(covariance_excess(error[:0], covariance[:0])) == 1.0


def test_points_without_parallax_or_partner_are_dropped() -> None:
    world = moved_sideways(only_frames(arc(), [0, 1]), 1e-5)
    scene = scene_of(world, NoiseConfig(sigma_px=0.0, outliers=0.0, missing=0.0))
    assert not bool(triangulate(scene, world.cameras, 10.0).points.valid.any())
    world = arc()
    scene = scene_of(world)
    partial = partial_of(scene, world)
    alone = dataclasses.replace(partial.cameras, registered=partial.cameras.registered & (torch.arange(8) == 0))
    left = filtered(scene, dataclasses.replace(partial, cameras=alone), 10.0)
    assert not bool(left.points.valid.any() | left.inliers.any())


def test_only_near_observations_of_registered_frames_stay() -> None:
    world = arc()
    scene = scene_of(world)
    partial = partial_of(scene, world)
    xy = scene.tracks.xy.clone()
    xy[0, 2] += 5.0
    apart = dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, xy=xy))
    assert not bool(filtered(apart, partial, 3.0).inliers[0, 2].any())
    assert bool(filtered(apart, partial, 3.0).inliers[0, 3].any())
    assert bool(filtered(apart, partial, 20.0).inliers[0, 2].any())


def test_frames_that_little_holds_are_taken_out() -> None:
    world = arc()
    scene = scene_of(world)
    partial = partial_of(scene, world)
    inliers = partial.inliers.clone()
    count = inliers[0].sum(1)
    inliers[0, 3] &= inliers[0, 3].cumsum(0) <= 14  # of 15 that are needed
    inliers[0, 4] &= inliers[0, 4].cumsum(0) <= int(0.08 * count[4])  # of a tenth
    left = without_weak_frames(scene, dataclasses.replace(partial, inliers=inliers), RoundConfig())
    assert left.frames == [0, 1, 2, 5, 6, 7]
    assert not bool(left.inliers[0, [3, 4]].any())
    kept = without_weak_frames(
        scene, dataclasses.replace(partial, inliers=inliers), RoundConfig(min_frame_inliers=0, min_frame_ratio=0.0)
    )
    assert kept.frames == list(range(8))


def covered(partial: Partial) -> list[int]:
    return partial.inliers[0].sum(1).tolist()


def test_chosen_tracks_are_long_and_every_frame_keeps_its_share() -> None:
    world = arc()
    scene = scene_of(world)
    partial = partial_of(scene, world)
    assert torch.equal(well_spread(partial, None).inliers, partial.inliers)
    assert torch.equal(well_spread(partial, 10**6).inliers, partial.inliers)
    some = well_spread(partial, 100)
    tracks = some.inliers[0].any(0)
    assert int(tracks.sum()) <= 100
    assert torch.equal(some.inliers[0, :, tracks], partial.inliers[0, :, tracks])  # a track is taken whole or not
    assert min(covered(some)) > 15
    length = partial.inliers[0].sum(0).double()
    assert length[tracks].mean() > length[length > 1].mean()


def test_nothing_registered_gives_nothing() -> None:
    world = arc()
    scene = scene_of(world, NOISE)
    none: Cameras = dataclasses.replace(world.cameras, registered=torch.zeros_like(world.cameras.registered))
    found = triangulate(scene, none, 4.0)
    assert found.frames == [] and not bool(found.points.valid.any())
    assert noise_px(scene, found) == 0.0
