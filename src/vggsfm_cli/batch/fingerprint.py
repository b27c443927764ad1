"""What a result was made from, in short: the content of the photographs, and the options that shape the result."""

import hashlib
import json
from pathlib import Path

from vggsfm_cli.batch.plan import is_photograph
from vggsfm_cli.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE
from vggsfm_cli.job import SceneOptions

WITHOUT_INFLUENCE = ("device", "threads", "offline", "min_registered")
"""Options by which a result does not get out of date: where and how it is computed, and what is asked of it."""

Stamps = dict[str, list[int]]
"""Size in bytes and time of change in nanoseconds of each photograph, by its path within the scene."""


def photographs(images: Path) -> list[Path]:
    """The files whose change makes a result out of date, at any depth, in a fixed order."""
    return sorted(path for path in images.rglob("*") if is_photograph(path)) if images.is_dir() else []


def stamp_inputs(images: Path) -> Stamps:
    """Sizes and times of the photographs; if they are as recorded, the content need not be read again."""
    stamps: Stamps = {}
    for path in photographs(images):
        status = path.stat()
        stamps[path.relative_to(images).as_posix()] = [status.st_size, status.st_mtime_ns]
    return stamps


def hash_inputs(images: Path) -> str:
    """SHA-256 over the names and the content of the photographs; the folder's own place does not matter."""
    total = hashlib.sha256()
    for path in photographs(images):
        total.update(f"{_sha256(path)} {path.relative_to(images).as_posix()!r}\n".encode())
    return total.hexdigest()


def hash_options(options: SceneOptions) -> str:
    """SHA-256 over the options that shape a result, and over the files of a model that is a folder."""
    chosen = {name: value for name, value in options.as_dict().items() if name not in WITHOUT_INFLUENCE}
    folder = Path(options.model)
    if folder.is_dir():
        chosen["model"] = [_sha256(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE) if (folder / name).is_file()]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True, default=str).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
