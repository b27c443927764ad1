"""Undistorted pictures: their pixels and their cameras agree, for every lens and however the file is turned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pictured_model import HEIGHT, LENSES, WIDTH, lens_picture, pictured_model, pinhole_picture, read_picture
from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.export.targets import ExportOptions, export_model
from vggsfm_cli.scene import Reconstruction

ORIENTATION = 0x0112


def reprojection_errors(model: Reconstruction) -> torch.Tensor:
    projected = model.cameras.project(model.xyz_world[None])[0][0]
    return (projected[model.frame, model.point] - model.xy).norm(dim=-1)


def read(path: Path) -> np.ndarray:
    return read_picture(path).astype(float)


@pytest.mark.parametrize("lens", LENSES)
def test_points_and_pixels_move_together(lens: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens)
    export_model(model, tmp_path / "out", tmp_path / "photos")
    written = read_colmap(tmp_path / "out" / "sparse" / "0")
    assert set(written.cameras.models) == {"PINHOLE"} and written.names == model.names
    assert torch.allclose(written.cameras.cam_from_world, model.cameras.cam_from_world, atol=1e-9)
    assert len(written.xy) > 0.8 * len(model.xy)
    assert float(reprojection_errors(written).max()) < 1e-3  # exact observations stay exact; a pixel is allowed
    for name, size in zip(written.names, written.sizes.tolist(), strict=True):
        picture = read(tmp_path / "out" / "images" / name)
        assert list(picture.shape[:2]) == size[::-1]
        expected = pinhole_picture(written.cameras.params[0, 0].tolist(), *size)
        # half a pixel off would be 4 grey levels in the mean; at the border the outermost half pixel is continued
        assert np.abs(picture - expected).mean() < 0.6
        assert np.abs(picture - expected).max() < 9
    if lens not in ("SIMPLE_PINHOLE", "PINHOLE"):
        unmoved = lens_picture(lens, LENSES[lens], WIDTH, HEIGHT)
        shared = tuple(slice(0, min(a, b)) for a, b in zip(unmoved.shape[:2], picture.shape[:2], strict=True))
        assert np.abs(picture[shared] - unmoved[shared]).mean() > 3


@pytest.mark.parametrize("lens", ["SIMPLE_RADIAL", "RADIAL", "OPENCV_FISHEYE"])
def test_blank_pixels_are_black_and_masked(lens: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens)
    export_model(model, tmp_path / "cropped", tmp_path / "photos")
    export_model(model, tmp_path / "whole", tmp_path / "photos", ExportOptions(blank_pixels=1.0))
    written = read_colmap(tmp_path / "whole" / "sparse" / "0")
    assert not (tmp_path / "cropped" / "masks").exists()
    keep = read(tmp_path / "whole" / "masks" / "a.png.png") > 0
    picture = read(tmp_path / "whole" / "images" / "a.png")
    assert 0.5 < keep.mean() < 1
    assert len(written.xy) >= len(model.xy) - 1
    size = written.sizes[0].tolist()
    expected = pinhole_picture(written.cameras.params[0, 0].tolist(), *size)
    assert np.abs(picture - expected)[keep].mean() < 1 and np.abs(picture - expected)[keep].max() < 20
    assert (picture[~keep] == 0).mean() > 0.9  # a mask leaves out the outermost half pixel too


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_as_stored_and_not_turned(orientation: int, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "OPENCV", names=("a.jpg", "sub/b.jpg", "sub/a.jpg"))
    for name in model.names:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(read_picture(tmp_path / "photos" / name)).save(
            tmp_path / "photos" / name, exif=exif, quality=98, subsampling=0
        )
    export_model(model, tmp_path / "out", tmp_path / "photos")
    written = read_colmap(tmp_path / "out" / "sparse" / "0")
    assert written.names == ("a.jpg", "sub_b.jpg", "sub_a.jpg")
    with Image.open(tmp_path / "out" / "images" / "sub_b.jpg") as image:
        assert not dict(image.getexif())
        picture = np.asarray(image).astype(float)
    expected = pinhole_picture(written.cameras.params[0, 0].tolist(), *written.sizes[0].tolist())
    assert np.abs(picture - expected).mean() < 2.5  # what JPEG leaves; a turned picture is some 80 off


def test_masks_are_carried_along(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", "SIMPLE_RADIAL")
    keep = np.ones((HEIGHT, WIDTH), dtype=np.uint8) * 255
    keep[:, : WIDTH // 2] = 0
    (tmp_path / "masks").mkdir()
    Image.fromarray(keep).save(tmp_path / "masks" / "a.png.png")
    Image.fromarray(keep).save(tmp_path / "masks" / "b.png")
    export_model(model, tmp_path / "out", tmp_path / "photos", ExportOptions(masks=tmp_path / "masks"))
    written = read_colmap(tmp_path / "out" / "sparse" / "0")
    fx, _, cx, cy = written.cameras.params[0, 0].tolist()
    original = LENSES["SIMPLE_RADIAL"]
    edge = cx + fx * (WIDTH / 2 - original[1]) / original[0]  # near the axis, where the distortion is next to nothing
    for name in ("a.png", "b.png"):
        moved = read(tmp_path / "out" / "masks" / f"{name}.png")
        row = moved[int(cy)]
        assert abs(float((row == 0).sum()) - edge) <= 1 and row[0] == 0 and row[-1] == 255
    assert (read(tmp_path / "out" / "masks" / "c.png.png") == 255).all()


def test_kinds_that_trainers_do_not_read_become_png(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", names=("a.tif", "a.png", "b.webp"))
    export_model(model, tmp_path / "out", tmp_path / "photos")
    written = read_colmap(tmp_path / "out" / "sparse" / "0")
    assert sorted(written.names) == ["a.png", "a_2.png", "b.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == sorted(written.names)


def test_nothing_is_written_if_anything_fails(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos")
    (tmp_path / "photos" / "c.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        export_model(model, tmp_path / "out", tmp_path / "photos")
    (tmp_path / "photos" / "c.png").unlink()
    with pytest.raises(InputError, match="No photograph"):
        export_model(model, tmp_path / "out", tmp_path / "photos")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "photos" / "c.png")
    with pytest.raises(InputError, match=f"{WIDTH} x {HEIGHT + 1} pixels"):
        export_model(model, tmp_path / "out", tmp_path / "photos")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_only_exports_are_replaced(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "project" / "images")
    overwrite = ExportOptions(overwrite=True)
    with pytest.raises(UsageError, match="holds other files"):
        export_model(model, tmp_path / "project", tmp_path / "project" / "images", overwrite)
    out = tmp_path / "out"
    export_model(model, out, tmp_path / "project" / "images")
    with pytest.raises(UsageError, match="already holds an export"):
        export_model(model, out, tmp_path / "project" / "images")
    with pytest.raises(UsageError, match="which would be replaced"):
        export_model(model, out, out / "images", overwrite)
    export_model(model, out, tmp_path / "project" / "images", ExportOptions(target="ply", overwrite=True))
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "points.ply"]
