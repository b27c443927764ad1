"""Model folders on disk. What is written appears whole or not at all."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pycolmap

from vggsfm_cli import folders
from vggsfm_cli.colmap.check import check_records, to_reconstruction
from vggsfm_cli.colmap.convert import to_pycolmap
from vggsfm_cli.colmap.records import Finding, ModelRecords, read_records
from vggsfm_cli.errors import InputError, WriteFailed
from vggsfm_cli.scene import Reconstruction

MODEL_FILES = ("cameras", "images", "points3D")
SUFFIXES = (".bin", ".txt")
"""Where a folder has both, COLMAP reads the binary files."""
MODEL_TEXTS = ("cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt")
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
        InputError: there is nothing to write.
        WriteFailed: the disk refuses.
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
    return any(_has_files(folder, suffix) for suffix in SUFFIXES)


def _has_files(folder: Path, suffix: str) -> bool:
    return all((folder / f"{name}{suffix}").is_file() for name in MODEL_FILES)


def write_model(model: Reconstruction, folder: Path, *, legacy: bool, text: bool = False) -> None:
    """Write the files of one model into a folder, as they come; ``write_colmap`` is what puts them in place whole.

    Args:
        model: to write.
        folder: may exist.
        legacy: leave out ``rigs`` and ``frames``.
        text: readable files, not binary ones.

    Raises:
        WriteFailed: the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    converted = to_pycolmap(model)
    try:
        (converted.write_text if text else converted.write_binary)(folder)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WriteFailed(f"Cannot write {str(folder)!r}: {reason}.", FULL_HINT) from error
    _check_written(converted, folder, ".txt" if text else ".bin")
    if legacy:
        for name in NEW_FILES:
            (folder / name).with_suffix(".txt" if text else ".bin").unlink(missing_ok=True)


FULL_HINT = "Free some space, or choose another --out."


def _check_written(model: pycolmap.Reconstruction, folder: Path, suffix: str) -> None:
    """Read back what pycolmap wrote: on a full disk it writes half of a file and says nothing.

    Raises:
        WriteFailed: a file is cut short.
    """
    found = read_records(folder, suffix)
    counts = {
        "cameras": (len(found.cameras), model.num_cameras()),
        "images": (len(found.images), model.num_images()),
        "2D points": (sum(len(image.point) for image in found.images), model.compute_num_observations()),
        "points": (len(found.points.identity), model.num_points3D()),
        "observations": (len(found.points.track_image), model.compute_num_observations()),
        "rigs": (len(found.rigs), model.num_rigs()),
        "frames": (len(found.frames or ()), model.num_frames()),
    }
    wrong = [f"{has} of {should} {name} are on the disk" for name, (has, should) in counts.items() if has != should]
    wrong += [finding.what for finding in (*found.findings, *found.short)]
    if suffix == ".txt":
        files = [folder / name for name in MODEL_TEXTS]
        wrong += [f"{file.name} is cut short" for file in files if not file.read_bytes().endswith(b"\n")]
    if wrong:
        raise WriteFailed(f"Cannot write {str(folder)!r} whole: {wrong[0].rstrip('.')}.", FULL_HINT)


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
    folder = _model_folder(path)
    findings, kept = _checked(folder)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(
            f"The model in {str(folder)!r} is damaged: {errors[0].what.rstrip('.')}{more}.",
            "`vggsfm inspect MODEL --check` lists all that is wrong, --repair --out DIR writes what can be kept.",
        )
    return to_reconstruction(kept)


def check_colmap(path: Path | str) -> tuple[list[Finding], Reconstruction]:
    """All that is wrong with a model folder, and what of it can be kept.

    Raises:
        InputError: there is no model, or its files cannot be opened.
    """
    findings, kept = _checked(_model_folder(path))
    return findings, to_reconstruction(kept)


def _model_folder(path: Path | str) -> Path:
    folder = Path(path)
    if not _is_model(folder) and _is_model(folder / "0"):
        folder = folder / "0"
    if not _is_model(folder):
        hint = "A model folder holds cameras, images and points3D, as .bin or .txt."
        raise InputError(f"No COLMAP model in {str(path)!r}.", hint)
    return folder


def _checked(folder: Path) -> tuple[list[Finding], ModelRecords]:
    suffix = next(suffix for suffix in SUFFIXES if _has_files(folder, suffix))
    try:
        return check_records(read_records(folder, suffix))
    except OSError as error:
        raise InputError(
            f"The model in {str(folder)!r} cannot be read: {error.strerror}.", "Check its rights."
        ) from error
