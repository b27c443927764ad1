"""Workers of a Ray cluster, as far as Ray is installed."""

import os
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from batch_scenes import calls, make_scene, setup_for
from vggsfm_cli.batch.plan import find_scenes
from vggsfm_cli.batch.ray_pool import RayPool, WorkerShare, connect, plan_workers
from vggsfm_cli.batch.run import run_batch
from vggsfm_cli.errors import InputError


@pytest.mark.parametrize(
    ("cpus", "gpus", "jobs", "threads", "expected"),
    [
        (64, 0, None, None, (16, 4, 0)),
        (64, 0, None, 8, (8, 8, 0)),
        (64, 0, 2, None, (2, 32, 0)),
        (64, 8, None, None, (8, 8, 1)),
        (64, 8, 20, 3, (8, 3, 1)),
        (2, 0, None, None, (1, 2, 0)),
        (2, 0, 5, None, (5, 1, 0)),
    ],
)
def test_a_cluster_is_divided(
    cpus: int, gpus: int, jobs: int | None, threads: int | None, expected: tuple[int, int, int]
) -> None:
    share = plan_workers(cpus, gpus, jobs=jobs, threads=threads)
    assert (share.jobs, share.cpus, share.gpus) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_is_replaced_and_its_scene_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, order in (("a", ""), ("b", "die"), ("c", "fail"), ("d", "")):
        make_scene(tmp_path / "scenes", name, order)
    setup = setup_for(tmp_path / "out")
    scenes = find_scenes(str(tmp_path / "scenes"), tmp_path / "out")

    def start() -> RayPool:
        connect(None)
        return RayPool(setup, WorkerShare(jobs=1, cpus=1, gpus=0))

    outcomes = run_batch(scenes, setup, start)
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done"]
    assert [outcome.tried for outcome in outcomes] == [1, 2, 1, 1]
    (a,), (b, again), (c,), (d,) = (calls(scene.images) for scene in scenes)
    assert a == b != c == d == again and os.getpid() not in (a, c)
    assert all(outcome.kept for outcome in run_batch(scenes[:2], setup, start))


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray is, or if there is none: the address is tried first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(InputError, match=address):
        connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=address):
        connect(None)
