"""Wall time of whole commands, methods in turn several times, so that a busy moment does not decide."""

import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pose_bench.measure import Row, measure, recorded
from pose_bench.methods import Method, Snapshot, timed
from pose_bench.records import Records
from pose_bench.scenes import Item
from pose_bench.tables import table

RENDERED = "rendered-50"
FRAMES, WIDTH, LAYOUT, SEED = 50, 1600, "room", 1
JPEG_QUALITY = 92
"""As the photographs of the bench."""


def rendered_scene(folder: Path, snapshot: Snapshot) -> Item:
    """Fifty pictures of a room that ``vggsfm synth`` renders, with noise and blur of a camera; minutes, but only once.

    Args:
        folder: keeps them from run to run.
        snapshot: whose renderer draws them, if they are not there.
    """
    if not (folder / "ground_truth.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "vggsfm_cli", "synth", "--out", str(folder / "synth"), "--frames", str(FRAMES)]
        command += ["--size", str(WIDTH), "--layout", LAYOUT, "--seed", str(SEED), "--device", "cpu"]
        # one thread: on a busy machine the operations of several wait for each other, ten times as long
        run = timed("synth", command, folder / "synth", 1, snapshot.source)
        if run.exit_code:
            raise RuntimeError((folder / "synth.log").read_text()[-2000:])
        (folder / "images").mkdir()
        scene = folder / "synth" / "scene_000"
        truth = json.loads((scene / "ground_truth.json").read_text())
        for picture in sorted((scene / "images").iterdir()):
            with Image.open(picture) as opened:
                opened.save(folder / "images" / f"{picture.stem}.jpg", quality=JPEG_QUALITY)
        truth["images"] = {f"{Path(name).stem}.jpg": entry for name, entry in truth["images"].items()}
        shutil.rmtree(folder / "synth")
        (folder / "ground_truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    truth = json.loads((folder / "ground_truth.json").read_text())["images"]
    return Item(
        scene=RENDERED,
        bag="full",
        images=folder / "images",
        truth=folder / "ground_truth.json",
        names=tuple(sorted(truth)),
    )


def measure_in_turn(
    bench: Path,
    records: Records,
    methods: Sequence[Method],
    items: Sequence[Item],
    *,
    repeats: int,
    fresh: bool,
    told: Callable[[Row, bool], None],
) -> list[Row]:
    """Every method on every item, one after the other, so many times."""
    rows = []
    for item in items:
        for attempt in range(1, repeats + 1):
            for method in methods:
                known = None if fresh else recorded(records, method, item, attempt)
                done = measure(bench, records, method, item, attempt) if known is None else known
                for row in done:
                    told(row, known is None)
                rows += done
    return rows


def summarize(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Medians of each method on each scene, and how much of SIFT's time that is."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["scene"], row["method"]), []).append(row)
    seconds = {key: statistics.median(row["seconds"] for row in group) for key, group in grouped.items()}
    return [
        {
            "scene": scene,
            "images": group[0]["score"]["images"],
            "method": method,
            "seconds": seconds[scene, method],
            "each": [row["seconds"] for row in group],
            "cpu_seconds": statistics.median(row["cpu_seconds"] for row in group),
            "load_before": [row["load_before"] for row in group],
            "of_sift": round(seconds[scene, method] / seconds[scene, "sift"], 3)
            if (scene, "sift") in seconds
            else None,
            "registered": group[0]["score"]["registered"],
            "AUC@1": statistics.median(row["score"]["AUC@1"] for row in group),
            "AUC@5": statistics.median(row["score"]["AUC@5"] for row in group),
            "peak_memory_mb": max(row["peak_memory_mb"] for row in group),
        }
        for (scene, method), group in grouped.items()
    ]


def to_markdown(summary: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """The medians as a table."""
    note = (
        f"Wall time of the whole command, from start to end, {machine['threads']} threads on {machine['cores']} cores "
        f"({machine['processor']}); methods in turn, medians. `{RENDERED}` is a room that `vggsfm synth` renders.\n\n"
        "Written by `python benchmarks/run.py --timing`."
    )
    lines = [
        [
            row["scene"],
            str(row["images"]),
            row["method"],
            f"{row['seconds']:.1f}",
            "" if row["of_sift"] is None else f"{row['of_sift']:.2f}",
            " ".join(f"{each:.1f}" for each in row["each"]),
            f"{row['cpu_seconds']:.1f}",
            str(row["peak_memory_mb"]),
            str(row["registered"]),
            f"{row['AUC@1']:.1f}",
            f"{row['AUC@5']:.1f}",
        ]
        for row in summary
    ]
    head = "scene | images | method | seconds | of SIFT's | each | CPU seconds | MB | registered | AUC@1 | AUC@5"
    return f"# Time\n\n{note}\n\n{table(head, lines)}\n"
