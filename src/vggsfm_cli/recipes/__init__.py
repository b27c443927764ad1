"""Recipes by name. What is particular to one of them is known in its own file or folder, and nowhere else."""

from collections.abc import Mapping
from typing import Any

from vggsfm_cli.errors import WeightsUnavailable
from vggsfm_cli.options import Preset
from vggsfm_cli.recipes import small, v2
from vggsfm_cli.recipes.interface import Mapped, Recipe, Sighted, precision_of
from vggsfm_cli.recipes.small import SmallRecipe

__all__ = [
    "RECIPES",
    "Mapped",
    "Recipe",
    "Sighted",
    "SmallRecipe",
    "choose_recipes",
    "precision_of",
    "recipe_named",
]

RECIPES: Mapping[str, Mapping[Preset, Any]] = {"small": small.PRESETS, "v2": v2.PRESETS}
"""The presets of each recipe; the first is the recipe as it belongs to its models."""


def recipe_named(name: str) -> Recipe:
    """The recipe as it belongs to its models.

    Raises:
        WeightsUnavailable: this version has no such recipe.
    """
    if name not in RECIPES:
        raise WeightsUnavailable(
            f"This version of vggsfm-cli has no recipe {name!r}.", f"It has: {', '.join(RECIPES)}."
        )
    found: Recipe = next(iter(RECIPES[name].values()))
    return found


def choose_recipes(name: str, preset: Preset) -> tuple[Recipe, Recipe, Preset]:
    """Which recipe makes the tracks of a model, and which maps them.

    Tracks are made by the recipe that the model's config names; a preset that belongs to another recipe maps them.

    Args:
        name: in the model's config.
        preset: that the user asks for.

    Returns:
        tracking: recipe.
        mapping: recipe.
        preset: as asked for, or what ``auto`` stands for.
    """
    own = RECIPES[recipe_named(name).name]
    if preset == "auto":
        preset = next(iter(own))
    mapping = next(presets[preset] for presets in RECIPES.values() if preset in presets)
    return own.get(preset, recipe_named(name)), mapping, preset
