"""Runs are resumed, and what is on record is never taken for something else."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pose_bench import measure as measuring
from pose_bench import methods, timing
from pose_bench.measure import measure_all, recorded
from pose_bench.records import Records
from pose_bench.scenes import Item, choose, read_items
from pose_bench.score import pairs, score

from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.scene import Cameras, Reconstruction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting:
    """A method that only counts how often it is asked, in a file that it is given."""

    calls: list[str]
    version: int = 0
    names: tuple[str, ...] = ("one", "two")

    def settings(self):
        return {"version": self.version}

    def __call__(self, images, folder, shared_camera):
        self.calls.append(f"{sorted(path.name for path in images.iterdir())} {shared_camera}")
        spent = {"exit_code": 0, "seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 1.0}
        return [methods.Run(method=name, models=folder / name, **spent) for name in self.names]


@pytest.fixture
def item(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "score", lambda *_: {"registered": 0, "images": 1})
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "images" / name).write_text(name)
    truth = tmp_path / "gt.json"
    return Item(scene="sacre_coeur", bag="bag3-1", images=tmp_path / "images", truth=truth, names=("a.jpg", "c.jpg"))


def run(file, method, item, fresh=False):
    told = []
    measure_all(Path("bench"), Records(file), [(method, item)], fresh=fresh, told=lambda row, new: told.append(new))
    return told


def test_what_is_on_record_is_not_run_again(tmp_path, item):
    file, method = tmp_path / "runs" / "items.jsonl", Counting(calls=[])
    assert run(file, method, item) == [True, True]
    assert method.calls == ["['a.jpg', 'c.jpg'] False"]
    assert run(file, method, item) == [False, False]
    assert len(method.calls) == 1
    assert run(file, method, item, fresh=True) == [True, True]
    assert len(method.calls) == 2
    assert [row["method"] for row in recorded(Records(file), method, item)] == ["one", "two"]


def test_other_settings_or_photographs_are_run(tmp_path, item):
    file, calls = tmp_path / "items.jsonl", []
    run(file, Counting(calls=calls), item)
    run(file, Counting(calls=calls, version=1), item)
    run(file, Counting(calls=calls), dataclasses.replace(item, names=("a.jpg", "b.jpg")))
    assert len(calls) == 3
    assert recorded(Records(file), Counting(calls=calls), item, attempt=1) is None


def test_a_line_that_was_cut_short_is_forgotten(tmp_path, item):
    file, method = tmp_path / "items.jsonl", Counting(calls=[])
    run(file, method, item)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert run(file, method, item) == [True, True]  # one of two variants is missing
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_commands_are_timed_and_misuse_is_no_result(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(0.2); raise SystemExit(4)"]
    done = methods.timed("x", sleep, tmp_path / "out", 1)
    assert done.exit_code == 4 and 0.2 < done.seconds < 20 and done.peak_memory_mb > 1
    with pytest.raises(RuntimeError, match="no such option"):
        methods.timed("x", [sys.executable, "-c", "print('no such option'); raise SystemExit(2)"], tmp_path / "b", 1)


def test_a_request_to_end_ends_the_command_too(tmp_path):
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    program = (
        "import sys; from pathlib import Path; from pose_bench import methods; methods.stop_on_request()\n"
        f"methods.timed('x', [sys.executable, '-c', {child!r}], Path({str(tmp_path / 'out')!r}), 1)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    running = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths})
    log, deadline = tmp_path / "out.log", time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.terminate()
    assert running.wait(30) == 128 + signal.SIGTERM
    pid = int(log.read_text())
    while time.monotonic() < deadline:  # gone, or dead and waiting to be collected
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the command still runs")


def test_hash_is_of_names_and_contents(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "x.py").write_text("1")
    (second / "__pycache__" / "x.pyc").write_text("other")
    assert methods.hash_of(first) == methods.hash_of(second)
    (second / "x.py").write_text("2")
    assert methods.hash_of(first) != methods.hash_of(second)


def test_items_are_chosen_by_scene_size_and_name(tmp_path):
    bags = {"full": ["1", "2", "3", "4"], "bag3-0": ["1", "2", "3"], "bag3-1": ["2", "3", "4"], "bag10-0": ["1"]}
    (tmp_path / "bags.json").write_text(json.dumps({"scenes": {"fox": bags, "sacre_coeur": bags}}))
    items = read_items(tmp_path)
    assert [item.bag for item in items][:3] == ["full", "full", "bag3-0"]
    assert [item.shared_camera for item in items][:2] == [True, False]
    assert [item.bag for item in choose(items, ["fox"], ["full", "3"])] == ["full", "bag3-0", "bag3-1"]
    assert [item.bag for item in choose(items, None, ["bag3-1"])] == ["bag3-1"] * 2
    with pytest.raises(ValueError, match="No bag 'bag4'"):
        choose(items, None, ["4"])


def test_medians_and_what_they_are_of_sift(tmp_path):
    def row(method, seconds):
        score = {"images": 11, "registered": 11, "AUC@1": 90.0, "AUC@5": 98.0}
        spent = {"seconds": seconds, "cpu_seconds": seconds, "load_before": 0.0, "peak_memory_mb": 7}
        return {"scene": "s", "method": method, "score": score, **spent}

    rows = [row("sift", s) for s in (20.0, 24.0, 90.0)] + [row("vggsfm", s) for s in (12.0, 11.0, 60.0)]
    summary = {entry["method"]: entry for entry in timing.summarize(rows)}
    assert summary["vggsfm"]["seconds"] == 12 and summary["vggsfm"]["of_sift"] == 0.5
    assert "| s | 11 | vggsfm | 12.0 | 0.50 | 12.0 11.0 60.0 |" in timing.to_markdown(
        list(summary.values()), {"threads": 2, "cores": 2, "processor": "p"}
    )


@pytest.fixture
def written(tmp_path):
    """Models of four and of two images; one of the four is turned by 20 degrees, and a fifth is in no model."""
    generator = torch.Generator().manual_seed(0)
    true = torch.cat(
        [
            rotation.exp(0.2 * torch.randn(5, 3, generator=generator, dtype=torch.float64)),
            torch.randn(5, 3, 1, generator=generator, dtype=torch.float64),
        ],
        -1,
    )
    k = [[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]
    entries = {
        f"{s}.jpg": {"R": true[s, :, :3].tolist(), "t": true[s, :, 3].tolist(), "K": k, "width": 640, "height": 480}
        for s in range(5)
    }
    (tmp_path / "gt.json").write_text(json.dumps({"images": entries}))
    turned = true.clone()
    turn = rotation.exp(torch.deg2rad(torch.tensor([20.0, 0.0, 0.0], dtype=torch.float64)))
    turned[3] = pose.compose(torch.cat([turn, torch.zeros(3, 1, dtype=torch.float64)], -1), true[3])

    def model(frames):
        return Reconstruction(
            cameras=Cameras(
                cam_from_world=turned[None, frames],
                models=("PINHOLE",),
                params=torch.tensor([[[500.0, 500.0, 320.0, 240.0]]], dtype=torch.float64),
                camera_index=torch.zeros(1, len(frames), dtype=torch.long),
                registered=torch.ones(1, len(frames), dtype=torch.bool),
            ),
            names=tuple(f"{s}.jpg" for s in frames),
            sizes=torch.tensor([[640, 480]] * len(frames)),
            xyz_world=torch.zeros(1, 3, dtype=torch.float64),
            color=torch.zeros(1, 3),
            error_px=torch.zeros(1, dtype=torch.float64),
            frame=torch.tensor([0, 1]),
            point=torch.tensor([0, 0]),
            xy=torch.zeros(2, 2, dtype=torch.float64),
        )

    write_colmap([model([0, 1]), model([0, 1, 2, 3])], tmp_path / "models")
    return tmp_path


NAMES = tuple(f"{s}.jpg" for s in range(5))


def test_wrong_pairs_are_counted_in_the_largest_model(written):
    counted = pairs(written / "models", written / "gt.json", NAMES)
    assert counted == {"pairs": 10, "pairs_registered": 6, "pairs_wrong": 3}
    assert pairs(written / "none", written / "gt.json", NAMES) == {"pairs": 10, "pairs_registered": 0, "pairs_wrong": 0}


@pytest.mark.skipif("VGGSFM_BENCH" not in os.environ, reason="needs evaluate.py of the bench")
def test_figures_are_those_of_the_bench(written):
    """The areas under the curve of its evaluate.py and ours agree on the same model."""
    from pose_bench.score import errors_of

    from vggsfm_cli.evaluation.poses import auc_max

    bench = Path(os.environ["VGGSFM_BENCH"])
    figures = score(bench, written / "models", written / "gt.json", NAMES)
    assert (figures["registered"], figures["images"], figures["pairs_wrong"]) == (4, 5, 3)
    errors = errors_of(written / "models", written / "gt.json", NAMES)
    for threshold in (1, 3, 5, 10):
        assert 100 * auc_max(errors, threshold) == pytest.approx(figures[f"AUC@{threshold}"], abs=1e-3)
    nothing = score(bench, written / "none", written / "gt.json", NAMES)
    assert (nothing["registered"], nothing["AUC@10"]) == (0, 0)
