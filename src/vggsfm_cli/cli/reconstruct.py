"""``vggsfm reconstruct``: a folder of photographs becomes a folder of COLMAP models."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vggsfm_cli.cli.choices import choose_adjuster, use_threads
from vggsfm_cli.cli.console import StageProgress, set_up_logging
from vggsfm_cli.cli.scene_options import takes_scene_options
from vggsfm_cli.cli.summary import print_summary
from vggsfm_cli.options import SceneOptions


@takes_scene_options
def reconstruct(
    options: SceneOptions,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES",
            help="Images of one scene: a folder, a quoted pattern, a .txt list of paths, files, or a video.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to create; models go to DIR/0, DIR/1, ...", metavar="DIR")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in DIR.")] = False,
    undistort: Annotated[
        Path | None,
        typer.Option(help="Folder to create with undistorted images and sparse/0, for trainers.", metavar="DIR"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Reconstruct cameras and 3D points from images.

    Writes COLMAP models to DIR/0, DIR/1, ... and overview.png, report.json and config.toml to DIR. If the run fails,
    nothing is written.

    Example: vggsfm reconstruct photos/ --out sparse/

    Example: vggsfm reconstruct walk.mp4 --out walk/ --undistort splat/
    """
    set_up_logging(verbose, quiet)
    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.job import check_places, load_networks, reconstruct_scene, require_registered

    check_places(out, undistort, overwrite=overwrite)
    device, adjuster = choose_device(options.device), choose_adjuster(options.adjuster)
    use_threads(options.threads)
    with StageProgress(quiet).drawing() as progress:
        report = reconstruct_scene(
            images[0] if len(images) == 1 else images,
            out,
            options,
            lambda: load_networks(
                options, device, adjuster, notice=progress.say, announce=progress.announce, progress=progress
            ),
            undistort=undistort,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report, indent=2))  # noqa: T201
    else:
        print_summary(report, out, undistort)
    require_registered(report, options, out)
