"""Which files are photographs: by how they begin, whatever they are called."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif", ".avif")
"""The usual endings of pictures that are read; a file with one of them that is none is damaged."""

RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
UNREAD_SUFFIXES = (".jxl", ".svg", ".exr", ".hdr")
"""Pictures a user may expect to be read."""

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".3gp",
)  # fmt: skip
OTHER_FILMS = (".lrv", ".lrf", ".insv", ".360", ".braw")
THUMBNAIL_SUFFIXES = (".thm", ".ithmb")
"""Small copies that cameras write beside photographs and films."""

BY_NAME = (".tga", ".pcx")
"""Pictures whose beginning tells too little."""

FTYP_BRANDS = (
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"miaf",
)  # fmt: skip
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
START_BYTES = 24


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture that is read does; False if it cannot be opened."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return False
    if start[4:8] == b"ftyp":
        return start[8:12] in FTYP_BRANDS
    if start[:2] == b"BM":  # many a text does, too
        return int.from_bytes(start[14:18], "little") in BITMAP_HEADERS
    if start[:1] == b"P" and start[1:2] in b"123456" and len(start) > 2:  # noqa: PLR2004
        return start[2:3].isspace() and (start[3:4].isdigit() or start[3:4] == b"#")
    return (
        start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"8BPS\0\1", b"qoif"))
        or start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"))  # JPEG 2000
        or _is_tiff(start)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (path.suffix.lower() in BY_NAME and bool(start))
    )


def _is_tiff(start: bytes) -> bool:
    return start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_photograph(path: Path) -> bool:
    """Whether a file is a picture, or called as pictures are, so that it is to be read or to be named as unreadable."""
    suffix = path.suffix.lower()
    return suffix not in THUMBNAIL_SUFFIXES and (
        suffix in SUFFIXES + RAW_SUFFIXES + UNREAD_SUFFIXES or is_picture(path)
    )


def why_not(path: Path) -> str | None:
    """Why a file is not read as a photograph; None if it is, or if reading it will tell."""
    suffix = path.suffix.lower()
    if suffix in THUMBNAIL_SUFFIXES:
        return "a thumbnail"
    if suffix in RAW_SUFFIXES:
        # most raw files are TIFF files whose first picture is a thumbnail
        return None if is_picture(path) and not _begins_as_tiff(path) else f"{path.suffix} files are raw: develop them"
    if suffix in SUFFIXES or is_picture(path):
        return None
    if suffix in UNREAD_SUFFIXES:
        return f"{path.suffix} files are not supported"
    if suffix in VIDEO_SUFFIXES + OTHER_FILMS:
        return "a video, which is given by itself"
    return "no picture"


def _begins_as_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return _is_tiff(file.read(START_BYTES))
