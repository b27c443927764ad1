"""Scenes and partial reconstructions of synthetic worlds as the mapping sees them, with cameras near the truth."""

import dataclasses

import torch
from worlds import Path, World, WorldConfig, blank_images, make_world, observe

from support.noise import NoiseConfig, add_noise
from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.mapping.rounds import triangulate
from vggsfm_cli.scene import Cameras, ImageSet
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

NOISE = NoiseConfig(sigma_px=0.3, outliers=0.02, missing=0.05)


def arc(distortion: float = 0.0) -> World:
    """A ball seen by eight frames from a third of a turn: all parameters are well determined."""
    return make_world(WorldConfig(distortion=distortion, points=400), 0)


def from_above(distortion: float = 0.0) -> World:
    """Nearly flat ground seen by eight frames that look straight at it: height, focal length and distortion trade."""
    world = make_world(WorldConfig(path=Path.FACADE, points=500, distortion=distortion), 0)
    x = torch.linspace(-2.5, 2.5, 8, dtype=torch.float64)
    y = 0.3 * torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    centers = torch.stack([x, y, torch.full_like(x, -5.0)], -1)
    down = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    poses = pose.look_at(centers, centers + down, torch.zeros(8, dtype=torch.float64))
    flat = world.points.xyz_world * torch.tensor([1.0, 1.0, 0.03], dtype=torch.float64)
    return dataclasses.replace(
        world,
        cameras=dataclasses.replace(world.cameras, cam_from_world=poses[None]),
        points=dataclasses.replace(world.points, xyz_world=flat),
    )


def scene_of(world: World, noise: NoiseConfig = NOISE) -> TrackedScene:
    """What the mapping starts from; the prior holds a distortion of zero and a focal length of 1.2 long sides."""
    images = blank_images(world)
    tracks = add_noise(observe(world), world.sizes, noise, 0)
    return TrackedScene.of(images, tracks, RansacTriangulatorConfig().build())


def partial_of(
    scene: TrackedScene, world: World, distortion: float | None = None, max_error_px: float = 10.0
) -> Partial:
    """Points of the true cameras, with another distortion if one is given."""
    params = world.cameras.params.clone()
    if distortion is not None:
        params[..., 3] = distortion
    return triangulate(scene, dataclasses.replace(world.cameras, params=params), max_error_px)


def bent(world: World, radians: float) -> Cameras:
    """The true cameras, each turned by about so much."""
    generator = torch.Generator().manual_seed(0)
    frames = world.cameras.registered.shape[1]
    turn = rotation.exp(radians * torch.randn(frames, 3, generator=generator, dtype=torch.float64))
    poses = torch.cat([turn @ world.cameras.cam_from_world[0, :, :, :3], world.cameras.cam_from_world[0, :, :, 3:]], -1)
    return dataclasses.replace(world.cameras, cam_from_world=poses[None])


def moved_sideways(world: World, share: float) -> World:
    """The world with all cameras at the place of the first, moved towards their own place by a share of the way."""
    centers = world.cameras.centers[0]
    centers = centers[:1] + share * (centers - centers[:1])
    turned = world.cameras.cam_from_world[0, :, :, :3]
    poses = torch.cat([turned, -turned @ centers[..., None]], -1)
    return dataclasses.replace(world, cameras=dataclasses.replace(world.cameras, cam_from_world=poses[None]))


def pose_error_deg(cameras: Cameras, world: World) -> float:
    """Largest error of a relative rotation or direction among the registered frames."""
    return float(
        pair_errors(cameras.cam_from_world[0], world.cameras.cam_from_world[0], cameras.registered[0]).worse_deg.max()
    )


def with_known_lens(images: ImageSet, world: World) -> ImageSet:
    """The same with the true parameters of all cameras known."""
    priors = dataclasses.replace(images.priors, params=world.cameras.params, known=torch.ones_like(images.priors.known))
    return dataclasses.replace(images, priors=priors)
