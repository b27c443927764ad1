"""Real scenes with known cameras: this tool beside COLMAP's SIFT pipeline, and beside recorded figures of other peers.

    VGGSFM_BENCH=/path/to/bench python benchmarks/run.py            # every full scene and every bag: an hour
    python benchmarks/run.py --scenes fountain-P11,fox --bags full,3 --only vggsfm
    python benchmarks/run.py --timing                               # wall time, methods in turn

The folder holds ``data/SCENE/images``, ``data/SCENE/gt.json``, ``bags.json`` and ``evaluate.py``. Results are kept one
by one in ``runs/bench``, under a hash of the sources and of all settings: a run that was stopped goes on where it was.
Writes ``results``, ``confidence`` and ``timing``, each as ``.json`` and ``.md``, to ``benchmarks``; to ``runs/bench``
if only a part was asked for. For the seconds, run it with nothing else running.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pose_bench import confidence, peers, tables, timing
from pose_bench.measure import Row, measure_all, recorded
from pose_bench.methods import ROOT, Method, Sift, Snapshot, Vggsfm, stop_on_request
from pose_bench.records import Records
from pose_bench.scenes import Item, choose, read_items

HERE = Path(__file__).resolve().parent
RUNS = ROOT / "runs" / "bench"
TIMED = "fountain-P11"
"""What ``--timing`` measures beside the rendered scene, if nothing else is named."""


def main() -> None:
    """Run what is not on record, write what is."""
    options = parse_arguments()
    stop_on_request()
    if "VGGSFM_BENCH" not in os.environ:
        sys.exit("Set VGGSFM_BENCH to the folder with the scenes.")
    bench = Path(os.environ["VGGSFM_BENCH"]).resolve()
    items = read_items(bench)
    scenes = _listed(options.scenes)
    if options.timing:
        scenes = scenes or [TIMED, timing.RENDERED]
    try:
        chosen = choose(items, None if scenes is None else [*{*scenes} - {timing.RENDERED}], _listed(options.bags))
    except ValueError as error:
        sys.exit(str(error))
    part = bool(options.scenes or options.bags or options.only or options.options)
    out = options.out or (RUNS if part and not options.keep else HERE)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Snapshot(Path(folder))
        if options.timing:
            full = [item for item in chosen if item.bag == "full"]
            if timing.RENDERED in (scenes or []):
                full.append(timing.rendered_scene(RUNS / timing.RENDERED, snapshot))
            run_timing(bench, options, snapshot, full, out)
            return
        records = Records(RUNS / "items.jsonl")
        work = [(method, item) for item in chosen for method, bags in methods(options, snapshot) if bags(item)]
        if not options.tables_only:
            measure_all(bench, records, work, fresh=options.fresh, told=tell)
        rows = [row for pair in work for row in recorded(records, *pair) or []]
    if options.keep:
        rows = beside_the_others(rows, out, items)
    if not rows:
        sys.exit("Nothing is on record for these sources and settings.")
    write(rows, options, out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", help="comma-separated; all if not given")
    parser.add_argument("--bags", help="comma-separated: full, a size (3, 5, 10) or a bag (bag5-2); all if not given")
    parser.add_argument("--only", choices=("vggsfm", "sift"), help="one of the methods")
    parser.add_argument("--fast", action="store_true", help="the preset fast too, on the full scenes")
    parser.add_argument("--options", default="", help="more options for `vggsfm reconstruct`, in one word")
    parser.add_argument("--model", default="small", help="a name, or a folder")
    parser.add_argument("--threads", type=int, default=2, help="of every method")
    parser.add_argument("--fresh", action="store_true", help="run again what is on record")
    parser.add_argument("--tables-only", action="store_true", help="run nothing, write what is on record")
    parser.add_argument("--timing", action="store_true", help="measure wall time instead, methods in turn")
    parser.add_argument("--repeats", type=int, default=3, help="of --timing")
    parser.add_argument("--keep", action="store_true", help="keep the rows of other methods that the tables hold")
    parser.add_argument("--low", type=float, default=confidence.LOW, help="a confidence below this is low")
    parser.add_argument("--out", type=Path, help="folder for the tables")
    return parser.parse_args()


def _listed(names: str | None) -> list[str] | None:
    return names.split(",") if names else None


def methods(options: argparse.Namespace, snapshot: Snapshot) -> list[tuple[Method, Any]]:
    """What to run, and on which items."""
    tool = {"snapshot": snapshot, "model": options.model, "threads": options.threads}
    tool["options"] = tuple(options.options.split())
    found: list[tuple[Method, Any]] = []
    if options.only != "sift":
        found.append((Vggsfm(**tool), lambda item: True))
        if options.fast:
            found.append((Vggsfm(**tool, preset="fast"), lambda item: item.bag == "full"))
    if options.only != "vggsfm":
        found.append((Sift(threads=options.threads, freed=not options.timing), lambda item: True))
    return found


def tell(row: Row, new: bool) -> None:
    """One line on stdout."""
    score = row["score"]
    areas = " ".join(f"{score[area]:5.1f}" for area in peers.AREAS)
    said = confidence.confidence_of(row)
    print(
        f"{row['scene']:<15}{row['bag']:<9}{row['method']:<24}{score['registered']:>2}/{score['images']:<3}{areas} "
        f"{row['seconds']:7.1f} s {row['peak_memory_mb']:5d} MB"
        f"{'' if said is None else f' confidence {said:.2f}'}{'' if new else ' (on record)'}",
        flush=True,
    )


def beside_the_others(rows: Sequence[Row], out: Path, items: Sequence[Item]) -> list[Row]:
    """Rows of this run, and of the tables in ``out`` those of methods that were not run."""
    table = json.loads((out / "results.json").read_text())
    ran = {row["method"] for row in rows}
    kept = [
        {**row, "settings": table["settings"][row["method"]], "report": None}
        for row in table["results"]
        if row["method"] not in ran
    ]
    place = {(item.scene, item.bag): number for number, item in enumerate(items)}
    return sorted([*rows, *kept], key=lambda row: place[row["scene"], row["bag"]])


def run_timing(bench: Path, options: argparse.Namespace, snapshot: Snapshot, items: Sequence[Item], out: Path) -> None:
    """Wall time on full scenes."""
    rows = timing.measure_in_turn(
        bench,
        Records(RUNS / "timing.jsonl"),
        [method for method, _ in methods(options, snapshot)],
        items,
        repeats=options.repeats,
        fresh=options.fresh,
        told=tell,
    )
    summary, machine = timing.summarize(rows), machine_of(options)
    settings = {row["method"]: row["settings"] for row in rows}
    dump(out / "timing.json", {"machine": machine, "settings": settings, "results": summary})
    (out / "timing.md").write_text(timing.to_markdown(summary, machine))


def write(rows: Sequence[Row], options: argparse.Namespace, out: Path) -> None:
    """Results, and confidence if the reports state it."""
    recorded_peers, machine = peers.read(), machine_of(options)
    settings = {row["method"]: row["settings"] for row in rows}
    means = {
        size: {method: {"bags": count, "of": of, **values} for method, (count, of, values) in figures.items()}
        for size, figures in tables.means_by_method(rows, recorded_peers).items()
    }
    left_out = ("key", "settings", "report")
    results = [
        {**{name: row[name] for name in row if name not in left_out}, "confidence": confidence.confidence_of(row)}
        for row in rows
    ]
    document = {"machine": machine, "settings": settings, "means": means, "results": results}
    dump(out / "results.json", document)
    (out / "results.md").write_text(tables.to_markdown(rows, recorded_peers, machine))
    summary = confidence.summarize([row for row in rows if row["method"] == "vggsfm"], options.low)
    if summary is not None:
        dump(out / "confidence.json", summary)
        (out / "confidence.md").write_text(confidence.to_markdown(summary))
    print(f"Tables: {out}")


def dump(path: Path, document: dict[str, Any]) -> None:
    """JSON with one line for each entry of a list at the top."""
    parts = []
    for name, value in document.items():
        lines = ",\n  ".join(json.dumps(item) for item in value) if isinstance(value, list) and value else None
        parts.append(f' "{name}": ' + (json.dumps(value) if lines is None else f"[\n  {lines}\n ]"))
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def machine_of(options: argparse.Namespace) -> dict[str, Any]:
    """What everything ran on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "processor": processor(), "threads": options.threads, "system": platform.system()}


def processor() -> str:
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
