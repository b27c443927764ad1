"""The result of a run: a sequence of its models, and what there is to say of the run, once."""

import dataclasses
import re
from pathlib import Path

import pytest
from worlds import WorldConfig, blank_images, make_world

import vggsfm_cli
from example_model import example_model
from vggsfm_cli import RunResult, read_colmap, write_colmap
from vggsfm_cli.clock import StageClock
from vggsfm_cli.report import build_report
from vggsfm_cli.result import MemoryUse, RunSettings, StageCost
from vggsfm_cli.scene import ImageSet

SOURCE = Path(vggsfm_cli.__file__).parent


@pytest.fixture
def result() -> RunResult:
    return RunResult(
        models=(example_model(frames=4), example_model(frames=3, seed=1)),
        unregistered={"005.jpg": "too few tracks"},
        stages={"tracks": StageCost(seconds=1.5, peak_memory_mb=10.0)},
        memory=MemoryUse(
            limit="free memory",
            limit_gb=4.0,
            planned_gb=1.0,
            pairs_at_once=64,
            side_by_side=1,
            threads=2,
            out_of_memory=0,
        ),
        settings=RunSettings(recipe="small", preset="fast"),
    )


def test_it_is_a_sequence_of_its_models(result: RunResult, tmp_path: Path) -> None:
    assert len(result) == 2 and list(result) == list(result.models) and bool(result)
    assert result[0] is result.models[0] and result[-1] is result.models[1] and result[1:] == result.models[1:]
    first, second = result
    write_colmap(result, tmp_path / "sparse")
    for number, model in enumerate((first, second)):
        assert read_colmap(tmp_path / "sparse" / str(number)).names == model.names


def test_nobody_can_change_it_later(result: RunResult) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.memory = None  # type: ignore[misc]


def test_json_is_made_of_it_at_the_edge(result: RunResult) -> None:
    images: ImageSet = blank_images(make_world(WorldConfig(points=20, frames=6), 0))
    clock = StageClock()
    clock.add(result.stages)
    report = build_report(images, result, options={}, seed=3, clock=clock)
    assert report["memory"] == dataclasses.asdict(result.memory)  # type: ignore[arg-type]
    assert (report["recipe"], report["preset"], report["queries"]) == ("small", "fast", "the tracker's own")
    assert report["stages"] == {"tracks": {"seconds": 1.5, "peak_memory_mb": 10.0}} and report["seconds"] == 1.5
    assert [row["reason"] for row in report["images"] if row["name"] == "005.jpg"] == ["too few tracks"]
    for model in report["models"]:
        assert not {"stages", "unregistered", "memory", "preset", "queries"} & set(model)


def test_no_code_writes_into_the_report_of_a_model() -> None:
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"\.report\[[^\]]+\] = |\.report\.(update|setdefault|pop)\(", path.read_text()), path
