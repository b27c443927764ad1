"""The gate that every COLMAP model comes through: what is wrong with it, and what of it can be kept.

What COLMAP reads is read here too, with a warning where it is odd. An error is what no reconstruction holds: a file
that is cut short, a reference to nothing, a number that is none.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from vggsfm_cli.colmap.records import (
    NO_POINT,
    CameraRecord,
    Finding,
    ImageRecord,
    ModelRecords,
    PointRecords,
    Pose,
    Severity,
    model_by_name,
)
from vggsfm_cli.scene import Cameras, Reconstruction

MAX_PIXELS = 1_000_000_000
"""Of a picture; larger photographs are not read either."""

LARGEST = 1e12
"""Of any length, in metres or pixels or whatever the unit: the square of a larger one is lost in 32 bits."""

SHOWN = 3
NO_ROTATION = 1e-6


@dataclass(eq=False)
class _Told:
    """What has been found so far."""

    findings: list[Finding]
    suffix: str
    dangling: bool = False  # a 2D point names a 3D point that is not there

    def tell(self, severity: Severity, file: str, sentence: str, about: Sequence[str]) -> None:
        """Note a fault that some records have; ``sentence`` follows the name of one, or of several."""
        if not about:
            return
        shown = ", ".join(about[:SHOWN]) + (f" and {len(about) - SHOWN} more" if len(about) > SHOWN else "")
        what = f"{shown}: {sentence}"
        self.findings.append(Finding(severity=severity, file=f"{file}{self.suffix}", what=what, count=len(about)))


def check_records(model: ModelRecords) -> tuple[list[Finding], ModelRecords]:
    """What is wrong with a model, and the model without the records that are.

    Returns:
        All findings, those about how the files are written first, and what can be kept.
    """
    told = _Told(findings=[*model.findings], suffix=model.suffix)
    cameras = _cameras(model, told)
    images = _images(model, cameras, told)
    points = _points(model, told)
    images = _references(images, points, model, told)
    rigs, frames = model.rigs, model.frames
    if frames is not None:
        posed = _posed(model, images, told)
        if posed is None:
            rigs, frames = {}, None
        else:
            images = [
                dataclasses.replace(image, pose=posed[image.identity]) for image in images if image.identity in posed
            ]
    # whole references speak for an edit by hand, dangling ones for a cut
    damaged = told.dangling or any(finding.severity == "error" for finding in told.findings)
    severity: Severity = "error" if damaged else "warning"
    findings = [*told.findings, *(dataclasses.replace(finding, severity=severity) for finding in model.short)]
    good = ModelRecords(suffix=model.suffix, cameras=cameras, images=images, points=points, rigs=rigs, frames=frames)
    return findings, good


def _cameras(model: ModelRecords, told: _Told) -> list[CameraRecord]:
    faults: dict[str, list[str]] = {}
    good: dict[int, CameraRecord] = {}
    known = model_by_name()
    for camera in model.cameras:
        name = f"camera {camera.identity}"
        count, foci = known.get(str(camera.model), (None, ()))
        pixels = camera.width * camera.height
        if count is None:
            fault = f"COLMAP knows no camera model {camera.model!r}."
        elif len(camera.params) != count:
            fault = f"{camera.model} has {count} parameters, not {len(camera.params)}."
        elif not _usable(camera.params):
            fault = "a parameter is no finite number of a sensible size."
        elif any(camera.params[i] <= 0 for i in foci):
            fault = "its focal length is not greater than 0."
        elif not 0 < pixels <= MAX_PIXELS:
            fault = f"its pictures have {camera.width} x {camera.height} pixels, which no photograph has."
        elif camera.identity in good:
            fault = "its number is given twice."
        else:
            good[camera.identity] = camera
            continue
        faults.setdefault(fault, []).append(name)
    for fault, names in faults.items():
        told.tell("error", "cameras", fault, names)
    return list(good.values())


def _images(model: ModelRecords, cameras: list[CameraRecord], told: _Told) -> list[ImageRecord]:
    faults: dict[str, list[str]] = {}
    oddities: dict[str, list[str]] = {}
    good: dict[int, ImageRecord] = {}
    known = {camera.identity: camera for camera in cameras}
    names: set[str] = set()
    for image in model.images:
        shown = f"image {image.identity} ({_printable(image.name)!r})"
        if image.camera not in known:
            fault = f"there is no camera {image.camera}, or it is damaged."
        elif not _usable(image.pose):
            fault = "its pose is no finite number of a sensible size."
        elif np.linalg.norm(image.pose[:4]) < NO_ROTATION:
            fault = "its rotation is none: all four numbers are 0."
        elif not _is_text(image.name):
            fault = "it has no name that is UTF-8 text."
        elif not _usable(image.xy):
            fault = "a 2D point is no finite number of a sensible size."
        elif image.identity in good:
            fault = "its number is given twice."
        else:
            path = PurePosixPath(image.name)
            if image.name in names:
                oddities.setdefault("its name is given twice.", []).append(shown)
            if path.is_absolute() or ".." in path.parts:
                oddities.setdefault("its name leads out of a folder of photographs.", []).append(shown)
            good[image.identity] = image
            names.add(image.name)
            continue
        faults.setdefault(fault, []).append(shown)
    for fault, about in faults.items():
        told.tell("error", "images", fault, about)
    for oddity, about in oddities.items():
        told.tell("warning", "images", oddity, about)
    return list(good.values())


def _points(model: ModelRecords, told: _Told) -> PointRecords:
    points = model.points
    usable = np.isfinite(points.xyz).all(1) & (np.abs(points.xyz) <= LARGEST).all(1)
    _, first = np.unique(points.identity, return_index=True)
    once = np.zeros(len(points.identity), dtype=bool)
    once[first] = True
    told.tell("error", "points3D", "its position is no finite number of a sensible size.", _named(points, ~usable))
    told.tell("error", "points3D", "its number is given twice.", _named(points, usable & ~once))
    odd = ~(np.isfinite(points.error) & (np.abs(points.error) <= LARGEST))
    told.tell("warning", "points3D", "its error is no number and counts as unknown.", _named(points, odd))
    if not len(points.identity):
        told.tell("warning", "points3D", "the model has none.", ["points"])
    bare = np.bincount(points.track_point, minlength=len(points.identity)) == 0
    told.tell("warning", "points3D", "no image is said to see it.", _named(points, bare))
    points.error = np.where(odd, -1.0, points.error)
    return _chosen(points, usable & once)


def _chosen(points: PointRecords, keep: Bool[np.ndarray, " n"]) -> PointRecords:
    """Some of the points, with their tracks."""
    if keep.all():
        return points
    row = np.cumsum(keep) - 1
    track = keep[points.track_point]
    return PointRecords(
        identity=points.identity[keep],
        xyz=points.xyz[keep],
        color=points.color[keep],
        error=points.error[keep],
        track_point=row[points.track_point[track]],
        track_image=points.track_image[track],
        track_index=points.track_index[track],
    )


def _references(images: list[ImageRecord], points: PointRecords, model: ModelRecords, told: _Told) -> list[ImageRecord]:
    """Hold images and points against each other; the images, without what they say of points that are not there."""
    there = np.sort(points.identity)
    missing: list[str] = []
    good = []
    for image in images:
        named = image.point != NO_POINT
        absent = named & ~_among(image.point, there)
        if absent.any():
            missing.append(f"image {image.identity} ({_printable(image.name)!r}), {int(absent.sum())} 2D points")
        good.append(dataclasses.replace(image, point=np.where(absent, NO_POINT, image.point)))
    told.dangling = bool(missing)
    told.tell("warning", "images", "there is no such 3D point; they count as without one.", missing)
    _tracks(good, {image.identity for image in model.images}, points, told)
    outside = []
    sizes = {camera.identity: (camera.width, camera.height) for camera in model.cameras}
    for image in good:
        seen = image.xy[image.point != NO_POINT]
        out = ((seen < 0) | (seen > np.array(sizes[image.camera]))).any(1) if len(seen) else np.zeros(0, bool)
        if out.any():
            outside.append(f"image {image.identity} ({_printable(image.name)!r}), {int(out.sum())} 2D points")
    told.tell("warning", "images", "they lie outside the picture.", outside)
    return good


def _tracks(images: list[ImageRecord], listed: set[int], points: PointRecords, told: _Told) -> None:
    """Whether the 2D points that tracks name are there, and name the same 3D point."""
    order = {image.identity: place for place, image in enumerate(images)}
    starts = np.cumsum([0, *(len(image.point) for image in images)])
    of_all = np.concatenate([image.point for image in images]) if images else np.zeros(0, np.int64)
    known = np.array(sorted(order), dtype=np.int64)
    found = _among(points.track_image, known)
    place = np.array([order[identity] for identity in known.tolist()], dtype=np.int64)
    row = place[np.searchsorted(known, points.track_image[found])] if len(known) else np.zeros(0, np.int64)
    index = points.track_index[found]
    inside = index < (starts[1:] - starts[:-1])[row] if len(known) else np.zeros(0, bool)
    owner = points.identity[points.track_point[found]]
    same = inside.copy()
    same[inside] = of_all[starts[row[inside]] + index[inside]] == owner[inside]
    unlisted = ~_among(points.track_image, np.array(sorted(listed), dtype=np.int64))
    every = np.arange(len(points.identity))

    def tell(sentence: str, at: Int[np.ndarray, " k"]) -> None:
        told.tell("error", "points3D", sentence, _named(points, np.isin(every, at)))

    tell("its track names an image that is not there.", points.track_point[unlisted])
    tell("its track names a 2D point that its image does not have.", points.track_point[found][~inside])
    tell("its track names a 2D point of another 3D point.", points.track_point[found][inside & ~same])


def _posed(model: ModelRecords, images: list[ImageRecord], told: _Told) -> dict[int, Pose] | None:
    """Poses of the images of the frames, which count before those in the file of images; None if they cannot."""
    camera_of = {image.identity: image.camera for image in images}
    poses: dict[int, Pose] = {}
    faults: dict[str, list[str]] = {}
    for frame in model.frames or ():
        for camera, identity in frame.images:
            sensor = model.rigs.get(frame.rig, {}).get(camera, "missing")
            if isinstance(sensor, str):
                fault = "its rig, or the camera in its rig, is not there."
            elif not _posable(frame.pose) or (sensor is not None and not _posable(sensor)):
                fault = "its pose, or one in its rig, is no finite number of a sensible size."
            elif identity in camera_of and camera_of[identity] != camera:
                fault = "an image of it is of another camera."
            else:
                poses[identity] = frame.pose if sensor is None else _composed(sensor, frame.pose)
                continue
            faults.setdefault(fault, []).append(f"frame {frame.identity}")
    without = [f"image {identity}" for identity in camera_of if identity not in poses]
    for fault, about in faults.items():
        told.tell("error", "frames", fault, about)
    told.tell("error", "frames", "it is in no frame.", without)
    return None if faults or without else poses


def _composed(second: Pose, first: Pose) -> Pose:
    """The pose ``second @ first``."""
    a, b = second[:4] / np.linalg.norm(second[:4]), first[:4] / np.linalg.norm(first[:4])
    rotation = np.concatenate([[a[0] * b[0] - a[1:] @ b[1:]], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])
    return np.concatenate([rotation, _rotation(a) @ first[4:] + second[4:]])


def _rotation(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def to_reconstruction(model: ModelRecords) -> Reconstruction:
    """The images, their cameras, and the points with their observations, of records that passed the check.

    All in the order of their numbers. 2D points without a 3D point are left out.
    """
    images = sorted(model.images, key=lambda image: image.identity)
    used = sorted({image.camera for image in images})
    by_identity = {camera.identity: camera for camera in model.cameras}
    cameras = [by_identity[identity] for identity in used]
    row = {identity: c for c, identity in enumerate(used)}
    params = np.zeros((len(cameras), max((len(camera.params) for camera in cameras), default=0)))
    for line, camera in zip(params, cameras, strict=True):
        line[: len(camera.params)] = camera.params
    order = np.argsort(model.points.identity, kind="stable")
    identity = model.points.identity[order]
    seen = [image.point != NO_POINT for image in images]
    named = _joined([image.point[keep] for image, keep in zip(images, seen, strict=True)], np.zeros(0, np.int64))
    poses = [np.column_stack([_rotation(image.pose[:4]), image.pose[4:]]) for image in images]
    return Reconstruction(
        cameras=Cameras(
            cam_from_world=torch.from_numpy(np.array(poses).reshape(1, -1, 3, 4)),
            models=tuple(str(camera.model) for camera in cameras),
            params=torch.from_numpy(params)[None],
            camera_index=torch.tensor([row[image.camera] for image in images], dtype=torch.long)[None],
            registered=torch.ones(1, len(images), dtype=torch.bool),
        ),
        names=tuple(image.name for image in images),
        sizes=torch.tensor(
            [(by_identity[image.camera].width, by_identity[image.camera].height) for image in images], dtype=torch.long
        ).reshape(-1, 2),
        xyz_world=torch.from_numpy(model.points.xyz[order]),
        color=torch.from_numpy(model.points.color[order].astype(np.float64) / 255),
        error_px=torch.from_numpy(model.points.error[order]),
        frame=torch.from_numpy(np.repeat(np.arange(len(images)), [int(keep.sum()) for keep in seen])),
        point=torch.from_numpy(np.searchsorted(identity, named)),
        xy=torch.from_numpy(
            _joined([image.xy[keep] for image, keep in zip(images, seen, strict=True)], np.zeros((0, 2)))
        ),
    )


def _joined(
    parts: list[Shaped[np.ndarray, "_ ..."]], nothing: Shaped[np.ndarray, "0 ..."]
) -> Shaped[np.ndarray, "_ ..."]:
    return np.concatenate(parts) if parts else nothing


def _among(values: Int[np.ndarray, " n"], ordered: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " n"]:
    """Which values are among others, which are sorted."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return ordered[place] == values


def _usable(values: Float[np.ndarray, "..."]) -> bool:
    return bool(np.isfinite(values).all() and (np.abs(values) <= LARGEST).all())


def _posable(pose: Pose) -> bool:
    return _usable(pose) and bool(np.linalg.norm(pose[:4]) >= NO_ROTATION)


def _named(points: PointRecords, which: Bool[np.ndarray, " n"]) -> list[str]:
    return [f"point {identity}" for identity in points.identity[which].tolist()]


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return bool(name)
