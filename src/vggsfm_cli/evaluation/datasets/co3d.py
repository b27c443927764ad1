"""CO3D v2: sequences of objects, a folder for each category, as the data set's own download leaves them.

``CATEGORY/frame_annotations.jgz`` (gzipped JSON) lists the frames of all sequences with their cameras,
``CATEGORY/set_lists/set_lists_fewview_dev.json`` the frames of each split.
"""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.datasets.posed import (
    PosedScene,
    Unreadable,
    chosen_names,
    guarded,
    pinhole_cameras,
    require_folder,
)

FRAMES_FILE = "frame_annotations.jgz"
SET_LISTS = Path("set_lists") / "set_lists_fewview_dev.json"
HINT = "--root is the folder of CO3D v2 with CATEGORY/frame_annotations.jgz and CATEGORY/set_lists/."


def find_co3d(
    root: Path, *, categories: Sequence[str] | None = None, frames: int = 10, seed: int = 0, limit: int | None = None
) -> Iterator[PosedScene | Unreadable]:
    """The test sequences of the few-view split, with ``frames`` random frames of each (VGGSfM, Sec. 4; PoseDiffusion).

    Which frames are drawn depends on ``seed`` and the sequence's name only. A group is a category.

    Args:
        root: folder of the data set.
        categories: which; all that are there if None.
        frames: of each sequence; sequences with fewer are left out.
        seed: of the choice of frames.
        limit: at most so many sequences of each category, in the order of their names.

    Raises:
        InputError: there is nothing, or not what was asked for.
    """
    require_folder(root, HINT)
    available = sorted(path.parent.name for path in root.glob(f"*/{FRAMES_FILE}"))
    names = chosen_names(available, categories, root, HINT)
    return (scene for name in names for scene in guarded(name, _category(root, name, frames, seed, limit)))


def _category(root: Path, category: str, frames: int, seed: int, limit: int | None) -> Iterator[PosedScene]:
    tested = _test_frames(root / category / SET_LISTS)
    sequences: dict[str, list[dict[str, Any]]] = defaultdict(list)
    path = root / category / FRAMES_FILE
    for annotation in _read_json(path):
        if (annotation["sequence_name"], annotation["frame_number"]) in tested:
            sequences[annotation["sequence_name"]].append(annotation)
    enough = sorted(name for name, listed in sequences.items() if len(listed) >= frames)
    if not enough:
        raise InputError(f"No test sequence of {category!r} has {frames} frames.", HINT)
    for name in enough[:limit]:
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        order = torch.randperm(len(sequences[name]), generator=generator)[:frames].sort().values
        yield _scene(root, category, name, [sequences[name][i] for i in order.tolist()], path)


def _test_frames(path: Path) -> set[tuple[str, int]]:
    """Sequence and frame number of everything in the test split."""
    listed = _read_json(path)
    try:
        return {(sequence, number) for sequence, number, *_ in listed["test"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} has no list 'test' of sequences and frames.", HINT) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".jgz" else path.read_bytes())
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}", HINT) from error


def _scene(root: Path, category: str, name: str, annotations: list[dict[str, Any]], path: Path) -> PosedScene:
    try:
        cameras = [_camera(annotation) for annotation in annotations]
        files = tuple(root / annotation["image"]["path"] for annotation in annotations)
        sizes = torch.tensor([annotation["image"]["size"][::-1] for annotation in annotations])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{str(path)!r}: sequence {name!r} cannot be understood: {error!r}", HINT) from error
    return PosedScene(
        name=f"{category}/{name}",
        group=category,
        files=files,
        cameras=pinhole_cameras(torch.stack([pose for pose, _ in cameras]), torch.stack([p for _, p in cameras])),
        sizes=sizes,
    )


def _camera(annotation: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """``cam_from_world`` [3, 4] and (fx, fy, cx, cy) of one frame.

    CO3D follows PyTorch3D: ``x_cam = x_world R + T`` for row vectors, x to the left and y up; focal length and
    principal point are in units of half the picture, which is its shorter side in both axes ("ndc_isotropic", v2) or
    each side for its own axis ("ndc_norm_image_bounds", v1); the principal point counts from the middle, to the left
    and up.
    """
    view = annotation["viewpoint"]
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    rotation = (torch.tensor(view["R"], dtype=torch.float64) * flip).mT
    translation = torch.tensor(view["T"], dtype=torch.float64) * flip
    half = torch.tensor(annotation["image"]["size"][::-1], dtype=torch.float64) / 2
    kind = view.get("intrinsics_format", "ndc_norm_image_bounds")
    if kind not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise ValueError(f"unknown intrinsics_format {kind!r}")
    unit = half.min().expand(2) if kind == "ndc_isotropic" else half
    focal = torch.tensor(view["focal_length"], dtype=torch.float64) * unit
    center = half - torch.tensor(view["principal_point"], dtype=torch.float64) * unit
    return torch.cat([rotation, translation[:, None]], -1), torch.cat([focal, center])
