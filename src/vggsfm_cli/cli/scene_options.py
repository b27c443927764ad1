"""The options about one scene, as every command that reconstructs scenes takes them: those of ``options.SceneOptions``.

Each is taken from the command line, else from the environment (``VGGSFM_SEED`` for ``--seed``), else from the file that
``--config`` names, else it has its default.
"""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.failures import tell
from vggsfm_cli.config_file import Setting, read_config
from vggsfm_cli.errors import VGGSfMError
from vggsfm_cli.options import GROUPS, Option, SceneOptions, options_of

CONFIG_VARIABLE = "VGGSFM_CONFIG"

OPTIONS = options_of(SceneOptions)


class GroupedHelp(typer.core.TyperCommand):
    """A command whose help shows its own options first, then those about a scene, group by group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group."""
        shown: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], **{group: [] for group in GROUPS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                own = "Arguments" if parameter.param_type_name == "argument" else "Options"
                shown[getattr(parameter, "rich_help_panel", None) or own].append(record)
        for title, records in shown.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def settings() -> dict[str, Setting]:
    """What a config file may set."""
    return {one.name: Setting(kind=one.kind, choices=one.choices) for one in OPTIONS}


def _parameter(one: Option) -> inspect.Parameter:
    """An option as typer takes it from a function's signature."""
    flags = [one.flag]
    if one.kind is bool and one.default is not False:
        flags = [f"{one.flag}/--no-{one.flag.removeprefix('--')}"]
    told = typer.Option(
        *flags,
        help=one.about.help,
        metavar=one.about.unit or None,
        min=one.about.minimum,
        envvar=one.variable,
        show_envvar=False,
        rich_help_panel=one.about.group,
    )
    kind = one.annotation
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(one.name, keyword, default=one.default, annotation=Annotated[kind, told])


def _sources(context: Any) -> dict[str, str]:
    """Where the value of each option comes from, in a word; ``context`` is typer's."""
    words = {}
    file = context.params.get("config") or os.environ.get(CONFIG_VARIABLE)
    for one in OPTIONS:
        source = context.get_parameter_source(one.name)
        kind = source.name if source is not None else "DEFAULT"
        words[one.name] = {
            "COMMANDLINE": "flag",
            "ENVIRONMENT": f"environment, {one.variable}",
            "DEFAULT_MAP": str(file),
        }.get(kind, "default")
    return words


def _read_config(context: Any, path: Path | None) -> Path | None:
    """Take what the file says for the defaults of the other options."""
    if path is None or context.resilient_parsing:
        return path
    try:
        context.default_map = {**(context.default_map or {}), **read_config(path, settings())}
    except VGGSfMError as error:
        raise typer.Exit(tell(error)) from None
    return path


CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            help="Read options from this file; flags and VGGSFM_NAME in the environment override it.",
            metavar="FILE.toml",
            callback=_read_config,
            is_eager=True,
            envvar=CONFIG_VARIABLE,
            show_envvar=False,
            rich_help_panel=GROUPS[-1],
        ),
    ],
)
"""The option that reads the others."""


def takes_scene_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all the options about one scene; its parameter ``options`` receives them as ``SceneOptions``.

    A parameter ``sources``, if it has one, is told where the value of each comes from.
    """
    wanted = inspect.signature(command).parameters
    own = [parameter for name, parameter in wanted.items() if name not in ("options", "sources")]
    given = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        context = arguments.pop("context")
        del arguments["config"]  # its callback has read it
        if "sources" in wanted:
            arguments["sources"] = _sources(context)
        chosen = {one.name: arguments.pop(one.name) for one in OPTIONS}
        command(options=SceneOptions(**chosen), **arguments)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *given, *(_parameter(one) for one in OPTIONS), CONFIG]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
