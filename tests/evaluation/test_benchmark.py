"""Data sets in their published layouts: cameras as they were, the paper's figures, and damage kept apart."""

import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from worlds import WorldConfig, make_world, observe

import published
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import InputError, MissingDependency
from vggsfm_cli.evaluation.benchmark import PoseProtocol, pose_figures
from vggsfm_cli.evaluation.datasets import Unreadable, find_co3d, find_eth3d, find_imc
from vggsfm_cli.evaluation.poses import PairErrors
from vggsfm_cli.io.scans import read_points
from vggsfm_cli.recipes import small
from vggsfm_cli.scene import Cameras

run = CliRunner().invoke


@pytest.fixture(scope="module")
def world():
    return make_world(WorldConfig(frames=12, points=300, width=320, height=240, distortion=0.0), 3)


@pytest.fixture
def exact_tracks(world, monkeypatch):
    monkeypatch.setattr(small, "track_in_rounds", published.oracle(world))


def assert_same_cameras(found: Cameras, world, frames):
    torch.testing.assert_close(found.cam_from_world[0], world.cameras.cam_from_world[0, frames])
    xyz = world.points.xyz_world
    expected, _ = world.cameras.project(xyz)
    xy, in_front = found.project(xyz)
    assert in_front.all()
    torch.testing.assert_close(xy[0], expected[0, frames], atol=1e-6, rtol=0)


@pytest.mark.parametrize("isotropic", [True, False])
def test_co3d_cameras_become_ours(tmp_path, isotropic):
    config = WorldConfig(frames=12, points=50, width=320, height=240, distortion=0.0, principal_point=(0.02, -0.03))
    world = make_world(config, 1)
    files = published.write_co3d(tmp_path, world, isotropic=isotropic)
    (scene,) = find_co3d(tmp_path, frames=12)
    assert (scene.name, scene.group, list(scene.files)) == ("apple/110_1_2", "apple", files)
    assert scene.sizes.tolist() == world.sizes[0].tolist()
    assert_same_cameras(scene.cameras, world, list(range(12)))


def test_co3d_draws_frames_by_seed(tmp_path, world):
    files = published.write_co3d(tmp_path, world)

    def drawn(**options):
        (scene,) = find_co3d(tmp_path, **options)
        frames = [files.index(file) for file in scene.files]
        assert_same_cameras(scene.cameras, world, frames)
        return frames

    assert len(set(drawn())) == 10 and drawn() == drawn()
    assert len({tuple(drawn(seed=seed, frames=4)) for seed in range(5)}) > 1
    (tells,) = find_co3d(tmp_path, frames=13)
    assert isinstance(tells, Unreadable) and "has 13 frames" in tells.reason


@pytest.mark.parametrize("calibration", ["h5", "model"])
def test_imc_bags(tmp_path, world, calibration):
    if calibration == "h5":
        pytest.importorskip("h5py")
    bags = {(5, 0): [0, 2, 4, 6, 8], (5, 1): range(5), (10, 0): range(1, 11)}
    published.write_imc(tmp_path / "phototourism", world, bags=bags, calibration=calibration)
    found = list(find_imc(tmp_path, bag_sizes=(5, 10)))
    assert [scene.name for scene in found] == ["reichstag/5bag_000", "reichstag/5bag_001", "reichstag/10bag_000"]
    assert [scene.group for scene in found] == ["bag 5", "bag 5", "bag 10"]
    for scene, frames in zip(found, bags.values(), strict=True):
        assert_same_cameras(scene.cameras, world, list(frames))
    assert [scene.name for scene in find_imc(tmp_path, bag_sizes=(5,), limit=1)] == ["reichstag/5bag_000"]


def test_eth3d_scenes(tmp_path, world):
    published.write_eth3d(tmp_path, world, world.points.xyz_world[0])
    (scene,) = find_eth3d(tmp_path)
    assert scene.files[3] == tmp_path / "relief" / "images" / "dslr_images_undistorted" / "DSC_0003.JPG"
    assert scene.scans == tmp_path / "relief" / "dslr_scan_eval" / "scan_alignment.mlp"
    assert_same_cameras(scene.cameras, world, list(range(12)))


@pytest.mark.parametrize("find", [find_co3d, find_imc, find_eth3d])
def test_wrong_folders_are_named(tmp_path, find):
    with pytest.raises(InputError, match="No folder") as caught:
        find(tmp_path / "absent")
    assert "--root" in caught.value.hint
    with pytest.raises(InputError, match="Nothing that can be measured"):
        find(tmp_path)


def test_what_is_not_there_is_named(tmp_path, world, monkeypatch):
    published.write_imc(tmp_path, world, calibration=None)
    with pytest.raises(InputError, match="no 'taj_mahal'") as caught:
        find_imc(tmp_path, scenes=["taj_mahal"])
    assert "reichstag" in caught.value.hint
    (tells,) = find_imc(tmp_path, bag_sizes=(25,))
    assert "no bag of 25 images" in tells.reason
    (tells,) = find_imc(tmp_path, bag_sizes=(5,))
    assert "neither calibration files nor a COLMAP model" in tells.reason
    calibration = tmp_path / "reichstag" / "set_100" / "calibration"
    calibration.mkdir()
    (calibration / "calibration_photo_000.h5").write_text("")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependency) as caught:
        list(find_imc(tmp_path, bag_sizes=(5,)))
    assert "vggsfm-cli[benchmark]" in caught.value.hint


def test_figures_leave_out_the_sign_of_a_direction():
    errors = PairErrors(rotation_deg=torch.tensor([1.0, 20.0]), translation_deg=torch.tensor([178.5, 0.0]))
    protocol = PoseProtocol(shares_deg=(15,), auc_deg=(3,))
    assert pose_figures(errors, protocol) == {"RRA@15": 50.0, "RTA@15": 100.0, "AUC@3": pytest.approx(33.333)}


def document(command, *arguments):
    result = run(app, ["benchmark", command, "--model", "classical", "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_co3d_of_exact_tracks_is_perfect(tmp_path, world, exact_tracks):
    published.write_co3d(tmp_path, world)
    found = document("co3d", "--root", tmp_path, "--frames", "6", "--out", tmp_path / "out" / "co3d.json")
    assert found["mean"] == {"RRA@15": 100.0, "RTA@15": 100.0, "AUC@30": 100.0}
    assert found["groups"] == {"apple": {"scenes": 1, "figures": found["mean"]}}
    scene = found["scenes"]["apple/110_1_2"]
    assert (scene["images"], scene["registered"], scene["failed"]) == (6, 6, None) and scene["seconds"] > 0
    assert found["header"]["model"]["licence"] == "Apache-2.0" and found["versions"] and found["machine"]
    assert json.loads((tmp_path / "out" / "co3d.json").read_text()) == found


def test_imc_counts_what_is_missing_and_resumes(tmp_path, world, exact_tracks, monkeypatch):
    bags = {(5, 0): range(5), (5, 1): range(3, 8), (10, 0): range(10)}
    published.write_imc(tmp_path, world, bags=bags, calibration="model")
    (tmp_path / "reichstag" / "set_100" / "images" / "photo_007.jpg").unlink()
    out = tmp_path / "imc.json"
    arguments = ["--root", tmp_path, "--bag-size", "5", "--bag-size", "10", "--out", out]
    exact = small.track_in_rounds

    def one_frame_lost(tracker, images, config, **options):
        tracks = exact(tracker, images, config, **options)
        tracks.visibility[:, 4] = 0
        return tracks

    monkeypatch.setattr(small, "track_in_rounds", one_frame_lost)
    found = document("imc", *arguments)
    scene = found["scenes"]["reichstag/5bag_000"]
    assert scene["registered"] == 4 and scene["figures"]["AUC@3"] == pytest.approx(100 * 6 / 10)
    assert [failure["scene"] for failure in found["failures"]] == ["reichstag/5bag_001", "reichstag/10bag_000"]
    assert "photo_007.jpg" in found["failures"][0]["error"] and list(found["groups"]) == ["bag 5"]
    again = run(app, ["benchmark", "imc", "--model", "classical", *map(str, arguments)])
    assert again.exit_code == 2 and "--resume" in again.stderr

    def no_more(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(small, "track_in_rounds", no_more)
    assert document("imc", *arguments, "--resume")["scenes"]["reichstag/5bag_000"] == scene
    other = run(app, ["benchmark", "imc", "--model", "classical", *map(str, arguments), "--resume", "--seed", "1"])
    assert other.exit_code == 2 and "in another way" in other.stderr


def test_no_tracks_is_a_result_of_zero(tmp_path, world, exact_tracks, monkeypatch):
    published.write_imc(tmp_path, world, calibration="model")
    exact = small.track_in_rounds

    def nothing(tracker, images, config, **options):
        tracks = exact(tracker, images, config, **options)
        tracks.visibility[:] = 0
        return tracks

    monkeypatch.setattr(small, "track_in_rounds", nothing)
    found = document("imc", "--root", tmp_path, "--bag-size", "5")
    scene = found["scenes"]["reichstag/5bag_000"]
    assert scene["registered"] == 0 and "connected" in scene["failed"]
    assert found["mean"] == {"AUC@3": 0.0, "AUC@5": 0.0, "AUC@10": 0.0}


def test_eth3d_points_are_measured_in_the_scans_frame(tmp_path, world, exact_tracks):
    points = world.points.xyz_world[0]
    published.write_eth3d(tmp_path, world, points)
    found = document("eth3d", "--root", tmp_path, "--points", tmp_path / "points")
    scene = found["scenes"]["relief"]
    triangulated = read_points(tmp_path / "points" / "relief.ply")
    seen_twice = int(((observe(world).visibility[0] > 0.5).sum(0) >= 2).sum())
    assert scene["points"] == len(triangulated) == pytest.approx(seen_twice, abs=3)
    assert seen_twice > 0.6 * len(points)
    assert np.allclose(torch.cdist(triangulated.double(), points).amin(1), 0, atol=1e-4)
    figures = scene["figures"]
    assert figures["accuracy 1 cm"] == 100.0
    assert figures["completeness 1 cm"] == pytest.approx(100 * len(triangulated) / len(points), abs=1.0)
    table = run(app, ["benchmark", "eth3d", "--root", str(tmp_path), "--model", "classical", "-q"]).stdout
    assert "| relief | 1 | 100.00 |" in table and "completeness 5 cm" in table


def test_nothing_measured_is_an_error(tmp_path, world):
    published.write_imc(tmp_path, world, calibration="model")
    for file in (tmp_path / "reichstag" / "set_100" / "images").iterdir():
        file.write_bytes(b"broken")
    result = run(app, ["benchmark", "imc", "--root", str(tmp_path), "--bag-size", "5", "--model", "classical"])
    assert result.exit_code == 3 and "Nothing could be measured" in result.stderr


@pytest.mark.parametrize("command", ["co3d", "imc", "eth3d"])
def test_every_command_has_an_example(command):
    assert f"Example: vggsfm benchmark {command}" in run(app, ["benchmark", command, "--help"]).stdout
