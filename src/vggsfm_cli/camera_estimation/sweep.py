"""The search for the focal length and the pair of frames that a model should grow from.

Two views leave the focal length open where the scene is flat or the optical axes meet, and a wrong one bends the whole
model. A third view does not: with the right focal length, points of the first two views lie where the third one sees
them. So small stars of a few frames are grown over a range of focal lengths, and those that explain most are kept.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.camera_estimation.focal import unknown_cameras
from vggsfm_cli.camera_estimation.view_graph import Pair
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import map_threads


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Settings of the search."""

    min_focal: float = 0.5  # times the long side of the photograph
    max_focal: float = 2.4
    steps: int = 9
    halvings: int = 2  # of the step, around the best
    seeds: int = 2  # pairs tried at each focal length
    frames: int = 4  # of a star
    tracks: int = 500
    distinct: float = 0.12  # focal lengths closer than this (relative) are the same
    max_starts: int = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialPair:
    """Two frames that a reconstruction may grow from, with the lenses to begin with.

    Attributes:
        params: parameters of all cameras.
        pair: the first two frames.
        worth: how much a small star explains, by ``star.explained``.
    """

    params: Float[Tensor, "C P"]
    pair: Pair
    worth: float


Trial = Callable[[Float[Tensor, "C P"]], list[InitialPair]]
"""Grows stars with these camera parameters and says what came of each."""


def sweep_focals(
    images: ImageSet, hypotheses: list[Float[Tensor, "C P"]], grow: Trial, config: SweepConfig
) -> list[InitialPair]:
    """Initial pairs with distinct focal lengths, those that explain most first.

    Args:
        images: sizes, and which focal lengths are known.
        hypotheses: camera parameters to try as they are; their focal lengths scaled together are tried as well.
        grow: tries one setting.
        config: settings.
    """
    unknown = unknown_cameras(images.priors)
    settings = list(hypotheses)
    step = 1.0
    if unknown:
        relative = [_relative_focal(images, params, unknown) for params in hypotheses]
        grid = torch.exp(
            torch.linspace(math.log(config.min_focal), math.log(config.max_focal), config.steps, dtype=torch.float64)
        )
        step = float(grid[1] / grid[0])
        bases = hypotheses[:1] if len(unknown) == 1 else hypotheses
        settings += [
            scaled(images.priors.models, params, unknown, float(focal) / own)
            for params, own in zip(bases, relative, strict=False)
            for focal in grid
        ]

    def try_out(params: Float[Tensor, "C P"]) -> list[InitialPair]:
        belief = _belief(images, params, unknown)
        return [dataclasses.replace(first, worth=belief * first.worth) for first in grow(params)]

    pairs = [first for found in map_threads(try_out, settings) for first in found]
    for _ in range(config.halvings if unknown and pairs else 0):
        step = step**0.5
        best = max(pairs, key=lambda first: first.worth)
        near = [scaled(images.priors.models, best.params, unknown, factor) for factor in (1 / step, step)]
        pairs += [first for found in map_threads(try_out, near) for first in found]
    return _distinct(sorted(pairs, key=lambda first: -first.worth), images, config)


def scaled(
    models: tuple[str, ...], params: Float[Tensor, "C P"], cameras: list[int], factor: float
) -> Float[Tensor, "C P"]:
    """The focal lengths of some cameras times a factor."""
    out = params.clone()
    for c in cameras:
        out[c, list(camera_models.focal_indices(models[c]))] *= factor
    return out


def _relative_focal(images: ImageSet, params: Float[Tensor, "C P"], cameras: list[int]) -> float:
    """Mean logarithmic focal length of some cameras over the long side of their photographs, as a factor."""
    index, side = images.priors.camera_index[0].cpu(), images.stored_size[0].amax(-1).double().cpu()
    logs = [
        math.log(float(camera_models.focal(images.priors.models[c], params[c])) / float(side[index == c].max()))
        for c in cameras
        if bool((index == c).any())
    ]
    return math.exp(sum(logs) / max(len(logs), 1))


def _belief(images: ImageSet, params: Float[Tensor, "C P"], cameras: list[int]) -> float:
    """Prior weight of several focal lengths: 1 at the prior, with long tails.

    Cameras that each have a focal length of their own can all get longer together and explain ever a little more. A
    single one that all frames share cannot, and is left to the views.
    """
    if len(cameras) < 2:  # noqa: PLR2004
        return 1.0
    priors = images.priors
    squares = [
        (
            float(camera_models.focal(priors.models[c], params[c]).log())
            - float(camera_models.focal(priors.models[c], priors.params[0, c]).log())
        )
        ** 2
        / float(priors.focal_spread[0, c]) ** 2
        for c in cameras
    ]
    return 1 / (1 + 0.25 * sum(squares) / max(len(squares), 1))


def _distinct(pairs: list[InitialPair], images: ImageSet, config: SweepConfig) -> list[InitialPair]:
    kept: list[InitialPair] = []
    for first in pairs:
        focal = _focals(images, first)
        if all(float((focal / _focals(images, other)).log().abs().max()) > config.distinct for other in kept):
            kept.append(first)
    return kept[: config.max_starts]


def _focals(images: ImageSet, first: InitialPair) -> Float[Tensor, " C"]:
    return torch.stack([camera_models.focal(m, first.params[c]) for c, m in enumerate(images.priors.models)])
