"""``vggsfm config``: which options about a scene hold, and why."""

import typer

from vggsfm_cli.cli.failures import EXIT_CODE_HELP, explained
from vggsfm_cli.cli.scene_options import GroupedHelp, takes_scene_options
from vggsfm_cli.config_file import to_toml
from vggsfm_cli.options import SceneOptions

config = typer.Typer(
    name="config", no_args_is_help=True, help="Show the value of every option and where it comes from."
)


@takes_scene_options
def show(options: SceneOptions, sources: dict[str, str]) -> None:
    """Print every option of a scene and where its value comes from, as a file for --config.

    A flag overrides the environment (VGGSFM_SEED for --seed), the environment overrides --config FILE, and the file
    overrides the default.

    Example: vggsfm config show --preset fast > fast.toml
    """
    from vggsfm_cli.job import absolute

    print(to_toml(absolute(options).as_dict(), sources), end="")  # noqa: T201


config.command(cls=GroupedHelp, epilog=EXIT_CODE_HELP)(explained(show))
