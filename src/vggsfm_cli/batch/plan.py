"""Which scenes a batch is about, and which part of them is ours."""

import glob
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io.kinds import is_photograph
from vggsfm_cli.io.sources import is_result
from vggsfm_cli.reading import read_text

logger = logging.getLogger(__name__)

IMAGES_FOLDER = "images"
RESULTS_FILE = "results.jsonl"
"""In a folder that batches write to; where there is one, no scenes are looked for."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A folder of photographs.

    Attributes:
        name: where its result goes, relative to the batch's folder; parts are separated by ``/``.
        images: the folder that is read.
    """

    name: str
    images: Path


def find_scenes(source: str, out: Path) -> list[Scene]:
    """The scenes that a user means, in a fixed order.

    Args:
        source: a folder, whose sub-folders with photographs (or with a folder ``images`` inside) are scenes, at any
            depth; a text file with one folder a line, relative to the file, where ``#`` starts a comment; or a pattern
            such as ``data/*/photos``.
        out: where results go; no scenes are looked for in it.

    Returns:
        Scenes sorted by name. The folders of a list or pattern are named relative to what they have in common, without
        ``images`` at the end. A folder of a list need not be there: it is a scene that will fail.

    Raises:
        InputError: there is no such folder, file or pattern, or no scene.
        UsageError: the file is no text, ``out`` is the folder itself, or a scene is given twice or lies within another.
    """
    path = Path(os.path.abspath(source))  # workers may have another working folder
    if path.is_dir():
        if path.resolve() == out.resolve():
            raise UsageError(f"Results cannot go to {source!r}, where the photographs are.", "Choose another --out.")
        scenes = list(_below(path, path, {path.resolve(), out.resolve()}))
        hint = "Scenes are sub-folders with photographs, or with a folder 'images' inside."
        if not scenes and _has_photographs(path):
            hint = f"It holds photographs of one scene: vggsfm reconstruct {source}"
    elif path.is_file():
        scenes = _named(_listed(path))
        hint = "The file lists one folder a line."
    elif glob.has_magic(source):
        scenes = _named([Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_dir()])
        hint = "No folder fits the pattern; quote it, so that the shell leaves it alone."
    else:
        raise InputError(f"There is no {source!r}.", "Give a folder of scenes, a text file with folders, or a pattern.")
    if not scenes:
        raise InputError(f"No scenes in {source!r}.", hint)
    scenes.sort(key=lambda scene: scene.name)
    _refuse_nested(scenes)
    return scenes


def _below(folder: Path, root: Path, seen: set[Path]) -> Iterator[Scene]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir() or path.resolve() in seen or (path / RESULTS_FILE).exists():
            continue
        seen.add(path.resolve())
        if is_result(path):
            logger.warning("%s is a result of this tool: not a scene", path)
            continue
        name = path.relative_to(root).as_posix()
        if (path / IMAGES_FOLDER).is_dir():
            yield Scene(name=name, images=path / IMAGES_FOLDER)
        elif _has_photographs(path):
            yield Scene(name=name, images=path)
        elif inner := list(_below(path, root, seen)):
            yield from inner
        else:
            logger.warning("No photographs in %s: not a scene", path)


def _has_photographs(folder: Path) -> bool:
    try:
        return any(_is_photograph(path) for path in folder.iterdir())
    except OSError:  # reading it will say what is wrong
        return True


def _is_photograph(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file() and is_photograph(path)


def _listed(file: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except UnicodeDecodeError as error:
        hint = "Give a folder of scenes, a text file with folders, or a pattern."
        raise UsageError(f"{str(file)!r} is not a text file.", hint) from error
    return [file.parent / line for line in lines if line and not line.startswith("#")]


def _named(folders: Iterable[Path]) -> list[Scene]:
    """Scenes called by what tells their folders apart."""
    images, homes = [], []
    for folder in dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders):
        inner = folder / IMAGES_FOLDER
        images.append(inner if inner.is_dir() else folder)
        homes.append(folder.parent if folder.name == IMAGES_FOLDER else folder)
    if not homes:
        return []
    common = Path(os.path.commonpath([home.parent for home in homes]))
    return [
        Scene(name=home.relative_to(common).as_posix(), images=path) for home, path in zip(homes, images, strict=True)
    ]


def _refuse_nested(scenes: Sequence[Scene]) -> None:
    """The result of one scene must not lie within that of another."""
    names = {scene.name for scene in scenes}
    if len(names) < len(scenes):
        twice = next(a.name for a, b in itertools.pairwise(scenes) if a.name == b.name)
        raise UsageError(f"There are two scenes {twice!r}.", "List each scene once.")
    for scene in scenes:
        above = next((p.as_posix() for p in Path(scene.name).parents if p.as_posix() in names), None)
        if above is not None:
            raise UsageError(
                f"The scene {scene.name!r} lies within the scene {above!r}.", "Give each to a batch of its own."
            )


def choose_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which part of how many, counted from 1.

    Args:
        text: ``2/4``, or ``auto`` for the part that is this task's of a SLURM array.
        environment: of the process.

    Raises:
        UsageError: it is neither, or not in range, or this is no task of a SLURM array.
    """
    if text == "auto":
        return _slurm_shard(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{text!r} is not a shard.", "Shards are counted from 1: --shard 1/4 to --shard 4/4, or auto.")
    return int(match[1]), int(match[2])


def _slurm_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    names = ("TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX", "TASK_STEP")
    values = [environment.get(f"SLURM_ARRAY_{name}", "") for name in names]
    if not all(value.isdecimal() for value in values[:4]):
        raise UsageError(
            "--shard auto is for tasks of a SLURM array.", "Start it with sbatch --array=1-4, for example."
        )
    task, count, first, last = (int(value) for value in values[:4])
    step = int(values[4]) if values[4].isdecimal() else 1
    if (last - first) // step + 1 != count:
        raise UsageError(
            "--shard auto cannot tell the place of this task, as the array has gaps.",
            "Use an array such as --array=1-4, or --shard i/N.",
        )
    return (task - first) // step + 1, count


def shard_of(items: Sequence[Item], part: int, parts: int) -> list[Item]:
    """Every ``parts``-th item, starting with the one number ``part``, counted from 1."""
    return list(items[part - 1 :: parts])
