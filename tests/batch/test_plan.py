"""Scenes are found in folders, lists and patterns, and shards divide them."""

import logging
from pathlib import Path

import pytest

from batch_scenes import make_scene
from vggsfm_cli.batch.plan import choose_shard, find_scenes, shard_of
from vggsfm_cli.errors import InputError, UsageError


def found(source: Path | str, out: Path = Path("/nowhere")) -> dict[str, Path]:
    return {scene.name: scene.images for scene in find_scenes(str(source), out)}


def test_sub_folders_with_photographs_are_scenes_at_any_depth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_scene(tmp_path, "b é")
    make_scene(tmp_path, "a/images")
    make_scene(tmp_path, "town/house 2")
    make_scene(tmp_path, ".hidden")
    make_scene(tmp_path, "a/ignored")
    (tmp_path / "notes").mkdir()
    (tmp_path / "here").symlink_to(tmp_path)
    with caplog.at_level(logging.WARNING):
        scenes = found(tmp_path)
    assert list(scenes) == ["a", "b é", "town/house 2"]
    assert scenes["a"] == tmp_path / "a" / "images" and scenes["b é"] == tmp_path / "b é"
    assert [record.getMessage() for record in caplog.records if "notes" in record.getMessage()]


def test_results_are_not_scenes(tmp_path: Path) -> None:
    make_scene(tmp_path, "a")
    for name in ("out", "earlier"):
        make_scene(tmp_path, f"{name}/a")
    (tmp_path / "earlier" / "results.jsonl").touch()
    assert list(found(tmp_path, tmp_path / "out")) == ["a"]


def test_a_list_names_scenes_by_what_tells_them_apart(tmp_path: Path) -> None:
    make_scene(tmp_path, "one/a/images")
    make_scene(tmp_path, "two/a")
    (tmp_path / "list.txt").write_text(f"# scenes\n\none/a/images\n{tmp_path / 'two' / 'a'}\ntwo/missing\n")
    scenes = found(tmp_path / "list.txt")
    assert list(scenes) == ["one/a", "two/a", "two/missing"]
    assert scenes["one/a"] == tmp_path / "one" / "a" / "images"
    (tmp_path / "list.txt").write_text("one/a/images\n")
    assert list(found(tmp_path / "list.txt")) == ["a"]


def test_a_pattern_takes_folders(tmp_path: Path) -> None:
    for name in ("x1", "x2", "y"):
        make_scene(tmp_path, f"{name}/photos")
    (tmp_path / "x3").touch()
    assert list(found(f"{tmp_path}/x*/photos")) == ["x1/photos", "x2/photos"]
    assert list(found(f"{tmp_path}/x*")) == ["x1", "x2"]


def test_what_cannot_be_a_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no"):
        found(tmp_path / "nowhere")
    with pytest.raises(InputError, match="No scenes"):
        found(f"{tmp_path}/*")
    scene = make_scene(tmp_path, "a")
    with pytest.raises(UsageError, match="where the photographs are"):
        found(tmp_path, tmp_path)
    with pytest.raises(InputError) as error:
        found(scene)
    assert "vggsfm reconstruct" in error.value.hint
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        found(tmp_path / "binary")
    (tmp_path / "list.txt").write_text("a\nb/../a/images\na/deep/c\n")
    with pytest.raises(UsageError, match="two scenes"):
        found(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a\na/deep/c\n")
    with pytest.raises(UsageError, match="within the scene 'a'"):
        found(tmp_path / "list.txt")


@pytest.mark.parametrize("parts", [1, 3, 7, 30])
def test_shards_divide_the_scenes(parts: int) -> None:
    items = list(range(20))
    shards = [shard_of(items, part, parts) for part in range(1, parts + 1)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "auto"])
def test_no_shards(text: str) -> None:
    with pytest.raises(UsageError):
        choose_shard(text, {})


@pytest.mark.parametrize(
    ("task", "count", "low", "high", "step", "expected"),
    [(0, 4, 0, 3, 1, (1, 4)), (4, 4, 1, 4, 1, (4, 4)), (14, 3, 10, 14, 2, (3, 3)), (5, 3, 1, 7, 1, None)],
)
def test_shard_of_a_slurm_array(
    task: int, count: int, low: int, high: int, step: int, expected: tuple[int, int] | None
) -> None:
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    values = (task, count, low, high, step)
    environment = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, values, strict=True)}
    if expected is None:
        with pytest.raises(UsageError, match="gaps"):
            choose_shard("auto", environment)
    else:
        assert choose_shard("auto", environment) == expected
    assert choose_shard("2/3", environment) == (2, 3)
