"""The options about one scene, declared once for every command that reconstructs scenes.

Each is taken from the command line, else from the environment (``VGGSFM_SEED`` for ``--seed``), else from the file that
``--config`` names, else it has its default.

Their names and defaults are those of ``job.SceneOptions``, which imports torch and is therefore not imported before a
command runs; a test compares both.
"""

import copy
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

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
from vggsfm_cli.cli.failures import tell
from vggsfm_cli.errors import VGGSfMError

if TYPE_CHECKING:
    from vggsfm_cli.config_file import Setting
    from vggsfm_cli.job import SceneOptions

CONFIG_VARIABLE = "VGGSFM_CONFIG"


def declared(
    *,
    camera_model: Annotated[CameraModel, typer.Option(help="COLMAP's camera model.")] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        CameraMode, typer.Option(help="Which images share a camera; auto goes by size and EXIF.")
    ] = "auto",
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Enter the folders in IMAGES; names are then relative paths.")
    ] = False,
    intrinsics: Annotated[
        str | None,
        typer.Option(
            help="Known cameras: numbers in the model's order, without the distortion if it is not known; a JSON file; "
            "or a COLMAP model.",
            metavar="f,cx,cy|fx,fy,cx,cy,...|PATH",
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks: NAME.jpg.png or NAME.png, black = ignore.", metavar="DIR")
    ] = None,
    mask_invert: Annotated[bool, typer.Option("--mask-invert", help="In the masks, white = ignore.")] = False,
    ignore_alpha: Annotated[
        bool,
        typer.Option("--ignore-alpha", help="Use transparent parts of photographs, which count as masked otherwise."),
    ] = False,
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
    sequential: Annotated[
        bool | None,
        typer.Option(
            "--sequential/--no-sequential", help="Reconstruct in the order of the names; if not given, only a video."
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Pictures a second of film, the sharpest of each moment.", min=0.01)] = 4.0,
    max_frames: Annotated[
        int | None, typer.Option(help="Pictures of a video at most, spread over all of it.", metavar="N", min=2)
    ] = None,
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
    report: Annotated[
        bool, typer.Option("--report", help="Write DIR/report.html: one page with all there is to see.")
    ] = False,
    legacy_colmap: Annotated[
        bool, typer.Option("--legacy-colmap", help="Leave out rigs.bin and frames.bin, for older readers.")
    ] = False,
) -> None:
    """Never called: its signature is the table of options."""


def variable(name: str) -> str:
    """Environment variable of an option."""
    return f"VGGSFM_{name.upper()}"


def settings() -> "dict[str, Setting]":
    """What a config file may set."""
    return {name: _setting(parameter.annotation) for name, parameter in inspect.signature(declared).parameters.items()}


def _sources(context: Any) -> dict[str, str]:
    """Where the value of each option comes from, in a word; ``context`` is typer's."""
    words = {}
    file = context.params.get("config") or os.environ.get(CONFIG_VARIABLE)
    for name in inspect.signature(declared).parameters:
        source = context.get_parameter_source(name)
        kind = source.name if source is not None else "DEFAULT"
        words[name] = {
            "COMMANDLINE": "flag",
            "ENVIRONMENT": f"environment, {variable(name)}",
            "DEFAULT_MAP": str(file),
        }.get(kind, "default")
    return words


def _setting(annotation: Any) -> "Setting":
    from vggsfm_cli.config_file import Setting

    kind = get_args(annotation)[0]  # of Annotated
    if get_origin(kind) is not Literal:
        kind = next((part for part in get_args(kind) if part is not NoneType), kind)
    if get_origin(kind) is Literal:
        return Setting(kind=str, choices=get_args(kind))
    return Setting(kind=str if kind is Path else kind)


def _from_environment(parameter: inspect.Parameter) -> inspect.Parameter:
    """The option with its environment variable."""
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.envvar, option.show_envvar = variable(parameter.name), False
    return parameter.replace(annotation=Annotated[kind, option])


def _read_config(context: Any, path: Path | None) -> Path | None:
    """Take what the file says for the defaults of the other options."""
    if path is None or context.resilient_parsing:
        return path
    from vggsfm_cli.config_file import read_config

    try:
        context.default_map = {**(context.default_map or {}), **read_config(path, settings())}
    except VGGSfMError as error:
        raise typer.Exit(tell(error)) from None
    return path


def _config(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read options from this file; flags and VGGSFM_NAME in the environment count before it.",
            metavar="FILE.toml",
            callback=_read_config,
            is_eager=True,
            envvar=CONFIG_VARIABLE,
            show_envvar=False,
        ),
    ] = None,
) -> None:
    """Never called: its signature is the option that reads the others."""


def takes_scene_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all the options about one scene; its parameter ``options`` receives them as ``SceneOptions``.

    A parameter ``sources``, if it has one, is told where the value of each comes from.
    """
    table = {name: _from_environment(parameter) for name, parameter in inspect.signature(declared).parameters.items()}
    wanted = inspect.signature(command).parameters
    own = [parameter for name, parameter in wanted.items() if name not in ("options", "sources")]
    given = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        context = arguments.pop("context")
        del arguments["config"]  # its callback has read it
        if "sources" in wanted:
            arguments["sources"] = _sources(context)
        chosen = {name: arguments.pop(name) for name in table}
        command(options=scene_options(chosen), **arguments)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *given, *table.values(), inspect.signature(_config).parameters["config"]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def scene_options(chosen: dict[str, Any]) -> "SceneOptions":
    """The values of the options, under the library's type."""
    from vggsfm_cli.job import SceneOptions

    return SceneOptions(**chosen)
