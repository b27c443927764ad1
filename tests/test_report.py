"""Stage times and memory, and a report that is plain JSON."""

import json
import math
import mmap
import time
from pathlib import Path

import pytest
import torch

from example_model import example_model
from vggsfm_cli.clock import StageClock
from vggsfm_cli.report import _jsonable, image_rows, stages_as_dict, summarize


def test_clock_adds_up_and_records_failures() -> None:
    clock = StageClock()
    for _ in range(2):
        with clock.stage("sleep"):
            time.sleep(0.03)
    with pytest.raises(ValueError, match="stop"), clock.stage("fail"):
        raise ValueError("stop")
    stages = stages_as_dict(clock.stages)
    assert list(stages) == ["sleep", "fail"]
    assert 0.06 <= stages["sleep"]["seconds"] < 2
    assert json.loads(json.dumps(stages)) == stages


def test_clock_sees_memory_that_is_gone_again() -> None:
    clock = StageClock()
    with clock.stage("small"):
        time.sleep(0.01)
    # pages of the system's own: a tensor may land in memory that earlier tests left with the allocator
    with clock.stage("large"), mmap.mmap(-1, 256 * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.1)
    stages = stages_as_dict(clock.stages)
    assert stages["large"]["peak_memory_mb"] >= stages["small"]["peak_memory_mb"] + 128


def test_summary_and_rows_agree_with_the_model() -> None:
    model = example_model()
    summary = summarize(model)
    assert summary["images"] == 6 and summary["observations"] == len(model.frame)
    assert [camera["images"] for camera in summary["cameras"]] == [5, 1]
    assert [len(camera["params"]) for camera in summary["cameras"]] == [4, 8]
    assert summary["adjuster"] == "none"
    rows = image_rows(model)
    assert sum(row["observations"] for row in rows) == len(model.frame)
    mean = sum(row["observations"] * row["mean_point_error_px"] for row in rows) / len(model.frame)
    assert mean == pytest.approx(summary["mean_reprojection_error_px"], abs=1e-3)


def test_anything_becomes_json() -> None:
    value = {1: torch.tensor([1.5, 2.5]), "path": Path("x"), "bad": math.nan, "set": {2}, "scalar": torch.tensor(3)}
    assert _jsonable(value) == {"1": [1.5, 2.5], "path": "x", "bad": None, "set": [2], "scalar": 3}
