"""Model folders on disk. What is written appears whole or not at all."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pycolmap

from vggsfm_cli import folders
from vggsfm_cli.colmap.check import check_sizes
from vggsfm_cli.colmap.convert import from_pycolmap, to_pycolmap
from vggsfm_cli.errors import InputError
from vggsfm_cli.scene import Reconstruction

MODEL_FILES = ("cameras", "images", "points3D")
NEW_FILES = ("rigs.bin", "frames.bin")
"""Written by COLMAP since 3.12; readers take a model with both of them or with neither."""
OWN_FILES = ("overview.png", "report.json", "report.html", "config.toml")


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
    with folders.whole_folder(out, lambda: check_writable(out, overwrite=overwrite)) as unfinished:
        for i, model in enumerate(models):
            write_model(model, unfinished / str(i), legacy=legacy)
        if extras is not None:
            extras(unfinished)
    return out


def check_writable(out: Path | str, *, overwrite: bool = False) -> None:
    """Refuse early what ``write_colmap`` would refuse after a long run.

    Raises:
        UsageError: ``out`` is not a folder, holds a model and ``overwrite`` is not set, holds files that are not ours,
            or is a mount point, which cannot be put in place by renaming.
    """
    folders.check_writable(
        Path(out).resolve(), ours=_is_ours, holds="a reconstruction", inside="sparse", overwrite=overwrite
    )


def _is_ours(path: Path) -> bool:
    if path.is_dir() and path.name == "images":
        return all(re.fullmatch(r"\d+\.jpg", entry.name) for entry in path.iterdir())  # of a video
    if path.is_dir():
        return bool(re.fullmatch(r"\d+", path.name)) and _is_model(path)
    return path.name in OWN_FILES


def _is_model(folder: Path) -> bool:
    return any(all((folder / f"{name}{suffix}").is_file() for name in MODEL_FILES) for suffix in (".bin", ".txt"))


def write_model(model: Reconstruction, folder: Path, *, legacy: bool, text: bool = False) -> None:
    """Write the files of one model into a folder, as they come; ``write_colmap`` is what puts them in place whole.

    Args:
        model: to write.
        folder: may exist.
        legacy: leave out ``rigs`` and ``frames``.
        text: readable files, not binary ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    converted = to_pycolmap(model)
    if text:
        converted.write_text(folder)
    else:
        converted.write_binary(folder)
    if legacy:
        for name in NEW_FILES:
            (folder / name).with_suffix(".txt" if text else ".bin").unlink(missing_ok=True)


def model_folders(path: Path | str) -> list[Path]:
    """The models to be found at a path: the folder itself if it is one, else those of its folders ``0``, ``1``, ...

    Raises:
        InputError: there is none.
    """
    folder = Path(path)
    if _is_model(folder):
        return [folder]
    inside = folder.iterdir() if folder.is_dir() else iter(())
    numbered = [entry for entry in inside if re.fullmatch(r"\d+", entry.name) and _is_model(entry)]
    if not numbered:
        hint = "A model folder holds cameras, images and points3D, as .bin or .txt."
        raise InputError(f"No COLMAP model in {str(path)!r}.", hint)
    return sorted(numbered, key=lambda entry: int(entry.name))


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
        check_sizes(folder)
        model = from_pycolmap(pycolmap.Reconstruction(folder))
        _check_numbers(model)
    except OSError as error:
        raise InputError(
            f"The model in {str(folder)!r} cannot be read: {error.strerror}.", "Check its rights."
        ) from error
    except (RuntimeError, ValueError, IndexError, KeyError, OverflowError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"The model in {str(folder)!r} is damaged: {reason}", "Write it again.") from error
    return model


def _check_numbers(model: Reconstruction) -> None:
    """Refuse what no reconstruction holds.

    Raises:
        ValueError: a pose, a camera, a point or an observation is not finite.
    """
    parts = {
        "pose": model.cameras.cam_from_world,
        "camera parameter": model.cameras.params,
        "point": model.xyz_world,
        "2D point": model.xy,
    }
    for name, values in parts.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"it holds a {name} that is not a finite number.")
