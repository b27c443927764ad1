"""Shapes made of flat patches: parallelograms and triangles, seen from the outside only.

The world's y axis points down, as a camera's. A patch is ``corner + u * edge_u + v * edge_v`` with u and v in [0, 1]
(for a triangle u + v <= 1 too); ``edge_u x edge_v`` points outward. Functions return shapes around the origin.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """Patches of one shape, in double precision on the CPU.

    Attributes:
        corner, edge_u, edge_v: where they are.
        triangle: half a parallelogram.
        normals: unit normal at the corner and its change along both edges (zero where flat).
        surface: position on the unrolled surface, in units of the world: at the corner, and change along both edges.
    """

    corner: Float[Tensor, "N 3"]
    edge_u: Float[Tensor, "N 3"]
    edge_v: Float[Tensor, "N 3"]
    triangle: Bool[Tensor, " N"]
    normals: Float[Tensor, "N 3 3"]
    surface: Float[Tensor, "N 3 2"]

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.corner)

    @property
    def vertices(self) -> Float[Tensor, "N 4 3"]:
        """Corners of each patch; the last one of a triangle is repeated."""
        far = torch.where(self.triangle[:, None], self.edge_u, self.edge_u + self.edge_v)
        zero = torch.zeros_like(far)
        return self.corner[:, None] + torch.stack([zero, self.edge_u, self.edge_v, far], 1)

    def moved(self, offset: Float[Tensor, "3"], rotation: Float[Tensor, "3 3"] | None = None) -> "Patches":
        """Turned about the origin, then shifted."""
        if rotation is None:
            return dataclasses.replace(self, corner=self.corner + offset)
        return dataclasses.replace(
            self,
            corner=self.corner @ rotation.mT + offset,
            edge_u=self.edge_u @ rotation.mT,
            edge_v=self.edge_v @ rotation.mT,
            normals=self.normals @ rotation.mT,
        )

    def of(self, chosen: Tensor) -> "Patches":
        """Some of the patches, by index or mask."""
        return Patches(**{item.name: getattr(self, item.name)[chosen] for item in dataclasses.fields(self)})


def join(parts: Sequence[Patches]) -> Patches:
    """All patches in one."""
    names = [item.name for item in dataclasses.fields(Patches)]
    return Patches(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def about_vertical(angle: float) -> Float[Tensor, "3 3"]:
    """Rotation about the world's y axis."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], dtype=torch.float64)


def parallelograms(corner: Float[Tensor, "N 3"], edge_u: Float[Tensor, "N 3"], edge_v: Float[Tensor, "N 3"]) -> Patches:
    """Flat patches, unrolled by the world's directions: upright pictures hang upright on walls."""
    normal = functional.normalize(torch.linalg.cross(edge_u, edge_v), dim=-1)
    level = normal[:, 1].abs() > 0.9  # noqa: PLR2004 (floors and ceilings, less than 26 degrees off)
    down = normal.new_tensor([0.0, 1.0, 0.0]).expand_as(normal)
    right = functional.normalize(torch.linalg.cross(normal, down), dim=-1)
    right = torch.where(level[:, None], normal.new_tensor([1.0, 0.0, 0.0]), right)
    along = torch.linalg.cross(right, normal)  # down the wall, or across the floor
    axes = torch.stack([right, along], 1)
    points = torch.stack([corner, edge_u, edge_v], 1)
    zero = torch.zeros_like(normal)
    return Patches(
        corner=corner,
        edge_u=edge_u,
        edge_v=edge_v,
        triangle=torch.zeros(len(corner), dtype=torch.bool),
        normals=torch.stack([normal, zero, zero], 1),
        surface=points @ axes.mT,
    )


def wall(left: int | float, top: int | float, right: int | float, bottom: int | float) -> Patches:
    """A rectangle in the plane z = 0 that is seen from negative z."""
    corner = torch.tensor([[left, top, 0.0]], dtype=torch.float64)
    edge_u = torch.tensor([[0.0, bottom - top, 0.0]], dtype=torch.float64)
    edge_v = torch.tensor([[right - left, 0.0, 0.0]], dtype=torch.float64)
    return parallelograms(corner, edge_u, edge_v)


def floor(half_x: int | float, half_z: int | float) -> Patches:
    """A rectangle in the plane y = 0 that is seen from above."""
    corner = torch.tensor([[-half_x, 0.0, -half_z]], dtype=torch.float64)
    edge_u = torch.tensor([[2 * half_x, 0.0, 0.0]], dtype=torch.float64)
    edge_v = torch.tensor([[0.0, 0.0, 2 * half_z]], dtype=torch.float64)
    return parallelograms(corner, edge_u, edge_v)


@functools.cache
def _unit_box() -> Float[Tensor, "3 6 3"]:
    """Corners and both edges of the faces of a box around the origin with edges of one."""
    eye = torch.eye(3, dtype=torch.float64)
    faces = []
    for axis in range(3):
        u, v = eye[(axis + 1) % 3], eye[(axis + 2) % 3]
        low, high = -(eye[axis] + u + v) / 2, (eye[axis] - u - v) / 2
        faces += [torch.stack([low, v, u]), torch.stack([high, u, v])]
    return torch.stack(faces, 1)


def box(size: Sequence[int | float], inward: bool = False) -> Patches:
    """A box around the origin, faces in the order -x, x, -y, y, -z, z; ``inward`` makes it a room."""
    corner, edge_u, edge_v = _unit_box() * torch.tensor(list(size), dtype=torch.float64)
    return parallelograms(corner, edge_v, edge_u) if inward else parallelograms(corner, edge_u, edge_v)


def boxes(centers: Float[Tensor, "K 3"], sizes: Float[Tensor, "K 3"]) -> Patches:
    """Many boxes, the faces of each in a row."""
    corner, edge_u, edge_v = _unit_box()[:, None] * sizes[:, None]
    return parallelograms(*((part).flatten(0, 1) for part in (corner + centers[:, None], edge_u, edge_v)))


def net(
    vertices: Float[Tensor, "*b I J 3"],
    surface: Float[Tensor, "*b I J 2"],
    normals: Float[Tensor, "*b I J 3"] | None = None,
) -> Patches:
    """Triangles between the knots of nets; ``d/di x d/dj`` points outward.

    Args:
        vertices: the knots.
        surface: their positions on the unrolled surface.
        normals: unit normals at the knots, for a look without edges.
    """
    corner, edge_u, edge_v = _halves(vertices)
    if normals is None:
        flat = functional.normalize(torch.linalg.cross(edge_u, edge_v), dim=-1)
        bend = torch.stack([flat, torch.zeros_like(flat), torch.zeros_like(flat)], 1)
    else:
        bend = torch.stack(_halves(normals), 1)
    return Patches(
        corner=corner,
        edge_u=edge_u,
        edge_v=edge_v,
        triangle=torch.ones(len(corner), dtype=torch.bool),
        normals=bend,
        surface=torch.stack(_halves(surface), 1),
    )


def _halves(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of both triangles of every mesh: the value at the corner, and its change along both edges."""
    near, right = values[..., :-1, :-1, :], values[..., 1:, :-1, :]
    below, far = values[..., :-1, 1:, :], values[..., 1:, 1:, :]
    corner = torch.stack([near, far])
    size = values.shape[-1]
    first, second = torch.stack([right, below]) - corner, torch.stack([below, right]) - corner
    return corner.reshape(-1, size), first.reshape(-1, size), second.reshape(-1, size)


def sphere(
    steps: int, stretch: Sequence[int | float], waves: Float[Tensor, "K 4"] | None = None, faceted: bool = False
) -> Patches:
    """A sphere over the faces of a cube, stretched to an ellipsoid.

    Args:
        steps: knots along the edge of a face.
        stretch: half axes.
        waves: bumps: three components of a wave vector and an amplitude each.
        faceted: flat patches with edges, as of a rock.
    """
    angle = torch.linspace(-math.pi / 4, math.pi / 4, steps + 1, dtype=torch.float64)
    alpha, beta = torch.meshgrid(angle, angle, indexing="ij")
    knots = torch.stack([torch.ones_like(alpha), alpha.tan(), beta.tan()], -1)
    _, edge_u, edge_v = _unit_box()
    axes_of_face = torch.stack([torch.linalg.cross(edge_u, edge_v), edge_u, edge_v], 1)
    direction = functional.normalize(knots.flatten(0, 1) @ axes_of_face, dim=-1).unflatten(1, knots.shape[:2])
    radius = torch.ones_like(direction[..., :1])
    if waves is not None:
        bumps = torch.sin(direction @ waves[:, :3].mT + waves[:, 0]) * waves[:, 3]
        radius = radius + bumps.sum(-1, keepdim=True)
    axes = torch.tensor(list(stretch), dtype=torch.float64)
    normals = None if faceted else functional.normalize(direction / axes, dim=-1)
    middles = 2 * torch.arange(6, dtype=torch.float64)[:, None, None, None]
    surface = float(axes.mean()) * (torch.stack([alpha, beta], -1) + middles)
    return net(direction * radius * axes, surface, normals)


def lathe(radius: Float[Tensor, " K"], height: Float[Tensor, " K"], sides: int, faceted: bool = False) -> Patches:
    """A body of revolution about the vertical, from a profile that starts at the foot; y is ``-height``."""
    angle = torch.arange(sides + 1, dtype=torch.float64) * 2 * math.pi / sides
    around = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    vertices = around[:, None] * radius[:, None] + height[:, None] * up
    steps = torch.stack([radius.diff(), height.diff()], -1).norm(dim=-1)
    along = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    surface = torch.stack(torch.broadcast_tensors(angle[:, None] * radius.max(), -along), -1)
    normals = None
    if not faceted:
        profile = torch.stack([height, -radius], -1)
        slope = torch.cat([profile[1:2] - profile[:1], profile[2:] - profile[:-2], profile[-1:] - profile[-2:-1]])
        slope = functional.normalize(slope, dim=-1)
        normals = around[:, None] * slope[:, :1] + slope[:, 1:] * up
    return net(vertices, surface, normals)


def terrain(heights: Float[Tensor, "I J"], half: float) -> Patches:
    """A height field over a square around the origin, seen from above."""
    x = torch.linspace(-half, half, heights.shape[0], dtype=torch.float64)
    z = torch.linspace(-half, half, heights.shape[1], dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(x, z, indexing="ij"), -1)
    vertices = torch.stack([plane[..., 0], -heights, plane[..., 1]], -1)
    slope_x, slope_z = torch.gradient(heights, spacing=(x, z))
    normals = functional.normalize(torch.stack([-slope_x, -torch.ones_like(slope_x), -slope_z], -1), dim=-1)
    return net(vertices, plane, normals)
