"""The map keeps sightings apart by frame, and knows when two tracks are one."""

import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.scene import CameraPriors, ImageSet
from vggsfm_cli.sequence.scene_map import SceneMap, Sightings

FRAMES = 4


def facts() -> ImageSet:
    params = torch.tensor([[[100.0, 50.0, 40.0, 0.0]]], dtype=torch.float64)
    return ImageSet(
        pixels=torch.zeros(1, FRAMES, 3, 0, 0),
        mask=torch.zeros(1, FRAMES, 0, 0, dtype=torch.bool),
        frame_valid=torch.ones(1, FRAMES, dtype=torch.bool),
        stored_from_network=torch.eye(2, 3).expand(1, FRAMES, 2, 3).clone(),
        stored_size=torch.tensor([100, 80]).expand(1, FRAMES, 2).clone(),
        names=(tuple(f"{s}.png" for s in range(FRAMES)),),
        originals=None,
        priors=CameraPriors(
            camera_index=torch.zeros(1, FRAMES, dtype=torch.long),
            models=("SIMPLE_RADIAL",),
            params=params,
            known=torch.zeros_like(params, dtype=torch.bool),
            focal_spread=torch.full((1, 1), 0.5, dtype=torch.float64),
        ),
    )


def sightings(*tracks: int) -> Sightings:
    xy = torch.tensor([[10.0 * track, 1.0] for track in tracks], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    return Sightings(track=torch.tensor(tracks), xy=xy, covariance=eye.expand(len(tracks), 2, 2).clone())


def filled() -> SceneMap:
    found = SceneMap(facts())
    found.start_tracks(5)
    found.see(0, sightings(0, 1))
    found.see(0, sightings(2))
    found.see(1, sightings(1, 2, 3))
    found.see(2, sightings(3, 4))
    found.keyframes += [0, 1, 2]
    return found


def test_a_window_is_dense() -> None:
    scene, tracks = filled().scene([0, 1], load_model("small").triangulator)
    assert tracks.tolist() == [1, 2]
    assert bool(scene.seen.all()) and scene.tracks.xy[0, :, :, 0].tolist() == [[10.0, 20.0], [10.0, 20.0]]
    scene, tracks = filled().scene([1, 2], load_model("small").triangulator, torch.tensor([1, 3]))
    assert scene.seen.tolist() == [[True, True], [False, True]]


def test_observations_are_those_of_valid_points() -> None:
    found = filled()
    found.valid[[1, 4]] = True
    frame, track, xy, _ = found.observations([0, 2])
    assert (frame.tolist(), track.tolist()) == ([0, 1], [1, 4])
    assert xy[:, 0].tolist() == [10.0, 40.0]


def test_merged_tracks_are_one_everywhere() -> None:
    found = filled()
    found.valid[:] = True
    found.paint(torch.tensor([1, 4]), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    # 4 is 3 and 3 is 1, which frame 1 sees as well: its first sighting stays
    found.merge_tracks(torch.tensor([3, 1]), torch.tensor([4, 3]))
    assert found.sightings[0].track.tolist() == [0, 1, 2]
    assert found.sightings[1].track.tolist() == [1, 2] and found.sightings[1].xy[0, 0] == 10.0
    assert found.sightings[2].track.tolist() == [1] and found.sightings[2].xy[0, 0] == 30.0
    assert found.valid.tolist() == [True, True, True, False, False]
    assert found.color_sum[1].tolist() == [1.0, 1.0, 0.0] and float(found.color_count[1]) == 2.0
