"""What each learned part adds over its classical counterpart, in one table."""

from collections.abc import Callable, Sequence
from typing import Any

from ablation.tables import Row, table, with_interval

PHOTOGRAPHS = "AUC@5, photographs"


def gains(document: Row) -> str:
    """A row for each learned part that the record measures."""
    lines: list[list[str]] = []
    photographs, renders = document.get("photographs", {}), document.get("renders", {})

    def compare(part: str, counterpart: str, figure: str, found: Row, gain: Callable[[Row], str | None]) -> None:
        values = {size: shown for size, ways in found.items() if (shown := gain(ways)) is not None}
        if values:
            sizes = " / ".join(values)
            lines.append([part, counterpart, f"{figure}, {sizes} images", " / ".join(values.values())])

    compare("encoder and track transformer", "XFeat's features and a fixed sum of cues", PHOTOGRAPHS, photographs,
            lambda ways: _lost(ways, "classical tracker"))  # fmt: skip
    compare("predicted covariances", "equal weights", PHOTOGRAPHS, photographs,
            lambda ways: _lost(ways, "covariances not used"))  # fmt: skip
    compare("camera transformer", "as many Gauss-Newton steps", "AUC@10, rendered", renders.get("cameras", {}),
            _over_gauss_newton)  # fmt: skip
    compare("camera transformer as a further start", "classical starts alone", PHOTOGRAPHS, photographs,
            lambda ways: _gained(ways, "camera transformer as a further start"))  # fmt: skip
    compare("triangulation transformer", "weighted triangulation", "median point error, rendered",
            renders.get("points", {}), _points)  # fmt: skip
    compare("triangulation transformer, points adjusted afterwards", "weighted triangulation, adjusted",
            "median point error, rendered", renders.get("points", {}), _points_adjusted)  # fmt: skip
    return table("learned part | compared with | figure | gain", lines)


def _gained(ways: Row, name: str) -> str | None:
    return signed(ways[name]["difference"]) if name in ways else None


def _lost(ways: Row, name: str) -> str | None:
    """The gain of a part is what is lost without it."""
    if name not in ways:
        return None
    mean, low, high = ways[name]["difference"]
    return signed((-mean, -high, -low))


def _over_gauss_newton(ways: Row) -> str | None:
    row = ways.get("camera transformer", {})
    return signed(row["against Gauss-Newton"]) if "against Gauss-Newton" in row else None


def _points(ways: Row) -> str | None:
    row = ways.get("triangulation transformer")
    if row is None:
        return None
    middle, low, high = map(_percent, row["ratio of medians"])
    return f"{middle} [{low}, {high}] %"


def _points_adjusted(ways: Row) -> str | None:
    pair = [ways.get(name) for name in ("transformer, adjusted", "weighted by covariance, adjusted")]
    return None if None in pair else f"{_percent(pair[0]['median'] / pair[1]['median'])} %"  # type: ignore[index]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1) + 0.0:+.0f}"


def signed(values: Sequence[Any]) -> str:
    """A gain and its interval, with signs; without a sign where it rounds to zero."""
    return with_interval([0.0 if abs(value) < 0.05 else value for value in values], sign="+")
