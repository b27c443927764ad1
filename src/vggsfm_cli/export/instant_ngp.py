"""For instant-ngp: ``transforms.json`` and the photographs as they are, with their distortion.

Written from instant-ngp's ``docs/nerf_dataset_tips.md``. The program looks at a fixed cube, so the scene is moved
there: z up, the points around the origin, cameras at a mean distance of 4.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.export.photographs import Photograph, copy_photographs
from vggsfm_cli.export.transforms import is_fisheye, transforms
from vggsfm_cli.geometry import alignment, rotation
from vggsfm_cli.scene import Reconstruction

CAMERA_DISTANCE = 4.0
"""Mean distance of the cameras from the origin in the program's own examples."""

SCALE = 0.33
"""The program multiplies positions by this; its cube has a side of ``aabb_scale`` after that."""

MAX_AABB_SCALE = 128
COVERED = 0.9
"""Share of the points that lie in the cube; those far off are seldom worth the memory."""


def write_instant_ngp(reconstruction: Reconstruction, photographs: Sequence[Photograph], folder: Path) -> None:
    """Write what ``instant-ngp FOLDER`` reads.

    Raises:
        InputError: a photograph cannot be read, or a camera cannot be expressed.
    """
    fisheye = is_fisheye(reconstruction)
    moved = centred(reconstruction)
    shared, frames = transforms(moved, photographs)
    content = {
        **shared,
        **({"is_fisheye": True} if fisheye else {}),
        "aabb_scale": aabb_scale(moved.xyz_world),
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(content, indent=2) + "\n")
    copy_photographs(photographs, folder, mask_name, ignore_white=True)


def mask_name(name: str) -> str:
    """Where the program expects the mask of a photograph; what is not black there is ignored."""
    path = PurePosixPath("images", name)
    return path.with_name(f"dynamic_mask_{path.stem}.png").as_posix()


def centred(reconstruction: Reconstruction) -> Reconstruction:
    """The same model with z up, the median of the points at the origin and the cameras at the usual distance.

    Up is the mean of what is up in the photographs.
    """
    cameras = reconstruction.cameras
    poses = cameras.cam_from_world.double()
    up = torch.nn.functional.normalize(-poses[0, :, 1, :3].mean(0), dim=0)
    turn = rotation.between_rays(
        up[None], torch.tensor([[0.0, 0.0, 1.0]], dtype=up.dtype), torch.ones(1, dtype=up.dtype)
    )
    xyz = reconstruction.xyz_world.double()
    middle = xyz.median(0).values if len(xyz) else cameras.centers[0].double().mean(0)
    distance = (cameras.centers[0].double() - middle).norm(dim=-1).mean().clamp_min(1e-12)
    scale = CAMERA_DISTANCE / distance
    translation = -scale * (turn @ middle)
    return dataclasses.replace(
        reconstruction,
        cameras=dataclasses.replace(
            cameras, cam_from_world=alignment.apply_to_cameras(scale, turn, translation, poses[0])[None]
        ),
        xyz_world=alignment.apply_to_points(scale, turn, translation, xyz),
    )


def aabb_scale(xyz: Float[Tensor, "N 3"]) -> int:
    """The smallest cube the program offers (a power of two) that holds the scene."""
    if len(xyz) == 0:
        return 1
    reach = float(torch.quantile(xyz.abs().amax(-1)[:1_000_000], COVERED)) * SCALE
    return min(MAX_AABB_SCALE, 2 ** max(0, math.ceil(math.log2(max(2 * reach, 1e-12)))))
