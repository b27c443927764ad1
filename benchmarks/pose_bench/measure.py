"""Run methods on sets of photographs, or take what is on record."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pose_bench.methods import Method, Run
from pose_bench.records import Records, key_of
from pose_bench.scenes import Item
from pose_bench.score import score

Row = dict[str, Any]
"""One variant of a method on one set of photographs: what it took, its score, and its report if it writes one."""


def keys(method: Method, item: Item, attempt: int = 0) -> dict[str, str]:
    """Under which each variant of a method is on record."""
    given = {"scene": item.scene, "bag": item.bag, "names": list(item.names), "attempt": attempt}
    return {name: key_of(method=name, **method.settings(), **given) for name in method.names}


def recorded(records: Records, method: Method, item: Item, attempt: int = 0) -> list[Row] | None:
    """The rows of all variants, or None if one is missing."""
    rows = [records.get(key) for key in keys(method, item, attempt).values()]
    return None if None in rows else [row for row in rows if row is not None]


def measure(bench: Path, records: Records, method: Method, item: Item, attempt: int = 0) -> list[Row]:
    """Run a method and put it on record; a method that fails is a result."""
    own_keys, load, when = keys(method, item, attempt), os.getloadavg()[0], time.strftime("%Y-%m-%dT%H:%M:%S")
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name) / "out", Path(name) / "images"
        folder.mkdir()
        images.mkdir()
        for photograph in item.names:
            shutil.copy(item.images / photograph, images / photograph)
        runs = method(images, folder, item.shared_camera)
        rows = [
            {
                "key": own_keys[run.method],
                "method": run.method,
                "scene": item.scene,
                "bag": item.bag,
                "when": when,
                "load_before": round(load, 2),
                "settings": method.settings(),
                **_spent(run),
                "score": score(bench, run.models, item.truth, item.names),
                "report": run.report,
            }
            for run in runs
        ]
    for row in rows:
        records.add(row)
    return rows


def _spent(run: Run) -> Row:
    return {
        "exit_code": run.exit_code,
        "seconds": round(run.seconds, 2),
        "cpu_seconds": round(run.cpu_seconds, 2),
        "peak_memory_mb": round(run.peak_memory_mb),
    }


def measure_all(
    bench: Path,
    records: Records,
    work: Sequence[tuple[Method, Item]],
    *,
    fresh: bool,
    told: Callable[[Row, bool], None],
) -> None:
    """Everything that is not on record, or everything if ``fresh``; ``told`` of each row, and whether it is new."""
    for method, item in work:
        rows = None if fresh else recorded(records, method, item)
        new = rows is None
        for row in measure(bench, records, method, item) if rows is None else rows:
            told(row, new)
