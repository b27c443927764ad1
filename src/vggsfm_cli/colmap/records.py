"""The files of a COLMAP model, record by record, and all that is wrong with how they are written.

COLMAP's own reader believes every count in a file, so a damaged one makes it ask for terabytes or run for hours, and it
stops at the first fault. Here a fault is a finding, and reading goes on where it can. The formats are those of COLMAP's
documentation.
"""

import functools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pycolmap
from jaxtyping import Float, Int, UInt8

NO_POINT = -1
"""Of a 2D point without a 3D point; in binary files all bits are set."""

MAX_NAME_BYTES = 4096
CAMERA = 0
"""Number of the kind of sensor that takes pictures."""

Record = TypeVar("Record")
Severity = Literal["error", "warning"]
Pose = Float[np.ndarray, "7"]
"""Quaternion w x y z, and translation."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with a model.

    Attributes:
        severity: an ``error`` keeps the model from being read; with a ``warning`` COLMAP reads it, and so do we.
        file: name of the file.
        what: a sentence, with the record it is about.
        count: how many records have this fault.
    """

    severity: Severity
    file: str
    what: str
    count: int = 1


@dataclass(kw_only=True, eq=False)
class CameraRecord:
    """A camera; ``model`` is COLMAP's name, or the number of a model that is not known."""

    identity: int
    model: str | int
    width: int
    height: int
    params: Float[np.ndarray, " p"]


@dataclass(kw_only=True, eq=False)
class ImageRecord:
    """An image: its pose (camera from world), and its 2D points with their 3D points."""

    identity: int
    pose: Pose
    camera: int
    name: str
    xy: Float[np.ndarray, "n 2"]
    point: Int[np.ndarray, " n"]


@dataclass(kw_only=True, eq=False)
class PointRecords:
    """All 3D points, and their tracks one after the other: which point, in which image, its which 2D point."""

    identity: Int[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.int64))
    xyz: Float[np.ndarray, "n 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    color: UInt8[np.ndarray, "n 3"] = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    error: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    track_point: Int[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, np.int64))
    track_image: Int[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, np.int64))
    track_index: Int[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(kw_only=True, eq=False)
class FrameRecord:
    """What a rig saw at one moment: its pose from the world, and the images that its cameras took."""

    identity: int
    rig: int
    pose: Pose
    images: list[tuple[int, int]]  # camera and image


@dataclass(kw_only=True, eq=False)
class ModelRecords:
    """A model as its files say it.

    Attributes:
        suffix: of its files.
        rigs: of each the cameras with their pose from the rig; None for the one that is the rig's own frame.
        frames: None where the model has no rigs.
        findings: about how the files are written.
        short: text files that are cut, or edited by hand: they hold less than their head says, or end within a line.
    """

    suffix: str
    cameras: list[CameraRecord]
    images: list[ImageRecord]
    points: PointRecords
    rigs: dict[int, dict[int, Pose | None]] = field(default_factory=dict)
    frames: list[FrameRecord] | None = None
    findings: list[Finding] = field(default_factory=list)
    short: list[Finding] = field(default_factory=list)


@functools.cache
def camera_models() -> dict[int, tuple[str, int, tuple[int, ...]]]:
    """By the number of a camera model in the files: its name, how many parameters it has, which are focal lengths."""
    found = {}
    for model in pycolmap.CameraModelId.__members__.values():
        if int(model) >= 0:
            camera = pycolmap.Camera.create_from_model_id(1, model, 1.0, 1, 1)
            found[int(model)] = (camera.model_name, len(camera.params), tuple(camera.focal_length_idxs()))
    return found


@functools.cache
def model_by_name() -> dict[str, tuple[int, tuple[int, ...]]]:
    """By the name of a camera model: how many parameters it has, and which are focal lengths."""
    return {name: (count, foci) for name, count, foci in camera_models().values()}


def read_records(folder: Path, suffix: str) -> ModelRecords:
    """Read the files of a model, as far as they can be read.

    Raises:
        OSError: a file cannot be opened.
    """
    model = ModelRecords(suffix=suffix, cameras=[], images=[], points=PointRecords())
    reader = (_Binary if suffix == ".bin" else _Text)(folder, model)
    model.cameras = list(reader.cameras())
    model.images = list(reader.images())
    model.points = reader.points()
    if all((folder / f"{name}{suffix}").is_file() for name in ("rigs", "frames")):
        model.rigs = dict(reader.rigs())
        model.frames = list(reader.frames())
    return model


class _CutError(Exception):
    """A file ends too early."""


class _LostError(Exception):
    """Where the next record of a file begins cannot be known; a finding says why."""


class _Bytes:
    """A binary file, with a position in it."""

    def __init__(self, path: Path) -> None:
        self.name, self.data, self.at = path.name, path.read_bytes(), 0

    def skip(self, count: int) -> int:
        """Where it was; it is then so many bytes further."""
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise _CutError
        return start

    def numbers(self, form: str) -> tuple[int | float, ...]:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))

    def integer(self, form: str) -> int:
        return int(self.numbers(form)[0])

    def text(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + MAX_NAME_BYTES)
        if end < 0:
            raise _CutError
        start, self.at = self.at, end + 1
        return self.data[start:end].decode("utf-8", "surrogateescape")


class _Binary:
    """Records of binary files."""

    def __init__(self, folder: Path, model: ModelRecords) -> None:
        self.folder, self.model = folder, model

    def _records(self, name: str, kind: str, read: Callable[[_Bytes], Record]) -> Iterator[Record]:
        """What is repeated in a file, as often as its first number says."""
        file = _Bytes(self.folder / f"{name}.bin")
        number, count = 0, 0
        try:
            count = file.integer("<Q")
            # every record takes bytes, so a wrong count ends at the end of the file
            while number < count:
                number += 1
                yield read(file)
        except _LostError:
            return
        except _CutError:
            where = f"in the middle of {kind} {number} of {count}" if number else "before its first number"
            self.model.findings.append(
                Finding(severity="error", file=file.name, what=f"{file.name} is cut short: it ends {where}.")
            )
        else:
            if file.at < len(file.data):
                left = len(file.data) - file.at
                what = f"{file.name} holds {left} bytes behind its last {kind}."
                self.model.findings.append(Finding(severity="error", file=file.name, what=what))

    def cameras(self) -> Iterator[CameraRecord]:
        """Of ``cameras.bin``."""
        return self._records("cameras", "camera", self._camera)

    def _camera(self, file: _Bytes) -> CameraRecord:
        identity, number, width, height = (int(value) for value in file.numbers("<IiQQ"))
        name, count, _ = camera_models().get(number, (number, 0, ()))
        if not count:  # how long its record is cannot be known
            what = f"camera {identity}: COLMAP knows no camera model {number}, so the rest of the file is lost."
            self.model.findings.append(Finding(severity="error", file=file.name, what=what))
            raise _LostError
        params = np.frombuffer(file.data, "<f8", count, file.skip(8 * count)).astype(np.float64)
        return CameraRecord(identity=identity, model=name, width=width, height=height, params=params)

    def images(self) -> Iterator[ImageRecord]:
        """Of ``images.bin``."""
        return self._records("images", "image", self._image)

    def _image(self, file: _Bytes) -> ImageRecord:
        identity, *pose, camera = file.numbers("<I7dI")
        name, count = file.text(), file.integer("<Q")
        listed = np.frombuffer(file.data, [("xy", "<f8", 2), ("point", "<i8")], count, file.skip(24 * count))
        return ImageRecord(
            identity=int(identity),
            pose=np.array(pose, dtype=np.float64),
            camera=int(camera),
            name=name,
            xy=listed["xy"].astype(np.float64),
            point=listed["point"].astype(np.int64),
        )

    def points(self) -> PointRecords:
        """Of ``points3D.bin``."""
        heads: list[tuple[int | float, ...]] = []
        tracks: list[bytes] = []

        def read(file: _Bytes) -> None:
            head = file.numbers("<q3d3BdQ")
            length = 8 * int(head[-1])
            start = file.skip(length)
            heads.append(head)
            tracks.append(file.data[start : start + length])

        for _ in self._records("points3D", "point", read):
            pass
        track = np.frombuffer(b"".join(tracks), "<u4").reshape(-1, 2).astype(np.int64)
        return _points(heads, track)

    def rigs(self) -> Iterator[tuple[int, dict[int, Pose | None]]]:
        """Of ``rigs.bin``."""
        return self._records("rigs", "rig", self._rig)

    def _rig(self, file: _Bytes) -> tuple[int, dict[int, Pose | None]]:
        identity, sensors = (int(value) for value in file.numbers("<II"))
        cameras: dict[int, Pose | None] = {}
        for place in range(sensors):
            kind, sensor = (int(value) for value in file.numbers("<iI"))
            posed = place > 0 and file.integer("<B") != 0
            pose = np.array(file.numbers("<7d"), dtype=np.float64) if posed else None
            if kind == CAMERA and (posed or place == 0):
                cameras[sensor] = pose
        return identity, cameras

    def frames(self) -> Iterator[FrameRecord]:
        """Of ``frames.bin``."""
        return self._records("frames", "frame", self._frame)

    def _frame(self, file: _Bytes) -> FrameRecord:
        identity, rig, *pose = file.numbers("<II7d")
        count = file.integer("<I")
        data = [file.numbers("<iIQ") for _ in range(count)]
        images = [(int(sensor), int(image)) for kind, sensor, image in data if kind == CAMERA]
        return FrameRecord(identity=int(identity), rig=int(rig), pose=np.array(pose, dtype=np.float64), images=images)


def _points(heads: list[tuple[int | float, ...]], track: Int[np.ndarray, "m 2"]) -> PointRecords:
    """Of rows of identity, position, colour, error and length of the track."""
    if not heads:
        return PointRecords()
    length = np.array([head[-1] for head in heads], dtype=np.int64)
    return PointRecords(
        identity=np.array([head[0] for head in heads], dtype=np.int64),
        xyz=np.array([head[1:4] for head in heads], dtype=np.float64),
        color=np.array([head[4:7] for head in heads], dtype=np.uint8),
        error=np.array([head[7] for head in heads], dtype=np.float64),
        track_point=np.repeat(np.arange(len(heads)), length),
        track_image=track[:, 0],
        track_index=track[:, 1],
    )


class _Text:
    """Records of text files; a line that cannot be read is a finding, and is left out."""

    def __init__(self, folder: Path, model: ModelRecords) -> None:
        self.folder, self.model = folder, model

    def _lines(self, name: str, kind: str, *, in_pairs: bool = False) -> Iterator[tuple[int, str]]:
        """Number and text of each line that is no comment; of pairs the second lines too, which may be empty."""
        path = self.folder / f"{name}.txt"
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        told = re.search(r"^# Number of \w+: (\d{1,15})", text, re.MULTILINE)
        found, second = 0, False
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if not second and (not stripped or stripped.startswith("#")):
                continue
            found += not second
            yield number, stripped
            second = in_pairs and not second
        promised = int(told[1]) if told else found
        if found < promised:
            what = f"{path.name} is cut short: it holds {found} of the {promised} {kind}s that its head names."
            told_of = self.model.short if text.endswith("\n") else self.model.findings
            told_of.append(Finding(severity="error", file=path.name, what=what))
        elif text and not text.endswith("\n"):
            what = f"{path.name} is cut short, or written by hand: its last line does not end."
            self.model.short.append(Finding(severity="error", file=path.name, what=what))

    def _read(self, name: str, kind: str, read: Callable[[list[str]], Record]) -> Iterator[Record]:
        for number, line in self._lines(name, kind):
            try:
                record = read(line.split())
            except (ValueError, IndexError, OverflowError):
                self._misread(name, number, kind)
            else:
                yield record

    def _misread(self, name: str, number: int, kind: str) -> None:
        what = f"{name}.txt, line {number}: this is no {kind}."
        self.model.findings.append(Finding(severity="error", file=f"{name}.txt", what=what))

    def cameras(self) -> Iterator[CameraRecord]:
        """Of ``cameras.txt``."""

        def read(words: list[str]) -> CameraRecord:
            identity, width, height = (_whole(words[i]) for i in (0, 2, 3))
            params = np.array([float(word) for word in words[4:]], dtype=np.float64)
            return CameraRecord(identity=identity, model=words[1], width=width, height=height, params=params)

        return self._read("cameras", "camera", read)

    def images(self) -> Iterator[ImageRecord]:
        """Of ``images.txt``, two lines each."""
        head: ImageRecord | None = None
        second = False
        for number, line in self._lines("images", "image", in_pairs=True):
            try:
                if not second:
                    head = self._image(line)
                else:
                    values = np.array(line.split(), dtype=np.float64).reshape(-1, 3)
                    if head is not None:
                        head.xy, head.point = values[:, :2], _identities(line.split()[2::3])
                        yield head
                    head = None
            except (ValueError, IndexError, OverflowError):
                self._misread("images", number, "list of 2D points" if second else "image")
                if second and head is not None:
                    yield head
                head = None
            second = not second
        if head is not None:  # the last line, which may be empty, was not even begun
            yield head

    @staticmethod
    def _image(line: str) -> ImageRecord:
        words = line.split(maxsplit=9)
        return ImageRecord(
            identity=_whole(words[0]),
            pose=np.array([float(word) for word in words[1:8]], dtype=np.float64),
            camera=_whole(words[8]),
            name=words[9],
            xy=np.zeros((0, 2)),
            point=np.zeros(0, np.int64),
        )

    def points(self) -> PointRecords:
        """Of ``points3D.txt``."""
        heads: list[tuple[int | float, ...]] = []
        tracks: list[list[int]] = []

        def read(words: list[str]) -> None:
            position = [float(word) for word in words[1:4]]
            color = [_whole(word, 255) for word in words[4:7]]
            track = [_whole(word) for word in words[8:]]
            if len(track) % 2:
                raise ValueError
            heads.append((_whole(words[0], 2**63 - 1), *position, *color, float(words[7]), len(track) // 2))
            tracks.append(track)

        for _ in self._read("points3D", "point", read):
            pass
        flat = [value for track in tracks for value in track]
        return _points(heads, np.array(flat, dtype=np.int64).reshape(-1, 2))

    def rigs(self) -> Iterator[tuple[int, dict[int, Pose | None]]]:
        """Of ``rigs.txt``."""

        def read(words: list[str]) -> tuple[int, dict[int, Pose | None]]:
            cameras: dict[int, Pose | None] = {}
            at = 4
            if words[2:3] == ["CAMERA"]:
                cameras[_whole(words[3])] = None
            for _ in range(_whole(words[1], len(words)) - 1):
                kind, sensor, posed = words[at], _whole(words[at + 1]), words[at + 2] == "1"
                at += 3
                if posed:
                    pose = np.array([float(words[at + k]) for k in range(7)], dtype=np.float64)
                    at += 7
                    if kind == "CAMERA":
                        cameras[sensor] = pose
            return _whole(words[0]), cameras

        return self._read("rigs", "rig", read)

    def frames(self) -> Iterator[FrameRecord]:
        """Of ``frames.txt``."""

        def read(words: list[str]) -> FrameRecord:
            data = [words[i : i + 3] for i in range(10, 10 + 3 * _whole(words[9], len(words)), 3)]
            return FrameRecord(
                identity=_whole(words[0]),
                rig=_whole(words[1]),
                pose=np.array([float(word) for word in words[2:9]], dtype=np.float64),
                images=[(_whole(words[1]), _whole(words[2])) for words in data if words[0] == "CAMERA"],
            )

        return self._read("frames", "frame", read)


def _whole(word: str, most: int = 2**32 - 1) -> int:
    value = int(word)
    if not 0 <= value <= most:
        raise ValueError
    return value


def _identities(words: list[str]) -> Int[np.ndarray, " n"]:
    """Numbers of 3D points, ``NO_POINT`` for -1 in either writing."""
    values = [int(word) for word in words]
    return np.array([NO_POINT if value in (-1, 2**64 - 1) else value for value in values], dtype=np.int64)
