"""The command with everything a user may say about the input, and once more from the file it leaves behind."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vggsfm_cli import read_colmap
from vggsfm_cli.cli.app import app
from warped import EXAMPLE

WIDTH, HEIGHT = 512, 384
VIEWS = {"erste Reihe/06.jpg": "view_06.jpg", "erste Reihe/07 ü.png": "view_07.jpg", "08.bmp": "view_08.jpg"}
MASKED_COLUMNS = 120

run = CliRunner().invoke


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``first`` and ``again`` beside ``photos``, ``masks`` and ``known.json``."""
    folder = tmp_path_factory.mktemp("inputs")
    truth = json.loads((EXAMPLE / "ground_truth.json").read_text())["images"]["view_06.jpg"]
    scale = WIDTH / truth["width"]
    fx, fy, cx, cy = (truth["K"][i][j] * scale for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    for name, view in VIEWS.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(EXAMPLE / "images" / view).resize((WIDTH, HEIGHT), Image.Resampling.BOX).save(path)
    keep = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    keep[:, :MASKED_COLUMNS] = 0
    for name in VIEWS:
        mask = folder / "photos" / "masks" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - keep).save(mask)
    known = {"model": "PINHOLE", "params": [fx, fy, cx, cy], "width": WIDTH, "height": HEIGHT}
    (folder / "known.json").write_text(json.dumps(known))
    chosen = [
        "--recursive", "--masks", str(folder / "photos" / "masks"), "--mask-invert", "--preset", "fast",
        "--intrinsics", str(folder / "known.json"), "--query-points", "300", "--no-overview", "--threads", "1",
    ]  # fmt: skip
    undistort = ["--undistort", str(folder / "splat")]
    first = run(app, ["reconstruct", str(folder / "photos"), "--out", str(folder / "first"), *chosen, *undistort])
    assert first.exit_code == 0, first.stderr
    config = ["--config", str(folder / "first" / "config.toml")]
    again = run(app, ["reconstruct", str(folder / "photos"), "--out", str(folder / "again"), *config])
    assert again.exit_code == 0, again.stderr
    return folder


def test_names_are_relative_paths(result: Path) -> None:
    assert sorted(read_colmap(result / "first").names) == sorted(VIEWS)


def test_known_intrinsics_stay_what_they_are(result: Path) -> None:
    model = read_colmap(result / "first")
    known = json.loads((result / "known.json").read_text())
    assert model.cameras.models == ("PINHOLE",)
    assert model.cameras.params[0, 0].tolist() == known["params"]


def test_nothing_masked_is_observed(result: Path) -> None:
    model = read_colmap(result / "first")
    assert len(model.xy) > 200 and float(model.xy[:, 0].min()) > MASKED_COLUMNS - 1


def test_the_poses_are_right(result: Path) -> None:
    model = read_colmap(result / "first")
    poses = dict(zip(model.names, model.cameras.cam_from_world[0], strict=True))
    truth = json.loads((EXAMPLE / "ground_truth.json").read_text())["images"]
    a, b = (torch.tensor(truth[VIEWS[name]]["R"], dtype=torch.float64) for name in list(VIEWS)[:2])
    found = [poses[name][:, :3] for name in list(VIEWS)[:2]]
    cosine = ((found[0] @ found[1].T * (a @ b.T)).sum() - 1) / 2
    assert float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))) < 0.5


def test_undistorted_pictures_have_plain_names_and_their_masks(result: Path) -> None:
    exported = {
        "erste_Reihe_06.png": "erste Reihe/06.jpg",
        "erste_Reihe_07_u.png": "erste Reihe/07 ü.png",
        "08.png": "08.bmp",
    }
    assert json.loads((result / "splat" / "export.json").read_text())["names"] == exported
    for kind, suffix in (("images", ""), ("masks", ".png")):
        written = {
            path.relative_to(result / "splat" / kind).as_posix()
            for path in (result / "splat").rglob("*.*g")
            if path.is_relative_to(result / "splat" / kind)
        }
        assert written == {name + suffix for name in exported}
    mask = np.asarray(Image.open(result / "splat" / "masks" / "08.png.png"))
    assert (np.asarray(Image.open(result / "splat" / "images" / "08.png"))[..., 3] == mask).all()
    assert not mask[:, : MASKED_COLUMNS - 2].any() and mask[:, MASKED_COLUMNS + 2 :].all()


def test_equal_seeds_give_equal_bytes(result: Path) -> None:
    """The second run is told everything by the first one's config.toml."""
    written = sorted(path.relative_to(result / "first") for path in (result / "first").rglob("*") if path.is_file())
    assert {path.name for path in written} >= {"cameras.bin", "images.bin", "points3D.bin", "config.toml"}
    for path in written:
        if path.name != "report.json":
            assert (result / "first" / path).read_bytes() == (result / "again" / path).read_bytes(), path
    assert tomllib.loads((result / "first" / "config.toml").read_text())["intrinsics"] == str(result / "known.json")
    reports = [json.loads((result / name / "report.json").read_text()) for name in ("first", "again")]
    assert reports[0]["options"] == reports[1]["options"]
