"""Exports by the name of what reads them. What is written appears whole or not at all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vggsfm_cli import __version__, folders
from vggsfm_cli.colmap.files import write_model
from vggsfm_cli.errors import UsageError
from vggsfm_cli.export.gaussian_splatting import write_3dgs
from vggsfm_cli.export.gsplat import write_gsplat
from vggsfm_cli.export.instant_ngp import write_instant_ngp
from vggsfm_cli.export.nerfstudio import write_nerfstudio
from vggsfm_cli.export.photographs import find_photographs
from vggsfm_cli.io.ply import write_ply
from vggsfm_cli.options import ExportTarget
from vggsfm_cli.reading import read_text
from vggsfm_cli.scene import ProgressCallback, Reconstruction, silent

UNDISTORTED_TARGETS = ("3dgs", "gsplat")
PICTURE_TARGETS = (*UNDISTORTED_TARGETS, "nerfstudio", "instant-ngp")
DOWNSCALED_TARGETS = (*UNDISTORTED_TARGETS, "nerfstudio")
TARGETS: tuple[str, ...] = get_args(ExportTarget)

RECORD = "export.json"
"""In every export: what it is. Only a folder with this file is ever replaced."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write."""

    target: str = "3dgs"
    masks: Path | None = None  # folder of the masks of the photographs, black = ignore
    mask_invert: bool = False  # white = ignore
    ignore_alpha: bool = False  # use what lies under transparent pixels
    blank_pixels: float = 0.0  # of undistorted pictures: 0 crops until none is left, 1 keeps all content
    downscale: tuple[int, ...] = ()  # not instant-ngp: fractions of the size to write pictures at, too
    overwrite: bool = False  # replace an earlier export


def check_export(out: Path | str, *, overwrite: bool = False) -> None:
    """Refuse early what ``export_model`` would refuse in the end.

    Raises:
        UsageError: ``out`` holds other files, or an earlier export and ``overwrite`` is not set.
    """
    out = Path(out).resolve()
    folders.check_writable(out, ours=lambda _: _is_export(out), holds="an export", inside="export", overwrite=overwrite)


def _is_export(folder: Path) -> bool:
    try:
        return json.loads(read_text(folder / RECORD)).get("written_by") == "vggsfm"
    except (OSError, ValueError, AttributeError):
        return False


def export_model(
    reconstruction: Reconstruction,
    out: Path | str,
    images: Path | str | None = None,
    options: ExportOptions | None = None,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Write a model for another program.

    - ``3dgs``: undistorted ``images/``, transparent where masked, and ``sparse/0``.
    - ``gsplat``: the same without transparency.
    - ``nerfstudio``: ``transforms.json``, ``sparse_pc.ply`` and ``images/`` as they are.
    - ``instant-ngp``: ``transforms.json`` and ``images/`` as they are.
    - ``ply``: ``points.ply``. ``txt``: COLMAP's text files.

    The first three also get ``images_F`` for each factor of ``downscale``.

    Args:
        reconstruction: the model.
        out: folder to create; an empty one may exist.
        images: folder of the photographs; all but ``ply`` and ``txt`` need it.
        options: what to write.
        progress: told of each undistorted picture.

    Returns:
        What was written, the content of ``export.json``.

    Raises:
        UsageError: options that make no sense, or ``out`` cannot be replaced.
        InputError: photographs are missing or cannot be read.
        WriteFailed: the disk refuses.
    """
    options = options or ExportOptions()
    _check_options(options, images)
    out = Path(out).resolve()
    check_export(out, overwrite=options.overwrite)
    if images is not None and Path(images).resolve().is_relative_to(out):
        raise UsageError(f"The photographs lie in {str(out)!r}, which would be replaced.", "Choose another --out.")
    with folders.whole_folder(out, lambda: check_export(out, overwrite=options.overwrite)) as folder:
        written, names = _write(reconstruction, folder, images, options, progress)
        record = {
            "written_by": "vggsfm",
            "version": __version__,
            "target": options.target,
            "images": len(written.names),
            "points": len(written.xyz_world),
            "observations": len(written.frame),
            "sizes": sorted({(int(width), int(height)) for width, height in written.sizes.tolist()}),
            **({"names": names} if names else {}),
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _check_options(options: ExportOptions, images: Path | str | None) -> None:
    if options.target not in TARGETS:
        raise UsageError(f"Unknown target {options.target!r}.", f"Choose one of: {', '.join(TARGETS)}.")
    if options.target in PICTURE_TARGETS and images is None:
        raise UsageError(f"The target {options.target} needs the photographs.", "Add --images DIR.")
    if options.masks is not None and options.target not in PICTURE_TARGETS:
        raise UsageError(f"The target {options.target} has no masks.", "Leave out --masks.")
    if options.mask_invert and options.masks is None:
        raise UsageError("--mask-invert says how to read masks, and there are none.", "Add --masks DIR.")
    if options.blank_pixels != 0 and options.target not in UNDISTORTED_TARGETS:
        raise UsageError(f"The target {options.target} does not undistort.", "Leave out --blank-pixels.")
    if not 0 <= options.blank_pixels <= 1:
        raise UsageError(f"--blank-pixels {options.blank_pixels:g} is not from 0 to 1.", "0 crops, 1 keeps everything.")
    if options.ignore_alpha and options.target not in PICTURE_TARGETS:
        raise UsageError(f"The target {options.target} has no pictures.", "Leave out --ignore-alpha.")
    if options.downscale and options.target not in DOWNSCALED_TARGETS:
        raise UsageError(f"The target {options.target} has no downscaled pictures.", "Leave out --downscale.")
    if any(factor < 2 for factor in options.downscale):  # noqa: PLR2004
        raise UsageError("A factor of --downscale is less than 2.", "The pictures themselves are always written.")


def _write(
    reconstruction: Reconstruction,
    folder: Path,
    images: Path | str | None,
    options: ExportOptions,
    progress: ProgressCallback,
) -> tuple[Reconstruction, dict[str, str]]:
    """Write the files; the model written, and the model's name of each picture by its name in the export."""
    if options.target == "ply":
        write_ply(folder / "points.ply", reconstruction.xyz_world, reconstruction.color)
        return reconstruction, {}
    if options.target == "txt":
        write_model(reconstruction, folder, legacy=True, text=True)
        return reconstruction, {}
    assert images is not None
    photographs = find_photographs(
        reconstruction,
        images,
        options.masks,
        mask_invert=options.mask_invert,
        ignore_alpha=options.ignore_alpha,
        masks_become_alpha=options.target == "3dgs",
    )
    names = {photograph.name: photograph.original for photograph in photographs}
    if options.target == "nerfstudio":
        write_nerfstudio(reconstruction, photographs, folder, downscale=options.downscale)
        return reconstruction, names
    if options.target == "instant-ngp":
        write_instant_ngp(reconstruction, photographs, folder)
        return reconstruction, names
    write = write_gsplat if options.target == "gsplat" else write_3dgs
    written = write(
        reconstruction,
        photographs,
        folder,
        blank_pixels=options.blank_pixels,
        downscale=options.downscale,
        progress=progress,
    )
    return written, names
