"""From two frames to all: where a reconstruction starts, which frames are tried, which are registered."""

import dataclasses

import pytest
import torch
from worlds import World, WorldConfig, make_world

from mapped import arc, partial_of, pose_error_deg, scene_of
from support.noise import NoiseConfig
from vggsfm_cli.mapping.growth import GrowthConfig, ResectionConfig, grow, register, register_missing, start
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.scene import Cameras

CONFIG = GrowthConfig()
CLEAN = NoiseConfig(sigma_px=0.3, outliers=0.02, missing=0.0)


def only(cameras: Cameras, frames: list[int]) -> Cameras:
    """The cameras with these frames registered, the others at the origin."""
    chosen = torch.zeros_like(cameras.registered)
    chosen[0, frames] = True
    poses = torch.where(chosen[..., None, None], cameras.cam_from_world, torch.eye(3, 4, dtype=torch.float64))
    return dataclasses.replace(cameras, cam_from_world=poses, registered=chosen)


def begin(scene: TrackedScene, world: World, frames: list[int]) -> Partial:
    partial = start(scene, only(world.cameras, frames), CONFIG)
    assert partial is not None
    return partial


def shuffled(scene: TrackedScene, frame: int) -> TrackedScene:
    """The scene with one frame whose observations belong to other tracks."""
    xy = scene.tracks.xy.clone()
    seen = scene.seen[frame].nonzero().flatten()
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    xy[0, frame, seen] = xy[0, frame, seen[order]]
    return dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, xy=xy))


def test_two_frames_grow_to_all_and_all_are_right() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    partial = begin(scene, world, [3, 4])
    assert partial.frames == [3, 4] and int(partial.points.valid.sum()) > 100
    grown, failed = grow(scene, partial, list(range(8)), CONFIG)
    assert grown.frames == list(range(8)) and failed == {}
    assert pose_error_deg(grown.cameras, world) < 0.3


def test_too_few_points_are_no_start() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    few = dataclasses.replace(scene, tracks=scene.tracks.some(torch.arange(40)))
    assert start(few, only(world.cameras, [3, 4]), CONFIG) is None
    assert start(few, only(world.cameras, [3, 4]), dataclasses.replace(CONFIG, min_seed_points=5)) is not None
    # frames on far sides share nothing
    assert start(scene, only(world.cameras, [0]), CONFIG) is None


def test_only_allowed_frames_are_added() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    grown, failed = grow(scene, begin(scene, world, [3, 4]), [2, 3, 4, 6], CONFIG)
    assert grown.frames == [2, 3, 4, 6] and failed == {}


def test_a_frame_that_agrees_with_nothing_stays_out_and_says_why() -> None:
    world = arc()
    scene = shuffled(scene_of(world, CLEAN), 6)
    grown, failed = grow(scene, begin(scene, world, [3, 4]), list(range(8)), CONFIG)
    assert grown.frames == [0, 1, 2, 3, 4, 5, 7]
    assert list(failed) == [6]
    attempt = failed[6]
    assert not attempt.placed and attempt.inliers < 0.2 * attempt.visible
    assert attempt.reason == f"only {attempt.inliers} of {attempt.visible} visible 3D points agree with any pose"


def test_registered_frames_leave_the_others_and_the_points_as_they_are() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    partial = begin(scene, world, [2, 3, 4])
    found, attempts = register(scene, partial, [1, 5], CONFIG.resection)
    assert [attempt.placed for attempt in attempts] == [True, True]
    assert found.frames == [1, 2, 3, 4, 5]
    assert all(attempt.reason == "" for attempt in attempts)
    assert found.points is partial.points and torch.equal(found.inliers, partial.inliers)
    same = [0, 2, 3, 4, 6, 7]
    assert torch.equal(found.cameras.cam_from_world[0, same], partial.cameras.cam_from_world[0, same])
    assert torch.equal(found.cameras.params, partial.cameras.params)


@pytest.mark.parametrize("known", [False, True])
def test_a_new_camera_brings_its_own_focal_length_unless_it_is_known(known: bool) -> None:
    world = make_world(WorldConfig(points=400, focals=(0.9, 0.9), distortion=0.0), 0)
    scene = scene_of(world, CLEAN)
    priors = scene.images.priors
    fixed = torch.full_like(priors.known, known)
    images = dataclasses.replace(scene.images, priors=dataclasses.replace(priors, known=fixed))
    scene = dataclasses.replace(scene, images=images)
    partial = partial_of(scene, world)
    wrong = partial.cameras.params.clone()
    wrong[0, 1, 0] *= 1.5
    cameras = dataclasses.replace(only(partial.cameras, [0, 2, 4, 6]), params=wrong)
    found, _ = register(scene, dataclasses.replace(partial, cameras=cameras), [3], ResectionConfig(max_error_px=4.0))
    focal = float(found.cameras.params[0, 1, 0])
    if known:
        assert focal == float(wrong[0, 1, 0])
    else:
        assert focal == pytest.approx(float(world.cameras.params[0, 1, 0]), rel=0.05)
    assert float(found.cameras.params[0, 0, 0]) == float(world.cameras.params[0, 0, 0])


def test_missing_frames_are_registered_at_once_and_blind_ones_are_told_apart() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    visibility = scene.tracks.visibility.clone()
    visibility[0, 7] = 0.0
    scene = dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, visibility=visibility))
    partial = begin(scene, world, [2, 3, 4])
    found, failed = register_missing(scene, partial, [3, 5, 7], CONFIG.resection)
    assert found.frames == [2, 3, 4, 5]
    assert list(failed) == [7] and (failed[7].visible, failed[7].inliers) == (0, 0)
    again, failed = register_missing(scene, found, [2, 3, 4, 5], CONFIG.resection)
    assert again is found and failed == {}


def test_frames_that_see_most_come_first() -> None:
    world = arc()
    scene = scene_of(world, CLEAN)
    partial = begin(scene, world, [0, 1])
    counts = (scene.seen & partial.points.valid[0]).sum(1)
    nearest = max(range(2, 8), key=lambda s: int(counts[s]))
    strict = dataclasses.replace(CONFIG, batch_ratio=0.0, min_visible=int(counts[nearest]))  # one frame, that one alone
    grown, _ = grow(scene, partial, list(range(8)), strict)
    assert nearest in grown.frames
    nobody = dataclasses.replace(CONFIG, min_visible=10**6)
    assert grow(scene, partial, list(range(8)), nobody) == (partial, {})
