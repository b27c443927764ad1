"""Photographs in, files out: the command on rendered photographs with known cameras."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vggsfm_cli import load_model, read_colmap, read_images, reconstruct, write_colmap
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.geometry import pose, rotation
from warped import EXAMPLE

WIDTH, HEIGHT = 768, 576  # of the crops below
EXIF_ORIENTATION = 0x0112


def truth(name: str) -> torch.Tensor:
    """``cam_from_world`` of an example view."""
    view = json.loads((EXAMPLE / "ground_truth.json").read_text())["images"][name]
    return torch.cat([torch.tensor(view["R"]).double(), torch.tensor(view["t"]).double()[:, None]], -1)


def largest_rotation_error_deg(found: torch.Tensor, true: torch.Tensor) -> float:
    errors = [
        rotation.angle_deg(pose.relative(found[i], found[j])[:, :3] @ pose.relative(true[i], true[j])[:, :3].mT)
        for i, j in itertools.combinations(range(len(true)), 2)
    ]
    return float(torch.stack(errors).max())


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory) -> Path:
    """Landscape photographs, and ones for which the camera was turned: stored lying down, upright by their EXIF tag.

    Both are crops of the same pictures, cut so that one camera, principal point included, took them all.
    """
    folder = tmp_path_factory.mktemp("mixed")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # turn clockwise to see it upright
    for i in range(6, 12):
        picture = Image.open(EXAMPLE / "images" / f"view_{i:02d}.jpg")
        if i % 2:
            upright = picture.crop((226, 0, 226 + HEIGHT, WIDTH))
            stored = upright.transpose(Image.Transpose.ROTATE_90)
            stored.save(folder / f"view_{i:02d}.jpg", quality=95, exif=exif)
        else:
            picture.crop((145, 96, 145 + WIDTH, 96 + HEIGHT)).save(folder / f"view_{i:02d}.jpg", quality=95)
    return folder


def test_turned_cameras_share_one_camera(mixed_folder):
    images = read_images(mixed_folder)
    models = reconstruct(images, load_model())
    assert len(models) == 1
    model = models[0]
    assert len(model.names) == 6
    assert len(model.cameras.models) == 1
    assert (model.sizes == torch.tensor([WIDTH, HEIGHT])).all()
    assert model.error_px.mean() < 1
    # observations and projections agree in the pixels of the stored files
    xy, in_front = model.cameras.project(model.xyz_world[None])
    error = (xy[0, model.frame, model.point] - model.xy).norm(dim=-1)
    assert in_front[0, model.frame, model.point].all()
    assert error.mean() < 1
    assert ((model.xy > 0) & (model.xy < torch.tensor([WIDTH, HEIGHT]))).all()
    quarter = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()  # upright to stored
    true = [truth(name) for name in model.names]
    true = [quarter @ t if int(name[5:7]) % 2 else t for name, t in zip(model.names, true, strict=True)]
    assert largest_rotation_error_deg(model.cameras.cam_from_world[0].double(), torch.stack(true)) < 0.5
    focal = float(model.cameras.params[0, 0, 0])
    assert abs(focal / 905 - 1) < 0.02


def test_the_command_writes_everything_and_repeats_itself(mixed_folder, tmp_path):
    runner = CliRunner()
    for name in ("first", "second"):
        result = runner.invoke(app, ["reconstruct", str(mixed_folder), "--out", str(tmp_path / name), "--quiet"])
        assert result.exit_code == 0, result.output
    written = {p.relative_to(tmp_path / "first").as_posix() for p in (tmp_path / "first").rglob("*") if p.is_file()}
    names = ("cameras", "images", "points3D", "rigs", "frames")
    assert written == {"overview.png", "report.json", "config.toml", *(f"0/{name}.bin" for name in names)}
    for name in names:
        first, second = ((tmp_path / run / "0" / f"{name}.bin").read_bytes() for run in ("first", "second"))
        assert first == second, f"{name}.bin differs between two runs with one seed"
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert [image["registered"] for image in report["images"]] == [True] * 6
    assert {"tracks", "mapping"} <= set(report["stages"])
    picture = np.asarray(Image.open(tmp_path / "first" / "overview.png"))
    assert picture.std() > 5
    again = runner.invoke(app, ["reconstruct", str(mixed_folder), "--out", str(tmp_path / "first"), "--quiet"])
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert read_colmap(tmp_path / "first").names == read_colmap(tmp_path / "second").names


def test_pictures_of_different_things_fail_clearly(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(3):
        noise = (generator.random((60, 80, 3)) * 255).astype(np.uint8)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    with pytest.raises(ReconstructionFailed) as failure:
        write_colmap(reconstruct(read_images(tmp_path), load_model()), tmp_path / "out")
    assert failure.value.hint
    assert not (tmp_path / "out").exists()


def test_the_principal_point_is_freed_when_asked(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (7, 8, 9, 10):
        (folder / f"view_{i:02d}.jpg").symlink_to(EXAMPLE / "images" / f"view_{i:02d}.jpg")
    found = {}
    for choice in ("no", "yes"):
        command = [
            "reconstruct",
            str(folder),
            "--out",
            str(tmp_path / choice),
            "-q",
            "--refine-principal-point",
            choice,
        ]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        found[choice] = read_colmap(tmp_path / choice).cameras.params[0, 0, 1:3]
    truth = torch.tensor([521.4, 376.8]).double()
    assert torch.equal(found["no"], torch.tensor([512.0, 384.0]).double())
    assert (found["yes"] - truth).norm() < 2
