"""A surveyed scene that is written by a test, and a tracker whose answers are known."""

import json

import numpy as np
import torch
from PIL import Image

from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.scene import Tracks
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker
from warped import photograph

WIDTH, HEIGHT, DEPTH = 256, 160, 4.0
K = [[260.0, 0.0, 131.0], [0.0, 250.0, 77.0], [0.0, 0.0, 1.0]]


def write_scene(folder, angles_deg, distortion=None):
    """One photograph as often as there are cameras, turned about the vertical; ``gt.json`` beside them."""
    (folder / "images").mkdir(parents=True)
    truth = {}
    picture = photograph(width=WIDTH)[:HEIGHT]
    for s, angle in enumerate(angles_deg):
        pixels = (255 * picture).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{s}.png")
        turn = rotation.exp(torch.deg2rad(torch.tensor([0.0, angle, 0.0])).double())
        entry = {"R": turn.tolist(), "t": [0.0, 0.1 * s, DEPTH], "K": K, "width": WIDTH, "height": HEIGHT}
        truth[f"{s}.png"] = entry if distortion is None else {**entry, "distortion_k1k2p1p2": distortion}
    (folder / "gt.json").write_text(json.dumps({"images": truth}))
    return folder


class PlaneTracker(PointTracker):
    """Follows key points as if they lay at ``DEPTH`` from their own camera, then errs by ``offset`` stored pixels."""

    def __init__(self, cameras, offset=(0.0, 0.0)):
        super().__init__()
        self.cameras, self.offset = cameras, torch.tensor(offset, dtype=torch.float64)

    def encode(self, images):
        scenes, frames, _, height, width = images.pixels.shape
        score = torch.zeros(scenes, frames, height, width)
        score[..., 8:-8:8, 8:-8:8] = 0.5
        descriptors = torch.nn.functional.normalize(
            torch.randn(scenes, frames, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(0)), dim=2
        )
        return FeatureMaps(
            descriptors=descriptors,
            keypoint_score=score,
            usable=torch.ones(scenes, frames, height // 8, width // 8, dtype=torch.bool),
        )

    def forward(self, images, queries, features=None):
        frames, source = images.pixels.shape[1], int(queries.frame[0, 0])
        stored = images.to_stored(queries.xy[:, None].expand(-1, frames, -1, -1).double())
        plane = self.cameras.unproject(stored)[0, source]
        xyz = torch.cat([plane, torch.ones_like(plane[:, :1])], -1) * DEPTH
        xyz = pose.transform(pose.inverse(self.cameras.cam_from_world[0, source]), xyz)
        xy, in_front = self.cameras.project(xyz[None])
        inside = ((xy > 0) & (xy < torch.tensor([WIDTH, HEIGHT]))).all(-1)
        return Tracks(
            xy=(xy + self.offset).float(),
            visibility=(in_front & inside).float(),
            covariance=torch.eye(2).expand(*xy.shape[:-1], 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )
