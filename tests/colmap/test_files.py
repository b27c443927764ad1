"""Models to files and back: nothing is lost, and what is written appears whole or not at all."""

import dataclasses
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from colmap_reader import from_pycolmap
from example_model import example_model
from vggsfm_cli import folders
from vggsfm_cli.colmap.convert import to_pycolmap
from vggsfm_cli.colmap.files import check_writable, read_colmap, write_colmap
from vggsfm_cli.errors import InputError, UsageError, WriteFailed
from vggsfm_cli.scene import Reconstruction


def sorted_observations(model: Reconstruction) -> tuple[torch.Tensor, torch.Tensor]:
    order = np.lexsort((model.point.numpy(), model.frame.numpy()))
    return torch.stack([model.frame, model.point], -1)[order], model.xy[order]


def assert_same(a: Reconstruction, b: Reconstruction) -> None:
    assert a.names == b.names and a.cameras.models == b.cameras.models
    for name in ("cam_from_world", "params", "camera_index", "registered"):
        torch.testing.assert_close(getattr(a.cameras, name), getattr(b.cameras, name))
    torch.testing.assert_close(a.sizes, b.sizes)
    torch.testing.assert_close(a.xyz_world, b.xyz_world)
    torch.testing.assert_close(a.error_px, b.error_px)
    torch.testing.assert_close(a.color.double(), b.color.double(), atol=0.51 / 255, rtol=0)
    for mine, theirs in zip(sorted_observations(a), sorted_observations(b), strict=True):
        torch.testing.assert_close(mine, theirs)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_round_trip_in_memory_and_on_disk(tmp_path: Path) -> None:
    model = example_model()
    assert_same(model, from_pycolmap(to_pycolmap(model)))
    write_colmap(model, tmp_path / "sparse")
    assert_same(model, read_colmap(tmp_path / "sparse" / "0"))
    assert_same(model, read_colmap(tmp_path / "sparse"))


def test_pycolmap_sees_a_valid_model() -> None:
    model = example_model()
    theirs = to_pycolmap(model)
    assert theirs.is_valid()
    assert sorted(theirs.images) == list(range(1, 7)) and sorted(theirs.cameras) == [1, 2]
    assert sorted(theirs.points3D) == list(range(1, 201))
    assert theirs.num_rigs() == 2 and theirs.num_frames() == theirs.num_reg_frames() == 6
    assert theirs.compute_num_observations() == len(model.frame)
    for s, image in sorted(theirs.images.items()):
        assert image.num_points2D() == image.num_points3D == int((model.frame == s - 1).sum())
        for observation in list(image.points2D)[:5]:
            projected = image.project_point(theirs.points3D[observation.point3D_id].xyz)
            np.testing.assert_allclose(projected, observation.xy, atol=1e-6)  # same model, same half pixel
    assert theirs.points3D[1].color.dtype == np.uint8
    theirs.update_point_3d_errors()
    assert theirs.compute_mean_reprojection_error() < 1e-6


def test_points_seen_once_are_left_out() -> None:
    model = example_model()
    once = (model.point == 3) & (model.frame > 0)
    twice_in_one = torch.cat([model.frame[~once], torch.tensor([0])])
    model = dataclasses.replace(
        model,
        frame=twice_in_one,
        point=torch.cat([model.point[~once], torch.tensor([3])]),
        xy=torch.cat([model.xy[~once], torch.zeros(1, 2, dtype=model.xy.dtype)]),
    )
    theirs = to_pycolmap(model)
    assert theirs.num_points3D() == 199 and theirs.is_valid()
    assert min(p.track.length() for p in theirs.points3D.values()) >= 2
    assert all(image.num_points2D() == image.num_points3D for image in theirs.images.values())


def test_unregistered_images_and_loose_2d_points_are_left_out() -> None:
    theirs = to_pycolmap(example_model())
    observations = theirs.compute_num_observations()
    length = theirs.points3D[7].track.length()
    theirs.delete_point3D(7)
    theirs.deregister_frame(6)
    model = from_pycolmap(theirs)
    assert len(model.names) == 5 and len(model.xyz_world) == theirs.num_points3D()
    assert len(model.frame) == theirs.compute_num_observations() < observations - length


def test_components_become_numbered_models(tmp_path: Path) -> None:
    models = [example_model(frames=6), example_model(frames=3, seed=1)]
    out = write_colmap(models, tmp_path / "a" / "sparse", extras=lambda folder: (folder / "report.json").touch())
    assert sorted(path.name for path in out.iterdir()) == ["0", "1", "report.json"]
    written = {path.name for path in (out / "0").iterdir()}
    assert written == {"cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"}
    assert len(read_colmap(out / "1").names) == 3
    assert [path.name for path in out.parent.iterdir()] == ["sparse"]


def test_legacy_files_have_no_rigs(tmp_path: Path) -> None:
    model = example_model()
    write_colmap(model, tmp_path / "sparse", legacy=True)
    assert {p.name for p in (tmp_path / "sparse" / "0").iterdir()} == {"cameras.bin", "images.bin", "points3D.bin"}
    assert_same(model, read_colmap(tmp_path / "sparse"))


def test_images_file_follows_the_published_format(tmp_path: Path) -> None:
    """The first image, read by hand after COLMAP's documentation of its binary format."""
    model = example_model()
    write_colmap(model, tmp_path / "sparse", legacy=True)
    data = (tmp_path / "sparse" / "0" / "images.bin").read_bytes()
    count, image_id, *numbers, camera_id = struct.unpack_from("<QI7dI", data)
    assert (count, image_id, camera_id) == (6, 1, 1)
    np.testing.assert_allclose(numbers[4:], model.cameras.cam_from_world[0, 0, :, 3])
    name_end = data.index(b"\0", 72)
    assert data[72:name_end] == b"view 0.jpg"
    (points,) = struct.unpack_from("<Q", data, name_end + 1)
    assert points == int((model.frame == 0).sum())


def test_an_existing_model_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "sparse"
    write_colmap(example_model(), out)
    before = contents(out)
    with pytest.raises(UsageError) as error:
        write_colmap(example_model(seed=1), out)
    assert "--overwrite" in error.value.hint
    assert contents(out) == before
    write_colmap([example_model(seed=1)], out, overwrite=True)
    assert contents(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["sparse"]


def test_foreign_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(UsageError, match=r"photo\.jpg"):
        write_colmap(example_model(), tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        write_colmap(example_model(), tmp_path / "photo.jpg", overwrite=True)
    with pytest.raises(UsageError, match="not a folder"):
        check_writable(tmp_path / "photo.jpg" / "sparse")
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "notes.txt").write_text("precious too")
    with pytest.raises(UsageError, match="other files"):
        check_writable(tmp_path, overwrite=True)


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_no_trace(tmp_path: Path, existing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sparse"
    if existing:
        write_colmap(example_model(), out)
    before = contents(tmp_path)

    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_colmap(example_model(seed=1), out, overwrite=True, extras=fail)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == int(existing)

    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    with pytest.raises(WriteFailed, match="No space"):
        write_colmap(example_model(seed=1), out, overwrite=True)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == int(existing)


def test_an_empty_folder_may_exist(tmp_path: Path) -> None:
    (tmp_path / "sparse").mkdir()
    write_colmap(example_model(), tmp_path / "sparse")
    assert (tmp_path / "sparse" / "0" / "cameras.bin").is_file()


def test_nothing_to_write_and_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_colmap([], tmp_path / "sparse")
    with pytest.raises(InputError, match="No COLMAP model"):
        read_colmap(tmp_path)
    write_colmap(example_model(), tmp_path / "sparse")
    whole = (tmp_path / "sparse" / "0" / "images.bin").read_bytes()
    (tmp_path / "sparse" / "0" / "images.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_colmap(tmp_path / "sparse")


@pytest.mark.skipif(shutil.which("colmap") is None, reason="the program colmap is not installed")
@pytest.mark.parametrize("legacy", [False, True])
def test_colmap_itself_reads_the_files(tmp_path: Path, legacy: bool) -> None:
    model = example_model()
    out = write_colmap(model, tmp_path / "sparse", legacy=legacy)
    run = subprocess.run(
        ["colmap", "model_analyzer", "--path", str(out / "0")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    printed = run.stdout + run.stderr
    assert "Registered images: 6" in printed and "Points: 200" in printed
    assert f"Observations: {len(model.frame)}" in printed


def test_text_models_are_read(tmp_path: Path) -> None:
    model = example_model()
    model = dataclasses.replace(model, names=tuple(name.replace(" ", "_") for name in model.names))  # text: no spaces
    to_pycolmap(model).write_text(tmp_path)
    assert_same(model, read_colmap(tmp_path))
