"""Colours of what rays meet: pictures, sun, shadows, highlights, and the sky where they meet nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import pose
from vggsfm_cli.synthetic import casting, textures
from vggsfm_cli.synthetic.surfaces import Surfaces
from vggsfm_cli.synthetic.textures import Textures

SHADOW_SIDE = 256
"""Side of the map of distances to the sun, in cells."""

SHADOW_BIAS = 2.0
"""Cells of the shadow map by which a surface must lie behind another one to be in its shadow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """Where R rays meet surfaces.

    Attributes:
        frame: which of the B * S frames.
        patch: row in the patches of all scenes, B * P.
        xyz_world: the place.
        direction: of the ray in the world, of any length.
        pixel: what one pixel covers at a right angle there, in units of the world.
    """

    frame: Int[Tensor, " R"]
    patch: Int[Tensor, " R"]
    xyz_world: Float[Tensor, "3 R"]
    direction: Float[Tensor, "3 R"]
    pixel: Float[Tensor, " R"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowMaps:
    """Distances of the surfaces to the sun, scene by scene.

    Attributes:
        from_world: cells and nearness of world positions, affine.
        nearness: of the first surface in each cell.
        bias: in nearness.
    """

    from_world: Float[Tensor, "B 3 4"]
    nearness: Float[Tensor, "B side side"]
    bias: Float[Tensor, "B"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """Tables with a column for each patch of all scenes, or for each material.

    Attributes:
        affine: ``Surfaces.looks`` of patches.
        material: of patches.
        texture, mirror: of both layers of materials.
        finish: tint (three rows), mix, gloss and shininess of materials.
    """

    affine: Float[Tensor, "30 n"]
    material: Int[Tensor, " n"]
    texture: Int[Tensor, "2 m"]
    mirror: Bool[Tensor, "2 m"]
    finish: Float[Tensor, "6 m"]


def looks_of(surfaces: Surfaces) -> Looks:
    """The tables of all scenes."""
    materials = surfaces.materials
    batch, count = materials.mix.shape
    first = count * torch.arange(batch, device=materials.mix.device)[:, None]
    rows = (materials.tint, materials.mix[..., None], materials.gloss[..., None], materials.shininess[..., None])
    return Looks(
        affine=_columns(surfaces.looks()),
        material=(first + surfaces.material).flatten(),
        texture=_columns(materials.texture),
        mirror=_columns(materials.mirror),
        finish=_columns(torch.cat(rows, -1)),
    )


def _columns(rows: Shaped[Tensor, "B n c"]) -> Shaped[Tensor, "c Bn"]:
    """Vectors side by side: taking columns gives planes, whose arithmetic is vectorised."""
    return rows.flatten(0, 1).mT.contiguous()


def shade(
    surfaces: Surfaces, looks: Looks, pictures: Textures, hits: Hits, shadows: ShadowMaps | None
) -> Float[Tensor, "3 R"]:
    """Linear light that comes from the hits."""
    affine = looks.affine.index_select(1, hits.patch)
    values = affine[21:28].clone()
    for k in range(3):
        values.addcmul_(affine[7 * k : 7 * k + 7], hits.xyz_world[k])
    normal, direction = _unit(values[4:]), _unit(hits.direction)
    # edge-on is never reached, though smoothed normals may turn away; the width is between those across and along
    slant = (normal * direction).sum(0).neg_().clamp_(0.02, 1).rsqrt_()
    footprint = affine[28:] * (hits.pixel * slant)
    material = looks.material.index_select(0, hits.patch)
    texture, mirror = looks.texture.index_select(1, material), looks.mirror.index_select(1, material)
    finish = looks.finish.index_select(1, material)
    first, second = (
        textures.look_up(pictures, texture[k], values[2 * k : 2 * k + 2], mirror[k], footprint[k]) for k in range(2)
    )
    albedo = first * finish[:3] * (1 + finish[3] * (1.7 * second - 0.9))
    return _light(surfaces, hits, normal, direction, albedo.clamp_(0, 1).square_(), finish, shadows)


def _unit(vectors: Tensor) -> Tensor:
    return vectors * vectors.square().sum(0).clamp_(min=1e-20).rsqrt_()


def _light(
    surfaces: Surfaces,
    hits: Hits,
    normal: Tensor,
    direction: Tensor,
    albedo: Tensor,
    finish: Tensor,
    shadows: ShadowMaps | None,
) -> Tensor:
    lighting = surfaces.lighting
    scene = hits.frame // lighting.toward_sun.shape[1]
    sun = _columns(lighting.toward_sun).index_select(1, hits.frame)
    facing = (normal * sun).sum(0).clamp_(min=0)
    highlight = finish[4] * (normal * _unit(sun - direction)).sum(0).clamp_(1e-4, 1).pow_(finish[5])
    if shadows is not None:
        lit = 1 - lighting.shadow.index_select(0, scene) * shadowed(shadows, scene, hits.xyz_world)
        facing, highlight = facing * lit, highlight * lit
    # a surface that looks up sees more of the sky
    around = lighting.ambient.mT.index_select(1, scene) * (0.8 - 0.3 * normal[1])
    direct = lighting.sun.mT.index_select(1, scene)
    return albedo * (around + direct * facing) + 0.5 * direct * highlight


def sky(
    surfaces: Surfaces, pictures: Textures, frame: Int[Tensor, " R"], direction: Float[Tensor, "3 R"]
) -> Float[Tensor, "3 R"]:
    """Linear light from far away."""
    lighting = surfaces.lighting
    scene = frame // lighting.toward_sun.shape[1]
    direction = _unit(direction)
    height = -direction[1]
    horizon, zenith = lighting.horizon.mT.index_select(1, scene), lighting.zenith.mT.index_select(1, scene)
    color = torch.lerp(horizon, zenith, height.clamp(0, 1).sqrt_()) * (1 + 0.6 * height.clamp(max=0))
    place = direction[::2] / (height.abs() + 0.25) * 0.6
    size = torch.full_like(height, 0.03)  # out of focus
    mirror = torch.ones_like(scene, dtype=torch.bool)
    clouds = textures.look_up(pictures, lighting.clouds.index_select(0, scene), place, mirror, size)
    return (color * (1 + lighting.cloudiness.index_select(0, scene) * (2 * clouds - 0.8))).clamp_(0, 1).square_()


def cast_shadows(
    surfaces: Surfaces, scene: Int[Tensor, " R"], xyz_world: Float[Tensor, "3 R"], weight: Float[Tensor, " R"]
) -> ShadowMaps:
    """Maps that cover the places given, as the sun of frame 0 sees them.

    Args:
        surfaces: the geometry.
        scene: of each place.
        xyz_world: places that pictures show.
        weight: how much they count when the extent of the maps is chosen.
    """
    toward = surfaces.lighting.toward_sun[:, 0]
    batch = len(toward)
    number = weight.new_zeros(batch).index_add(0, scene, weight).clamp(min=1e-12)
    mean = weight.new_zeros(3, batch).index_add(1, scene, weight * xyz_world) / number
    away = weight * (xyz_world - mean.index_select(1, scene)).square().sum(0)
    mean = mean.mT
    radius = 2 * (away.new_zeros(batch).index_add(0, scene, away) / number).sqrt().clamp(min=1e-3)
    light_from_world = pose.look_at(mean + toward, mean, torch.zeros_like(radius)).float()
    light_from_world[..., 2, 3] -= 1  # the middle of the scene is at the origin
    reach = (surfaces.corner - mean[:, None]).norm(dim=-1) + surfaces.edge_u.norm(dim=-1) + surfaces.edge_v.norm(dim=-1)
    far = (reach * surfaces.valid).amax(-1).float()
    facets = surfaces.facets_in_light(light_from_world, far)
    axis = (torch.arange(SHADOW_SIDE, device=radius.device) + 0.5) / SHADOW_SIDE * 2 - 1
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    plane = plane * radius[:, None, None, None]
    lists = casting.list_by_tile(facets, casting.tile_boxes(plane))
    nearness, _ = casting.first_hits(facets, lists, casting.to_tiles(plane.permute(0, 3, 1, 2)))
    cell = 2 * radius / SHADOW_SIDE
    rows = torch.stack([1 / cell, 1 / cell, -0.5 / far], -1)
    from_world = light_from_world * rows[..., None]
    from_world[..., 3] += radius.new_tensor([SHADOW_SIDE / 2, SHADOW_SIDE / 2, 0.5])
    return ShadowMaps(
        from_world=from_world,
        nearness=casting.from_tiles(nearness[:, None], batch, SHADOW_SIDE, SHADOW_SIDE)[:, 0],
        bias=SHADOW_BIAS * cell * 0.5 / far,
    )


def shadowed(shadows: ShadowMaps, scene: Int[Tensor, " R"], xyz_world: Float[Tensor, "3 R"]) -> Float[Tensor, " R"]:
    """Share of the sun that is hidden, smooth over a cell of the map."""
    rows = shadows.from_world.flatten(1).mT.contiguous().index_select(1, scene)
    x, y, nearness = ((rows[4 * k : 4 * k + 3] * xyz_world).sum(0) + rows[4 * k + 3] for k in range(3))
    nearness = nearness + shadows.bias.index_select(0, scene)
    # beyond the map there is the sun
    padded = functional.pad(shadows.nearness, (1, 1, 1, 1))
    side = padded.shape[-1]
    x, y = (x + 0.5).clamp_(0, side - 1.001), (y + 0.5).clamp_(0, side - 1.001)
    left, top = x.floor(), y.floor()
    part_x, part_y = x - left, y - top
    index = (scene.int() * side + top.int()) * side + left.int()
    cells = padded.flatten()
    hidden = torch.zeros_like(x)
    for step, weight in (
        (0, (1 - part_x) * (1 - part_y)),
        (1, part_x * (1 - part_y)),
        (side, (1 - part_x) * part_y),
        (side + 1, part_x * part_y),
    ):
        hidden.addcmul_(weight, (cells.index_select(0, index + step) > nearness).to(weight.dtype))
    return hidden
