"""Scenes as tensors: patches, what they are painted with, and the light on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import TensorRecord
from vggsfm_cli.synthetic.casting import Facets, parallel_facets, perspective_facets
from vggsfm_cli.synthetic.shapes import Patches


@dataclass(frozen=True, kw_only=True)
class Paint:
    """What a surface looks like.

    Attributes:
        texture: numbers of its picture and of the large one that varies it.
        size: side of both pictures in units of the world.
        turn: angle of the first picture in radians.
        shift: of the first picture, in pictures.
        mirror: repeat each picture mirrored, without a seam.
        tint: factor on the colours.
        mix: share of the large picture.
        gloss: strength of the highlight.
        shininess: exponent of the highlight.
    """

    texture: tuple[int, int]
    size: tuple[float, float]
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirror: tuple[bool, bool] = (True, True)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mix: float = 0.0
    gloss: float = 0.0
    shininess: float = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Materials(TensorRecord):
    """The paints of B scenes, M each.

    Attributes:
        texture: picture of each of two layers.
        mapping: pictures from the unrolled surface, an affine map a layer.
        mirror: of each layer.
        tint, mix, gloss, shininess: as in ``Paint``.
    """

    texture: Int[Tensor, "B M 2"]
    mapping: Float[Tensor, "B M 2 2 3"]
    mirror: Bool[Tensor, "B M 2"]
    tint: Float[Tensor, "B M 3"]
    mix: Float[Tensor, "B M"]
    gloss: Float[Tensor, "B M"]
    shininess: Float[Tensor, "B M"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lighting(TensorRecord):
    """Light and sky of B scenes.

    Attributes:
        toward_sun: unit vector in the world, frame by frame (it turns with a camera that carries its lamp).
        sun, ambient: colours of the direct light and of the light from everywhere.
        shadow: share of the direct light that shadows take.
        horizon, zenith: colours of the sky; black where there is none.
        clouds: picture that is seen in the sky, and how much of it.
    """

    toward_sun: Float[Tensor, "B S 3"]
    sun: Float[Tensor, "B 3"]
    ambient: Float[Tensor, "B 3"]
    shadow: Float[Tensor, "B"]
    horizon: Float[Tensor, "B 3"]
    zenith: Float[Tensor, "B 3"]
    clouds: Int[Tensor, "B"]
    cloudiness: Float[Tensor, "B"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surfaces(TensorRecord):
    """The geometry of B scenes and its looks, padded to P patches; the fields are those of ``shapes.Patches``."""

    corner: Float[Tensor, "B P 3"]
    edge_u: Float[Tensor, "B P 3"]
    edge_v: Float[Tensor, "B P 3"]
    triangle: Bool[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    normals: Float[Tensor, "B P 3 3"]
    surface: Float[Tensor, "B P 3 2"]
    material: Int[Tensor, "B P"]
    materials: Materials
    lighting: Lighting

    def facets(self, cam_from_world: Float[Tensor, "B S 3 4"], dtype: torch.dtype) -> Facets:
        """Facets of all frames; view b * S + s is frame s of scene b."""
        rotation = cam_from_world[..., :3].to(self.corner.dtype)
        corner = pose.transform(cam_from_world[:, :, None].to(self.corner.dtype), self.corner[:, None])
        edge_u, edge_v = (edge[:, None] @ rotation.mT for edge in (self.edge_u, self.edge_v))
        frames = cam_from_world.shape[1]
        facets = perspective_facets(
            corner.flatten(0, 1),
            edge_u.flatten(0, 1),
            edge_v.flatten(0, 1),
            self.triangle.repeat_interleave(frames, 0),
            self.valid.repeat_interleave(frames, 0),
        )
        return Facets(functions=facets.functions.to(dtype), view=facets.view, patch=facets.patch)

    def facets_in_light(self, light_from_world: Float[Tensor, "B 3 4"], far: Float[Tensor, "B"]) -> Facets:
        """Facets as the light sees them; view b is scene b."""
        rotation = light_from_world[..., :3].to(self.corner.dtype)
        facets = parallel_facets(
            pose.transform(light_from_world[:, None].to(self.corner.dtype), self.corner),
            self.edge_u @ rotation.mT,
            self.edge_v @ rotation.mT,
            self.triangle,
            self.valid,
            far.to(self.corner.dtype),
        )
        return Facets(functions=facets.functions.float(), view=facets.view, patch=facets.patch)

    def looks(self) -> Float[Tensor, "B P 30"]:
        """Texture places of both layers and normal (7 numbers) as affine functions of the world position.

        Columns: seven factors of x, of y, of z, seven constants; then pictures per unit of the world, layer by layer.
        """
        index = self.material[..., None, None, None].expand(-1, -1, 2, 2, 3)
        mapping = self.materials.mapping.gather(1, index)  # B P 2 2 3
        surface = self.surface[:, :, None] @ mapping[..., :2].mT  # B P 2 3 2
        surface[..., 0, :] += mapping[..., 2]
        values = torch.cat([surface[:, :, 0], surface[:, :, 1], self.normals], -1)  # B P 3 7: corner, by u, by v
        # u and v of a position on the patch are its products with the dual edges
        uu, vv, uv = (
            (first * second).sum(-1, keepdim=True)
            for first, second in ((self.edge_u,) * 2, (self.edge_v,) * 2, (self.edge_u, self.edge_v))
        )
        determinant = (uu * vv - uv * uv).clamp(min=1e-30)
        dual_u = (vv * self.edge_u - uv * self.edge_v) / determinant
        dual_v = (uu * self.edge_v - uv * self.edge_u) / determinant
        factors = dual_u[..., None] * values[:, :, None, 1] + dual_v[..., None] * values[:, :, None, 2]  # B P 3 7
        constant = values[:, :, 0] - (self.corner[..., None] * factors).sum(-2)
        density = [torch.linalg.cross(factors[..., k], factors[..., k + 1]).norm(dim=-1).sqrt() for k in (0, 2)]
        return torch.cat([factors.flatten(2), constant, torch.stack(density, -1)], -1).float()


def pack(scenes: Sequence[tuple[Sequence[tuple[Patches, Paint]], Lighting]]) -> Surfaces:
    """One record from the painted shapes and the lighting of each scene."""
    size = max(sum(len(patches) for patches, _ in parts) for parts, _ in scenes)
    most = max(len(parts) for parts, _ in scenes)
    fields: dict[str, list[Tensor]] = {name: [] for name in (*_FIELDS, "valid", "material")}
    for parts, _ in scenes:
        count = sum(len(patches) for patches, _ in parts)
        for name in _FIELDS:
            values = torch.cat([getattr(patches, name) for patches, _ in parts])
            fields[name].append(torch.cat([values, values.new_zeros(size - count, *values.shape[1:])]))
        fields["valid"].append(torch.arange(size) < count)
        lengths = torch.tensor([len(patches) for patches, _ in parts])
        material = torch.arange(len(parts)).repeat_interleave(lengths)
        fields["material"].append(torch.cat([material, material.new_zeros(size - count)]))
    lighting = Lighting(
        **{name: torch.cat([getattr(light, name) for _, light in scenes]) for name in Lighting.__dataclass_fields__}
    )
    paints = [[paint for _, paint in parts] + [parts[0][1]] * (most - len(parts)) for parts, _ in scenes]
    return Surfaces(
        **{name: torch.stack(values) for name, values in fields.items()},
        materials=_materials(paints),
        lighting=lighting,
    )


_FIELDS = ("corner", "edge_u", "edge_v", "triangle", "normals", "surface")


def _materials(paints: list[list[Paint]]) -> Materials:
    def table(function: object, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[function(paint) for paint in row] for row in paints], dtype=dtype)  # type: ignore[operator]

    turn = table(lambda paint: paint.turn, torch.float64)
    size = table(lambda paint: paint.size, torch.float64)
    shift = table(lambda paint: paint.shift, torch.float64)
    angle = torch.stack([turn, torch.zeros_like(turn)], -1)
    cosine, sine = angle.cos() / size, angle.sin() / size
    offset = torch.stack([shift, shift.flip(-1)], -2)
    linear = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)
    return Materials(
        texture=table(lambda paint: paint.texture, torch.long),
        mapping=torch.cat([linear, offset[..., None]], -1),
        mirror=table(lambda paint: paint.mirror, torch.bool),
        tint=table(lambda paint: paint.tint, torch.float32),
        mix=table(lambda paint: paint.mix, torch.float32),
        gloss=table(lambda paint: paint.gloss, torch.float32),
        shininess=table(lambda paint: paint.shininess, torch.float32),
    )
