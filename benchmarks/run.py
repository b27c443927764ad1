"""Reconstruct real scenes with the command a user runs, and score the cameras against their reference.

    VGGSFM_BENCH=/path/to/bench python benchmarks/run.py [--scenes fountain-P11,fox] [--bags 3,5]

The folder holds ``data/SCENE/images``, ``data/SCENE/gt.json``, ``bags.json`` and ``evaluate.py``. Writes
``benchmarks/results.json`` and the table ``benchmarks/results.md``; run it with nothing else running, for the seconds.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def runs(bench: Path, scenes: list[str] | None, bag_sizes: list[str]) -> list[tuple[str, str, list[str]]]:
    """(scene, bag, names of the images) of everything to run."""
    listed = json.loads((bench / "bags.json").read_text())["scenes"]
    chosen = []
    for scene, bags in listed.items():
        if scenes is not None and scene not in scenes:
            continue
        wanted = [bag for bag in bags if bag == "full" or bag.removeprefix("bag").split("-")[0] in bag_sizes]
        chosen += [(scene, bag, bags[bag]) for bag in wanted]
    return chosen


def run(bench: Path, scene: str, bag: str, names: list[str], camera_mode: str, model: str) -> dict[str, Any]:
    """One reconstruction and its score; a failure is a result."""
    truth = bench / "data" / scene / "gt.json"
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "sparse"
        images.mkdir()
        for name in names:
            shutil.copy(bench / "data" / scene / "images" / name, images / name)
        command = [sys.executable, "-m", "vggsfm_cli", "reconstruct", str(images), "--out", str(out), "--quiet"]
        started = time.perf_counter()
        command += ["--camera-mode", camera_mode, "--model", model]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        score_file = Path(folder) / "score.json"
        evaluate = [sys.executable, str(bench / "evaluate.py"), str(out), str(truth), "--names", ",".join(names)]
        subprocess.run([*evaluate, "--json", str(score_file)], check=True, capture_output=True)
        report = json.loads((out / "report.json").read_text()) if (out / "report.json").is_file() else {}
        return {
            "scene": scene,
            "bag": bag,
            "exit_code": done.returncode,
            "seconds": round(seconds, 1),
            "peak_memory_mb": report.get("peak_memory_mb"),
            "score": json.loads(score_file.read_text()),
        }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| scene | images | registered | AUC@1 | @3 | @5 | @10 | seconds | memory MB |", "| --- " * 9 + "|"]
    for result in results:
        score = result["score"]
        auc = " | ".join(f"{score[f'AUC_max@{threshold}']:.1f}" for threshold in (1, 3, 5, 10))
        memory = result["peak_memory_mb"]
        lines.append(
            f"| {result['scene']} | {result['bag']} | {score['registered']}/{score['images']} | {auc} "
            f"| {result['seconds']:.1f} | {'' if memory is None else round(memory)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", help="comma-separated; all if not given")
    parser.add_argument("--bags", default="", help="sizes of the bags to run beside the full scenes: 3,5,10")
    parser.add_argument("--model", default="small", help="a name, or a folder")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if "VGGSFM_BENCH" not in os.environ:
        sys.exit("Set VGGSFM_BENCH to the folder with the scenes.")
    bench = Path(os.environ["VGGSFM_BENCH"]).resolve()
    results = []
    for scene, bag, names in runs(bench, options.scenes and options.scenes.split(","), options.bags.split(",")):
        own = "per-image" if scene == "sacre_coeur" else "single"  # as for the peers
        results.append(run(bench, scene, bag, names, own, options.model))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    document = {"machine": machine, "python": platform.python_version(), "model": options.model, "results": results}
    (options.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    note = "K unknown, 1024 px to the network; AUC_max in percent.\nWritten by `python benchmarks/run.py`.\n\n"
    (options.out / "results.md").write_text("# Real scenes\n\n" + note + table(results))


if __name__ == "__main__":
    main()
