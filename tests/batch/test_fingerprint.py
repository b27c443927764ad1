"""A result is out of date if the photographs or the options that shape it changed, and only then."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from batch_scenes import make_scene
from vggsfm_cli.batch.fingerprint import (
    COUNTED_AS_INPUT,
    hash_inputs,
    hash_options,
    stamp_inputs,
)
from vggsfm_cli.batch.inputs import absolute, input_files, options_of
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.errors import InputError
from vggsfm_cli.options import SceneOptions


def hash_of(scene: Path, options: SceneOptions | None = None) -> str:
    return hash_inputs(input_files(scene, options or SceneOptions()))


def test_content_and_names_count(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, "a")
    first = hash_of(scene)
    os.utime(scene / "0.jpg", ns=(1, 1))
    (scene / "notes.txt").touch()
    moved = Path(shutil.copytree(scene, tmp_path / "moved"))
    assert hash_of(scene) == first == hash_of(moved)
    (moved / "0.jpg").rename(moved / "00.jpg")
    (scene / "0.jpg").write_text("A 0")
    assert len({first, hash_of(scene), hash_of(moved)}) == 3
    (scene / "0.jpg").write_text("a 0")
    assert hash_of(scene) == first


def test_what_is_read_counts(tmp_path: Path) -> None:
    """Folders only if they are entered, masks only if they are asked for."""
    scene, masks = make_scene(tmp_path, "a"), tmp_path / "masks"
    first = hash_of(scene)
    (scene / "right").mkdir()
    shutil.copy(scene / "0.jpg", scene / "right")
    assert hash_of(scene) == first != hash_of(scene, SceneOptions(recursive=True))
    masks.mkdir()
    (masks / "0.jpg.png").write_text("a mask")
    masked = SceneOptions(masks=masks)
    with_mask = hash_of(scene, masked)
    assert with_mask != first == hash_of(scene)
    (masks / "0.jpg.png").write_text("another mask")
    assert hash_of(scene, masked) not in (with_mask, first)
    (masks / "0.jpg.png").unlink()
    assert hash_of(scene, masked) == first


def test_stamps_see_size_and_time(tmp_path: Path) -> None:
    files = input_files(make_scene(tmp_path, "a"), SceneOptions())
    first = stamp_inputs(files)
    assert list(first) == ["0.jpg", "1.jpg", "2.jpg"] and stamp_inputs(files) == first
    os.utime(files["0.jpg"], ns=(1, 1))
    assert stamp_inputs(files)["0.jpg"] == [3, 1]


HARMLESS = ("device", "threads", "max_memory", "offline", "min_registered")


def test_every_option_that_shapes_a_result_counts() -> None:
    """Also one that is added later: it counts unless it says that it does not shape the result."""
    options = SceneOptions()
    first = hash_options(options)
    for name, value in options.as_dict().items():
        other = "other" if isinstance(value, str) or value is None else value + 1
        changed = hash_options(_with(options, name, other))
        assert (changed == first) == (name in (*HARMLESS, *COUNTED_AS_INPUT)), name


def _with(options: SceneOptions, name: str, value: object) -> SceneOptions:
    """Without the checks of types, as values need not make sense."""
    changed = object.__new__(SceneOptions)
    for field in dataclasses.fields(SceneOptions):
        object.__setattr__(changed, field.name, value if field.name == name else getattr(options, field.name))
    return changed


def test_the_content_of_known_intrinsics_counts(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    file.write_text("{}")
    options = SceneOptions(intrinsics=str(file))
    first = hash_options(options)
    file.write_text("[]")
    assert hash_options(options) != first
    assert hash_options(SceneOptions(intrinsics="1,2,3")) != hash_options(SceneOptions(intrinsics="1,2,4"))


def test_masks_are_in_folders_called_as_the_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks" / "town" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options = absolute(SceneOptions(masks=Path("masks"), mask_invert=True))
    first, second = (options_of(Scene(name=name, images=tmp_path), options) for name in ("town/a", "b"))
    assert first.masks == tmp_path / "masks" / "town" / "a" and first.mask_invert
    assert second.masks is None and not second.mask_invert
    with pytest.raises(InputError, match="No folder"):
        absolute(SceneOptions(masks=Path("nowhere")))


def test_paths_become_absolute_and_names_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    options = absolute(SceneOptions(model="mine", intrinsics="1,2,3"))
    assert options.model == str(tmp_path / "mine") and options.intrinsics == "1,2,3"
    assert absolute(SceneOptions(model="small")) == SceneOptions(model="small")


def test_the_files_of_a_model_folder_count_and_not_its_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
    first, second = (SceneOptions(model=str(tmp_path / name)) for name in ("a", "b"))
    assert hash_options(first) == hash_options(second)
    (tmp_path / "b" / "model.safetensors").write_text("trained on")
    assert hash_options(first) != hash_options(second)
