"""How fast scenes are rendered, and a sheet of what they look like.

    python benchmarks/render.py [--device cuda] [--threads 2] [--scenes 8] [--sheet]

Writes ``benchmarks/render.json`` (one entry for each machine and device; others are kept) and, with ``--sheet``,
``benchmarks/contact_sheet.jpg``: a row for each layout, two frames of each scene side by side. All surfaces wear
procedural textures.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import vggsfm_cli
from vggsfm_cli.scene import Queries
from vggsfm_cli.synthetic.layouts import Layout
from vggsfm_cli.synthetic.photometry import PhotometryConfig
from vggsfm_cli.synthetic.render import RenderedScenes, render, true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import Textures, procedural_textures

HERE = Path(__file__).resolve().parent
SIDE, FRAMES, QUERIES = 256, 4, 512
SHEET_SIDE, SHEET_SCENES = 208, 4


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(function: Any, device: str, repeats: int) -> float:
    """Of the fastest of several calls: other work on the machine only slows down."""
    best = float("inf")
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def measure(config: SceneConfig, textures: Textures, scenes: int, device: str, repeats: int) -> float:
    """Scenes a second."""
    return scenes / seconds(
        lambda: render(config, textures, scenes, torch.Generator().manual_seed(0), device), device, repeats
    )


def queries_of(rendered: RenderedScenes) -> Queries:
    batch = len(rendered.depth)
    generator = torch.Generator().manual_seed(0)
    queries = Queries(
        frame=torch.randint(FRAMES, (batch, QUERIES), generator=generator),
        xy=torch.rand(batch, QUERIES, 2, generator=generator) * SIDE,
        valid=torch.ones(batch, QUERIES, dtype=torch.bool),
    )
    return queries.to(rendered.depth.device)


def throughput(textures: Textures, scenes: int, device: str, repeats: int) -> dict[str, Any]:
    base = SceneConfig(frames=FRAMES, height=SIDE, width=SIDE)
    rates = {}
    for layout in Layout:
        config = SceneConfig(frames=FRAMES, height=SIDE, width=SIDE, layouts=((layout, 1.0),))
        rates[layout.value] = round(measure(config, textures, scenes, device, repeats), 2)
        print(layout, rates[layout.value], flush=True)
    photographed = SceneConfig(frames=FRAMES, height=SIDE, width=SIDE, photometry=PhotometryConfig())
    rates["mixed"] = round(measure(base, textures, scenes, device, repeats), 2)
    rates["mixed, with photometry"] = round(measure(photographed, textures, scenes, device, repeats), 2)
    rendered = render(base, textures, scenes, torch.Generator().manual_seed(0), device)
    queries = queries_of(rendered)
    tracking = scenes / seconds(lambda: true_tracks(rendered, queries), device, repeats)
    return {"scenes_per_second": rates, f"true_tracks_scenes_per_second_{QUERIES}_queries": round(tracking, 1)}


def contact_sheet(textures: Textures, device: str) -> Image.Image:
    rows = []
    for layout in Layout:
        config = SceneConfig(
            frames=2,
            height=SHEET_SIDE,
            width=SHEET_SIDE,
            max_angle_deg=(15.0, 60.0),
            layouts=((layout, 1.0),),
            samples=2,
            photometry=PhotometryConfig(),
        )
        generator = torch.Generator().manual_seed(1)
        rows.append(render(config, textures, SHEET_SCENES, generator, device).images.pixels.cpu())
    pixels = torch.stack(rows).permute(0, 4, 1, 2, 5, 3)  # layout, y, scene, frame, x, channel
    sheet = pixels.reshape(len(rows) * SHEET_SIDE, SHEET_SCENES * 2 * SHEET_SIDE, 3)
    return Image.fromarray((255 * sheet).round().byte().numpy())


def processor(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scenes", type=int, default=8, help="in a batch; 64 and more keep a GPU busy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sheet", action="store_true", help="draw the contact sheet too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    textures = procedural_textures(90, 256, torch.Generator().manual_seed(0)).to(options.device)
    machine = {
        "processor": processor(options.device),
        "device": options.device,
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vggsfm_cli": vggsfm_cli.__version__,
    }
    setting = {"frames": FRAMES, "height": SIDE, "width": SIDE, "samples": 1, "scenes_in_a_batch": options.scenes}
    entry = {
        "machine": machine,
        "setting": setting,
        **throughput(textures, options.scenes, options.device, options.repeats),
    }
    path = HERE / "render.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    key = ("processor", "device", "threads")
    others = [old for old in entries if any(old["machine"][name] != machine[name] for name in key)]
    path.write_text(json.dumps([*others, entry], indent=1) + "\n")
    if options.sheet:
        contact_sheet(textures, options.device).save(HERE / "contact_sheet.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
