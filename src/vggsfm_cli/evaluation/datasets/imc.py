"""Image Matching Challenge, Phototourism (2020 and 2021): photographs of landmarks in bags of 5, 10 and 25.

``SCENE/set_100/`` holds ``images/``, ``calibration/calibration_NAME.h5`` (``K``, ``R`` and ``T``; HDF5) and the bags,
``sub_set/5bag_000.txt`` and so on, one image a line. Where there are no calibration files, a COLMAP model in ``sfm/``,
``sparse/`` or ``dense/sparse/``, of the set or of the scene, says where the cameras are.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.errors import InputError, MissingDependency
from vggsfm_cli.evaluation.datasets.posed import (
    PosedScene,
    Unreadable,
    chosen_names,
    guarded,
    pinhole_cameras,
    require_folder,
)
from vggsfm_cli.geometry.camera import calibration_matrix

SET, BAGS = "set_100", "sub_set"
BAG_SIZES = (5, 10, 25)
MODEL_FOLDERS = ("sfm", "sparse", "dense/sparse")
HINT = "--root is the folder with SCENE/set_100/images, calibration and sub_set of Phototourism."


def find_imc(
    root: Path, *, scenes: Sequence[str] | None = None, bag_sizes: Sequence[int] = BAG_SIZES, limit: int | None = None
) -> Iterator[PosedScene | Unreadable]:
    """The published bags of all scenes (Jin et al., IJCV 2020, Sec. 3). A group is a size of bags.

    Args:
        root: folder of the scenes, or the one above with ``phototourism/`` in it.
        scenes: which; all that are there if None.
        bag_sizes: which.
        limit: at most so many bags of each size and scene, in the order of their numbers.

    Raises:
        InputError: there is nothing, or not what was asked for.
        MissingDependency: the calibration files need h5py; when the first bag is read.
    """
    root = require_folder(root, HINT)
    root = root / "phototourism" if (root / "phototourism").is_dir() else root
    available = sorted(path.parents[1].name for path in root.glob(f"*/{SET}/{BAGS}") if path.is_dir())
    names = chosen_names(available, scenes, root, HINT)
    return (
        bag
        for size in bag_sizes
        for name in names
        for bag in guarded(f"{name}, bags of {size}", _bags(root / name / SET, size, limit))
    )


def _bags(folder: Path, size: int, limit: int | None) -> Iterator[PosedScene]:
    numbered = {
        int(match[1]): path
        for path in (folder / BAGS).iterdir()
        if (match := re.fullmatch(rf"{size}bag_(\d+)\.txt", path.name))
    }
    if not numbered:
        raise InputError(f"{str(folder / BAGS)!r} has no bag of {size} images.", HINT)
    calibration = _lookup(folder)
    for number in sorted(numbered)[:limit]:
        lines = numbered[number].read_text().splitlines()
        names = [Path(line.strip()).name for line in lines if line.strip()]
        files = tuple(folder / "images" / name for name in names)
        known = [calibration(file) for file in files]
        yield PosedScene(
            name=f"{folder.parent.name}/{size}bag_{number:03d}",
            group=f"bag {size}",
            files=files,
            cameras=pinhole_cameras(torch.stack([pose for pose, _ in known]), torch.stack([p for _, p in known])),
        )


def _lookup(folder: Path) -> Callable[[Path], tuple[Tensor, Tensor]]:
    """What gives ``cam_from_world`` [3, 4] and (fx, fy, cx, cy) of a photograph."""
    if (folder / "calibration").is_dir():
        return lambda image: _read_calibration(folder / "calibration" / f"calibration_{image.stem}.h5")
    place = next((p for base in (folder, folder.parent) for name in MODEL_FOLDERS if (p := base / name).is_dir()), None)
    if place is None:
        raise InputError(f"{str(folder)!r} has neither calibration files nor a COLMAP model.", HINT)
    known = _read_model(place)

    def in_model(image: Path) -> tuple[Tensor, Tensor]:
        if image.name not in known:
            raise InputError(f"The model in {str(place)!r} has no image {image.name!r}.", HINT)
        return known[image.name]

    return in_model


def _read_calibration(path: Path) -> tuple[Tensor, Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency(
            "The calibration files of the Image Matching Challenge are HDF5.", 'pip install "vggsfm-cli[benchmark]"'
        ) from error
    try:
        with h5py.File(path, "r") as file:
            k, rotation, translation = (torch.from_numpy(file[name][()]).double() for name in ("K", "R", "T"))
        pose = torch.cat([rotation.reshape(3, 3), translation.reshape(3, 1)], -1)
        k = k.reshape(3, 3)
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}", "It should hold K, R and T.") from error
    return pose, torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])


def _read_model(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Pose and (fx, fy, cx, cy) of each image; distortion is left out, as only poses are compared."""
    model = read_colmap(folder)
    known = {}
    for s, name in enumerate(model.names):
        c = int(model.cameras.camera_index[0, s])
        k = calibration_matrix(model.cameras.models[c], model.cameras.params[0, c].double())
        params = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
        known[Path(name).name] = (model.cameras.cam_from_world[0, s].double(), params)
    return known
