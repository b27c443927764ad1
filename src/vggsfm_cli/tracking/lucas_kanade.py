"""Sub-pixel refinement on patches of the original photographs: inverse-compositional affine Lucas-Kanade.

The geometric counterpart of VGGSfM's fine tracker (Sec. 3.1), behind the same door. Follows Baker & Matthews,
"Lucas-Kanade 20 years on" (IJCV 2004): the derivative is that of the template, so its inverse is computed once a level.
Gain and bias of the brightness are unknowns of the same least squares.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample


@dataclass(frozen=True, kw_only=True)
class LucasKanadeConfig:
    """Settings of the sub-pixel refinement; lengths are pixels of the pyramid level."""

    levels: int = 3  # each has half the size of the one before
    max_scale: float = 2.0  # photographs finer than so many pixels a network pixel are halved first
    radius: int = 7  # patches are (2 radius + 1) squared
    iterations: tuple[int, ...] = (6, 5, 5)  # for each level, finest first
    max_step_px: float = 2.0  # longest move in one iteration
    max_drift_px: float = 10.0  # farthest from the start, network pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """Refined positions of K patches.

    Attributes:
        xy: stored pixels.
        covariance: squared stored pixels, from the curvature of the match and what is left of the residual.
        correlation: normalised cross correlation of the two patches at the end, -1 to 1.
        unexplained: brightness variance of the template that the aligned patch does not explain.
        affinity: offsets in pixels of the query's level to offsets in pixels of this frame's level.
        patches: template and aligned patch of the finest level, then of the coarsest.
    """

    xy: Float[Tensor, "K 2"]
    covariance: Float[Tensor, "K 2 2"]
    correlation: Float[Tensor, " K"]
    unexplained: Float[Tensor, " K"]
    affinity: Float[Tensor, "K 2 2"]
    patches: Float[Tensor, "K 4 P"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pyramid:
    """Brightness of one photograph in several sizes.

    Attributes:
        levels: finest first.
        halvings: how often the photograph was halved before the first level; pixel ``xy`` of the file is at
            ``xy / 2 ** (halvings + i)`` in level ``i`` (corner origin).
    """

    levels: tuple[Float[Tensor, "1 1 _ _"], ...]
    halvings: int

    def scale(self, i: int) -> float:
        """Stored pixels per pixel of level ``i``."""
        return float(2 ** (self.halvings + i))


def make_pyramid(grey: Float[Tensor, "H W"], pixel_scale: float, config: LucasKanadeConfig, halved: int = 0) -> Pyramid:
    """The photograph and its halves, each smoothed before it is halved; pixel centres stay where they are.

    Args:
        grey: brightness at stored size, or halved already.
        pixel_scale: stored pixels per network pixel.
        config: settings.
        halved: how often ``grey`` was halved.
    """
    halvings = halved
    finest = grey[None, None]
    while pixel_scale / 2**halvings > config.max_scale:
        finest = _halve(finest)
        halvings += 1
    levels = [finest]
    while len(levels) < config.levels:
        levels.append(_halve(levels[-1]))
    return Pyramid(levels=tuple(levels), halvings=halvings)


def _halve(finer: Float[Tensor, "1 1 _ _"]) -> Float[Tensor, "1 1 _ _"]:
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=finer.dtype, device=finer.device) / 8
    padded = functional.pad(finer, (1, 1 + finer.shape[-1] % 2, 1, 1 + finer.shape[-2] % 2), mode="replicate")
    rows = functional.conv2d(padded, kernel[None, None, None], stride=(1, 2))
    return functional.conv2d(rows, kernel[None, None, :, None], stride=(2, 1))


def _window(
    xy: Float[Tensor, "K 2"], affinity: Float[Tensor, "K 2 2"], offsets: Float[Tensor, "P 2"]
) -> Float[Tensor, "K P 2"]:
    """Positions ``xy + affinity @ offset``, written out: a batched product of 2 x 2 matrices is far slower."""
    x, y = offsets.unbind(-1)
    columns = [xy[:, i, None] + affinity[:, i, 0, None] * x + affinity[:, i, 1, None] * y for i in range(2)]
    return torch.stack(columns, -1)


def _offsets(radius: int, like: Tensor) -> Float[Tensor, "P 2"]:
    line = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([columns, rows], -1).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Templates:
    """Patches around queries of one frame at one level, with what the iterations need of them.

    Attributes:
        values: brightness, ``[Q P]``.
        step: maps a residual to the update (2 x 2 linear part row by row, then translation, gain, bias), ``[Q 8 P]``.
        spread: covariance of the translation for unit noise of the brightness, ``[Q 2 2]``.
    """

    values: Float[Tensor, "Q P"]
    step: Float[Tensor, "Q 8 P"]
    spread: Float[Tensor, "Q 2 2"]

    def select(self, chosen: Int[Tensor, " K"]) -> "Templates":
        """Some of the templates."""
        return Templates(values=self.values[chosen], step=self.step[chosen], spread=self.spread[chosen])


def make_templates(level: Float[Tensor, "1 1 h w"], xy: Float[Tensor, "Q 2"], radius: int) -> Templates:
    """Cut patches of one pyramid level around ``xy`` (pixels of that level) and prepare their least squares."""
    side = 2 * radius + 3
    wide = sample(level, (xy[:, None] + _offsets(radius + 1, xy))[None])[0, ..., 0].reshape(-1, side, side)
    values = wide[:, 1:-1, 1:-1].flatten(1)
    gradient_x = (0.5 * (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2])).flatten(1)
    gradient_y = (0.5 * (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1])).flatten(1)
    offsets = _offsets(radius, xy)
    weight = torch.exp(-0.5 * offsets.square().sum(-1) / (0.6 * radius) ** 2)
    x, y = offsets.unbind(-1)
    ones = torch.ones_like(values)
    jacobian = torch.stack(
        [gradient_x * x, gradient_x * y, gradient_y * x, gradient_y * y, gradient_x, gradient_y, values, ones], -1
    )
    weighted = jacobian * weight[:, None]
    normal = weighted.mT @ jacobian
    # a pull on the linear part and the gain keeps flat and line-like patches defined
    contrast = (gradient_x.square() + gradient_y.square()).mean(-1).clamp(min=1e-8) * weight.sum()
    damping = torch.tensor([2.0, 2.0, 2.0, 2.0, 1e-4, 1e-4, 0.0, 0.0], dtype=xy.dtype, device=xy.device)
    damping = contrast[:, None] * damping
    damping[:, 6:] = 1e-3 * weight.sum()
    inverse = torch.linalg.inv(normal + torch.diag_embed(damping))
    return Templates(values=values, step=inverse @ weighted.mT, spread=inverse[:, 4:6, 4:6])


def align(
    templates: Templates,
    level: Float[Tensor, "1 1 h w"],
    xy: Float[Tensor, "K 2"],
    affinity: Float[Tensor, "K 2 2"],
    config: LucasKanadeConfig,
    iterations: int,
) -> tuple[Float[Tensor, "K 2"], Float[Tensor, "K 2 2"]]:
    """Move ``xy`` and ``affinity`` until the warped patch of ``level`` looks like the template; all in level pixels."""
    offsets = _offsets(config.radius, xy)
    for _ in range(iterations):
        residual = sample(level, _window(xy, affinity, offsets)[None])[0, ..., 0] - templates.values
        update = torch.bmm(templates.step, residual[..., None]).squeeze(-1)
        change = torch.eye(2, dtype=xy.dtype, device=xy.device) + update[:, :4].unflatten(-1, (2, 2)).clamp(-0.3, 0.3)
        affinity = affinity @ torch.linalg.inv(change)
        move = -(affinity @ update[:, 4:6, None]).squeeze(-1)
        length = move.norm(dim=-1, keepdim=True)
        xy = xy + move * (config.max_step_px / length.clamp(min=config.max_step_px))
    return xy, affinity


def compare(
    template: Float[Tensor, "K P"], found: Float[Tensor, "K P"], radius: int
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """Correlation of aligned patches with their templates, and the brightness variance that stays unexplained."""
    offsets = _offsets(radius, found)
    weight = torch.exp(-0.5 * offsets.square().sum(-1) / (0.6 * radius) ** 2)
    weight = weight / weight.sum()
    a = template - (template @ weight)[:, None]
    b = found - (found @ weight)[:, None]
    energy_a, energy_b = a.square() @ weight, b.square() @ weight
    correlation = (a * b) @ weight / (energy_a * energy_b).clamp(min=1e-10).sqrt()
    return correlation, energy_a * (1 - correlation.clamp(0, 1).square())


def refine(
    templates: list[Templates],
    target: Pyramid,
    xy: Float[Tensor, "K 2"],
    affinity: Float[Tensor, "K 2 2"],
    config: LucasKanadeConfig,
) -> Refined:
    """Refine from the coarsest level to the finest.

    Args:
        templates: of each level, finest first; cut from pyramids whose ``halvings`` may differ from the target's.
        target: the other frame.
        xy: start, stored pixels of the other frame.
        affinity: start, offsets in pixels of the templates' level to offsets in pixels of the target's same level.
        config: settings.
    """
    for i in reversed(range(config.levels)):
        scale = target.scale(i)
        moved, affinity = align(templates[i], target.levels[i], xy / scale, affinity, config, config.iterations[i])
        xy = moved * scale
    finest = target.scale(0)
    offsets = _offsets(config.radius, xy)
    patches = []
    for i in (0, config.levels - 1):
        window = _window(xy / target.scale(i), affinity, offsets)
        patches += [templates[i].values, sample(target.levels[i], window[None])[0, ..., 0]]
    correlation, unexplained = compare(patches[0], patches[1], config.radius)
    noise = unexplained.clamp(min=1e-6)[:, None, None]
    covariance = finest**2 * affinity @ (templates[0].spread * noise) @ affinity.mT
    return Refined(
        xy=xy,
        covariance=covariance,
        correlation=correlation,
        unexplained=unexplained,
        affinity=affinity,
        patches=torch.stack(patches, 1),
    )
