"""Write the measured tables of README.md and of the model card anew, from the records in this folder.

    make figures

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``; what is outside is left alone.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ablation import tables as ablation_tables
from pose_bench.peers import AREAS, read
from pose_bench.tables import table

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "README.md", HERE.parent / "weights" / "small" / "README.md")
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w ]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def record(name: str) -> Any:
    """What a benchmark wrote."""
    return json.loads((HERE / f"{name}.json").read_text())


def scenes() -> str:
    """Full scenes, with the best recorded peer of each area beside them."""
    peers, lines = read(), []
    for row in record("results")["results"]:
        if row["bag"] == "full" and row["method"] == "vggsfm":
            score = row["score"]
            others = [peer for peer in peers["full"] if peer["scene"] == row["scene"] and peer["K"] == "unknown"]
            best = " / ".join(f"{max(peer[area] for peer in others):.0f}" for area in AREAS)
            areas = [f"{score[area]:.1f}" for area in AREAS]
            spent = [f"{row['seconds']:.0f}", str(row["peak_memory_mb"])]
            lines.append([row["scene"], f"{score['registered']}/{score['images']}", *areas, best, *spent])
    head = "scene | registered | AUC@1 | @3 | @5 | @10 | best of SIFT, ALIKED, XFeat in COLMAP | seconds | memory MB"
    return table(head, lines)


def sets() -> str:
    """Means over small sets beside those of the best peer."""
    peers, lines = read()["means"], []
    for size, methods in record("results")["means"].items():
        ours = methods["vggsfm"]
        best = max(row["AUC@5"] for row in peers if row["size"] == size)
        name = f"{ours['bags']} sets of {size.removeprefix('bag')} images"
        lines.append([name, f"{ours['AUC@5']:.1f}", f"{best:.1f}"])
    return table("mean AUC@5 over small sets | this tool | best peer", lines)


def training(name: str, columns: Sequence[tuple[str, str, float, int]], steps: Iterable[int] | None = None) -> str:
    """Validation figures of a training's log: heading, key, factor and digits of each column."""
    lines = []
    for line in (HERE / "training" / f"{name}.log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "validation" in row and (steps is None or row["step"] in steps):
            figures = row["validation"]
            lines.append([str(row["step"]), *(f"{factor * figures[key]:.{n}f}" for _, key, factor, n in columns)])
    return table(" | ".join(["step", *(head for head, *_ in columns)]), lines)


def cameras() -> str:
    """How the camera transformer learned."""
    sizes = (3, 5, 8)
    before = [(f"preliminary, {size}", f"preliminary AUC@10 of {size}", 100.0, 1) for size in sizes]
    after = [(f"of {size} frames", f"AUC@10 of {size}", 100.0, 1) for size in sizes]
    return training("cameras", [("loss", "loss", 1.0, 3), *before, *after])


def points() -> str:
    """How the triangulation transformer learned."""
    columns = [(f"{head}{name}", f"{key}{name}", 1.0, 4) for head, key in (("fit, ", "DLT "), ("", ""))
               for name in ("median %", "mean of the best 95 %")]  # fmt: skip
    return training("points", [("loss", "loss", 1.0, 3), *columns])


def ablation() -> str:
    """All tables of the ablation."""
    text = ablation_tables.to_markdown(record("ablation"))
    return text.split("\n\n", 1)[1].replace("\n## ", "\n### ").strip()


FIGURES: dict[str, Callable[[], str]] = {
    "scenes": scenes,
    "sets": sets,
    "cameras": cameras,
    "points": points,
    "ablation": ablation,
}


def renewed(text: str) -> str:
    """A document with its tables written anew.

    Raises:
        KeyError: a block names figures that nobody makes.
    """
    return BLOCK.sub(lambda block: block[1] + FIGURES[block["name"]]() + block[3], text)


def main() -> None:
    """Write the documents; with ``--check`` only say whether they are current."""
    stale = []
    for path in DOCUMENTS:
        text = path.read_text()
        if (new := renewed(text)) != text:
            stale.append(path)
            if "--check" not in sys.argv:
                path.write_text(new)
    if "--check" in sys.argv and stale:
        sys.exit(f"Not current: {', '.join(map(str, stale))}. Run make figures.")


if __name__ == "__main__":
    main()
