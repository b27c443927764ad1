"""A small model with its photographs: what they show is a known function of the direction, whatever the lens."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vggsfm_cli.geometry import camera
from vggsfm_cli.scene import Cameras, Reconstruction

WIDTH, HEIGHT = 160, 120

LENSES = {
    "SIMPLE_PINHOLE": [130.0, 78.0, 61.5],
    "PINHOLE": [130.0, 127.0, 78.0, 61.5],
    "SIMPLE_RADIAL": [130.0, 78.0, 61.5, -0.12],
    "RADIAL": [130.0, 78.0, 61.5, 0.08, -0.03],
    "OPENCV": [130.0, 127.0, 78.0, 61.5, -0.15, 0.04, 0.004, -0.003],
    "OPENCV_FISHEYE": [90.0, 91.0, 78.0, 61.5, 0.02, -0.01, 0.002, -0.001],
}


def pattern(uv: np.ndarray) -> np.ndarray:
    """Colours in [0, 255] seen in directions ``(u, v, 1)``: smooth, but steep enough to show half a pixel."""
    u, v = uv[..., 0], uv[..., 1]
    waves = np.stack([np.sin(9 * u + 2 * v), np.sin(8 * v - 3 * u + 1), np.cos(6 * (u + v))], -1)
    return 127.5 + 100 * waves


def pinhole_picture(params: list[float], width: int, height: int) -> np.ndarray:
    """The pattern as a camera with these ``fx fy cx cy`` sees it."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return pattern(np.stack([(x - params[2]) / params[0], (y - params[3]) / params[1]], -1))


def lens_picture(model: str, params: list[float], width: int, height: int) -> np.ndarray:
    """The pattern as a camera with distortion sees it."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    xy = torch.from_numpy(np.stack([x, y], -1))
    return pattern(camera.unproject(model, torch.tensor(params, dtype=torch.float64), xy).numpy())


def read_picture(path: Path) -> np.ndarray:
    """Pixels of a file as stored."""
    with Image.open(path) as image:
        return np.asarray(image)


def pictured_model(
    folder: Path, lens: str = "SIMPLE_RADIAL", names: tuple[str, ...] = ("a.png", "b.png", "c.png"), points: int = 60
) -> Reconstruction:
    """Cameras side by side before a cloud of points, their projections, and a photograph of each in ``folder``."""
    frames = len(names)
    generator = torch.Generator().manual_seed(0)
    xyz = (torch.rand(points, 3, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([4.0, 3.0, 2.0])
    poses = torch.eye(3, 4, dtype=torch.float64).repeat(frames, 1, 1)
    for s in range(frames):
        angle = torch.tensor(0.1 * (s - 1))
        poses[s, 0, 0] = poses[s, 2, 2] = angle.cos()
        poses[s, 0, 2], poses[s, 2, 0] = angle.sin(), -angle.sin()
        poses[s, :, 3] = torch.tensor([0.3 * s, 0.05 * s, 5.0])
    cameras = Cameras(
        cam_from_world=poses[None],
        models=(lens,),
        params=torch.tensor([[LENSES[lens]]], dtype=torch.float64),
        camera_index=torch.zeros(1, frames, dtype=torch.long),
        registered=torch.ones(1, frames, dtype=torch.bool),
    )
    xy = cameras.project(xyz[None])[0][0]
    inside = ((xy > 0) & (xy < torch.tensor([WIDTH, HEIGHT]))).all(-1)
    frame, point = (inside & (inside.sum(0) > 1)).nonzero(as_tuple=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = lens_picture(lens, LENSES[lens], WIDTH, HEIGHT).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return Reconstruction(
        cameras=cameras,
        names=names,
        sizes=torch.tensor([[WIDTH, HEIGHT]] * frames),
        xyz_world=xyz,
        color=torch.rand(points, 3, generator=generator),
        error_px=torch.zeros(points, dtype=torch.float64),
        frame=frame,
        point=point,
        xy=xy[frame, point],
    )
