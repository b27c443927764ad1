"""The promises that every stage after the tracker keeps, whatever stands behind its interface.

The tracker's own are in ``tracking/test_tracker.py``: they need pictures.
"""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from worlds import World, WorldConfig, blank_images, make_world, observe

from support.noise import NoiseConfig, add_noise
from support.pretended import AVAILABLE, pretended_device
from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.problem import build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformerConfig
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.scene import Cameras, Points, TensorRecord, Tracks
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformerConfig

Run = Callable[[World, Tracks], TensorRecord]
DEVICES = [
    "cpu",
    pytest.param("pretended", marks=pytest.mark.skipif(not AVAILABLE, reason="this torch has no backends in Python")),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
        ],
    ),
]


def estimate(world: World, tracks: Tracks) -> Cameras:
    return PreliminaryCamerasConfig().build()(blank_images(world).to(tracks.xy.device), tracks)


def triangulate(world: World, tracks: Tracks) -> Points:
    return RansacTriangulatorConfig().build()(world.cameras, tracks)


def learned_cameras(world: World, tracks: Tracks) -> Cameras:
    torch.manual_seed(0)
    stage = CameraTransformerConfig(rounds=2).build().to(tracks.xy.device)
    with torch.no_grad():
        return stage(blank_images(world).to(tracks.xy.device), tracks)


def learned_points(world: World, tracks: Tracks) -> Points:
    torch.manual_seed(0)
    stage = TriangulationTransformerConfig().build().to(tracks.xy.device)
    torch.nn.init.normal_(stage.head.weight, std=0.1)
    with torch.no_grad():
        return stage(world.cameras, tracks)


def adjust_by(config: AdjusterConfig) -> Run:
    def adjust(world: World, tracks: Tracks) -> Cameras:
        problem = build_problem(world.cameras, world.points, tracks, tracks.visible())
        return config.build()(problem).cameras

    return adjust


STAGES = {
    "camera estimator": estimate,
    "camera transformer": learned_cameras,
    "triangulator": triangulate,
    "triangulation transformer": learned_points,
    "schur": adjust_by(SchurConfig()),
    "theseus": adjust_by(TheseusConfig()),
    "ceres": adjust_by(CeresConfig()),
}


def tensors(record: TensorRecord) -> dict[str, Tensor]:
    values = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def world_of(seed: int) -> tuple[World, Tracks]:
    world = make_world(WorldConfig(frames=6, points=300), seed)
    noise = NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.2)
    return world, add_noise(observe(world), world.sizes, noise, seed)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
class TestStageContract:
    @pytest.mark.parametrize("device", DEVICES)
    def test_device_agrees_with_cpu(self, stage: Run, device: str) -> None:
        world, tracks = world_of(0)
        expected = tensors(stage(world, tracks))
        with pretended_device() if device == "pretended" else nullcontext():
            found = tensors(stage(world.to(device), tracks.to(device)))
        for name, value in found.items():
            assert value.device.type == device, name
            # its scale is a median, which jumps from one point to the next
            atol = 0.02 if stage is learned_cameras and name == "cam_from_world" else 1e-6
            torch.testing.assert_close(value.cpu(), expected[name], atol=atol, rtol=1e-6)

    def test_order_of_tracks_does_not_matter(self, stage: Run) -> None:
        world, tracks = world_of(1)
        order = torch.randperm(tracks.xy.shape[2], generator=torch.Generator().manual_seed(0))
        shuffled = dataclasses.replace(
            tracks,
            xy=tracks.xy[:, :, order],
            visibility=tracks.visibility[:, :, order],
            covariance=tracks.covariance[:, :, order],
            query_frame=tracks.query_frame[:, order],
            valid=tracks.valid[:, order],
        )
        points = dataclasses.replace(
            world.points, xyz_world=world.points.xyz_world[:, order], valid=world.points.valid[:, order]
        )
        plain = tensors(stage(world, tracks))
        moved = tensors(stage(dataclasses.replace(world, points=points), shuffled))
        for name, unordered in plain.items():
            value = unordered[:, order] if name in ("xyz_world", "valid") else unordered
            if stage in (estimate, learned_cameras) and name == "cam_from_world":
                # RANSAC draws by position: another order gives an equally good, not an equal pose
                torch.testing.assert_close(moved[name], value, atol=0.05, rtol=0)
            elif stage in (estimate, learned_cameras) and value.is_floating_point():
                torch.testing.assert_close(moved[name], value, atol=1e-6, rtol=0.05)
            else:
                torch.testing.assert_close(moved[name], value, atol=1e-6, rtol=1e-6)

    def test_invisible_and_invalid_tracks_do_no_harm(self, stage: Run) -> None:
        world, tracks = world_of(2)
        hidden = tracks.visibility.clone()
        hidden[:, :, :20] = 0
        garbage = tracks.xy.clone()
        garbage[:, :, :20] = 1e6
        for values in tensors(stage(world, dataclasses.replace(tracks, xy=garbage, visibility=hidden))).values():
            if values.is_floating_point():
                assert torch.isfinite(values).all()

    def test_input_is_left_alone(self, stage: Run) -> None:
        world, tracks = world_of(3)
        before = {name: value.clone() for name, value in tensors(tracks).items()}
        poses = world.cameras.cam_from_world.clone()
        stage(world, tracks)
        for name, value in tensors(tracks).items():
            assert torch.equal(value, before[name]), name
        assert torch.equal(world.cameras.cam_from_world, poses)
