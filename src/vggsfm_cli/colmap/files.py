"""Model folders on disk. What is written appears whole or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pycolmap

from vggsfm_cli.colmap.convert import from_pycolmap, to_pycolmap
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.scene import Reconstruction

MODEL_FILES = ("cameras", "images", "points3D")
NEW_FILES = ("rigs.bin", "frames.bin")
"""Written by COLMAP since 3.12; readers take a model with both of them or with neither."""
OWN_FILES = ("overview.png", "report.json")


def write_colmap(
    reconstructions: Reconstruction | Sequence[Reconstruction],
    out: Path | str,
    *,
    overwrite: bool = False,
    legacy: bool = False,
    extras: Callable[[Path], None] | None = None,
) -> Path:
    """Write models as ``out/0``, ``out/1``, ... in COLMAP's binary format.

    Everything is written beside ``out`` first and put in place by renaming.

    Args:
        reconstructions: one model, or several, largest first.
        out: folder to create; an empty one may exist.
        overwrite: replace an earlier result in ``out``.
        legacy: leave out ``rigs.bin`` and ``frames.bin``, for readers that stumble over files they do not know.
        extras: is given the unfinished folder, to add ``overview.png`` and ``report.json``.

    Returns:
        The folder written.

    Raises:
        UsageError: ``out`` holds a model and ``overwrite`` is not set, or it holds other files, or cannot be replaced.
        InputError: there is nothing to write, or the disk refuses.
    """
    models = [reconstructions] if isinstance(reconstructions, Reconstruction) else list(reconstructions)
    if not models:
        raise InputError("There is no model to write.")
    out = Path(out).resolve()
    check_writable(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _sibling(out, "unfinished")
        unfinished.mkdir()
    except OSError as error:
        raise InputError(f"Cannot write to {str(out.parent)!r}: {error.strerror}.", "Choose another --out.") from error
    try:
        for i, model in enumerate(models):
            _write_model(model, unfinished / str(i), legacy=legacy)
        if extras is not None:
            extras(unfinished)
        check_writable(out, overwrite=overwrite)  # the world may have changed during a long run
        _swap(unfinished, out)
    except OSError as error:
        raise InputError(f"Cannot write {str(out)!r}: {error.strerror}.", "Is the disk full or read-only?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def check_writable(out: Path | str, *, overwrite: bool = False) -> None:
    """Refuse early what ``write_colmap`` would refuse after a long run.

    Raises:
        UsageError: ``out`` is not a folder, holds a model and ``overwrite`` is not set, holds files that are not ours,
            or is a mount point, which cannot be put in place by renaming.
    """
    out = Path(out).resolve()
    if not out.exists():
        _check_parents(out)
        return
    if not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file.", "Choose a folder for --out.")
    if out.is_mount():
        raise UsageError(f"{str(out)!r} is a mount point.", f"Use a folder inside it: --out {out / 'sparse'}")
    entries = sorted(path.name for path in out.iterdir())
    foreign = [name for name in entries if not _is_ours(out / name)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")  # noqa: PLR2004
        raise UsageError(f"{str(out)!r} holds other files ({shown}).", f"Use a new folder: --out {out / 'sparse'}")
    if entries and not overwrite:
        raise UsageError(f"{str(out)!r} already holds a reconstruction.", "Add --overwrite, or choose another --out.")
    _check_parents(out)


def _check_parents(out: Path) -> None:
    parent = next(path for path in out.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{str(parent)!r} is not a folder that can be written to.", "Choose another --out.")


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return bool(re.fullmatch(r"\d+", path.name)) and _is_model(path)
    return path.name in OWN_FILES


def _is_model(folder: Path) -> bool:
    return any(all((folder / f"{name}{suffix}").is_file() for name in MODEL_FILES) for suffix in (".bin", ".txt"))


def _write_model(model: Reconstruction, folder: Path, *, legacy: bool) -> None:
    folder.mkdir()
    to_pycolmap(model).write_binary(folder)
    if legacy:
        for name in NEW_FILES:
            (folder / name).unlink(missing_ok=True)


def _swap(unfinished: Path, out: Path) -> None:
    """Put ``unfinished`` in the place of ``out``; if that fails, what was there stays."""
    if not out.exists() or not any(out.iterdir()):
        unfinished.rename(out)
        return
    previous = _sibling(out, "previous")
    out.rename(previous)
    try:
        unfinished.rename(out)
    except OSError:
        previous.rename(out)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _sibling(out: Path, purpose: str) -> Path:
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{purpose}")


def read_colmap(path: Path | str) -> Reconstruction:
    """Read a model folder, binary or text, of any COLMAP version; of a folder of models, its model ``0``.

    Raises:
        InputError: there is no model, or it is damaged.
    """
    folder = Path(path)
    if not _is_model(folder) and _is_model(folder / "0"):
        folder = folder / "0"
    if not _is_model(folder):
        hint = "A model folder holds cameras, images and points3D, as .bin or .txt."
        raise InputError(f"No COLMAP model in {str(path)!r}.", hint)
    try:
        return from_pycolmap(pycolmap.Reconstruction(folder))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"The model in {str(folder)!r} is damaged: {reason}", "Write it again.") from error
