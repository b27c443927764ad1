"""What a worker makes of a scene: a result, a result that stands already, or a failure."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from batch_scenes import ORDER, calls, make_scene, setup_for
from example_model import example_model
from vggsfm_cli.batch.fingerprint import hash_options
from vggsfm_cli.batch.locks import scene_lock
from vggsfm_cli.batch.outcome import Outcome, read_finished
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.batch.worker import SceneWorker
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.options import SceneOptions


def run(tmp_path: Path, *, order: str | None = None, force: bool = False, **options: Any) -> Outcome:
    images = tmp_path / "scenes" / "a"
    if not images.exists():
        make_scene(tmp_path / "scenes", "a")
    if order is not None:
        (images / ORDER).write_text(order)
    worker = SceneWorker(setup_for(tmp_path / "out", SceneOptions(**options), force=force))
    return worker.run(Scene(name="town/a", images=images))


def count(tmp_path: Path) -> int:
    return len(calls(tmp_path / "scenes" / "a"))


def test_a_scene_is_done_once(tmp_path: Path) -> None:
    first = run(tmp_path, order="warn")
    assert first.status == "done" and not first.kept
    assert first.warnings[-1] == "Skipped 2.jpg" and ORDER in first.warnings[0]  # the second is no photograph
    assert first.figures["registered"] == 3 and first.failure is None
    report = json.loads((tmp_path / "out" / "town" / "a" / "report.json").read_text())
    assert report["batch"]["attempt"] == first.attempt
    second = run(tmp_path)
    assert second.kept and second.status == "done" and second.attempt == first.attempt
    assert count(tmp_path) == 1


def test_new_times_alone_change_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    os.utime(tmp_path / "scenes" / "a" / "0.jpg", ns=(1, 1))
    assert run(tmp_path).kept and count(tmp_path) == 1


def test_changed_photographs_options_and_force_do_it_again(tmp_path: Path) -> None:
    attempts = {run(tmp_path).attempt}
    (tmp_path / "scenes" / "a" / "0.jpg").write_text("other")
    attempts.add(run(tmp_path).attempt)
    attempts.add(run(tmp_path, seed=1).attempt)
    attempts.add(run(tmp_path, seed=1, force=True).attempt)
    assert len(attempts) == 4 == count(tmp_path)
    assert run(tmp_path, seed=1, threads=3, device="cpu").kept
    finished = read_finished(tmp_path / "out" / "town" / "a")
    assert finished is not None and finished.options == hash_options(SceneOptions(seed=1))


def test_a_failure_leaves_the_earlier_result(tmp_path: Path) -> None:
    first = run(tmp_path)
    failed = run(tmp_path, order="fail", seed=1)
    assert failed.status == "failed" and failed.failure is not None
    assert (failed.failure.kind, failed.failure.exit_code, failed.failure.unexpected) == (
        "ReconstructionFailed",
        4,
        False,
    )
    assert run(tmp_path).attempt == first.attempt


def test_a_bug_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    failed = run(tmp_path, order="bug")
    assert failed.failure is not None and failed.failure.unexpected and failed.failure.exit_code == 1
    assert "a bug" in failed.failure.message
    assert not (tmp_path / "out" / "town" / "a").exists()


def test_what_no_batch_made_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "town" / "a"
    write_colmap(example_model(), folder)
    refused = run(tmp_path)
    assert refused.failure is not None and "--force" in refused.failure.hint and count(tmp_path) == 0
    assert run(tmp_path, force=True).status == "done"
    (folder / "mine.txt").touch()
    refused = run(tmp_path, force=True, order="")
    assert refused.failure is not None and "mine.txt" in refused.failure.message and (folder / "mine.txt").exists()


def test_too_few_registered_is_a_verdict_on_a_result_that_stands(tmp_path: Path) -> None:
    first = run(tmp_path, min_registered=4)
    assert first.failure is not None and first.failure.exit_code == 5 and first.figures["registered"] == 3
    again, content = run(tmp_path, min_registered=4), run(tmp_path, min_registered=3)
    assert again.kept and again.status == "failed" and content.kept and content.status == "done"
    assert count(tmp_path) == 1


def test_a_scene_in_other_hands_is_left_alone(tmp_path: Path) -> None:
    with scene_lock(tmp_path / "out", "town/a"):
        assert run(tmp_path).status == "busy"
    assert count(tmp_path) == 0
    assert run(tmp_path).status == "done"


@pytest.mark.parametrize("content", ["", "[]", '{"batch": {}}', '{"batch": {"attempt": "x"}, "models": []}'])
def test_a_report_that_is_no_record(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "out" / "town" / "a"
    (folder / "0").mkdir(parents=True)
    (folder / "report.json").write_text(content)
    assert read_finished(folder) is None


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    finished = read_finished(tmp_path / "out" / "town" / "a")
    assert finished is not None and finished.record()["batch"] == finished.report["batch"]
    assert dataclasses.asdict(outcome)["attempt"] == finished.attempt
