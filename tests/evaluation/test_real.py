"""Surveyed scenes: reading them, and a tracker whose answers are known."""

import json

import pytest

from surveyed import WIDTH, PlaneTracker, write_scene
from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.real import RealConfig, evaluate_real
from vggsfm_cli.evaluation.scenes import SURVEYED, find_scenes, read_surveyed_scene


@pytest.mark.parametrize("distortion", [None, [-0.05, 0.01, 1e-3, -1e-3]])
def test_exact_tracks_lie_on_the_lines_and_shifted_ones_do_not(tmp_path, distortion):
    scene = read_surveyed_scene(write_scene(tmp_path / "wall", [0, 10, 30], distortion), long_side=WIDTH // 2)
    assert float(scene.images.pixel_scale[0, 0]) == 2.0
    config = RealConfig(queries=64, query_frames=3)
    exact = evaluate_real(PlaneTracker(scene.cameras), scene, config)
    assert exact["scene"] == "wall" and exact["frames"] == 3
    assert {group: figures["pairs"] for group, figures in exact["distances"]["tracks"].items()} == {"10": 2, "25": 4}
    for figures in exact["distances"]["tracks"].values():
        assert figures["median_px"] < 1e-3 and figures["within_1px"] == 100
        assert figures["per_pair"] > 20
    shifted = evaluate_real(PlaneTracker(scene.cameras, (0.0, 3.0)), scene, config)["distances"]["tracks"]["10"]
    assert 1.0 < shifted["median_px"] <= 1.5  # 3 stored pixels are 1.5 of the network's, along y and nearly across


def test_matches_of_features_without_meaning_are_not_near_the_lines(tmp_path):
    scene = read_surveyed_scene(write_scene(tmp_path / "wall", [0, 10, 12]))
    tracker = PlaneTracker(scene.cameras).train()
    distances = evaluate_real(tracker, scene, RealConfig(queries=200, query_frames=1))["distances"]
    assert set(distances) == {"tracks", "mutual", "dense", "starts"}
    assert tracker.training
    mutual = distances["mutual"]["10"]
    assert mutual["per_pair"] > 10 and mutual["within_1px"] < 20


def test_a_folder_gives_what_the_scene_gives(tmp_path):
    folder = write_scene(tmp_path / "wall", [0, 10])
    scene = read_surveyed_scene(folder)
    config = RealConfig(queries=64, kinds=("tracks",))
    tracker = PlaneTracker(scene.cameras)
    results = [evaluate_real(tracker, source, config) for source in (scene, folder)]
    assert results[0]["distances"] == results[1]["distances"] and set(results[0]["distances"]) == {"tracks"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry.pop("K"), "KeyError"),
        (lambda entry: entry.update(R=[[1, 0], [0, 1]]), "cannot be understood"),
        (lambda entry: entry.update(width=WIDTH // 2), "another size"),
        (lambda entry: entry["K"][0].__setitem__(1, 5.0), "skew"),
    ],
)
def test_wrong_truth_is_refused(tmp_path, change, words):
    folder = write_scene(tmp_path / "wall", [0, 10])
    truth = json.loads((folder / "gt.json").read_text())
    change(truth["images"]["1.png"])
    (folder / "gt.json").write_text(json.dumps(truth))
    with pytest.raises(InputError) as caught:
        read_surveyed_scene(folder)
    assert words in caught.value.message + caught.value.hint


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="No folder"):
        find_scenes(tmp_path / "nowhere")
    with pytest.raises(InputError, match="None of the scenes fountain-P11"):
        find_scenes(tmp_path)
    with pytest.raises(InputError, match=r"gt\.json"):
        read_surveyed_scene(tmp_path)
    write_scene(tmp_path / "data" / "wall", [0, 10])
    assert find_scenes(tmp_path, ["wall"]) == [tmp_path / "data" / "wall"]
    with pytest.raises(InputError, match="No scene 'other'") as caught:
        find_scenes(tmp_path, ["wall", "other"])
    assert "wall" in caught.value.hint
    write_scene(tmp_path / "data" / SURVEYED[1], [0, 10])
    assert [folder.name for folder in find_scenes(tmp_path)] == [SURVEYED[1]]
