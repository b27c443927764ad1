"""For gsplat's trainer: pinhole pictures, ``sparse/0``, and the pictures at a fraction of their size.

Its reader (``examples/datasets/colmap.py``) also takes distorted pictures, but crops them by a rule of its own and
treats fisheyes as centred; pinhole pictures are read as they are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vggsfm_cli.export.photographs import Photograph
from vggsfm_cli.export.undistorted import write_undistorted
from vggsfm_cli.io.pictures import shrink, write_picture
from vggsfm_cli.scene import ProgressCallback, Reconstruction, silent


def write_gsplat(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    blank_pixels: float = 0.0,
    downscale: Sequence[int] = (),
    progress: ProgressCallback = silent,
) -> Reconstruction:
    """Write what ``simple_trainer.py default --data_dir FOLDER --data_factor F`` reads.

    Args:
        reconstruction: with distortion.
        photographs: of its frames, in their order.
        folder: exists.
        blank_pixels: see ``write_undistorted``.
        downscale: factors ``F`` of which ``images_F`` is written; 1 needs none.
        progress: told of each picture.

    Returns:
        The model written.

    Raises:
        InputError: see ``write_undistorted``.
    """

    def also(name: str, pixels: UInt8[np.ndarray, "H W *c"]) -> None:
        # the reader pairs both folders by their sorted names, and does JPEG files over itself
        for factor in downscale:
            write_picture(folder / f"images_{factor}" / f"{name}.png", shrink(pixels, factor))

    return write_undistorted(
        reconstruction, photographs, folder, blank_pixels=blank_pixels, also=also, progress=progress
    )
