"""Time and memory of the v2 tracker against the naive one, which computes what the specification says, as it says it.

    PYTHONPATH=tests python benchmarks/v2.py [--size 512] [--queries 512] [--frames 6] [--threads 2]

The naive one (``tests/v2_naive.py``) has correlation volumes of whole maps, attention with its weights written out and
all patches at once. Weights are the recipe's of the golden values, pictures are random texture. Every variant runs in a
process of its own; the outputs are compared. The matrix products of the coarse tracker are also timed alone: they are
what both have in common. Writes ``benchmarks/v2.json`` and ``benchmarks/v2.md``; run it with nothing else running, for
the seconds.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from products import products_of
from safetensors.torch import load_file, save_file
from torch import Tensor

import v2_naive
from v2_recipe import published
from vggsfm_cli.recipes.v2.encoders import COARSE_STRIDE
from vggsfm_cli.recipes.v2.patches import refine
from vggsfm_cli.recipes.v2.tracker import V2Tracker, V2TrackerConfig
from vggsfm_cli.recipes.v2.weights import tracker_key
from vggsfm_cli.threads import limit_cores, one_thread_each

HERE = Path(__file__).resolve().parent
VARIANTS = ("naive", "ours", "ours bf16")
STAGES = ("coarse", "fine")
DEFAULT_FRAMES, DEFAULT_QUERIES = 10, 2048
"""Size at which the specification states the published code's cost, 1024 px."""

WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait must not count as threads that compute."""

PUBLISHED = {"coarse": "6 to 8 min, volumes 1.8 GB", "fine": "40 s, features 2.5 GB"}
"""Its estimate for one query frame on 2 shared cores."""


def texture(frames: int, size: int) -> Tensor:
    """Smooth random pictures, each a shifted view of the same one."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, 3, size + 64, size + 64)
    for cells in (8, 32, 128):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        picture += torch.nn.functional.interpolate(noise, size + 64, mode="bicubic") / 3
    shifts = [8 * s % 64 for s in range(frames)]
    return torch.stack([picture[0, :, k : k + size, k // 2 : k // 2 + size] for k in shifts]).clamp(0, 1)


def measure(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, and seconds, processor seconds and memory above what was there before."""
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    figures = {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "memory_mb": (_status("VmHWM") - before) / 1024,
    }
    return result, {name: round(value, 2) for name, value in figures.items()}


def measure_twice(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Memory of the first run, when nothing lies around yet; seconds of the second, when the libraries are warm."""
    _, cold = measure(function)
    result, warm = measure(function)
    return result, warm | {"memory_mb": cold["memory_mb"]}


def _status(name: str) -> int:
    """A line of the process's status, kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@torch.no_grad()
def run(variant: str, folder: Path, threads: int) -> None:
    """One variant, in this process: the figures as JSON, the tracks beside the inputs."""
    torch.set_num_threads(threads)
    limit_cores(threads)
    inputs = load_file(folder / "inputs.safetensors")
    pixels, maps, queries = inputs["pixels"], inputs["maps"], inputs["queries"]
    tracker = V2TrackerConfig().build().eval()
    tracker.load_state_dict(load_file(folder / "weights.safetensors"))
    naive = variant == "naive"
    if variant == "ours bf16":
        tracker = tracker.in_precision(torch.bfloat16)
    half = torch.autocast("cpu", torch.bfloat16) if variant == "ours bf16" else nullcontext()
    with half, nullcontext() if naive else one_thread_each():
        coarse, refined = (naive_stages if naive else our_stages)(tracker, pixels, maps, queries)
        xy, of_coarse = measure_twice(coarse)
        last, of_fine = measure_twice(lambda: refined(xy))
    save_file({"coarse": xy.contiguous(), "fine": last.contiguous()}, folder / f"{variant}.safetensors")
    figures: dict[str, Any] = {"coarse": of_coarse, "fine": of_fine}
    if variant != "ours bf16":
        torch.set_num_threads(threads)
        limit_cores(1)
        figures["products"] = products_of(coarse)
    (folder / f"{variant}.json").write_text(json.dumps(figures))


def naive_stages(tracker: V2Tracker, pixels: Tensor, maps: Tensor, queries: Tensor) -> tuple[Any, Any]:
    """Both stages as the specification has them."""

    def coarse() -> Tensor:
        xy, _, _ = v2_naive.follow(tracker.coarse, maps[None], queries[None] / COARSE_STRIDE)
        return xy[0] * COARSE_STRIDE

    return coarse, lambda xy: v2_naive.refine(tracker, pixels, xy)


def our_stages(tracker: V2Tracker, pixels: Tensor, maps: Tensor, queries: Tensor) -> tuple[Any, Any]:
    """Both stages of the library."""
    at_once = tracker.config.pairs_at_once

    def coarse() -> Tensor:
        return tracker.coarse(maps[None], queries[None] / COARSE_STRIDE, pairs_at_once=at_once).xy[0] * COARSE_STRIDE

    def fine(xy: Tensor) -> Tensor:
        settings = (0, tracker.config.patches, at_once)
        return refine(tracker.fine_encoder, tracker.fine, pixels, xy, *settings).xy

    return coarse, fine


def prepare(folder: Path, size: int, frames: int, queries: int, threads: int) -> dict[str, float]:
    """Write weights, pictures, features and queries for all variants; figures of the encoder, which they share."""
    torch.set_num_threads(threads)
    state = {tracker_key(name).removeprefix("tracker."): value for name, value in published("track_predictor.").items()}
    save_file(state, folder / "weights.safetensors")
    tracker = V2TrackerConfig().build().eval()
    tracker.load_state_dict(state)
    pixels = texture(frames, size)
    with torch.inference_mode():
        maps, figures = measure(lambda: torch.cat([tracker.coarse_encoder(frame[None]) for frame in pixels]))
    xy = 16 + torch.rand(queries, 2, generator=torch.Generator().manual_seed(1)) * (size - 32)
    save_file({"pixels": pixels, "maps": maps, "queries": xy}, folder / "inputs.safetensors")
    return figures


def compare(folder: Path, variant: str) -> dict[str, dict[str, float]]:
    """Distance of the tracks of a variant from the naive ones, pixels."""
    naive, ours = (load_file(folder / f"{name}.safetensors") for name in ("naive", variant))
    found = {}
    for stage in STAGES:
        distance = (ours[stage] - naive[stage]).norm(dim=-1)[1:]
        found[stage] = {"median_px": float(distance.median()), "largest_px": float(distance.max())}
    return found


def table(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    size, frames, queries = (result[name] for name in ("size", "frames", "queries"))
    growth = DEFAULT_FRAMES * DEFAULT_QUERIES / (frames * queries)
    lines = [
        f"{frames} frames of {size} px, {queries} queries, {result['threads']} threads, {result['machine']}, "
        f"torch {result['torch']}; load average before it {result['load']}, so that processor seconds say more than "
        f"seconds. Features of all frames: {result['encoder']['processor_seconds']:.1f} processor s.",
        "",
        "| stage | variant | seconds | processor s | memory MB | median, largest distance from naive px "
        f"| processor s at {DEFAULT_FRAMES} x 1024 px, {DEFAULT_QUERIES} queries |",
        "| --- " * 7 + "|",
    ]
    for stage in STAGES:
        for variant in VARIANTS:
            figures, distance = result["variants"][variant][stage], result["distance"][variant][stage]
            lines.append(
                f"| {stage} | {variant} | {figures['seconds']:.1f} | {figures['processor_seconds']:.1f} "
                f"| {figures['memory_mb']:.0f} | {distance['median_px']:.1e}, {distance['largest_px']:.1e} "
                f"| {figures['processor_seconds'] * growth:.0f} |"
            )
        lines.append(f"| {stage} | published code, by its specification | | | | | {PUBLISHED[stage]} |")
    lines.append("")
    for variant in VARIANTS[1:]:
        ours, naive = result["variants"][variant], result["variants"]["naive"]
        time_share = ours["coarse"]["processor_seconds"] / naive["coarse"]["processor_seconds"]
        memory_share = _peak(ours) / _peak(naive)
        lines.append(
            f"- {variant}: {time_share:.2f} of the coarse tracker's time, {memory_share:.2f} of the peak memory"
        )
    lines += ["", *_products(result["variants"])]
    return "\n".join(lines) + "\n"


def _products(variants: dict[str, Any]) -> list[str]:
    """What the matrix products take of the coarse tracker's time, and what that means."""
    lines = ["| coarse tracker | matrix products GFLOP | alone, processor s | of its time |", "| --- " * 4 + "|"]
    for name in ("naive", "ours"):
        products, whole = variants[name]["products"], variants[name]["coarse"]["processor_seconds"]
        share = products["processor_seconds"] / whole
        lines.append(f"| {name} | {products['gigaflop']:.0f} | {products['processor_seconds']:.1f} | {share:.2f} |")
    least = variants["ours"]["products"]["processor_seconds"] / variants["naive"]["coarse"]["processor_seconds"]
    lines += [
        "",
        f"The products that ours cannot do without take {least:.2f} of the naive time by themselves: nothing that "
        "computes the same numbers in the same precision can be below that.",
    ]
    return lines


def _peak(stages: dict[str, dict[str, float]]) -> float:
    return max(stages[stage]["memory_mb"] for stage in STAGES)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Prepare, run every variant apart, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run[0], Path(args.run[1]), args.threads)
        return
    result: dict[str, Any] = {name: getattr(args, name) for name in ("size", "frames", "queries", "threads")}
    result |= {"machine": _processor(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["encoder"] = prepare(folder, args.size, args.frames, args.queries, args.threads)
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--threads", str(args.threads), "--run", variant, name]
            subprocess.run(command, check=True, env=os.environ | WAIT)
        result["variants"] = {each: json.loads((folder / f"{each}.json").read_text()) for each in VARIANTS}
        result["distance"] = {each: compare(folder, each) for each in VARIANTS}
    (args.out / "v2.json").write_text(json.dumps(result, indent=2) + "\n")
    (args.out / "v2.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
