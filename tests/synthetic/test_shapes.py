"""Shapes are closed, and their outside is outside; their shadows fall where they should."""

import math

import pytest
import torch
from torch import Tensor

from vggsfm_cli.synthetic import shading, shapes
from vggsfm_cli.synthetic.dice import Dice
from vggsfm_cli.synthetic.shapes import Patches
from vggsfm_cli.synthetic.surfaces import Lighting, Paint, Surfaces, pack
from vggsfm_cli.synthetic.things import column, thing


def areas(patches: Patches) -> Tensor:
    """Area vectors, pointing outward."""
    full = torch.linalg.cross(patches.edge_u, patches.edge_v)
    return torch.where(patches.triangle[:, None], full / 2, full)


def volume(patches: Patches) -> float:
    """By the divergence theorem."""
    middle = torch.where(patches.triangle[:, None], 1 / 3, 0.5)
    centers = patches.corner + middle * (patches.edge_u + patches.edge_v)
    return float((areas(patches) * centers).sum() / 3)


CLOSED = {
    "box": (shapes.box((1.0, 2.0, 3.0)), 6.0),
    "boxes": (shapes.boxes(torch.rand(2, 3).double(), torch.tensor([[1.0, 2, 3], [1, 1, 1]]).double()), 7.0),
    "room": (shapes.box((1.0, 2.0, 3.0), inward=True), -6.0),
    "sphere": (shapes.sphere(24, (1.0, 1.0, 1.0)), 4 / 3 * math.pi),
    "ellipsoid": (shapes.sphere(24, (1.0, 2.0, 0.5)), 4 / 3 * math.pi),
    "cone": (
        shapes.lathe(torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([0.0, 0.0, 3.0]).double(), 90),
        math.pi,
    ),
}


@pytest.mark.parametrize("name", list(CLOSED))
def test_closed_shapes_have_their_volume(name: str) -> None:
    patches, expected = CLOSED[name]
    assert areas(patches).sum(0).abs().max() < 1e-9
    assert volume(patches) == pytest.approx(expected, rel=0.01)


def test_smooth_normals_are_those_of_the_surface() -> None:
    turn = torch.linspace(0, math.pi, 13).double()
    for patches in (shapes.sphere(8, (1.0, 2.0, 0.5)), shapes.lathe(turn.sin(), -2 * turn.cos(), 16)):
        flat = torch.nn.functional.normalize(areas(patches), dim=-1)
        middle = patches.normals[:, 0] + (patches.normals[:, 1] + patches.normals[:, 2]) / 3
        proper = areas(patches).norm(dim=-1) > 1e-6
        assert ((flat * middle).sum(-1)[proper] > 0.9).all()
    ball = shapes.sphere(6, (1.0, 1.0, 1.0))
    torch.testing.assert_close(ball.normals[:, 0], ball.corner)


@pytest.mark.parametrize("seed", range(12))
def test_things_stand_on_the_ground_and_are_solid(seed: int) -> None:
    patches = thing(Dice(torch.Generator().manual_seed(seed)))
    vertices = patches.vertices
    assert volume(patches) > 0.01
    assert abs(float(vertices[..., 1].max())) < 0.3
    assert -2 < float(vertices[..., 1].min()) < -0.2


def test_moving_keeps_the_shape() -> None:
    patches = column(Dice(torch.Generator().manual_seed(0)), 0.3, 1.0, 6)
    moved = patches.moved(torch.tensor([5.0, 6.0, 7.0]).double(), shapes.about_vertical(1.0))
    torch.testing.assert_close(areas(moved).norm(dim=-1), areas(patches).norm(dim=-1))
    torch.testing.assert_close(moved.edge_u.norm(dim=-1), patches.edge_u.norm(dim=-1))
    torch.testing.assert_close(moved.vertices[..., 1], patches.vertices[..., 1] + 6)


def test_pictures_hang_upright_and_not_mirrored() -> None:
    """Seen from outside, the surface of a wall runs to the right and down, on all sides of a box."""
    box = shapes.box((1.0, 1.0, 1.0))
    normals = box.normals[:, 0]
    for k in (0, 1, 4, 5):  # not the floor and the lid
        right = torch.linalg.cross(normals[k], torch.tensor([0.0, 1.0, 0.0]).double())
        for edge, change in ((box.edge_u[k], box.surface[k, 1]), (box.edge_v[k], box.surface[k, 2])):
            torch.testing.assert_close(change, torch.stack([edge @ right, edge[1]]))


def table_in_the_sun() -> Surfaces:
    """A board two metres above the ground, the sun straight over it but for a little."""
    toward = torch.nn.functional.normalize(torch.tensor([0.01, -1.0, 0.0]), dim=0)
    board = shapes.box((2.0, 0.1, 2.0)).moved(torch.tensor([0.0, -2.0, 0.0]).double())
    black, zero = torch.zeros(1, 3), torch.zeros(1)
    lighting = Lighting(
        toward_sun=toward.expand(1, 2, 3),
        sun=torch.ones(1, 3),
        ambient=black,
        shadow=torch.ones(1),
        horizon=black,
        zenith=black,
        clouds=torch.zeros(1).long(),
        cloudiness=zero,
    )
    paint = Paint(texture=(0, 0), size=(1.0, 1.0))
    return pack([([(shapes.floor(5, 5), paint), (board, paint)], lighting)])


def test_shadows_lie_under_what_casts_them() -> None:
    x, z = (part.flatten() for part in torch.meshgrid(*(torch.linspace(-4, 4, 81),) * 2, indexing="ij"))
    ground = torch.stack([x, torch.zeros_like(x), z])
    scene = torch.zeros(len(x)).long()
    maps = shading.cast_shadows(table_in_the_sun(), scene, ground, torch.ones_like(x))
    hidden = shading.shadowed(maps, scene, ground)
    shifted = x + 0.02  # the light comes from a little to the right
    under = (shifted.abs() < 0.9) & (z.abs() < 0.9)
    free = (shifted.abs() > 1.1) | (z.abs() > 1.1)
    assert (hidden[under] > 0.99).all()
    assert (hidden[free] < 0.01).all()
    lid = torch.stack([x.clamp(-0.9, 0.9), torch.full_like(x, -2.05), z.clamp(-0.9, 0.9)])
    assert (shading.shadowed(maps, scene, lid) < 0.01).all()
