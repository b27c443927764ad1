"""Which files are the photographs of a scene: of a folder, a glob pattern, a list in a text file, or several paths."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.reading import read_bytes

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif", ".avif")
UNREAD_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Photographs a user may expect to be read; they are named as skipped instead of passed over in silence."""

LIST_SUFFIX = ".txt"
NAME_NOT_UTF8 = "its name is not UTF-8"

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
        shown: what was given, for messages.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    root: Path
    skipped: tuple[SkippedImage, ...]
    shown: str


def find_images(source: Source, *, recursive: bool = False, without: Sequence[Path] = ()) -> FoundImages:
    """The photographs that a user means.

    Args:
        source: a folder, of which the files with endings of photographs count; a glob pattern; a text file with one
            path a line, relative to its folder; or photographs, folders and patterns in any number.
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
    files = [path for item in items for path in _files(item, recursive=recursive, without=hidden)]
    if len({path.absolute() for path in files}) < len(files):
        raise InputError("A file is listed twice.", "List each photograph once.")
    root = items[0].absolute() if len(items) == 1 and items[0].is_dir() else _common_folder(files)
    return _sorted_out(files, root, shown)


def _sorted_out(files: list[Path], root: Path, shown: str) -> FoundImages:
    """Which of the files are read, and what the others lack."""
    kept, skipped = [], []
    for path in files:
        name = path.absolute().relative_to(root).as_posix()
        if not name.isprintable() and not _is_text(name):
            skipped.append(SkippedImage(name=os.fsencode(name).decode("utf-8", "replace"), reason=NAME_NOT_UTF8))
        elif path.suffix.lower() in UNREAD_SUFFIXES:
            skipped.append(SkippedImage(name=name, reason=f"{path.suffix} files are not supported"))
        else:
            kept.append((path, name))
    for item in skipped:
        logger.warning("Skipped %s: %s", item.name, item.reason)
    return FoundImages(
        files=tuple(path for path, _ in kept),
        names=tuple(name for _, name in kept),
        root=root,
        skipped=tuple(skipped),
        shown=shown,
    )


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


def _files(item: Path, *, recursive: bool, without: set[Path]) -> Iterator[Path]:
    """The files that one item stands for."""
    if item.is_dir():
        yield from _in_folder(item, recursive, without, entered={item.resolve()})
    elif item.exists():
        yield item
    else:
        found = (Path(path) for path in glob.glob(str(item), recursive=True))
        yield from sorted((path for path in found if path.is_file() and _is_photograph(path)), key=_natural_path)


def _in_folder(folder: Path, recursive: bool, without: set[Path], entered: set[Path]) -> Iterator[Path]:
    """Its photographs, sorted naturally, then those of its folders; folders that links lead to are entered once."""
    try:
        present = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural_path)
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} cannot be read: {error.strerror}.", "Check its rights."
        ) from error
    yield from (path for path in present if _is_photograph(path) and path.is_file())
    for path in present if recursive else ():
        if path.is_dir() and (place := path.resolve()) not in entered | without:
            entered.add(place)
            yield from _in_folder(path, recursive, without, entered)


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES + UNREAD_SUFFIXES


def _natural_path(path: Path) -> tuple[tuple[list[tuple[int, int, str]], str], ...]:
    """Sort key by which image2 comes before image10, folder by folder."""
    return tuple(_natural(part) for part in path.parts)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part], name


def _listed(file: Path) -> list[Path]:
    """The paths in a list file; empty lines and those after # do not count."""
    try:
        lines = read_bytes(file).removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(f"The list {str(file)!r} cannot be read: {error.strerror}.", "Check its rights.") from error
    if any(b"\0" in line for line in lines):
        raise InputError(f"{str(file)!r} is not a list of files.", "A list has one path per line.")
    paths = [Path(os.fsdecode(line.strip())) for line in lines if line.strip() and not line.lstrip().startswith(b"#")]
    if not paths:
        raise InputError(f"The list {str(file)!r} is empty.", "A list has one path per line.")
    return [file.parent / path for path in paths]


def _common_folder(files: list[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([path.absolute().parent for path in files])) if files else Path.cwd()
