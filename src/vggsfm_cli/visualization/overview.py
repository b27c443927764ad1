"""One picture of a model: its points in their colours and its cameras, from above and from the front."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization.arrangement import corner_rays, frustum_depth, upright_axes


@dataclass(frozen=True, kw_only=True)
class OverviewConfig:
    """Look of the picture; colours are RGB."""

    panel_width_px: int = 960  # of each of the two panels
    panel_height_px: int = 760
    margin: float = 0.06  # free border, part of the panel's width
    oversampling: int = 2
    background: tuple[int, int, int] = (18, 21, 28)
    frustum: tuple[int, int, int] = (255, 150, 50)
    crop_percentile: float = 2.0  # of the points at either end, before the view is fitted
    crop_slack: float = 0.25  # points this far outside the cropped range still show
    coverage: float = 0.6  # of the panel by points, which sets their size
    fog: float = 0.25  # how much the farthest points fade
    max_exposure: float = 1.9  # dark photographs are brightened by one factor up to this


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """Where the spectator stands, as seen from the scene.

    Attributes:
        elevation_deg: above the ground.
        azimuth_deg: to the right of the place behind the cameras.
    """

    elevation_deg: float
    azimuth_deg: float


VIEWPOINTS = (Viewpoint(elevation_deg=52.0, azimuth_deg=28.0), Viewpoint(elevation_deg=12.0, azimuth_deg=-10.0))
SPECTATOR_DISTANCE = 3.0
"""In radii of the scene; nearer exaggerates the perspective."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """What is drawn, in a frame with x right, y down and z away from the cameras, origin amid the scene."""

    xyz: Float[np.ndarray, "n 3"]
    color: Float[np.ndarray, "n 3"]
    frusta: Float[np.ndarray, "s 5 3"]
    radius: float


def draw_overview(reconstruction: Reconstruction, config: OverviewConfig | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """RGB picture of a model: points with true colours and camera frusta, from two sides.

    The world is turned so that the cameras' mean up points up; far outliers among the points are cropped.
    """
    config = config or OverviewConfig()
    scene = _arrange(reconstruction, config)
    panels = [_draw_panel(scene, viewpoint, config) for viewpoint in VIEWPOINTS]
    line = np.full((panels[0].shape[0], 2, 3), np.array(config.background) + 30, dtype=np.uint8)
    return np.concatenate([panels[0], line, panels[1]], axis=1)


def save_overview(reconstruction: Reconstruction, path: Path | str, config: OverviewConfig | None = None) -> None:
    """Write ``draw_overview`` to a PNG file."""
    picture = draw_overview(reconstruction, config)
    encoded, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert encoded
    Path(path).write_bytes(data.tobytes())


def _arrange(reconstruction: Reconstruction, config: OverviewConfig) -> _Scene:
    cameras = reconstruction.cameras
    poses = cameras.cam_from_world[0].detach().cpu().double().numpy()
    rotation, center = poses[:, :, :3], -np.einsum("sji,sj->si", poses[:, :, :3], poses[:, :, 3])
    xyz = reconstruction.xyz_world.detach().cpu().double().numpy()
    color = reconstruction.color.detach().cpu().double().numpy()
    shown_from_world = upright_axes(rotation)
    xyz, center = xyz @ shown_from_world.T, center @ shown_from_world.T
    keep, middle = _crop(xyz, config)
    everything = np.concatenate([xyz[middle], center])
    origin = (everything.min(0) + everything.max(0)) / 2
    radius = float(np.linalg.norm(everything - origin, axis=1).max()) or 1.0
    rays = corner_rays(reconstruction)
    depth = frustum_depth(center, radius)
    corners = center[:, None] + depth * np.einsum("ij,skj,skl->sli", shown_from_world, rotation, rays)
    frusta = np.concatenate([center[:, None], corners], axis=1)
    return _Scene(xyz=xyz[keep] - origin, color=_exposed(color[keep], config), frusta=frusta - origin, radius=radius)


def _exposed(color: Float[np.ndarray, "n 3"], config: OverviewConfig) -> Float[np.ndarray, "n 3"]:
    """Colours times one factor that makes the brightest of them nearly white; hues stay true."""
    if len(color) == 0:
        return color
    bright = max(float(np.percentile(color.max(1), 95)), 1e-3)
    return np.minimum(color * np.clip(0.95 / bright, 1.0, config.max_exposure), 1.0)


def _crop(
    xyz: Float[np.ndarray, "n 3"], config: OverviewConfig
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Points to show, and those among them that the view is fitted to."""
    if len(xyz) == 0:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    low, high = np.percentile(xyz, [config.crop_percentile, 100 - config.crop_percentile], axis=0)
    slack = config.crop_slack * (high - low)
    return (
        ((xyz >= low - slack) & (xyz <= high + slack)).all(1),
        ((xyz >= low) & (xyz <= high)).all(1),
    )


def _draw_panel(scene: _Scene, viewpoint: Viewpoint, config: OverviewConfig) -> UInt8[np.ndarray, "H W 3"]:
    size = config.panel_width_px * config.oversampling, config.panel_height_px * config.oversampling
    xyz, frusta = _from_viewpoint(scene.xyz, viewpoint, scene), _from_viewpoint(scene.frusta, viewpoint, scene)
    points, corners = xyz[:, :2] / xyz[:, 2:], frusta[..., :2] / frusta[..., 2:]
    zoom, shift = _fit(np.concatenate([_trimmed(points, config), corners.reshape(-1, 2)]), size, config.margin)
    canvas = np.empty((size[1], size[0], 3), dtype=np.uint8)
    canvas[:] = config.background
    _splat(canvas, points * zoom + shift, xyz[:, 2], scene, config)
    canvas = _draw_frusta(canvas, corners * zoom + shift, frusta[..., 2], config)
    small = cv2.resize(canvas, (config.panel_width_px, config.panel_height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def _from_viewpoint(xyz: Float[np.ndarray, "*b 3"], viewpoint: Viewpoint, scene: _Scene) -> Float[np.ndarray, "*b 3"]:
    """Scene coordinates to those of the spectator, z forward."""
    e, a = np.radians(viewpoint.elevation_deg), np.radians(viewpoint.azimuth_deg)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    moved = xyz @ (tilt @ turn).T
    moved[..., 2] = np.maximum(moved[..., 2] + SPECTATOR_DISTANCE * scene.radius, 0.1 * scene.radius)
    return moved


def _trimmed(points: Float[np.ndarray, "n 2"], config: OverviewConfig) -> Float[np.ndarray, "m 2"]:
    if len(points) == 0:
        return points
    percentile = config.crop_percentile / 2
    return np.percentile(points, [percentile, 100 - percentile], axis=0)


def _fit(xy: Float[np.ndarray, "n 2"], size: tuple[int, int], margin: float) -> tuple[float, Float[np.ndarray, "2"]]:
    """Zoom and shift that bring all of ``xy`` onto the panel."""
    low, high = xy.min(0), xy.max(0)
    free = np.array(size) - 2 * margin * size[0]
    zoom = float((free / np.maximum(high - low, 1e-9)).min())
    return zoom, np.array(size) / 2 - zoom * (low + high) / 2


def _splat(
    canvas: UInt8[np.ndarray, "H W 3"],
    xy: Float[np.ndarray, "n 2"],
    depth: Float[np.ndarray, " n"],
    scene: _Scene,
    config: OverviewConfig,
) -> None:
    """Draw points as discs, near ones over far ones."""
    if len(xy) == 0:
        return
    height, width = canvas.shape[:2]
    area = np.prod(np.ptp(np.percentile(xy, [5, 95], axis=0), axis=0))
    radius = float(np.clip(np.sqrt(config.coverage * area / (np.pi * len(xy))), 1.0, 3.0 * config.oversampling))
    offsets = _disc(radius)
    fade = config.fog * np.clip((depth / scene.radius - SPECTATOR_DISTANCE + 1) / 2, 0, 1)[:, None]
    shown = 255 * scene.color * (1 - fade) + np.array(config.background) * fade
    order = np.argsort(-depth)
    cells = np.floor(xy[order]).astype(np.int64)[:, None] + offsets
    inside = ((cells >= 0) & (cells < (width, height))).all(-1)
    # assignment keeps the last of several values for one pixel: the nearest
    index = (cells[..., 1] * width + cells[..., 0])[inside]
    owner = np.broadcast_to(order[:, None], inside.shape)[inside]
    winner = np.full(height * width, -1, dtype=np.int64)
    winner[index] = owner
    drawn = winner >= 0
    canvas.reshape(-1, 3)[drawn] = shown[winner[drawn]].round().clip(0, 255).astype(np.uint8)


def _disc(radius: float) -> Int[np.ndarray, "k 2"]:
    reach = int(np.ceil(radius))
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    return grid[(grid**2).sum(1) <= radius**2]


def _draw_frusta(
    canvas: UInt8[np.ndarray, "H W 3"],
    xy: Float[np.ndarray, "s 5 2"],
    depth: Float[np.ndarray, "s 5"],
    config: OverviewConfig,
) -> UInt8[np.ndarray, "H W 3"]:
    """Wire frames with a translucent picture plane, the farthest camera first."""
    shift, one = 4, 16  # OpenCV draws at sixteenths of a pixel
    width = max(1, round(0.9 * config.oversampling))
    fixed = np.round(xy[np.argsort(-depth[:, 0])] * one).astype(np.int32)
    filled = canvas.copy()
    for frustum in fixed:
        cv2.fillConvexPoly(filled, frustum[1:], config.frustum, cv2.LINE_AA, shift)
    canvas = np.asarray(cv2.addWeighted(filled, 0.28, canvas, 0.72, 0), dtype=np.uint8)
    for frustum in fixed:
        for corner in frustum[1:].tolist():
            cv2.line(canvas, frustum[0].tolist(), corner, config.frustum, width, cv2.LINE_AA, shift)
        cv2.polylines(canvas, [frustum[1:]], True, config.frustum, width, cv2.LINE_AA, shift)
    return canvas
