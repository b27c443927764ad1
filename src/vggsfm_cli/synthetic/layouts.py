"""Kinds of scenes: what stands where, and from where it is photographed. Units are metres, roughly."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import rotation, sampling
from vggsfm_cli.synthetic import shapes
from vggsfm_cli.synthetic.shapes import Patches
from vggsfm_cli.synthetic.things import (
    Brief,
    Part,
    at,
    clear,
    column,
    fitted,
    house,
    moved,
    paint,
    picture,
    scaled,
    thing,
    things,
)


class Layout(StrEnum):
    """What is photographed."""

    FACADE = "facade"  # a building with windows, ledges and columns
    ROOM = "room"  # a corner of a room with furniture and pictures
    TABLETOP = "tabletop"  # several objects on the ground
    TURNTABLE = "turntable"  # an object on black, from all around
    TERRAIN = "terrain"  # land with houses and trees, from above
    STREET = "street"  # forward between two rows of houses
    POSTER = "poster"  # one plane with a picture: pairs of frames are homographies
    CLUTTER = "clutter"  # things in the air before walls
    WALK = "walk"  # a film: along a street around a block, and back to the start if there are enough frames


class Ambience(StrEnum):
    """Where the light comes from."""

    OUTDOORS = "outdoors"
    INDOORS = "indoors"
    STUDIO = "studio"  # black around, the lamp often fixed to the camera


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A scene and its cameras.

    Attributes:
        parts: painted shapes.
        centers, targets: of the cameras.
        ambience: its light.
        azimuth: of the middle camera, as ``toward`` counts it.
    """

    parts: list[Part]
    centers: Float[Tensor, "S 3"]
    targets: Float[Tensor, "S 3"]
    ambience: Ambience
    azimuth: float


def toward(azimuth: Float[Tensor, "*n"], elevation: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3"]:
    """Unit vectors; azimuth 0 is -z, where a camera sees the plane z = 0 from the front; elevation is up."""
    level = elevation.cos()
    return torch.stack([azimuth.sin() * level, -elevation.sin(), -azimuth.cos() * level], -1)


def orbit(
    brief: Brief,
    target: Float[Tensor, "3"],
    distance: float,
    azimuth: float,
    elevation: tuple[int, int],
    whole: bool = False,
) -> tuple[Float[Tensor, "S 3"], Float[Tensor, "S 3"]]:
    """Cameras around a target, some nearer and some farther.

    Args:
        brief: number of cameras and their spread.
        target: in the middle of the scene.
        distance: of most cameras.
        azimuth: of the middle one.
        elevation: lowest and highest, in degrees.
        whole: a whole turn in equal steps.
    """
    dice, frames = brief.dice, brief.frames
    steps = torch.arange(frames) / frames if whole else torch.linspace(-0.5, 0.5, frames)
    turn = (2 * math.pi if whole else brief.spread) * (steps.double() + 0.1 / frames * dice.normals(frames))
    if dice.chance(0.5):
        turn = turn[dice.order(frames)]
    low, high = (math.radians(end) for end in elevation)
    lift = (dice.uniform(low, high) + 0.15 * brief.spread * dice.normals(frames)).clamp(low, high)
    far = distance * (dice.uniform(0.02, 0.3) * dice.normals(frames).clamp(-2, 2)).exp()
    centers = target + toward(azimuth + turn, lift) * far[:, None]
    return centers, target + 0.08 * distance / brief.focal * dice.normals(frames, 3).clamp(-2, 2)


def facade(brief: Brief) -> Stage:
    """A building seen from the ground or from a window across the street."""
    dice = brief.dice
    width, height = dice.uniform(7, 16), dice.uniform(4, 10)
    distance = max(dice.scale(2.5, 12) * brief.focal, 2.0)
    target = at(dice.uniform(-0.3, 0.3) * width, -height * dice.uniform(0.25, 0.65), 0)
    azimuth = dice.normal(0.25)
    centers, targets = orbit(brief, target, distance, azimuth, (-15, 25))
    centers[:, 1].clamp_(max=-0.4)
    centers[:, 2].clamp_(max=-1.5)
    parts = house(brief, width, height, distance)
    for side in (-1, 1):
        other = dice.uniform(5, 14)
        wing = house(brief, other, dice.uniform(3, 11), distance)
        parts += moved(wing, at(side * (width + other) / 2, 0, dice.uniform(-1.0, 2.5)))
    before = things(brief, dice.whole(0, 8), 4.0, dice.uniform(0.6, 1.6), distance)
    parts += clear(moved(before, at(float(target[0]), 0, -3)), centers, 0.8)
    parts.append((shapes.floor(120, 120), paint(brief, distance, 0.1)))
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.OUTDOORS, azimuth=azimuth)


def room(brief: Brief) -> Stage:
    """Inside a room: cameras look across it at one end."""
    dice = brief.dice
    wide, high, deep = dice.uniform(3.5, 8), dice.uniform(2.4, 3.5), dice.uniform(3.5, 8)
    target = at(dice.uniform(-0.3, 0.3) * wide, -dice.uniform(0.4, 1.4), deep * dice.uniform(0.1, 0.45))
    distance = min(dice.scale(1.2, 5) * brief.focal, 0.8 * deep)
    azimuth = dice.normal(0.4)
    centers, targets = orbit(brief, target, distance, azimuth, (-10, 35))
    room_for = at(wide / 2 - 0.3, high, deep / 2 - 0.3)
    centers = torch.maximum(torch.minimum(centers, room_for), -room_for)
    centers[:, 1].clamp_(0.2 - high, -0.3)
    shell = shapes.box((wide, high, deep), inward=True).moved(at(0, -high / 2, 0))
    walls = paint(brief, distance, 0.1, calm=True)
    kinds = [walls, walls, paint(brief, distance, 0.1), paint(brief, distance), walls, paint(brief, distance, 0.1)]
    parts: list[Part] = [(shell.of(torch.tensor([k])), kinds[k]) for k in range(6)]
    furniture = things(brief, dice.whole(5, 12), 1.8, dice.uniform(0.6, 1.2), distance)
    loose = moved(furniture, at(float(target[0]), 0, float(target[2])))
    for _ in range(dice.whole(1, 5)):
        tall = dice.uniform(0.4, 2.0)
        cupboard = shapes.box((dice.uniform(0.5, 1.8), tall, 0.5))
        place = at(dice.uniform(-0.45, 0.45) * wide, -tall / 2, deep / 2 - 0.26)
        loose.append((cupboard.moved(place), paint(brief, distance)))
    for _ in range(dice.whole(2, 8)):
        frame = shapes.wall(-0.5, -0.5, 0.5, 0.5)
        size = torch.tensor([dice.uniform(0.3, 1.4), dice.uniform(0.3, 1.0), 1.0], dtype=torch.float64)
        frame = dataclasses.replace(
            frame, corner=frame.corner * size, edge_u=frame.edge_u * size, edge_v=frame.edge_v * size
        )
        turn = dice.pick([0.0, 0.0, math.pi / 2, -math.pi / 2])
        across, ahead = (wide, deep) if turn == 0 else (deep, wide)
        place = at(dice.uniform(-0.4, 0.4) * across, -dice.uniform(1.0, high - 0.5), ahead / 2 - 0.02)
        turned = shapes.about_vertical(turn)
        loose.append((fitted(frame).moved(turned @ place, turned), picture(brief)))
    parts += clear(loose, centers, 0.15)
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.INDOORS, azimuth=azimuth)


def tabletop(brief: Brief) -> Stage:
    """Objects on the ground, indoors or out, from an arc of cameras."""
    dice = brief.dice
    distance = dice.scale(0.9, 2.6) * brief.focal
    azimuth = dice.angle()
    centers, targets = orbit(brief, at(0, -0.25, 0), distance, azimuth, (8, 60))
    parts = things(brief, dice.whole(6, 14), dice.uniform(0.7, 1.3), dice.uniform(0.6, 1.0), distance)
    parts = clear(parts, centers, 0.1)
    indoors = dice.chance(0.6)
    if indoors:
        half = max(1.6 * distance, 3.0) * dice.uniform(1, 1.6)
        shell = shapes.box((2 * half, 2 * half, 2 * half), inward=True).moved(at(0, 1 - half, 0))
        parts += [(shell.of(torch.tensor([k])), paint(brief, 2 * distance, 0.1)) for k in (0, 1, 4, 5)]
    else:
        for k in range(8):
            turn = shapes.about_vertical(k * math.pi / 4 + dice.normal(0.1))
            away = turn @ at(0, 0, max(2 * distance, 12) + dice.uniform(0, 8))
            parts += moved(house(brief, dice.uniform(5, 14), dice.uniform(2, 9), 3 * distance), away, turn)
    parts.append((shapes.floor(60, 60), paint(brief, distance)))
    ambience = Ambience.INDOORS if indoors else Ambience.OUTDOORS
    return Stage(parts=parts, centers=centers, targets=targets, ambience=ambience, azimuth=azimuth)


def turntable(brief: Brief) -> Stage:
    """One object or a few joined ones on black, from a ring or an arc."""
    dice = brief.dice
    distance = max(dice.scale(1.0, 2.0) * brief.focal, 1.2)
    parts = things(brief, dice.whole(2, 6), 0.35, 0.9, distance)
    if dice.chance(0.4):
        plate = column(dice, dice.uniform(0.6, 0.9), 0.05, 24)
        parts.append((plate.moved(at(0, 0.05, 0)), paint(brief, distance)))
    azimuth = dice.angle()
    target = at(0, -0.35, 0)
    whole = brief.frames > 5 and dice.chance(0.6)  # noqa: PLR2004 (steps of 60 degrees and less)
    centers, targets = orbit(brief, target, distance, azimuth, (-10, 55), whole=whole)
    return Stage(
        parts=clear(parts, centers, 0.05),
        centers=centers,
        targets=target + 0.3 * (targets - target),
        ambience=Ambience.STUDIO,
        azimuth=azimuth,
    )


LAND, KNOTS = 16.0, 41
"""Half side of a terrain, and its knots along a side."""


def terrain(brief: Brief) -> Stage:
    """Hills with houses and trees, from a drone that looks down."""
    dice = brief.dice
    seen = 10.0
    distance = seen * brief.focal
    heights = torch.zeros(KNOTS, KNOTS, dtype=torch.float64)
    for coarse, amplitude in ((4, 1.2), (8, 0.6), (16, 0.25), (KNOTS, 0.08)):
        bumps = dice.normals(1, 1, coarse, coarse)
        heights += amplitude * functional.interpolate(bumps, KNOTS, mode="bicubic", align_corners=True)[0, 0]
    heights = heights * dice.scale(0.15, 1.4)
    soil = dataclasses.replace(paint(brief, distance, 0.0, calm=True), mix=dice.uniform(0.3, 0.9))
    parts: list[Part] = [(shapes.terrain(heights, LAND), soil)]

    def placed(patches: Patches) -> Patches:
        x, z = dice.uniform(-7, 7), dice.uniform(-7, 7)
        knot = torch.tensor([[[z, x]]], dtype=torch.float64) / (2 * LAND) * (KNOTS - 1) + KNOTS / 2
        level = float(sampling.sample(heights[None, None], knot))
        return patches.moved(at(x, -level, z), shapes.about_vertical(dice.angle()))

    trees = paint(brief, distance, 0.0)
    for _ in range(dice.whole(0, 40)):
        if dice.chance(0.4):
            width, height, depth = dice.uniform(0.6, 2), dice.uniform(0.5, 2.2), dice.uniform(0.6, 2)
            block = shapes.box((width, height + 1, depth)).moved(at(0, 0.5 - height / 2, 0))
            parts.append((placed(block), paint(brief, distance)))
        elif dice.chance(0.6):
            waves = torch.cat([4 * dice.normals(5, 3), dice.uniforms(0.05, 0.15, 5, 1)], -1)
            crown = shapes.sphere(4, [dice.uniform(0.3, 0.8), dice.uniform(0.4, 1), dice.uniform(0.3, 0.8)], waves)
            parts.append((placed(crown), trees))
        else:
            parts.append((placed(thing(dice)), paint(brief, distance, 0.0)))
    target = at(dice.normal(1.5), 0, dice.normal(1.5))
    azimuth = dice.angle()
    brief = dataclasses.replace(brief, spread=min(brief.spread, math.radians(60)))
    if dice.chance(0.6):
        centers, targets = _flight(brief, target, distance, azimuth, seen)
    else:
        centers, targets = orbit(brief, target, distance + 3, azimuth, (45, 85))
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.OUTDOORS, azimuth=azimuth)


def _flight(brief: Brief, target: Tensor, distance: float, azimuth: float, seen: float) -> tuple[Tensor, Tensor]:
    """Cameras on a line that look about straight down."""
    dice, frames = brief.dice, brief.frames
    along = torch.linspace(-1, 1, frames).double() * min(math.tan(brief.spread / 2) * distance, 0.45 * seen)
    heading = at(math.sin(azimuth), 0, math.cos(azimuth))
    centers = target + along[:, None] * heading + 0.1 * seen * dice.normals(frames, 3)
    targets = centers + 0.08 * seen * dice.normals(frames, 3)
    centers[:, 1] = -3 - distance * (dice.uniform(0.02, 0.2) * dice.normals(frames)).exp()
    targets[:, 1] = 0
    return centers, targets


def street(brief: Brief) -> Stage:
    """Forward motion between two rows of houses."""
    dice = brief.dice
    gap = dice.uniform(3, 6)
    distance = 2 * gap * brief.focal
    parts: list[Part] = [(shapes.floor(100, 200), paint(brief, distance, 0.1))]
    for side in (-1, 1):
        turn = shapes.about_vertical(side * math.pi / 2)
        z = -8.0
        while z < 30:  # noqa: PLR2004
            width = dice.uniform(7, 14)
            front = house(brief, width, dice.uniform(4, 10), distance)
            parts += moved(front, at(side * (gap + dice.uniform(0, 1.5)), 0, z + width / 2), turn)
            z += width + (dice.uniform(0, 2) if dice.chance(0.5) else 0.0)
    parts += moved(house(brief, 6 * gap, dice.uniform(5, 12), distance), at(0, 0, dice.uniform(30, 45)))
    step = 2 * gap * dice.scale(0.06, 0.4)
    z_of = step * (torch.arange(brief.frames, dtype=torch.float64) - 0.25 * brief.frames)
    sway = gap * dice.uniforms(-0.25, 0.25, brief.frames)
    centers = torch.stack([sway, -dice.uniforms(1.2, 2.2, brief.frames), z_of], -1)
    yaw = 0.25 * brief.spread * dice.normals(brief.frames).clamp(-2, 2) + dice.normal(0.25)
    targets = centers + 10 * toward(math.pi + yaw, 0.08 * dice.normals(brief.frames) - 0.03)
    loose: list[Part] = []
    for _ in range(dice.whole(6, 16)):
        place = at(dice.pick([-1, 1]) * dice.uniform(0.25, 0.9) * gap, 0, dice.uniform(0, 25))
        loose.append((scaled(thing(dice), dice.scale(0.8, 2.0)).moved(place), paint(brief, distance)))
    parts += clear(loose, centers, 0.8)
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.OUTDOORS, azimuth=math.pi)


def poster(brief: Brief) -> Stage:
    """One plane with a picture that fills the view, mirrored beyond its borders."""
    dice = brief.dice
    distance = dice.scale(0.45, 1.2) * brief.focal
    azimuth = dice.normal(0.2)
    target = at(dice.normal(0.1), dice.normal(0.1), 0)
    centers, targets = orbit(brief, target, distance, azimuth, (-35, 35))
    centers[:, 2].clamp_(max=-0.3 * distance)
    sheet = shapes.wall(-40, -40, 40, 40)
    print_of = dataclasses.replace(picture(brief), shift=(0.5, 0.5))
    return Stage(
        parts=[(sheet, print_of)], centers=centers, targets=targets, ambience=Ambience.INDOORS, azimuth=azimuth
    )


def clutter(brief: Brief) -> Stage:
    """Things in the air at any angle, before walls."""
    dice = brief.dice
    distance = dice.scale(2.0, 4.5) * brief.focal
    azimuth = dice.angle()
    centers, targets = orbit(brief, at(0, 0, 0), distance, azimuth, (-40, 40))
    loose: list[Part] = []
    for _ in range(dice.whole(10, 24)):
        place = dice.normals(3) * at(1.5, 1.2, 1.5)
        patches = scaled(thing(dice), dice.scale(0.4, 1.6)).moved(place, rotation.exp(2 * dice.normals(3)))
        loose.append((patches, paint(brief, distance)))
    half = max(2 * distance, 5.0)
    shell = shapes.box((2 * half, 2 * half, 2 * half), inward=True)
    parts = clear(loose, centers, 0.15 * distance)
    parts += [(shell.of(torch.tensor([k])), paint(brief, 2.5 * distance, 0.1)) for k in range(6)]
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.INDOORS, azimuth=azimuth)


PACE = 0.25
"""Metres from one frame of a walk to the next."""


def walk(brief: Brief) -> Stage:
    """A walk around a round block of houses, past others on the far side of the street.

    From 280 frames on it closes: the last tenth of a radian or so is walked again.
    """
    dice = brief.dice
    around = 1.05 * 2 * math.pi
    radius = max(11.0, PACE * (brief.frames - 1) / around)
    turn = PACE / radius * torch.arange(brief.frames, dtype=torch.float64)
    gap = dice.uniform(5, 6)
    distance = gap * brief.focal
    parts: list[Part] = [(shapes.floor(4 * radius, 4 * radius), paint(brief, distance, 0.1))]
    # the origin of a house is the middle of its front, which looks along -z
    for middle, side, width in ((radius + gap, 0.0, 11.0), (radius - gap, math.pi, 7.0)):
        count = math.ceil(2 * math.pi * middle / width)
        for k in range(count):
            angle = 2 * math.pi * k / count
            front = house(brief, 2 * middle * math.tan(math.pi / count), dice.uniform(4, 9), distance)
            place = at(math.sin(angle), 0, math.cos(angle)) * (middle + dice.uniform(0, 0.8) * math.cos(side))
            parts += moved(front, place, shapes.about_vertical(angle + side))
    sway = 0.3 * (5 * turn + dice.angle()).sin()
    height = -1.6 + 0.05 * (40 * turn).sin()
    out = torch.stack([turn.sin(), torch.zeros_like(turn), turn.cos()], -1)
    ahead = torch.stack([turn.cos(), torch.zeros_like(turn), -turn.sin()], -1)
    centers = (radius + sway)[:, None] * out
    centers[:, 1] = height
    yaw = math.radians(40) + 0.3 * (7 * turn + dice.angle()).sin()
    targets = centers + 5 * (yaw.cos()[:, None] * ahead + yaw.sin()[:, None] * out)
    targets[:, 1] += 0.2 * (9 * turn).sin() - 0.4
    loose: list[Part] = []
    for _ in range(round(2.5 * radius)):
        angle = dice.angle()
        place = at(math.sin(angle), 0, math.cos(angle)) * (radius + dice.pick([-1, 1]) * dice.uniform(2, gap - 0.5))
        loose.append((scaled(thing(dice), dice.scale(0.8, 2.0)).moved(place), paint(brief, distance)))
    parts += clear(loose, centers, 1.0)
    return Stage(parts=parts, centers=centers, targets=targets, ambience=Ambience.OUTDOORS, azimuth=0.0)


LAYOUTS: dict[Layout, Callable[[Brief], Stage]] = {
    Layout.FACADE: facade,
    Layout.ROOM: room,
    Layout.TABLETOP: tabletop,
    Layout.TURNTABLE: turntable,
    Layout.TERRAIN: terrain,
    Layout.STREET: street,
    Layout.POSTER: poster,
    Layout.CLUTTER: clutter,
    Layout.WALK: walk,
}
