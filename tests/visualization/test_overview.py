"""The overview picture: both panels show the scene, the right way up."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from example_model import example_model
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization import draw_overview, save_overview
from vggsfm_cli.visualization.overview import OverviewConfig

CONFIG = OverviewConfig(panel_width_px=240, panel_height_px=200, fog=0.0)


def coloured_by_height() -> Reconstruction:
    """Red points at the top (y is down), green points at the bottom."""
    model = example_model(points=600)
    top = model.xyz_world[:, 1] < 0
    color = torch.where(top[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    return dataclasses.replace(model, color=color)


def moved(model: Reconstruction, rotation: torch.Tensor) -> Reconstruction:
    """The same model in a world turned by ``rotation``."""
    poses = model.cameras.cam_from_world.clone()
    poses[..., :3] = poses[..., :3] @ rotation.T
    cameras = dataclasses.replace(model.cameras, cam_from_world=poses)
    return dataclasses.replace(model, cameras=cameras, xyz_world=model.xyz_world @ rotation.T)


def held_sideways(model: Reconstruction, frames: list[int]) -> Reconstruction:
    """The same model with some cameras turned by 90 degrees about their axis, as EXIF-rotated files have them."""
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    poses = model.cameras.cam_from_world.clone()
    poses[0, frames] = quarter @ poses[0, frames]
    return dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, cam_from_world=poses))


def heights(picture: np.ndarray) -> tuple[float, float]:
    """Mean rows of red and of green pixels in the panel seen from the front."""
    front = picture[:, picture.shape[1] // 2 :].astype(int)
    red = (front[..., 0] > 180) & (front[..., 1] < 60)
    green = (front[..., 1] > 180) & (front[..., 0] < 60)
    assert red.sum() > 50 and green.sum() > 50
    return float(np.nonzero(red)[0].mean()), float(np.nonzero(green)[0].mean())


@pytest.mark.parametrize("sideways", [[], [0, 2]])
def test_up_is_up_in_any_world(sideways: list[int]) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn)
    model = held_sideways(coloured_by_height(), sideways)
    red, green = heights(draw_overview(moved(model, turn), CONFIG))
    assert red < green - 5


def test_picture_shows_points_and_cameras_and_survives_outliers(tmp_path: Path) -> None:
    model = coloured_by_height()
    xyz = model.xyz_world.clone()
    xyz[:5] *= 1e4
    picture = draw_overview(dataclasses.replace(model, xyz_world=xyz), CONFIG)
    assert picture.shape == (200, 482, 3) and picture.dtype == np.uint8
    clean = draw_overview(model, CONFIG)
    background = np.abs(clean.astype(int) - CONFIG.background).max(-1) < 12
    assert 0.2 < background.mean() < 0.95
    assert np.abs(picture.astype(int) - clean.astype(int)).mean() < 12  # the scene has not shrunk to a dot
    orange = (clean[..., 0] > 200) & (np.abs(clean[..., 1].astype(int) - 150) < 30) & (clean[..., 2] < 90)
    assert orange[:, :240].sum() > 30 and orange[:, 242:].sum() > 30
    save_overview(model, tmp_path / "overview.png", CONFIG)
    read = cv2.imread(str(tmp_path / "overview.png"))
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), clean)


def test_a_model_without_points_still_shows_its_cameras() -> None:
    model = example_model(frames=2, points=5)
    empty = dataclasses.replace(
        model,
        xyz_world=model.xyz_world[:0],
        color=model.color[:0],
        error_px=model.error_px[:0],
        frame=model.frame[:0],
        point=model.point[:0],
        xy=model.xy[:0],
    )
    assert draw_overview(empty, CONFIG).max() > 200
