"""Numbers of the published recipe: the full set where ``VGGSFM_REFERENCE`` names its folder, else a reduced one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

REDUCED = Path(__file__).parent / "golden"


def folder() -> Path:
    """Where the numbers are."""
    return Path(os.environ.get("VGGSFM_REFERENCE") or REDUCED)


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of one fixture."""
    return load_file(folder() / f"{name}.safetensors")


def golden_json(name: str) -> dict[str, Any]:
    """The content of one JSON fixture."""
    return json.loads((folder() / f"{name}.json").read_text())


needs_full_set = pytest.mark.skipif(
    not os.environ.get("VGGSFM_REFERENCE"), reason="VGGSFM_REFERENCE does not name the full set of golden values"
)
