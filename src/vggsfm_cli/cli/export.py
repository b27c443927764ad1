"""``vggsfm export`` and ``vggsfm undistort``: models as other programs read them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.console import StageProgress, console, set_up_logging
from vggsfm_cli.options import ExportTarget

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")]
Images = Annotated[Path, typer.Option(help="Folder of the images of the model.", metavar="DIR")]
Out = Annotated[Path, typer.Option(help="Folder to create.", metavar="DIR")]
Masks = Annotated[
    Path | None, typer.Option(help="Folder of masks to export too: NAME.jpg.png, black = ignore.", metavar="DIR")
]
MaskInvert = Annotated[bool, typer.Option("--mask-invert", help="In the masks, white = ignore.")]
IgnoreAlpha = Annotated[
    bool, typer.Option("--ignore-alpha", help="Use transparent parts of photographs, which count as masked otherwise.")
]
BlankPixels = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="0 crops all blank pixels, 1 keeps the whole image; blank pixels are masked."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in DIR.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")]


def export(
    model: Model,
    out: Out,
    target: Annotated[ExportTarget, typer.Option(help="Program that will read the result.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images of the model; not needed for ply and txt.", metavar="DIR"),
    ] = None,
    masks: Masks = None,
    mask_invert: MaskInvert = False,
    ignore_alpha: IgnoreAlpha = False,
    blank_pixels: BlankPixels = 0.0,
    downscale: Annotated[
        list[int] | None,
        typer.Option(
            help="Also write images at 1/F of the size, to images_F/; repeat for several. Not for instant-ngp.",
            metavar="F",
            min=2,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for another program.

    3dgs and gsplat: undistorted images and sparse/0. nerfstudio and instant-ngp: transforms.json and the images. ply:
    the points. txt: COLMAP text files.

    Example: vggsfm export sparse/0 --images photos/ --out splat/ --target gsplat
    """
    _run(
        model, out, images, target, quiet, as_json,
        masks=masks, mask_invert=mask_invert, ignore_alpha=ignore_alpha, blank_pixels=blank_pixels,
        downscale=tuple(downscale or ()), overwrite=overwrite,
    )  # fmt: skip


def undistort(
    model: Model,
    images: Images,
    out: Out,
    masks: Masks = None,
    mask_invert: MaskInvert = False,
    ignore_alpha: IgnoreAlpha = False,
    blank_pixels: BlankPixels = 0.0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write undistorted images and their model.

    Writes images/ (as stored, without EXIF data), sparse/0 with PINHOLE cameras, and masks/ if there are any.

    Example: vggsfm undistort sparse/0 --images photos/ --out undistorted/
    """
    _run(
        model,
        out,
        images,
        "3dgs",
        quiet,
        as_json,
        masks=masks,
        mask_invert=mask_invert,
        ignore_alpha=ignore_alpha,
        blank_pixels=blank_pixels,
        overwrite=overwrite,
    )


def _run(
    model: Path, out: Path, images: Path | None, target: ExportTarget, quiet: bool, as_json: bool, **options: Any
) -> None:
    set_up_logging(0, quiet)
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.export.targets import ExportOptions, check_export, export_model

    check_export(out, overwrite=options["overwrite"])
    reconstruction = read_colmap(model)
    with StageProgress(quiet).drawing() as progress:
        record = export_model(reconstruction, out, images, ExportOptions(target=target, **options), progress)
    if as_json:
        print(json.dumps(record, indent=2))  # noqa: T201
    else:
        console(sys.stdout).print(export_summary(record, out), markup=False)


def export_summary(record: dict[str, Any], out: Path) -> str:
    """One line on what was written."""
    sizes = ", ".join(f"{width} x {height}" for width, height in record["sizes"])
    return f"{out}: {record['images']} images of {sizes}, {record['points']} points for {record['target']}"
