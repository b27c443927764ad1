"""ETH3D, high-resolution multi-view training scenes: undistorted DSLR photographs with laser scans.

``SCENE/images/dslr_images_undistorted/*.JPG``, ``SCENE/dslr_calibration_undistorted/`` (a COLMAP model as text) and
``SCENE/dslr_scan_eval/scan_alignment.mlp`` with the scans beside it, as the archives unpack.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.evaluation.datasets.posed import PosedScene, Unreadable, chosen_names, guarded, require_folder
from vggsfm_cli.scene import Cameras

CALIBRATION = "dslr_calibration_undistorted"
SCANS = Path("dslr_scan_eval") / "scan_alignment.mlp"
HINT = (
    "--root is the folder with SCENE/images, SCENE/dslr_calibration_undistorted and SCENE/dslr_scan_eval, "
    "from the archives of the training scenes (dslr_undistorted and dslr_scan_eval)."
)


def find_eth3d(
    root: Path, *, scenes: Sequence[str] | None = None, limit: int | None = None
) -> Iterator[PosedScene | Unreadable]:
    """The scenes with scans, each with all its photographs and a group of its own.

    Args:
        root: folder of the scenes.
        scenes: which; all that are there if None.
        limit: at most so many, in the order of their names.

    Raises:
        InputError: there is nothing, or not what was asked for.
    """
    require_folder(root, HINT)
    available = sorted(path.parents[1].name for path in root.glob(f"*/{SCANS}"))
    names = chosen_names(available, scenes, root, HINT)
    return (scene for name in names[:limit] for scene in guarded(name, _scenes(root / name)))


def _scenes(folder: Path) -> Iterator[PosedScene]:
    model = read_colmap(folder / CALIBRATION)
    order = sorted(range(len(model.names)), key=lambda s: model.names[s])
    index = torch.tensor(order)
    yield PosedScene(
        name=folder.name,
        group=folder.name,
        files=tuple(folder / "images" / model.names[s] for s in order),
        cameras=dataclasses.replace(
            _double(model.cameras),
            cam_from_world=model.cameras.cam_from_world[:, index].double(),
            camera_index=model.cameras.camera_index[:, index],
            registered=model.cameras.registered[:, index],
        ),
        sizes=model.sizes[index],
        scans=folder / SCANS,
    )


def _double(cameras: Cameras) -> Cameras:
    return dataclasses.replace(cameras, params=cameras.params.double())
