"""Options in a TOML file: one line ``name = value`` each, under the names of the command line."""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vggsfm_cli.errors import UsageError
from vggsfm_cli.reading import read_text

Value = bool | int | float | str
"""What an option may be in a file; an option without a value is left out."""

KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
MAX_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an option takes: its type, and the texts to choose from if it has such."""

    kind: type[bool] | type[int] | type[float] | type[str]
    choices: tuple[str, ...] = ()


def read_config(path: Path, settings: Mapping[str, Setting]) -> dict[str, Value]:
    """The options of a file, under their names in Python.

    Args:
        path: of the file.
        settings: all options there are; a file may write their names with ``-`` or ``_``.

    Raises:
        UsageError: the file cannot be read or is no TOML, names an unknown option, or gives one a wrong value.
    """
    values: dict[str, Value] = {}
    for key, value in _parse(path).items():
        name = key.replace("-", "_")
        if name not in settings:
            raise UsageError(f"{str(path)!r} sets an unknown option {key!r}.", _nearest(name, settings))
        if name in values:
            raise UsageError(f"{str(path)!r} sets {key!r} twice.", "Keep one of the two lines.")
        values[name] = _checked(path, key, value, settings[name])
    return values


def to_toml(values: Mapping[str, Value | None], comments: Mapping[str, str] | None = None) -> str:
    """The lines of a file that ``read_config`` reads back.

    Args:
        values: under their names in Python; an option that is None becomes a comment.
        comments: what to say behind an option.
    """
    lines = []
    for name, value in values.items():
        shown = f"# {_key(name)} is not set" if value is None else f"{_key(name)} = {_literal(value)}"
        comment = (comments or {}).get(name)
        joint = ": " if value is None else "  # "
        lines.append(shown + (f"{joint}{comment}" if comment else ""))
    return "\n".join(lines) + "\n"


def _parse(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_text(path, MAX_BYTES))
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}.", "Check the path of --config.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not written in UTF-8.", "Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0] if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"{str(path)!r} is not valid TOML: {reason}.", "Write lines such as: seed = 7") from error


def _checked(path: Path, key: str, value: object, setting: Setting) -> Value:
    if setting.kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    # bool is an int to Python, not to a reader
    if not isinstance(value, bool | int | float | str) or type(value) is not setting.kind or _not_finite(value):
        shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
        raise UsageError(
            f"{str(path)!r} sets {key!r} to {shown}, which is not {KIND_NAMES[setting.kind]}.", _example(key, setting)
        )
    if setting.choices and value not in setting.choices:
        raise UsageError(
            f"{str(path)!r} sets {key!r} to {value!r}, which it cannot be.",
            f"Choose one of: {', '.join(setting.choices)}.",
        )
    return value


def _not_finite(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _example(key: str, setting: Setting) -> str:
    examples: dict[type, Value] = {
        bool: True,
        int: 1,
        float: 0.5,
        str: setting.choices[0] if setting.choices else "...",
    }
    return f"Write for example: {_key(key)} = {_literal(examples[setting.kind])}"


def _nearest(name: str, settings: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(name, settings, n=1, cutoff=0.5)
    return f"Did you mean {_key(near[0])!r}?" if near else "`vggsfm config show` prints all there are."


def _key(name: str) -> str:
    return name.replace("_", "-")


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's but for DEL
    return str(value).lower() if isinstance(value, bool) else repr(value)
