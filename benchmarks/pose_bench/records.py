"""Results as they come, one per line, so that an interrupted run can be resumed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def key_of(**settings: Any) -> str:
    """Hash of everything that decides a result."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


class Records:
    """A file of JSON lines; of several lines with one key, the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        whole = 0
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1  # a line without its end was cut short
            for line in content[:whole].splitlines():
                row = json.loads(line)
                self._rows[row["key"]] = row
            if whole < len(content):
                os.truncate(path, whole)

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key."""
        return self._rows.get(key)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, in the file first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[row["key"]] = row
