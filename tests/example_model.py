"""A small reconstruction with exact projections, for tests of files and figures."""

import math

import torch

from vggsfm_cli.geometry import camera
from vggsfm_cli.scene import Cameras, Reconstruction


def example_model(frames: int = 6, points: int = 200, seed: int = 0) -> Reconstruction:
    """Cameras on an arc around a coloured ball on a ground plane; the last camera is of another model and size."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator, dtype=torch.float64), dim=-1)
    xyz = direction.clone()
    ground = torch.arange(points) % 3 == 0
    xyz[ground, 1] = 1.0
    xyz[ground] *= torch.tensor([2.5, 1.0, 2.5])
    poses = torch.stack([_look_at(math.radians(-60 + 120 * s / max(frames - 1, 1))) for s in range(frames)])
    shared = camera.from_focal("SIMPLE_RADIAL", 800.0, 1000, 750)
    shared[3] = -0.02
    other = camera.from_focal("OPENCV", 700.0, 600, 900)
    params = torch.zeros(1, 2, 8, dtype=torch.float64)
    params[0, 0, :4], params[0, 1] = shared, other
    cameras = Cameras(
        cam_from_world=poses[None],
        models=("SIMPLE_RADIAL", "OPENCV"),
        params=params,
        camera_index=torch.tensor([[0] * (frames - 1) + [1]]),
        registered=torch.ones(1, frames, dtype=torch.bool),
    )
    projected, _ = cameras.project(xyz[None])
    seen = torch.rand(frames, points, generator=generator) < 0.7
    seen[:2] = True
    frame, point = seen.nonzero().unbind(-1)
    order = torch.randperm(len(frame), generator=generator)  # observations need not be sorted
    return Reconstruction(
        cameras=cameras,
        names=tuple(f"view {s}.jpg" for s in range(frames)),
        sizes=torch.tensor([[1000, 750]] * (frames - 1) + [[600, 900]]),
        xyz_world=xyz,
        color=((direction + 1) / 2).float(),
        error_px=torch.rand(points, generator=generator, dtype=torch.float64),
        frame=frame[order],
        point=point[order],
        xy=projected[0][frame[order], point[order]],
        report={"adjuster": "none"},
    )


def _look_at(angle: float) -> torch.Tensor:
    """Pose of a camera 5 units from the origin, a little above it, looking at it; y is down."""
    center = torch.tensor([5 * math.sin(angle), -1.5, -5 * math.cos(angle)], dtype=torch.float64)
    forward = -center / center.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    return torch.cat([rotation, -(rotation @ center)[:, None]], -1)
