"""For the trainers of 3D Gaussian splatting that read COLMAP's folders: pinhole pictures and ``sparse/0``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vggsfm_cli.export.photographs import Photograph
from vggsfm_cli.export.undistorted import write_undistorted
from vggsfm_cli.io.pictures import shrink, write_picture
from vggsfm_cli.scene import ProgressCallback, Reconstruction, silent


def write_3dgs(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    blank_pixels: float = 0.0,
    downscale: Sequence[int] = (),
    progress: ProgressCallback = silent,
) -> Reconstruction:
    """Write what ``train.py -s FOLDER [--images images_F]`` of the reference trainer reads.

    It takes the alpha channel of a picture for its mask, so what is masked or transparent is transparent here.

    Args:
        reconstruction: with distortion.
        photographs: of its frames, in their order.
        folder: exists.
        blank_pixels: see ``write_undistorted``.
        downscale: factors ``F`` of which ``images_F`` is written.
        progress: told of each picture.

    Returns:
        The model written.

    Raises:
        InputError: see ``write_undistorted``.
    """

    def also(name: str, pixels: UInt8[np.ndarray, "H W *c"]) -> None:
        for factor in downscale:
            write_picture(folder / f"images_{factor}" / name, shrink(pixels, factor))

    return write_undistorted(
        reconstruction, photographs, folder, blank_pixels=blank_pixels, alpha=True, also=also, progress=progress
    )
