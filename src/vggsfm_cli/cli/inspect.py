"""``vggsfm inspect``: what a COLMAP model holds."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.console import console


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")],
    check: Annotated[
        bool, typer.Option("--check", help="List all that is wrong; exit with 3 if the model cannot be read.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what can be kept of a damaged model, to the folder of --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to create with --repair.", metavar="DIR")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in DIR.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise a COLMAP model: cameras, images, errors.

    Reads models of any COLMAP version, binary or text. A damaged one is refused; --check lists all faults, and
    --repair keeps what does not depend on them.

    Example: vggsfm inspect sparse/0

    Example: vggsfm inspect damaged/ --repair --out repaired/
    """
    if check or repair or out is not None:
        _check(model, out, repair=repair, overwrite=overwrite, as_json=as_json)
        return
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.report import image_rows, summarize

    reconstruction = read_colmap(model)
    summary, rows = summarize(reconstruction), image_rows(reconstruction)
    if as_json:
        print(json.dumps({**summary, "images": rows}, indent=2))  # noqa: T201
    else:
        _print(summary, rows)


def _check(model: Path, out: Path | None, *, repair: bool, overwrite: bool, as_json: bool) -> None:
    """List what is wrong with a model, and write what can be kept if there is a place for it."""
    from vggsfm_cli.colmap.files import check_colmap, check_writable, write_colmap
    from vggsfm_cli.errors import InputError, UsageError

    if repair != (out is not None):
        raise UsageError("--repair and --out belong together.", "Add --repair --out DIR, or leave out both.")
    if out is not None:
        check_writable(out, overwrite=overwrite)
    findings, kept = check_colmap(model)
    errors = sum(finding.severity == "error" for finding in findings)
    counts = {"images": len(kept.names), "points": len(kept.xyz_world), "observations": len(kept.frame)}
    if out is not None:
        if not kept.names:
            raise InputError("Nothing of the model can be kept: no image is whole.", "Look at it with --check.")
        write_colmap(kept, out, overwrite=overwrite)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        written = None if out is None else str(out)
        report = {"readable": errors == 0, "findings": listed, "kept": counts, "written": written}
        print(json.dumps(report, indent=2))  # noqa: T201
    else:
        paper = console(sys.stdout)
        for finding in findings:
            paper.print(f"{finding.severity:<8} {finding.file:<14} {finding.what}", markup=False)
        kept_words = ", ".join(f"{count} {name}" for name, count in counts.items())
        paper.print(f"{len(findings)} findings, {errors} of them errors; whole are {kept_words}", markup=False)
        if out is not None:
            paper.print(f"{out}: what can be kept; points that fewer than two images see are left out", markup=False)
    if errors and out is None:
        raise typer.Exit(InputError.exit_code)


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
