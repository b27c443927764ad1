"""The package is imported where Unix's own modules are missing, as on Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vggsfm_cli import systems

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import vggsfm_cli.batch, vggsfm_cli.clock, vggsfm_cli.cli.app, vggsfm_cli.folders, vggsfm_cli.report
from vggsfm_cli import systems
assert systems.peak_memory_bytes() == 0 and systems.address_space_limit() is None
try:
    systems.lock(0)
except OSError as error:
    print(error.strerror)
"""


def test_it_is_imported_without_the_modules_of_unix() -> None:
    found = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "Files cannot be locked on this system\n"


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    systems.lock(first)
    with pytest.raises(OSError):
        systems.lock(second)
    os.close(first)
    systems.lock(second)
    os.close(second)
    assert systems.peak_memory_bytes() > 10_000_000
