"""``vggsfm inspect``: what a COLMAP model holds."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.console import console


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise a COLMAP model: cameras, images, errors.

    Reads models of any COLMAP version, binary or text.

    Example: vggsfm inspect sparse/0
    """
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.report import image_rows, summarize

    reconstruction = read_colmap(model)
    summary, rows = summarize(reconstruction), image_rows(reconstruction)
    if as_json:
        print(json.dumps({**summary, "images": rows}, indent=2))  # noqa: T201
    else:
        _print(summary, rows)


def _print(summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    paper = console(sys.stdout)
    error = summary["mean_reprojection_error_px"]
    for label, value in (
        ("cameras", len(summary["cameras"])),
        ("images", summary["images"]),
        ("points", summary["points"]),
        ("observations", summary["observations"]),
        ("mean track length", f"{summary['mean_track_length']:.2f}"),
        ("mean reprojection error", "unknown" if error is None else f"{error:.3f} px"),
    ):
        paper.print(f"{label:<24}{value}", markup=False)
    cameras = Table("camera", "model", "size", "images", "parameters", box=None, pad_edge=False)
    for camera in summary["cameras"]:
        params = " ".join(f"{value:g}" for value in camera["params"])
        size = f"{camera['width']} x {camera['height']}"
        cameras.add_row(str(camera["id"]), camera["model"], size, str(camera["images"]), params)
    paper.print()
    paper.print(cameras)
    images = Table("image", "camera", "observations", "mean error of its points", box=None, pad_edge=False)
    for row in rows:
        images.add_row(
            row["name"], str(row["camera"]), str(row["observations"]), f"{row['mean_point_error_px']:.3f} px"
        )
    paper.print()
    paper.print(images)
