"""``vggsfm report``: a page to look at a model with."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.console import StageProgress, console, say, set_up_logging


def report(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; by default the one in report.json.", metavar="DIR"),
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.", metavar="FILE")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page; by default the name of the folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
) -> None:
    """Write an HTML page about a model.

    The page shows points and cameras in 3D, the images with tracks and reprojections, and statistics. It is one file
    and needs no network. It works for any COLMAP model. A report.json beside the model adds confidence, times and
    licence, and the reasons why images are not registered.

    Example: vggsfm report sparse/ --images photos/ --out report.html
    """
    set_up_logging(0, quiet)
    _check_writable(out, overwrite)
    from vggsfm_cli.colmap.files import model_folders, read_colmap
    from vggsfm_cli.folders import claimed
    from vggsfm_cli.io.lookup import photographs_in
    from vggsfm_cli.visualization.report import save_html_report

    found = model_folders(model)
    run = _report_of_run(found, quiet)
    source = images or _images_of_run(run)
    if source is None and not quiet:
        say("The images were not found, so the page has none; name their folder with --images DIR.")
    models = [read_colmap(folder) for folder in found]
    names = [name for read in models for name in read.names]
    photographs = photographs_in(source, names) if source is not None else None
    with claimed(out.resolve()), StageProgress(quiet).drawing() as progress:
        save_html_report(
            models,
            out,
            title=title or _name(model),
            photographs=photographs,
            report=run,
            progress=progress,
        )
    points = sum(len(read.xyz_world) for read in models)
    count = sum(len(read.names) for read in models)
    megabytes = out.stat().st_size / 1e6
    console(sys.stdout).print(f"{out}: {count} images, {points} points, {megabytes:.1f} MB", markup=False)


def _check_writable(out: Path, overwrite: bool) -> None:
    from vggsfm_cli.errors import UsageError

    if out.is_dir():
        raise UsageError(f"{str(out)!r} is a folder.", f"Name a file: --out {out / 'report.html'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{str(out)!r} exists already.", "Add --overwrite, or choose another --out.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {str(out.parent)!r}.", "Choose another --out.")


def _report_of_run(folders: list[Path], quiet: bool) -> dict[str, Any]:
    """What ``reconstruct`` wrote beside the models, for these models; empty if there is none."""
    from vggsfm_cli.reading import read_text

    first = folders[0].resolve()
    numbered = first.name.isdigit()
    beside = first.parent if numbered else first
    path = beside / "report.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
    except (ValueError, OSError) as error:
        if not quiet:
            say(f"warning: {path} is not used: {error}")
        return {}
    if not isinstance(found, dict):
        return {}
    listed = found.get("models")
    numbers = [int(folder.resolve().name) for folder in folders] if numbered else [0]
    chosen = [listed[i] for i in numbers if i < len(listed)] if isinstance(listed, list) else []
    return {**found, "models": chosen}


def _images_of_run(run: dict[str, Any]) -> Path | None:
    options = run.get("options")
    source = options.get("images") if isinstance(options, dict) else None
    return Path(source) if isinstance(source, str) and Path(source).is_dir() else None


def _name(model: Path) -> str:
    path = model.resolve()
    while path.name.isdigit() or path.name == "sparse":
        path = path.parent
    return path.name or "model"
