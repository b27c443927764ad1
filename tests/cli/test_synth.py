"""``vggsfm synth`` from end to end, in a small size."""

import json
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vggsfm_cli.cli import synth as command
from vggsfm_cli.cli.app import app
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.synthetic import textures
from vggsfm_cli.synthetic.layouts import Layout

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def few_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TEXTURES", 3)
    monkeypatch.setattr(command, "TEXTURE_SIDE", 32)


def synth(out: Path, *options: str) -> Path:
    chosen = ["--frames", "2", "--size", "64", "--device", "cpu", *options]
    result = run(app, ["synth", "--out", str(out), *chosen], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_names_of_layouts_are_those_of_the_renderer() -> None:
    assert set(typing.get_args(command.LayoutName)) == {"mixed", *Layout}


def test_scenes_are_written_with_their_truth(tmp_path: Path) -> None:
    out = synth(tmp_path / "scenes", "--scenes", "2", "--layout", "facade", "--depth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]
    assert sorted(path.name for path in out.iterdir()) == ["scene_000", "scene_001"]
    truth = json.loads((out / "scene_001" / "ground_truth.json").read_text())
    assert sorted(truth["images"]) == ["000.png", "001.png"]
    for name, entry in truth["images"].items():
        with Image.open(out / "scene_001" / "images" / name) as picture:
            assert picture.size == (entry["width"], entry["height"]) == (64, 48)
        rotation = np.array(entry["R"])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    depth = np.load(out / "scene_001" / "depth" / "000.npy")
    assert depth.shape == (48, 64)
    assert depth.max() > 0


def test_written_truth_projects_one_view_into_the_other(tmp_path: Path) -> None:
    """Depth, pose and calibration as written carry the pixels of one picture to the depth of the other."""
    scene = synth(tmp_path / "scenes", "--layout", "poster", "--depth", "--no-photometry") / "scene_000"
    truth = json.loads((scene / "ground_truth.json").read_text())["images"]
    first, second = truth["000.png"], truth["001.png"]
    depth, other = (torch.from_numpy(np.load(scene / "depth" / f"{k:03d}.npy")).double() for k in (0, 1))

    def params(entry: dict[str, typing.Any]) -> torch.Tensor:
        (f, _, cx), (_, _, cy), _ = entry["K"]
        return torch.tensor([f, cx, cy, entry["distortion_k1k2p1p2"][0]], dtype=torch.float64)

    def pose(entry: dict[str, typing.Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(entry["R"], dtype=torch.float64), torch.tensor(entry["t"], dtype=torch.float64)

    y, x = (part + 0.5 for part in torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij"))
    slope = camera_models.unproject("SIMPLE_RADIAL", params(first), torch.stack([x, y], -1).double())
    xyz = torch.cat([slope, torch.ones(48, 64, 1)], -1) * depth[..., None]
    (r1, t1), (r2, t2) = pose(first), pose(second)
    moved = (xyz - t1) @ r1 @ r2.mT + t2
    xy, in_front = camera_models.project("SIMPLE_RADIAL", params(second), moved)
    cell = xy.floor().long()
    inside = in_front & (cell >= 0).all(-1) & (cell[..., 0] < 64) & (cell[..., 1] < 48)
    assert inside.sum() > 100
    expected = other[cell[inside][:, 1], cell[inside][:, 0]]
    assert ((moved[..., 2][inside] / expected - 1).abs() < 0.05).all()


def test_the_seed_decides_and_scenes_do_not_depend_on_their_number(tmp_path: Path) -> None:
    one = synth(tmp_path / "one", "--seed", "3")
    two = synth(tmp_path / "two", "--seed", "3", "--scenes", "2")
    other = synth(tmp_path / "other", "--seed", "4")
    pictures = [(out / "scene_000" / "images" / "000.png").read_bytes() for out in (one, two, other)]
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = run(app, ["synth", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(*arguments: object) -> textures.Textures:
        calls.append(arguments)
        raise MemoryError

    monkeypatch.setattr(textures, "procedural_textures", failing)
    result = run(app, ["synth", "--out", str(tmp_path / "scenes")])
    assert result.exit_code == 7
    assert calls
    assert not list(tmp_path.iterdir())
