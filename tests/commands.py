"""Commands under faults and signals, run by ``command_server.py``."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPES = {"net.0.weight": (4, 3), "net.0.bias": (4,)}
"""Of the tensors in the file that is converted."""


@dataclass
class Commands:
    """The server, and a folder for what it says."""

    process: "subprocess.Popen[str]"
    folder: Path
    with_faults: bool

    def run(self, arguments: list[str], **request: Any) -> dict[str, Any]:
        """Run a command; see ``command_server.py`` for what a request may hold."""
        for path in self.folder.iterdir():
            path.unlink()
        told = {"arguments": arguments, "answer": str(self.folder / "answer"), "marker": str(self.folder / "marker")}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({**told, **request}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def build_faults(folder: Path) -> Path | None:
    """The library that lets calls fail; None where there is no compiler or another system than Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    built = subprocess.run(command, capture_output=True, check=False)
    return library if built.returncode == 0 else None


@contextmanager
def commands() -> Iterator[Commands]:
    """A running server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        library = build_faults(folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment.pop("VGGSFM_DEBUG", None)
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        (folder / "answers").mkdir()
        process = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            yield Commands(process, folder / "answers", library is not None)
        finally:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()
