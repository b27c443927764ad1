"""The command ``vggsfm``. Nothing heavy is imported before a command runs."""

import sys
from typing import Annotated, Any

import typer

from vggsfm_cli import __version__
from vggsfm_cli.cli import process
from vggsfm_cli.cli.adjust import adjust
from vggsfm_cli.cli.batch import batch
from vggsfm_cli.cli.benchmark import benchmark
from vggsfm_cli.cli.compare import compare
from vggsfm_cli.cli.config import config
from vggsfm_cli.cli.doctor import doctor
from vggsfm_cli.cli.evaluate import evaluate
from vggsfm_cli.cli.export import export, undistort
from vggsfm_cli.cli.failures import EXIT_CODE_HELP, explained, tell
from vggsfm_cli.cli.inspect import inspect
from vggsfm_cli.cli.reconstruct import reconstruct
from vggsfm_cli.cli.report import report
from vggsfm_cli.cli.scene_options import GroupedHelp
from vggsfm_cli.cli.synth import synth
from vggsfm_cli.cli.train import train
from vggsfm_cli.cli.view import view
from vggsfm_cli.cli.weights import weights
from vggsfm_cli.errors import WriteFailed


class _Program(typer.Typer):
    """The commands, run with streams and signals as they expect them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; ends the process."""
        code: Any = 0
        try:
            with process.prepared():
                try:
                    super().__call__(*args, **kwargs)
                except SystemExit as end:
                    code = end.code
        except (WriteFailed, KeyboardInterrupt) as error:
            code = code or tell(error)
        sys.exit(code)


app = _Program(
    name="vggsfm",
    help="Structure from motion: reconstruct a COLMAP model from images.",
    epilog=EXIT_CODE_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is read in half the time, by people and by the machine
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version() -> None:
    """Print the version.

    Example: vggsfm version
    """
    print(f"vggsfm {__version__}")  # noqa: T201


def _print_version(asked: bool) -> bool:
    if asked:
        version()
        raise typer.Exit
    return asked


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del show_version


app.command(cls=GroupedHelp, epilog=EXIT_CODE_HELP)(explained(reconstruct))
app.command(cls=GroupedHelp, epilog=EXIT_CODE_HELP)(explained(batch))
app.command(epilog=EXIT_CODE_HELP)(explained(train))
app.command(epilog=EXIT_CODE_HELP)(explained(inspect))
app.command(epilog=EXIT_CODE_HELP)(explained(report))
app.command(epilog=EXIT_CODE_HELP)(explained(view))
app.command(epilog=EXIT_CODE_HELP)(explained(compare))
app.command(epilog=EXIT_CODE_HELP)(explained(undistort))
app.command(epilog=EXIT_CODE_HELP)(explained(export))
app.command(epilog=EXIT_CODE_HELP)(explained(adjust))
app.command(epilog=EXIT_CODE_HELP)(explained(synth))
app.add_typer(weights)
app.add_typer(evaluate)
app.add_typer(benchmark)
app.add_typer(config)
app.command()(explained(doctor))
app.command()(version)
