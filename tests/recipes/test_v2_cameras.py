"""The camera predictor of VGGSfM v2 against its published numbers, weights made by recipe."""

import dataclasses

import pytest
import torch
from torch import Tensor
from v2_recipe import SHAPES, recipe
from worlds import WorldConfig, blank_images, make_world, observe

from goldens import golden, needs_full_set
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.nn.dinov2 import DINOv2Config
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictor, V2CameraPredictorConfig, with_focal
from vggsfm_cli.recipes.v2.weights import camera_key
from vggsfm_cli.scene import Cameras, ImageSet, Tracks

FIXTURE = golden("camera_predictor")


def predictor(config: V2CameraPredictorConfig) -> V2CameraPredictor:
    """With recipe weights, on the meta device until they are there."""
    with torch.device("meta"):
        model = config.build()
    ours = set(model.state_dict())
    names = {name: camera_key(name).removeprefix("camera_estimator.") for name in SHAPES if "camera_predictor" in name}
    state = {name: recipe(published) for published, name in names.items() if name in ours}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


SMALL = V2CameraPredictorConfig(backbone=DINOv2Config(blocks=1), image_blocks=1, side_px=56)


@pytest.fixture(scope="module")
def head() -> V2CameraPredictor:
    return predictor(SMALL)


def test_each_iteration_as_published(head: V2CameraPredictor) -> None:
    """From the recorded inputs: the embedding makes noise of the last bits, so that errors do not stay small."""
    start = FIXTURE["rgb_feat_init"]
    for step in range(4):
        found = head.step(start, FIXTURE["step_feat_in"][None, step], FIXTURE["step_pose_in"][None, step])
        torch.testing.assert_close(found.trunk[0], FIXTURE["step_trunk_out"][step], atol=3e-5, rtol=0)
        torch.testing.assert_close(found.update[0], FIXTURE["step_delta"][step], atol=3e-6, rtol=0)
        torch.testing.assert_close(found.features[0], FIXTURE["step_feat_out"][step], atol=3e-5, rtol=0)
        torch.testing.assert_close(found.encodings[0], FIXTURE["step_pose_out"][step], atol=3e-6, rtol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_each_iteration_as_published_on_cuda() -> None:
    """With ten times the tolerance, as other kernels add in another order."""
    on_cuda = predictor(SMALL).to("cuda")
    known = {name: value.to("cuda") for name, value in FIXTURE.items()}
    for step in range(4):
        found = on_cuda.step(
            known["rgb_feat_init"], known["step_feat_in"][None, step], known["step_pose_in"][None, step]
        )
        for here, there, atol in (
            (found.trunk, "trunk_out", 3e-4),
            (found.update, "delta", 3e-5),
            (found.features, "feat_out", 3e-4),
            (found.encodings, "pose_out", 3e-5),
        ):
            torch.testing.assert_close(here[0], known[f"step_{there}"][step], atol=atol, rtol=0)


def test_iterations_follow_one_another(head: V2CameraPredictor) -> None:
    steps = head.iterate(FIXTURE["rgb_feat_init"])
    assert len(steps) == 4
    torch.testing.assert_close(steps[0].encodings[0], FIXTURE["step_pose_out"][0], atol=3e-6, rtol=0)
    again = head.step(FIXTURE["rgb_feat_init"], steps[0].features, steps[0].encodings)
    assert torch.equal(again.encodings, steps[1].encodings)


@needs_full_set
def test_images_to_pose_tokens_as_published() -> None:
    model = predictor(V2CameraPredictorConfig())
    pixels = golden("inputs")["images_u8"].float()[None] / 255
    tokens = model.look(images_of(pixels))
    tokens_of_pose = model.pose_tokens(tokens[0])
    torch.testing.assert_close(tokens_of_pose, FIXTURE["rgb_feat_init"], atol=3e-5, rtol=0)
    first = dataclasses.replace(model.config, iterations=1)
    model.config = first
    found = model.predict(images_of(pixels), tokens, [0])
    torch.testing.assert_close(found.cam_from_world[0, :, :, :3], FIXTURE["iters1_R"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.cam_from_world[0, :, :, 3], FIXTURE["iters1_T"], atol=1e-5, rtol=0)
    expected = (FIXTURE["iters1_focal"][:, 0] * 128).clamp(0.2 * 256, 5 * 256)
    torch.testing.assert_close(found.params[0, :, 0].float(), expected, atol=1e-3, rtol=0)


def images_of(pixels: Tensor) -> ImageSet:
    """Squares whose stored pixels are the network's, with a camera each."""
    frames, side = pixels.shape[1], pixels.shape[-1]
    world = make_world(WorldConfig(frames=frames, width=side, height=side, focals=(1.0,) * frames), 0)
    images = blank_images(world)
    return dataclasses.replace(images, pixels=pixels, mask=torch.ones(1, frames, side, side, dtype=torch.bool))


def noise(frames: int, side: int = 56) -> Tensor:
    return torch.rand(1, frames, 3, side, side, generator=torch.Generator().manual_seed(0))


def run(model: V2CameraPredictor, images: ImageSet, references: list[int]) -> Cameras:
    return model.predict(images, model.look(images), references)


def test_the_contract(head: V2CameraPredictor) -> None:
    images = images_of(noise(3))
    world = make_world(WorldConfig(frames=3, points=10), 0)
    tracks: Tracks = observe(world)
    found = head(images, tracks)
    assert isinstance(found, Cameras)
    assert bool(found.registered.all())
    assert bool(found.cam_from_world.isfinite().all())
    torch.testing.assert_close(found.cam_from_world[0, 0], pose.identity(), atol=1e-6, rtol=0)
    turned = found.cam_from_world[..., :3]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)


def test_padding_frames_change_nothing(head: V2CameraPredictor) -> None:
    three, four = images_of(noise(3)), images_of(torch.cat([noise(3), torch.zeros(1, 1, 3, 56, 56)], 1))
    four = dataclasses.replace(four, frame_valid=torch.tensor([[True, True, True, False]]))
    expected, found = run(head, three, [1]), run(head, four, [1, 3])
    torch.testing.assert_close(found.cam_from_world[:, :3], expected.cam_from_world, atol=1e-5, rtol=0)
    assert found.registered.tolist() == [[True, True, True, False]]


def test_average_of_references_lies_between_them(head: V2CameraPredictor) -> None:
    head.config = dataclasses.replace(head.config, iterations=1)
    images = images_of(noise(3))
    singles = [run(head, images, [reference]) for reference in (0, 2)]
    both = run(head, images, [0, 2])
    translation = torch.stack([single.cam_from_world[..., 3] for single in singles]).mean(0)
    torch.testing.assert_close(both.cam_from_world[..., 3], translation, atol=1e-5, rtol=0)
    turns = [
        rotation.angle_deg(both.cam_from_world[0, 1, :, :3] @ one.cam_from_world[0, 1, :, :3].mT) for one in singles
    ]
    apart = rotation.angle_deg(singles[0].cam_from_world[0, 1, :, :3] @ singles[1].cam_from_world[0, 1, :, :3].mT)
    assert turns[0] == pytest.approx(float(apart) / 2, rel=0.05, abs=1e-3)
    head.config = SMALL


def test_focal_lengths_are_shared_scaled_and_known() -> None:
    world = make_world(WorldConfig(frames=4, focals=(0.9, 1.2)), 0)
    images = blank_images(world, scale=2.0)
    poses = pose.identity(1, 4)
    found = with_focal(images, poses, torch.tensor([[500.0, 700.0, 600.0, 900.0]]))
    assert found.params[0, :, 0].tolist() == [1100.0, 1600.0]
    known = images.priors.known.clone()
    known[0, 1, 0] = True
    exact = dataclasses.replace(images, priors=dataclasses.replace(images.priors, known=known))
    found = with_focal(exact, poses, torch.tensor([[500.0, 700.0, 600.0, 900.0]]))
    assert float(found.params[0, 1, 0]) == float(images.priors.params[0, 1, 0])
