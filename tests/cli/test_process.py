"""Closed and full streams, signals, pipes for files, little memory, two runs at once: a sentence, the right code."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Commands, commands
from pictured_model import pictured_model
from vggsfm_cli import folders
from vggsfm_cli.colmap.files import read_colmap, write_colmap
from vggsfm_cli.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied, and /dev/full is read")


@pytest.fixture(scope="module")
def server() -> Iterator[Commands]:
    with commands() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_colmap(pictured_model(tmp_path / "photos"), tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("arguments", [["inspect", "model", "--json"], ["config", "show"], ["inspect", "model"]])
def test_results_that_cannot_be_printed_are_told(arguments: list[str], server: Commands, place: Path) -> None:
    for stream in ("/dev/full", "closed"):
        ended = server.run(arguments, cwd=str(place), stdout=stream)
        assert ended["code"] == 9 and "Cannot write to stdout" in ended["stderr"], ended
        assert not ended["escaped"] and "Traceback" not in ended["stderr"]


def test_lost_remarks_stop_nothing(server: Commands, place: Path) -> None:
    for k, stream in enumerate(("/dev/full", "closed")):
        arguments = ["undistort", "model", "--images", "photos", "--out", f"out{k}"]
        ended = server.run(arguments, cwd=str(place), stderr=stream)
        assert ended["code"] == 0 and len(read_colmap(place / f"out{k}" / "sparse" / "0").names) == 3, ended
        ended = server.run(["inspect", "nowhere"], cwd=str(place), stderr=stream)
        assert ended["code"] == 3 and ended["stdout"] == ""


def test_no_file_is_written_into_for_a_closed_stream(server: Commands, place: Path) -> None:
    """The next file that is opened would get the number of a closed stream, and what is printed."""
    ended = server.run(["adjust", "model", "--out", "out"], cwd=str(place), stdout="closed", stderr="closed")
    assert ended["code"] == 9
    assert len(read_colmap(place / "out").names) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", ["pipeline", "undistort"])
def test_a_signal_ends_a_run_tidily(number: int, at: str, server: Commands, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    ended = server.run(
        ["reconstruct", "photos", "--out", "out", "--undistort", "splat", "--no-overview", "-q"],
        cwd=str(place), model=str(place / "model"), pause=at, signal=number,
    )  # fmt: skip
    assert ended["code"] == 128 + number, ended
    left = {path.name for path in place.iterdir()} - before
    said = ended["stderr"].splitlines()
    assert len(said) == 2 and said[0] in ("error: Interrupted.", f"error: Ended by {signal.Signals(number).name}.")
    if at == "pipeline":
        assert not left and said[1] == "hint: Nothing was written."
    else:
        assert left == {"out"} and said[1] == f"hint: {str(place / 'out')!r} is whole."


def test_a_signal_counts_even_if_a_library_turns_it_into_another_error(server: Commands, place: Path) -> None:
    code = (
        "from vggsfm_cli.cli import app as program, process\nimport os, signal, vggsfm_cli.colmap.files as files\n"
        "def imported(path):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)\n"
        "    except KeyboardInterrupt as error: raise RuntimeError('Cannot import the backend') from error\n"
        "files.read_colmap = imported\n"
        "program.app(['inspect', 'model'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=False)
    assert ended.returncode == 130 and ended.stderr.startswith("error: Interrupted."), ended.stderr


def test_pycolmap_leaves_the_signal_of_schedulers_alone() -> None:
    code = "import signal, vggsfm_cli.colmap, os, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGTERM and "stack trace" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["config", "show", "--config", "pipe"], 2),
        (["reconstruct", "photos", "--out", "out", "--intrinsics", "pipe"], 3),
        (["reconstruct", "photos", "--out", "out", "--intrinsics", "/dev/zero"], 3),
        (["reconstruct", "pipe", "--out", "out"], 3),
        (["reconstruct", "pipe.txt", "--out", "out"], 3),
        (["reconstruct", "pipe.jpg", "/dev/zero", "--out", "out"], 3),
        (["reconstruct", "pipe.mp4", "--out", "out"], 3),
        (["batch", "pipe.txt", "--out", "out"], 3),
        (["train", "pipe", "--out", "out"], 3),
        (["evaluate", "model", "model", "--ground-truth", "pipe"], 3),
        (["weights", "convert", "pipe", "--out", "out"], 6),
        (["inspect", "pipe"], 3),
        (["compare", "model", "pipe"], 3),
    ],
)
def test_a_pipe_or_device_is_no_file(arguments: list[str], code: int, server: Commands, place: Path) -> None:
    for name in ("pipe", "pipe.txt", "pipe.jpg", "pipe.mp4"):
        os.mkfifo(place / name)
    ended = server.run([*arguments], cwd=str(place), model=str(place / "model"))
    assert ended["code"] == code and ended["seconds"] < 10 and ended["stderr"].startswith(("error:", "warning:")), ended
    assert not (place / "out").exists()


def test_libraries_that_do_not_fit_into_the_address_space_are_named_as_that(place: Path) -> None:
    """The dynamic linker answers, not an allocator."""
    command = f"ulimit -v 600000; exec {sys.executable} -m vggsfm_cli inspect model"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=place, check=False)
    assert ended.returncode == 7 and "Out of memory within the 0.6 GB" in ended.stderr, ended.stderr


def test_the_second_of_two_runs_is_told(server: Commands, place: Path) -> None:
    lock = place / ".out.lock"
    with lock.open("w") as held:
        held.write("4242 elsewhere\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        for arguments in (
            ["reconstruct", "photos", "--out", "out", "--overwrite", "-q"],
            ["adjust", "model", "--out", "out", "--overwrite"],
            ["export", "model", "--out", "out", "--target", "ply", "--overwrite"],
            ["report", "model", "--out", "out", "--overwrite"],
        ):
            ended = server.run(arguments, cwd=str(place), model=str(place / "model"))
            assert ended["code"] == 2, ended
            assert "Another process is writing to" in ended["stderr"] and "process 4242 on elsewhere" in ended["stderr"]
    ended = server.run(["adjust", "model", "--out", "out"], cwd=str(place))  # its owner is dead
    assert ended["code"] == 0 and not lock.exists()


def test_without_locks_the_owner_counts_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    lock = tmp_path / ".out.lock"
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock.write_text(f"{dead.pid} {socket.gethostname()}\n")
    with folders.claimed(tmp_path / "out"):
        assert lock.read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    for owner in (f"{os.getppid()} {socket.gethostname()}", "1 elsewhere"):
        lock.write_text(f"{owner}\n")
        with pytest.raises(UsageError, match="Another process"), folders.claimed(tmp_path / "out"):
            pass


def test_a_batch_takes_its_workers_along(tmp_path: Path) -> None:
    """Whether it is killed or asked to end."""
    code = (
        "import sys, os, time\nfrom pathlib import Path\nfrom batch_scenes import setup_for\n"
        "from vggsfm_cli.batch.local import LocalPool\nfrom vggsfm_cli.batch.plan import Scene\n"
        "from vggsfm_cli.cli import process\n"
        "if __name__ == '__main__':\n"
        "    with process.prepared():\n"
        "        pool = LocalPool(setup_for(Path('out').resolve()), 1)\n"
        "        pool.submit(Scene(name='a', images=Path('a').resolve()))\n"
        "        try:\n            time.sleep(60)\n        finally:\n            pool.close()\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    for number in (signal.SIGKILL, signal.SIGTERM):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        (tmp_path / "a").mkdir()
        for k in range(3):
            (tmp_path / "a" / f"{k}.jpg").write_text("photo")
        (tmp_path / "a" / "order.txt").write_text("hang")
        parent = subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        calls, until = tmp_path / "a" / "calls.txt", time.monotonic() + 60
        while not (calls.exists() and calls.read_text().strip()) and time.monotonic() < until:
            time.sleep(0.02)
        worker = int(calls.read_text())
        parent.send_signal(number)
        parent.wait()
        until = time.monotonic() + 10
        while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert not Path(f"/proc/{worker}").exists(), "the worker goes on"
