"""A chain of similarities that drifts, and the loop that closes it."""

import math

import torch

from vggsfm_cli.geometry import rotation
from vggsfm_cli.sequence.pose_graph import Edges, Similarities, relax, residuals

NODES = 24


def similarities(scale: torch.Tensor, turn: torch.Tensor, translation: torch.Tensor) -> Similarities:
    return Similarities(scale=scale, rotation=rotation.exp(turn), translation=translation)


def circle() -> Similarities:
    """Cameras on a circle that look along it, as maps from the world."""
    angle = 2 * math.pi * torch.arange(NODES, dtype=torch.float64) / NODES
    turn = torch.stack([torch.zeros_like(angle), -angle, torch.zeros_like(angle)], -1)
    centers = 5 * torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], -1)
    rotations = rotation.exp(turn)
    return Similarities(
        scale=torch.ones(NODES, dtype=torch.float64),
        rotation=rotations,
        translation=-(rotations @ centers[..., None]).squeeze(-1),
    )


def chain(nodes: Similarities, loop: Similarities | None) -> Edges:
    """The way from node to node, and from the last node to the first."""
    here = torch.arange(NODES - 1)
    way = nodes[here + 1].after(nodes[here].inverse())
    parts = [way] if loop is None else [way, loop]
    spread = torch.tensor([0.01] * 3 + [0.05] * 3 + [0.02], dtype=torch.float64)
    extra = [] if loop is None else [NODES - 1]
    return Edges(
        first=torch.tensor([*here.tolist(), *extra]),
        second=torch.tensor([*(here + 1).tolist(), *([0] if extra else [])]),
        measured=Similarities(
            scale=torch.cat([part.scale for part in parts]),
            rotation=torch.cat([part.rotation for part in parts]),
            translation=torch.cat([part.translation for part in parts]),
        ),
        spread=spread.expand(NODES - 1 + len(extra), 7),
    )


def drifted(nodes: Similarities) -> Similarities:
    """The same way with a small turn and a small change of scale at each step."""
    here = torch.arange(NODES - 1)
    way = nodes[here + 1].after(nodes[here].inverse())
    error = torch.tensor([[0.004, 0.008, -0.003, 0.0, 0.01, 0.0, 0.012]], dtype=torch.float64)
    found = [nodes[torch.tensor([0])]]
    for k in range(NODES - 1):
        found.append(way[torch.tensor([k])].after(found[-1]).updated(error))
    return Similarities(
        scale=torch.cat([one.scale for one in found]),
        rotation=torch.cat([one.rotation for one in found]),
        translation=torch.cat([one.translation for one in found]),
    )


def centers(nodes: Similarities) -> torch.Tensor:
    return nodes.inverse().translation


def test_maps_compose_and_invert() -> None:
    nodes = circle()
    dice = torch.Generator().manual_seed(0)
    xyz = torch.randn(NODES, 3, generator=dice, dtype=torch.float64)
    scaled = Similarities(scale=nodes.scale * 1.7, rotation=nodes.rotation, translation=nodes.translation)
    torch.testing.assert_close(scaled.inverse().of(scaled.of(xyz)), xyz)
    torch.testing.assert_close(scaled.after(nodes).of(xyz), scaled.of(nodes.of(xyz)))


def test_a_loop_spreads_its_gap() -> None:
    true = circle()
    found = drifted(true)
    first, last = torch.tensor([0]), torch.tensor([NODES - 1])
    loop = true[first].after(true[last].inverse())
    edges = chain(found, loop)
    assert float(residuals(found, edges).abs().max()) > 10
    closed = relax(found, edges)
    assert float(residuals(closed, edges).abs().max()) < 1.5
    torch.testing.assert_close(closed.translation[0], found.translation[0])
    before, after = ((centers(nodes) - centers(true)).norm(dim=-1).max() for nodes in (found, closed))
    assert after < 0.35 * before
    gap = closed[first].after(closed[last].inverse())
    torch.testing.assert_close(gap.scale, loop.scale, rtol=0.05, atol=0)


def test_without_a_loop_nothing_moves() -> None:
    found = drifted(circle())
    relaxed = relax(found, chain(found, None))
    torch.testing.assert_close(relaxed.translation, found.translation)
    torch.testing.assert_close(relaxed.rotation, found.rotation)


def test_scale_is_a_part_of_the_gap() -> None:
    """A loop that only disagrees in scale is taken up by all steps, a little by each."""
    true = circle()
    first, last = torch.tensor([0]), torch.tensor([NODES - 1])
    loop = true[first].after(true[last].inverse())
    loop = Similarities(scale=loop.scale * 0.8, rotation=loop.rotation, translation=loop.translation)
    closed = relax(true, chain(true, loop))
    scales = closed.scale.log()
    assert 0.9 < float(scales[-1]) / math.log(1 / 0.8) < 1
    assert float(scales.diff().abs().max()) < 0.1
