"""For nerfstudio: ``transforms.json``, ``sparse_pc.ply`` and the photographs as they are, with their distortion.

Written from nerfstudio's documentation, "Data conventions".
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vggsfm_cli.export.photographs import Photograph, colmap_mask_name, copy_photographs, has_masks
from vggsfm_cli.export.transforms import FISHEYE, is_fisheye, transforms
from vggsfm_cli.io.ply import write_ply
from vggsfm_cli.scene import Reconstruction

POINTS = "sparse_pc.ply"


def write_nerfstudio(
    reconstruction: Reconstruction,
    photographs: Sequence[Photograph],
    folder: Path,
    *,
    downscale: Sequence[int] = (),
) -> None:
    """Write what ``ns-train METHOD --data FOLDER`` reads.

    Transparent photographs stay RGBA, which its methods lay over their background; masks are files of their own.

    Args:
        reconstruction: the model.
        photographs: of its frames, in their order.
        folder: exists.
        downscale: factors ``F`` of which ``images_F`` and ``masks_F`` are written.

    Raises:
        InputError: a photograph cannot be read, or a camera cannot be expressed.
    """
    fisheye = is_fisheye(reconstruction)
    shared, frames = transforms(reconstruction, photographs)
    if has_masks(photographs):
        for frame, photograph in zip(frames, photographs, strict=True):
            frame["mask_path"] = colmap_mask_name(photograph.name)
    content = {"camera_model": FISHEYE if fisheye else "OPENCV", **shared, "ply_file_path": POINTS, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content, indent=2) + "\n")
    write_ply(folder / POINTS, reconstruction.xyz_world, reconstruction.color)
    copy_photographs(photographs, folder, downscale=downscale)
