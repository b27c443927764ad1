"""A scene's lock keeps others out, and dies with its process."""

import subprocess
import sys
from pathlib import Path

from vggsfm_cli.batch.locks import scene_lock

HOLD = """
import sys, time
from pathlib import Path
from vggsfm_cli.batch.locks import scene_lock
with scene_lock(Path(sys.argv[1]), "town/house") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_for_each_scene(tmp_path: Path) -> None:
    with scene_lock(tmp_path, "town/house") as first, scene_lock(tmp_path, "town/house") as second:
        assert first and not second
        with scene_lock(tmp_path, "town") as other:
            assert other
    with scene_lock(tmp_path, "town/house") as again:
        assert again


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        with scene_lock(tmp_path, "town/house") as ours:
            assert not ours
        process.kill()
        process.wait()
        with scene_lock(tmp_path, "town/house") as ours:
            assert ours
