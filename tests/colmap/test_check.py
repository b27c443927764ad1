"""The gate for models from elsewhere: what COLMAP reads is read, what is damaged is refused, listed and repaired."""

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from typer.testing import CliRunner

from colmap_reader import from_pycolmap
from example_model import example_model
from pictured_model import pictured_model
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import check_colmap, read_colmap, write_colmap, write_model
from vggsfm_cli.colmap.records import camera_models
from vggsfm_cli.errors import InputError

run = CliRunner().invoke

Edit = Callable[[list[str]], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As text, without rigs: three images, twenty points."""
    example = example_model(3, 20)
    names = tuple(name.replace(" ", "_") for name in example.names)
    write_model(dataclasses.replace(example, names=names), tmp_path / "model", legacy=True, text=True)
    return tmp_path / "model"


def edited(model: Path, file: str, edit: Edit) -> Path:
    """Change the lines of a file that are no comments."""
    path = model / f"{file}.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    edit(lines)
    path.write_text("\n".join(lines) + "\n")
    return model


def word(line: int, at: int, value: str) -> Edit:
    def edit(lines: list[str]) -> None:
        words = lines[line].split()
        words[at] = value
        lines[line] = " ".join(words)

    return edit


def colmap_reads(model: Path) -> bool:
    try:
        pycolmap.Reconstruction(model)
    except (ValueError, IndexError, RuntimeError):
        return False
    return True


DAMAGE: dict[str, tuple[str, Edit, str]] = {
    "nan in a pose": ("images", word(0, 1, "nan"), "image 1 ('view_0.jpg'): its pose is no finite number"),
    "infinite translation": ("images", word(2, 5, "inf"), "image 2 ('view_1.jpg'): its pose"),
    "nan in a point": ("points3D", word(4, 2, "nan"), "point 5: its position"),
    "giant point": ("points3D", word(4, 2, "1e200"), "point 5: its position"),
    "nan in a camera": ("cameras", word(0, 4, "nan"), "camera 1: a parameter"),
    "no focal length": ("cameras", word(0, 4, "0"), "camera 1: its focal length is not greater than 0"),
    "giant camera": ("cameras", word(0, 3, "2147483648"), "camera 1: its pictures have 1000 x 2147483648 pixels"),
    "camera of no size": ("cameras", word(0, 2, "0"), "camera 1: its pictures have 0 x 750 pixels"),
    "unknown camera model": ("cameras", word(0, 1, "SUPERFISH"), "camera 1: COLMAP knows no camera model 'SUPERFISH'"),
    "parameter too many": ("cameras", lambda lines: lines.__setitem__(0, lines[0] + " 1"), "4 parameters, not 5"),
    "camera missing": ("cameras", lambda lines: lines.pop(1), "there is no camera 2"),
    "camera twice": ("cameras", lambda lines: lines.append(lines[0]), "camera 1: its number is given twice"),
    "image twice": ("images", lambda lines: lines.extend(lines[:2]), "its number is given twice"),
    "image missing": ("images", lambda lines: lines.__delitem__(slice(0, 2)), "track names an image that is not there"),
    "all images missing": ("images", lambda lines: lines.clear(), "track names an image that is not there"),
    "no rotation": (
        "images",
        lambda lines: lines.__setitem__(0, " ".join(["1 0 0 0 0", *lines[0].split()[5:]])),
        "its rotation is none",
    ),
    "observation that is not there": (
        "points3D",
        lambda lines: lines.__setitem__(3, lines[3] + " 1 999"),
        "point 4: its track names a 2D point that its image does not have",
    ),
    "observation of another point": (
        "points3D",
        lambda lines: lines.__setitem__(3, lines[3] + " 1 1"),
        "point 4: its track names a 2D point of another 3D point",
    ),
    "2D points missing": ("images", lambda lines: lines.__setitem__(1, ""), "its image does not have"),
    "point twice": ("points3D", lambda lines: lines.append(lines[0]), "point 1: its number is given twice"),
    "words": ("points3D", lambda lines: lines.__setitem__(6, "seven"), "points3D.txt, line 7: this is no point"),
    "odd track": ("points3D", lambda lines: lines.__setitem__(6, lines[6] + " 1"), "line 7: this is no point"),
    "number without bounds": ("cameras", word(0, 0, "9" * 4000), "cameras.txt, line 1: this is no camera"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_with_its_place_listed_and_repaired(kind: str, model: Path, tmp_path: Path) -> None:
    file, edit, said = DAMAGE[kind]
    edited(model, file, edit)
    with pytest.raises(InputError) as caught:
        read_colmap(model)
    assert "is damaged" in caught.value.message and "\n" not in caught.value.message
    listed = run(app, ["inspect", str(model), "--check"])
    assert listed.exit_code == 3 and said in listed.stdout, listed.stdout
    told = json.loads(run(app, ["inspect", str(model), "--check", "--json"]).stdout)
    assert not told["readable"] and any(said in finding["what"] for finding in told["findings"])
    repaired = run(app, ["inspect", str(model), "--repair", "--out", str(tmp_path / "repaired")])
    if kind == "all images missing":
        assert repaired.exit_code == 3 and "Nothing of the model can be kept" in repaired.stderr
        return
    assert repaired.exit_code == 0, repaired.stderr
    kept = read_colmap(tmp_path / "repaired")
    assert not [f for f in check_colmap(tmp_path / "repaired")[0] if f.severity == "error"]
    assert 1 <= len(kept.names) <= 3 and bool(kept.cameras.params.isfinite().all())


ODD: dict[str, tuple[str, Edit, str]] = {
    "no points": ("points3D", lambda lines: lines.clear(), "no such 3D point"),
    "a point missing": ("points3D", lambda lines: lines.pop(3), "no such 3D point"),
    "a point without a track": (
        "points3D",
        lambda lines: lines.__setitem__(3, " ".join(lines[3].split()[:8])),
        "no image is said to see it",
    ),
    "name given twice": ("images", word(2, 9, "view_0.jpg"), "its name is given twice"),
    "name that leads out": ("images", word(2, 9, "../view.jpg"), "leads out of a folder"),
    "observation outside the picture": ("images", word(1, 0, "-5"), "they lie outside the picture"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_colmap_reads_is_read_with_a_warning(kind: str, model: Path) -> None:
    file, edit, said = ODD[kind]
    edited(model, file, edit)
    assert colmap_reads(model)
    findings, _ = check_colmap(model)
    assert any(said in finding.what for finding in findings)
    assert {finding.severity for finding in findings} == {"warning"}
    read = read_colmap(model)
    if len(read.frame):
        assert int(read.point.max()) < len(read.xyz_world)
    for command in (["inspect"], ["inspect", "--json"], ["inspect", "--check"]):
        shown = run(app, [command[0], str(model), *command[1:]])
        assert shown.exit_code == 0, shown.stderr


def test_observations_of_a_missing_point_go_to_no_other_point(model: Path) -> None:
    """COLMAP reads such a model too; the observations must not slip to the next point."""
    whole = read_colmap(model)
    read = read_colmap(edited(model, "points3D", lambda lines: lines.pop(3)))
    kept = whole.point != 3
    torch.testing.assert_close(read.xy, whole.xy[kept])
    expected = whole.xyz_world[whole.point[kept]]
    torch.testing.assert_close(read.xyz_world[read.point], expected)


@pytest.mark.parametrize("text", [False, True])
def test_a_truncated_model_says_so(text: bool, tmp_path: Path) -> None:
    example = example_model(3, 20)
    names = tuple(name.replace(" ", "_") for name in example.names)
    write_model(dataclasses.replace(example, names=names), tmp_path / "whole", legacy=False, text=text)
    suffix = ".txt" if text else ".bin"
    for name in ("cameras", "images", "points3D", "rigs", "frames"):
        data = (tmp_path / "whole" / f"{name}{suffix}").read_bytes()
        start = data.index(b"\n", data.rindex(b"\n#") + 2) if text else 0  # behind its head
        last = len(data.rstrip()) - 1 if text else len(data) - 2  # COLMAP ends lines with a space, which tells nothing
        for cut in sorted({*np.linspace(start, last, 9, dtype=int).tolist(), last}):
            shutil.copytree(tmp_path / "whole", tmp_path / "cut", dirs_exist_ok=True)
            (tmp_path / "cut" / f"{name}{suffix}").write_bytes(data[:cut])
            listed = run(app, ["inspect", str(tmp_path / "cut"), "--check"])
            assert listed.exit_code == 3, (name, cut, listed.stdout)
            assert f"{name}{suffix} is cut short" in listed.stdout, (cut, listed.stdout)
            refused = run(app, ["inspect", str(tmp_path / "cut")])
            assert refused.exit_code == 3 and "Internal" not in refused.stderr


def test_giant_counts_take_no_memory_and_no_time(tmp_path: Path) -> None:
    write_model(example_model(3, 20), tmp_path / "model", legacy=False)
    for name in ("cameras", "images", "points3D", "rigs", "frames"):
        path = tmp_path / "model" / f"{name}.bin"
        data = path.read_bytes()
        for count in (2**64 - 1, 2**63, 2**40, 21):
            path.write_bytes(struct.pack("<Q", count) + data[8:])
            with pytest.raises(InputError, match="cut short"):
                read_colmap(tmp_path / "model")
        path.write_bytes(data + b"more")
        with pytest.raises(InputError, match="holds 4 bytes behind its last"):
            read_colmap(tmp_path / "model")
        path.write_bytes(data)


def rigged() -> pycolmap.Reconstruction:
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 3, 3
    options.num_points3D, options.num_points2D_without_point3D = 40, 5
    return pycolmap.synthesize_dataset(options)


@pytest.mark.parametrize("text", [False, True])
def test_rigs_are_understood_as_colmap_does(text: bool, tmp_path: Path) -> None:
    model = rigged()
    (model.write_text if text else model.write_binary)(tmp_path)
    ours, theirs = read_colmap(tmp_path), from_pycolmap(pycolmap.Reconstruction(tmp_path))
    assert ours.names == theirs.names and not check_colmap(tmp_path)[0]
    for name in ("cam_from_world", "params", "camera_index"):
        torch.testing.assert_close(getattr(ours.cameras, name), getattr(theirs.cameras, name))
    for name in ("sizes", "xyz_world", "color", "error_px", "frame", "point", "xy"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_poses_of_frames_count_before_those_of_images(tmp_path: Path) -> None:
    model = rigged()
    model.write_text(tmp_path)
    expected = read_colmap(tmp_path).cameras.cam_from_world
    edited(tmp_path, "images", word(0, 5, "77"))
    torch.testing.assert_close(read_colmap(tmp_path).cameras.cam_from_world, expected)
    edited(tmp_path, "frames", lambda lines: lines.pop(0))
    with pytest.raises(InputError, match="it is in no frame"):
        read_colmap(tmp_path)
    kept = check_colmap(tmp_path)[1]
    assert len(kept.names) == len(model.images)  # with the poses that the images have


@pytest.mark.parametrize("lens", [name for name, _, _ in camera_models().values()])
def test_every_camera_model_of_colmap_is_read_shown_and_undistorted(lens: str, tmp_path: Path) -> None:
    write_colmap(pictured_model(tmp_path / "photos"), tmp_path / "base")
    model = pycolmap.Reconstruction(tmp_path / "base" / "0")
    for camera in model.cameras.values():
        usual = pycolmap.Camera.create_from_model_name(camera.camera_id, lens, 130.0, camera.width, camera.height)
        camera.model, camera.params = usual.model, usual.params
    (tmp_path / "model").mkdir()
    model.write_binary(tmp_path / "model")
    assert run(app, ["inspect", str(tmp_path / "model"), "--check"]).exit_code == 0
    assert lens in run(app, ["inspect", str(tmp_path / "model")]).stdout
    folder, photos = str(tmp_path / "model"), str(tmp_path / "photos")
    page = run(app, ["report", folder, "--images", photos, "--out", str(tmp_path / "page.html"), "-q"])
    assert page.exit_code == 0, page.stderr
    plain = run(app, ["undistort", folder, "--images", photos, "--out", str(tmp_path / "plain"), "-q"])
    if lens == "EQUIRECTANGULAR":
        assert plain.exit_code == 3 and "all directions" in plain.stderr
    else:
        assert plain.exit_code == 0, plain.stderr
    adjusted = run(app, ["adjust", folder, "--out", str(tmp_path / "adjusted"), "--iterations", "2", "-q"])
    assert adjusted.exit_code == 0 or "cannot be adjusted" in adjusted.stderr
