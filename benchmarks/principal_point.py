"""Are principal points found where they are off the centre, and is nothing lost where they are not?

    python benchmarks/principal_point.py [--scenes 6] [--frames 8]

Renders scenes twice, with principal points drawn at random and with the same scenes centred; reconstructs each with
``--refine-principal-point`` ``auto`` and ``no``, and compares with the truth. No photograph and no constant of a real
scene is involved. Writes ``benchmarks/principal_point.json`` and ``.md``; minutes on two cores.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from pose_bench.methods import Run, Snapshot, Vggsfm, stop_on_request, versions
from pose_bench.score import errors_of
from pose_bench.tables import table

from vggsfm_cli.evaluation.poses import auc_max
from vggsfm_cli.io.synthetic import RenderedScene, write_scenes
from vggsfm_cli.synthetic.layouts import Layout
from vggsfm_cli.synthetic.photometry import PhotometryConfig
from vggsfm_cli.synthetic.render import render
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import Textures, procedural_textures
from vggsfm_cli.threads import map_threads

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 960, 720
SPREAD = {"off the centre": 0.015, "centred": 0.0}
"""Standard deviation of the principal point from the centre, in widths; at most two and a half times that."""

CHOICES = ("auto", "no")
LAYOUTS = (Layout.FACADE, Layout.ROOM, Layout.TABLETOP, Layout.CLUTTER, Layout.TERRAIN)
"""In turn: those with depth, from many sides."""

AREAS = (1, 5)


def render_scene(k: int, spread: float, frames: int, textures: Textures) -> RenderedScene:
    """Scene ``k``: the same surfaces and poses whatever the spread of the principal point."""
    config = SceneConfig(
        frames=frames,
        height=HEIGHT,
        width=WIDTH,
        max_angle_deg=(30.0, 80.0),
        focal=(0.7, 1.5),
        shared_camera=1.0,
        principal_point=spread,
        layouts=((LAYOUTS[k % len(LAYOUTS)], 1.0),),
        samples=2,
        photometry=PhotometryConfig(),
    )
    rendered = render(config, textures, 1, torch.Generator().manual_seed(70_000 + k))
    return rendered.images, rendered.cameras, None


def measure(scene: Path, run: Run) -> dict[str, Any]:
    """Errors of one reconstruction."""
    truth = scene / "ground_truth.json"
    images = json.loads(truth.read_text())["images"]
    first = next(iter(images.values()))
    true = (first["K"][0][2], first["K"][1][2])
    center = (first["width"] / 2, first["height"] / 2)
    errors = errors_of(run.models, truth, tuple(images))
    models = (run.report or {}).get("models", [])
    # parameters of SIMPLE_RADIAL: f, cx, cy, k
    found = models[0]["cameras"][0]["params"][1:3] if models else None
    return {
        "true_offset_px": round(math.dist(true, center), 2),
        "moved_px": None if found is None else round(math.dist(found, center), 2),
        "error_px": None if found is None else round(math.dist(found, true), 2),
        "registered": models[0]["images"] if models else 0,
        **{f"AUC@{threshold}": round(100 * auc_max(errors, threshold), 2) for threshold in AREAS},
        "median_rotation_deg": round(float(errors.rotation_deg.median()), 4),
    }


def to_markdown(results: Sequence[Mapping[str, Any]], frames: int) -> str:
    """A row for each scene and kind, then means."""
    note = (
        f"Rendered scenes of {frames} frames, {WIDTH} x {HEIGHT}, one camera each, focal length and principal point "
        "unknown. Offset from the centre and errors of the principal point in pixels; AUC in percent of the errors of "
        "poses over all pairs. `auto` frees the principal point at the end where the views determine it, `no` leaves "
        "it at the centre.\n\nWritten by `python benchmarks/principal_point.py`."
    )
    head = "layout | kind | true offset px | error px, auto | error px, no | AUC@1, auto | AUC@1, no | AUC@5, auto | no"
    rows = [
        [row["layout"], row["kind"], _number(row["auto"]["true_offset_px"])]
        + [_number(row[choice][figure]) for figure in ("error_px", "AUC@1", "AUC@5") for choice in CHOICES]
        for row in results
    ]
    parts = ["# Principal points of rendered scenes", note, table(head, rows), "## Over the scenes"]
    head = "kind | median error px, auto | median error px, no | mean AUC@1, auto | mean AUC@1, no"
    head += " | mean AUC@5, auto | mean AUC@5, no | freed by auto"
    over = [[kind, *map(_number, figures.values())] for kind, figures in summarize(results).items()]
    return "\n\n".join([*parts, table(head, over)]) + "\n"


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind: median error of the principal point, mean AUC, and how often ``auto`` moved it."""
    summary = {}
    for kind in SPREAD:
        rows = [row for row in results if row["kind"] == kind and row["auto"]["error_px"] is not None]
        figures: dict[str, Any] = {}
        for choice in CHOICES:
            known = [row[choice]["error_px"] for row in rows if row[choice]["error_px"] is not None]
            figures[f"median error px, {choice}"] = round(median(known), 2) if known else None
        for area in AREAS:
            for choice in CHOICES:
                values = [row[choice][f"AUC@{area}"] for row in results if row["kind"] == kind]
                figures[f"mean AUC@{area}, {choice}"] = round(mean(values), 2)
        figures["freed"] = sum(row["auto"]["moved_px"] > 1e-3 for row in rows)
        summary[kind] = figures
    return summary


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def main() -> None:
    """Render, reconstruct, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    stop_on_request()
    textures = procedural_textures(45, 256, torch.Generator().manual_seed(0))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = Snapshot(folder / "tool")
        methods = {
            choice: Vggsfm(
                snapshot=snapshot,
                threads=options.threads,
                options=("--refine-principal-point", choice, "--no-overview"),
            )
            for choice in CHOICES
        }
        for kind, spread in SPREAD.items():
            numbers = range(options.scenes)
            render_one = partial(render_scene, spread=spread, frames=options.frames, textures=textures)
            rendered = map_threads(render_one, numbers)
            written = write_scenes(rendered, folder / kind.replace(" ", "_"))
            for k in numbers:
                scene = written / f"scene_{k:03d}"
                row: dict[str, Any] = {"layout": str(LAYOUTS[k % len(LAYOUTS)]), "scene": k, "kind": kind}
                for choice, method in methods.items():
                    out = folder / f"{scene.name}_{spread}_{choice}"
                    out.mkdir()
                    row[choice] = measure(scene, method(scene / "images", out, True)[0])
                results.append(row)
                print(json.dumps(row), flush=True)
        settings = methods["auto"].settings()
    document = {
        "settings": {**settings, "frames": options.frames, "size": [WIDTH, HEIGHT], "spread_widths": SPREAD},
        "versions": versions("torch", "pycolmap"),
        "summary": summarize(results),
        "results": results,
    }
    (options.out / "principal_point.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "principal_point.md").write_text(to_markdown(results, options.frames))


if __name__ == "__main__":
    main()
