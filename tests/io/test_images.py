"""A folder of photographs: upright pixels for the network, and the exact way back to the stored ones."""

import logging
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.photographs import PhotographFiles, decode, to_stored, to_upright

STORED_SIZE = (96, 64)
MARKS = {(11, 7): (250, 20, 20), (80, 9): (20, 250, 20), (70, 50): (20, 20, 250), (15, 55): (250, 250, 20)}
"""Stored positions (of the middle of a 9-pixel square) and colours, without any symmetry."""


def marked(size: tuple[int, int] = STORED_SIZE) -> Image.Image:
    pixels = np.full((size[1], size[0], 3), 60, dtype=np.uint8)
    for (x, y), color in MARKS.items():
        pixels[y - 4 : y + 5, x - 4 : x + 5] = color
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, **tags: object) -> None:
    """Write a file; ``tags`` are orientation, make, focal_35mm."""
    exif = Image.Exif()
    if "orientation" in tags:
        exif[0x0112] = tags["orientation"]
    if "make" in tags:
        exif[0x010F] = tags["make"]
    if "focal_35mm" in tags:
        exif.get_ifd(0x8769)[0xA405] = tags["focal_35mm"]
    options = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(path.suffix, {})
    image.save(path, exif=exif, **options)


def textured(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_maps_marks_to_stored_pixels(tmp_path: Path, orientation: int, suffix: str) -> None:
    for name in ("a", "b"):
        save(marked(), tmp_path / f"{name}{suffix}", orientation=orientation)
    images = read_images(tmp_path)
    assert tuple(images.stored_size[0, 0].tolist()) == STORED_SIZE
    assert bool(images.mask[0, 0].sum() == STORED_SIZE[0] * STORED_SIZE[1])
    stored_xy = torch.tensor([[x + 0.5, y + 0.5] for x, y in MARKS])
    network_xy = images.to_network(stored_xy.expand(1, 2, -1, -1))
    torch.testing.assert_close(images.to_stored(network_xy)[0, 0], stored_xy)
    assert images.originals is not None
    original = images.originals.color(0, 0)
    for (x, y), color, (u, v) in zip(MARKS, MARKS.values(), network_xy[0, 0].tolist(), strict=True):
        expected = torch.tensor(color) / 255
        torch.testing.assert_close(original[:, y, x], expected, atol=0.04, rtol=0)
        torch.testing.assert_close(images.pixels[0, 0, :, int(v), int(u)], expected, atol=0.04, rtol=0)
        for du, dv in ((-4, 0), (4, 0), (0, -4), (0, 4)):  # the square is centred: half a pixel off would show
            torch.testing.assert_close(images.pixels[0, 0, :, int(v) + dv, int(u) + du], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_agrees_with_pillow(orientation: int) -> None:
    image = textured((7, 5))
    image.getexif()[0x0112] = orientation
    upright = to_upright(np.array(image), orientation)
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(to_stored(upright, orientation), np.asarray(image))


def test_resize_is_exact_per_axis_and_antialiased(tmp_path: Path) -> None:
    checker = np.indices((301, 450)).sum(0) % 2 * 255
    for name in ("a.png", "b.png"):
        save(Image.fromarray(checker.astype(np.uint8)), tmp_path / name, orientation=6)
    images = read_images(tmp_path, long_side=100)
    assert images.pixels.shape == (1, 2, 3, 128, 96)  # 67 x 100, padded
    assert images.mask[0, 0].sum() == 67 * 100
    photograph = images.pixels[0, 0][:, images.mask[0, 0]]
    assert photograph.min() > 0.4 and photograph.max() < 0.6
    matrix = images.stored_from_network[0, 0]
    torch.testing.assert_close(matrix, torch.tensor([[0, 4.5, 0], [-301 / 67, 0, 301]]))


def test_images_are_not_enlarged_and_mixed_sizes_share_a_canvas(tmp_path: Path) -> None:
    save(textured((100, 60)), tmp_path / "a.png")
    save(textured((40, 70)), tmp_path / "b.png")
    save(textured((300, 200)), tmp_path / "c.png")
    images = read_images(tmp_path, long_side=150)
    assert images.pixels.shape == (1, 3, 3, 128, 160)
    assert images.mask[0].sum((1, 2)).tolist() == [6000, 2800, 15000]
    assert images.stored_size[0].tolist() == [[100, 60], [40, 70], [300, 200]]
    assert images.priors.camera_index.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(images.pixel_scale[0], torch.tensor([1.0, 1.0, 2.0]))


def test_files_are_sorted_naturally_and_found_by_any_case(tmp_path: Path) -> None:
    for name in ("img10.JPG", "img9.jpeg", "IMG1.png", ".hidden.jpg", "notes.txt"):
        path = tmp_path / name
        if name.endswith("txt"):
            path.write_text("no image")
        else:
            textured((40, 40)).save(path, "PNG")
    assert read_images(str(tmp_path)).names == (("IMG1.png", "img9.jpeg", "img10.JPG"),)


def test_a_list_of_files_keeps_its_order(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    for name in ("b.png", "a.png", "left/a.png"):
        save(textured((40, 40)), tmp_path / name)
    assert read_images([tmp_path / "b.png", str(tmp_path / "a.png")]).names == (("b.png", "a.png"),)
    assert read_images([tmp_path / "a.png", tmp_path / "left/a.png"]).names == (("a.png", "left/a.png"),)
    with pytest.raises(InputError, match="twice"):
        read_images([tmp_path / "a.png", tmp_path / "a.png"])
    with pytest.raises(InputError, match="No such file"):
        read_images([tmp_path / "a.png", tmp_path / "missing.png"])


def test_broken_files_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.png", "c.tif"):
        save(textured((64, 64)), tmp_path / name)
    for name in ("a.jpg", "b.png", "c.tif"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"truncated_{name}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.webp").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "phone.heic").write_bytes(b"...")
    textured((5, 5)).save(tmp_path / "tiny.png")
    with caplog.at_level(logging.WARNING):
        images = read_images(tmp_path)
    assert images.names == (("a.jpg", "b.png", "c.tif"),)
    broken = {
        "truncated_a.jpg",
        "truncated_b.png",
        "truncated_c.tif",
        "empty.webp",
        "text.jpg",
        "phone.heic",
        "tiny.png",
    }
    assert {item.name for item in images.skipped} == broken
    assert all(item.reason for item in images.skipped)
    assert all(name in caplog.text for name in broken)
    assert images.to("cpu").skipped == images.skipped


def test_fewer_than_two_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or folder"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="No readable image") as error:
        read_images(tmp_path)
    assert ".webp" in error.value.hint
    save(textured((40, 40)), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="Only one readable image") as error:
        read_images(tmp_path)
    assert "b.png" in error.value.hint


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "F", "RGB16", "I"])
def test_unusual_pixels_become_rgb(tmp_path: Path, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.tif" if mode in ("F", "I") else "a.png")
    if mode == "RGB16":
        import cv2

        cv2.imwrite(str(path), np.repeat((ramp.astype(np.uint16) * 257)[..., None], 3, axis=2))
    elif mode == "I;16":
        Image.fromarray(ramp.astype(np.uint16) * 257).save(path)
    elif mode == "I":
        Image.fromarray(ramp.astype(np.int32) * 257).save(path)
    elif mode == "F":
        Image.fromarray(ramp.astype(np.float32) / 255).save(path)
    else:
        source = Image.fromarray(ramp).convert("RGB") if mode == "CMYK" else Image.fromarray(ramp)
        source.convert(mode).save(path)
    pixels = decode(path).pixels
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    if mode == "1":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        assert np.abs(pixels.astype(int) - ramp[..., None]).max() <= (3 if mode == "CMYK" else 1)


def test_cameras_are_shared_by_stored_size_and_exif(tmp_path: Path) -> None:
    save(textured((90, 60)), tmp_path / "1.jpg", make="Acme", focal_35mm=24)
    save(textured((90, 60)), tmp_path / "2.jpg", make="Acme", focal_35mm=24, orientation=6)
    save(textured((90, 60)), tmp_path / "3.jpg")  # silent: joins the only camera of its size
    save(textured((60, 90)), tmp_path / "4.jpg")
    priors = read_images(tmp_path).priors
    assert priors.camera_index.tolist() == [[0, 0, 0, 1]]
    diagonal = (90**2 + 60**2) ** 0.5
    assert priors.params[0, 0].tolist() == pytest.approx([24 / 43.2666 * diagonal, 45, 30, 0], rel=1e-4)
    assert priors.params[0, 1].tolist() == pytest.approx([1.2 * 90, 30, 45, 0])
    assert priors.focal_spread[0].tolist() == pytest.approx([0.1, 0.5])
    save(textured((90, 60)), tmp_path / "5.jpg", make="Acme", focal_35mm=50)
    assert read_images(tmp_path).priors.camera_index.tolist() == [[0, 0, 1, 2, 3]]
    assert read_images(tmp_path, camera_mode="per-image").priors.camera_index.tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(UsageError, match="2 sizes"):
        read_images(tmp_path, camera_mode="single")
    (tmp_path / "4.jpg").unlink()
    single = read_images(tmp_path, camera_mode="single", camera_model="OPENCV").priors
    assert single.camera_index.tolist() == [[0, 0, 0, 0]] and single.models == ("OPENCV",)
    assert single.params.shape == (1, 1, 8)


def test_unknown_choices_name_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_images(tmp_path, camera_model="FANCY")
    assert "SIMPLE_RADIAL" in error.value.hint
    with pytest.raises(UsageError) as error:
        read_images(tmp_path, camera_mode="some")
    assert "per-image" in error.value.hint


def test_originals_are_cached_within_the_budget(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        save(textured((50, 40), seed=i), path)
    files = PhotographFiles(paths, cache_bytes=2 * 50 * 40)
    first = files.grey(0, 0)
    assert first.shape == (40, 50) and first.dtype == torch.float32
    for s in (1, 2, 0, 3):
        torch.testing.assert_close(files.grey(0, s), files.grey(0, s))
    assert sorted(files._kept) == [0, 3]
    color = files.color(0, 0)
    luminance = (color * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    torch.testing.assert_close(first, luminance, atol=0.6 / 255, rtol=0)
    first.zero_()  # the caller owns what it gets
    assert files.grey(0, 0).max() > 0


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".bmp"])
def test_files_of_telephones_and_old_programs(tmp_path: Path, suffix: str) -> None:
    if suffix == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.register_heif_opener()
    for name in ("a", "b"):
        exif = Image.Exif()
        if suffix == ".avif":
            exif[0x0112] = 6
        marked().save(tmp_path / f"{name}{suffix}", **({} if suffix == ".bmp" else {"exif": exif, "quality": 95}))
    (tmp_path / "b.jpg").write_bytes((tmp_path / f"b{suffix}").read_bytes())  # as some phones name them
    images = read_images(tmp_path)
    assert len(images.names[0]) == 3 and images.stored_size[0, 0].tolist() == list(STORED_SIZE)
    assert images.originals is not None
    color = images.originals.color(0, 0)
    for (x, y), expected in MARKS.items():
        torch.testing.assert_close(color[:, y, x], torch.tensor(expected) / 255, atol=0.1, rtol=0)


def test_heic_without_its_package_is_skipped_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.png", "b.png"):
        save(textured((40, 40)), tmp_path / name)
    (tmp_path / "c.heic").write_bytes(b"\0\0\0\x1cftypheic" + bytes(50))
    (skipped,) = read_images(tmp_path).skipped
    assert skipped.name == "c.heic" and "vggsfm-cli[heif]" in skipped.reason


def test_a_small_file_that_claims_a_giant_picture_is_not_unpacked(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(textured((40, 40)), tmp_path / name)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    (skipped,) = read_images(tmp_path).skipped
    assert "claims 30000 x 30000 pixels" in skipped.reason
