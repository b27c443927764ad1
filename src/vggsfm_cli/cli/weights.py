"""``vggsfm weights``: what models there are, and getting them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vggsfm_cli.cli.console import StageProgress, set_up_logging
from vggsfm_cli.cli.failures import EXIT_CODE_HELP, explained

if TYPE_CHECKING:
    from vggsfm_cli.checkpoints import ResolvedModel

weights = typer.Typer(name="weights", no_args_is_help=True, help="List, download and convert the weights of models.")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="small, v2, hf:REPO[@REVISION] or a folder.")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit on the Hub.", metavar="REV", show_default="the registry's")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")]


def list_models(as_json: AsJson = False) -> None:
    """List the available networks, their licences, and which are downloaded.

    Example: vggsfm weights list
    """
    from vggsfm_cli.checkpoints.inventory import list_weights

    rows = list_weights()
    if as_json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for row in rows:
        note = f" ({row['licence_note']})" if row["licence_note"] else ""
        print(f"{row['name']:<10} {row['state']:<15} {row['licence']}{note}")  # noqa: T201
        print(f"{'':<10} {row['summary']}")  # noqa: T201


def download(
    model: Model,
    revision: Revision = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download and convert weights, for use without a network afterwards.

    The licence is shown first. An interrupted download is resumed. HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN
    have the same meaning as for huggingface_hub.

    Example: vggsfm weights download v2
    """
    found = _resolve(model, revision=revision, offline=offline, quiet=quiet)
    if as_json:
        print(json.dumps(_described(found), indent=2))  # noqa: T201
    else:
        print(found.sentence())  # noqa: T201
        print(found.folder or "the weights of a Python package")  # noqa: T201


def info(model: Model, revision: Revision = None, as_json: AsJson = False) -> None:
    """Show source, licence, SHA-256 and size of downloaded weights.

    Example: vggsfm weights info small
    """
    from vggsfm_cli.checkpoints.inventory import describe

    found = _on_this_disk(model, revision)
    description = {**_described(found), **describe(found)}
    if as_json:
        print(json.dumps(description, indent=2))  # noqa: T201
        return
    for key, value in description.items():
        if value not in ("", None):
            print(f"{key.replace('_', ' '):<14} {value}")  # noqa: T201


def path(model: Model, revision: Revision = None) -> None:
    """Print the folder of downloaded weights; exits with 6 if they are not downloaded.

    Example: vggsfm weights path v2
    """
    from vggsfm_cli.errors import UsageError

    found = _on_this_disk(model, revision)
    if found.folder is None:
        raise UsageError(f"{model!r} has no folder: its weights come with a Python package.")
    print(found.folder)  # noqa: T201


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published file, for example vggsfm_v2_0_0.bin.")],
    out: Annotated[Path, typer.Option(help="Folder to create.", metavar="DIR")],
    model: Annotated[str, typer.Option(help="Name of the published model.", metavar="NAME")] = "v2",
) -> None:
    """Convert a published weights file to a folder for --model DIR.

    The file is read as tensors only; no code in it is run. It is refused if its tensors are not the published ones.

    Example: vggsfm weights convert vggsfm_v2_0_0.bin --out my_v2/
    """
    from vggsfm_cli.checkpoints.resolve import convert_file

    print(convert_file(model, file, out))  # noqa: T201


def _resolve(model: str, *, revision: str | None, offline: bool, quiet: bool) -> "ResolvedModel":
    set_up_logging(0, quiet)
    from vggsfm_cli.checkpoints import resolve_model

    with StageProgress(quiet).drawing() as progress:
        return resolve_model(model, offline=offline, revision=revision, notice=progress.say, progress=progress)


def _on_this_disk(model: str, revision: str | None) -> "ResolvedModel":
    from vggsfm_cli.checkpoints.inventory import list_weights
    from vggsfm_cli.checkpoints.resolve import licence_text
    from vggsfm_cli.errors import WeightsUnavailable

    for row in list_weights():
        if revision is None and row["name"] == model and row["state"] == "not downloaded":
            licence = licence_text(row["licence"], row["licence_note"])
            raise WeightsUnavailable(
                f"The weights of {model} are not on this disk; they are {row['file']} of {row['repo']}, {licence}.",
                f"`vggsfm weights download {model}` gets them.",
            )
    return _resolve(model, revision=revision, offline=True, quiet=True)


def _described(found: "ResolvedModel") -> dict[str, Any]:
    return {**found.as_dict(), "folder": None if found.folder is None else str(found.folder)}


weights.command("list")(explained(list_models))
weights.command(epilog=EXIT_CODE_HELP)(explained(download))
weights.command()(explained(info))
weights.command(epilog=EXIT_CODE_HELP)(explained(convert))
weights.command()(explained(path))
