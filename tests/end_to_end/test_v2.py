"""The whole path of VGGSfM v2: with weights that know nothing, and with an oracle in place of the networks."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner
from v2_recipe import SHALLOW, recipe, with_recipe_weights
from worlds import World, WorldConfig, blank_images, make_world, observe

from goldens import golden, needs_full_set
from support.noise import NoiseConfig, add_noise
from vggsfm_cli.checkpoints import convert as conversion
from vggsfm_cli.checkpoints.convert import PublishedLayout
from vggsfm_cli.checkpoints.files import save_model
from vggsfm_cli.checkpoints.resolve import load_model
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import UsageError
from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.pipeline import reconstruct
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictor
from vggsfm_cli.recipes.v2.weights import V2, our_key, published_keys, published_shapes
from vggsfm_cli.result import RunSettings
from vggsfm_cli.scene import Cameras, ImageSet, Queries, Tracks
from vggsfm_cli.tracking.interface import PointTracker


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for s, pixels in enumerate(golden("inputs")["images_u8"]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{s}.png")
    return folder


def run(photographs: Path, model: Path, *options: str) -> Any:
    arguments = ["reconstruct", str(photographs), "--out", str(model / "sparse"), "--model", str(model)]
    return CliRunner().invoke(app, [*arguments, "--queries", "sift", *options])


def fails_honestly(result: Any, model: Path) -> None:
    assert result.exit_code == 4, result.output
    assert any(
        result.stderr.split("error: ")[1].startswith(s)
        for s in ("Tracking", "Camera", "Triangulation", "Refinement", "Mapping")
    )
    assert any(character.isdigit() for character in result.stderr.split("error: ")[1])
    assert "hint: " in result.stderr
    assert not (model / "sparse").exists()


def test_a_published_file_is_converted_loaded_and_run(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {name: recipe(name) for name in published_shapes(SHALLOW)}
    layout = PublishedLayout(expected=published_shapes(SHALLOW), rename=published_keys(SHALLOW), config=SHALLOW)
    monkeypatch.setattr(conversion, "LAYOUTS", {"v2": lambda: layout})
    file, folder = tmp_path / "published.bin", tmp_path / "model"
    torch.save(published, file)
    converted = CliRunner().invoke(app, ["weights", "convert", str(file), "--out", str(folder)])
    assert converted.exit_code == 0, converted.output
    loaded = load_model(str(folder)).state_dict()
    assert len(loaded) == len(published)
    for name, value in published.items():
        assert torch.equal(loaded[our_key(name)], value), name
    small = ("--long-side", "128", "--query-points", "64")
    refused = run(photographs, folder, *small, "--max-memory", "0.5")  # enough to decode the photographs
    assert refused.exit_code == 7
    assert "4 images with 64 tracks a frame need about" in refused.stderr and "--max-memory" in refused.stderr
    result = run(photographs, folder, *small, "--max-memory", "8")
    assert "GB of 8.0 GB (--max-memory): 2048 observations at once" in result.stderr
    fails_honestly(result, folder)  # weights that know nothing


@needs_full_set
def test_the_full_model_with_recipe_weights_ends_in_a_clear_failure(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(with_recipe_weights(V2), folder)
    fails_honestly(run(photographs, folder, "--long-side", "256", "--query-points", "128"), folder)


class Oracle(PointTracker):
    """Follows true points of the query frame, with noise and gross errors, whatever the queries are."""

    def __init__(self, world: World) -> None:
        super().__init__()
        noise = NoiseConfig(sigma_px=0.5, outliers=0.1, missing=0.1)
        self.exact, self.noisy = observe(world), add_noise(observe(world), world.sizes, noise, 0)

    def encode(self, images: ImageSet) -> None:
        return None

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        home = int(queries.frame[0, 0])
        points = self.exact.visible()[0, home].nonzero().flatten()[: queries.xy.shape[1]]
        visibility = self.noisy.visibility[:, :, points].clone()
        visibility[:, home] = 1
        xy = self.noisy.xy[:, :, points].clone()
        xy[:, home] = self.exact.xy[:, home, points]
        return Tracks(
            xy=xy.float(),
            visibility=visibility.float(),
            covariance=self.noisy.covariance[:, :, points].float(),
            query_frame=torch.full((1, len(points)), home),
            valid=torch.ones(1, len(points), dtype=torch.bool),
        )


class Glance(V2CameraPredictor):
    """Sees the true cameras a few degrees off, relative to the first frame and in a scale of its own."""

    def __init__(self, world: World) -> None:
        super().__init__(SHALLOW.camera_estimator)  # type: ignore[arg-type]
        self.world, self.asked = world, []

    def predict(self, images: ImageSet, tokens: Tensor, references: list[int]) -> Cameras:
        self.asked = references
        poses = self.world.cameras.cam_from_world[0]
        generator = torch.Generator().manual_seed(0)
        turn = rotation.exp(0.04 * torch.randn(len(poses), 3, generator=generator).double())
        turn[0] = torch.eye(3).double()
        moved = pose.compose(poses, pose.inverse(poses[:1]))
        moved = torch.cat([turn @ moved[:, :, :3], 0.3 * (turn @ moved[:, :, 3:])], -1)
        params = images.priors.params.clone()
        return Cameras(
            cam_from_world=moved[None].float(),
            models=images.priors.models,
            params=params,
            camera_index=images.priors.camera_index,
            registered=images.frame_valid,
        )


def oracle(world: World) -> tuple[ImageSet, VGGSfM]:
    """Pictures without content at an eighth of the files' size, and the model."""
    images = blank_images(world, scale=8.0)
    frames = images.frame_valid.shape[1]
    images = dataclasses.replace(
        images,
        pixels=torch.rand(1, frames, 3, 96, 128, generator=torch.Generator().manual_seed(0)),
        mask=torch.ones(1, frames, 96, 128, dtype=torch.bool),
    )
    with torch.device("meta"):
        model = SHALLOW.build()
    model.tracker, model.camera_estimator = Oracle(world), Glance(world)
    return images, model.eval()


OPTIONS = ReconstructOptions(queries="grid", query_points=700)


def test_an_oracle_in_place_of_the_networks_gives_the_world() -> None:
    world = make_world(WorldConfig(points=1600, frames=6), 0)
    images, model = oracle(world)
    found = reconstruct(images, model, OPTIONS)
    assert len(found) == 1
    assert len(found[0].names) == 6
    everywhere = torch.ones(6, dtype=torch.bool)
    errors = pair_errors(found[0].cameras.cam_from_world[0], world.cameras.cam_from_world[0], everywhere).worse_deg
    assert errors.max() < 0.2
    assert found.settings == RunSettings(recipe="v2", preset="v2", queries="grid")
    memory = found.memory
    assert memory is not None and memory.limit_gb is not None
    assert memory.limit == "free memory" and 0 < memory.planned_gb < memory.limit_gb
    assert memory.out_of_memory == 0
    assert found.unregistered == {}
    assert len(model.camera_estimator.asked) == 3  # type: ignore[arg-type]
    # positions in the files, at eight times the pictures' size
    assert found[0].xy.max() > 900
    focal = found[0].cameras.params[0, 0, 0]
    assert float(focal) == pytest.approx(float(world.cameras.params[0, 0, 0]), rel=0.01)


def test_the_same_tracks_can_be_mapped_as_those_of_small() -> None:
    world = make_world(WorldConfig(points=700, frames=4), 1)
    images, model = oracle(world)
    found = reconstruct(images, model, dataclasses.replace(OPTIONS, preset="small", query_points=300))
    assert len(found[0].names) == 4
    everywhere = torch.ones(4, dtype=torch.bool)
    errors = pair_errors(found[0].cameras.cam_from_world[0], world.cameras.cam_from_world[0], everywhere).worse_deg
    assert errors.median() < 0.3
    assert found.settings == RunSettings(recipe="v2", preset="small", queries="grid")


def test_a_principal_point_is_not_freed_by_force() -> None:
    images, model = oracle(make_world(WorldConfig(points=600, frames=4), 0))
    with pytest.raises(UsageError, match="principal"):
        reconstruct(images, model, dataclasses.replace(OPTIONS, refine_principal_point="yes"))
