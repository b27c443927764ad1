"""What a result was made from, in short: the content of the photographs, and the options that shape the result."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vggsfm_cli.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE
from vggsfm_cli.job import intrinsics_path, model_folder
from vggsfm_cli.options import SceneOptions, options_of

COUNTED_AS_INPUT = ("masks",)
"""Options that say where files are whose content counts with that of the photographs."""

Stamps = dict[str, list[int]]
"""Size in bytes and time of change in nanoseconds of each file, by what it is."""


def stamp_inputs(files: Mapping[str, Path]) -> Stamps:
    """Sizes and times of the files of a scene; if they are as recorded, the content need not be read again."""
    statuses = {name: path.stat() for name, path in files.items()}
    return {name: [status.st_size, status.st_mtime_ns] for name, status in statuses.items()}


def hash_inputs(files: Mapping[str, Path]) -> str:
    """SHA-256 over what the files are and their content; where they are does not matter."""
    return _digest({name: _sha256(path) for name, path in files.items()})


def hash_options(options: SceneOptions) -> str:
    """SHA-256 over the options that shape a result, and over the content of files that they name."""
    counted = {one.name for one in options_of(SceneOptions) if one.about.shapes}.difference(COUNTED_AS_INPUT)
    chosen = {name: value for name, value in options.as_dict().items() if name in counted}
    if (model := model_folder(options)) is not None:
        chosen["model"] = _contents(model / name for name in (CONFIG_FILE, WEIGHTS_FILE))
    if (known := intrinsics_path(options)) is not None:
        chosen["intrinsics"] = _contents(sorted(known.rglob("*")) if known.is_dir() else [known])
    return _digest(chosen)


def _contents(paths: Iterable[Path]) -> list[str]:
    return [_sha256(path) for path in paths if path.is_file()]


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
