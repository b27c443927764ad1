"""What becomes of loops, cuts and damaged frames, with a tracker that makes no mistakes."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ring_walk import RADIUS, ring_cameras, ring_model, wall_points, write_frames
from vggsfm_cli.errors import ReconstructionFailed, UsageError
from vggsfm_cli.evaluation.poses import aligned_distances
from vggsfm_cli.geometry import alignment
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.mapping.candidates import CandidateConfig
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import Progress
from vggsfm_cli.sequence import SequenceOptions, reconstruct_sequence
from vggsfm_cli.sequence.following import Look
from vggsfm_cli.sequence.joint import adjust_jointly, find_points_anew
from vggsfm_cli.sequence.loops import Place, close_loops, find_loops, note_place
from vggsfm_cli.sequence.options import KeyframeConfig, LoopConfig, WindowConfig
from vggsfm_cli.sequence.pose_graph import Similarities
from vggsfm_cli.sequence.scene_map import SceneMap, Sightings
from vggsfm_cli.sequence.windows import map_window

POINTS = 3000


def options() -> SequenceOptions:
    chosen = SequenceOptions(
        keyframes=KeyframeConfig(points=160, max_lost=3),
        windows=WindowConfig(size=5, overlap=3, joint_every=2),
        loops=LoopConfig(min_gap=8, max_checks=6),
    )
    one = CandidateConfig(max_candidates=1)
    return dataclasses.replace(chosen, mapping=dataclasses.replace(chosen.mapping, candidates=one))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ring:
    """A walk once around and a little on, its map as it truly is, and its places."""

    model: VGGSfM
    images: PhotographSequence
    true: Tensor
    scene_map: SceneMap
    places: list[Place]

    def see(self, *frames: int) -> list[Look]:
        pixels = self.images.read(frames)
        features = self.model.tracker.encode(pixels)
        return [Look(frame=s, images=pixels.some([k]), features=features.some([k])) for k, s in enumerate(frames)]


FRAMES = 40


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    """Every frame is a keyframe; each visit of the closing place has tracks of its own."""
    angles = 2 * math.pi * 1.1 * torch.arange(FRAMES, dtype=torch.float64) / (FRAMES - 1)
    cameras, xyz = ring_cameras(angles), wall_points(POINTS)
    model = ring_model(cameras, xyz)
    images = PhotographSequence(write_frames(tmp_path, FRAMES), long_side=320)
    scene_map = SceneMap(images.facts)
    scene_map.start_tracks(2 * POINTS)
    tracker = model.tracker
    eye = 0.01 * torch.eye(2, dtype=torch.float64)
    for s in range(FRAMES):
        seen = tracker.seen[s].nonzero().flatten()
        track = seen + POINTS * (s > FRAMES // 2)
        scene_map.see(s, Sightings(track=track, xy=tracker.xy[s, seen], covariance=eye.expand(len(seen), 2, 2).clone()))
        scene_map.keyframes.append(s)
    scene_map.cam_from_world = cameras.cam_from_world[0].clone()
    scene_map.registered[:] = True
    scene_map.params = cameras.params[0].clone()
    scene_map.xyz_world = torch.cat([xyz, xyz])
    scene_map.valid = (
        torch.bincount(torch.cat([scene_map.sightings[s].track for s in range(FRAMES)]), minlength=2 * POINTS) > 1
    )
    ring = Ring(model=model, images=images, true=cameras.cam_from_world[0], scene_map=scene_map, places=[])
    ring.places.extend(note_place(ring.see(s)[0], options().retrieval) for s in range(FRAMES))
    return ring


def let_drift(scene_map: SceneMap, rate: float) -> None:
    """Turn and shrink the world a little more with each frame, its points with the first frame that sees them."""
    owner = torch.full((scene_map.tracks,), 0)
    for s in reversed(scene_map.keyframes):
        owner[scene_map.sightings[s].track] = s
    for s in scene_map.keyframes:
        share = rate * s / len(scene_map.keyframes)
        turn = torch.tensor([0.0, share, 0.3 * share], dtype=torch.float64)
        whole = Similarities(
            scale=torch.tensor([1.0 - share], dtype=torch.float64),
            rotation=torch.linalg.matrix_exp(_hat(turn))[None],
            translation=torch.tensor([[2 * share, share, 0.0]], dtype=torch.float64),
        )
        similarity = (whole.scale[0], whole.rotation[0], whole.translation[0])
        own = owner == s
        scene_map.xyz_world[own] = alignment.apply_to_points(*similarity, scene_map.xyz_world[own])
        scene_map.cam_from_world[[s]] = alignment.apply_to_cameras(*similarity, scene_map.cam_from_world[[s]])


def _hat(v: Tensor) -> Tensor:
    zero = torch.zeros_like(v[0])
    return torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).reshape(3, 3)


def ate(ring: Ring) -> float:
    return float(aligned_distances(ring.scene_map.cam_from_world, ring.true).square().mean().sqrt())


def test_loops_are_found_closed_and_adjusted(ring: Ring) -> None:
    let_drift(ring.scene_map, 0.15)
    before = ate(ring)
    loops = find_loops(ring.scene_map, ring.places, ring.see, ring.model.tracker, options())
    assert loops and all(loop.second - loop.first > 30 for loop in loops)
    assert all(abs(float(loop.relative.scale) - (1 - 0.15 * 36 / 40)) < 0.05 for loop in loops)
    tracks = int(ring.scene_map.valid.sum())
    kept = close_loops(ring.scene_map, loops)
    assert len(kept) == len(loops)
    assert int(ring.scene_map.valid.sum()) < tracks
    closed = ate(ring)
    assert closed < 0.5 * before
    for max_error_px in (12.0, 4.0):
        adjust_jointly(
            ring.scene_map,
            ring.scene_map.keyframes,
            options().joint_adjuster.build(),
            options(),
            max_error_px=max_error_px,
        )
        find_points_anew(ring.scene_map, ring.model.triangulator, options())
    assert ate(ring) < 0.01 * RADIUS


def test_a_false_loop_is_not_believed(ring: Ring) -> None:
    loops = find_loops(ring.scene_map, ring.places, ring.see, ring.model.tracker, options())
    wrong = dataclasses.replace(loops[0], first=10, second=28)
    before = ring.scene_map.cam_from_world.clone()
    kept = close_loops(ring.scene_map, [wrong, *loops])
    assert [(loop.first, loop.second) for loop in kept] == [(loop.first, loop.second) for loop in loops]
    torch.testing.assert_close(ring.scene_map.cam_from_world, before, atol=1e-2, rtol=0)


def test_without_a_second_visit_there_is_no_loop(ring: Ring) -> None:
    half = [place for place in ring.places if place.frame < FRAMES // 2]
    assert find_loops(ring.scene_map, half, ring.see, ring.model.tracker, options()) == []


def test_a_window_is_brought_into_the_map(ring: Ring) -> None:
    """The map's frame and scale count, whatever those of the window are."""
    scene_map = ring.scene_map
    true = scene_map.cam_from_world.clone()
    scene_map.registered[4:] = False
    early = torch.cat([scene_map.sightings[s].track for s in range(4)])
    scene_map.valid &= torch.bincount(early, minlength=scene_map.tracks) > 1
    scene_map.cam_from_world[4:] = torch.eye(3, 4, dtype=torch.float64)
    assert map_window(scene_map, [1, 2, 3, 4, 5, 6], ring.model, options()) == [4, 5, 6]
    torch.testing.assert_close(scene_map.cam_from_world[:7], true[:7], atol=5e-3, rtol=0)
    assert scene_map.registered.nonzero().flatten().tolist() == list(range(7))
    seen = scene_map.sightings[6].track
    assert int(scene_map.valid[seen].sum()) > 0.5 * len(seen)


def test_a_cut_gives_two_models_and_damage_none(tmp_path: Path) -> None:
    """Two stretches of film with nothing in common; one frame of the first is damaged."""
    first, second = 12, 9
    angles = torch.cat([0.06 * torch.arange(first), 3.0 + 0.06 * torch.arange(second)]).double()
    cameras, xyz = ring_cameras(angles), wall_points(POINTS)
    model = ring_model(cameras, xyz, (torch.arange(first + second) >= first).long())
    files = write_frames(tmp_path, first + second)
    files[7].write_bytes(files[7].read_bytes()[:200])
    events: list[Progress] = []
    found = reconstruct_sequence(PhotographSequence(files, long_side=320), model, options(), events.append)
    assert [len(one.names) for one in found] == [first - 1, second]
    assert found[0].names[-1] == "0011.png" and found[1].names[0] == "0012.png"
    assert list(found.unregistered) == ["0007.png"]
    true = cameras.cam_from_world[0, [int(name[:4]) for name in found[0].names]]
    assert float(aligned_distances(found[0].cameras.cam_from_world[0], true).max()) < 0.02
    assert {event.stage for event in events} >= {"frames", "adjustment", "loops"}
    assert model.tracker.pairs < 3 * len(files), "each frame is tracked into a few times"


def test_a_film_that_begins_in_the_dark(tmp_path: Path) -> None:
    cameras = ring_cameras(torch.cat([torch.zeros(6), 0.06 * torch.arange(8)]).double())
    model = ring_model(cameras, wall_points(POINTS))
    model.tracker.seen[:6] = False
    found = reconstruct_sequence(PhotographSequence(write_frames(tmp_path, 14), long_side=320), model, options())
    assert [name[:4] for name in found[0].names] == [f"{s:04d}" for s in range(6, 14)]
    assert model.tracker.pairs <= 3 * 8, "dark frames are not tracked"
    assert set(found.unregistered) == {f"{s:04d}.png" for s in range(6)}


def test_a_camera_that_stands_still_fails(tmp_path: Path) -> None:
    cameras = ring_cameras(torch.zeros(12, dtype=torch.float64))
    model = ring_model(cameras, wall_points(POINTS))
    with pytest.raises(ReconstructionFailed, match="no window of 12 frames"):
        reconstruct_sequence(PhotographSequence(write_frames(tmp_path, 12), long_side=320), model, options())


def test_other_trackers_are_refused(tmp_path: Path) -> None:
    model = ring_model(ring_cameras(torch.zeros(2, dtype=torch.float64)), wall_points(10))
    model.tracker = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="cannot follow a sequence"):
        reconstruct_sequence(PhotographSequence(write_frames(tmp_path, 2)), model)
