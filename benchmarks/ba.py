"""Bundle adjustment three ways on the same problems: time, memory and cost of every adjuster.

    python benchmarks/ba.py [--sizes 10x2k,50x10k] [--adjusters schur,ceres] [--rounds 3] [--cores 2]
    python benchmarks/ba.py --model path/to/sparse --name fountain-P11   # adds a problem made of a COLMAP model

Made-up problems are frames x points on a ring around an object, 5 observations a point within 12 frames to each side,
0.5 px noise, 5 % of the observations off by 30 px, a Cauchy loss of one pixel, one camera with free focal length and
distortion. Every solution is found in a process of its own that may use so many cores, after a small problem has warmed
it up; adjusters take turns within a round, so that other work on the machine meets all of them. ``seconds`` are those
of the solver, for ceres without our conversion to its types and back; ``all cores`` is processor time, conversion
included. Writes
``benchmarks/ba.json`` and the table ``benchmarks/ba.md``; run it with nothing else running.
"""

import argparse
import dataclasses
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIZES = {"8x100": (8, 100), "10x2k": (10, 2000), "50x10k": (50, 10_000), "200x50k": (200, 50_000)}
EXTRA_SIZES = {"5x500": (5, 500), "1000x100k": (1000, 100_000)}
ADJUSTERS = ("schur", "ceres", "theseus")
WARM_UP = (6, 60)
NOISE_PX, OUTLIERS, OUTLIER_PX = 0.5, 0.05, 30.0
OBSERVATIONS, WINDOW = 5, 12
SLOW = {"theseus": 20_000}
"""Adjusters that are only asked for problems of up to so many observations."""


def synthetic(frames: int, points: int, seed: int = 0) -> Any:
    """A problem with a disturbed start."""
    import torch
    from worlds import Path as CameraPath
    from worlds import WorldConfig, make_world

    from vggsfm_cli.bundle_adjustment.problem import RobustLoss, move_poses, problem_from_observations
    from vggsfm_cli.geometry import pose
    from vggsfm_cli.geometry.camera import project
    from vggsfm_cli.geometry.robust import Loss
    from vggsfm_cli.scene import Points

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    path = CameraPath.ARC if frames <= 20 else CameraPath.RING
    world = make_world(WorldConfig(path=path, frames=frames, points=points), seed)
    xyz, normals, centers = world.points.xyz_world[0], world.normals[0], world.cameras.centers[0]
    facing = (centers @ normals.T - (normals * xyz).sum(-1)) / torch.cdist(centers, xyz)
    offset = (torch.arange(frames)[:, None] - facing.argmax(0) + frames // 2) % frames - frames // 2
    near = torch.where(offset.abs() <= WINDOW, torch.rand(offset.shape, generator=generator), -offset.abs().float())
    frame = near.topk(OBSERVATIONS, dim=0).indices.T.flatten()
    point = torch.arange(points).repeat_interleave(OBSERVATIONS)
    xyz_cam = pose.transform(world.cameras.cam_from_world[0, frame], xyz[point])
    xy = project("SIMPLE_RADIAL", world.cameras.params[0, 0], xyz_cam)[0] + NOISE_PX * normal(len(frame), 2)
    wrong = torch.rand(len(frame), generator=generator) < OUTLIERS
    xy = xy + wrong[:, None] * OUTLIER_PX * normal(len(frame), 2)
    update = torch.cat([0.005 * normal(frames, 3), 0.02 * normal(frames, 3)], -1)
    params = world.cameras.params * torch.tensor([1.03, 1, 1, 0])
    start = move_poses(world.cameras.cam_from_world[0], update)[None]
    return problem_from_observations(
        dataclasses.replace(world.cameras, cam_from_world=start, params=params),
        Points(xyz_world=(xyz + 0.02 * normal(points, 3))[None], valid=world.points.valid),
        frame=frame,
        point=point,
        xy=xy,
        loss=RobustLoss(kind=Loss.CAUCHY),
    )


def from_model(folder: Path, seed: int = 0) -> Any:
    """The problem of a COLMAP model, its start disturbed by about a pixel."""
    import torch

    from vggsfm_cli.bundle_adjustment.problem import RobustLoss, move_poses, problem_from_reconstruction
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.geometry.robust import Loss

    generator = torch.Generator().manual_seed(seed)
    model = read_colmap(folder)
    poses = model.cameras.cam_from_world[0].double()
    size = float(model.cameras.centers[0].std(0).norm())
    shake = torch.randn(len(poses), 6, generator=generator, dtype=torch.float64)
    shake = shake * torch.tensor([1e-3] * 3 + [1e-3 * size] * 3, dtype=torch.float64)
    cameras = dataclasses.replace(model.cameras, cam_from_world=move_poses(poses, shake)[None])
    return problem_from_reconstruction(dataclasses.replace(model, cameras=cameras), loss=RobustLoss(kind=Loss.CAUCHY))


def build(adjuster: str) -> Any:
    """The solver; a class with its settings lives beside it."""
    module = importlib.import_module(f"vggsfm_cli.bundle_adjustment.{adjuster}_solver")
    return getattr(module, f"{adjuster.title()}Config")(max_iterations=50).build()


def time_ceres(spent: list[float]) -> None:
    """Add up the seconds within pycolmap's adjuster, without our conversion to its types and back."""
    import pycolmap

    def timed(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent.append(time.perf_counter() - started)

        return call

    pycolmap.create_default_ceres_bundle_adjuster = timed(pycolmap.create_default_ceres_bundle_adjuster)
    pycolmap.CeresBundleAdjuster.solve = timed(pycolmap.CeresBundleAdjuster.solve)  # type: ignore[method-assign]


def memory_mb(field: str) -> float:
    """A field of /proc/self/status; where there is none, the most memory held so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")


def run_here(name: str, adjuster: str, cores: int, model: Path | None) -> dict[str, Any]:
    """One solution in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import torch

    # the library's way: each operation on one thread (see vggsfm_cli/threads.py); Ceres and BLAS in it use all cores
    torch.set_num_threads(1)
    within: list[float] = []
    if adjuster == "ceres":
        time_ceres(within)
    problem = from_model(model) if model else synthetic(*{**SIZES, **EXTRA_SIZES}[name])
    solver = build(adjuster)
    with torch.no_grad():
        solver(synthetic(*WARM_UP))
        within.clear()
        forget_peak()
        before = memory_mb("VmRSS")
        started, busy = time.perf_counter(), time.process_time()
        solution = solver(problem)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        peak = memory_mb("VmHWM") - before
    return {
        "observations": len(problem.xy),
        "seconds": seconds,
        "seconds_within": sum(within) if within else seconds,
        "cpu_seconds": busy,
        "peak_mb": peak,
        "cost_initial": float(solution.cost_initial[0]),
        "cost_final": float(solution.cost_final[0]),
        "iterations": solution.iterations[0],
        "status": solution.status[0].name,
    }


def run_apart(name: str, adjuster: str, options: argparse.Namespace, model: Path | None) -> dict[str, Any]:
    """One solution in a process of its own; a failure is a result."""
    command = [sys.executable, __file__, "--run", name, adjuster, "--cores", str(options.cores)]
    command += ["--model", str(model)] if model else []
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median times; everything else is the same in every round but for memory."""
    failed = [run for run in runs if "error" in run]
    if failed:
        return failed[0]
    medians = {
        key: statistics.median(run[key] for run in runs)
        for key in ("seconds", "seconds_within", "cpu_seconds", "peak_mb")
    }
    return {**runs[0], **medians, "rounds": [run["seconds_within"] for run in runs]}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| problem | observations | adjuster | seconds | with conversion | all cores | memory MB | iterations "
        "| final cost | time / ceres |",
        "| --- " * 10 + "|",
    ]
    for name, by_adjuster in results.items():
        best = min((each["cost_final"] for each in by_adjuster.values() if "cost_final" in each), default=0.0)
        ceres = by_adjuster.get("ceres", {}).get("rounds")
        for adjuster, each in by_adjuster.items():
            if "error" in each:
                lines.append(f"| {name} | | {adjuster} | {each['error']} | | | | | | |")
                continue
            ratio = ""
            if ceres:
                pairs = zip(each["rounds"], ceres, strict=True)
                ratio = f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"
            above = each["cost_final"] / best - 1
            times = f"{each['seconds_within']:.3f} | {each['seconds']:.3f} | {each['cpu_seconds']:.3f}"
            cost = f"{each['peak_mb']:.0f} | {each['iterations']} | {each['cost_final']:.2f} (+{above:.0e})"
            lines.append(f"| {name} | {each['observations']} | {adjuster} | {times} | {cost} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {', '.join({**SIZES, **EXTRA_SIZES})}")
    parser.add_argument("--adjusters", default=",".join(ADJUSTERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", type=Path, help="folder of a COLMAP model to adjust as well")
    parser.add_argument("--name", default="model", help="what to call that model")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--run", nargs=2, metavar=("SIZE", "ADJUSTER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, adjuster = options.run
        print(json.dumps(run_here(name, adjuster, options.cores, options.model)))
        return
    problems: list[tuple[str, Path | None]] = [(name, None) for name in options.sizes.split(",") if name]
    if options.model:
        problems.append((options.name, options.model))
    results: dict[str, dict[str, Any]] = {}
    for name, model in problems:
        asked = [a for a in options.adjusters.split(",") if model or _size(name) <= SLOW.get(a, _size(name))]
        runs: dict[str, list[dict[str, Any]]] = {adjuster: [] for adjuster in asked}
        for _ in range(options.rounds):
            for adjuster in asked:
                runs[adjuster].append(run_apart(name, adjuster, options, model))
        results[name] = {adjuster: summarize(each) for adjuster, each in runs.items()}
        print(table({name: results[name]}), flush=True)
    document = {"machine": platform.processor() or platform.machine(), "cores": options.cores, "results": results}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ba.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "ba.md").write_text("# Bundle adjustment\n\n" + table(results))


def _size(name: str) -> int:
    return OBSERVATIONS * {**SIZES, **EXTRA_SIZES}[name][1]


if __name__ == "__main__":
    main()
