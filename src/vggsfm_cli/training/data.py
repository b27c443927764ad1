"""Training examples: rendered scenes with exact tracks, drawn once and kept, or drawn anew for every step.

Rendering on two cores costs more than a step of training on what was rendered, so a pool of scenes can be kept in a
folder. An example is a function of the pool's seed and its own number alone, whether it was kept or not.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.devices import with_float64
from vggsfm_cli.errors import InputError
from vggsfm_cli.io.photographs import decode
from vggsfm_cli.scene import Queries, TensorRecord
from vggsfm_cli.synthetic.render import RenderedScenes, render, true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import Textures, make_textures, procedural_textures
from vggsfm_cli.tracking.features import select_keypoints
from vggsfm_cli.training.task import seed_of

TEXTURE_VARIABLE = "VGGSFM_TEXTURES"
"""Environment variable that names a folder of texture pictures; without it textures are procedural."""


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Where examples come from."""

    scene: SceneConfig = field(default_factory=SceneConfig)
    scenes_per_example: int = 2
    examples: int = 0  # kept and used again; 0 draws every example anew
    queries_per_frame: int = 256  # where the truth is recorded: half of them on corners, half anywhere
    texture_side: int = 256
    textures: int = 1280  # at most so many
    held_out_every: int = 10  # each such texture is left to validation


@dataclass(frozen=True, kw_only=True, eq=False)
class Example(TensorRecord):
    """B rendered scenes of S frames, with N true tracks each; pixels of the pictures.

    Attributes:
        pixels: RGB.
        query_frame: frame of each query, ``xy`` there is the query itself.
        xy: true position in every frame.
        visible: truly seen there.
        valid: queries that lie on a surface.
    """

    pixels: UInt8[Tensor, "B S 3 H W"]
    query_frame: Int[Tensor, "B N"]
    xy: Float[Tensor, "B S N 2"]
    visible: Bool[Tensor, "B S N"]
    valid: Bool[Tensor, "B N"]


def read_textures(config: PoolConfig, *, held_out: bool) -> Float[Tensor, "T 3 side side"]:
    """Texture pictures of the folder in ``VGGSFM_TEXTURES``, or procedural ones where it is not set.

    Args:
        config: which and how many.
        held_out: those that validation draws from; never the same as those for training.

    Raises:
        InputError: the folder holds no readable picture.
    """
    folder = os.environ.get(TEXTURE_VARIABLE)
    if folder is None:
        generator = torch.Generator().manual_seed(1 if held_out else 0)
        return procedural_textures(min(config.textures, 96), config.texture_side, generator).levels[0]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [path for i, path in enumerate(paths) if (i % config.held_out_every == 0) == held_out]
    if not chosen:
        raise InputError(
            f"No texture in {folder!r}.", f"{TEXTURE_VARIABLE} names a folder with .jpg or .png pictures; unset it."
        )
    return torch.stack([_square(path, config.texture_side) for path in chosen[: config.textures]])


def _square(path: Path, side: int) -> Float[Tensor, "3 side side"]:
    picture = torch.from_numpy(decode(path).pixels).permute(2, 0, 1).float() / 255
    short = min(picture.shape[1:])
    picture = picture[None, :, :short, :short]
    return functional.interpolate(picture, (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)


class Pool:
    """Examples by number.

    Args:
        config: what they are.
        seed: another seed gives other examples.
        folder: where examples are kept; None keeps nothing.
        device: where they are wanted; they are rendered there too if it can compute in double precision.
        held_out: draw from the textures of validation.
    """

    def __init__(
        self,
        config: PoolConfig,
        seed: int,
        *,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        held_out: bool = False,
    ) -> None:
        self.config, self.seed = config, seed
        self.device, self._exact = torch.device(device), with_float64(torch.device(device))
        self.held_out = held_out
        self._textures: Textures | None = None
        self._folder = None if folder is None else folder / self._name()

    def _name(self) -> str:
        """Of the folder; how many examples are kept does not change any of them."""
        described = {
            "config": dataclasses.asdict(dataclasses.replace(self.config, examples=0)),
            "seed": self.seed,
            "held_out": self.held_out,
            "textures": TEXTURE_VARIABLE in os.environ,
        }
        return "pool-" + hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    def __getitem__(self, number: int) -> Example:
        """Example ``number``, the same every time; beyond ``config.examples`` they repeat."""
        number = number % self.config.examples if self.config.examples else number
        path = None if self._folder is None or not self.config.examples else self._folder / f"{number:06d}.safetensors"
        if path is not None and path.is_file():
            return Example(**load_file(path)).to(self.device)
        example = self._draw(number).to(self.device)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            fields = {item.name: getattr(example, item.name).cpu().contiguous() for item in dataclasses.fields(example)}
            save_file(fields, partial)
            partial.replace(path)
        return example

    def _draw(self, number: int) -> Example:
        if self._textures is None:
            pictures = read_textures(self.config, held_out=self.held_out)
            self._textures = make_textures(pictures.to(self._exact))
        generator = torch.Generator().manual_seed(seed_of(self.seed, number, "held out" if self.held_out else ""))
        rendered = render(self.config.scene, self._textures, self.config.scenes_per_example, generator, self._exact)
        queries = draw_queries(rendered, self.config.queries_per_frame, generator)
        truth = true_tracks(rendered, queries)
        return Example(
            pixels=(rendered.images.pixels * 255).round().to(torch.uint8),
            query_frame=queries.frame,
            xy=truth.xy.float(),
            visible=truth.visibility > 0.5,  # noqa: PLR2004
            valid=truth.valid & queries.valid,
        )


def draw_queries(rendered: RenderedScenes, per_frame: int, generator: torch.Generator) -> Queries:
    """Queries in every frame: half of them on corners of the picture, half anywhere, so that both are learned."""
    scenes, frames, _, height, width = rendered.images.pixels.shape
    device = rendered.images.pixels.device
    corner = per_frame // 2
    size = torch.tensor([width, height])
    anywhere = torch.rand(scenes, frames, per_frame, 2, generator=generator) * (size - 8) + 4
    xy = anywhere.to(device)
    for b in range(scenes):
        for s in range(frames):
            found = select_keypoints(corner_score(rendered.images.pixels[b, s]), corner, threshold=1e-6)
            xy[b, s, : len(found)] = found
    frame = torch.arange(frames, device=device).repeat_interleave(per_frame).expand(scenes, -1)
    return Queries(frame=frame, xy=xy.flatten(1, 2), valid=torch.ones_like(frame, dtype=torch.bool))


def corner_score(pixels: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W"]:
    """Smaller eigenvalue of the brightness structure tensor over 7 x 7 pixels (Shi & Tomasi, CVPR 1994)."""
    grey = pixels.mean(0)
    dx, dy = torch.zeros_like(grey), torch.zeros_like(grey)
    dx[:, 1:-1] = 0.5 * (grey[:, 2:] - grey[:, :-2])
    dy[1:-1] = 0.5 * (grey[2:] - grey[:-2])
    products = torch.stack([dx * dx, dy * dy, dx * dy])[None]
    xx, yy, xy = functional.avg_pool2d(products, 7, 1, 3)[0]
    score = 0.5 * (xx + yy) - (0.25 * (xx - yy).square() + xy.square()).sqrt()
    border = torch.zeros_like(score)
    border[8:-8, 8:-8] = 1
    return score * border
