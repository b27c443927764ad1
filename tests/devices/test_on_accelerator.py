"""Everything that computes, on a pretended accelerator: nothing mixes devices, and results are those of the CPU.

The pretended device computes on the CPU, so results agree to the last bit where every step ran on the same device in
the same precision. Without double precision, what needs it runs on the CPU.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from v2_recipe import SHALLOW, with_recipe_weights
from worlds import WorldConfig, make_world, observe

from goldens import golden
from support.noise import NoiseConfig, add_noise
from support.pretended import AVAILABLE, pretended_device
from v2_scenes import image_set
from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.problem import build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.devices import has_float64, with_float64
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.evaluation.rendered import RenderedConfig
from vggsfm_cli.evaluation.tracks import TracksConfig, evaluate_trackers
from vggsfm_cli.io.images import read_images
from vggsfm_cli.io.intrinsics import KnownCamera
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.io.synthetic import write_scenes
from vggsfm_cli.mapping.candidates import CandidateConfig
from vggsfm_cli.mapping.mapper import MappingOptions
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.pipeline import reconstruct
from vggsfm_cli.recipes import SmallRecipe, recipe_named
from vggsfm_cli.scene import ImageSet, Reconstruction
from vggsfm_cli.sequence import SequenceOptions, reconstruct_sequence
from vggsfm_cli.sequence.options import KeyframeConfig, LoopConfig, WindowConfig
from vggsfm_cli.synthetic.render import render
from vggsfm_cli.synthetic.scenes import SceneConfig, of_film
from vggsfm_cli.synthetic.textures import procedural_textures
from vggsfm_cli.training.data import PoolConfig
from vggsfm_cli.training.task import Task
from vggsfm_cli.training.tasks import tracks
from vggsfm_cli.training.tasks.cameras import CamerasTaskConfig
from vggsfm_cli.training.tasks.encoder import EncoderTaskConfig
from vggsfm_cli.training.tasks.joint import JointTaskConfig
from vggsfm_cli.training.tasks.points import PointsTaskConfig
from vggsfm_cli.training.tasks.tracks import TracksTaskConfig
from vggsfm_cli.training.tracked import TrackedPoolConfig

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this torch has no backends in Python")

PHOTOGRAPHS = Path(__file__).parents[2] / "examples" / "reading_corner" / "images"
LONG_SIDE = 224
FEW = 80
"""Tracks a frame."""

SCENE = SceneConfig(frames=4, height=96, width=128, max_angle_deg=(8.0, 20.0), shadows=False)
EXAMPLES = PoolConfig(scene=SCENE, scenes_per_example=1, examples=1, queries_per_frame=24, texture_side=96, textures=16)
TRACKED = TrackedPoolConfig(
    scene=SCENE, scenes=1, queries_per_frame=24, textures=PoolConfig(texture_side=96, textures=16)
)
TASKS: dict[str, Callable[[str], object]] = {
    "encoder": lambda folder: EncoderTaskConfig(pool=EXAMPLES, pool_folder=folder, validation_examples=1),
    "tracks": lambda folder: TracksTaskConfig(pool=EXAMPLES, pool_folder=folder, groups=1, validation_examples=1),
    "cameras": lambda folder: CamerasTaskConfig(
        pool=TRACKED, pool_folder=folder, sizes=(3,), scenes=1, validation_scenes=1
    ),
    "points": lambda folder: PointsTaskConfig(
        pool=TRACKED, pool_folder=folder, sizes=(4,), scenes=1, validation_scenes=1
    ),
    "joint": lambda folder: JointTaskConfig(
        pool=TRACKED, pool_folder=folder, sizes=(4,), variants=(0,), scenes=1, validation_scenes=1
    ),
}


@pytest.fixture(params=[True, False], ids=["float64", "no float64"])
def accelerator(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with pretended_device(float64=request.param) as device:
        yield device


@pytest.fixture
def strict_accelerator() -> Iterator[torch.device]:
    """One that refuses double precision too."""
    with pretended_device(float64=False) as device:
        yield device


@pytest.fixture
def exact_accelerator() -> Iterator[torch.device]:
    """One that can compute in double precision, attention by one routine: results are equal to the bit."""
    with pretended_device() as device, sdpa_kernel(SDPBackend.MATH):
        yield device


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Three views, and masks that hide the upper rows."""
    files = sorted(PHOTOGRAPHS.iterdir())[3:6]
    masks = tmp_path_factory.mktemp("masks")
    for file in files:
        with Image.open(file) as picture:
            mask = Image.new("L", picture.size, 255)
        mask.paste(0, (0, 0, mask.width, mask.height // 10))
        mask.save(masks / f"{file.name}.png")
    return files, masks


def options(extra_points: int = 30) -> ReconstructOptions:
    return ReconstructOptions(query_points=FEW, extra_points=extra_points)


QUICK = SmallRecipe(mapping=MappingOptions(candidates=CandidateConfig(max_candidates=2)))


def known(files: list[Path]) -> tuple[KnownCamera, ...]:
    with Image.open(files[0]) as picture:
        width, height = picture.size
    return (KnownCamera(model="PINHOLE", params=(1.1 * width, 1.1 * width, width / 2, height / 2)),)


def bytes_of(models: list[Reconstruction], folder: Path) -> list[bytes]:
    write_colmap(models, folder)
    return [(folder / "0" / name).read_bytes() for name in ("cameras.bin", "images.bin", "points3D.bin")]


def inputs(photographs: tuple[list[Path], Path], kind: str) -> ImageSet:
    files, masks = photographs
    if kind == "plain":
        return read_images(files, long_side=LONG_SIDE)
    return read_images(files, long_side=LONG_SIDE, masks=masks, intrinsics=known(files), camera_model="PINHOLE")


@pytest.mark.parametrize("kind", ["plain", "masks and intrinsics"])
def test_a_reconstruction_is_that_of_the_cpu(photographs, exact_accelerator, kind, tmp_path) -> None:
    images, model = inputs(photographs, kind), load_model()
    settings = options(extra_points=30 if kind == "plain" else 0)
    expected = reconstruct(images, model, settings, recipe=QUICK)
    model = model.to(exact_accelerator)
    found = reconstruct(images.to(exact_accelerator), model, settings, recipe=QUICK)
    assert kind != "plain" or found[0].report["extra_points"]["found"] > 0
    assert bytes_of(list(found), tmp_path / "found") == bytes_of(list(expected), tmp_path / "expected")
    assert {value.device for value in model.state_dict().values()} == {exact_accelerator}, "the model stays"


def test_a_reconstruction_without_double_precision(photographs) -> None:
    images, model = inputs(photographs, "masks and intrinsics"), load_model()
    with pretended_device(float64=False) as device:
        found = reconstruct(images.to(device), model.to(device), options(), recipe=QUICK)[0]
    assert int(found.cameras.registered.sum()) == 3 and found.report["extra_points"]["found"] > 0


def test_a_sequence_of_windows(strict_accelerator: torch.device, tmp_path: Path) -> None:
    textures = procedural_textures(12, 128, torch.Generator().manual_seed(0))
    walk = render(of_film(SceneConfig(frames=12, height=120, width=160)), textures, 1, torch.Generator().manual_seed(0))
    out = write_scenes([(walk.images, walk.cameras, None)], tmp_path / "scenes")
    settings = SequenceOptions(
        keyframes=KeyframeConfig(points=96),
        windows=WindowConfig(size=4, overlap=2, joint_every=2),
        loops=LoopConfig(min_gap=5, max_checks=4),
    )
    settings = dataclasses.replace(
        settings, mapping=dataclasses.replace(settings.mapping, candidates=CandidateConfig(max_candidates=1))
    )
    images = PhotographSequence(sorted((out / "scene_000" / "images").iterdir()), long_side=160)
    found = reconstruct_sequence(images, load_model().to(strict_accelerator), settings)
    assert len(found[0].report["windows"]) > 1
    assert len(found[0].names) == 12


def test_v2_with_recipe_weights_sees_what_it_sees_on_the_cpu(exact_accelerator: torch.device) -> None:
    pixels = golden("inputs")["images_u8"][None, :3].float() / 255
    images, model = image_set(pixels), with_recipe_weights(SHALLOW)
    settings = ReconstructOptions(queries="sift", query_points=32, long_side=128)
    recipe = recipe_named(model.config.recipe)
    expected = recipe.sight(images, model, settings)
    model = model.to(exact_accelerator)
    found = recipe.sight(images.to(exact_accelerator), model, settings)
    assert expected.cameras is not None and found.cameras is not None
    torch.testing.assert_close(found.cameras.to("cpu").cam_from_world, expected.cameras.cam_from_world)
    torch.testing.assert_close(found.tracks.xy.cpu(), expected.tracks.xy, atol=0.01, rtol=0)
    with contextlib.suppress(ReconstructionFailed):  # weights that know nothing
        reconstruct(images.to(exact_accelerator), model, settings)


STEPS = [
    ("encoder", True), ("encoder", False), ("tracks", False), ("cameras", True), ("points", True), ("points", False),
    ("joint", True),
]  # fmt: skip
"""Trainings, and whether the device has float64; without it cameras, points and the joint one run on the CPU alike."""


@pytest.fixture
def device_of_step(float64: bool) -> Iterator[torch.device]:
    with pretended_device(float64=float64) as device:
        yield device


def test_every_training_has_a_step() -> None:
    assert {name for name, _ in STEPS} == set(TASKS)


@pytest.mark.parametrize(("name", "float64"), STEPS)
def test_a_step_of_every_training(
    name: str, device_of_step: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VGGSFM_TEXTURES", raising=False)
    monkeypatch.setattr(tracks, "CALIBRATION_EXAMPLES", 1)
    torch.manual_seed(0)
    task: Task = TASKS[name](str(tmp_path)).build(0, device_of_step)  # type: ignore[attr-defined]
    loss = torch.stack([term.float() for term in task.losses(task.batch(0)).values()]).sum()
    loss.backward()
    gradients = [p.grad for p in task.module.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(float(gradient.abs().sum()) > 0 for gradient in gradients)
    assert all(isinstance(value, int | float) for value in task.validate().values())
    task.export(tmp_path)


@pytest.mark.parametrize("config", [SchurConfig(), TheseusConfig(), CeresConfig()], ids=["schur", "theseus", "ceres"])
def test_adjusters_give_back_what_they_are_given_where_it_lies(config: AdjusterConfig, accelerator) -> None:
    world = make_world(WorldConfig(frames=5, points=60), 0)
    seen = add_noise(observe(world), world.sizes, NoiseConfig(sigma_px=0.3, outliers=0.0, missing=0.1), 0)

    def solve(device: torch.device) -> dict[str, Tensor]:
        there = world.to(device)
        on_device = seen.to(device)
        solution = config.build()(build_problem(there.cameras, there.points, on_device, on_device.visible()))
        assert solution.cameras.cam_from_world.device == solution.points.xyz_world.device == with_float64(device)
        return {"cam_from_world": solution.cameras.cam_from_world.cpu(), "params": solution.cameras.params.cpu()}

    expected, found = solve(torch.device("cpu")), solve(accelerator)
    tolerance = 0.0 if has_float64(accelerator) else 1e-5  # what lay there in single precision was rounded
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)


def test_tracks_are_evaluated(accelerator: torch.device) -> None:
    textures = procedural_textures(12, 96, torch.Generator().manual_seed(0))
    config = TracksConfig(
        rendered=RenderedConfig(scene=dataclasses.replace(SCENE, frames=3), scenes=1, query_frames=1, queries=60)
    )

    def measure(device: torch.device) -> dict[str, object]:
        found = evaluate_trackers({"small": load_model("small", device).tracker}, config, textures=textures)
        assert found["failures"] == []
        return {name: value for name, value in found["models"]["small"]["rendered"].items() if name != "seconds"}

    assert measure(accelerator) == measure(torch.device("cpu"))
