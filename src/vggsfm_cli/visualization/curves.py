"""Curves of numbers over steps, drawn as a PNG of small panels."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One curve; ``y`` is finite."""

    name: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Curves that share their axes."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class CurvesConfig:
    """Look of the picture; colours are RGB."""

    panel_width_px: int = 460
    panel_height_px: int = 280
    columns: int = 3
    oversampling: int = 2
    background: Color = (255, 255, 255)
    ink: Color = (60, 64, 72)
    grid: Color = (226, 229, 234)
    colors: tuple[Color, ...] = ((42, 111, 187), (222, 120, 31), (58, 148, 84), (160, 72, 160))
    smoothing: float = 0.03  # length of the running mean, part of the curve
    min_points_to_smooth: int = 50
    log_ratio: float = 8.0  # largest over smallest value from which the axis is logarithmic


def draw_curves(panels: Sequence[Panel], config: CurvesConfig | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """RGB picture of all panels, row by row.

    Values that are all positive and span a wide range get a logarithmic axis. Long curves are drawn pale, with their
    running mean on top.
    """
    config = config or CurvesConfig()
    columns = min(config.columns, max(len(panels), 1))
    rows = max(math.ceil(len(panels) / columns), 1)
    size = config.panel_width_px * config.oversampling, config.panel_height_px * config.oversampling
    sheet = Image.new("RGB", (size[0] * columns, size[1] * rows), config.background)
    for i, panel in enumerate(panels):
        sheet.paste(_draw_panel(panel, size, config), (size[0] * (i % columns), size[1] * (i // columns)))
    final = sheet.resize((config.panel_width_px * columns, config.panel_height_px * rows), Image.Resampling.BOX)
    return np.array(final, dtype=np.uint8)


def save_curves(panels: Sequence[Panel], path: Path | str, config: CurvesConfig | None = None) -> None:
    """Write ``draw_curves`` to a file, as PNG whatever its name."""
    encoded = io.BytesIO()  # Pillow's own writing to files hides what the system says
    Image.fromarray(draw_curves(panels, config)).save(encoded, format="PNG")
    Path(path).write_bytes(encoded.getbuffer())


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """From values to a position in [0, 1], and the values to mark."""

    low: float
    high: float
    logarithmic: bool

    def position(self, value: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        scaled = np.log10(value) if self.logarithmic else value
        return (scaled - self.low) / (self.high - self.low)

    def marks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            leading = (1,) if self.high - self.low > 3 else (1, 3) if self.high - self.low > 1 else (1, 2, 3, 5, 7)  # noqa: PLR2004
            marks = [digit * 10.0**decade for decade in decades for digit in leading]
            return [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 5)  # noqa: PLR2004
        return [step * i for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def _axis(values: Float[np.ndarray, " n"], log_ratio: float = math.inf, margin: float = 0.0) -> _Axis:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    logarithmic = low > 0 and high / low >= log_ratio
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all alike
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    slack = margin * (high - low)
    return _Axis(low=low - slack, high=high + slack, logarithmic=logarithmic)


def _draw_panel(panel: Panel, size: tuple[int, int], config: CurvesConfig) -> Image.Image:
    unit = config.oversampling
    image = Image.new("RGB", size, config.background)
    draw = ImageDraw.Draw(image)
    font, title = ImageFont.load_default(11 * unit), ImageFont.load_default(14 * unit)
    left, right, top, bottom = 58 * unit, size[0] - 14 * unit, 34 * unit, size[1] - 26 * unit
    x_axis = _axis(np.concatenate([curve.x for curve in panel.curves] or [np.zeros(0)]))
    y_axis = _axis(np.concatenate([curve.y for curve in panel.curves] or [np.zeros(0)]), config.log_ratio, 0.05)

    def place(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> list[tuple[float, float]]:
        across = left + (right - left) * x_axis.position(x)
        up = bottom - (bottom - top) * y_axis.position(y)
        return list(zip(across.tolist(), up.tolist(), strict=True))

    for mark in y_axis.marks():
        height = bottom - (bottom - top) * float(y_axis.position(np.array([mark]))[0])
        draw.line([(left, height), (right, height)], fill=config.grid, width=unit)
        draw.text((left - 6 * unit, height), f"{mark:.4g}", fill=config.ink, font=font, anchor="rm")
    for mark in x_axis.marks():
        across = left + (right - left) * float(x_axis.position(np.array([mark]))[0])
        draw.line([(across, bottom), (across, bottom + 3 * unit)], fill=config.ink, width=unit)
        draw.text((across, bottom + 5 * unit), _count(mark), fill=config.ink, font=font, anchor="mt")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=config.ink, width=unit)
    draw.text((left, 10 * unit), panel.title, fill=config.ink, font=title)
    for curve, color in zip(panel.curves, config.colors * len(panel.curves), strict=False):
        _draw_curve(draw, curve, color, place, config)
    _draw_legend(draw, panel, (right, 12 * unit), font, config)
    return image


def _draw_curve(
    draw: ImageDraw.ImageDraw,
    curve: Curve,
    color: Color,
    place: Callable[[np.ndarray, np.ndarray], list[tuple[float, float]]],
    config: CurvesConfig,
) -> None:
    unit = config.oversampling
    points = place(curve.x, curve.y)
    if len(points) == 1:
        (x, y), radius = points[0], 3 * unit
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
    elif len(points) < config.min_points_to_smooth:
        draw.line(points, fill=color, width=2 * unit, joint="curve")
    else:
        pale = tuple(round(0.3 * own + 0.7 * behind) for own, behind in zip(color, config.background, strict=True))
        draw.line(points, fill=pale, width=unit)
        draw.line(place(curve.x, _smooth(curve.y, config)), fill=color, width=2 * unit, joint="curve")


def _smooth(y: Float[np.ndarray, " n"], config: CurvesConfig) -> Float[np.ndarray, " n"]:
    """Running mean over a centred window, which narrows towards both ends."""
    n = len(y)
    reach = np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]), max(round(config.smoothing * n / 2), 1))
    total = np.concatenate([np.zeros(1), np.cumsum(y)])
    index = np.arange(n)
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    corner: tuple[int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    config: CurvesConfig,
) -> None:
    """Names and last values, from the right."""
    x, y = corner
    for curve, color in reversed(list(zip(panel.curves, config.colors * len(panel.curves), strict=False))):
        if len(curve.y):
            text = f"{curve.name} {curve.y[-1]:.4g}"
            draw.text((x, y), text, fill=color, font=font, anchor="rt")
            x -= round(draw.textlength(text, font=font)) + 12 * config.oversampling


def _count(value: float) -> str:
    return f"{value / 1000:.4g}k" if abs(value) >= 10_000 else f"{value:.4g}"  # noqa: PLR2004
