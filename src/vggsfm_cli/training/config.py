"""A recipe: what is trained and how, read from a TOML file."""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.options import Precision
from vggsfm_cli.reading import read_text
from vggsfm_cli.training.schedule import Schedule
from vggsfm_cli.training.task import TaskConfig
from vggsfm_cli.training.tasks import TASKS

Record = TypeVar("Record")

MAY_CHANGE = frozenset({"steps", "checkpoint_every", "prefetch", "threads"})
"""Fields that a resumed run may change; all others are what the run is."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a task is trained. The last four fields may change when a run is resumed on another machine."""

    name: str  # of the run, and of its folder
    task: TaskConfig
    seed: int = 0  # of the first weights and of all data
    learning_rate: float  # at its peak
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    final_fraction: float = 0.01  # of the peak, where the cosine ends
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's memory of the gradient and of its square
    weight_decay: float = 0.01  # of matrices and kernels; biases and norms are free
    clip_norm: float = 1.0  # largest norm of the whole gradient
    ema_decay: float = 0.999  # of the averaged weights, which are validated and exported
    precision: Precision = "float32"  # of the losses' networks; weights and optimiser are always float32
    validate_every: int = 500
    log_every: int = 20
    steps: int  # in all; the cosine ends there
    checkpoint_every: int = 500
    prefetch: int = 0  # batches prepared ahead, each in a thread of its own; 0 = in the loop itself
    threads: int = 2  # CPU threads of one operation

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: names the field.
        """
        if not self.name or self.name in {".", ".."} or set(self.name) & set("/\\:"):
            raise ValueError(f"`name` must be a plain file name, not {self.name!r}")
        for field in ("steps", "validate_every", "checkpoint_every", "log_every", "threads"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1")
        for field in ("warmup_steps", "prefetch", "weight_decay", "seed"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"`{field}` must be at least 0")
        for field in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"`{field}` must be above 0")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError("`final_fraction` must be between 0 and 1")
        if not (0 <= self.ema_decay < 1 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError("`ema_decay` and `betas` must be at least 0 and below 1")


def read_config(path: Path | str, steps: int | None = None) -> TrainingConfig:
    """The recipe in a TOML file, with its ``[task]`` table read as the configuration that its ``type`` names.

    Args:
        path: the file.
        steps: instead of the file's.

    Raises:
        InputError: the file cannot be read as TOML.
        UsageError: an unknown key or a wrong value; it names both key and file.
    """
    try:
        table = tomllib.loads(read_text(Path(path)))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not valid TOML: {error}.") from error
    if steps is not None:
        table["steps"] = steps
    try:
        return _training_config(table)
    except _BadValueError as error:
        raise UsageError(f"{str(path)!r}: {error}.", error.hint) from error


class _BadValueError(ValueError):
    """A key or value that does not fit; the message names the key."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _training_config(table: dict[str, Any]) -> TrainingConfig:
    task = table.get("task")
    if not isinstance(task, dict):
        raise _BadValueError("a table `[task]` is missing", "It says what is trained: [task] with type = NAME.")
    name = task.get("type")
    if not isinstance(name, str) or name not in TASKS:
        said = "is missing" if name is None else f"names no known task: {name!r}"
        raise _BadValueError(f"`task.type` {said}", f"Tasks: {', '.join(sorted(TASKS))}.")
    built: Any = _record(TASKS[name], {key: value for key, value in task.items() if key != "type"}, "task.")
    return _record(TrainingConfig, {**table, "task": built}, "")


def _record(kind: type[Record], table: dict[str, Any], prefix: str) -> Record:
    """A dataclass from a table, every key and type checked."""
    types_of = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind) if item.init}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean `{prefix}{close[0]}`?" if close else f"Known here: {', '.join(known)}."
            raise _BadValueError(f"unknown key `{prefix}{key}`", hint)
    for key, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and key not in table:
            raise _BadValueError(f"`{prefix}{key}` is missing")
    values = {key: _value(types_of[key], value, prefix + key) for key, value in table.items()}
    try:
        return kind(**values)
    except _BadValueError:
        raise
    except ValueError as error:
        raise _BadValueError(f"{prefix and f'`{prefix[:-1]}`: '}{error}") from error


def _value(kind: Any, value: Any, key: str) -> Any:
    """A value of the annotated type, from what TOML has: lists become tuples, whole numbers floats where asked."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return _first_that_fits(kind, value, key)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        if isinstance(value, dict):
            return _record(kind, value, f"{key}.")
    elif kind is TaskConfig:
        return value
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple and isinstance(value, list):
        variadic = len(arguments) == 2 and arguments[1] is Ellipsis  # noqa: PLR2004
        kinds = arguments[:1] * len(value) if variadic else arguments
        if len(kinds) == len(value):
            return tuple(_value(item, value[i], f"{key}[{i}]") for i, item in enumerate(kinds))
    elif origin is dict and isinstance(value, dict):
        return {name: _value(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind in {bool, int, str} and type(value) is kind:
        return value
    raise _BadValueError(f"`{key}` must be {_described(kind)}, not {value!r}")


def _first_that_fits(kind: Any, value: Any, key: str) -> Any:
    for member in typing.get_args(kind):
        if member is not types.NoneType:
            try:
                return _value(member, value, key)
            except _BadValueError:
                continue
    raise _BadValueError(f"`{key}` must be {_described(kind)}, not {value!r}")


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_described(member) for member in arguments if member is not types.NoneType)
    if origin is tuple:
        inner = _described(arguments[0])
        return f"a list ({inner})" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} ({inner})"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return words.get(kind, "a table")


def config_as_data(config: TrainingConfig) -> dict[str, Any]:
    """A recipe with all its defaults as plain data, as it stands in ``config.json`` and in checkpoints."""
    name = next((name for name, kind in TASKS.items() if kind is type(config.task)), type(config.task).__name__)
    data = {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    return {**data, "task": {"type": name, **data["task"]}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def check_same_run(config: TrainingConfig, before: dict[str, Any]) -> None:
    """Refuse to go on with a run under another recipe.

    Args:
        config: of now.
        before: ``config_as_data`` of the run.

    Raises:
        UsageError: anything but ``MAY_CHANGE`` differs; it names the keys.
    """
    now, then = _flat(config_as_data(config)), _flat(before)
    changed = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    if changed := [key for key in changed if key not in MAY_CHANGE]:
        listed = ", ".join(f"`{key}` ({then.get(key)!r}, now {now.get(key)!r})" for key in changed)
        raise UsageError(
            f"The recipe differs from that of the run: {listed}.",
            f"Only {', '.join(sorted(MAY_CHANGE))} may change; choose another --out for another run.",
        )


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
