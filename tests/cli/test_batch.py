"""``vggsfm batch`` from end to end; its workers are of this process."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from batch_scenes import InlinePool
from example_model import example_model
from vggsfm_cli import job
from vggsfm_cli.batch import local
from vggsfm_cli.batch.worker import WorkerSetup
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.result import RunResult, RunSettings

run = CliRunner().invoke
EXAMPLE = Path(__file__).parents[2] / "examples" / "reading_corner" / "images"


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> list[WorkerSetup]:
    """The workers of each batch that needed any."""
    started: list[WorkerSetup] = []

    def start(setup: WorkerSetup, jobs: int) -> InlinePool:
        started.append(setup)
        return InlinePool(setup)

    monkeypatch.setattr(local, "LocalPool", start)
    monkeypatch.delenv("VGGSFM_DEBUG", raising=False)
    return started


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Replaces the pipeline; called with an exception, the pipeline raises it."""
    failures: list[BaseException] = []

    def reconstruct(*arguments: object, **options: object) -> RunResult:
        for error in failures:
            raise error
        return RunResult(models=(example_model(frames=4),), settings=RunSettings(recipe="small"))

    monkeypatch.setattr(job, "reconstruct", reconstruct)
    return failures.append


def make_scenes(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for s in range(3):
            pixels = np.random.default_rng(s).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{s}.png")
    return root


def batch(scenes: Path, out: Path, *options: str) -> tuple[int, str, str]:
    result = run(app, ["batch", str(scenes), "--out", str(out), "--device", "cpu", "--no-overview", *options])
    return result.exit_code, result.stdout, result.stderr


def test_help_has_an_example() -> None:
    shown = run(app, ["batch", "--help"]).stdout
    assert (
        "Example: vggsfm batch" in shown and "--long-side" in shown and "that of at least one scene of a batch" in shown
    )


def test_real_scenes(tmp_path: Path, workers: list[WorkerSetup]) -> None:
    (tmp_path / "scenes" / "corner").mkdir(parents=True)
    for name in sorted(path.name for path in EXAMPLE.glob("*.jpg"))[7:11]:
        shutil.copy(EXAMPLE / name, tmp_path / "scenes" / "corner")
    (tmp_path / "scenes" / "broken").mkdir()
    (tmp_path / "scenes" / "broken" / "0.jpg").write_text("no picture")
    small = ("--long-side", "256", "--preset", "fast", "--query-points", "64")
    code, shown, told = batch(tmp_path / "scenes", tmp_path / "out", *small)
    assert code == 4 and "1 of 2 scenes failed: broken." in told and "broken: Skipped 0.jpg" in told
    assert "1 done (0 kept), 1 failed" in shown and "No readable image" in shown
    model = read_colmap(tmp_path / "out" / "corner")
    assert len(model.names) >= 3
    code, shown, _ = batch(tmp_path / "scenes", tmp_path / "out", *small, "--json", "-q")
    summary = json.loads(shown)
    assert code == 4 and (summary["done"], summary["kept"], summary["failed"]) == (1, 1, 1)
    broken, corner = summary["scenes"]
    assert corner["kept"] and corner["figures"]["registered"] == len(model.names)
    assert broken["failure"]["exit_code"] == 3 and broken["scene"] == "broken"
    assert len(workers) == 2


def test_success_is_zero_and_options_reach_the_scenes(
    tmp_path: Path, pipeline: Callable[[BaseException], None], workers: list[WorkerSetup]
) -> None:
    scenes, out = make_scenes(tmp_path / "scenes", "a", "b", "c"), tmp_path / "out"
    code, shown, told = batch(scenes, out, "--seed", "5", "--threads", "1", "--shard", "1/2")
    assert code == 0, told
    assert sorted(path.name for path in out.iterdir()) == [".locks", "a", "c", "results.jsonl"]
    assert "2 done (0 kept), 0 failed" in shown and "a: 4 of 3 images registered" in told
    report = json.loads((out / "a" / "report.json").read_text())
    assert report["seed"] == 5 and report["batch"]["attempt"] and workers[0].threads == 1
    assert batch(scenes, out, "--seed", "5")[0] == 0 and len((out / "results.jsonl").read_text().splitlines()) == 3
    assert batch(scenes, out, "--seed", "5", "--shard", "4/3")[0] == 2


def test_out_of_memory_is_tried_again_and_told(tmp_path: Path, pipeline: Callable[[BaseException], None]) -> None:
    scenes = make_scenes(tmp_path / "scenes", "a")
    pipeline(MemoryError())
    code, shown, told = batch(scenes, tmp_path / "out", "--retry", "2")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert code == 4 and [line["tried"] for line in lines] == [1, 2, 3] and lines[0]["failure"]["exit_code"] == 7
    assert told.count("It will be tried again") == 2 and "Out of memory" in shown


def test_an_interrupt_keeps_what_is_done(
    tmp_path: Path, pipeline: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_scenes(tmp_path / "scenes", "a", "b")
    assert batch(scenes, tmp_path / "out", "--shard", "1/2")[0] == 0
    pipeline(KeyboardInterrupt())
    code, shown, told = batch(scenes, tmp_path / "out")
    assert code == 130 and shown == "" and "1 of 2 scenes have ended" in told
    assert (tmp_path / "out" / "a").is_dir() and not (tmp_path / "out" / "b").exists()


def test_usage_mistakes(
    tmp_path: Path, pipeline: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_scenes(tmp_path / "scenes", "a")
    assert batch(tmp_path / "nowhere", tmp_path / "out")[0] == 3
    assert batch(scenes, tmp_path / "out", "--ray-address", "x:1")[0] == 2
    assert batch(scenes, tmp_path / "out", "--model", "fancy")[0] == 2
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, told = batch(scenes, tmp_path / "out", "--engine", "ray")
    assert code == 2 and "vggsfm-cli[ray]" in told
