"""``vggsfm synth``: rendered scenes with exact ground truth, as folders of pictures."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vggsfm_cli.cli.console import StageProgress, console, set_up_logging
from vggsfm_cli.options import Device

if TYPE_CHECKING:
    from vggsfm_cli.io.synthetic import RenderedScene

LayoutName = Literal[
    "mixed", "facade", "room", "tabletop", "turntable", "terrain", "street", "poster", "clutter", "walk"
]
"""Names of ``synthetic.layouts.Layout``, and all of them by their weights; a test compares both."""

TEXTURES = 45
TEXTURE_SIDE = 256
"""How many procedural pictures there are, and their side; some seconds to draw."""


def synth(
    out: Annotated[Path, typer.Option(help="Folder to create; scenes go to DIR/scene_000, ...", metavar="DIR")],
    scenes: Annotated[int, typer.Option(help="Number of scenes.", min=1, max=1000)] = 1,
    frames: Annotated[int, typer.Option(help="Images per scene.", min=1, max=2000)] = 8,
    size: Annotated[int, typer.Option(help="Width in pixels; the height is three quarters.", min=32, max=4096)] = 640,
    layout: Annotated[LayoutName, typer.Option(help="Kind of scene.")] = "mixed",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal scenes.", min=0)] = 0,
    photometry: Annotated[
        bool, typer.Option("--photometry/--no-photometry", help="Simulate exposure, blur, noise and compression.")
    ] = True,
    depth: Annotated[bool, typer.Option("--depth", help="Also write depth maps as .npy.")] = False,
    device: Annotated[Device, typer.Option(help="Device for rendering.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Render scenes with known cameras.

    Each scene is a folder with images/ and ground_truth.json. Textures are procedural.

    Example: vggsfm synth --out scenes/ --scenes 3 --layout facade
    """
    set_up_logging(verbose, quiet)
    import torch

    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.io.synthetic import check_new, write_scenes
    from vggsfm_cli.scene import Progress
    from vggsfm_cli.synthetic.layouts import Layout
    from vggsfm_cli.synthetic.photometry import PhotometryConfig
    from vggsfm_cli.synthetic.render import render
    from vggsfm_cli.synthetic.scenes import SceneConfig, of_film
    from vggsfm_cli.synthetic.textures import procedural_textures

    check_new(out)
    chosen_device = choose_device(device)
    config = SceneConfig(
        frames=frames,
        height=max(1, round(0.75 * size)),
        width=size,
        samples=2,
        photometry=PhotometryConfig() if photometry else None,
    )
    if layout == Layout.WALK.value:
        config = of_film(config)
    elif layout != "mixed":
        config = dataclasses.replace(config, layouts=((Layout(layout), 1.0),))

    def rendered(progress: StageProgress) -> "Iterator[RenderedScene]":
        progress(Progress(stage="textures", done=0, total=1))
        textures = procedural_textures(TEXTURES, TEXTURE_SIDE, torch.Generator().manual_seed(seed))
        progress(Progress(stage="textures", done=1, total=1))
        for k in range(scenes):
            progress(Progress(stage="scenes", done=k, total=scenes))
            # a generator a scene: scene k is the same however many are asked for
            result = render(config, textures, 1, torch.Generator().manual_seed(seed * 1000 + k), chosen_device)
            yield result.images, result.cameras, result.depth if depth else None
        progress(Progress(stage="scenes", done=scenes, total=scenes))

    with StageProgress(quiet).drawing() as progress:
        written = write_scenes(rendered(progress), out)
    console(sys.stdout).print(f"{scenes} scenes of {frames} images in {written}", markup=False)
