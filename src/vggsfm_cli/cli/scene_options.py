"""The options about one scene, declared once for every command that reconstructs scenes.

Their names and defaults are those of ``job.SceneOptions``, which imports torch and is therefore not imported before a
command runs; a test compares both.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

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
)

if TYPE_CHECKING:
    from vggsfm_cli.job import SceneOptions


def declared(
    *,
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
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores if not given.", min=1)] = None,
    min_registered: Annotated[
        int, typer.Option(help="Exit with 5 if the largest model has fewer images than this.", min=0)
    ] = 0,
    overview: Annotated[bool, typer.Option("--overview/--no-overview", help="Draw DIR/overview.png.")] = True,
    legacy_colmap: Annotated[
        bool, typer.Option("--legacy-colmap", help="Leave out rigs.bin and frames.bin, for older readers.")
    ] = False,
) -> None:
    """Never called: its signature is the table of options."""


def takes_scene_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all the options about one scene; its parameter ``options`` receives them as ``SceneOptions``."""
    table = inspect.signature(declared).parameters
    own = [p for name, p in inspect.signature(command).parameters.items() if name != "options"]
    given = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in table}
        command(options=scene_options(chosen), **arguments)

    parameters = [*given, *table.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def scene_options(chosen: dict[str, Any]) -> "SceneOptions":
    """The values of the options, under the library's type."""
    from vggsfm_cli.job import SceneOptions

    return SceneOptions(**chosen)
