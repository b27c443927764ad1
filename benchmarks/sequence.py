"""A long walk with a loop, rendered with its truth: time, memory, drift, and what closing the loop gains.

    python benchmarks/sequence.py [--frames 300] [--scene DIR] [--no-open] [--keep DIR]

Renders ``vggsfm synth --layout walk`` (or takes such a scene), reconstructs it with and without closing loops, each in
a process of its own, and writes ``benchmarks/sequence.json`` (one entry for each number of frames; others are kept) and
the table ``benchmarks/sequence.md``.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
SIZE = 320
SEED = 0
COLUMNS = (
    "frames", "size", "loops closed", "registered", "keyframes", "length m", "ATE m", "ATE % of length", "gap m",
    "gap m, loop left open", "CPU s a frame: first", "last", "growth %", "CPU s", "peak memory MB",
)  # fmt: skip


def truth_of(scene: Path, names: tuple[str, ...]) -> torch.Tensor:
    """True ``cam_from_world`` [S, 3, 4] of some frames."""
    images = json.loads((scene / "ground_truth.json").read_text())["images"]
    rows = [[[*row, x] for row, x in zip(images[name]["R"], images[name]["t"], strict=True)] for name in names]
    return torch.tensor(rows, dtype=torch.float64)


def gap_of(found: torch.Tensor, true: torch.Tensor) -> float:
    """Error of the way between the two visits of the place where the walk closes, in metres.

    The visits are the frames of the first and of the last quarter that are truly nearest to each other. Their way
    counts at the scale of the whole, so that what is measured is how far the two ends of the model lie apart.
    """
    from vggsfm_cli.evaluation.poses import umeyama_of
    from vggsfm_cli.geometry import alignment, pose

    centers, goal = pose.center(found), pose.center(true)
    moved = alignment.apply_to_points(*umeyama_of(centers, goal), centers)
    quarter = len(goal) // 4
    distance = torch.cdist(goal[:quarter], goal[-quarter:])
    first, last = divmod(int(distance.argmin()), quarter)
    last += len(goal) - quarter
    return float(((moved[last] - moved[first]) - (goal[last] - goal[first])).norm())


def seconds_a_frame(windows: list[dict[str, Any]]) -> tuple[float, float]:
    """CPU seconds a frame of the first windows and of the last ones.

    The very first window is left out, since it also finds the focal length, and so is the last one, which is shorter.
    Windows are few and differ, so a fifth of them, at least two, is taken together on either side.
    """
    usual = windows[1:-1] if len(windows) > 3 else windows
    count = min(max(len(usual) // 5, 2), len(usual))
    first, last = (
        sum(w["cpu_seconds"] for w in some) / sum(w["new_frames"] for w in some)
        for some in (usual[:count], usual[-count:])
    )
    return first, last


def measure(scene: Path, close: bool) -> dict[str, Any]:
    """Reconstruct one walk."""
    from vggsfm_cli import load_model
    from vggsfm_cli.evaluation.poses import aligned_distances
    from vggsfm_cli.geometry import pose
    from vggsfm_cli.io.sequence import PhotographSequence
    from vggsfm_cli.sequence import SequenceOptions, reconstruct_sequence

    options = SequenceOptions()
    options = dataclasses.replace(options, loops=dataclasses.replace(options.loops, close=close))
    images = PhotographSequence(scene / "images", long_side=SIZE)
    model = load_model("small")
    started, cpu = time.perf_counter(), time.process_time()
    found = reconstruct_sequence(images, model, options)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    largest = found[0]
    true = truth_of(scene, largest.names)
    poses = largest.cameras.cam_from_world[0]
    ate = float(aligned_distances(poses, true).square().mean().sqrt())
    everywhere = pose.center(truth_of(scene, images.names))
    length = float(everywhere.diff(dim=0).norm(dim=-1).sum())
    first, last = seconds_a_frame(largest.report["windows"])
    return {
        "frames": len(images),
        "size": images.facts.stored_size[0, 0].tolist(),
        "models": len(found),
        "registered": len(largest.names),
        "keyframes": largest.report["keyframes"],
        "points": len(largest.xyz_world),
        "loops": largest.report["loops"],
        "length_m": length,
        "ate_m": ate,
        "ate_percent": 100 * ate / length,
        "gap_m": gap_of(poses, true),
        "windows": largest.report["windows"],
        "first_cpu_s": first,
        "last_cpu_s": last,
        "growth_percent": 100 * (last / first - 1),
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def in_process(scene: Path, close: bool) -> dict[str, Any]:
    """``measure`` where nothing else has taken memory before."""
    command = [sys.executable, __file__, "--scene", str(scene), "--one", "closed" if close else "open"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(entries: list[dict[str, Any]]) -> str:
    """The entries as Markdown."""
    lines = [
        "# Long sequences",
        "",
        "A rendered walk around a block and back to the start (`vggsfm synth --layout walk`), reconstructed by",
        "`reconstruct_sequence` with the model `small` on CPU. ATE: root mean square distance of the cameras to the",
        "true ones after the best similarity. Gap: error of the way between the two visits of the place where the walk",
        "closes. CPU seconds a frame are those of the first and the last fifth of the windows, without the very first",
        "one, which also finds the focal length, and the last, shorter one. `make bench-sequence` makes this table.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---" for _ in COLUMNS) + " |",
    ]
    for entry in entries:
        closed, left = entry["closed"], entry.get("open")
        cells = [
            closed["frames"], "x".join(str(side) for side in closed["size"]), len(closed["loops"]),
            closed["registered"], closed["keyframes"], f"{closed['length_m']:.1f}", f"{closed['ate_m']:.3f}",
            f"{closed['ate_percent']:.3f}", f"{closed['gap_m']:.3f}", f"{left['gap_m']:.3f}" if left else "",
            f"{closed['first_cpu_s']:.2f}", f"{closed['last_cpu_s']:.2f}", f"{closed['growth_percent']:+.0f}",
            f"{closed['cpu_s']:.0f}", f"{closed['peak_mb']:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def render(frames: int, out: Path) -> Path:
    """The walk as a folder."""
    command = ["-m", "vggsfm_cli", "synth", "--out", str(out), "--layout", "walk", "--frames", str(frames)]
    subprocess.run([sys.executable, *command, "--size", str(SIZE), "--seed", str(SEED), "--quiet"], check=True)
    return out / "scene_000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--scene", type=Path, help="a rendered walk; rendered anew if not given")
    parser.add_argument("--no-open", action="store_true", help="do not measure without closing loops")
    parser.add_argument("--keep", type=Path, help="where the walk is rendered; a folder that goes away if not given")
    parser.add_argument("--one", choices=("closed", "open"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.scene, chosen.one == "closed")))
        return
    with tempfile.TemporaryDirectory() as folder:
        scene = chosen.scene or render(chosen.frames, chosen.keep or Path(folder) / "walk")
        entry: dict[str, Any] = {"threads": len(os.sched_getaffinity(0)), "closed": in_process(scene, True)}
        if not chosen.no_open:
            entry["open"] = in_process(scene, False)
    results = HERE / "sequence.json"
    entries = json.loads(results.read_text()) if results.exists() else []
    entries = [one for one in entries if one["closed"]["frames"] != entry["closed"]["frames"]] + [entry]
    entries.sort(key=lambda one: one["closed"]["frames"])
    results.write_text(json.dumps(entries, indent=1) + "\n")
    (HERE / "sequence.md").write_text(table(entries))
    print(table(entries))


if __name__ == "__main__":
    main()
