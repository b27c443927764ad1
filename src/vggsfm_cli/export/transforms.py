"""Cameras in the JSON format of NeRF trainers: ``transforms.json``.

Written from the published descriptions of the format (nerfstudio's documentation "Data conventions"; instant-ngp's
``docs/nerf_dataset_tips.md``): poses are camera-to-world with OpenGL axes (x right, y up, z backward), intrinsics are
in pixels with a corner origin, distortion is OpenCV's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.export.photographs import Photograph
from vggsfm_cli.geometry import pose
from vggsfm_cli.geometry.camera import PARAM_NAMES
from vggsfm_cli.scene import Reconstruction

FISHEYE = "OPENCV_FISHEYE"

Intrinsics = dict[str, float | int]


def is_fisheye(reconstruction: Reconstruction) -> bool:
    """Whether the cameras of a model are fisheyes.

    Raises:
        InputError: only some of them are, or one has a model that the format cannot hold.
    """
    models = {reconstruction.cameras.models[c] for c in reconstruction.cameras.camera_index[0].tolist()}
    hint = "Write pictures without distortion first, `vggsfm undistort`, and export the model it writes."
    if unknown := sorted(models - set(PARAM_NAMES)):
        raise InputError(f"transforms.json cannot hold a {unknown[0]} camera.", hint)
    if FISHEYE in models and len(models) > 1:
        raise InputError("transforms.json cannot hold fisheyes beside other cameras.", hint)
    return FISHEYE in models


def intrinsics(reconstruction: Reconstruction, frame: int) -> Intrinsics:
    """Size, focal lengths, principal point and distortion of the camera of a frame, by the format's names."""
    c = int(reconstruction.cameras.camera_index[0, frame])
    model = reconstruction.cameras.models[c]
    names = PARAM_NAMES[model]
    values = dict(zip(names, reconstruction.cameras.params[0, c].tolist(), strict=False))
    width, height = reconstruction.sizes[frame].tolist()
    distortion = ("k1", "k2", "k3", "k4") if model == FISHEYE else ("k1", "k2", "p1", "p2")
    return {
        "w": width,
        "h": height,
        "fl_x": values["fx"] if "fx" in values else values["f"],
        "fl_y": values["fy"] if "fy" in values else values["f"],
        "cx": values["cx"],
        "cy": values["cy"],
        **{name: values.get(name, values["k"] if name == "k1" and "k" in values else 0.0) for name in distortion},
    }


def opengl_from_opencv(cam_from_world: Float[Tensor, "S 3 4"]) -> Float[Tensor, "S 4 4"]:
    """Camera-to-world matrices of cameras that look along -z, with y up."""
    world_from_cam = pose.inverse(cam_from_world)
    flipped = torch.cat([world_from_cam[..., :1], -world_from_cam[..., 1:3], world_from_cam[..., 3:]], -1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=flipped.dtype, device=flipped.device)
    return torch.cat([flipped, bottom.expand(len(flipped), 1, 4)], 1)


def transforms(
    reconstruction: Reconstruction, photographs: Sequence[Photograph]
) -> tuple[Intrinsics, list[dict[str, Any]]]:
    """What both kinds of ``transforms.json`` hold.

    Returns:
        shared: intrinsics for the top level, if all frames share a camera, else empty.
        frames: path, pose and, if they do not, intrinsics of every frame.
    """
    matrices = opengl_from_opencv(reconstruction.cameras.cam_from_world[0].double().cpu()).tolist()
    index = reconstruction.cameras.camera_index[0].tolist()
    one_camera = len(set(index)) == 1
    frames = [
        {
            "file_path": f"images/{photograph.name}",
            "transform_matrix": matrix,
            **({} if one_camera else intrinsics(reconstruction, s)),
        }
        for s, (photograph, matrix) in enumerate(zip(photographs, matrices, strict=True))
    ]
    return (intrinsics(reconstruction, 0) if one_camera else {}), frames
