"""A walk along a ring before a wall of points, and a tracker that knows where they are: policy without pictures."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.geometry import pose
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import Cameras, ImageSet, Queries, Tracks
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.tracker import CoarseToFineTracker

WIDTH, HEIGHT, FOCAL = 320, 240, 280.0
RADIUS, WALL = 4.0, 8.0


def ring_cameras(angles: Float[Tensor, " S"]) -> Cameras:
    """Cameras on the ring that look outward."""
    out = torch.stack([angles.sin(), torch.zeros_like(angles), angles.cos()], -1)
    right = torch.stack([angles.cos(), torch.zeros_like(angles), -angles.sin()], -1)
    down = torch.zeros_like(out)
    down[:, 1] = 1
    rotation = torch.stack([right, down, out], -2)
    centers = RADIUS * out
    centers[:, 1] = 0.2 * (3 * angles).sin()
    return Cameras(
        cam_from_world=torch.cat([rotation, -(rotation @ centers[..., None])], -1)[None],
        models=("SIMPLE_RADIAL",),
        params=torch.tensor([[[FOCAL, WIDTH / 2, HEIGHT / 2, 0.0]]], dtype=torch.float64),
        camera_index=torch.zeros(1, len(angles), dtype=torch.long),
        registered=torch.ones(1, len(angles), dtype=torch.bool),
    )


def wall_points(count: int, seed: int = 0) -> Float[Tensor, "N 3"]:
    """Points on and before the wall all around."""
    dice = torch.Generator().manual_seed(seed)
    around, across, depth = torch.rand(3, count, generator=dice, dtype=torch.float64)
    radius = WALL - 2.0 * depth
    angle = 2 * math.pi * around
    return torch.stack([radius * angle.sin(), 4 * across - 2, radius * angle.cos()], -1)


class RingTracker(CoarseToFineTracker):
    """Key points are the points of the wall; they are followed exactly, into every frame that shows them.

    Frames are known by their names, ``0000.png`` and on. Those of different ``scenes`` have nothing in common.
    """

    def __init__(self, like: CoarseToFineTracker, cameras: Cameras, xyz: Tensor, scenes: Tensor) -> None:
        super().__init__(like.config)
        self.cameras, self.scenes = cameras, scenes
        self.pairs = 0
        self.xy, in_front = cameras.project(xyz[None])
        self.xy, inside = self.xy[0], (self.xy > 4) & (self.xy < self.xy.new_tensor([WIDTH - 4, HEIGHT - 4]))
        self.seen = in_front[0] & inside[0].all(-1)

    def encode(self, images: ImageSet) -> FeatureMaps:
        frames = _numbers(images)
        height, width = images.pixels.shape[-2:]
        score = torch.zeros(1, len(frames), height, width)
        descriptors = torch.zeros(1, len(frames), 64, height // 8, width // 8)
        for k, s in enumerate(frames):
            xy = self.xy[s][self.seen[s]].long()
            score[0, k, xy[:, 1], xy[:, 0]] = 0.5
            # each point has a word of its own among 64, so frames that see the same points are alike
            word = self.seen[s].nonzero().flatten() % 64
            descriptors[0, k, word, xy[:, 1] // 8, xy[:, 0] // 8] = 1.0
        return FeatureMaps(
            descriptors=descriptors,
            keypoint_score=score,
            usable=torch.ones(1, len(frames), height // 8, width // 8, dtype=torch.bool),
        )

    def forward(self, images: ImageSet, queries: Queries, features: FeatureMaps | None = None) -> Tracks:
        source, *others = _numbers(images)
        self.pairs += len(others)
        xy = queries.xy[0].double()
        distance = torch.cdist(xy, self.xy[source]).masked_fill(~self.seen[source], torch.inf)
        near, point = distance.min(-1)
        offset = xy - self.xy[source, point]
        frames = [source, *others]
        moved = torch.stack([self.xy[s, point] + offset for s in frames])
        seen = torch.stack([self.seen[s, point] & (near < 2) & (self.scenes[s] == self.scenes[source]) for s in frames])
        count = len(xy)
        return Tracks(
            xy=moved.float()[None],
            visibility=seen.float()[None],
            covariance=(0.01 * torch.eye(2)).expand(1, len(frames), count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def _numbers(images: ImageSet) -> list[int]:
    return [int(Path(name).stem) for name in images.names[0]]


def ring_model(cameras: Cameras, xyz: Tensor, scenes: Tensor | None = None) -> VGGSfM:
    """The bundled model with that tracker."""
    model = load_model("small")
    scenes = torch.zeros(cameras.registered.shape[1], dtype=torch.long) if scenes is None else scenes
    model.tracker = RingTracker(model.tracker, cameras, xyz, scenes)
    return model


def write_frames(folder: Path, count: int) -> list[Path]:
    """Grey pictures, which nobody looks at."""
    files = [folder / f"{s:04d}.png" for s in range(count)]
    for file in files:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)).save(file)
    return files


def centers_of(cameras: Cameras) -> Float[Tensor, "S 3"]:
    """Camera centres of one scene."""
    return pose.center(cameras.cam_from_world[0])
