"""Recorded figures of other methods on the same scenes, and the rule by which they are averaged over bags.

    python peers.py /path/to/peers.md

reads the tables of the bench's ``peers.md`` and writes ``benchmarks/peers.json``.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "peers.json"
AREAS = ("AUC@1", "AUC@3", "AUC@5", "AUC@10")
BAG_SIZES = ("bag3", "bag5", "bag10")

Bag = tuple[str, str, int]
"""Scene, size and number."""

PROVENANCE = (
    "Measured once by the maker of the bench with pycolmap 4.2.1, ALIKED-n16 with LightGlue and XFeat with "
    "LighterGlue, and recorded in its peers.md, whose tables these are; rounded as there. They are not measured again "
    "here, except for sift+incremental."
)


def parse(text: str) -> dict[str, Any]:
    """The tables of ``peers.md``: full scenes, bags, and means over bags."""
    protocol = re.search(r"\n\n(AUC_max of .*?)\n\n", text, re.DOTALL)
    assert protocol is not None
    tables = [table for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE) if table.count("\n") > 2]
    full, bags, means = (list(_rows(table)) for table in tables)
    for row in full:
        registered, images = row.pop("registered").split("/")
        row.update(registered=int(registered), images=int(images), points=int(row["points"]))
    for row in bags:
        row.update(bags=[int(bag) for bag in row["bags"].split(",")], registered=float(row["registered"]))
    for row in means:
        row.update(scenes=int(row["scenes"]), bags=int(row["bags"]))
    return {
        "provenance": PROVENANCE,
        "protocol": " ".join(protocol.group(1).split()),
        "full": full,
        "bags": bags,
        "means": means,
    }


def _rows(table: str) -> Iterable[dict[str, Any]]:
    """Rows of a table, the areas under the curve as numbers."""
    head, _, *lines = (
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().split("\n")
    )
    names = [f"AUC{name}" if name.startswith("@") else name for name in head]
    for line in lines:
        row: dict[str, Any] = dict(zip(names, line, strict=True))
        yield {name: float(value) if name in (*AREAS, "ATE %", "focal %") else value for name, value in row.items()}


def read() -> dict[str, Any]:
    """The recorded figures."""
    document: dict[str, Any] = json.loads(FILE.read_text())
    return document


def common_bags(peers: Mapping[str, Any]) -> set[Bag]:
    """The bags that every peer was run on: those that means are taken over."""
    ran: dict[tuple[str, str], list[set[int]]] = defaultdict(list)
    for row in peers["bags"]:
        ran[row["scene"], row["size"]].append(set(row["bags"]))
    return {(scene, size, bag) for (scene, size), bags in ran.items() for bag in set.intersection(*bags)}


def mean_over_scenes(values: Mapping[Bag, float], size: str) -> float | None:
    """Mean over the bags of a size of each scene, then over the scenes; None if there are none."""
    scenes: dict[str, list[float]] = defaultdict(list)
    for (scene, bag_size, _), value in values.items():
        if bag_size == size:
            scenes[scene].append(value)
    means = [sum(of_scene) / len(of_scene) for of_scene in scenes.values()]
    return sum(means) / len(means) if means else None


if __name__ == "__main__":
    FILE.write_text(json.dumps(parse(Path(sys.argv[1]).read_text()), indent=1) + "\n")
