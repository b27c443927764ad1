"""What all data sets come to: photographs, their true cameras, and in which row of the table a scene counts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.scene import Cameras


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedScene:
    """One set of photographs with known cameras.

    Attributes:
        name: of the scene, unique in its data set.
        group: row of the table it counts in.
        files: the S photographs.
        cameras: true, one per photograph, all registered, in double precision and pixels of the files.
        sizes: width and height that the cameras are for; None if the data set does not say.
        scans: MeshLab project that places the laser scans of the scene, if it has any.
    """

    name: str
    group: str
    files: tuple[Path, ...]
    cameras: Cameras
    sizes: Int[Tensor, "S 2"] | None = None
    scans: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A scene, or a folder of scenes, that is damaged or incomplete, and why."""

    name: str
    reason: str


def guarded(name: str, scenes: Iterable[PosedScene]) -> Iterator[PosedScene | Unreadable]:
    """The scenes, up to the first that cannot be read, which is told instead of raised: the rest may be sound."""
    try:
        yield from scenes
    except InputError as error:
        yield Unreadable(name=name, reason=error.message)


def pinhole_cameras(cam_from_world: Float[Tensor, "S 3 4"], params: Float[Tensor, "S 4"]) -> Cameras:
    """One PINHOLE camera (fx, fy, cx, cy) for each of S photographs."""
    frames = len(cam_from_world)
    return Cameras(
        cam_from_world=cam_from_world.double()[None],
        models=("PINHOLE",) * frames,
        params=params.double()[None],
        camera_index=torch.arange(frames)[None],
        registered=torch.ones(1, frames, dtype=torch.bool),
    )


def require_folder(root: Path, hint: str) -> Path:
    """``root``, if it is a folder.

    Raises:
        InputError: it is not.
    """
    if not root.is_dir():
        raise InputError(f"No folder {str(root)!r}.", hint)
    return root


def chosen_names(available: Sequence[str], wanted: Sequence[str] | None, root: Path, hint: str) -> list[str]:
    """Those of ``available`` that are wanted; all if ``wanted`` is None.

    Raises:
        InputError: nothing is available, or something wanted is not.
    """
    if not available:
        raise InputError(f"Nothing that can be measured in {str(root)!r}.", hint)
    if missing := [name for name in wanted or () if name not in available]:
        raise InputError(f"There is no {missing[0]!r} in {str(root)!r}.", f"There are: {', '.join(available)}.")
    return [name for name in available if wanted is None or name in wanted]
