"""Every export is read back by a reader that knows only the format, and must say what the model says."""

import dataclasses
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from format_readers import Transforms, colmap_errors, read_binary, read_ply, read_text
from pictured_model import HEIGHT, LENSES, WIDTH, pictured_model, read_picture
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.export.targets import TARGETS, ExportOptions, export_model
from vggsfm_cli.scene import Reconstruction


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def two_cameras(model: Reconstruction) -> Reconstruction:
    """The last frame taken by a camera of its own, which is the same."""
    cameras = model.cameras
    index = cameras.camera_index.clone()
    index[0, -1] = 1
    cameras = dataclasses.replace(
        cameras, models=cameras.models * 2, params=cameras.params.repeat(1, 2, 1), camera_index=index
    )
    return dataclasses.replace(model, cameras=cameras)


def transforms_errors(read: Transforms, model: Reconstruction, xyz: np.ndarray, *, fisheye: bool) -> np.ndarray:
    errors = []
    for s, n, xy in zip(model.frame.tolist(), model.point.tolist(), model.xy.numpy(), strict=True):
        errors.append(np.hypot(*(read.project(f"images/{model.names[s]}", xyz[n], fisheye=fisheye) - xy)))
    return np.array(errors)


@pytest.mark.parametrize("target", ["3dgs", "gsplat"])
@pytest.mark.parametrize("lens", ["PINHOLE", "OPENCV"])
def test_splat_trainers_find_pinhole_cameras_and_their_pictures(target: str, lens: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens, names=("a.jpg", "sub/a.jpg", "sub/b.png"))
    record = export_model(model, tmp_path / "out", tmp_path / "photos", ExportOptions(target=target))
    cameras, images, points = read_binary(tmp_path / "out" / "sparse" / "0")
    assert {name for name, *_ in cameras.values()} == {"PINHOLE"}
    assert record["names"] == {"a.jpg": "a.jpg", "sub_a.jpg": "sub/a.jpg", "sub_b.png": "sub/b.png"}
    assert sorted(name for name, *_ in images.values()) == sorted(record["names"])
    for name, camera, *_ in images.values():
        _, width, height, _ = cameras[camera]
        assert image_size(tmp_path / "out" / "images" / name) == (width, height)
    errors = colmap_errors((cameras, images, points))
    assert len(errors) > 0.8 * len(model.xy) and errors.max() < 1e-3
    assert not {"rigs.bin", "frames.bin"} & {path.name for path in (tmp_path / "out" / "sparse" / "0").iterdir()}


def test_gsplat_pairs_downscaled_pictures_by_sorted_names(tmp_path: Path) -> None:
    names = ("b.jpg", "sub/a.jpg", "a.png", "a-b.jpg")
    model = pictured_model(tmp_path / "photos", names=names)
    options = ExportOptions(target="gsplat", downscale=(4,))
    record = export_model(model, tmp_path / "out", tmp_path / "photos", options)
    # as examples/datasets/colmap.py does: both folders walked, sorted and zipped; JPEG files would be made again
    full, small = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (tmp_path / "out" / "images", tmp_path / "out" / "images_4")
    )
    assert sorted(full) == sorted(record["names"]) and not small[0].endswith(".jpg")
    reconstruction = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    camera = next(iter(reconstruction.cameras.values()))
    for name, name_small in zip(full, small, strict=True):
        large = read_picture(tmp_path / "out" / "images" / name).astype(float)
        little = read_picture(tmp_path / "out" / "images_4" / name_small).astype(float)
        assert little.shape[:2] == (round(camera.height / 4), round(camera.width / 4))
        again = np.asarray(Image.fromarray(large.astype(np.uint8)).resize(little.shape[1::-1], Image.BOX)).astype(float)
        assert np.abs(little - again).mean() < 2


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("shared", [True, False])
def test_nerfstudio(lens: str, shared: bool, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens)
    model = model if shared else two_cameras(model)
    export_model(model, tmp_path / "out", tmp_path / "photos", ExportOptions(target="nerfstudio"))
    read = Transforms(tmp_path / "out")
    fisheye = lens == "OPENCV_FISHEYE"
    assert read.content["camera_model"] == ("OPENCV_FISHEYE" if fisheye else "OPENCV")
    xyz, color = read_ply(tmp_path / "out" / read.content["ply_file_path"])
    assert np.allclose(xyz, model.xyz_world.numpy(), atol=1e-5)
    assert np.abs(color - 255 * model.color.numpy()).max() <= 0.5
    assert transforms_errors(read, model, xyz, fisheye=fisheye).max() < 1e-2
    for path in read.frames:
        values = read.intrinsics(path)
        assert image_size(tmp_path / "out" / path) == (values["w"], values["h"]) == (WIDTH, HEIGHT)
        assert "mask_path" not in values
    assert ("fl_x" in read.content) == shared


@pytest.mark.parametrize("lens", ["SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_instant_ngp(lens: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens)
    export_model(model, tmp_path / "out", tmp_path / "photos", ExportOptions(target="instant-ngp"))
    read = Transforms(tmp_path / "out")
    fisheye = lens == "OPENCV_FISHEYE"
    assert read.content.get("is_fisheye", False) == fisheye
    assert read.content["aabb_scale"] in [2**n for n in range(8)]
    matrices = np.array([frame["transform_matrix"] for frame in read.frames.values()])
    assert np.allclose(np.linalg.norm(matrices[:, :3, 3], axis=1).mean(), 4)
    assert matrices[:, 2, 1].mean() > 0.9  # what is up in the photographs is z
    xyz = triangulated(read, model, fisheye=fisheye)  # the file holds no points: the cameras must agree on them
    assert transforms_errors(read, model, xyz, fisheye=fisheye).max() < 1e-3
    assert np.abs(np.median(xyz, axis=0)).max() < 0.5


def triangulated(read: Transforms, model: Reconstruction, *, fisheye: bool) -> np.ndarray:
    """Points from the rays of the observations, through OpenCV's own undistortion."""
    rows: list[list[np.ndarray]] = [[] for _ in model.xyz_world]
    undistort = cv2_undistort(fisheye)
    for s, n, xy in zip(model.frame.tolist(), model.point.tolist(), model.xy.numpy(), strict=True):
        path = f"images/{model.names[s]}"
        u, v = undistort(read.intrinsics(path), xy)
        cam_from_world = np.diag([1, -1, -1, 1]) @ np.linalg.inv(np.array(read.frames[path]["transform_matrix"]))
        rows[n] += [u * cam_from_world[2] - cam_from_world[0], v * cam_from_world[2] - cam_from_world[1]]
    xyz = np.zeros((len(rows), 3))
    for n, equations in enumerate(rows):
        if equations:
            solution = np.linalg.svd(np.array(equations))[2][-1]
            xyz[n] = solution[:3] / solution[3]
    return xyz


def cv2_undistort(fisheye: bool):
    import cv2

    def undistort(values, xy):
        k = np.array([[values["fl_x"], 0, values["cx"]], [0, values["fl_y"], values["cy"]], [0, 0, 1.0]])
        point = np.asarray(xy, dtype=float).reshape(1, 1, 2)
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
        if fisheye:
            distortion = np.array([values[name] for name in ("k1", "k2", "k3", "k4")])
            return cv2.fisheye.undistortPoints(point, k, distortion, criteria=criteria).reshape(2)
        distortion = np.array([values[name] for name in ("k1", "k2", "p1", "p2")])
        return cv2.undistortPoints(point, k, distortion, criteria=criteria).reshape(2)

    return undistort


@pytest.mark.parametrize("lens", LENSES)
def test_text(lens: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", lens, names=("a b.png", "ü/b.png", "c.png"))
    export_model(model, tmp_path / "out", options=ExportOptions(target="txt"))
    cameras, images, points = read_text(tmp_path / "out")
    assert [name for name, *_ in cameras.values()] == [lens]
    assert sorted(name for name, *_ in images.values()) == sorted(model.names)
    errors = colmap_errors((cameras, images, points))
    assert len(errors) == len(model.xy) and errors.max() < 1e-3


def test_ply(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos")
    export_model(model, tmp_path / "out", options=ExportOptions(target="ply"))
    xyz, color = read_ply(tmp_path / "out" / "points.ply")
    assert np.allclose(xyz, model.xyz_world.numpy(), atol=1e-5)
    assert np.abs(color - 255 * model.color.numpy()).max() <= 0.5


def test_masks_have_the_polarity_of_their_reader(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", names=("sub/a.png", "b.png"))
    keep = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    keep[:, 40:] = 255
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    Image.fromarray(keep).save(tmp_path / "masks" / "sub" / "a.png")
    for target in ("nerfstudio", "instant-ngp"):
        options = ExportOptions(target=target, masks=tmp_path / "masks")
        export_model(model, tmp_path / target, tmp_path / "photos", options)
    frames = Transforms(tmp_path / "nerfstudio").frames
    used = read_picture(tmp_path / "nerfstudio" / frames["images/sub_a.png"]["mask_path"])
    assert (used == keep).all()
    assert (read_picture(tmp_path / "nerfstudio" / frames["images/b.png"]["mask_path"]) == 255).all()
    ignored = read_picture(tmp_path / "instant-ngp" / "images" / "dynamic_mask_sub_a.png")
    assert (ignored == 255 - keep).all()


def test_photographs_of_nerf_trainers_are_the_files_unless_readers_would_differ(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", names=("a.jpg", "b.jpg", "c.tif"))
    stored = read_picture(tmp_path / "photos" / "b.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "photos" / "b.jpg", exif=exif)
    export_model(model, tmp_path / "out", tmp_path / "photos", ExportOptions(target="nerfstudio"))
    images = tmp_path / "out" / "images"
    assert (images / "a.jpg").read_bytes() == (tmp_path / "photos" / "a.jpg").read_bytes()
    with Image.open(images / "b.jpg") as written:
        assert not dict(written.getexif()) and np.abs(np.asarray(written).astype(int) - stored).mean() < 4
    assert sorted(path.name for path in images.iterdir()) == ["a.jpg", "b.jpg", "c.png"]


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = two_cameras(pictured_model(tmp_path / "photos", "OPENCV_FISHEYE"))
    cameras = dataclasses.replace(model.cameras, models=("OPENCV_FISHEYE", "OPENCV"))
    with pytest.raises(InputError, match="fisheyes beside other cameras"):
        export_model(
            dataclasses.replace(model, cameras=cameras),
            tmp_path / "out",
            tmp_path / "photos",
            ExportOptions(target="nerfstudio"),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(target="mesh"), "Unknown target"),
        (ExportOptions(target="3dgs"), "needs the photographs"),
        (ExportOptions(target="ply", masks=Path()), "no masks"),
        (ExportOptions(target="txt", blank_pixels=0.5), "does not undistort"),
        (ExportOptions(target="ply", downscale=(2,)), "no downscaled"),
    ],
)
def test_options_that_make_no_sense(options: ExportOptions, message: str, tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos", points=20)
    with pytest.raises(UsageError, match=message):
        export_model(model, tmp_path / "out", options=options)
    assert options.target not in TARGETS or not (tmp_path / "out").exists()


def test_a_model_without_points_can_be_exported(tmp_path: Path) -> None:
    model = pictured_model(tmp_path / "photos")
    empty = dataclasses.replace(
        model,
        xyz_world=model.xyz_world[:0], color=model.color[:0], error_px=model.error_px[:0],
        frame=model.frame[:0], point=model.point[:0], xy=model.xy[:0],
    )  # fmt: skip
    for target in TARGETS:
        images = None if target in ("ply", "txt") else tmp_path / "photos"
        record = export_model(empty, tmp_path / target, images, ExportOptions(target=target))
        assert record["points"] == 0 and record["images"] == 3
    assert torch.equal(empty.sizes, model.sizes)
