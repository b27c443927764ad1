"""Spreading the gap of a closed loop over the keyframes in between: least squares over relative similarities.

Strasdat, Montiel & Davison, "Scale drift-aware large scale monocular SLAM", RSS 2010: a chain of monocular windows
drifts in scale too, so every keyframe is a similarity and not only a pose.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import TensorRecord

UNKNOWNS = 7
STEP = 1e-6
"""Of the central differences, which are exact enough for residuals that are nearly linear in each update."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarities(TensorRecord):
    """Maps ``scale R x + t``, in double precision."""

    scale: Float[Tensor, " n"]
    rotation: Float[Tensor, "n 3 3"]
    translation: Float[Tensor, "n 3"]

    def __getitem__(self, index: Int[Tensor, " m"]) -> "Similarities":
        return self._map(lambda values: values[index])

    def after(self, other: "Similarities") -> "Similarities":
        """First ``other``, then this."""
        moved = (self.rotation @ other.translation[..., None]).squeeze(-1)
        return Similarities(
            scale=self.scale * other.scale,
            rotation=self.rotation @ other.rotation,
            translation=self.scale[:, None] * moved + self.translation,
        )

    def inverse(self) -> "Similarities":
        """The inverse transform."""
        turned = (self.rotation.mT @ self.translation[..., None]).squeeze(-1)
        return Similarities(scale=1 / self.scale, rotation=self.rotation.mT, translation=-turned / self.scale[:, None])

    def of(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """One point through each."""
        return self.scale[:, None] * (self.rotation @ xyz[..., None]).squeeze(-1) + self.translation

    def updated(self, update: Float[Tensor, "n 7"]) -> "Similarities":
        """After small ones: rotation vector, translation, logarithm of the scale."""
        small = Similarities(scale=update[:, 6].exp(), rotation=rotation.exp(update[:, :3]), translation=update[:, 3:6])
        return small.after(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edges(TensorRecord):
    """Measured relative similarities: ``measured`` maps what node ``first`` has into what node ``second`` has.

    ``spread`` is the standard deviation of rotation (radians), translation and logarithm of the scale.
    """

    first: Int[Tensor, " m"]
    second: Int[Tensor, " m"]
    measured: Similarities
    spread: Float[Tensor, "m 7"]


def residuals(nodes: Similarities, edges: Edges) -> Float[Tensor, "m 7"]:
    """By how far each edge is missed, in standard deviations."""
    return _residuals(nodes[edges.first], nodes[edges.second], edges)


def _residuals(first: Similarities, second: Similarities, edges: Edges) -> Float[Tensor, "m 7"]:
    gap = edges.measured.after(first).after(second.inverse())
    return torch.cat([rotation.log(gap.rotation), gap.translation, gap.scale.log()[:, None]], -1) / edges.spread


def relax(nodes: Similarities, edges: Edges, iterations: int = 15, tolerance: float = 1e-6) -> Similarities:
    """Nodes that miss the edges least, by Gauss-Newton with a little damping; the first node stays."""
    count = len(nodes.scale)
    cost, damping = float(residuals(nodes, edges).square().sum()), 1e-6
    for _ in range(iterations):
        normal, gradient = _normal_equations(nodes, edges, count)
        diagonal = normal.diagonal()
        diagonal += damping * diagonal + 1e-12
        step = torch.linalg.solve(normal[UNKNOWNS:, UNKNOWNS:], -gradient[UNKNOWNS:])
        update = torch.cat([step.new_zeros(UNKNOWNS), step]).reshape(count, UNKNOWNS)
        moved = nodes.updated(update)
        new = float(residuals(moved, edges).square().sum())
        if not new < cost:
            damping = max(damping, 1e-6) * 100
            continue
        fall, nodes, cost, damping = cost - new, moved, new, damping / 10
        if fall < tolerance * (cost + tolerance):
            break
    return nodes


def _normal_equations(
    nodes: Similarities, edges: Edges, count: int
) -> tuple[Float[Tensor, "u u"], Float[Tensor, " u"]]:
    first, second = nodes[edges.first], nodes[edges.second]
    value = _residuals(first, second, edges)
    by_first, by_second = [], []
    for k in range(UNKNOWNS):
        shift = torch.zeros(len(value), UNKNOWNS, dtype=value.dtype)
        shift[:, k] = STEP
        by_first.append(
            _residuals(first.updated(shift), second, edges) - _residuals(first.updated(-shift), second, edges)
        )
        by_second.append(
            _residuals(first, second.updated(shift), edges) - _residuals(first, second.updated(-shift), edges)
        )
    slopes = [torch.stack(columns, -1) / (2 * STEP) for columns in (by_first, by_second)]
    ends = (edges.first, edges.second)
    blocks = value.new_zeros(count, count, UNKNOWNS, UNKNOWNS)
    gradient = value.new_zeros(count, UNKNOWNS)
    for slope, end in zip(slopes, ends, strict=True):
        gradient.index_add_(0, end, (slope.mT @ value[..., None]).squeeze(-1))
        for other, far in zip(slopes, ends, strict=True):
            blocks.index_put_((end, far), slope.mT @ other, accumulate=True)
    return blocks.transpose(1, 2).reshape(count * UNKNOWNS, -1).clone(), gradient.flatten()
