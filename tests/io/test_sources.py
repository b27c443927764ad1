"""What a user may give for the photographs of a scene, and what their names become."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.sources import find_images

NAMES = ("a 2.jpg", "a 10.jpg", "größe.png", "left/写真 1.bmp", "left/deep/b.webp", ".hidden/c.jpg", "right/a 2.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for s, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(s).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    (folder / "notes.txt").write_text("no photograph")
    return folder


def names(*arguments: object, **options: bool) -> tuple[str, ...]:
    return find_images(*arguments, **options).names  # type: ignore[arg-type]


def test_a_folder_and_the_folders_in_it(folder: Path) -> None:
    assert names(folder) == ("a 2.jpg", "a 10.jpg", "größe.png")
    everything = ("a 2.jpg", "a 10.jpg", "größe.png", "left/写真 1.bmp", "left/deep/b.webp", "right/a 2.jpg")
    assert names(str(folder), recursive=True) == everything
    assert read_images(folder, recursive=True).names == (everything,)
    (folder / "left" / "round").symlink_to(folder, target_is_directory=True)  # never ends, if followed blindly
    (folder / "far").symlink_to(folder.parent / "elsewhere", target_is_directory=True)
    (folder.parent / "elsewhere").mkdir()
    Image.new("RGB", (40, 40)).save(folder.parent / "elsewhere" / "z.png")
    assert set(names(folder, recursive=True)) == {*everything, "far/z.png"}


def test_masks_within_the_folder_are_no_photographs(folder: Path) -> None:
    found = find_images(folder, recursive=True, without=(folder / "left",))
    assert found.names == ("a 2.jpg", "a 10.jpg", "größe.png", "right/a 2.jpg")


def test_patterns(folder: Path) -> None:
    assert names(folder / "a *.jpg") == ("a 2.jpg", "a 10.jpg")
    assert names(f"{folder}/**/*.jpg") == ("a 2.jpg", "a 10.jpg", "right/a 2.jpg")
    assert names(folder / "*") == ("a 2.jpg", "a 10.jpg", "größe.png")
    (folder / "[x].png").write_bytes((folder / "größe.png").read_bytes())
    assert names([folder / "[x].png", folder / "a 2.jpg"]) == ("[x].png", "a 2.jpg")
    with pytest.raises(InputError, match=r"No readable image in .*\*\.tif"):
        read_images(folder / "*.tif")


def test_list_files(folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_bytes(
        b"\xef\xbb\xbf# chosen\r\nright/a 2.jpg\r\n\r\n  a 10.jpg \r\n" + "left/写真 1.bmp".encode()
    )
    found = find_images(folder / "list.txt")
    assert found.names == ("right/a 2.jpg", "a 10.jpg", "left/写真 1.bmp") and found.root == folder
    (tmp_path / "absolute.txt").write_text(f"{folder}/left/写真 1.bmp\n{folder}/left/deep/b.webp\n")
    assert names(tmp_path / "absolute.txt") == ("写真 1.bmp", "deep/b.webp")
    for content, said in ((b"", "is empty"), (b"a\0b", "not a list"), (b"missing.jpg\na 2.jpg", "No such file")):
        (folder / "list.txt").write_bytes(content)
        with pytest.raises(InputError, match=said):
            find_images(folder / "list.txt")


def test_several_paths(folder: Path) -> None:
    assert names([folder / "a 10.jpg", folder / "left" / "写真 1.bmp"]) == ("a 10.jpg", "left/写真 1.bmp")
    assert names([folder / "right", folder / "left"]) == ("right/a 2.jpg", "left/写真 1.bmp")
    assert names([folder / "right", folder / "left"], recursive=True)[-1] == "left/deep/b.webp"
    # as a shell expands photos/*
    everything = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    images = read_images(everything)
    assert images.names == (("a 10.jpg", "a 2.jpg", "größe.png"),)
    assert [item.name for item in images.skipped] == ["notes.txt"]
    with pytest.raises(InputError, match="twice"):
        find_images([folder / "a 2.jpg", folder / "a *.jpg"])
    with pytest.raises(InputError, match="No such file") as error:
        find_images([folder / "a 2.jpg", folder / "b.jpg"])
    assert "1 of 2" in error.value.hint


def test_recursive_needs_a_folder(folder: Path) -> None:
    for source in (folder / "*.jpg", [folder / "a 2.jpg"]):
        with pytest.raises(UsageError, match="--recursive"):
            find_images(source, recursive=True)
    with pytest.raises(InputError, match="No such file or folder"):
        find_images(folder / "nowhere", recursive=True)


def test_too_few_says_what_to_try(folder: Path) -> None:
    with pytest.raises(InputError, match="Only one readable image") as error:
        read_images(folder / "left")
    assert "--recursive" in error.value.hint
    with pytest.raises(InputError, match="Only one readable image in "):
        read_images(folder / "größe.png")


def test_names_that_are_no_text_are_skipped(folder: Path) -> None:
    data = (folder / "a 2.jpg").read_bytes()
    try:
        with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:
            file.write(data)
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    (folder / "raw.nef").write_bytes(b"...")
    found = find_images(folder)
    assert "not UTF-8" in found.skipped[-1].reason or "not UTF-8" in found.skipped[0].reason
    assert {item.name for item in found.skipped} == {"\ufffd.jpg", "raw.nef"} and len(found.names) == 3


def picture(path: Path, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, kind)
    return path


PHONE = {"a.jfif": "JPEG", "b.jpg_large": "JPEG", "c.gif": "GIF", "d.jp2": "JPEG2000", "e": "PNG", "f.raf": "JPEG",
         "g.JPG": "WEBP", "h.ppm": "PPM", "i.psd.png": "PNG"}  # fmt: skip


def test_whatever_decodes_is_read_however_it_is_given(tmp_path: Path) -> None:
    files = [picture(tmp_path / name, kind) for name, kind in PHONE.items()]
    (tmp_path / "list.txt").write_text("\n".join(PHONE))
    for source in (tmp_path, tmp_path / "*", files, tmp_path / "list.txt"):
        found = find_images(source)
        assert set(found.names) == set(PHONE) and found.skipped == (), source
        assert read_images(found).names[0] == found.names


def test_the_rest_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name)
    picture(tmp_path / "GX01.THM")
    picture(tmp_path / "@eaDir" / "a.jpg" / "SYNO.jpg")
    picture(tmp_path / "raw.dng", "TIFF")  # the thumbnail in it would decode
    for name in ("x.cr3", "y.jxl", "notes.txt", "GX01.MP4", "GX01.LRV", "BMW.md", "P5.txt"):
        (tmp_path / name).write_text("BM or P5 alone make no picture")
    found = find_images(tmp_path, recursive=True)
    assert found.names == ("a.jpg", "b.jpg")
    assert {item.name for item in found.skipped} == {"raw.dng", "x.cr3", "y.jxl"}
    reasons = {item.name: item.reason for item in found.left_out}
    assert set(reasons) == {"GX01.THM", "notes.txt", "GX01.MP4", "GX01.LRV", "BMW.md", "P5.txt"}
    assert "video" in reasons["GX01.MP4"] and "thumbnail" in reasons["GX01.THM"]
    assert "Left out" in caplog.text and "notes.txt" not in {item.name for item in read_images(found).skipped}
    named = find_images([tmp_path / "a.jpg", tmp_path / "notes.txt"])
    assert [item.name for item in named.skipped] == ["notes.txt"] and named.left_out == ()


def test_a_name_that_begins_as_a_comment(tmp_path: Path) -> None:
    for name in ("#1.jpg", "a.jpg"):
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("# all of them\n#1.jpg\na.jpg\n#2.jpg\n#" + 300 * "x")
    assert names(tmp_path / "list.txt") == ("#1.jpg", "a.jpg")


@pytest.mark.parametrize("record", ["report.json", "export.json"])
def test_results_of_this_tool_are_no_photographs(record: str, tmp_path: Path) -> None:
    content = {"report.json": {"models": [], "version": "1"}, "export.json": {"written_by": "vggsfm"}}[record]
    for name in ("a.jpg", "b.jpg", "more/c.jpg", "more/out/overview.png", "more/out/images/a.jpg"):
        picture(tmp_path / name)
    (tmp_path / "more" / "out" / record).write_text(json.dumps(content))
    for source, recursive in ((tmp_path, True), (tmp_path / "**" / "*", False)):
        found = find_images(source, recursive=recursive)
        assert set(found.names) == {"a.jpg", "b.jpg", "more/c.jpg"}
        assert ("more/out", "a result of this tool") in {(item.name, item.reason) for item in found.left_out}
    assert names(tmp_path / "more" / "out" / "images") == ("a.jpg",)  # given by itself
    assert names(tmp_path / "more" / "out", recursive=True) == ("images/a.jpg",)
    (tmp_path / "more" / "out" / record).write_text('{"somebody": "else"}')
    assert len(names(tmp_path, recursive=True)) == 5


def test_a_folder_of_videos_says_so(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    with pytest.raises(InputError, match="No readable image") as failure:
        read_images(tmp_path)
    assert "film.mp4 (a video" in failure.value.hint
