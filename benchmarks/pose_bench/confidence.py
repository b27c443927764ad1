"""Whether a run knows when it is wrong: the confidence of its report against the truth.

A model is wrong if more than half of the image pairs of its set are wrong by over 10 degrees. Pairs that are not in
the model are not wrong: leaving images out is a way of saying that they are doubtful. A run without any model has said
so outright; it is counted apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pose_bench.score import WRONG_DEG
from pose_bench.tables import table
from vggsfm_cli.mapping.quality import ConfidenceConfig

LOW = ConfidenceConfig().low
"""A confidence below this is called low, as in the reports, where nothing else is stated."""

Row = Mapping[str, Any]


def confidence_of(row: Row) -> float | None:
    """Of the largest model, from 0 to 1; None if the run made no model or does not say."""
    models = (row["report"] or {}).get("models") or [{}]
    value = models[0].get("confidence")
    return None if value is None else float(value)


def is_wrong(score: Row, *, of_registered: bool = False) -> bool:
    """More than half of all pairs, or of those in the model, are wrong."""
    return bool(2 * score["pairs_wrong"] > score["pairs_registered" if of_registered else "pairs"])


def operating_points(
    confidence: Sequence[float], wrong: Sequence[bool], thresholds: Sequence[float] | None = None
) -> list[dict[str, float | None]]:
    """The ROC: at each threshold the share of wrong models below it (caught), and of right ones (false alarms).

    Args:
        confidence: of each model.
        wrong: whether it is.
        thresholds: every one that makes a difference if None.
    """
    points = []
    for threshold in thresholds or [*sorted(set(confidence)), 1.0 + 1e-9]:
        at = _at(confidence, wrong, threshold)
        caught = None if at["miss_rate"] is None else 1 - at["miss_rate"]
        points.append({"threshold": threshold, "caught": caught, "false_alarms": at["false_alarm_rate"]})
    return points


def area_under(confidence: Sequence[float], wrong: Sequence[bool]) -> float | None:
    """AUROC: how often a wrong model has less confidence than a right one, ties count half; None without both."""
    bad = [c for c, w in zip(confidence, wrong, strict=True) if w]
    good = [c for c, w in zip(confidence, wrong, strict=True) if not w]
    if not bad or not good:
        return None
    return sum((b < g) + 0.5 * (b == g) for b in bad for g in good) / (len(bad) * len(good))


def summarize(rows: Sequence[Row], low: float = LOW) -> dict[str, Any] | None:
    """Figures over all runs that state a confidence; None if none does.

    Returns:
        ``runs``, ``without_model``, ``wrong``, ``threshold``; ``auroc``; at the threshold ``missed`` (wrong models
        whose confidence is not low), ``miss_rate`` among the wrong ones, ``false_alarms`` and ``false_alarm_rate``
        among the right ones; ``of_registered``: the same where a model is wrong if half of its own pairs are; ``roc``;
        ``missed_runs`` and ``each`` run.
    """
    stated = [(row, value) for row in rows if (value := confidence_of(row)) is not None]
    if not stated:
        return None
    values = [value for _, value in stated]
    wrong = [is_wrong(row["score"]) for row, _ in stated]
    strict = [is_wrong(row["score"], of_registered=True) for row, _ in stated]
    return {
        "wrong_deg": WRONG_DEG,
        "threshold": low,
        "without_model": sum(row["score"]["registered"] == 0 for row in rows),
        **_at(values, wrong, low),
        "of_registered": _at(values, strict, low),
        "missed_runs": [
            f"{row['scene']}/{row['bag']}"
            for (row, value), is_bad in zip(stated, wrong, strict=True)
            if is_bad and value >= low
        ],
        "roc": operating_points(values, wrong),
        "each": [
            {
                "scene": row["scene"],
                "bag": row["bag"],
                "confidence": value,
                "wrong": is_bad,
                **{key: row["score"][key] for key in ("pairs", "pairs_registered", "pairs_wrong", "AUC@5")},
            }
            for (row, value), is_bad in zip(stated, wrong, strict=True)
        ],
    }


def _at(values: Sequence[float], wrong: Sequence[bool], low: float) -> dict[str, Any]:
    missed = sum(w and v >= low for v, w in zip(values, wrong, strict=True))
    alarms = sum(not w and v < low for v, w in zip(values, wrong, strict=True))
    bad, good = sum(wrong), len(wrong) - sum(wrong)
    return {
        "runs": len(values),
        "wrong": bad,
        "auroc": area_under(values, wrong),
        "missed": missed,
        "miss_rate": missed / bad if bad else None,
        "false_alarms": alarms,
        "false_alarm_rate": alarms / good if good else None,
    }


def to_markdown(summary: Row) -> str:
    """Numbers, the ROC at round thresholds, and every run that is wrong or doubtful."""
    note = (
        f"A model is wrong if more than half of the image pairs of its set are wrong by over {summary['wrong_deg']:g} "
        "degrees; pairs with an image that the model leaves out are not wrong. Its confidence, in `report.json`, is "
        f"low below {summary['threshold']:g}. {summary['without_model']} more runs made no model and said so.\n\n"
        "Written by `python benchmarks/run.py`."
    )
    figures = ("runs", "wrong", "auroc", "missed", "miss_rate", "false_alarms", "false_alarm_rate")
    lines = [
        [name, *(_number(of_kind[key]) for key in figures)]
        for name, of_kind in (("all pairs", summary), ("the model's own pairs", summary["of_registered"]))
    ]
    overall = table("more than half of | models | wrong | AUROC | missed | miss rate | false alarms | rate", lines)
    doubtful = [
        [
            run["scene"],
            run["bag"],
            f"{run['confidence']:.3f}",
            "yes" if run["wrong"] else "no",
            f"{run['pairs_wrong']}/{run['pairs_registered']}/{run['pairs']}",
            f"{run['AUC@5']:.1f}",
        ]
        for run in sorted(summary["each"], key=lambda run: run["confidence"])
        if run["wrong"] or run["confidence"] < summary["threshold"]
    ]
    runs = table("scene | bag | confidence | wrong | pairs wrong/in the model/all | AUC@5", doubtful)
    values, wrong = ([run[key] for run in summary["each"]] for key in ("confidence", "wrong"))
    points = operating_points(values, wrong, [k / 10 for k in range(1, 10)])
    curve = table(
        "threshold | wrong models below | right models below",
        [
            [f"{point['threshold']:.1f}", *(_number(point[key]) for key in ("caught", "false_alarms"))]
            for point in points
        ],
    )
    parts = ["# Confidence", note, overall, "## ROC", curve, "## Runs that are wrong, or whose confidence is low", runs]
    return "\n\n".join(parts) + "\n"


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"
