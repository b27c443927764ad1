"""Writes docs/cli.md, the reference of all commands, from what the program itself says: ``make docs``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from vggsfm_cli.cli.app import app
from vggsfm_cli.cli.failures import EXIT_CODES
from vggsfm_cli.options import SceneOptions, options_of

FILE = Path(__file__).with_name("cli.md")
WIDTH = 100
TYPER = ".".join(typer.__version__.split(".")[:2])
"""Another version may lay out the same help differently."""

HEAD = """<!-- Written by docs/generate.py with typer {typer}: change the program, then run `make docs`. -->

# Commands

Every command has `--help` with an example. Results go to stdout, progress and warnings to stderr. `--json` prints the
result as JSON, `-q` prints no progress and no warnings, `-v` and `-vv` print more.

## Exit codes

| code | meaning |
| --- | --- |
{codes}

With any code but 0, the last lines on stderr are `error:` with one sentence, and usually `hint:` with what to do.
`VGGSFM_DEBUG=1` adds the traceback.

## Where the options of a scene come from

A flag overrides an environment variable, that overrides the file of `--config` (or `VGGSFM_CONFIG`), and that overrides
the default. `vggsfm config show` prints every value and where it comes from. Every result contains a `config.toml` to
repeat the run with `--config`. A file has one line per option: `long-side = 768`, strings in quotes, `true` or `false`.

| option | environment | in a file | default |
| --- | --- | --- | --- |
{options}
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, those within groups too, in the order of the program."""
    children = getattr(command, "commands", {})
    if not children:
        yield path
    for name, child in children.items():
        yield from commands(child, (*path, name))


def help_of(path: tuple[str, ...]) -> str:
    shown = CliRunner().invoke(app, [*path, "--help"], prog_name="vggsfm", terminal_width=WIDTH, color=False)
    text = shown.stdout.split("\n  Exit codes:")[0]
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def option_rows() -> Iterator[str]:
    for one in options_of(SceneOptions):
        value = {bool: "true", int: "N", float: "N"}.get(one.kind, '"..."')
        shown = "not set" if one.default is None else str(one.default).lower() if one.kind is bool else one.default
        yield f"| `{one.flag}` | `{one.variable}` | `{one.flag.removeprefix('--')} = {value}` | {shown} |"


def reference() -> str:
    """The whole page."""
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    parts = [HEAD.format(typer=TYPER, codes=codes, options="\n".join(option_rows()))]
    for path in commands(typer.main.get_command(app)):
        parts.append(f"## vggsfm {' '.join(path)}\n\n```text\n{help_of(path)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
