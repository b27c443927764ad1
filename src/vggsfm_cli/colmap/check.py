"""Whether the binary files of a model hold as much as they say.

COLMAP's reader trusts every count in a file: a damaged one makes it ask for terabytes, or run for hours. So the
counts are followed here first, record by record. The formats are those of COLMAP's documentation.
"""

import functools
import struct
from collections.abc import Callable
from pathlib import Path

import pycolmap

MAX_NAME_BYTES = 4096


class _File:
    """Bytes with a position in them."""

    def __init__(self, path: Path) -> None:
        self.name, self.data, self.at = path.name, path.read_bytes(), 0

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise ValueError(f"{self.name} ends too early.")

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        self.skip(size)
        return int(struct.unpack_from(form, self.data, self.at - size)[0])

    def text(self) -> None:
        end = self.data.find(b"\0", self.at, self.at + MAX_NAME_BYTES)
        if end < 0:
            raise ValueError(f"{self.name} holds a name without an end.")
        self.at = end + 1


def check_sizes(folder: Path) -> None:
    """Follow all counts of the binary files that a model folder has.

    Raises:
        ValueError: a file is shorter than its counts say.
        OSError: it cannot be read.
    """
    for name, record in RECORDS.items():
        path = folder / f"{name}.bin"
        if path.is_file():
            file = _File(path)
            # every record takes bytes, so a wrong count ends at the end of the file
            for _ in range(file.number("<Q")):
                record(file)


@functools.cache
def _param_count(model: int) -> int:
    """Parameters of a camera model, by its number in the files; ValueError for an unknown one."""
    return len(pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, 1, 1).params)


def _camera(file: _File) -> None:
    file.skip(4)
    model = file.number("<i")
    file.skip(16)
    file.skip(8 * _param_count(model))


def _image(file: _File) -> None:
    file.skip(64)
    file.text()
    file.skip(24 * file.number("<Q"))


def _point(file: _File) -> None:
    file.skip(43)
    file.skip(8 * file.number("<Q"))


def _rig(file: _File) -> None:
    file.skip(4)
    sensors = file.number("<I")
    file.skip(8 if sensors > 0 else 0)
    for _ in range(sensors - 1):
        file.skip(8)
        file.skip(56 if file.number("<B") else 0)


def _frame(file: _File) -> None:
    file.skip(64)
    file.skip(16 * file.number("<I"))


RECORDS: dict[str, Callable[[_File], None]] = {
    "cameras": _camera,
    "images": _image,
    "points3D": _point,
    "rigs": _rig,
    "frames": _frame,
}
"""What is repeated in each file, as often as its first number says."""
