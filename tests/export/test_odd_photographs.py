"""Photographs that are not plain, exported, opened by readers of the formats and compared with what is right.

All have lenses without distortion here, so that what is right is known to the pixel.
"""

import dataclasses
import io
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from films import hdr_film, in_high_dynamic_range, with_coding
from format_readers import Transforms, read_binary
from pictured_model import HEIGHT, WIDTH, pictured_model, read_picture
from vggsfm_cli.export.targets import PICTURE_TARGETS, ExportOptions, export_model
from vggsfm_cli.io.video import extract_frames
from vggsfm_cli.scene import Reconstruction


def exported(model: Reconstruction, folder: Path, target: str, **options: object) -> dict[str, np.ndarray]:
    """The pictures of an export, found as their reader finds them, by their names in the model."""
    out = folder / target
    export_model(model, out, folder / "photos", ExportOptions(target=target, **options))  # type: ignore[arg-type]
    original = json.loads((out / "export.json").read_text())["names"]
    if target in ("3dgs", "gsplat"):
        paths = [out / "images" / image[0] for image in read_binary(out / "sparse" / "0")[1].values()]
    else:
        paths = [out / path for path in Transforms(out).frames]
    return {original[path.name]: read_picture(path) for path in paths}


def cut_out(folder: Path, mode: str = "RGBA") -> tuple[Reconstruction, np.ndarray, np.ndarray]:
    """A model whose photographs have a transparent border under which the background still lies."""
    model = pictured_model(folder / "photos", "PINHOLE")
    alpha = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    alpha[20:-20, 30:-30] = 255
    alpha[20, 30:-30] = 100  # a soft edge
    pixels = read_picture(folder / "photos" / "a.png")
    for name in model.names:
        Image.fromarray(np.dstack([pixels, alpha])).convert(mode).save(folder / "photos" / name)
    return model, pixels, alpha


@pytest.mark.parametrize("target", PICTURE_TARGETS)
def test_what_was_cut_away_does_not_come_back(target: str, tmp_path: Path) -> None:
    model, pixels, alpha = cut_out(tmp_path)
    shown = np.where(alpha[..., None] > 0, pixels, 0)
    for picture in exported(model, tmp_path, target).values():
        assert picture.shape[2] == (3 if target == "gsplat" else 4)
        np.testing.assert_array_equal(picture[..., :3], shown)
        if target != "gsplat":
            np.testing.assert_array_equal(picture[..., 3], alpha)
    if target in ("3dgs", "gsplat"):
        for name in model.names:
            mask = read_picture(tmp_path / target / "masks" / f"{name}.png")
            np.testing.assert_array_equal(mask, np.where(alpha > 0, 255, 0))
    else:
        assert not list((tmp_path / target).rglob("*mask*"))


@pytest.mark.parametrize("target", PICTURE_TARGETS)
def test_alpha_may_be_ignored(target: str, tmp_path: Path) -> None:
    model, pixels, _ = cut_out(tmp_path)
    for picture in exported(model, tmp_path, target, ignore_alpha=True).values():
        np.testing.assert_array_equal(picture, pixels)
    assert not (tmp_path / target / "masks").exists()


def test_screenshots_with_an_alpha_channel_that_says_nothing_are_plain(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "PINHOLE")
    right = read_picture(tmp_path / "photos" / "a.png")
    for name in model.names:
        Image.fromarray(right).convert("RGBA").save(tmp_path / "photos" / name)
    for target in PICTURE_TARGETS:
        for picture in exported(model, tmp_path, target).values():
            np.testing.assert_array_equal(picture, right)
        assert not (tmp_path / target / "masks").exists()


def test_masks_are_transparent_for_the_reference_trainer(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "PINHOLE", names=("a.jpg", "b.jpg", "c.jpg"))
    keep = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    keep[:, 50:] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(keep).save(tmp_path / "masks" / "a.png")
    right = read_picture(tmp_path / "photos" / "a.jpg")
    found = exported(model, tmp_path, "3dgs", masks=tmp_path / "masks")
    np.testing.assert_array_equal(found["a.jpg"], np.dstack([right, keep]))  # what a mask hides is not cut away
    assert found["b.jpg"].shape[2] == 3
    pictures = {path.name for path in (tmp_path / "3dgs" / "images").iterdir()}
    assert pictures == {"a.png", "b.jpg", "c.jpg"}


@pytest.mark.parametrize("target", PICTURE_TARGETS)
@pytest.mark.parametrize("kind", ["I;16", "F"])
def test_thermal_pictures_keep_their_shades_and_compare(target: str, kind: str, tmp_path: Path) -> None:
    """Some 600 counts of 65536, or degrees: one stretch for all, in which equal values stay equal."""
    model = pictured_model(tmp_path / "photos", "PINHOLE", names=("a.tif", "b.tif", "c.tif"))
    scene = read_picture(tmp_path / "photos" / "a.tif")[..., 0].astype(float)
    values = {}
    for name, warmer in zip(model.names, (0, 100, 350), strict=True):
        counts = 29_300 + warmer + scene  # 27.5 to 227.5 counts
        values[name] = counts.astype(np.uint16) if kind == "I;16" else (counts / 100 - 273.15).astype(np.float32)
        Image.fromarray(values[name]).save(tmp_path / "photos" / name)
    joined = np.stack(list(values.values())).astype(float)
    right = 255 * (joined - joined.min()) / (joined.max() - joined.min())
    found = exported(model, tmp_path, target)
    for expected, name in zip(right, model.names, strict=True):
        picture = found[name]
        assert (picture == picture[..., :1]).all()
        assert np.abs(picture[..., 0] - expected).max() <= 2
        assert len(np.unique(picture)) > 60


def test_a_full_range_of_sixteen_bits_is_not_stretched(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "PINHOLE")
    right = read_picture(tmp_path / "photos" / "a.png")[..., 0]
    for name in model.names:
        Image.fromarray(right.astype(np.uint16) * 257).save(tmp_path / "photos" / name)
    for picture in exported(model, tmp_path, "nerfstudio").values():
        np.testing.assert_array_equal(picture, np.repeat(right[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_of_a_raw_developer_that_use_little_of_sixteen_bits(suffix: str, tmp_path: Path) -> None:
    names = tuple(f"{letter}{suffix}" for letter in "abc")
    model = pictured_model(tmp_path / "photos", "PINHOLE", names=names)
    right = read_picture(tmp_path / "photos" / names[0]).astype(float)
    for name in names:
        cv2.imwrite(str(tmp_path / "photos" / name), (right * 4).astype(np.uint16)[..., ::-1])  # 10 bits
    right = 255 * (right - right.min()) / (right.max() - right.min())
    for picture in exported(model, tmp_path, "3dgs").values():
        assert np.abs(picture - right).max() <= 2


@pytest.mark.parametrize("target", PICTURE_TARGETS)
@pytest.mark.parametrize("transfer", ["HLG", "PQ"])
def test_stills_of_high_dynamic_range_are_exported_in_srgb(transfer: str, target: str, tmp_path: Path) -> None:
    """PNG files as screenshots of HDR screens are, with the chunk that says so."""
    model = pictured_model(tmp_path / "photos", "PINHOLE")
    right = (read_picture(tmp_path / "photos" / "a.png") * 0.85).astype(np.uint8)
    signal = np.rint(255 * in_high_dynamic_range(right, transfer)).astype(np.uint8)
    for name in model.names:
        with_coding(tmp_path / "photos" / name, signal, {"HLG": 18, "PQ": 16}[transfer])
    for picture in exported(model, tmp_path, target).values():
        assert np.abs(picture.astype(int) - right).mean() < 3  # eight bits of these signals are coarse
        assert np.abs(signal.astype(int) - right).mean() > 12


def test_colours_of_another_profile_become_srgb(tmp_path: Path) -> None:
    """Phones store Display P3: readers that know no profiles would show it pale."""
    model = pictured_model(tmp_path / "photos", "PINHOLE")
    right = read_picture(tmp_path / "photos" / "a.png")
    swapped = ImageCms.ImageCmsProfile(display_p3())
    wide = ImageCms.profileToProfile(Image.fromarray(right), ImageCms.createProfile("sRGB"), swapped)
    assert np.abs(np.asarray(wide).astype(int) - right).mean() > 5
    for name in model.names:
        wide.save(tmp_path / "photos" / name, icc_profile=swapped.tobytes())
    for target in PICTURE_TARGETS:
        for picture in exported(model, tmp_path, target).values():
            assert np.abs(picture.astype(int) - right).mean() < 1.5


ODD = ("größe.jpg", "grosse.jpg", "left/0001.jpg", "right/0001.jpg", "写真 1.jpg", "a.b.jpg", "a.c.jpg", "A_b.png")


@pytest.mark.parametrize("target", PICTURE_TARGETS)
def test_names_that_every_reader_takes(target: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "PINHOLE", names=ODD)
    for s, name in enumerate(ODD):
        Image.new("RGB", (WIDTH, HEIGHT), (20 * s, 0, 255 - 20 * s)).save(tmp_path / "photos" / name)
    found = exported(model, tmp_path, target)
    assert set(found) == set(ODD)
    for s, name in enumerate(ODD):
        assert np.abs(found[name].astype(int) - [20 * s, 0, 255 - 20 * s]).max() <= 3
    written = list(json.loads((tmp_path / target / "export.json").read_text())["names"])
    # readers take the last part of a path, its bytes one by one, up to the first point, split lines at spaces
    stems = [name.split(".")[0].lower() for name in written]
    assert len(set(stems)) == len(ODD)
    assert all(name.isascii() and name.count(".") == 1 and not set(name) & set(" /\\") for name in written)
    assert "grosse.jpg" in written and "A_b.png" in written  # plain ones stay


@pytest.mark.parametrize("target", ["3dgs", "nerfstudio"])
def test_smaller_pictures_lie_where_the_trainer_looks(target: str, tmp_path: Path) -> None:
    model, pixels, alpha = cut_out(tmp_path)
    masks = tmp_path / "masks"
    masks.mkdir()
    keep = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    keep[:, :50] = 0
    for name in model.names:
        Image.fromarray(keep).save(masks / name)
    exported(model, tmp_path, target, downscale=(2, 7), masks=masks)
    whole = np.where(keep[..., None] > 0, 1, 0) if target == "3dgs" else np.ones((HEIGHT, WIDTH, 1))
    for factor in (2, 7):
        for name in model.names:
            small = read_picture(tmp_path / target / f"images_{factor}" / name)
            exact = (HEIGHT / factor, WIDTH / factor)
            down = target == "nerfstudio"  # reads its sizes rounded down
            assert small.shape[:2] == tuple(int(side) if down else round(side) for side in exact)
            if factor == 2:
                shares = (alpha[..., None] / 255 * whole).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
                assert np.abs(small[..., 3] / 255 - shares).max() < 0.01
                inner = (slice(20, 40), slice(30, 50))
                mean = pixels.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3))
                assert np.abs(small[..., :3][inner] - mean[inner]).max() <= 1
    if target == "nerfstudio":
        mask = read_picture(tmp_path / target / "masks_2" / f"{model.names[0]}.png")
        np.testing.assert_array_equal(mask, keep[::2, ::2])


def test_a_film_is_exported_as_it_was_shown(tmp_path: Path) -> None:
    """HLG frames of a film, their model, and its export for the trainer."""
    pytest.importorskip("av")
    model = pictured_model(tmp_path / "photos", "PINHOLE")
    right = (read_picture(tmp_path / "photos" / "a.png") * 0.85).astype(np.uint8)
    film = hdr_film(tmp_path / "film.mkv", [in_high_dynamic_range(right, "HLG")] * 6, "HLG")
    found = extract_frames(film, tmp_path / "frames")
    names = tuple(file.name for file in found.files[:3])
    for file in (tmp_path / "photos").iterdir():
        file.unlink()
    for name in names:
        (tmp_path / "photos" / name).write_bytes((tmp_path / "frames" / name).read_bytes())
    for picture in exported(dataclasses.replace(model, names=names), tmp_path, "3dgs").values():
        assert np.abs(picture.astype(int) - right).mean() < 1.5


def display_p3() -> io.BytesIO:
    """The profile by its primaries and a power of 2.2."""
    columns = {"rXYZ": (0.5151, 0.2412, -0.0011), "gXYZ": (0.2920, 0.6922, 0.0419), "bXYZ": (0.1571, 0.0666, 0.7841)}
    tags = {name: b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in xyz)
            for name, xyz in {**columns, "wtpt": (0.9642, 1.0, 0.8249)}.items()}  # fmt: skip
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve)
    tags["desc"] = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(12 + 67)
    tags["cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s24xI3i", at + len(data), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp", 0,
                       63190, 65536, 54061)  # fmt: skip
    return io.BytesIO(head.ljust(128, b"\0") + table + data)
