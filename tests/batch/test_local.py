"""Workers that are processes: killed, told to stop, and left behind by a killed batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from batch_scenes import calls, make_scene, setup_for
from vggsfm_cli.batch.local import LocalPool
from vggsfm_cli.batch.plan import Scene, find_scenes
from vggsfm_cli.batch.run import run_batch

BATCH = """
import sys
from pathlib import Path
from batch_scenes import setup_for
from vggsfm_cli.batch.local import LocalPool
from vggsfm_cli.batch.plan import find_scenes
from vggsfm_cli.batch.run import run_batch
if __name__ == "__main__":
    scenes, out = sys.argv[1], Path(sys.argv[2])
    setup = setup_for(out)
    run_batch(find_scenes(scenes, out), setup, lambda: LocalPool(setup, 1))
"""


def alive(pid: int) -> bool:
    """Also False for a process that ended and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_hurts_one_scene_only(tmp_path: Path) -> None:
    """The others go on in a new worker, which is kept from scene to scene."""
    for name, order in (("a", ""), ("b", "crash"), ("c", ""), ("d", "")):
        make_scene(tmp_path / "scenes", name, order)
    setup = setup_for(tmp_path / "out")
    scenes = find_scenes(str(tmp_path / "scenes"), tmp_path / "out")
    outcomes = run_batch(scenes, setup, lambda: LocalPool(setup, 1), retry=0)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done", "done"]
    failure = outcomes[1].failure
    assert failure is not None and failure.kind == "WorkerDied" and "SIGSEGV" in failure.message
    (a,), (b,), (c,), (d,) = (calls(scene.images) for scene in scenes)
    assert a == b != c == d and os.getpid() not in (a, c)
    assert not alive(a) and not alive(c)


def test_closing_stops_a_scene_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    images = make_scene(tmp_path / "scenes", "a", "hang")
    pool = LocalPool(setup_for(tmp_path / "out"), 1)
    pool.submit(Scene(name="a", images=images))
    assert pool.idle() == 0
    until(lambda: calls(images))
    pool.close()
    assert not alive(calls(images)[0]) and not (tmp_path / "out" / "a").exists()


def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its workers die with it, what was done stays, and nothing is done or logged twice."""
    for name, order in (("a", ""), ("b", "fail"), ("c", "hang"), ("d", "")):
        make_scene(tmp_path / "scenes", name, order)
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "batch.py").write_text(BATCH)
    command = [sys.executable, str(tmp_path / "batch.py"), str(scenes), str(out)]
    with subprocess.Popen(command, env=environment) as batch:
        until(lambda: calls(scenes / "c"))
        worker = calls(scenes / "c")[0]
        batch.send_signal(signal.SIGKILL)
    until(lambda: not alive(worker))
    subprocess.run(command, env=environment, check=True)
    assert [len(calls(scenes / name)) for name in "abcd"] == [1, 2, 2, 1]
    lines = (out / "results.jsonl").read_text().splitlines()
    done = sorted(line.split('"')[3] for line in lines if '"status": "done"' in line)
    assert done == ["a", "c", "d"] and len(lines) == 5
    assert sorted(path.name for path in out.iterdir()) == [".locks", "a", "c", "d", "results.jsonl"]
