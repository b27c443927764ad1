"""Known cameras: as numbers, JSON or a COLMAP model; which photographs are theirs; and what is held."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from example_model import example_model
from vggsfm_cli.colmap.files import write_model
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.intrinsics import KnownCamera, read_intrinsics

SIZES = {"a/1.png": (60, 40), "a/2.png": (60, 40), "b/3.png": (48, 64), "b/4.png": (48, 64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for s, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(s).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def saved(path: Path, *entries: dict[str, object]) -> str:
    path.write_text(json.dumps(list(entries) if len(entries) > 1 else entries[0]))
    return str(path)


def priors(folder: Path, text: str, model: str = "SIMPLE_RADIAL", mode: str = "auto", recursive: bool = True):
    known = read_intrinsics(text, model)
    return read_images(folder, recursive=recursive, camera_model=model, camera_mode=mode, intrinsics=known).priors


def test_numbers_are_known_and_exact(folder: Path) -> None:
    found = priors(folder / "a", "70.5, 30,20.25", recursive=False)
    assert found.params.tolist() == [[[70.5, 30.0, 20.25, 0.0]]]
    assert found.known.tolist() == [[[True, True, True, False]]] and found.focal_spread.tolist() == [[0.0]]
    found = priors(folder / "a", "70,71,30,20,.1,-2e-3,0,0", "OPENCV", recursive=False)
    assert found.params.tolist() == [[[70.0, 71.0, 30.0, 20.0, 0.1, -0.002, 0.0, 0.0]]] and found.known.all()
    found = priors(folder / "a", "70,71,30,20", "PINHOLE", mode="per-image", recursive=False)
    assert found.camera_index.tolist() == [[0, 1]] and found.known.all()
    with pytest.raises(UsageError, match="2 sizes"):
        priors(folder, "70,30,20")


@pytest.mark.parametrize(
    ("text", "model", "said", "hint"),
    [
        ("70", "SIMPLE_RADIAL", "1 numbers", "f,cx,cy,k, or 3 without"),
        ("70,1,2,3,4", "SIMPLE_RADIAL", "5 numbers", "It has 4"),
        ("70,1,2", "PINHOLE", "3 numbers", "fx,fy,cx,cy. "),
        ("70,,2", "SIMPLE_PINHOLE", "no numbers", "commas"),
        ("-70,1,2", "SIMPLE_PINHOLE", "greater than 0", "f,cx,cy"),
        (",".join(["1"] * 9000), "SIMPLE_PINHOLE", "9000 numbers", "f,cx,cy"),
        ("1e999,1,2", "SIMPLE_PINHOLE", "finite", "f,cx,cy"),
    ],
)
def test_wrong_numbers(text: str, model: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_intrinsics(text, model)
    assert hint in error.value.hint


def test_json_by_size_and_by_name(folder: Path, tmp_path: Path) -> None:
    wide = {"model": "PINHOLE", "params": [70, 71, 30, 20], "width": 60, "height": 40}
    tall = {"model": "RADIAL", "params": [80, 24, 32, 0.1, 0], "images": ["b/3*"]}
    found = priors(folder, saved(tmp_path / "k.json", wide, tall))
    assert found.camera_index.tolist() == [[0, 0, 1, 2]]
    assert found.models == ("PINHOLE", "RADIAL", "SIMPLE_RADIAL")
    assert found.known[0].tolist() == [[True] * 4 + [False], [True] * 5, [False] * 5]
    assert found.params[0, 2].tolist() == pytest.approx([1.2 * 64, 24, 32, 0, 0])
    assert found.focal_spread[0].tolist() == pytest.approx([0, 0, 0.5])
    assert priors(folder, saved(tmp_path / "k.json", wide), mode="per-image").camera_index.tolist() == [[0, 1, 2, 3]]
    with pytest.raises(InputError, match="2 cameras of --intrinsics fit a/1"):
        priors(folder, saved(tmp_path / "k.json", wide, {**wide, "params": [1, 1, 1, 1]}))
    with pytest.raises(InputError, match="60 x 40 pixels, its camera in --intrinsics 61 x 40"):
        priors(folder, saved(tmp_path / "k.json", {**wide, "width": 61, "images": ["a/1.png"]}))
    with pytest.raises(InputError, match=r"No photograph fits .*\(61 x 40\)"):
        priors(folder, saved(tmp_path / "k.json", {**wide, "width": 61}))
    with pytest.raises(UsageError, match="several cameras of --intrinsics"):
        priors(folder / "a", saved(tmp_path / "k.json", {**wide, "images": ["1.png"]}), mode="single")


@pytest.mark.parametrize("text", [False, True])
def test_a_colmap_model_names_its_images(tmp_path: Path, text: bool) -> None:
    model = example_model()
    write_model(model, tmp_path / "model", legacy=False, text=text)
    for given in (tmp_path / "model", tmp_path / "model" / ("cameras.txt" if text else "cameras.bin")):
        known = read_intrinsics(str(given), "PINHOLE")
        assert [camera.model for camera in known] == list(model.cameras.models)
        for c, camera in enumerate(known):
            assert camera.params == tuple(model.cameras.params[0, c, : len(camera.params)].tolist())
            assert camera.images == tuple(
                name for s, name in enumerate(model.names) if int(model.cameras.camera_index[0, s]) == c
            )
    for path in (tmp_path / "model").glob("images.*"):
        path.unlink()
    assert all(camera.images is None for camera in read_intrinsics(str(tmp_path / "model"), "PINHOLE"))


def test_damaged_files_are_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    for content, said in (
        (b"{", "no cameras"),
        (b"[]", "no camera"),
        (b"[1]", "no cameras"),
        (b"\xff\xfe", "no cameras"),
        (b"[" * 10**5, "no cameras"),
        (b'{"model": "PINHOLE", "params": [1, 2, 3]}', "3 numbers"),
        (b'{"model": "PINHOLE", "params": [NaN, 2, 3, 4]}', "finite"),
        (b'{"model": "FANCY", "params": [1, 2, 3]}', "Unknown camera model"),
        (b'{"model": "PINHOLE", "params": [1, 2, 3, 4], "fov": 3}', "unknown key 'fov'"),
        (b'{"model": "PINHOLE", "params": [1, 2, 3, 4], "width": 3}', "no cameras"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_intrinsics(str(path), "PINHOLE")
    (tmp_path / "cameras.bin").write_bytes(b"\xff" * 8)
    for given, said in ((tmp_path / "missing.json", "cannot be read"), (tmp_path, "no cameras"), (path.parent, "no")):
        with pytest.raises(InputError, match=said):
            read_intrinsics(str(given), "PINHOLE")


def test_folders_share_a_camera(folder: Path) -> None:
    found = read_images(folder, recursive=True, camera_mode="per-folder").priors
    assert found.camera_index.tolist() == [[0, 0, 1, 1]]
    (folder / "a" / "2.png").write_bytes((folder / "b" / "3.png").read_bytes())
    with pytest.raises(UsageError, match="2 sizes in 'a'"):
        read_images(folder, recursive=True, camera_mode="per-folder")


def test_a_known_camera_is_a_record() -> None:
    assert read_intrinsics("1,2,3", "SIMPLE_PINHOLE") == (KnownCamera(model="SIMPLE_PINHOLE", params=(1.0, 2.0, 3.0)),)
