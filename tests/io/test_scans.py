"""Scans as they are published: PLY in its three formats, MeshLab's project beside them."""

import numpy as np
import pytest
import torch

from vggsfm_cli.errors import InputError
from vggsfm_cli.io.ply import write_ply
from vggsfm_cli.io.scans import read_alignment, read_points

XYZ = np.array([[0.5, -1.25, 2.0], [3.0, 4.0, 5.5], [1e-3, 0.0, -7.0]], dtype=np.float32)
PROJECT = """<!DOCTYPE MeshLabDocument>
<MeshLabProject>
 <MeshGroup>
  <MLMesh label="scan1.ply" filename="scan1.ply">
   <MLMatrix44>
0 -1 0 2.5
1 0 0 -1
0 0 1 0.25
0 0 0 1
</MLMatrix44>
  </MLMesh>
  <MLMesh label="scan2.ply" filename="sub/scan2.ply"><MLMatrix44>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</MLMatrix44></MLMesh>
 </MeshGroup>
 <RasterGroup/>
</MeshLabProject>
"""


def header(kind, properties, count=3, extra=""):
    lines = "".join(f"property {line}\n" for line in properties)
    return f"ply\nformat {kind} 1.0\ncomment made by hand\nelement vertex {count}\n{lines}{extra}end_header\n".encode()


@pytest.mark.parametrize(("kind", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_binary_points_among_other_properties(tmp_path, kind, order):
    layout = np.dtype([("r", "u1"), ("z", order + "f8"), ("x", order + "f4"), ("y", order + "f4"), ("i", order + "i2")])
    rows = np.zeros(len(XYZ), dtype=layout)
    for name, values in zip("xyz", XYZ.T, strict=True):
        rows[name] = values
    properties = ["uchar r", "double z", "float x", "float32 y", "short i"]
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    path = tmp_path / "scan.ply"
    path.write_bytes(header(kind, properties, extra=faces) + rows.tobytes() + bytes(13))
    assert torch.equal(read_points(path), torch.from_numpy(XYZ))


def test_text_and_our_own_files(tmp_path):
    path = tmp_path / "scan.ply"
    lines = "".join(f"{x} {y} {z} 7\n" for x, y, z in XYZ.tolist())
    path.write_bytes(header("ascii", ["float x", "float y", "float z", "uchar red"]) + lines.encode())
    assert torch.equal(read_points(path), torch.from_numpy(XYZ))
    write_ply(path, torch.from_numpy(XYZ), torch.rand(3, 3))
    assert torch.equal(read_points(path), torch.from_numpy(XYZ))
    path.write_bytes(header("ascii", ["float x", "float y", "float z"], count=0))
    assert read_points(path).shape == (0, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a scan",
        header("binary_little_endian", ["float x", "float y", "float z"]) + XYZ.tobytes()[:-1],
        header("binary_little_endian", ["float x", "float y"]) + bytes(24),
        header("binary_little_endian", ["strange x", "float y", "float z"]) + XYZ.tobytes(),
        header("zipped", ["float x", "float y", "float z"]) + XYZ.tobytes(),
        b"ply\nformat ascii 1.0\nelement face 3\nelement vertex 3\nproperty float x\nend_header\n",
        b"ply\nformat ascii 1.0\nelement vertex many\n",
    ],
)
def test_damaged_scans_are_named(tmp_path, content):
    path = tmp_path / "scan.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.ply"):
        read_points(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "absent.ply")


def test_the_project_places_the_scans(tmp_path):
    path = tmp_path / "scan_alignment.mlp"
    path.write_text(PROJECT)
    (first, pose), (second, identity) = read_alignment(path)
    assert (first, second) == (tmp_path / "scan1.ply", tmp_path / "sub" / "scan2.ply")
    assert (pose @ torch.tensor([1.0, 0, 0, 1]).double()).tolist() == [2.5, 0.0, 0.25, 1.0]
    assert torch.equal(identity, torch.eye(4).double())


@pytest.mark.parametrize(
    "content", ["", "<a>", "<MeshLabProject/>", PROJECT.replace("2.5", ""), PROJECT.replace("filename", "f")]
)
def test_damaged_projects_are_named(tmp_path, content):
    path = tmp_path / "scan_alignment.mlp"
    path.write_text(content)
    with pytest.raises(InputError, match=r"scan_alignment\.mlp"):
        read_alignment(path)
