"""Whole or not at all: at every moment of a swap, after every kind of death, and beside other processes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vggsfm_cli import folders
from vggsfm_cli.errors import WriteFailed

FILES = 40

WRITER = """
import sys
from pathlib import Path
from vggsfm_cli import folders
if sys.argv[2] == "two renames":
    folders._exchange = lambda first, second: False
out = Path(sys.argv[1])
for number in range(10**6):
    with folders.whole_folder(out, lambda: None) as unfinished:
        for i in range({files}):
            (unfinished / str(i)).write_text(str(number))
    print(number, flush=True)
"""

STEPPER = """
import os, signal, sys
from pathlib import Path
from vggsfm_cli import folders
folders._exchange = lambda first, second: False
out, last, done, rename = Path(sys.argv[1]), int(sys.argv[2]), [0], Path.rename
def counted(self, target):
    if done[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
    done[0] += 1
    rename(self, target)
    if done[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = counted
with folders.whole_folder(out, lambda: None) as unfinished:
    (unfinished / "0").mkdir()
    for i in range(3):
        (unfinished / "0" / str(i)).write_text("new")
"""


def write(out: Path, content: str, count: int = 3) -> None:
    with folders.whole_folder(out, lambda: None) as unfinished:
        (unfinished / "0").mkdir()
        for i in range(count):
            (unfinished / "0" / str(i)).write_text(content)


def content(out: Path) -> set[str]:
    return {path.read_text() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    return request.param


def test_a_folder_takes_the_place_of_another(tmp_path: Path, way: str) -> None:
    for text in ("a", "b", "c"):
        write(tmp_path / "out", text)
        assert content(tmp_path / "out") == {text}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are exchanged on Linux only")
def test_linux_exchanges_names_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert folders._exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()
    with pytest.raises(FileNotFoundError):
        folders._exchange(tmp_path / "a", tmp_path / "missing")


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_killed_writers_leave_the_old_or_the_new_folder_whole(tmp_path: Path, way: str) -> None:
    out, dice, standing = tmp_path / "out", random.Random(0), 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER.replace("{files}", str(FILES)), str(out), way],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        finished = int(writer.stdout.readline())
        time.sleep(dice.uniform(0, 0.08))
        writer.send_signal(signal.SIGKILL)
        finished = max([finished, *(int(line) for line in writer.communicate()[0].split())])
        if way == "exchange":
            assert (out / "0").exists()  # at its place, before anybody repairs anything
        folders.recover(out)
        numbers = {path.read_text() for path in out.iterdir()}
        assert len(list(out.iterdir())) == FILES and len(numbers) == 1
        assert int(numbers.pop()) in (finished, finished + 1)  # nothing that was finished is lost
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        standing += 1
    assert standing == 8


def test_death_between_two_renames_is_repaired_by_the_next_start(tmp_path: Path) -> None:
    """Every step of the way without exchange, one process killed after each."""
    out = tmp_path / "out"
    states = set()
    for step in range(4):
        write(out, "old")
        subprocess.run([sys.executable, "-c", STEPPER, str(out), str(step)], check=False, env=os.environ)
        states.add((step, out.exists()))
        folders.recover(out)
        assert content(out) == {"new" if step >= 2 else "old"}
        assert len(list((out / "0").iterdir())) == 3
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (1, False) in states  # the moment in which nothing stands there was met


def test_folders_of_running_processes_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folders.whole_folder(out, lambda: None) as unfinished:
        (unfinished / "a").touch()
        write(out, "other")
        folders.recover(out)
        assert (unfinished / "a").exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    for name in (".out.0123abcd.unfinished", ".out2.0123abcd.unfinished", ".out.notes"):
        (tmp_path / name).mkdir()
    folders.recover(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.notes", ".out2.0123abcd.unfinished", "out"]


def test_what_was_set_aside_comes_back_even_to_an_empty_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    out.rename(tmp_path / ".out.0123abcd.previous")
    out.mkdir()
    folders.recover(out)
    assert content(out) == {"old"} and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("a", "b"):
        with folders.whole_file(path) as partial:
            partial.write_text(text)
        assert path.read_text() == text
    with pytest.raises(ZeroDivisionError), folders.whole_file(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "b" and len(list(tmp_path.iterdir())) == 1


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = folders._sync

    def note(path: Path) -> None:
        synced.append(path.name)
        real(path)

    monkeypatch.setattr(folders, "_sync", note)
    write(tmp_path / "out", "a")
    assert {"0", "1", "2"} <= set(synced[:-1])
    assert synced[-1] == tmp_path.name and synced[-2].endswith(".unfinished")


def test_the_refusal_of_the_disk_is_a_sentence(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "out", "a")
    monkeypatch.setattr(folders, "_sync", refuse)
    with pytest.raises(WriteFailed, match="No space"):
        write(tmp_path / "out", "b")
    assert content(tmp_path / "out") == {"a"} and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_scratch_folder_is_gone_afterwards_and_a_killed_one_with_the_next_start(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folders.scratch_folder(out) as folder:
        (folder / "frame").write_text("here")
        write(out, "new")  # another start in between leaves it alone
        assert (folder / "frame").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    code = (
        "import os, signal, sys; from pathlib import Path; from vggsfm_cli import folders\n"
        "with folders.scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'frame').write_text('left'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert len(list(tmp_path.iterdir())) == 3  # the result, the scratch folder, and its lock
    folders.recover(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
