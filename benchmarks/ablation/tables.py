"""The results as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def to_markdown(document: Row) -> str:
    """Rendered scenes, joint training, photographs."""
    parts = [
        "# Learned stages against classical ones",
        f"One stage is changed at a time; {document['machine']['cores']} CPU cores. Brackets hold 95 % bootstrap "
        "intervals over scenes or sets of photographs; differences are of pairs. Written by `make ablate`.",
    ]
    if "renders" in document:
        parts += ["## Cameras, rendered scenes", CAMERAS_NOTE, _cameras(document["renders"]["cameras"])]
        parts += ["## Points, rendered scenes", POINTS_NOTE, _points(document["renders"]["points"])]
    if "joint" in document:
        parts += ["## Joint training, rendered scenes", JOINT_NOTE, _joint(document["joint"])]
    if "photographs" in document:
        parts += ["## Photographs", PHOTOGRAPHS_NOTE, _photographs(document["photographs"])]
    return "\n\n".join(parts) + "\n"


CAMERAS_NOTE = (
    "Held-out scenes and textures, frames up to 90 degrees apart, the tracks of `small`, unknown focal length and "
    "distortion, no bundle adjustment. AUC@10 in percent of all pairs. The middle row takes as many plain Gauss-Newton "
    "steps of all cameras as the transformer has rounds: what its input alone would do."
)
POINTS_NOTE = (
    "The same scenes with true cameras: distance to the true point, percent of its distance from the camera. Points of "
    "inliers of RANSAC, fitted by reprojection error; *adjusted*: the points alone are adjusted afterwards."
)
JOINT_NOTE = (
    "Errors after five steps of bundle adjustment; both trainings go on from the same weights for equal time. Ratios "
    "of medians below one are in favour of learning together."
)
PHOTOGRAPHS_NOTE = "Sets of 3 and 5 photographs of the bench, AUC@5 in percent."


def with_interval(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """A mean and the bounds of its interval; with ``sign="+"`` also positive numbers have one."""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def _cameras(found: Row) -> str:
    lines = []
    for size, ways in found.items():
        for name, row in ways.items():
            lines.append([str(size), name, with_interval(row["AUC@10"]), with_interval(row["against preliminary"])])
    return table("frames | cameras | AUC@10 | against preliminary", lines)


def _points(found: Row) -> str:
    lines = []
    for size, ways in found.items():
        for name, row in ways.items():
            figures = [f"{row[key]:.4f}" for key in ("median", "mean of the best 95 %")]
            lines.append([str(size), name, *figures, with_interval(row["ratio of medians"], 3), str(row["points"])])
    return table("frames | points | median % | mean of the best 95 % | ratio of medians to weighted | points", lines)


def _joint(found: Row) -> str:
    lines = [
        [name, f"{row['degrees']:.3f}", f"{row['points']:.3f}", with_interval(found["AUC@5"][name])]
        for name, row in found["medians"].items()
    ]
    last = ["ratio, difference", *(with_interval(found[key], 3) for key in ("degrees", "points"))]
    lines.append([*last, with_interval(found["AUC@5 difference"])])
    return table("training | median degrees | median point error % | AUC@5", lines)


def _photographs(found: Row) -> str:
    lines = []
    for size, ways in found.items():
        for name, row in ways.items():
            lines.append(
                [
                    size,
                    name,
                    str(row["bags"]),
                    with_interval(row["AUC@5"]),
                    f"{row['above 50 %']:.0f}",
                    with_interval(row["difference"]),
                    with_interval(row["against preliminary"]),
                ]
            )
    head = (
        "images | stages | sets | AUC@5 | sets above 50 % | against the first row | against preliminary as only start"
    )
    return table(head, lines)


def table(head: str, lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    columns = head.count("|") + 1
    rows = [f"| {head} |", "|" + " --- |" * columns, *(f"| {' | '.join(line)} |" for line in lines)]
    return "\n".join(rows)
