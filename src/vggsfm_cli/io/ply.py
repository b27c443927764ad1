"""Point clouds as PLY files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

HEADER = """\
ply
format binary_little_endian 1.0
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def write_ply(path: Path, xyz: Float[Tensor, "N 3"], color: Float[Tensor, "N 3"]) -> None:
    """Write points with colours in [0, 1] as binary PLY: float positions, 8-bit colours."""
    vertices = np.empty(len(xyz), dtype=[("xyz", "<f4", 3), ("color", "u1", 3)])
    vertices["xyz"] = xyz.detach().cpu().numpy()
    vertices["color"] = (color.detach().cpu().double().numpy() * 255).round().clip(0, 255)
    path.write_bytes(HEADER.format(count=len(xyz)).encode() + vertices.tobytes())
