"""The order of events of a batch: what is skipped, tried again, waited for and logged. Workers are of this process."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from batch_scenes import InlinePool, calls, make_scene, setup_for
from vggsfm_cli.batch import run as module
from vggsfm_cli.batch.locks import scene_lock
from vggsfm_cli.batch.outcome import Outcome
from vggsfm_cli.batch.plan import Scene, find_scenes
from vggsfm_cli.batch.run import Event, run_batch
from vggsfm_cli.batch.worker import SceneWorker, WorkerSetup


def batch(
    tmp_path: Path, setup: WorkerSetup, *, losses: int = 0, retry: int = 1, events: list[Event] | None = None
) -> dict[str, Outcome]:
    scenes = find_scenes(str(tmp_path / "scenes"), tmp_path / "out")
    heard: list[Event] = [] if events is None else events
    outcomes = run_batch(scenes, setup, lambda: InlinePool(setup, losses), retry=retry, told=heard.append)
    assert [outcome.scene for outcome in outcomes] == [scene.name for scene in scenes]
    return {outcome.scene: outcome for outcome in outcomes}


def lines(tmp_path: Path) -> list[tuple[str, str, int]]:
    text = (tmp_path / "out" / "results.jsonl").read_text()
    return [(line["scene"], line["status"], line["tried"]) for line in map(json.loads, text.splitlines())]


def test_failures_hurt_nobody_else_and_only_they_are_done_again(tmp_path: Path) -> None:
    for name, order in (("a", ""), ("bad", "fail"), ("c", ""), ("flaky", "bug")):
        make_scene(tmp_path / "scenes", name, order)
    events: list[Event] = []
    outcomes = batch(tmp_path, setup_for(tmp_path / "out"), events=events)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a": "done", "bad": "failed", "c": "done", "flaky": "done"
    }  # fmt: skip
    expected = [("a", "done", 1), ("bad", "failed", 1), ("c", "done", 1), ("flaky", "failed", 1), ("flaky", "done", 2)]
    assert lines(tmp_path) == expected
    assert [event.final for event in events] == [True, True, True, False, True]
    again = batch(tmp_path, setup_for(tmp_path / "out"))
    assert {name for name, outcome in again.items() if outcome.kept} == {"a", "c", "flaky"}
    assert lines(tmp_path)[5:] == [("bad", "failed", 1)]


@pytest.mark.parametrize(("losses", "retry", "status"), [(1, 0, "failed"), (2, 2, "done"), (2, 1, "failed")])
def test_a_lost_worker_costs_a_try(tmp_path: Path, losses: int, retry: int, status: str) -> None:
    for name in ("lost", "other"):
        make_scene(tmp_path / "scenes", name)
    outcomes = batch(tmp_path, setup_for(tmp_path / "out"), losses=losses, retry=retry)
    assert outcomes["lost"].status == status and outcomes["other"].status == "done"
    tries = Counter(name for name, _, _ in lines(tmp_path))
    assert tries == {"lost": min(losses, retry) + 1, "other": 1}


def test_a_line_that_was_never_written_is_completed_once(tmp_path: Path) -> None:
    """As after kill -9 between the folder and the line."""
    images = make_scene(tmp_path / "scenes", "a")
    setup = setup_for(tmp_path / "out")
    done = SceneWorker(setup).run(Scene(name="a", images=images))
    assert not (tmp_path / "out" / "results.jsonl").exists()
    for _ in range(3):
        assert batch(tmp_path, setup)["a"].attempt == done.attempt
    assert lines(tmp_path) == [("a", "done", 1)] and len(calls(images)) == 1


def test_no_worker_starts_without_work(tmp_path: Path) -> None:
    make_scene(tmp_path / "scenes", "a")
    setup = setup_for(tmp_path / "out")
    batch(tmp_path, setup)
    scenes = find_scenes(str(tmp_path / "scenes"), tmp_path / "out")
    assert run_batch(scenes, setup, lambda: pytest.fail("a worker was started"))[0].kept


def test_a_scene_in_other_hands_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either the other one finishes it, or it dies and the scene is ours."""
    for name in ("a", "b", "c"):
        make_scene(tmp_path / "scenes", name)
    setup = setup_for(tmp_path / "out")
    holds_a, holds_b = scene_lock(tmp_path / "out", "a"), scene_lock(tmp_path / "out", "b")
    assert holds_a.__enter__() and holds_b.__enter__()
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            assert lines(tmp_path) == [("c", "done", 1)]
            holds_a.__exit__(None, None, None)  # died
        elif len(naps) == 2:
            holds_b.__exit__(None, None, None)
            SceneWorker(setup).run(Scene(name="b", images=tmp_path / "scenes" / "b"))  # finished

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: sum(naps), sleep=nap))
    outcomes = batch(tmp_path, setup)
    assert not outcomes["a"].kept and outcomes["b"].kept
    assert all(len(calls(tmp_path / "scenes" / name)) == 1 for name in ("a", "b", "c"))


def test_two_batches_share_the_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{k}" for k in range(6)]
    for name in names:
        make_scene(tmp_path / "scenes", name, "slow")
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    monkeypatch.setattr(module, "POLL_S", 0.05)
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: batch(tmp_path, setup_for(tmp_path / "out")), range(2)))
    assert all(outcome.status == "done" for outcomes in both for outcome in outcomes.values())
    assert all(len(calls(tmp_path / "scenes" / name)) == 1 for name in names)
    assert sorted(lines(tmp_path)) == [(name, "done", 1) for name in names]
    assert all(any(not outcome.kept for outcome in outcomes.values()) for outcomes in both)


def test_force_does_everything_again(tmp_path: Path) -> None:
    images = make_scene(tmp_path / "scenes", "a")
    batch(tmp_path, setup_for(tmp_path / "out"))
    assert not batch(tmp_path, setup_for(tmp_path / "out", force=True))["a"].kept
    assert len(calls(images)) == 2 and len(lines(tmp_path)) == 2


def test_the_workers_are_stopped_whatever_happens(tmp_path: Path) -> None:
    make_scene(tmp_path / "scenes", "a")
    setup = setup_for(tmp_path / "out")
    pool = InlinePool(setup)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    scenes = find_scenes(str(tmp_path / "scenes"), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_batch(scenes, setup, lambda: pool, told=interrupt)
    assert pool.closed and lines(tmp_path) == [("a", "done", 1)]
