"""Cameras whose parameters a user knows: as numbers, in a JSON file, or in the files of a COLMAP model."""

import fnmatch
import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggsfm_cli.errors import InputError, UsageError, VGGSfMError
from vggsfm_cli.geometry.camera import PARAM_NAMES, distortion_indices, focal_indices
from vggsfm_cli.reading import read_bytes, read_text

COLMAP_MODELS = {0: "SIMPLE_PINHOLE", 1: "PINHOLE", 2: "SIMPLE_RADIAL", 3: "RADIAL", 4: "OPENCV", 5: "OPENCV_FISHEYE"}
"""Numbers of the camera models in COLMAP's binary files."""

JSON_EXAMPLE = 'A camera in JSON: {"model": "PINHOLE", "params": [fx, fy, cx, cy], "width": W, "height": H}'
JSON_KEYS = {"model", "params", "width", "height", "images"}


@dataclass(frozen=True, kw_only=True)
class KnownCamera:
    """Parameters of one camera, and the photographs that are its.

    Attributes:
        model: COLMAP's name.
        params: in COLMAP's order; without the distortion if that is not known.
        size: stored width and height of its photographs; None for any.
        images: names or patterns of its photographs; None for all of its size.
    """

    model: str
    params: tuple[float, ...]
    size: tuple[int, int] | None = None
    images: tuple[str, ...] | None = None


def read_intrinsics(text: str, camera_model: str) -> tuple[KnownCamera, ...]:
    """The cameras that ``--intrinsics`` means.

    Args:
        text: numbers with commas between; or the path of a JSON file, of ``cameras.txt`` or ``cameras.bin``, or of a
            folder with one of these. Where ``images.txt`` or ``images.bin`` lies beside it, cameras belong to images by
            name, else by size.
        camera_model: COLMAP's name of the camera model of the numbers; files name their own.

    Raises:
        UsageError: numbers that are not what the model has.
        InputError: a file that is missing or damaged.
    """
    if re.fullmatch(r"[\s\d.,eE+-]+", text):
        return (_from_numbers(text, camera_model),)
    path = Path(text)
    if path.is_dir():
        found = next((path / name for name in ("cameras.bin", "cameras.txt") if (path / name).is_file()), None)
        if found is None:
            raise InputError(f"No cameras.txt or cameras.bin in {text!r}.", "Give the folder of a COLMAP model.")
        path = found
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as error:  # the latter for a text that no path can be
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"The intrinsics {text!r} cannot be read: {reason}.", "Give numbers such as f,cx,cy, or a file."
        ) from error
    try:
        cameras = _parsers(path)(path, data)
        for camera in cameras:
            _check(camera)
    except VGGSfMError as error:
        raise InputError(f"{str(path)!r}: {error.message}", error.hint) from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError, struct.error) as error:
        raise InputError(f"{str(path)!r} holds no cameras that can be read.", JSON_EXAMPLE) from error
    if not cameras:
        raise InputError(f"{str(path)!r} holds no camera.", JSON_EXAMPLE)
    return tuple(cameras)


def _parsers(path: Path) -> Any:
    return {".bin": _from_binary, ".txt": _from_text}.get(path.suffix.lower(), _from_json)


def _from_numbers(text: str, model: str) -> KnownCamera:
    try:
        params = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--intrinsics {text!r} are no numbers.", "Write numbers with commas between.") from None
    camera = KnownCamera(model=model, params=params)
    _check(camera)
    return camera


def _check(camera: KnownCamera) -> None:
    if camera.model not in PARAM_NAMES:
        raise UsageError(f"Unknown camera model {camera.model!r}.", f"Choose one of: {', '.join(PARAM_NAMES)}.")
    names = PARAM_NAMES[camera.model]
    count, without = len(camera.params), len(names) - len(distortion_indices(camera.model))
    if count not in (len(names), without):
        or_without = f", or {without} without the distortion" if without < len(names) else ""
        raise UsageError(
            f"{count} numbers are not the intrinsics of {camera.model}.",
            f"It has {len(names)}: {','.join(names)}{or_without}. --camera-model chooses another.",
        )
    if not all(math.isfinite(value) for value in camera.params):
        raise UsageError("Intrinsics must be finite numbers.", f"{camera.model} has {','.join(names)}.")
    if any(camera.params[i] <= 0 for i in focal_indices(camera.model)):
        raise UsageError("A focal length must be greater than 0.", f"{camera.model} has {','.join(names)}, in pixels.")
    if camera.size is not None and min(camera.size) <= 0:
        raise UsageError("The width and height of a camera must be greater than 0.", JSON_EXAMPLE)


def _from_json(path: Path, data: bytes) -> list[KnownCamera]:
    document = json.loads(data)
    entries = document if isinstance(document, list) else [document]
    cameras = []
    for entry in entries:
        if unknown := set(entry) - JSON_KEYS:
            raise InputError(f"unknown key {sorted(unknown)[0]!r}.", JSON_EXAMPLE)
        images = entry.get("images")
        if images is not None and not (isinstance(images, list) and all(isinstance(name, str) for name in images)):
            raise InputError("'images' must be a list of names.", JSON_EXAMPLE)
        size = (entry["width"], entry["height"]) if "width" in entry or "height" in entry else None
        if size is not None and not all(isinstance(side, int) for side in size):
            raise InputError("'width' and 'height' must be whole numbers.", JSON_EXAMPLE)
        cameras.append(
            KnownCamera(
                model=str(entry["model"]),
                params=tuple(float(value) for value in entry["params"]),
                size=size,
                images=None if images is None else tuple(images),
            )
        )
    return cameras


def _from_text(path: Path, data: bytes) -> list[KnownCamera]:
    cameras = {}
    for line in _lines(data):
        identity, model, width, height, *params = line.split()
        size = (int(width), int(height))
        cameras[int(identity)] = KnownCamera(model=model, params=tuple(float(value) for value in params), size=size)
    images = path.with_name("images.txt")
    if not images.is_file():
        return list(cameras.values())
    # every second line is an image; those between list its points and may be empty
    lines = [line for line in read_text(images).splitlines() if not line.startswith("#")]
    fields = [line.split(maxsplit=9) for line in lines[::2] if line.strip()]
    return _by_name(cameras, {field[9]: int(field[8]) for field in fields})


def _lines(data: bytes) -> list[str]:
    lines = (line.strip() for line in data.decode("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _from_binary(path: Path, data: bytes) -> list[KnownCamera]:
    (count,), at, cameras = struct.unpack_from("<Q", data), 8, {}
    for _ in range(count):
        identity, number, width, height = struct.unpack_from("<IiQQ", data, at)
        if number not in COLMAP_MODELS:
            raise InputError(f"camera {identity} is of a model that is not supported.", ", ".join(PARAM_NAMES))
        names = PARAM_NAMES[COLMAP_MODELS[number]]
        params = struct.unpack_from(f"<{len(names)}d", data, at + 24)
        cameras[identity] = KnownCamera(model=COLMAP_MODELS[number], params=params, size=(width, height))
        at += 24 + 8 * len(names)
    images = path.with_name("images.bin")
    if not images.is_file():
        return list(cameras.values())
    data, camera_of = read_bytes(images), {}
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        (camera_id,) = struct.unpack_from("<I", data, at + 60)
        end = data.index(b"\0", at + 64)
        camera_of[data[at + 64 : end].decode("utf-8")] = camera_id
        (points,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9 + 24 * points
    return _by_name(cameras, camera_of)


def _by_name(cameras: dict[int, KnownCamera], camera_of: dict[str, int]) -> list[KnownCamera]:
    """The cameras with the names of their images."""
    found = []
    for identity, camera in cameras.items():
        names = tuple(glob_free(name) for name, of in camera_of.items() if of == identity)
        found.append(KnownCamera(model=camera.model, params=camera.params, size=camera.size, images=names))
    return [camera for camera in found if camera.images]


def glob_free(name: str) -> str:
    """A pattern that matches just this name."""
    return re.sub(r"([*?[])", r"[\1]", name)


def assign_cameras(
    known: Sequence[KnownCamera], names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> list[int | None]:
    """Which known camera took each photograph; None where none fits.

    Raises:
        InputError: a photograph has another size than its camera, several cameras fit one, or none fits any.
    """
    found = [_fitting(known, name, size) for name, size in zip(names, sizes, strict=True)]
    if known and all(camera is None for camera in found):
        given = ", ".join(sorted({f"{c.size[0]} x {c.size[1]}" for c in known if c.size})) or "other names"
        raise InputError(
            f"No photograph fits the cameras of --intrinsics ({given}).",
            f"{names[0]} has {sizes[0][0]} x {sizes[0][1]} pixels as it is stored.",
        )
    for c in {camera for camera in found if camera is not None}:
        of_one = {size for size, camera in zip(sizes, found, strict=True) if camera == c}
        if len(of_one) > 1:
            raise UsageError(
                f"--intrinsics gives one camera for photographs of {len(of_one)} sizes.",
                "Give a JSON file with one camera per size.",
            )
    return found


def _fitting(known: Sequence[KnownCamera], name: str, size: tuple[int, int]) -> int | None:
    by_name = [c for c, camera in enumerate(known) if camera.images is not None and _named(camera.images, name)]
    fitting = by_name or [c for c, camera in enumerate(known) if camera.images is None and camera.size in (None, size)]
    if len(fitting) > 1:
        raise InputError(f"{len(fitting)} cameras of --intrinsics fit {name}.", 'Say which images are whose: "images".')
    if by_name and known[by_name[0]].size not in (None, size):
        width, height = known[by_name[0]].size or size
        raise InputError(
            f"{name} has {size[0]} x {size[1]} pixels, its camera in --intrinsics {width} x {height}.",
            "Intrinsics refer to the stored files; give the images that they were made for.",
        )
    return fitting[0] if fitting else None


def _named(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
