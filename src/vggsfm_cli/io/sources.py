"""Which files are the photographs of a scene: of a folder, a glob pattern, a list in a text file, or several paths."""

import glob
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io.kinds import is_photograph, why_not
from vggsfm_cli.reading import read_bytes
from vggsfm_cli.threads import map_threads

logger = logging.getLogger(__name__)

LIST_SUFFIX = ".txt"
NAME_NOT_UTF8 = "its name is not UTF-8"

REPORT, EXPORT_RECORD, OVERVIEW = "report.json", "export.json", "overview.png"
"""Files by which a result of this tool is known, and the picture in it that is no photograph."""

LITTER_FOLDERS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")
"""Folders that systems make beside photographs, with thumbnails or deleted files."""

SHOWN_NAMES = 5

Source = Path | str | Sequence[Path | str]
"""A folder, a pattern, a list file or a photograph, or several of these but list files."""


@dataclass(frozen=True, kw_only=True)
class SkippedImage:
    """A file that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Files to read.

    Attributes:
        files: in the order in which they were given, those of a folder sorted naturally.
        names: relative to ``root``, with ``/`` between folders.
        root: the folder that was given, or the deepest one that holds all files.
        skipped: photographs of kinds that are not read.
        left_out: files and folders beside them that are no photographs of the scene.
        shown: what was given, for messages.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    root: Path
    skipped: tuple[SkippedImage, ...]
    shown: str
    left_out: tuple[SkippedImage, ...] = ()


def find_images(source: Source, *, recursive: bool = False, without: Sequence[Path] = ()) -> FoundImages:
    """The photographs that a user means.

    Args:
        source: a folder or a glob pattern, of which the files that are pictures count, whatever their ending; a text
            file with one path a line, relative to its folder; or photographs, folders and patterns in any number.
            Results of this tool within a folder or pattern do not count.
        recursive: enter the folders within folders; names are then relative paths.
        without: folders that hold no photographs of the scene, as that of its masks.

    Raises:
        InputError: there is no such file or folder, or one is given twice.
        UsageError: ``recursive`` without a folder.
    """
    shown = repr(str(source)) if isinstance(source, Path | str) else "the list"
    items = [Path(source)] if isinstance(source, Path | str) else [Path(item) for item in source]
    if len(items) == 1 and items[0].suffix.lower() == LIST_SUFFIX and items[0].is_file():
        items, shown = _listed(items[0]), repr(str(items[0]))
    elif len(items) == 1:
        shown = repr(str(items[0]))
    hidden = {folder.resolve() for folder in without}
    missing = [item for item in items if not _exists(item) and not _is_pattern(item)]
    if missing:
        of = f"{len(missing)} of {len(items)} paths are missing." if len(items) > 1 else "Check the path."
        kind = "file or folder" if len(items) == 1 else "file"
        raise InputError(f"No such {kind}: {str(missing[0])!r}.", of)
    if recursive and not any(item.is_dir() for item in items):
        raise UsageError(
            "--recursive needs a folder to enter.", "A pattern enters folders by itself: 'photos/**/*.jpg'."
        )
    results: list[Path] = []
    found = [(path, item) for item in items for path in _files(item, results, recursive=recursive, without=hidden)]
    if len({path.absolute() for path, _ in found}) < len(found):
        raise InputError("A file is listed twice.", "List each photograph once.")
    root = items[0].absolute() if len(items) == 1 and items[0].is_dir() else _common_folder([path for path, _ in found])
    named = {path for path, item in found if path is item}
    return _sorted_out([path for path, _ in found], named, results, root, shown)


def _sorted_out(files: list[Path], named: set[Path], results: list[Path], root: Path, shown: str) -> FoundImages:
    """Which of the files are read, and what the others lack; those that were ``named`` one by one always count."""
    kept: list[tuple[Path, str]] = []
    skipped: list[SkippedImage] = []
    left_out: list[SkippedImage] = []
    for path, reason in zip(files, map_threads(why_not, files), strict=True):
        name = path.absolute().relative_to(root).as_posix()
        if not name.isprintable() and not _is_text(name):
            skipped.append(SkippedImage(name=os.fsencode(name).decode("utf-8", "replace"), reason=NAME_NOT_UTF8))
        elif reason is None:
            kept.append((path, name))
        else:
            wanted = path in named or is_photograph(path)
            (skipped if wanted else left_out).append(SkippedImage(name=name, reason=reason))
    for folder in results:
        name = Path(os.path.relpath(folder.absolute(), root)).as_posix()
        left_out.append(SkippedImage(name=name, reason="a result of this tool"))
    for item in skipped:
        logger.warning("Skipped %s: %s", item.name, item.reason)
    if left_out:
        names = ", ".join(f"{item.name} ({item.reason})" for item in left_out[:SHOWN_NAMES])
        more = f", and {len(left_out) - SHOWN_NAMES} more" if len(left_out) > SHOWN_NAMES else ""
        logger.warning("Left out what is no photograph of the scene: %s%s", names, more)
    return FoundImages(
        files=tuple(path for path, _ in kept),
        names=tuple(name for _, name in kept),
        root=root,
        skipped=tuple(skipped),
        shown=shown,
        left_out=tuple(left_out),
    )


def is_result(folder: Path) -> bool:
    """Whether a folder was written by this tool: a reconstruction with its report, or an export."""
    return "models" in _record(folder / REPORT) or _record(folder / EXPORT_RECORD).get("written_by") == "vggsfm"


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _exists(item: Path) -> bool:
    try:
        return item.exists()
    except OSError:  # a name that is too long for any file
        return False


def _is_pattern(item: Path) -> bool:
    return glob.has_magic(str(item))


def _files(item: Path, results: list[Path], *, recursive: bool, without: set[Path]) -> Iterator[Path]:
    """The files that one item stands for; ``results`` gets the folders within it that are results of this tool."""
    if item.is_dir():
        yield from _in_folder(item, results, recursive, without, entered={item.resolve()})
    elif item.exists():
        yield item
    else:
        fixed = _fixed_part(item)
        for path in sorted((Path(path) for path in glob.glob(str(item), recursive=True)), key=_natural_path):
            inner = [folder for folder in path.parents if folder != fixed and folder.is_relative_to(fixed)]
            result = next((folder for folder in reversed(inner) if is_result(folder)), None)
            if result is not None:
                results.extend([] if result in results else [result])
            elif path.is_file():
                yield path


def _fixed_part(pattern: Path) -> Path:
    """The folder of a pattern before anything in it stands for several names."""
    parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts)


def _in_folder(
    folder: Path, results: list[Path], recursive: bool, without: set[Path], entered: set[Path]
) -> Iterator[Path]:
    """Its files, sorted naturally, then those of its folders; folders that links lead to are entered once."""
    try:
        present = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural_path)
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} cannot be read: {error.strerror}.", "Check its rights."
        ) from error
    own = OVERVIEW if is_result(folder) else None
    yield from (path for path in present if path.is_file() and path.name != own)
    for path in present if recursive else ():
        if path.name in LITTER_FOLDERS or not path.is_dir() or (place := path.resolve()) in entered | without:
            continue
        entered.add(place)
        if is_result(path):
            results.append(path)
        else:
            yield from _in_folder(path, results, recursive, without, entered)


def _natural_path(path: Path) -> tuple[tuple[list[tuple[int, int, str]], str], ...]:
    """Sort key by which image2 comes before image10, folder by folder."""
    return tuple(_natural(part) for part in path.parts)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part], name


def _listed(file: Path) -> list[Path]:
    """The paths in a list file; empty lines and those after # do not count, unless there is a file of that name."""
    try:
        lines = read_bytes(file).removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(f"The list {str(file)!r} cannot be read: {error.strerror}.", "Check its rights.") from error
    if any(b"\0" in line for line in lines):
        raise InputError(f"{str(file)!r} is not a list of files.", "A list has one path per line.")
    entries = [line.strip() for line in lines if line.strip()]
    paths = [Path(os.fsdecode(line)) for line in entries if not line.startswith(b"#") or _is_file(file, line)]
    if not paths:
        raise InputError(f"The list {str(file)!r} is empty.", "A list has one path per line.")
    return [file.parent / path for path in paths]


def _common_folder(files: list[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([path.absolute().parent for path in files])) if files else Path.cwd()


def _is_file(beside: Path, line: bytes) -> bool:
    try:
        return (beside.parent / os.fsdecode(line)).is_file()
    except OSError:  # a comment that is too long for a name
        return False
