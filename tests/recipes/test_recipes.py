"""Recipes are types: a model's config names one, and only its own files know what is particular to it."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from worlds import WorldConfig, blank_images, make_world

import vggsfm_cli
from vggsfm_cli import pipeline
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.checkpoints.files import config_from_json, config_to_json, read_folder, save_model
from vggsfm_cli.errors import UsageError, WeightsUnavailable
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.options import Preset, ReconstructOptions
from vggsfm_cli.recipes import RECIPES, choose_recipes, recipe_named, small, v2
from vggsfm_cli.recipes.v2.weights import V2

SOURCE = Path(vggsfm_cli.__file__).parent


@pytest.mark.parametrize(
    ("recipe", "preset", "expected"),
    [
        ("small", "auto", ("small", "small", "small")),
        ("small", "fast", ("fast", "fast", "fast")),
        ("small", "v2", ("small", "v2", "v2")),
        ("v2", "auto", ("v2", "v2", "v2")),
        ("v2", "small", ("v2", "small", "small")),
        ("v2", "fast", ("v2", "fast", "fast")),
    ],
)
def test_the_model_makes_the_tracks_and_the_preset_maps_them(
    recipe: str, preset: Preset, expected: tuple[Preset, Preset, Preset]
) -> None:
    rows = {**small.PRESETS, **v2.PRESETS}
    tracking, mapping, meant = expected
    assert choose_recipes(recipe, preset) == (rows[tracking], rows[mapping], meant)


def test_every_recipe_is_found_by_its_name() -> None:
    assert [recipe_named(name).name for name in RECIPES] == list(RECIPES)
    assert load_model("small").config.recipe == "small" and V2.recipe == "v2"
    with pytest.raises(WeightsUnavailable, match="no recipe 'v9'"):
        choose_recipes("v9", "auto")


def test_only_the_recipe_of_v2_knows_v2() -> None:
    """What is particular to v2 could be lifted out with its folder; the names of the model and the preset stay."""
    outside = [path for path in SOURCE.rglob("*.py") if "v2" not in path.relative_to(SOURCE).parts]
    for path in outside:
        assert not re.search(r"\bV2[A-Z]\w+", path.read_text()), path
    doors = {path.relative_to(SOURCE).as_posix() for path in outside if "recipes.v2" in path.read_text()}
    assert doors == {"checkpoints/convert.py"}
    assert "Experimental: never run with the published file." in (v2.__doc__ or "") and recipe_named("v2").note


def test_no_option_has_a_twin_for_another_recipe() -> None:
    classes = (ReconstructOptions, small.SmallRecipe, v2.V2Recipe)
    assert not [field.name for one in classes for field in dataclasses.fields(one) if "v2" in field.name]


def test_the_pipeline_is_a_page() -> None:
    assert len(inspect.getsource(pipeline).splitlines()) <= 90


@pytest.mark.parametrize("config", [VGGSfMConfig(), V2])
def test_a_config_names_its_recipe_in_the_file(config: VGGSfMConfig) -> None:
    data = config_to_json(config)
    assert data["recipe"] == config.recipe
    assert config_from_json(json.loads(json.dumps(data))) == config


def test_stages_of_another_recipe_are_refused_with_the_file(tmp_path: Path) -> None:
    save_model(VGGSfMConfig().build(), tmp_path)
    file = tmp_path / "config.json"
    data = json.loads(file.read_text())
    assert read_folder(tmp_path).config == VGGSfMConfig()
    file.write_text(json.dumps({**data, "recipe": "v2"}))
    with pytest.raises(WeightsUnavailable, match="the recipe 'v2', which has no CoarseToFineTrackerConfig"):
        read_folder(tmp_path)
    file.write_text(json.dumps({**data, "recipe": "v9"}))
    with pytest.raises(WeightsUnavailable, match="no recipe 'v9'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        (VGGSfMConfig(), ReconstructOptions(queries="sift"), "finds key points itself"),
        (V2, ReconstructOptions(extra_points=10), "Extra points"),
        (V2, ReconstructOptions(refine_principal_point="yes"), "principal points"),
        (VGGSfMConfig(), ReconstructOptions(preset="v2", refine_principal_point="yes"), "principal points"),
    ],
)
def test_what_a_recipe_cannot_follow_is_refused_before_any_work(
    config: VGGSfMConfig, options: ReconstructOptions, said: str
) -> None:
    with torch.device("meta"):
        model = config.build()
    with pytest.raises(UsageError, match=said):
        pipeline.reconstruct(blank_images(make_world(WorldConfig(points=20, frames=3), 0)), model, options)
