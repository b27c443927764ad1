"""``results.jsonl`` has each attempt once, whoever writes and whenever a writer is killed."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vggsfm_cli.batch.log import ResultsLog
from vggsfm_cli.batch.outcome import Outcome


def outcome(attempt: str, **values: Any) -> Outcome:
    given = {"scene": "a", "status": "done", "started": "2024-01-01T00:00:00+00:00", "seconds": 1.0, "host": "here"}
    return Outcome(attempt=attempt, **{**given, **values})


def attempts(path: Path) -> list[str]:
    return [json.loads(line)["attempt"] for line in path.read_text().splitlines()]


def test_an_attempt_is_written_once_by_whomever(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = ResultsLog(path), ResultsLog(path)
    assert first.add(outcome("1")) and first.add(outcome("2"))
    assert not second.add(outcome("2", kept=True)) and second.add(outcome("3"))
    assert not first.add(outcome("3")) and not ResultsLog(path).add(outcome("1"))
    assert attempts(path) == ["1", "2", "3"]
    assert "kept" not in json.loads(path.read_text().splitlines()[0])


def test_another_verdict_on_the_same_result_is_news(tmp_path: Path) -> None:
    log = ResultsLog(tmp_path / "results.jsonl")
    assert log.add(outcome("1")) and log.add(outcome("1", status="failed")) and not log.add(outcome("1"))


def test_half_a_line_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    ResultsLog(path).add(outcome("1"))
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    log = ResultsLog(path)
    assert log.add(outcome("2")) and log.add(outcome("3")) and not log.add(outcome("1"))
    lines = path.read_text().splitlines()
    assert lines[1] == whole[:40] and [json.loads(lines[k])["attempt"] for k in (0, 2, 3)] == ["1", "2", "3"]


def test_writers_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"

    def write(name: int) -> list[bool]:
        log = ResultsLog(path)
        return [log.add(outcome(f"{k}")) for k in range(name, 40)]

    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(write, range(4)))
    assert sum(sum(some) for some in new) == 40
    assert sorted(attempts(path)) == sorted(str(k) for k in range(40))
