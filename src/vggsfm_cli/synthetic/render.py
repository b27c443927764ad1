"""Pictures of random scenes with exact cameras, depth and tracks, computed on any device."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Points, Queries, Record, TensorRecord, Tracks
from vggsfm_cli.synthetic import casting, shading
from vggsfm_cli.synthetic.casting import TILE, Facets, TileLists
from vggsfm_cli.synthetic.photometry import photograph
from vggsfm_cli.synthetic.scenes import SceneConfig, make_scenes
from vggsfm_cli.synthetic.surfaces import Surfaces
from vggsfm_cli.synthetic.textures import Textures

DEFAULT_FOCAL = 1.2
"""Focal length that is guessed without better knowledge, in long sides of the photograph."""


RAYS_AT_ONCE = {"cpu": 2**18, "cuda": 2**23}
"""Rays that are cast together: as many as fit a CPU's cache, or a GPU's memory."""

RAYS_IN_MEMORY = 2**25
"""Rays whose colours are kept together: a scene with more is painted some frames at a time."""

SHADED_AT_ONCE = {"cpu": 2**16, "cuda": 2**22}
"""Rays whose colours are computed together."""

SHADOW_STEP = 16
"""Of so many rays one says where shadows may be seen."""

SAME_DEPTH = 1e-7
"""Relative difference of inverse depths up to which a ray meets the point itself and not something before it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedScenes(TensorRecord):
    """Pictures with their truth.

    Attributes:
        images: network pixels are stored pixels; nothing is known of the cameras.
        cameras: the truth, in double precision.
        depth: along the optical axis, at the pixel centres; 0 where nothing is hit.
        surfaces: the geometry, for exact ray queries.
    """

    images: ImageSet
    cameras: Cameras
    depth: Float[Tensor, "B S H W"]
    surfaces: Surfaces


def render(
    config: SceneConfig,
    textures: Textures,
    scenes: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> RenderedScenes:
    """Draw random scenes and take their pictures.

    Args:
        config: what to draw from.
        textures: pictures for the surfaces; moved to ``device`` if they are elsewhere.
        scenes: how many.
        generator: on the CPU; equal states give equal scenes.
        device: where the pictures are computed.
    """
    surfaces, cameras = make_scenes(config, textures.count, textures.sides[0], scenes, generator)
    surfaces, cameras, textures = surfaces.to(device), cameras.to(device), textures.to(device)
    at_once = RAYS_AT_ONCE.get(torch.device(device).type, 2**20)
    rays = config.height * config.width * (1 + config.samples**2 * (config.samples > 1))
    step, frames = max(1, at_once // (config.frames * rays)), max(1, RAYS_IN_MEMORY // rays)
    parts = [
        _paint_by_frames(config, textures, _some(surfaces, b, b + step), _some(cameras, b, b + step), frames)
        for b in range(0, scenes, step)
    ]
    pixels, depth = (torch.cat(values) for values in zip(*parts, strict=True))
    if config.photometry is not None:
        pixels = photograph(pixels, config.photometry, generator)
    return RenderedScenes(images=_image_set(pixels, cameras), cameras=cameras, depth=depth, surfaces=surfaces)


def _some(record: Record, start: int, end: int) -> Record:
    """Some of the scenes."""
    return record._map(lambda tensor: tensor[start:end])


def _paint_by_frames(
    config: SceneConfig, textures: Textures, surfaces: Surfaces, cameras: Cameras, at_once: int
) -> tuple[Float[Tensor, "B S 3 H W"], Float[Tensor, "B S H W"]]:
    """What ``_paint`` gives, at most so many frames at a time; shadows are as fine as those frames need them."""
    parts = []
    for s in range(0, config.frames, at_once):
        some = slice(s, s + at_once)
        light = dataclasses.replace(surfaces.lighting, toward_sun=surfaces.lighting.toward_sun[:, some])
        seen = dataclasses.replace(
            cameras,
            cam_from_world=cameras.cam_from_world[:, some],
            camera_index=cameras.camera_index[:, some],
            registered=cameras.registered[:, some],
        )
        parts.append(_paint(config, textures, dataclasses.replace(surfaces, lighting=light), seen))
    pixels, depth = zip(*parts, strict=True)
    return torch.cat(pixels, 1), torch.cat(depth, 1)


def _image_set(pixels: Float[Tensor, "B S 3 H W"], cameras: Cameras) -> ImageSet:
    batch, frames, _, height, width = pixels.shape
    device = pixels.device
    params = camera_models.from_focal("SIMPLE_RADIAL", DEFAULT_FOCAL * max(width, height), width, height)
    count = len(cameras.models)
    priors = CameraPriors(
        camera_index=cameras.camera_index,
        models=cameras.models,
        params=params.to(device).expand(batch, count, 4).clone(),
        known=torch.zeros(batch, count, 4, dtype=torch.bool, device=device),
        focal_spread=torch.full((batch, count), 0.5, dtype=torch.float64, device=device),
    )
    return ImageSet(
        pixels=pixels,
        mask=torch.ones(batch, frames, height, width, dtype=torch.bool, device=device),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool, device=device),
        stored_from_network=torch.eye(2, 3, device=device).expand(batch, frames, 2, 3).clone(),
        stored_size=torch.tensor([width, height], device=device).expand(batch, frames, 2).clone(),
        names=tuple(tuple(f"{s:03d}.png" for s in range(frames)) for _ in range(batch)),
        originals=None,
        priors=priors,
    )


def _paint(
    config: SceneConfig, textures: Textures, surfaces: Surfaces, cameras: Cameras
) -> tuple[Float[Tensor, "B S 3 H W"], Float[Tensor, "B S H W"]]:
    size = (config.height, config.width)
    batch, frames = cameras.camera_index.shape
    facets = surfaces.facets(cameras.cam_from_world, torch.float32)
    view = cast(surfaces, cameras, facets, size, 1)
    depth = _image_of(view.depth, batch, frames, size)[:, :, 0]
    if config.samples > 1:
        view = cast(surfaces, cameras, facets, size, config.samples)
    light = _colors(config, textures, surfaces, cameras, view)
    full = (size[0] * config.samples, size[1] * config.samples)
    light = _image_of(light, batch, frames, full)
    if config.samples > 1:
        light = functional.avg_pool2d(light.flatten(0, 1), config.samples).reshape(batch, frames, 3, *size)
    return light.clamp(0, 1).sqrt(), depth


@dataclass(frozen=True, kw_only=True, eq=False)
class Casting:
    """Rays of all tiles of all frames and what they meet.

    Attributes:
        rays: positions on the z = 1 plane.
        depth: of the hit, 0 where there is none.
        patch: that is hit, -1 where there is none.
        pixel: what a pixel covers at unit depth.
    """

    rays: Float[Tensor, "T 2 R"]
    depth: Float[Tensor, "T R"]
    patch: Int[Tensor, "T R"]
    pixel: Float[Tensor, " F"]


def cast(surfaces: Surfaces, cameras: Cameras, facets: Facets, size: tuple[int, int], samples: int) -> Casting:
    """Cast the rays of all pixels, ``samples`` squared each."""
    rays = pixel_rays(cameras, size, samples)
    lists = casting.list_by_tile(facets, casting.tile_boxes(rays.permute(0, 2, 3, 1)))
    tiles = casting.to_tiles(rays)
    nearness, facet = casting.first_hits(facets, lists, tiles)
    hit = facet >= 0
    depth = hit / torch.where(hit, nearness, torch.ones_like(nearness))
    patch = facets.patch[facet.clamp(min=0)] if len(facets.patch) else facet
    pixel = 1 / (cameras.frame_params[..., 0].flatten() * samples)
    return Casting(
        rays=tiles, depth=depth, patch=torch.where(hit, patch, facet.clamp(max=-1)), pixel=pixel.to(depth.dtype)
    )


def pixel_rays(cameras: Cameras, size: tuple[int, int], samples: int = 1) -> Float[Tensor, "F 2 H W"]:
    """Positions on the z = 1 plane of all pixels, with more at the right and at the bottom to fill the tiles."""
    height, width = (side * samples + (-side * samples) % TILE for side in size)
    params = cameras.frame_params.flatten(0, 1).float()
    focal, center, bend = params[:, :1], params[:, 1:3], params[:, 3]
    x = ((torch.arange(width, device=params.device) + 0.5) / samples - center[:, :1]) / focal
    y = ((torch.arange(height, device=params.device) + 0.5) / samples - center[:, 1:]) / focal
    squared = x.square()[:, None, :] + y.square()[:, :, None]
    # r (1 + k r^2) = d has the solution r = d s with s + k d^2 s^3 = 1: Newton's method on s
    curve = squared * bend[:, None, None]
    stretch = 1 - curve.clamp(min=-0.2) / (1 + 3 * curve.clamp(min=-0.2))
    for _ in range(4):
        cube = curve * stretch.square()
        stretch = stretch - (stretch + cube * stretch - 1) / (1 + 3 * cube).clamp(min=0.05)
        stretch = stretch.clamp(0, 3)
    return torch.stack([x[:, None, :] * stretch, y[:, :, None] * stretch], 1)


def _colors(
    config: SceneConfig, textures: Textures, surfaces: Surfaces, cameras: Cameras, view: Casting
) -> Float[Tensor, "T 3 R"]:
    tiles, rays = view.depth.shape
    shadows = None
    if config.shadows and bool((surfaces.lighting.shadow > 0).any()):
        hits, _, _ = _hits(surfaces, cameras, view, slice(0, tiles), slice(0, rays, SHADOW_STEP))
        scene = hits.frame // cameras.camera_index.shape[1]
        # near places count more: those far away would make the map coarse
        shadows = shading.cast_shadows(surfaces, scene, hits.xyz_world, hits.pixel**-2)
    looks = shading.looks_of(surfaces)
    step = max(1, SHADED_AT_ONCE.get(view.depth.device.type, 2**16) // rays)
    pieces = []
    for k in range(0, tiles, step):
        some = slice(k, min(k + step, tiles))
        hits, rows, sky = _hits(surfaces, cameras, view, some, slice(0, rays))
        colors = view.depth.new_zeros(3, (some.stop - some.start) * rays)
        colors[:, rows] = shading.shade(surfaces, looks, textures, hits, shadows)
        colors[:, sky.rows] = shading.sky(surfaces, textures, sky.frame, sky.direction)
        pieces.append(colors.reshape(3, -1, rays).transpose(0, 1))
    return torch.cat(pieces)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sky:
    """Rays that meet nothing: which ones, in which frame, and where to."""

    rows: Int[Tensor, " N"]
    frame: Int[Tensor, " N"]
    direction: Float[Tensor, "3 N"]


def _hits(
    surfaces: Surfaces, cameras: Cameras, view: Casting, tiles: slice, rays: slice
) -> tuple[shading.Hits, Int[Tensor, " R"], _Sky]:
    """What some rays of some tiles meet, and which of them do."""
    frames = cameras.camera_index.shape[1]
    frame_of_tile = torch.arange(tiles.start, tiles.stop, device=view.depth.device) // (
        len(view.depth) // cameras.camera_index.numel()
    )
    world_from_cam = cameras.cam_from_world[..., :3].flatten(0, 1).mT.float().index_select(0, frame_of_tile)
    directions = world_from_cam[..., :2] @ view.rays[tiles, :, rays] + world_from_cam[..., 2:]
    directions = directions.transpose(0, 1).flatten(1)
    depth, patch = view.depth[tiles, rays], view.patch[tiles, rays].flatten()
    frame = frame_of_tile.repeat_interleave(depth.shape[1])
    hit = (depth > 0).flatten()
    rows, missed = hit.nonzero().squeeze(-1), (~hit).nonzero().squeeze(-1)
    depth, direction, seen = (
        depth.flatten().index_select(0, rows),
        directions.index_select(1, rows),
        frame.index_select(0, rows),
    )
    center = cameras.centers.flatten(0, 1).mT.float().contiguous().index_select(1, seen)
    hits = shading.Hits(
        frame=seen,
        patch=seen // frames * surfaces.material.shape[1] + patch.index_select(0, rows),
        xyz_world=center.addcmul_(direction, depth),
        direction=direction,
        pixel=view.pixel.index_select(0, seen) * depth,
    )
    sky = _Sky(rows=missed, frame=frame.index_select(0, missed), direction=directions.index_select(1, missed))
    return hits, rows, sky


def _image_of(tiles: Tensor, batch: int, frames: int, size: tuple[int, int]) -> Tensor:
    height, width = (side + (-side) % TILE for side in size)
    planes = tiles[:, None] if tiles.dim() == 2 else tiles  # noqa: PLR2004
    image = casting.from_tiles(planes, batch * frames, height, width)
    return image[..., : size[0], : size[1]].reshape(batch, frames, -1, *size)


def true_tracks(rendered: RenderedScenes, queries: Queries) -> Tracks:
    """Where the points under the queries are in all frames, and where they are seen; exact up to rounding.

    The ray of a query, through the distortion, gives its point; a point is seen where it is inside the picture and
    the ray back to it meets nothing before it and its surface from the outside. The covariance is nominal: a
    hundredth of a pixel. A query that meets nothing is not valid.
    """
    cameras, surfaces = rendered.cameras, rendered.surfaces
    height, width = rendered.depth.shape[-2:]
    batch, frames = cameras.camera_index.shape
    rays = pixel_rays(cameras, (height, width))
    facets = surfaces.facets(cameras.cam_from_world, torch.float64)
    lists = casting.list_by_tile(facets, casting.tile_boxes(rays.permute(0, 2, 3, 1)))
    cam_from_world = cameras.cam_from_world.double()
    xyz_world, found = _points_under(cameras, queries, facets, lists, cam_from_world)
    xyz_cam = pose.transform(cam_from_world[:, :, None], xyz_world[:, None])
    params = cameras.frame_params.double()[:, :, None]
    xy, in_front = camera_models.project("SIMPLE_RADIAL", params, xyz_cam)
    ray = xyz_cam[..., :2] / torch.where(in_front, xyz_cam[..., 2], torch.ones_like(xyz_cam[..., 2]))[..., None]
    # beyond this radius a polynomial distortion folds back into the picture
    unfolded = 1 + 3 * params[..., 3] * ray.square().sum(-1) > 0
    size = torch.tensor([width, height], dtype=xy.dtype, device=xy.device)
    inside = in_front & unfolded & (xy >= 0).all(-1) & (xy <= size).all(-1) & found[:, None]
    view = torch.arange(batch * frames, device=xy.device).reshape(batch, frames, 1).expand_as(inside)[inside]
    nearness, _ = casting.first_hits_of(facets, lists, lists.tile_of(view, xy[inside]), ray[inside])
    seen = torch.zeros_like(inside)
    seen[inside] = (nearness * xyz_cam[..., 2][inside] - 1).abs() < SAME_DEPTH
    dtype = queries.xy.dtype
    xy = torch.where((in_front & found[:, None])[..., None], xy, torch.zeros_like(xy)).to(dtype)
    own = queries.frame[:, None] == torch.arange(frames, device=xy.device)[:, None]
    return Tracks(
        xy=torch.where(own[..., None], queries.xy[:, None], xy),
        visibility=(seen | (own & found[:, None])).to(dtype),
        covariance=(1e-4 * torch.eye(2, dtype=dtype, device=xy.device)).expand(*seen.shape, 2, 2).clone(),
        query_frame=queries.frame,
        valid=found,
    )


def true_points(rendered: RenderedScenes, queries: Queries) -> Points:
    """World positions of the points under the queries; ``valid`` where a query meets a surface."""
    rays = pixel_rays(rendered.cameras, (rendered.depth.shape[-2], rendered.depth.shape[-1]))
    facets = rendered.surfaces.facets(rendered.cameras.cam_from_world, torch.float64)
    lists = casting.list_by_tile(facets, casting.tile_boxes(rays.permute(0, 2, 3, 1)))
    xyz, found = _points_under(rendered.cameras, queries, facets, lists, rendered.cameras.cam_from_world.double())
    return Points(xyz_world=xyz, valid=found)


def _points_under(
    cameras: Cameras, queries: Queries, facets: Facets, lists: TileLists, cam_from_world: Tensor
) -> tuple[Float[Tensor, "B Q 3"], Bool[Tensor, "B Q"]]:
    """World positions that queries look at, and whether they look at any."""
    batch, frames = cameras.camera_index.shape
    scene = torch.arange(batch, device=queries.xy.device)[:, None].expand_as(queries.frame)
    xy = queries.xy.double()
    params = cameras.frame_params.double()[scene, queries.frame]
    ray = camera_models.unproject("SIMPLE_RADIAL", params, xy)
    view = scene * frames + queries.frame
    nearness, facet = casting.first_hits_of(facets, lists, lists.tile_of(view, xy).flatten(), ray.flatten(0, 1))
    found = (facet >= 0).reshape(queries.frame.shape) & queries.valid
    depth = (1 / torch.where(facet >= 0, nearness, torch.ones_like(nearness))).reshape(*queries.frame.shape, 1)
    xyz_cam = torch.cat([ray, torch.ones_like(ray[..., :1])], -1) * depth
    return pose.transform(pose.inverse(cam_from_world)[scene, queries.frame], xyz_cam), found
