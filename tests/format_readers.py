"""Readers of the exported files that share nothing with the package, written from the published format descriptions.

COLMAP's documentation, "Output format" (binary and text models); nerfstudio's "Data conventions"; instant-ngp's
"Tips for training NeRF models"; the PLY format. Projection is OpenCV's, whose pixels count from the
centre of the first.
"""

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np

COLMAP_MODELS = {0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5),
                 4: ("OPENCV", 8), 5: ("OPENCV_FISHEYE", 8)}  # fmt: skip


def read_binary(folder: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Cameras, images and points of ``cameras.bin``, ``images.bin`` and ``points3D.bin``, by their ids."""
    cameras, images, points = {}, {}, {}
    data = _Bytes(folder / "cameras.bin")
    for _ in range(data.take("<Q")[0]):
        number, model, width, height = data.take("<iiQQ")
        name, count = COLMAP_MODELS[model]
        cameras[number] = (name, width, height, np.array(data.take(f"<{count}d")))
    data.end()
    data = _Bytes(folder / "images.bin")
    for _ in range(data.take("<Q")[0]):
        number, *pose, camera = data.take("<i7di")
        name = data.text()
        seen = [data.take("<ddq") for _ in range(data.take("<Q")[0])]
        images[number] = (name, camera, np.array(pose[:4]), np.array(pose[4:]), seen)
    data.end()
    data = _Bytes(folder / "points3D.bin")
    for _ in range(data.take("<Q")[0]):
        number, x, y, z, r, g, b, error = data.take("<Q3d3Bd")
        track = [data.take("<ii") for _ in range(data.take("<Q")[0])]
        points[number] = (np.array([x, y, z]), (r, g, b), error, track)
    data.end()
    return cameras, images, points


class _Bytes:
    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        text, self.at = self.data[self.at : end].decode(), end + 1
        return text

    def end(self) -> None:
        assert self.at == len(self.data), "bytes are left over"


def read_text(folder: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """The same of ``cameras.txt``, ``images.txt`` and ``points3D.txt``."""
    cameras, images, points = {}, {}, {}
    for line in _lines(folder / "cameras.txt"):
        number, name, width, height, *params = line.split()
        cameras[int(number)] = (name, int(width), int(height), np.array(params, dtype=float))
    lines = _lines(folder / "images.txt")
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        number, *pose, camera = first.split()[:9]
        values = second.split()
        seen = [(float(x), float(y), int(p)) for x, y, p in zip(values[::3], values[1::3], values[2::3], strict=True)]
        pose = np.array(pose, dtype=float)
        images[int(number)] = (first.split(maxsplit=9)[9], int(camera), pose[:4], pose[4:], seen)
    for line in _lines(folder / "points3D.txt"):
        number, x, y, z, r, g, b, error, *track = line.split()
        points[int(number)] = (
            np.array([x, y, z], dtype=float),
            (int(r), int(g), int(b)),
            float(error),
            list(zip(map(int, track[::2]), map(int, track[1::2]), strict=True)),
        )
    return cameras, images, points


def _lines(path: Path) -> list[str]:
    lines = path.read_text().split("\n")
    assert lines[-1] == ""
    return [line for line in lines[:-1] if not line.startswith("#")]


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and 8-bit colours of a binary PLY file."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(name, kinds[kind]) for _, kind, name in (line.split() for line in lines if line.startswith("property"))]
    vertices = np.frombuffer(body, dtype=fields)
    assert len(vertices) == count
    return (
        np.stack([vertices[axis] for axis in "xyz"], -1),
        np.stack([vertices[name] for name in ("red", "green", "blue")], -1),
    )


def colmap_errors(model: tuple[dict[int, Any], dict[int, Any], dict[int, Any]]) -> np.ndarray:
    """Pixels between every observation and its point's projection; tracks and images must name each other."""
    cameras, images, points = model
    errors = []
    for number, (xyz, _, _, track) in points.items():
        for image, index in track:
            _, camera, quaternion, translation, seen = images[image]
            x, y, point = seen[index]
            assert point == number
            name, _, _, params = cameras[camera]
            rotation = _rotation(quaternion)
            errors.append(np.hypot(*(project(name, params, rotation @ xyz + translation) - (x, y))))
    observed = sum(point != -1 for *_, seen in images.values() for *_, point in seen)
    assert observed == len(errors)
    return np.array(errors)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, v = quaternion[0], quaternion[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def project(name: str, params: np.ndarray, xyz_cam: np.ndarray) -> np.ndarray:
    """Pixels, corner origin, of a point in the axes of OpenCV; COLMAP's parameters."""
    p = list(params)
    if name.startswith("SIMPLE") or name == "RADIAL":
        p = [p[0], *p]
    k = np.array([[p[0], 0, p[2]], [0, p[1], p[3]], [0, 0, 1.0]])
    distortion = np.zeros(4)
    distortion[: len(p) - 4] = p[4:]
    return opencv_project(k, distortion, xyz_cam, fisheye=name == "OPENCV_FISHEYE")


def opencv_project(k: np.ndarray, distortion: np.ndarray, xyz_cam: np.ndarray, *, fisheye: bool) -> np.ndarray:
    none = np.zeros(3)
    point = xyz_cam.reshape(1, 1, 3)
    if fisheye:
        return cv2.fisheye.projectPoints(point, none, none, k, distortion)[0].reshape(2)
    return cv2.projectPoints(point, none, none, k, distortion)[0].reshape(2)


class Transforms:
    """``transforms.json``: OpenGL cameras, intrinsics at the top or in each frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = json.loads((folder / "transforms.json").read_text())
        self.frames = {frame["file_path"]: frame for frame in self.content["frames"]}

    def intrinsics(self, path: str) -> dict[str, Any]:
        return {**self.content, **self.frames[path]}

    def to_camera(self, path: str, xyz_world: np.ndarray) -> np.ndarray:
        """In the axes of OpenCV: OpenGL's cameras look along -z and have y up."""
        world_from_cam = np.array(self.frames[path]["transform_matrix"])
        assert world_from_cam.shape == (4, 4) and np.allclose(world_from_cam[3], [0, 0, 0, 1])
        assert np.allclose(world_from_cam[:3, :3] @ world_from_cam[:3, :3].T, np.eye(3), atol=1e-9)
        opengl = np.linalg.inv(world_from_cam) @ np.append(xyz_world, 1)
        return opengl[:3] * np.array([1, -1, -1])

    def project(self, path: str, xyz_world: np.ndarray, *, fisheye: bool) -> np.ndarray:
        values = self.intrinsics(path)
        k = np.array([[values["fl_x"], 0, values["cx"]], [0, values["fl_y"], values["cy"]], [0, 0, 1.0]])
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
        return opencv_project(
            k, np.array([values[name] for name in names]), self.to_camera(path, xyz_world), fisheye=fisheye
        )
