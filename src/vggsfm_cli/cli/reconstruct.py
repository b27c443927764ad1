"""``vggsfm reconstruct``: a folder of photographs becomes a folder of COLMAP models."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.choices import (
    Adjuster,
    AutoChoice,
    CameraMode,
    CameraModel,
    Device,
    Keypoints,
    Precision,
    Preset,
    choose_adjuster,
    choose_device,
)
from vggsfm_cli.cli.console import StageProgress, set_up_logging
from vggsfm_cli.cli.summary import print_summary


def reconstruct(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder with the photographs of one scene.")],
    out: Annotated[Path, typer.Option(help="Folder to create; models go to DIR/0, DIR/1, ...", metavar="DIR")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in DIR.")] = False,
    legacy_colmap: Annotated[
        bool, typer.Option("--legacy-colmap", help="Leave out rigs.bin and frames.bin, for older readers.")
    ] = False,
    camera_model: Annotated[CameraModel, typer.Option(help="COLMAP's camera model.")] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        CameraMode, typer.Option(help="Which images share a camera; auto goes by size and EXIF.")
    ] = "auto",
    refine_principal_point: Annotated[
        AutoChoice, typer.Option(help="Free it in the last adjustment; auto: where the views determine it.")
    ] = "auto",
    extra_points: Annotated[
        int, typer.Option(help="Points to look for between the others, for dense models.", metavar="N", min=0)
    ] = 0,
    undistort: Annotated[
        Path | None,
        typer.Option(help="Folder to create with undistorted pictures and sparse/0, for trainers.", metavar="DIR"),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="auto: v2 on CUDA if it is downloaded, else small.", metavar="auto|small|v2|DIR|hf:REPO@REV"),
    ] = "auto",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.", metavar="REV")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    preset: Annotated[
        Preset, typer.Option(help="auto: what belongs to the model; fast: fewer tracks, about half the time.")
    ] = "auto",
    queries: Annotated[
        Keypoints, typer.Option(help="Where tracks of v2 start; auto: aliked if installed, else sift.")
    ] = "auto",
    query_points: Annotated[
        int | None, typer.Option(help="Tracks a frame starts; if not given 1024, with fast 512, with v2 2048.", min=16)
    ] = None,
    long_side: Annotated[int, typer.Option(help="Long side of the pictures the networks see, pixels.", min=64)] = 1024,
    adjuster: Annotated[
        Adjuster | None,
        typer.Option(
            help="Solver of the last adjustments; the model's own if not given. ceres weighs all points alike."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random choices; equal seeds give equal results.", min=0)] = 0,
    device: Annotated[Device, typer.Option(help="Where the networks run.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Of the networks; geometry is always float32 or more.")
    ] = "float32",
    max_memory: Annotated[
        float | None,
        typer.Option(
            help="Memory for networks and tracks, on a GPU its own; if not given what is free.", metavar="GB", min=0.1
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores if not given.", min=1)] = None,
    min_registered: Annotated[
        int, typer.Option(help="Exit with 5 if the largest model has fewer images than this.", min=0)
    ] = 0,
    overview: Annotated[bool, typer.Option("--overview/--no-overview", help="Draw DIR/overview.png.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv says all.")] = 0,
) -> None:
    """Reconstruct cameras and points from photographs.

    Writes COLMAP models, overview.png and report.json into DIR, all at once or not at all.

    Example: vggsfm reconstruct photos/ --out sparse/
    """
    set_up_logging(verbose, quiet)
    import torch

    from vggsfm_cli.checkpoints import resolve_model
    from vggsfm_cli.colmap.files import check_writable, write_colmap
    from vggsfm_cli.errors import TooFewRegistered
    from vggsfm_cli.export.targets import ExportOptions, check_export, export_model
    from vggsfm_cli.io.images import read_images
    from vggsfm_cli.pipeline import ReconstructOptions
    from vggsfm_cli.pipeline import reconstruct as run_pipeline
    from vggsfm_cli.refinement.densify import DensifyConfig
    from vggsfm_cli.report import StageClock, build_report
    from vggsfm_cli.threads import limit_cores
    from vggsfm_cli.visualization import save_overview

    check_writable(out, overwrite=overwrite)
    if undistort is not None:
        check_export(undistort, overwrite=overwrite)
    chosen_device = choose_device(device)
    solver = choose_adjuster(adjuster)
    if threads is not None:
        torch.set_num_threads(threads)
        limit_cores(threads)
    clock = StageClock()
    with StageProgress(quiet).drawing() as progress:
        with clock.stage("weights"):
            weights = resolve_model(
                model, chosen_device, offline=offline, revision=revision, notice=progress.say, progress=progress
            )
            if not quiet:
                progress.say(f"{weights.sentence()} {weights.hint}".rstrip())
            networks = weights.load(chosen_device)
            if solver is not None:
                networks.use_adjuster(solver)
        with clock.stage("images"):
            photographs = read_images(
                images,
                long_side=long_side,
                camera_mode=camera_mode,
                camera_model=camera_model,
                progress=progress,
            )
        options = ReconstructOptions(
            seed=seed,
            precision=precision,
            refine_principal_point=refine_principal_point,
            densify=DensifyConfig(points=extra_points),
            preset=preset,
            keypoints=queries,
            query_points=query_points,
            network_side=long_side,
            max_memory_gb=max_memory,
        )
        models = run_pipeline(photographs.to(chosen_device), networks, options, progress=progress)
    clock.add(models[0].report.get("stages", {}))
    chosen = {
        "images": str(images),
        "model": model,
        "revision": revision,
        "offline": offline,
        "camera_model": camera_model,
        "camera_mode": camera_mode,
        "refine_principal_point": refine_principal_point,
        "extra_points": extra_points,
        "preset": preset,
        "queries": queries,
        "query_points": query_points,
        "long_side": long_side,
        "adjuster": adjuster,
        "device": str(chosen_device),
        "precision": precision,
        "max_memory": max_memory,
        "threads": threads,
        "legacy_colmap": legacy_colmap,
    }
    report: dict[str, Any] = {}

    def add_extras(folder: Path) -> None:
        if overview:
            with clock.stage("overview"):
                save_overview(models[0], folder / "overview.png")
        report.update(build_report(photographs, models, options=chosen, seed=seed, clock=clock))
        report["weights"] = weights.as_dict()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    write_colmap(models, out, overwrite=overwrite, legacy=legacy_colmap, extras=add_extras)
    if undistort is not None:
        with StageProgress(quiet).drawing() as progress:
            export_model(models[0], undistort, images, ExportOptions(overwrite=overwrite), progress)
    if as_json:
        print(json.dumps(report, indent=2))  # noqa: T201
    else:
        print_summary(report, out, undistort)
    registered = len(models[0].names)
    if registered < min_registered:
        raise TooFewRegistered(
            f"{registered} images registered, fewer than --min-registered {min_registered}.",
            f"The model is in {str(out)!r}; report.json says why images are missing.",
        )
