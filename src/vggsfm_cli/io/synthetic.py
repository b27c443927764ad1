"""Rendered scenes as folders: photographs, and the truth beside them. What is written appears whole or not at all."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli import folders
from vggsfm_cli.errors import UsageError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.io.pictures import write_picture
from vggsfm_cli.scene import Cameras, ImageSet

CONVENTION = (
    "x_cam = R x_world + t, metres; OpenCV axes (x right, y down, z forward); K in pixels, the centre of the top-left "
    "pixel is (0.5, 0.5); distortion as in OpenCV, only k1 is not 0 (COLMAP SIMPLE_RADIAL)"
)

RenderedScene = tuple[ImageSet, Cameras, Float[Tensor, "1 S H W"] | None]
"""One scene: its pictures, its true cameras (SIMPLE_RADIAL), and depth along the axis if it is to be written."""


def write_scenes(scenes: Iterable[RenderedScene], out: Path | str) -> Path:
    """Write each scene as ``out/scene_000``: ``images``, ``ground_truth.json`` and perhaps ``depth``.

    The scenes may be computed while they are written. Everything is written beside ``out`` first and put in place by
    renaming.

    Args:
        scenes: one after the other, each with a batch axis of one.
        out: folder to create; an empty one may exist.

    Returns:
        The folder written.

    Raises:
        UsageError: ``out`` is a file or holds something.
        WriteFailed: the disk refuses.
    """
    out = Path(out).resolve()
    with folders.whole_folder(out, lambda: check_new(out)) as unfinished:
        for k, scene in enumerate(scenes):
            _write_scene(unfinished / f"scene_{k:03d}", *scene)
    return out


def check_new(out: Path | str) -> None:
    """Refuse early what ``write_scenes`` would refuse after a long run.

    Raises:
        UsageError: ``out`` is a file or holds something.
    """
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file.", "Choose a folder for --out.")
    if out.is_mount():
        raise UsageError(f"{str(out)!r} is a mount point.", f"Use a folder inside it: --out {out / 'scenes'}")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{str(out)!r} is not empty.", f"Use a new folder: --out {out / 'scenes'}")


def _write_scene(folder: Path, images: ImageSet, cameras: Cameras, depth: Tensor | None) -> None:
    (folder / "images").mkdir(parents=True)
    pixels = (images.pixels[0] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    names = images.names[0]
    for name, picture in zip(names, pixels, strict=True):
        write_picture(folder / "images" / name, picture)
    if depth is not None:
        (folder / "depth").mkdir()
        for name, plane in zip(names, depth[0].float().cpu().numpy(), strict=True):
            encoded = io.BytesIO()  # numpy's own writing to files hides what the system says
            np.save(encoded, plane)
            (folder / "depth" / f"{Path(name).stem}.npy").write_bytes(encoded.getbuffer())
    truth = {
        "convention": CONVENTION,
        "trust": "exact (rendered)",
        "images": {name: _camera(images, cameras, s) for s, name in enumerate(names)},
    }
    (folder / "ground_truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def _camera(images: ImageSet, cameras: Cameras, s: int) -> dict[str, Any]:
    params = cameras.frame_params[0, s].double().cpu()
    cam_from_world = cameras.cam_from_world[0, s].double().cpu()
    width, height = (int(side) for side in images.stored_size[0, s])
    return {
        "R": cam_from_world[:, :3].tolist(),
        "t": cam_from_world[:, 3].tolist(),
        "K": camera_models.calibration_matrix("SIMPLE_RADIAL", params).tolist(),
        "width": width,
        "height": height,
        "distortion_k1k2p1p2": [float(params[3]), 0.0, 0.0, 0.0],
        "camera": int(cameras.camera_index[0, s]),
    }
