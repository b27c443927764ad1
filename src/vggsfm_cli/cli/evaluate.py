"""``vggsfm evaluate``: how good is a model, measured."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vggsfm_cli.cli.choices import use_threads
from vggsfm_cli.cli.compare import model
from vggsfm_cli.cli.console import StageProgress, console, say, set_up_logging
from vggsfm_cli.cli.failures import EXIT_CODE_HELP, explained
from vggsfm_cli.options import Device

if TYPE_CHECKING:
    from vggsfm_cli.synthetic.textures import Textures

COMPARED = ("small", "classical")
"""What is measured if no model is named: the bundled model beside its classical counterpart."""

evaluate = typer.Typer(name="evaluate", no_args_is_help=True, help="Measure models and tracks against ground truth.")


def tracks(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of networks; repeat to compare several.",
            metavar="NAME|DIR",
            show_default="small and classical",
        ),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(envvar="VGGSFM_BENCH", help="Folder with surveyed scenes, data/SCENE/gt.json.", metavar="DIR"),
    ] = None,
    scenes: Annotated[
        list[str] | None,
        typer.Option(
            "--scene",
            help="Surveyed scene to measure; repeat for several.",
            metavar="NAME",
            show_default="those of the bench",
        ),
    ] = None,
    rendered: Annotated[int, typer.Option(help="Number of rendered scenes; 0 for none.", min=0)] = 12,
    queries: Annotated[int, typer.Option(help="Keypoints per query image of a surveyed scene.", min=16)] = 2048,
    query_frames: Annotated[int, typer.Option(help="Query images per surveyed scene.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Random seed of the rendered scenes.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write tracks.json and tracks.md into.", metavar="DIR")
    ] = None,
    device: Annotated[Device, typer.Option(help="Device of the networks.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all cores.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Measure the accuracy of tracks on rendered scenes and on images with surveyed cameras.

    Rendered scenes use the validation textures of training if VGGSFM_TEXTURES is set, otherwise procedural textures.

    Example: vggsfm evaluate tracks --model small --model my_model/ --bench bench/
    """
    set_up_logging(verbose, quiet)
    from vggsfm_cli.checkpoints import load_model
    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.evaluation.scenes import find_scenes
    from vggsfm_cli.evaluation.table import to_markdown
    from vggsfm_cli.evaluation.tracks import RealConfig, RenderedConfig, TracksConfig, evaluate_trackers
    from vggsfm_cli.folders import whole_file

    use_threads(threads)
    folders = find_scenes(bench, scenes) if bench is not None else []
    if bench is None and not quiet:
        say("VGGSFM_BENCH is not set and --bench not given: only rendered scenes are measured.")
    chosen_device = choose_device(device)
    trackers = {name: load_model(name, chosen_device).tracker for name in model or COMPARED}
    textures = held_out_textures() if rendered else None
    config = TracksConfig(
        real=RealConfig(queries=queries, query_frames=query_frames),
        rendered=RenderedConfig(
            scenes=rendered, seed=seed, textures="procedural" if textures is None else "photographs"
        ),
    )
    with StageProgress(quiet).drawing() as progress:
        result = evaluate_trackers(trackers, config, scenes=folders, textures=textures, progress=progress)
    text, table = json.dumps(result, indent=1), to_markdown(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (("tracks.json", text + "\n"), ("tracks.md", table)):
            with whole_file(out / name) as partial:
                partial.write_text(content)
    if as_json:
        print(text)  # noqa: T201
    else:
        console(sys.stdout).print(table, markup=False, end="")


def held_out_textures() -> "Textures | None":
    """The textures that training leaves to validation; None, for procedural ones, where there is no folder of them."""
    from vggsfm_cli.synthetic.textures import make_textures
    from vggsfm_cli.training.data import TEXTURE_VARIABLE, PoolConfig, read_textures

    if TEXTURE_VARIABLE not in os.environ:
        return None
    return make_textures(read_textures(PoolConfig(), held_out=True))


evaluate.command(epilog=EXIT_CODE_HELP)(explained(model))
evaluate.command(epilog=EXIT_CODE_HELP)(explained(tracks))
