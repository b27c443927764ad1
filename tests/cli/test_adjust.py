"""``vggsfm adjust``: any COLMAP model, any of the three adjusters."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from example_model import example_model
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import read_colmap, write_colmap
from vggsfm_cli.geometry import camera
from vggsfm_cli.scene import Reconstruction

run = CliRunner().invoke
ADJUSTERS = ("schur", "theseus", "ceres")


def disturbed(model: Reconstruction, seed: int = 0) -> Reconstruction:
    generator = torch.Generator().manual_seed(seed)
    xyz = model.xyz_world + 0.02 * torch.randn(model.xyz_world.shape, generator=generator, dtype=torch.float64)
    xy = model.xy + 0.3 * torch.randn(model.xy.shape, generator=generator, dtype=torch.float64)
    return dataclasses.replace(model, xyz_world=xyz, xy=xy)


def of_all_models() -> Reconstruction:
    """Six frames of six cameras, one of each model and all of different sizes."""
    model = example_model()
    params = torch.zeros(1, 6, 8, dtype=torch.float64)
    sizes = [(800 + 20 * c, 600) for c in range(6)]
    for c, (name, (width, height)) in enumerate(zip(camera.PARAM_NAMES, sizes, strict=True)):
        values = camera.from_focal(name, 700.0 + 10 * c, width, height)
        params[0, c, : len(values)] = values
    cameras = dataclasses.replace(
        model.cameras, models=tuple(camera.PARAM_NAMES), params=params, camera_index=torch.arange(6)[None]
    )
    xy, _ = cameras.project(model.xyz_world[None])
    return dataclasses.replace(model, cameras=cameras, sizes=torch.tensor(sizes), xy=xy[0, model.frame, model.point])


@pytest.mark.parametrize("adjuster", ADJUSTERS)
def test_all_camera_models_are_adjusted(adjuster, tmp_path):
    write_colmap(disturbed(of_all_models()), tmp_path / "sparse")
    arguments = ["adjust", str(tmp_path / "sparse"), "--out", str(tmp_path / "out"), "--adjuster", adjuster]
    result = run(app, [*arguments, "--refine", "poses, points,focal"])
    assert result.exit_code == 0, result.stderr
    assert "mean reprojection error" in result.stdout and "cost" in result.stdout
    before, after = read_colmap(tmp_path / "sparse"), read_colmap(tmp_path / "out")
    assert after.cameras.models == before.cameras.models and torch.equal(after.sizes, before.sizes)
    error = (after.cameras.project(after.xyz_world[None])[0][0, after.frame, after.point] - after.xy).norm(dim=-1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mean_error_after_px"] == pytest.approx(float(error.mean()), rel=1e-6)
    assert float(error.mean()) < 0.5 < report["mean_error_before_px"]
    assert report["cost_after"] == pytest.approx(0.5 * float(error.square().sum()), rel=1e-6)
    torch.testing.assert_close(after.cameras.cam_from_world[:, 0], before.cameras.cam_from_world[:, 0])
    means = torch.zeros(len(after.xyz_world), dtype=torch.float64).index_add(0, after.point, error)
    torch.testing.assert_close(after.error_px, means / torch.bincount(after.point), rtol=1e-6, atol=1e-9)


def test_the_three_agree(tmp_path):
    write_colmap(disturbed(example_model(), seed=1), tmp_path / "sparse")
    arguments = ["adjust", str(tmp_path / "sparse"), "--loss", "cauchy", "--loss-scale", "0.5", "--json"]
    costs = []
    for adjuster in ADJUSTERS:
        result = run(app, [*arguments, "--adjuster", adjuster, "--out", str(tmp_path / adjuster)])
        assert result.exit_code == 0, result.stderr
        costs.append(json.loads(result.stdout)["cost_after"])
    assert costs[1:] == pytest.approx(costs[:1] * 2, rel=1e-4)


def test_only_what_is_named_changes(tmp_path):
    write_colmap(disturbed(example_model()), tmp_path / "sparse")
    before = read_colmap(tmp_path / "sparse")
    changes = {"points": "xyz_world", "poses": "cam_from_world", "focal": "params", "principal-point": "params"}
    for name, changed in changes.items():
        assert (
            run(app, ["adjust", str(tmp_path / "sparse"), "--out", str(tmp_path / name), "--refine", name]).exit_code
            == 0
        )
        after = read_colmap(tmp_path / name)
        for part in ("xyz_world", "cam_from_world", "params"):
            old, new = (getattr(m if part == "xyz_world" else m.cameras, part) for m in (before, after))
            assert (part == changed) != torch.allclose(old, new, rtol=1e-12, atol=1e-12)
        moved = (after.cameras.params != before.cameras.params)[0, 0]
        expected = {"focal": [True, False, False, False], "principal-point": [False, True, True, False]}
        assert moved[:4].tolist() == expected.get(name, [False] * 4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--refine", "points,shape"], 2, "shape"),
        (["--refine", ""], 2, "focal"),
        (["--adjuster", "ceres", "--loss", "geman-mcclure"], 2, "geman"),
        (["--adjuster", "magic"], 2, "schur"),
        (["--loss", "square"], 2, "huber"),
    ],
)
def test_mistakes_leave_nothing_behind(arguments, code, words, tmp_path):
    write_colmap(example_model(), tmp_path / "sparse")
    result = run(app, ["adjust", str(tmp_path / "sparse"), "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == code and words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sparse"]


def test_models_that_cannot_be_adjusted(tmp_path):
    out = str(tmp_path / "out")
    assert run(app, ["adjust", str(tmp_path), "--out", out]).exit_code == 3
    model = example_model()
    impossible = dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, params=-model.cameras.params))
    write_colmap(impossible, tmp_path / "impossible")
    result = run(app, ["adjust", str(tmp_path / "impossible"), "--out", out])
    assert result.exit_code == 3 and "focal length is not greater than 0" in result.stderr
    folder = tmp_path / "other"
    write_colmap(model, folder)
    (folder / "0").rename(tmp_path / "text")
    import pycolmap

    foreign = pycolmap.Reconstruction(tmp_path / "text")
    camera_of_colmap = foreign.cameras[1]
    camera_of_colmap.model = pycolmap.CameraModelId.FOV
    camera_of_colmap.params = [800.0, 800.0, 500.0, 375.0, 0.1]
    foreign.write_text(tmp_path / "text")
    for name in ("cameras", "images", "points3D", "rigs", "frames"):
        (tmp_path / "text" / f"{name}.bin").unlink()
    result = run(app, ["adjust", str(tmp_path / "text"), "--out", out])
    assert result.exit_code == 3 and "FOV" in result.stderr and "OPENCV_FISHEYE" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_earlier_result_stays_unless_asked(tmp_path):
    write_colmap(disturbed(example_model()), tmp_path / "sparse")
    arguments = ["adjust", str(tmp_path / "sparse"), "--out", str(tmp_path / "out"), "-q"]
    assert run(app, arguments).exit_code == 0
    assert run(app, arguments).exit_code == 2
    assert run(app, [*arguments, "--overwrite", "--legacy-colmap"]).exit_code == 0
    assert not (tmp_path / "out" / "0" / "rigs.bin").exists()
