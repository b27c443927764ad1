"""Pictures of pinhole cameras and their model: ``images/``, ``sparse/0`` and perhaps ``masks/``.

The layout that trainers of Gaussian splats read, and the same that COLMAP's own undistortion fills.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vggsfm_cli.colmap.files import write_model
from vggsfm_cli.colmap.undistort import frame_camera, source_positions, undistorted
from vggsfm_cli.export.photographs import Photograph, colmap_mask_name, has_masks
from vggsfm_cli.io.pictures import inside_picture, resample, resample_mask, write_picture
from vggsfm_cli.scene import Progress, ProgressCallback, Reconstruction, silent
from vggsfm_cli.threads import map_threads

WritePicture = Callable[[str, UInt8[np.ndarray, "H W 3"]], None]


def write_undistorted(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    blank_pixels: float = 0.0,
    also: WritePicture | None = None,
    progress: ProgressCallback = silent,
) -> Reconstruction:
    """Write a model without distortion and its pictures.

    Args:
        reconstruction: with distortion.
        photographs: of its frames, in their order.
        folder: exists.
        blank_pixels: from 0, cropped until no pixel is without content, to 1, nothing is cropped; pixels without
            content are black, and masked.
        also: is given the name and the pixels of every picture written, to write it in further sizes.
        progress: told of each picture.

    Returns:
        The model written.

    Raises:
        InputError: a photograph cannot be read, has another size than its camera, or its lens bends too much.
    """
    plain = dataclasses.replace(
        undistorted(reconstruction, blank_pixels), names=tuple(photograph.name for photograph in photographs)
    )
    write_model(plain, folder / "sparse" / "0", legacy=True)
    masked = has_masks(photographs) or blank_pixels > 0
    cameras = reconstruction.cameras.camera_index[0].tolist()
    done = 0
    for c in sorted(set(cameras)):
        frames = [s for s, camera in enumerate(cameras) if camera == c]
        camera, pinhole = frame_camera(reconstruction, frames[0]), frame_camera(plain, frames[0])
        xy = source_positions(camera, pinhole, check_fold=blank_pixels > 0)
        inside = inside_picture(xy, camera.width, camera.height)

        def write(s: int, xy: np.ndarray = xy, inside: np.ndarray = inside) -> None:
            photograph = photographs[s]
            pixels, exif = photograph.read()
            moved = resample(pixels, xy, inside)
            write_picture(folder / "images" / photograph.name, moved)
            if also is not None:
                also(photograph.name, moved)
            if masked:
                keep = resample_mask(photograph.read_mask(exif.orientation), xy, inside)
                write_picture(folder / colmap_mask_name(photograph.name), keep.astype(np.uint8) * 255)

        for s, _ in zip(frames, map_threads(write, frames), strict=True):
            done += 1
            progress(Progress(stage="undistortion", done=done, total=len(cameras), detail=photographs[s].name))
    return plain
