"""A result is out of date if the photographs or the options that shape it changed, and only then."""

import dataclasses
import os
import shutil
from pathlib import Path

from batch_scenes import make_scene
from vggsfm_cli.batch.fingerprint import WITHOUT_INFLUENCE, hash_inputs, hash_options, stamp_inputs
from vggsfm_cli.job import SceneOptions


def test_content_and_names_count(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, "a")
    first = hash_inputs(scene)
    os.utime(scene / "0.jpg", ns=(1, 1))
    (scene / "notes.txt").touch()
    moved = Path(shutil.copytree(scene, tmp_path / "moved"))
    assert hash_inputs(scene) == first == hash_inputs(moved)
    (moved / "0.jpg").rename(moved / "00.jpg")
    (scene / "0.jpg").write_text("A 0")
    assert len({first, hash_inputs(scene), hash_inputs(moved)}) == 3
    (scene / "0.jpg").write_text("a 0")
    assert hash_inputs(scene) == first
    (scene / "right").mkdir()
    shutil.copy(scene / "0.jpg", scene / "right")
    assert hash_inputs(scene) != first


def test_stamps_see_size_and_time(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, "a")
    first = stamp_inputs(scene)
    assert list(first) == ["0.jpg", "1.jpg", "2.jpg"] and stamp_inputs(scene) == first
    os.utime(scene / "0.jpg", ns=(1, 1))
    assert stamp_inputs(scene)["0.jpg"] == [3, 1]
    assert stamp_inputs(tmp_path / "missing") == {}


def test_every_option_that_shapes_a_result_counts() -> None:
    """Also one that is added later: it counts unless it is named as harmless."""
    options = SceneOptions()
    first = hash_options(options)
    for name, value in options.as_dict().items():
        other = "other" if isinstance(value, str) or value is None else value + 1
        changed = hash_options(_with(options, name, other))
        assert (changed == first) == (name in WITHOUT_INFLUENCE), name


def _with(options: SceneOptions, name: str, value: object) -> SceneOptions:
    """Without the checks of types, as values need not make sense."""
    changed = object.__new__(SceneOptions)
    for field in dataclasses.fields(SceneOptions):
        object.__setattr__(changed, field.name, value if field.name == name else getattr(options, field.name))
    return changed


def test_the_files_of_a_model_folder_count_and_not_its_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
    first, second = (SceneOptions(model=str(tmp_path / name)) for name in ("a", "b"))
    assert hash_options(first) == hash_options(second)
    (tmp_path / "b" / "model.safetensors").write_text("trained on")
    assert hash_options(first) != hash_options(second)
