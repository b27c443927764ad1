"""A long walk with a loop, rendered with its truth: time, memory, drift, and what closing the loop gains.

    python benchmarks/sequence.py [--frames 300] [--scene DIR] [--keep DIR]

Renders ``vggsfm synth --layout walk`` (or takes such a scene), reconstructs it, finishes it with loops left open and
closed, and writes ``benchmarks/sequence.json`` (one entry for each number of frames; others are kept) and
the table ``benchmarks/sequence.md``.
"""

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vggsfm_cli.scene import Reconstruction

HERE = Path(__file__).resolve().parent
SIZE = 320
SEED = 0
COLUMNS = (
    "frames", "size", "registered", "keyframes", "length m", "ATE m", "ATE % of length", "loops closed", "gap m",
    "gap m, loop open", "ATE %, loop open", "CPU s a frame: first", "last", "growth %", "CPU s", "peak memory MB",
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


def measure(scene: Path) -> dict[str, Any]:
    """Reconstruct one walk; its map is finished twice, with loops left open and closed."""
    from vggsfm_cli import load_model
    from vggsfm_cli.geometry import pose
    from vggsfm_cli.io.sequence import PhotographSequence
    from vggsfm_cli.scene import silent
    from vggsfm_cli.sequence import SequenceOptions
    from vggsfm_cli.sequence.reconstruct import SequenceRun
    from vggsfm_cli.threads import one_thread_each

    images = PhotographSequence(scene / "images", long_side=SIZE)
    run = SequenceRun(images, load_model("small"), SequenceOptions(), silent)
    with torch.no_grad(), one_thread_each():
        started, cpu = time.perf_counter(), time.process_time()
        parts = run.follow()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        shared = {id(images.facts): images.facts}  # never changed, and holds a lock, which cannot be copied
        left_open = run.finish(copy.deepcopy(parts, shared), close_loops=False)[0]
        started, finish_cpu = time.perf_counter(), time.process_time()
        found = run.finish(parts, close_loops=True)
        wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - finish_cpu
    closed = found[0]
    length = float(pose.center(truth_of(scene, images.names)).diff(dim=0).norm(dim=-1).sum())
    first, last = seconds_a_frame(closed.report["windows"])
    return {
        "frames": len(images),
        "size": images.facts.stored_size[0, 0].tolist(),
        "threads": len(os.sched_getaffinity(0)),
        "models": len(found),
        "registered": len(closed.names),
        "keyframes": closed.report["keyframes"],
        "points": len(closed.xyz_world),
        "length_m": length,
        "closed": {**errors_of(scene, closed), "loops": closed.report["loops"]},
        "open": errors_of(scene, left_open),
        "windows": closed.report["windows"],
        "first_cpu_s": first,
        "last_cpu_s": last,
        "growth_percent": 100 * (last / first - 1),
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def errors_of(scene: Path, found: "Reconstruction") -> dict[str, float]:
    """ATE and gap in metres."""
    from vggsfm_cli.evaluation.poses import aligned_distances

    true, poses = truth_of(scene, found.names), found.cameras.cam_from_world[0]
    return {"ate_m": float(aligned_distances(poses, true).square().mean().sqrt()), "gap_m": gap_of(poses, true)}


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
        closed, left, length = entry["closed"], entry["open"], entry["length_m"]
        cells = [
            entry["frames"], "x".join(str(side) for side in entry["size"]), entry["registered"], entry["keyframes"],
            f"{length:.1f}", f"{closed['ate_m']:.3f}", f"{100 * closed['ate_m'] / length:.3f}", len(closed["loops"]),
            f"{closed['gap_m']:.3f}", f"{left['gap_m']:.3f}", f"{100 * left['ate_m'] / length:.3f}",
            f"{entry['first_cpu_s']:.2f}", f"{entry['last_cpu_s']:.2f}", f"{entry['growth_percent']:+.0f}",
            f"{entry['cpu_s']:.0f}", f"{entry['peak_mb']:.0f}",
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
    parser.add_argument("--keep", type=Path, help="where the walk is rendered; a folder that goes away if not given")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entry = measure(chosen.scene or render(chosen.frames, chosen.keep or Path(folder) / "walk"))
    results = HERE / "sequence.json"
    entries = json.loads(results.read_text()) if results.exists() else []
    entries = [one for one in entries if one["frames"] != entry["frames"]] + [entry]
    entries.sort(key=lambda one: one["frames"])
    results.write_text(json.dumps(entries, indent=1) + "\n")
    (HERE / "sequence.md").write_text(table(entries))
    print(table(entries))


if __name__ == "__main__":
    main()
