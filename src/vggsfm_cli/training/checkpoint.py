"""Files of a run: written whole or not at all, each small enough to be kept in version control."""

import io
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from vggsfm_cli.errors import InputError
from vggsfm_cli.folders import whole_file

PART_BYTES = 15 * 2**20
"""Of tensors in one file; the container adds a little."""


def write_checkpoint(path: Path, state: dict[str, Any], part_bytes: int = PART_BYTES) -> None:
    """Write a nested dict of tensors and plain data.

    What does not fit into one file goes to parts beside it, ``NAME-MARK-1.pt`` and so on. The main file names its parts
    and is put in place last, so at any moment it and its parts belong together.

    Args:
        path: the main file.
        state: dicts within dicts; tensors are written from the CPU. ``state["step"]`` marks the parts.
        part_bytes: of tensors in one file.

    Raises:
        WriteFailed: the disk refuses; what was there before is whole, and nothing new is left.
    """
    groups = _grouped(_leaves(state), part_bytes)
    # a mark of its own each time: a part in use must stay whole until the main file names others
    mark = next(
        f"{state['step']}{letter}" for letter in ascii_lowercase if not _beside(path, f"{state['step']}{letter}")
    )
    names = [f"{path.stem}-{mark}-{i + 1}{path.suffix}" for i in range(len(groups) - 1)]
    try:
        for name, leaves in zip(names, groups[1:], strict=True):
            _write(path.with_name(name), leaves)
        _write(path, {"parts": names, "leaves": groups[0]})
    except BaseException:
        for name in names:
            path.with_name(name).unlink(missing_ok=True)
        raise
    for stale in _beside(path):
        if stale.name not in names:
            stale.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, on the CPU.

    Raises:
        InputError: a file is missing or damaged.
    """
    state: dict[str, Any] = {}
    file = path
    try:
        main = torch.load(path, map_location="cpu", weights_only=True)
        groups = [main["leaves"]]
        for name in main["parts"]:
            file = path.with_name(name)
            groups.append(torch.load(file, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"{str(file)!r} is missing.", "A run is resumed from its last.pt.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{str(file)!r} is damaged: {type(error).__name__}.", "Start the run anew.") from error
    for group in groups:
        for keys, value in group.items():
            inner = state
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = value
    return state


def _write(path: Path, content: dict[Any, Any]) -> None:
    """Write one file; in memory first, as torch's own writing to files hides what the system says."""
    encoded = io.BytesIO()
    torch.save(content, encoded)
    with whole_file(path) as partial:
        partial.write_bytes(encoded.getbuffer())


def _beside(path: Path, mark: str = "*") -> list[Path]:
    return list(path.parent.glob(f"{path.stem}-{mark}-*{path.suffix}"))


def _leaves(state: dict[Any, Any], prefix: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    leaves: dict[tuple[Any, ...], Any] = {}
    for key, value in state.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, (*prefix, key))
        else:
            leaves[(*prefix, key)] = _alone(value) if isinstance(value, Tensor) else value
    return leaves


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, without the rest of the storage it may be a view of, which would be written with it."""
    tensor = tensor.detach().cpu()
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()


def _grouped(leaves: dict[tuple[Any, ...], Any], part_bytes: int) -> list[dict[tuple[Any, ...], Any]]:
    groups: list[dict[tuple[Any, ...], Any]] = [{}]
    filled = 0
    for keys, value in leaves.items():
        size = value.nbytes if isinstance(value, Tensor) else 0
        if filled and filled + size > part_bytes:
            groups.append({})
            filled = 0
        groups[-1][keys] = value
        filled += size
    return groups
