"""The last pixel: tracks refined within small patches, cut where the coarse tracker says."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vggsfm_cli.recipes.v2.encoders import FineEncoder
from vggsfm_cli.recipes.v2.iterative import Followed, IterativeTracker
from vggsfm_cli.recipes.v2.pieces import tracks_at_once
from vggsfm_cli.threads import map_threads

PAIRS_PER_PATCH = 4
"""Observations of the coarse tracker that take the memory of one patch and its features."""


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """Sizes of the patches and of the window that measures the spread."""

    radius: int = 15  # of a patch, pixels
    spread_radius: int = 2  # of the window around the result, pixels

    @property
    def side(self) -> int:
        """Pixels across a patch."""
        return 2 * self.radius + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """Refined positions and how sharply the features single them out, in pixels and squared pixels."""

    xy: Float[Tensor, "S N 2"]
    spread: Float[Tensor, "S N 2 2"]


def cut_patches(
    pixels: Float[Tensor, "S 3 H W"], corner: Int[Tensor, "S N 2"], side: int
) -> Float[Tensor, "N S 3 P P"]:
    """Square patches whose first pixel is ``corner``; outside the image its edge is repeated."""
    height, width = pixels.shape[-2:]
    offset = torch.arange(side, device=pixels.device)
    columns = (corner[..., 0, None] + offset).clamp(0, width - 1)
    rows = (corner[..., 1, None] + offset).clamp(0, height - 1)
    return _gather(pixels, columns, rows).transpose(0, 1)


def _gather(
    maps: Float[Tensor, "S C H W"], columns: Int[Tensor, "S N P"], rows: Int[Tensor, "S N P"]
) -> Float[Tensor, "S N C P P"]:
    """N squares of each map."""
    which = torch.arange(len(maps), device=maps.device)[:, None, None, None]
    return maps.permute(0, 2, 3, 1)[which, rows[..., :, None], columns[..., None, :]].movedim(-1, 2)


def refine(
    encoder: FineEncoder,
    tracker: IterativeTracker,
    pixels: Float[Tensor, "S 3 H W"],
    xy: Float[Tensor, "S N 2"],
    home: int,
    config: PatchConfig,
    pairs_at_once: int,
) -> Refined:
    """Refine the tracks ``xy`` of one scene; each track is alone, so pieces of them give what all of them give.

    Every frame starts at the query's place within its pixel, as the weights were trained: what the coarse track says
    below the pixel in the other frames is not used. Patches that reach over the border are filled with the edge; the
    published code moves them inside without telling the result.
    """
    size = tracks_at_once(xy.shape[1], PAIRS_PER_PATCH * len(pixels), pairs_at_once, xy.device)

    def refine_part(part: Float[Tensor, "S n 2"]) -> Refined:
        return _refine(encoder, tracker, pixels, part, home, config)

    parts = list(map_threads(refine_part, xy.split(size, 1), xy.device))
    if not parts:
        return Refined(xy=xy, spread=xy.new_zeros(*xy.shape, 2))
    return Refined(xy=torch.cat([part.xy for part in parts], 1), spread=torch.cat([part.spread for part in parts], 1))


def _refine(
    encoder: FineEncoder,
    tracker: IterativeTracker,
    pixels: Float[Tensor, "S 3 H W"],
    xy: Float[Tensor, "S N 2"],
    home: int,
    config: PatchConfig,
) -> Refined:
    corner = xy.detach().floor().long() - config.radius
    maps = encode_patches(encoder, cut_patches(pixels, corner, config.side))
    query = (xy[home] - corner[home])[:, None]
    followed = tracker(maps, query, home)
    found = followed.xy[:, :, 0].transpose(0, 1) + corner
    at_home = torch.zeros(len(pixels), 1, 1, dtype=torch.bool, device=xy.device)
    at_home[home] = True
    return Refined(xy=torch.where(at_home, xy, found), spread=_spread(maps, followed, config))


def encode_patches(encoder: nn.Module, patches: Float[Tensor, "N S 3 P P"]) -> Float[Tensor, "N S C P P"]:
    """Features of the patches in float32, whatever the encoder computes in: positions are read from them."""
    maps: Tensor = encoder(patches.flatten(0, 1))
    return maps.float().unflatten(0, patches.shape[:2])


def _spread(maps: Float[Tensor, "N S C P P"], followed: Followed, config: PatchConfig) -> Float[Tensor, "S N 2 2"]:
    """Spread of the similarity to the query's feature around each result, in its own frame's patch, squared pixels."""
    radius = config.spread_radius
    first = followed.xy[:, :, 0].detach().floor().long() - radius
    windows = cut_windows(maps.flatten(0, 1), first.flatten(0, 1), 2 * radius + 1)
    query = followed.query_features.expand(-1, maps.shape[1], -1).flatten(0, 1)
    with torch.autocast(maps.device.type, enabled=False):
        moments = heat_moments(query.float(), windows) * radius**2
    return moments.unflatten(0, maps.shape[:2]).transpose(0, 1)


def cut_windows(maps: Float[Tensor, "K C P P"], first: Int[Tensor, "K 2"], side: int) -> Float[Tensor, "K C side side"]:
    """One window of each map, moved inside where it would reach over the border."""
    offset = torch.arange(side, device=maps.device)
    columns, rows = (first.clamp(0, maps.shape[-1] - side)[..., None] + offset).unbind(-2)
    return _gather(maps, columns[:, None], rows[:, None])[:, 0]


def heat_moments(features: Float[Tensor, "K C"], windows: Float[Tensor, "K C side side"]) -> Float[Tensor, "K 2 2"]:
    """Covariance of the position under the softmax of the similarity; a window spans -1 to 1 on both axes."""
    channels, side = windows.shape[1:3]
    heat = (torch.einsum("kc,kcp->kp", features, windows.flatten(2)) / channels**0.5).softmax(-1)
    line = torch.linspace(-1, 1, side, dtype=heat.dtype, device=heat.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)
    mean = heat @ grid
    centred = grid - mean[:, None]
    return torch.einsum("kp,kpi,kpj->kij", heat, centred, centred)
