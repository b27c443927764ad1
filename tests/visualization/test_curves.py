"""Curves: where they are drawn, and what they may meet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggsfm_cli.visualization.curves import Curve, CurvesConfig, Panel, draw_curves, save_curves

CONFIG = CurvesConfig()


def panel(y: np.ndarray, title: str = "loss") -> Panel:
    return Panel(title=title, curves=(Curve(name="training", x=np.arange(1.0, len(y) + 1), y=y),))


def heights(picture: np.ndarray) -> np.ndarray:
    """Mean row of the first curve's colour in each column right of the labels and below the legend."""
    inside = picture[38 : CONFIG.panel_height_px - 28, 60 : CONFIG.panel_width_px - 15].astype(int)
    drawn = np.abs(inside - np.array(CONFIG.colors[0])).sum(-1) < 60
    rows = np.arange(len(inside))[:, None]
    return (rows * drawn).sum(0)[drawn.any(0)] / drawn.sum(0)[drawn.any(0)]


@pytest.mark.parametrize("points", [30, 400])
def test_a_falling_curve_falls_and_an_exponential_is_a_line(points: int) -> None:
    exponential = heights(draw_curves([panel(np.exp(-np.linspace(0, 6, points)))]))
    assert len(exponential) > 300 and (np.diff(exponential) > -1).all()
    line = np.polyval(np.polyfit(np.arange(len(exponential)), exponential, 1), np.arange(len(exponential)))
    assert np.abs(exponential - line).max() < 3
    small_range = heights(draw_curves([panel(1 + np.linspace(0, 1, points) ** 4)]))
    assert np.abs(small_range[: len(small_range) // 2] - small_range[0]).max() < 20, "a small range is not logarithmic"


def test_the_running_mean_hides_noise() -> None:
    noise = np.random.default_rng(0).normal(size=4000)
    shown = heights(draw_curves([panel(5 + noise)]))
    assert shown.std() < 0.1 * CONFIG.panel_height_px


def test_panels_fill_rows() -> None:
    for count, (rows, columns) in {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 3)}.items():
        picture = draw_curves([panel(np.arange(3.0))] * count)
        assert picture.shape == (rows * CONFIG.panel_height_px, columns * CONFIG.panel_width_px, 3)


@pytest.mark.parametrize("y", [[], [1.0], [0.0, 0.0], [2.0, 2.0], [-1.0, 1e9], [1e-12, 1e12], [0.0, 1e-30]], ids=str)
def test_odd_values(y: list[float], tmp_path: Path) -> None:
    save_curves([panel(np.array(y)), Panel(title="nothing", curves=())], tmp_path / "curves.anything")
    with Image.open(tmp_path / "curves.anything") as picture:
        assert picture.format == "PNG" and picture.size == (2 * CONFIG.panel_width_px, CONFIG.panel_height_px)
