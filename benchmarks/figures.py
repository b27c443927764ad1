"""Write the measured figures of README.md, docs/ and the model card anew, from the records in this folder.

    make figures

A table or paragraph stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``, a figure within a sentence between
``<!-- figure: NAME -->`` and ``<!-- end -->``. Everything else is left alone.
"""

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ablation import tables as ablation_tables
from ablation.gains import gains
from pose_bench import strongest
from pose_bench.peers import read
from pose_bench.tables import table
from safetensors import safe_open

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "weights" / "small"
DOCUMENTS = (HERE.parent / "README.md", HERE.parent / "docs" / "models.md", WEIGHTS / "README.md")
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w ]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
INLINE = re.compile(r"(<!-- figure: (?P<name>[\w ]+) -->)[^\n]*?(<!-- end -->)")


def record(name: str) -> Any:
    """What a benchmark wrote."""
    return json.loads((HERE / f"{name}.json").read_text())


def scenes() -> str:
    """Full scenes, with the strongest peer beside them."""
    return strongest.scenes_table(record("results"), read())


def sets() -> str:
    """Means over small sets, with the strongest peer beside them."""
    return strongest.sets_table(record("results"), read())


def verdict() -> str:
    """Where this tool is ahead, where it is behind, and where the lead comes from."""
    return filled(strongest.verdict(record("results"), read()))


def confidence() -> str:
    """How well the confidence tells wrong models from right ones, and on which sets."""
    found = record("confidence")
    return filled(
        f"Of {found['runs']} models of the benchmark, {found['wrong']} were wrong: more than half of their image pairs "
        f"had errors above {found['wrong_deg']:g} degrees. {found['wrong'] - found['missed']} of these "
        f"{found['wrong']} had low confidence, and so had {found['false_alarms']} of the {right(found)} right models. "
        f"The threshold of {found['threshold']:g} was chosen on these same sets, so expect more errors on other images."
    )


def right(found: dict[str, Any]) -> int:
    """Number of models that are not wrong."""
    return int(found["runs"] - found["wrong"])


def filled(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return "\n".join(textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False))


def parameters(*prefixes: str) -> str:
    """Millions of numbers in the bundled weights, of all or of the named parts."""
    count = 0
    with safe_open(WEIGHTS / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118, not a dictionary
            if not prefixes or name.startswith(prefixes):
                count += math.prod(file.get_slice(name).get_shape())
    return f"{count / 1e6:.2f} million"


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
    "verdict": verdict,
    "confidence": confidence,
    "gains": lambda: gains(record("ablation")),
    "cameras": cameras,
    "points": points,
    "ablation": ablation,
    "parameters": parameters,
    "encoder parameters": lambda: parameters("tracker.encoder."),
    "context parameters": lambda: parameters("tracker.context."),
    "judge parameters": lambda: parameters("tracker.judge."),
    "camera parameters": lambda: parameters("camera_estimator."),
    "point parameters": lambda: parameters("triangulator."),
    "megabytes": lambda: f"{(WEIGHTS / 'model.safetensors').stat().st_size / 1e6:.1f} MB",
}


def renewed(text: str) -> str:
    """A document with its figures written anew.

    Raises:
        KeyError: the document asks for figures that do not exist.
    """
    for pattern in (BLOCK, INLINE):
        text = pattern.sub(lambda found: found[1] + FIGURES[found["name"]]() + found[3], text)
    return text


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
