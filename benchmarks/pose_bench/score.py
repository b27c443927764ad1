"""Figures of a model: those of the bench's own ``evaluate.py``, and how many pairs of poses are wrong."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.poses import PairErrors, pair_errors

WRONG_DEG = 10.0
"""A pair of poses is wrong if its larger error exceeds this."""

THRESHOLDS = (1, 3, 5, 10)
KEPT = ("images", "registered", "ate_rmse_pct", "focal_error_pct_mean", "num_points", "mean_track_length")
"""Of the figures of ``evaluate.py``, beside the areas under the curve."""


def score(bench: Path, models: Path, truth: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Figures of the largest of some models; of nothing if the folder does not exist."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "score.json"
        command = [sys.executable, str(bench / "evaluate.py"), str(models), str(truth), "--names", ",".join(names)]
        subprocess.run([*command, "--json", str(file)], check=True, capture_output=True)
        figures = json.loads(file.read_text())
    areas = {f"AUC@{threshold}": round(figures[f"AUC_max@{threshold}"], 4) for threshold in THRESHOLDS}
    kept = {key: round(value, 4) if isinstance(value := figures.get(key), float) else value for key in KEPT}
    return {**kept, **areas, **pairs(models, truth, names)}


def pairs(models: Path, truth: Path, names: tuple[str, ...]) -> dict[str, int]:
    """How many pairs there are, in how many both images are registered, and how many of these are wrong."""
    larger = errors_of(models, truth, names).worse_deg
    there = larger.isfinite()
    wrong = there & (larger > WRONG_DEG)
    return {"pairs": len(larger), "pairs_registered": int(there.sum()), "pairs_wrong": int(wrong.sum())}


def errors_of(models: Path, truth: Path, names: tuple[str, ...]) -> PairErrors:
    """Errors of all pairs of the largest of some models."""
    found, listed = largest(models), json.loads(truth.read_text())["images"]
    true = [_pose(listed[name]) for name in names]
    poses = [found.get(name, pose) for name, pose in zip(names, true, strict=True)]
    registered = torch.tensor([name in found for name in names])
    return pair_errors(torch.stack(poses), torch.stack(true), registered)


def largest(models: Path) -> dict[str, torch.Tensor]:
    """``cam_from_world`` ``[3, 4]`` of each image of the model with the most images; empty without a model."""
    best: dict[str, torch.Tensor] = {}
    folders = sorted(path for path in models.iterdir() if re.fullmatch(r"\d+", path.name)) if models.is_dir() else []
    for folder in folders:
        try:
            model = read_colmap(folder)
        except InputError:  # no images in it
            continue
        if len(model.names) > len(best):
            best = dict(zip(model.names, model.cameras.cam_from_world[0].double(), strict=True))
    return best


def _pose(entry: dict[str, Any]) -> torch.Tensor:
    rotation = torch.tensor(entry["R"], dtype=torch.float64)
    return torch.cat([rotation, torch.tensor(entry["t"], dtype=torch.float64)[:, None]], -1)
