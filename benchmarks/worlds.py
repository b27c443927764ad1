"""Worlds with known truth: cameras on a path, points on surfaces, and who sees what.

No pictures are made here; the tracks are exact projections, so what is built from them shows the geometry alone.
"""

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Points, TensorRecord, Tracks
from vggsfm_cli.synthetic.render import DEFAULT_FOCAL


class Path(StrEnum):
    """How the cameras stand."""

    ARC = "arc"  # a third of a turn around an object
    RING = "ring"  # a whole turn: opposite cameras see nothing in common
    FORWARD = "forward"  # down a corridor, looking ahead
    FACADE = "facade"  # sideways along a wall with relief


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Settings of a world."""

    path: Path = Path.ARC
    frames: int = 8
    points: int = 800
    width: int = 1024
    height: int = 768
    focals: tuple[float, ...] = (0.9,)  # in long sides; one per camera, frames take them in turn
    distortion: float = -0.05
    principal_point: tuple[float, float] = (0.0, 0.0)  # offset from the centre, in long sides
    jitter: float = 0.1  # of position (share of the distance to the scene) and of direction (radians, halved)


@dataclass(frozen=True, kw_only=True, eq=False)
class World(TensorRecord):
    """One scene (B = 1) with its truth.

    Attributes:
        cameras: all registered.
        points: all valid.
        normals: outward surface normal of each point.
        sizes: width and height of each frame in pixels.
    """

    cameras: Cameras
    points: Points
    normals: Float[Tensor, "1 N 3"]
    sizes: Int[Tensor, "1 S 2"]


def make_world(config: WorldConfig, seed: int) -> World:
    """A world, the same for the same seed, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    if config.path in (Path.ARC, Path.RING):
        xyz, normals = _object(config.points, config.path is Path.ARC, generator)
        centers, targets = _around(config)
    elif config.path is Path.FORWARD:
        xyz, normals = _corridor(config.points, generator)
        centers, targets = _ahead(config)
    else:
        xyz, normals = _wall(config.points, generator)
        centers, targets = _along(config)
    distance = float((targets - centers).norm(dim=-1).mean())
    centers = centers + 0.5 * config.jitter * distance * _normal(generator, config.frames, 3)
    targets = targets + 0.5 * config.jitter * distance * _normal(generator, config.frames, 3)
    poses = pose.look_at(centers, targets, roll=0.5 * config.jitter * _normal(generator, config.frames))
    long_side = max(config.width, config.height)
    params = []
    for focal in config.focals:
        values = camera_models.from_focal("SIMPLE_RADIAL", focal * long_side, config.width, config.height)
        offset = torch.tensor([0.0, *config.principal_point, 0.0], dtype=torch.float64) * long_side
        values = values + offset
        values[3] = config.distortion
        params.append(values)
    cameras = Cameras(
        cam_from_world=poses[None],
        models=("SIMPLE_RADIAL",) * len(config.focals),
        params=torch.stack(params)[None],
        camera_index=(torch.arange(config.frames) % len(config.focals))[None],
        registered=torch.ones(1, config.frames, dtype=torch.bool),
    )
    return World(
        cameras=cameras,
        points=Points(xyz_world=xyz[None], valid=torch.ones(1, config.points, dtype=torch.bool)),
        normals=normals[None],
        sizes=torch.tensor([[[config.width, config.height]] * config.frames]),
    )


def observe(world: World, min_facing: float = 0.15) -> Tracks:
    """Exact tracks: points in the picture whose surface faces the camera; covariance of one pixel.

    Args:
        world: the truth.
        min_facing: smallest cosine between the normal and the direction to the camera.
    """
    xy, in_front = world.cameras.project(world.points.xyz_world)
    inside = (xy >= 0).all(-1) & (xy <= world.sizes[:, :, None]).all(-1)
    to_camera = functional.normalize(world.cameras.centers[:, :, None] - world.points.xyz_world[:, None], dim=-1)
    facing = (to_camera * world.normals[:, None]).sum(-1) > min_facing
    xyz_cam = pose.transform(world.cameras.cam_from_world[:, :, None], world.points.xyz_world[:, None])
    # far outside the picture a polynomial distortion folds back into it
    ray = xyz_cam[..., :2] / xyz_cam[..., 2:].clamp_min(camera_models.MIN_DEPTH)
    unfolded = (world.cameras.unproject(xy) - ray).norm(dim=-1) < 1e-6
    seen = in_front & inside & facing & unfolded
    eye = torch.eye(2, dtype=xy.dtype).expand(*seen.shape, 2, 2)
    return Tracks(
        xy=torch.where(seen[..., None], xy, torch.zeros_like(xy)),
        visibility=seen.to(xy.dtype),
        covariance=eye.clone(),
        query_frame=seen.to(torch.uint8).argmax(1),
        valid=seen.any(1),
    )


def blank_images(world: World, focal_spread: float = 0.5, scale: float = 1.0) -> ImageSet:
    """Images without content but with all that stages behind the tracker need.

    Args:
        world: the truth; its poses and focal lengths are not given away.
        focal_spread: of the prior, which is ``DEFAULT_FOCAL`` long sides.
        scale: stored pixels per network pixel.
    """
    frames = world.sizes.shape[1]
    index = world.cameras.camera_index
    params = []
    for c, model in enumerate(world.cameras.models):
        width, height = (int(v) for v in world.sizes[0, index[0] == c][0])
        params.append(camera_models.from_focal(model, DEFAULT_FOCAL * max(width, height), width, height))
    priors = CameraPriors(
        camera_index=index,
        models=world.cameras.models,
        params=torch.stack(params)[None],
        known=torch.zeros(1, len(params), len(params[0]), dtype=torch.bool),
        focal_spread=torch.full((1, len(params)), focal_spread, dtype=torch.float64),
    )
    return ImageSet(
        pixels=torch.zeros(1, frames, 3, 8, 8),
        mask=torch.ones(1, frames, 8, 8, dtype=torch.bool),
        frame_valid=torch.ones(1, frames, dtype=torch.bool),
        stored_from_network=torch.tensor([[scale, 0.0, 0.0], [0.0, scale, 0.0]]).repeat(1, frames, 1, 1),
        stored_size=world.sizes,
        names=(tuple(f"{s:03d}.jpg" for s in range(frames)),),
        originals=None,
        priors=priors,
    )


def join(first: World, second: World) -> World:
    """Both worlds in one: all frames and all points, each seen as before; the cameras stay apart.

    The second world stands far above the first, so that no frame sees points of the other.
    """
    far = torch.tensor([0.0, -1e4, 0.0], dtype=torch.float64)
    poses = second.cameras.cam_from_world.clone()
    poses[..., 3] = poses[..., 3] - (poses[..., :3] @ far[:, None]).squeeze(-1)
    cameras = Cameras(
        cam_from_world=torch.cat([first.cameras.cam_from_world, poses], 1),
        models=(*first.cameras.models, *second.cameras.models),
        params=torch.cat([first.cameras.params, second.cameras.params], 1),
        camera_index=torch.cat(
            [first.cameras.camera_index, second.cameras.camera_index + len(first.cameras.models)], 1
        ),
        registered=torch.cat([first.cameras.registered, second.cameras.registered], 1),
    )
    points = Points(
        xyz_world=torch.cat([first.points.xyz_world, second.points.xyz_world + far], 1),
        valid=torch.cat([first.points.valid, second.points.valid], 1),
    )
    return World(
        cameras=cameras,
        points=points,
        normals=torch.cat([first.normals, second.normals], 1),
        sizes=torch.cat([first.sizes, second.sizes], 1),
    )


def only_frames(world: World, frames: list[int]) -> World:
    """The world seen by some of its frames."""
    cameras = dataclasses.replace(
        world.cameras,
        cam_from_world=world.cameras.cam_from_world[:, frames],
        camera_index=world.cameras.camera_index[:, frames],
        registered=world.cameras.registered[:, frames],
    )
    return dataclasses.replace(world, cameras=cameras, sizes=world.sizes[:, frames])


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _object(points: int, on_floor: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bumpy ball of radius one, on a round floor or alone."""
    floor = points // 3 if on_floor else 0
    direction = functional.normalize(_normal(generator, points - floor, 3), dim=-1)
    waves = _normal(generator, 6, 3) * 2
    radius = 1 + 0.06 * torch.sin(direction @ waves.mT).sum(-1, keepdim=True)
    angle = _uniform(generator, 0.0, 2 * math.pi, floor)
    distance = _uniform(generator, 0.0, 1.0, floor).sqrt() * 2
    ground = torch.stack([distance * angle.cos(), torch.full_like(angle, 1.2), distance * angle.sin()], -1)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64).expand(floor, 3)
    return torch.cat([direction * radius, ground]), torch.cat([direction, up])


def _around(config: WorldConfig) -> tuple[Tensor, Tensor]:
    turn = 2 * math.pi if config.path is Path.RING else 2 * math.pi / 3
    steps = config.frames if config.path is Path.RING else max(config.frames - 1, 1)
    angle = torch.arange(config.frames, dtype=torch.float64) * turn / steps
    centers = torch.stack([4.5 * angle.sin(), torch.full_like(angle, -1.2), -4.5 * angle.cos()], -1)
    return centers, torch.zeros_like(centers)


def _corridor(points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two walls, a floor and a rough end wall."""
    depth = _uniform(generator, 1.0, 12.0, points)
    across = _uniform(generator, -1.0, 1.0, points)
    side = torch.randint(4, (points,), generator=generator)
    one = torch.ones(points, dtype=torch.float64)
    zero = torch.zeros_like(one)
    rough = 0.1 * _normal(generator, points)
    walls = [
        torch.stack([-1.5 * one + rough, across, depth], -1),
        torch.stack([1.5 * one + rough, across, depth], -1),
        torch.stack([1.5 * across, one + rough, depth], -1),
        torch.stack([1.5 * across, _uniform(generator, -1.0, 1.0, points), 12 * one + 5 * rough], -1),
    ]
    normals = [
        torch.stack([one, zero, zero], -1),
        torch.stack([-one, zero, zero], -1),
        torch.stack([zero, -one, zero], -1),
        torch.stack([zero, zero, -one], -1),
    ]
    each = torch.arange(points)
    return torch.stack(walls)[side, each], torch.stack(normals)[side, each]


def _ahead(config: WorldConfig) -> tuple[Tensor, Tensor]:
    z = torch.linspace(0, 5, config.frames, dtype=torch.float64)
    centers = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], -1)
    return centers, centers + torch.tensor([0.0, 0.1, 4.0], dtype=torch.float64)


def _wall(points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A wall with boxes on it; normals look at the cameras."""
    x, y = _uniform(generator, -5.0, 5.0, points), _uniform(generator, -2.0, 2.0, points)
    relief = torch.where((torch.sin(2 * x) > 0) & (torch.sin(3 * y) > -0.5), 0.8, 0.0)
    z = 0.1 * torch.sin(5 * x) - relief
    normals = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand(points, 3)
    return torch.stack([x, y, z], -1), normals.clone()


def _along(config: WorldConfig) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-3, 3, config.frames, dtype=torch.float64)
    centers = torch.stack([x, torch.zeros_like(x), torch.full_like(x, -5.0)], -1)
    targets = torch.stack([0.4 * x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    return centers, targets
