"""``vggsfm adjust``: bundle adjustment of a COLMAP model that is there already."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from vggsfm_cli.cli.choices import adjuster_config, use_threads
from vggsfm_cli.cli.console import console, set_up_logging
from vggsfm_cli.options import Adjuster, Loss

if TYPE_CHECKING:
    from vggsfm_cli.bundle_adjustment.problem import FreeParameters

Refinable = Literal["focal", "principal-point", "distortion", "poses", "points"]


def adjust(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models, of which 0 is used.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to create; the adjusted model goes to DIR/0.", metavar="DIR")],
    adjuster: Annotated[
        Adjuster,
        typer.Option(
            help="Solver: schur is part of this tool, theseus an optional package, ceres comes with pycolmap."
        ),
    ] = "schur",
    refine: Annotated[
        str, typer.Option(help=f"What to optimise, separated by commas: {', '.join(get_args(Refinable))}.")
    ] = "poses,points,focal,distortion",
    loss: Annotated[
        Loss, typer.Option(help="Robust loss of reprojection errors; not geman-mcclure with ceres.")
    ] = Loss.NONE,
    loss_scale: Annotated[
        float, typer.Option(help="Reprojection error in pixels beyond which the loss reduces its weight.", min=1e-6)
    ] = 1.0,
    iterations: Annotated[int, typer.Option(help="Maximum number of iterations.", min=1)] = 100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in DIR.")] = False,
    legacy_colmap: Annotated[
        bool,
        typer.Option(
            "--legacy-colmap", help="Leave out rigs.bin and frames.bin, for programs that read COLMAP 3 models."
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all cores.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Run bundle adjustment on a COLMAP model.

    The pose of the first image is fixed. Rigs are not supported: each image moves independently. Points with fewer than
    two observations, and 2D points without a 3D point, are not written. DIR/report.json lists the changes.

    Example: vggsfm adjust sparse/0 --out adjusted/ --loss cauchy
    """
    set_up_logging(verbose, quiet)
    free = parse_refine(refine)
    from vggsfm_cli.bundle_adjustment.problem import RobustLoss
    from vggsfm_cli.bundle_adjustment.sparse import adjust_reconstruction
    from vggsfm_cli.colmap.files import check_writable, read_colmap, write_colmap

    check_writable(out, overwrite=overwrite)
    use_threads(threads)
    solver = dataclasses.replace(adjuster_config(adjuster), max_iterations=iterations).build()
    adjusted, summary = adjust_reconstruction(
        read_colmap(model),
        solver,
        free=free,
        loss=RobustLoss(kind=loss, scale=loss_scale),
    )
    report = {
        "model": str(model),
        "adjuster": adjuster,
        "refine": refine,
        "loss": loss,
        "loss_scale_px": loss_scale,
        **dataclasses.asdict(summary),
    }

    def add_report(folder: Path) -> None:
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    write_colmap(adjusted, out, overwrite=overwrite, legacy=legacy_colmap, extras=add_report)
    if as_json:
        print(json.dumps(report, indent=2))  # noqa: T201
    else:
        print_summary(report)


def parse_refine(text: str) -> "FreeParameters":
    """What a list of names frees.

    Raises:
        UsageError: a name that does not exist, or none at all.
    """
    from vggsfm_cli.bundle_adjustment.problem import FreeParameters
    from vggsfm_cli.errors import UsageError

    names = [name.strip() for name in text.split(",") if name.strip()]
    known = get_args(Refinable)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = f"There is no {', '.join(unknown)} to refine." if unknown else "Nothing is to be refined."
        raise UsageError(wrong, f"Choose from {', '.join(known)}, with commas between.")
    return FreeParameters(**{name.replace("-", "_"): name in names for name in known})


def print_summary(report: dict[str, Any]) -> None:
    """The result in a few lines on stdout."""
    paper = console(sys.stdout)
    paper.print(f"{report['iterations']} steps over {report['observations']} observations: {report['status']}")
    paper.print(f"{'cost':<24}{report['cost_before']:.6g} -> {report['cost_after']:.6g}", markup=False)
    before, after = (
        "unknown" if error is None else f"{error:.4f} px"
        for error in (report["mean_error_before_px"], report["mean_error_after_px"])
    )
    paper.print(f"{'mean reprojection error':<24}{before} -> {after}", markup=False)
    if report["behind_before"] or report["behind_after"]:
        paper.print(f"{'behind their camera':<24}{report['behind_before']} -> {report['behind_after']}", markup=False)
