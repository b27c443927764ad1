"""Laser scans: point clouds in PLY files, and where MeshLab's project file places them."""

from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.errors import InputError

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
"""NumPy's name, without byte order, of every type that PLY knows."""

BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def read_points(path: Path) -> Float[Tensor, "N 3"]:
    """Positions of the vertices of a PLY file, binary or text; everything else in it is left out.

    Raises:
        InputError: the file is missing, truncated or no PLY file with x, y and z.
    """
    try:
        with path.open("rb") as file:
            kind, count, fields = _header(file)
            if kind == "ascii":
                rows = np.loadtxt(file, max_rows=count, ndmin=2) if count else np.zeros((0, len(fields)))
                names = [name for name, _ in fields]
                xyz = np.stack([rows[:, names.index(axis)] for axis in "xyz"], -1)
            else:
                layout = np.dtype([(name, BYTE_ORDERS[kind] + PLY_TYPES[of]) for name, of in fields])
                vertices = np.fromfile(file, dtype=layout, count=count)
                xyz = np.stack([vertices[axis].astype(np.float32) for axis in "xyz"], -1)
        if len(xyz) != count:
            raise ValueError(f"it holds {len(xyz)} of {count} vertices")
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror or error}.", "Is the scan complete?"
        ) from error
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{str(path)!r} is no PLY file that can be read: {error}", "Is the scan complete?") from error
    return torch.from_numpy(np.ascontiguousarray(xyz, dtype=np.float32))


def _header(file: BinaryIO) -> tuple[str, int, list[tuple[str, str]]]:
    """Format, number of vertices, and name and type of each property of a vertex."""
    if file.readline().strip() != b"ply":
        raise ValueError("it does not start with 'ply'")
    kind, count, element = "", 0, ""
    fields: list[tuple[str, str]] = []
    for line in file:
        words = line.decode("ascii").split()
        if words[:1] == ["end_header"]:
            break
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            if words[1] != "vertex" and not fields:
                raise ValueError(f"its first element is {words[1]!r}, not 'vertex'")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            fields.append((words[2], words[1]))
    if kind not in BYTE_ORDERS or not {"x", "y", "z"} <= {name for name, _ in fields}:
        raise ValueError("its header names no known format, or no x, y and z")
    return kind, count, fields


def read_alignment(path: Path) -> list[tuple[Path, Float[Tensor, "4 4"]]]:
    """The scans of a MeshLab project (``.mlp``), each with ``world_from_scan``, in double precision.

    Raises:
        InputError: the file is missing or damaged, or lists no scan.
    """
    try:
        meshes = list(ElementTree.parse(path).getroot().iter("MLMesh"))
        scans = []
        for mesh in meshes:
            values = [float(value) for value in (mesh.findtext("MLMatrix44") or "").split()]
            scans.append(
                (path.parent / mesh.attrib["filename"], torch.tensor(values, dtype=torch.float64).reshape(4, 4))
            )
    except (OSError, ElementTree.ParseError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error}", "It should be MeshLab's project of the scans."
        ) from error
    if not scans:
        raise InputError(f"{str(path)!r} lists no scan.", "It should be MeshLab's project of the scans.")
    return scans
