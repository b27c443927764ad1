"""Rendered scenes and their truth, against slow and obvious computations."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, sampling
from vggsfm_cli.scene import Queries
from vggsfm_cli.synthetic import render as renderer
from vggsfm_cli.synthetic.layouts import Layout
from vggsfm_cli.synthetic.photometry import PhotometryConfig
from vggsfm_cli.synthetic.render import RenderedScenes, render, true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.surfaces import Surfaces
from vggsfm_cli.synthetic.textures import Textures, procedural_textures

SIZE = 72
"""Not a multiple of the tiles' side in one direction, below."""


@pytest.fixture(scope="module")
def textures() -> Textures:
    return procedural_textures(9, 64, torch.Generator().manual_seed(0))


def config_of(*layouts: Layout, **changes: object) -> SceneConfig:
    config = SceneConfig(frames=3, height=SIZE, width=SIZE + 20, layouts=tuple((layout, 1.0) for layout in layouts))
    return dataclasses.replace(config, **changes)


def shot(textures: Textures, layout: Layout, seed: int = 0, scenes: int = 1, **changes: object) -> RenderedScenes:
    return render(config_of(layout, **changes), textures, scenes, torch.Generator().manual_seed(seed))


def random_queries(rendered: RenderedScenes, count: int, seed: int = 0) -> Queries:
    generator = torch.Generator().manual_seed(seed)
    batch, frames, height, width = rendered.depth.shape
    return Queries(
        frame=torch.randint(frames, (batch, count), generator=generator),
        xy=torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height]),
        valid=torch.ones(batch, count, dtype=torch.bool),
    )


def first_along(surfaces: Surfaces, origin: np.ndarray, direction: np.ndarray) -> float:
    """Smallest distance, in lengths of ``direction``, at which a ray meets a patch from the outside; inf if none.

    Moeller and Trumbore's test of every single patch.
    """
    valid = surfaces.valid[0].numpy()
    triangle = surfaces.triangle[0].numpy()[valid]
    corner, edge_u, edge_v = (part[0].numpy()[valid] for part in (surfaces.corner, surfaces.edge_u, surfaces.edge_v))
    across = np.cross(direction, edge_v)
    determinant = (edge_u * across).sum(1)
    outside_in = determinant > 1e-14  # neither along the patch nor from its back
    determinant = np.where(outside_in, determinant, 1.0)
    away = origin - corner
    u = (away * across).sum(1) / determinant
    turned = np.cross(away, edge_u)
    v = (direction * turned).sum(1) / determinant
    t = (edge_v * turned).sum(1) / determinant
    within = (u >= 0) & (v >= 0) & np.where(triangle, u + v <= 1, (u <= 1) & (v <= 1))
    return float(t[outside_in & within & (t > 0)].min(initial=math.inf))


@pytest.mark.parametrize("layout", list(Layout))
def test_every_layout_gives_pictures(textures: Textures, layout: Layout) -> None:
    rendered = shot(textures, layout, scenes=2)
    pixels = rendered.images.pixels
    assert pixels.shape == (2, 3, 3, SIZE, SIZE + 20)
    assert torch.isfinite(pixels).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert (pixels.flatten(2).std(-1) > 0.01).all()
    assert torch.isfinite(rendered.depth).all()
    assert ((rendered.depth > 0).float().mean((2, 3)) > 0.05).all()
    rotation = rendered.cameras.cam_from_world[..., :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation))


def test_the_seed_decides(textures: Textures) -> None:
    config = config_of(*Layout, photometry=PhotometryConfig())
    one, same, other = (render(config, textures, 2, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.images.pixels, same.images.pixels)
    assert torch.equal(one.depth, same.depth)
    assert torch.equal(one.cameras.cam_from_world, same.cameras.cam_from_world)
    assert not torch.equal(one.images.pixels, other.images.pixels)


def test_scenes_of_a_batch_do_not_mix(textures: Textures) -> None:
    """Padding and batching change nothing: each scene of a batch is the scene drawn alone."""
    config = config_of(*Layout)
    together = render(config, textures, 4, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for b in range(4):
        alone = render(config, textures, 1, generator)
        difference = (alone.images.pixels - together.images.pixels[b : b + 1]).abs()
        assert difference.mean() < 1e-5
        assert (difference > 1e-3).float().mean() < 1e-3  # a sum in another order may move the edge of a shadow
        torch.testing.assert_close(alone.depth, together.depth[b : b + 1])


def test_a_scene_may_be_painted_frame_by_frame(textures: Textures, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.TURNTABLE  # its lamp may turn with the frames
    whole = shot(textures, layout, seed=2, shadows=False)
    monkeypatch.setattr(renderer, "RAYS_IN_MEMORY", 1)
    pieces = shot(textures, layout, seed=2, shadows=False)
    torch.testing.assert_close(pieces.depth, whole.depth)
    torch.testing.assert_close(pieces.images.pixels, whole.images.pixels)


@pytest.mark.parametrize("layout", [Layout.FACADE, Layout.TABLETOP, Layout.TERRAIN, Layout.CLUTTER])
def test_depth_is_that_of_the_first_patch(textures: Textures, layout: Layout) -> None:
    rendered = shot(textures, layout, seed=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        s = int(torch.randint(3, (), generator=generator))
        column, row = (int(torch.randint(side, (), generator=generator)) for side in (SIZE + 20, SIZE))
        origin, direction = ray_of(rendered, s, torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64))
        expected = first_along(rendered.surfaces, origin, direction)
        found = float(rendered.depth[0, s, row, column])
        assert found == pytest.approx(0.0 if math.isinf(expected) else expected, rel=1e-4)


def ray_of(rendered: RenderedScenes, s: int, xy: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Origin and direction (one unit deep) of a pixel's ray in the world."""
    cameras = rendered.cameras
    slope = camera_models.unproject("SIMPLE_RADIAL", cameras.frame_params[0, s], xy, iterations=30)
    direction = torch.cat([slope, torch.ones(1, dtype=torch.float64)]) @ cameras.cam_from_world[0, s, :, :3]
    return cameras.centers[0, s].numpy(), direction.numpy()


@pytest.mark.parametrize("layout", list(Layout))
def test_tracks_agree_with_depth_and_pose(textures: Textures, layout: Layout) -> None:
    """A pixel lifted by the rendered depth and projected is where its track says, to 0.01 px."""
    rendered = shot(textures, layout, seed=2)
    height, width = rendered.depth.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    cell = torch.stack([torch.randint(side, (200,), generator=generator) for side in (width, height)], -1)
    frame = torch.randint(3, (200,), generator=generator)
    xy = cell.double() + 0.5
    tracks = true_tracks(rendered, Queries(frame=frame[None], xy=xy[None], valid=torch.ones(1, 200, dtype=torch.bool)))
    depth = rendered.depth[0, frame, cell[:, 1], cell[:, 0]].double()
    assert torch.equal(tracks.valid[0], depth > 0)
    chosen = depth > 0
    assert chosen.sum() > 20
    cameras = rendered.cameras
    slope = camera_models.unproject("SIMPLE_RADIAL", cameras.frame_params[0, frame], xy)
    xyz_cam = torch.cat([slope, torch.ones(200, 1, dtype=torch.float64)], -1) * depth[:, None]
    xyz_world = pose.transform(pose.inverse(cameras.cam_from_world[0, frame]), xyz_cam)
    projected, in_front = cameras.project(xyz_world[None])
    inside = in_front & (projected >= 0).all(-1) & (projected <= torch.tensor([width, height])).all(-1)
    inside &= chosen
    assert (projected - tracks.xy)[inside].norm(dim=-1).max() < 0.01
    assert not (tracks.visibility[~inside.expand_as(tracks.visibility)] > 0).any()


@pytest.mark.parametrize("layout", [Layout.ROOM, Layout.TURNTABLE, Layout.STREET, Layout.CLUTTER])
def test_visibility_agrees_with_every_single_patch(textures: Textures, layout: Layout) -> None:
    rendered = shot(textures, layout, seed=7, max_angle_deg=(60.0, 90.0))
    queries = random_queries(rendered, 40)
    tracks = true_tracks(rendered, queries)
    height, width = rendered.depth.shape[-2:]
    checked = {True: 0, False: 0}
    for n in range(40):
        origin, direction = ray_of(rendered, int(queries.frame[0, n]), queries.xy[0, n])
        away = first_along(rendered.surfaces, origin, direction)
        assert bool(tracks.valid[0, n]) == math.isfinite(away)
        if math.isinf(away):
            continue
        point = torch.from_numpy(origin + away * direction)
        xyz_cam = pose.transform(rendered.cameras.cam_from_world[0], point)
        for s in range(3):
            xy, in_front = camera_models.project("SIMPLE_RADIAL", rendered.cameras.frame_params[0, s], xyz_cam[s])
            seen = bool(in_front) and 0 <= float(xy[0]) <= width and 0 <= float(xy[1]) <= height
            if seen:
                back, forth = ray_of(rendered, s, xy)
                seen = abs(first_along(rendered.surfaces, back, forth) / float(xyz_cam[s, 2]) - 1) < 1e-6
            assert bool(tracks.visibility[0, s, n] > 0.5) == seen, (n, s)
            checked[seen] += 1
    assert checked[True] > 20
    assert checked[False] > 5


def test_pictures_agree_where_tracks_meet(textures: Textures) -> None:
    """The same point has about the same colour in all frames: the pictures belong to the geometry."""
    rendered = shot(textures, Layout.POSTER, seed=4, scenes=3, max_angle_deg=(5.0, 10.0), shadows=False)
    queries = random_queries(rendered, 400)
    tracks = true_tracks(rendered, queries)
    batch, frames = rendered.cameras.camera_index.shape
    colors = sampling.sample(rendered.images.pixels.flatten(0, 1), tracks.xy.flatten(0, 1).float())
    colors = colors.reshape(batch, frames, -1, 3)
    seen = tracks.visibility > 0
    own = torch.arange(frames)[:, None] == tracks.query_frame[:, None]
    reference = (colors * own[..., None]).sum(1, keepdim=True)
    others = seen & ~own
    difference = (colors - reference)[others].abs().mean()
    shuffled = (colors - reference.roll(1, 2))[others].abs().mean()
    assert others.sum() > 500
    assert difference < 0.25 * shuffled


def test_more_samples_come_nearer_to_the_truth(textures: Textures) -> None:
    """Outlines against black: the more rays a pixel has, the better its share of the object is known."""
    once, four, many = (shot(textures, Layout.TURNTABLE, samples=samples) for samples in (1, 2, 6))
    assert torch.equal(once.depth, four.depth)
    errors = [(some.images.pixels - many.images.pixels).square().mean() for some in (once, four)]
    assert errors[1] < 0.6 * errors[0]


def test_shadows_and_photometry_change_the_picture_only(textures: Textures) -> None:
    plain, shadowed, taken = (
        shot(textures, Layout.TABLETOP, seed=1, shadows=shadows, photometry=photometry)
        for shadows, photometry in ((False, None), (True, None), (True, PhotometryConfig()))
    )
    assert (shadowed.images.pixels - plain.images.pixels).max() < 1e-5
    assert (shadowed.images.pixels < plain.images.pixels - 0.02).float().mean() > 0.01
    assert not torch.allclose(taken.images.pixels, shadowed.images.pixels, atol=0.01)
    for other in (shadowed, taken):
        assert torch.equal(plain.depth, other.depth)
        assert torch.equal(plain.cameras.params, other.cameras.params)


def test_nothing_is_known_of_the_cameras(textures: Textures) -> None:
    images = shot(textures, Layout.ROOM).images
    assert not images.priors.known.any()
    torch.testing.assert_close(images.priors.params[0, 0].tolist(), [1.2 * 92, 46.0, 36.0, 0.0])
    torch.testing.assert_close(images.pixel_scale, torch.ones(1, 3))
    assert images.stored_size.tolist() == [[[92, 72]] * 3]
    assert images.names == (("000.png", "001.png", "002.png"),)


def test_queries_on_nothing_are_not_valid(textures: Textures) -> None:
    rendered = shot(textures, Layout.TURNTABLE)
    queries = dataclasses.replace(random_queries(rendered, 50), xy=torch.zeros(1, 50, 2))
    tracks = true_tracks(rendered, queries)
    assert rendered.depth[0, :, 0, 0].max() == 0
    assert not tracks.valid.any()
    assert not tracks.visibility.any()
    assert torch.isfinite(tracks.xy).all()


def test_posters_give_homographies(textures: Textures) -> None:
    rendered = shot(textures, Layout.POSTER, distortion=(0.0, 0.0))
    tracks = true_tracks(rendered, dataclasses.replace(random_queries(rendered, 60), frame=torch.zeros(1, 60).long()))
    seen = (tracks.visibility[0, 0] > 0) & (tracks.visibility[0, 1] > 0)
    a, b = (torch.nn.functional.pad(tracks.xy[0, s][seen] / 50, (0, 1), value=1.0) for s in (0, 1))
    zero = torch.zeros_like(a)
    rows = torch.cat([torch.cat([zero, -a, b[:, 1:2] * a], -1), torch.cat([a, zero, -b[:, :1] * a], -1)])
    assert seen.sum() > 10
    singular = torch.linalg.svdvals(rows)
    assert singular[-1] < 1e-8 * singular[0]
    assert singular[-2] > 1e-4 * singular[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_renders_the_same(textures: Textures) -> None:
    config = config_of(*Layout)
    here, there = (render(config, textures, 6, torch.Generator().manual_seed(0), device) for device in ("cpu", "cuda"))
    far = (here.depth - there.depth.cpu()).abs() > 1e-3 * here.depth
    assert far.float().mean() < 1e-3
    assert (here.images.pixels - there.images.pixels.cpu()).abs().mean() < 1e-3
    queries = random_queries(here, 100)
    tracks = [true_tracks(here, queries), true_tracks(there, queries.to("cuda")).to("cpu")]
    seen = tracks[0].visibility > 0
    assert (seen != (tracks[1].visibility > 0)).float().mean() < 1e-2
    torch.testing.assert_close(tracks[0].xy[seen], tracks[1].xy[seen])
