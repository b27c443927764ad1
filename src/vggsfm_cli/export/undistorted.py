"""Pictures of pinhole cameras and their model: ``images/``, ``sparse/0`` and perhaps ``masks/``.

The layout that trainers of Gaussian splats read, and the same that COLMAP's own undistortion fills.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vggsfm_cli.colmap.files import write_model
from vggsfm_cli.colmap.undistort import frame_camera, source_positions, undistorted
from vggsfm_cli.export.photographs import Photograph, colmap_mask_name, has_masks, without_hidden
from vggsfm_cli.io.pictures import inside_picture, resample, resample_alpha, resample_mask, write_picture
from vggsfm_cli.scene import Progress, ProgressCallback, Reconstruction, silent
from vggsfm_cli.threads import map_threads

WritePicture = Callable[[str, UInt8[np.ndarray, "H W *c"]], None]


def write_undistorted(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    blank_pixels: float = 0.0,
    alpha: bool = False,
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
        alpha: pictures of which something is masked or transparent are RGBA, transparent there. Otherwise all are RGB.
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
    cameras = reconstruction.cameras.camera_index[0].tolist()

    def write_mask(s: int, keep: np.ndarray) -> None:
        write_picture(folder / colmap_mask_name(photographs[s].name), keep.astype(np.uint8) * 255)

    masked: set[int] = set()
    done = 0
    for c in sorted(set(cameras)):
        frames = [s for s, camera in enumerate(cameras) if camera == c]
        camera, pinhole = frame_camera(reconstruction, frames[0]), frame_camera(plain, frames[0])
        xy = source_positions(camera, pinhole, check_fold=blank_pixels > 0)
        inside = inside_picture(xy, camera.width, camera.height)

        def write(s: int, xy: np.ndarray = xy, inside: np.ndarray = inside) -> None:
            pixels, keep = _undistorted_picture(photographs[s], xy, inside, alpha=alpha)
            write_picture(folder / "images" / photographs[s].name, pixels)
            if also is not None:
                also(photographs[s].name, pixels)
            if not keep.all():
                masked.add(s)
                write_mask(s, keep)

        for s, _ in zip(frames, map_threads(write, frames), strict=True):
            done += 1
            progress(Progress(stage="undistortion", done=done, total=len(cameras), detail=photographs[s].name))
    if masked or has_masks(photographs):  # readers want a mask of every picture, or of none
        for s in sorted(set(range(len(photographs))) - masked):
            width, height = plain.sizes[s].tolist()
            write_mask(s, np.ones((height, width), dtype=bool))
    return plain


def _undistorted_picture(
    photograph: Photograph, xy: Float[np.ndarray, "H W 2"], inside: Bool[np.ndarray, "H W"], *, alpha: bool
) -> tuple[UInt8[np.ndarray, "H W *c"], Bool[np.ndarray, "H W"]]:
    """The pixels to be written, and which of them are to be used; see ``write_undistorted`` for ``alpha``."""
    found = photograph.read()
    pixels, keep = resample(found.pixels, xy, inside), inside
    if photograph.mask is not None:
        keep = resample_mask(photograph.read_mask(found.exif.orientation), xy, inside)
    shown = keep.astype(np.uint8) * 255
    if found.alpha is not None:
        seen = resample_alpha(found.alpha, xy, inside)
        pixels, shown, keep = without_hidden(pixels, seen), np.minimum(shown, seen), keep & (seen > 0)
    if alpha and not (photograph.mask is None and found.alpha is None) and not shown.all():
        return np.dstack([pixels, shown]), keep
    return pixels, keep
