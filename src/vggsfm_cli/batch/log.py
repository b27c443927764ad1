"""``results.jsonl``: one line an attempt, whoever writes, and whenever a writer is killed."""

import json
import os
from pathlib import Path
from typing import IO

from vggsfm_cli import systems
from vggsfm_cli.batch.outcome import Outcome
from vggsfm_cli.folders import write_failed


class ResultsLog:
    """Appends attempts to a file that several processes may append to; each attempt once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._known: set[tuple[str, str]] = set()

    def add(self, outcome: Outcome) -> bool:
        """Append a line unless the file has it.

        Returns:
            Whether the line is new.

        Raises:
            WriteFailed: the disk refuses.
        """
        key = (outcome.attempt, outcome.status)
        try:
            with self._path.open("a+b") as file:
                systems.lock(file.fileno(), wait=True)
                whole = self._catch_up(file)
                if key in self._known:
                    return False
                text = json.dumps(outcome.as_line()) + "\n"
                # a writer that was killed may have left half a line
                file.write((text if whole else "\n" + text).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(self._path, error) from error
        self._known.add(key)
        return True

    def _catch_up(self, file: IO[bytes]) -> bool:
        """Read what was written since; whether the last line is complete."""
        file.seek(self._read)
        data = file.read()
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                self._known.add((entry["attempt"], entry["status"]))
            except (ValueError, KeyError, TypeError):
                continue
        self._read += data.rfind(b"\n") + 1
        return not data or data.endswith(b"\n")
