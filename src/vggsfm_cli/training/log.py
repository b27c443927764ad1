"""The log of a run: one JSON object a line, and the curves drawn from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vggsfm_cli.folders import refusals, whole_file
from vggsfm_cli.visualization.curves import Curve, Panel


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add one line to the log.

    Raises:
        WriteFailed: the disk refuses.
    """
    with refusals(path, path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines; a last one cut short by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after ``step``: the run goes on from there."""
    kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
    with whole_file(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def panels_of(lines: list[dict[str, Any]]) -> list[Panel]:
    """What is worth a picture: the loss beside its validation, each term, each validation figure, the step's size."""
    training = [line for line in lines if "terms" in line]
    validations = [line for line in lines if "validation" in line]
    loss = [_curve("training", training, "loss"), _curve("validation", validations, "validation", "loss")]
    panels = [Panel(title="loss", curves=tuple(curve for curve in loss if len(curve.y)))]
    terms = {name: None for line in training for name in line["terms"]}
    figures = {name: None for line in validations for name in line["validation"] if name != "loss"}
    for name in {**terms, **figures}:
        curves = [_curve("training", training, "terms", name), _curve("validation", validations, "validation", name)]
        shown = tuple(curve for curve in curves if len(curve.y))
        if shown and not (name in terms and len(terms) == 1 and len(shown) == 1):  # a lone term is the loss itself
            panels.append(Panel(title=name, curves=shown))
    for key, title in (("gradient_norm", "gradient norm"), ("learning_rate", "learning rate")):
        panels.append(Panel(title=title, curves=(_curve("training", training, key),)))
    return panels


def _curve(name: str, lines: list[dict[str, Any]], *keys: str) -> Curve:
    x, y = [], []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if value is not None else None
        if value is not None:
            x.append(float(line["step"]))
            y.append(float(value))
    return Curve(name=name, x=np.array(x), y=np.array(y))
