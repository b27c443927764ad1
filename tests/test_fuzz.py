"""Damaged and malicious files end in a sentence and the right exit code: never in a traceback, a hang or full memory.

``VGGSFM_FUZZ`` says how many mutations of each file to try; there are always the same ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MUTATIONS = int(os.environ.get("VGGSFM_FUZZ", "2000"))
OFTEN_WHOLE = ("images, .bmp", "report")
"""Readers to which damage often means nothing: pixels without a checksum, a report that is then not used."""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of workers is read from /proc")
def test_damaged_files_end_in_a_sentence() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *(part for part in sys.path if part)])
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--mutations", str(MUTATIONS), "--jobs", "2"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    told = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(told) >= 18 and all(entry["tried"] == MUTATIONS for entry in told)
    for entry in told:
        assert entry["refused"] > MUTATIONS / 10 or entry["reader"] in OFTEN_WHOLE, entry
        assert entry["through_commands"] > 0 or not entry["reader"].startswith("model"), entry
