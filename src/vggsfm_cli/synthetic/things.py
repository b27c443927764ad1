"""Painted things that scenes are furnished with: objects, houses, pictures on walls. Units are metres, roughly."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.synthetic import shapes
from vggsfm_cli.synthetic.dice import Dice
from vggsfm_cli.synthetic.shapes import Patches
from vggsfm_cli.synthetic.surfaces import Paint

Part = tuple[Patches, Paint]
"""Patches that share a paint."""


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What a layout has to work with.

    Attributes:
        dice: random numbers.
        frames: number of cameras.
        focal: in widths of the picture.
        spread: angle between the outermost directions, in radians.
        width: of the picture in pixels.
        pictures: number of textures.
        side: of the textures in texels.
    """

    dice: Dice
    frames: int
    focal: float
    spread: float
    width: int
    pictures: int
    side: int


def at(x: int | float, y: int | float, z: int | float) -> Float[Tensor, "3"]:
    """A position."""
    return torch.tensor([x, y, z], dtype=torch.float64)


def paint(brief: Brief, distance: float, glossy: float = 0.3, calm: bool = False) -> Paint:
    """A random paint whose texels are about as large as pixels at ``distance``; ``calm`` repeats it less often."""
    dice = brief.dice
    full = brief.side * distance / (brief.focal * brief.width)
    grey = dice.uniform(0.75, 1.15)
    red, green, blue = (grey * (1 + dice.normal(0.05)) for _ in range(3))
    return Paint(
        texture=(dice.whole(0, brief.pictures - 1), dice.whole(0, brief.pictures - 1)),
        size=(full * dice.scale(0.7 if calm else 0.3, 1.6), full * dice.scale(1.5, 5)),
        turn=dice.pick([0.0, 0.0, math.pi / 2, dice.angle()]),
        shift=(dice.uniform(0, 1), dice.uniform(0, 1)),
        mirror=(dice.chance(0.6), True),
        tint=(red, green, blue),
        mix=dice.uniform(0, 0.9) * dice.uniform(0, 1),
        gloss=dice.uniform(0, 0.7) if dice.chance(glossy) else 0.0,
        shininess=dice.scale(6, 80),
    )


def fitted(patches: Patches) -> Patches:
    """Each patch shows the picture once: corner top left, ``edge_u`` down, ``edge_v`` to the right."""
    once = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    return dataclasses.replace(patches, surface=once.expand(len(patches), 3, 2))


def picture(brief: Brief, glossy: float = 0.3) -> Paint:
    """Paint for ``fitted`` patches: one picture, as it is."""
    dice = brief.dice
    return Paint(
        texture=(dice.whole(0, brief.pictures - 1), 0),
        size=(1.0, 1.0),
        gloss=dice.uniform(0, 0.7) if dice.chance(glossy) else 0.0,
        shininess=dice.scale(6, 80),
    )


def scaled(patches: Patches, factor: float) -> Patches:
    """The same shape in another size."""
    names = ("corner", "edge_u", "edge_v", "surface")
    return dataclasses.replace(patches, **{name: getattr(patches, name) * factor for name in names})


def thing(dice: Dice) -> Patches:
    """An object of about one metre that stands on the ground."""
    kind = dice.pick(["box", "box", "ball", "rock", "vase", "vase", "prism", "can", "step"])
    turn = shapes.about_vertical(dice.angle())
    if kind == "box":
        size = [dice.scale(0.35, 1.1) for _ in range(3)]
        return shapes.box(size).moved(at(0, -size[1] / 2, 0), turn)
    if kind == "step":
        low, high = dice.uniform(0.15, 0.4), dice.uniform(0.5, 1.0)
        sizes = torch.stack([at(1.0, low, 0.8), at(dice.uniform(0.2, 0.7), high, 0.6), at(0.3, high + 0.2, 0.25)])
        centers = torch.stack([torch.zeros(3).double(), dice.normals(3) * 0.08, dice.normals(3) * 0.15])
        centers[:, 1] = -sizes[:, 1] / 2
        return shapes.boxes(centers, sizes).moved(at(0, 0, 0), turn)
    if kind == "ball":
        axes = [dice.scale(0.3, 0.55) for _ in range(3)]
        return shapes.sphere(9, axes).moved(at(0, -0.97 * axes[1], 0), turn)
    if kind == "rock":
        axes = [dice.scale(0.3, 0.6) for _ in range(3)]
        waves = torch.cat([3 * dice.normals(5, 3), dice.uniforms(0.02, 0.12, 5, 1)], -1)
        return shapes.sphere(6, axes, waves, faceted=dice.chance(0.7)).moved(at(0, -0.9 * axes[1], 0), turn)
    height = dice.scale(0.5, 1.3)
    if kind == "vase":
        knots = dice.uniforms(0.1, 0.4, 5)
        profile = functional.interpolate(knots[None, None], 9, mode="linear", align_corners=True)[0, 0]
        radius = torch.cat([profile, 0.8 * profile[-1:], profile.new_zeros(1)])
        levels = torch.linspace(0, height, 9, dtype=torch.float64)
        levels = torch.cat([levels, torch.tensor([height, 0.95 * height], dtype=torch.float64)])
        return shapes.lathe(radius, levels, 20)
    return column(dice, dice.scale(0.15, 0.45), height, dice.whole(3, 8) if kind == "prism" else 20)


def column(dice: Dice, radius: float, height: float, sides: int) -> Patches:
    """An upright prism or cylinder with a lid, perhaps tapered."""
    profile = torch.tensor([radius, radius * dice.uniform(0.6, 1.0), 0.0], dtype=torch.float64)
    levels = torch.tensor([0.0, height, height], dtype=torch.float64)
    return shapes.lathe(profile, levels, sides, faceted=True).moved(at(0, 0, 0), shapes.about_vertical(dice.angle()))


def things(brief: Brief, count: int, reach: float, size: float, distance: float) -> list[Part]:
    """Objects on the ground around the origin, some standing on others."""
    dice = brief.dice
    parts: list[Part] = []
    for k in range(count):
        away, turn = reach * math.sqrt((k + dice.uniform(0, 1)) / count), dice.angle()
        scale = size * dice.scale(0.5, 1.3)
        base = dice.uniform(0.3, 0.8) * size if dice.chance(0.2) else 0.0
        place = at(away * math.cos(turn), -base, away * math.sin(turn))
        parts.append((scaled(thing(dice), scale).moved(place), paint(brief, distance)))
        if base > 0:
            foot = shapes.box((0.9 * scale, base, 0.9 * scale)).moved(place + at(0, base / 2, 0))
            parts.append((foot, paint(brief, distance)))
    return parts


def clear(parts: list[Part], centers: Float[Tensor, "S 3"], margin: float) -> list[Part]:
    """The parts that no camera stands in, or too close to."""
    kept = []
    for patches, its_paint in parts:
        corners = patches.vertices.flatten(0, 1)
        low, high = corners.amin(0) - margin, corners.amax(0) + margin
        if not bool(((centers > low) & (centers < high)).all(-1).any()):
            kept.append((patches, its_paint))
    return kept


def moved(parts: list[Part], offset: Float[Tensor, "3"], rotation: Float[Tensor, "3 3"] | None = None) -> list[Part]:
    """All parts turned about the origin, then shifted."""
    return [(patches.moved(offset, rotation), its_paint) for patches, its_paint in parts]


def house(brief: Brief, width: float, height: float, distance: float) -> list[Part]:
    """A front with windows, ledges and perhaps columns, in the plane z = 0, with the sides of the house behind it."""
    dice = brief.dice
    columns, rows = max(1, round(width / dice.uniform(1.4, 3))), max(1, round(height / dice.uniform(1.8, 3.2)))
    share = (dice.uniform(0.35, 0.65), dice.uniform(0.4, 0.7))
    front, sides, panes = _windowed(width, height, columns, rows, share, dice.scale(0.05, 0.6))
    walls = paint(brief, distance, 0.1, calm=True)
    body = shapes.box((width, height, 6.0)).moved(at(0, -height / 2, 3.0)).of(torch.tensor([0, 1, 2, 3]))
    parts = [(front, walls), (sides, walls), (body, walls), (fitted(panes), picture(brief, 0.8))]
    trim = paint(brief, distance, 0.1)
    for k in range(rows + 1):
        if dice.chance(0.5):
            ledge = shapes.box((width * 1.01, dice.uniform(0.08, 0.35), dice.uniform(0.1, 0.5)))
            parts.append((ledge.moved(at(0, -k * height / rows * 0.97 - 0.1, 0)), trim))
    if dice.chance(0.4):
        radius, tall = dice.uniform(0.12, 0.35), height * dice.uniform(0.3, 0.95)
        pillar = column(dice, radius, tall, dice.pick([4, 8, 16]))
        before = -dice.uniform(0.3, 1.2)
        places = torch.linspace(-width / 2, width / 2, columns + 1).tolist()
        parts.append((shapes.join([pillar.moved(at(x, 0, before)) for x in places]), trim))
    return parts


def _windowed(
    width: float, height: float, columns: int, rows: int, share: tuple[float, float], depth: float
) -> tuple[Patches, Patches, Patches]:
    """A wall from the ground up with recessed windows: the wall, the reveals, the panes."""
    x = _edges(-width / 2, width / 2, columns, share[0])
    y = _edges(-height, 0.0, rows, share[1])
    top, left = (part.flatten() for part in torch.meshgrid(y[:-1], x[:-1], indexing="ij"))
    tall, wide = (part.flatten() for part in torch.meshgrid(y.diff(), x.diff(), indexing="ij"))
    row = torch.arange(len(y) - 1)[:, None].expand(-1, len(x) - 1).flatten()
    place = torch.arange(len(x) - 1)[None].expand(len(y) - 1, -1).flatten()
    window = (row % 2 == 1) & (place % 2 == 1)
    zero = torch.zeros_like(top)
    corner, down, right = (
        torch.stack(part, -1) for part in ((left, top, zero), (zero, tall, zero), (wide, zero, zero))
    )
    into = at(0, 0, depth)
    panes = shapes.parallelograms(corner[window] + into, down[window], right[window])
    a, d, r = corner[window], down[window], right[window]
    deep = into.expand_as(a)
    reveals = [(a, deep, d), (a + r, d, deep), (a, r, deep), (a + d, deep, r)]
    sides = shapes.parallelograms(*(torch.cat([reveal[k] for reveal in reveals]) for k in range(3)))
    return shapes.parallelograms(corner[~window], down[~window], right[~window]), sides, panes


def _edges(low: float, high: float, count: int, share: float) -> Tensor:
    """Borders of ``count`` openings that take ``share`` of the length, at equal distances."""
    opening, gap = share * (high - low) / count, (1 - share) * (high - low) / (count + 1)
    steps = torch.tensor([gap, *([opening, gap] * count)], dtype=torch.float64)
    return low + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
