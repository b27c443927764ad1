"""For the trainers of 3D Gaussian splatting that read COLMAP's folders: pinhole pictures and ``sparse/0``."""

from collections.abc import Sequence
from pathlib import Path

from vggsfm_cli.export.photographs import Photograph
from vggsfm_cli.export.undistorted import write_undistorted
from vggsfm_cli.scene import ProgressCallback, Reconstruction, silent


def write_3dgs(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    blank_pixels: float = 0.0,
    progress: ProgressCallback = silent,
) -> Reconstruction:
    """Write what ``train.py -s FOLDER`` of the reference trainer reads, and all that read the same layout.

    Returns:
        The model written.

    Raises:
        InputError: see ``write_undistorted``.
    """
    return write_undistorted(reconstruction, photographs, folder, blank_pixels=blank_pixels, progress=progress)
