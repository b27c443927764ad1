"""The focal length from fundamental matrices: every pair of frames votes.

With the right calibration ``K2^T F K1`` is an essential matrix, its two singular values are equal. For a range of focal
lengths the mismatch is summed robustly over all pairs, together with the prior, and the minima are the hypotheses. Some
motions tell nothing (planar scenes, optical axes that meet): their curves are flat and the prior decides.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.camera_estimation.view_graph import Pair, ViewGraph
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import epipolar
from vggsfm_cli.scene import CameraPriors, ImageSet


@dataclass(frozen=True, kw_only=True)
class FocalVoteConfig:
    """Settings of the vote."""

    min_focal: float = 0.35  # times the long side of the photograph
    max_focal: float = 4.0
    steps: int = 61
    mismatch_scale: float = 0.01  # relative difference of singular values at which a pair's vote starts to saturate
    prior_weight: float = 0.2  # of the squared log ratio to the prior over its spread, against one pair's vote
    min_spread: float = 0.02  # a prior is not trusted more than this
    sweeps: int = 3  # rounds over the cameras when there are several
    starts: int = 6  # of those rounds, spread over the range
    max_hypotheses: int = 3
    distinct: float = 0.1  # hypotheses closer than this (relative) are the same


@dataclass(frozen=True, eq=False)
class _Votes:
    """The pairs of one scene as tensors, and the cameras they belong to."""

    fundamental: Float[Tensor, "E 3 3"]
    weight: Float[Tensor, " E"]
    camera1: Tensor
    camera2: Tensor
    models: tuple[str, ...]
    start: Float[Tensor, "C P"]
    spread: Float[Tensor, " C"]
    bounds: Float[Tensor, "C 2"]
    config: FocalVoteConfig

    def cost(self, params: Float[Tensor, "F C P"]) -> Float[Tensor, " F"]:
        """Robust sum of the mismatches and the prior, for F settings of all cameras."""
        k = torch.stack([camera_models.calibration_matrix(m, params[:, c]) for c, m in enumerate(self.models)], 1)
        mismatch = epipolar.essential_mismatch(self.fundamental, k[:, self.camera1], k[:, self.camera2])
        votes = torch.log1p((mismatch / self.config.mismatch_scale).square()) @ self.weight
        ratio = self.focal(params).log() - self.focal(self.start[None]).log()
        return votes + self.config.prior_weight * (ratio / self.spread).square().sum(-1)

    def focal(self, params: Float[Tensor, "F C P"]) -> Float[Tensor, "F C"]:
        return torch.stack([camera_models.focal(m, params[:, c]) for c, m in enumerate(self.models)], -1)

    def all_scaled(
        self, params: Float[Tensor, "C P"], cameras: list[int], factors: Float[Tensor, " F"]
    ) -> Float[Tensor, "F C P"]:
        """The focal lengths of some cameras times each factor."""
        out = params.expand(len(factors), -1, -1).clone()
        for camera in cameras:
            for index in camera_models.focal_indices(self.models[camera]):
                out[:, camera, index] = params[camera, index] * factors
        return out


def vote_focal(images: ImageSet, graph: ViewGraph, config: FocalVoteConfig) -> list[Float[Tensor, "C P"]]:
    """Camera parameters of one scene to try, the best first; all but the focal length as in the priors.

    Known focal lengths stay; if all are known there is one hypothesis. The prior itself is always the last of them.
    """
    priors = images.priors
    start = priors.params[0].detach().double().cpu()
    unknown = unknown_cameras(priors)
    pairs = [pair for pair in graph.pairs if pair.planar_ratio < graph.config.planar_ratio]
    if not unknown or not pairs:
        return [start]
    votes = _gather(images, pairs, config)
    low = (votes.bounds[:, 0] / votes.focal(start[None])[0])[unknown].min()
    high = (votes.bounds[:, 1] / votes.focal(start[None])[0])[unknown].max()
    factors = torch.exp(torch.linspace(float(low.log()), float(high.log()), config.steps, dtype=torch.float64))
    settings = votes.all_scaled(start, unknown, factors)
    curve = votes.cost(settings)
    steps = _minima(curve)[: config.max_hypotheses - 1]
    hypotheses = [settings[step] for step in steps]
    if len(unknown) > 1:
        starts = settings[:: max(1, config.steps // config.starts)]
        found = [_sweep(votes, params, unknown) for params in [*hypotheses, *starts]]
        order = votes.cost(torch.stack(found)).argsort(stable=True)
        hypotheses = _distinct([found[i] for i in order.tolist()], votes)[: config.max_hypotheses - 1]
    return _distinct([*hypotheses, start], votes)


def unknown_cameras(priors: CameraPriors) -> list[int]:
    """Cameras of one scene whose focal length is to be found."""
    known = priors.known[0]
    return [
        c for c, model in enumerate(priors.models) if not bool(known[c, list(camera_models.focal_indices(model))].all())
    ]


def _gather(images: ImageSet, pairs: list[Pair], config: FocalVoteConfig) -> _Votes:
    priors = images.priors
    index = priors.camera_index[0].cpu()
    long_side = images.stored_size[0].amax(-1).double().cpu()
    sides = torch.stack(
        [
            long_side[index == c].amax() if bool((index == c).any()) else long_side.amax()
            for c in range(len(priors.models))
        ]
    )
    support = np.sqrt([pair.inliers.sum() for pair in pairs])
    return _Votes(
        fundamental=torch.from_numpy(np.stack([pair.fundamental for pair in pairs])),
        weight=torch.from_numpy(support / support.max()),
        camera1=index[[pair.frame1 for pair in pairs]],
        camera2=index[[pair.frame2 for pair in pairs]],
        models=priors.models,
        start=priors.params[0].detach().double().cpu(),
        spread=priors.focal_spread[0].double().cpu().clamp_min(config.min_spread),
        bounds=sides[:, None] * torch.tensor([config.min_focal, config.max_focal], dtype=torch.float64),
        config=config,
    )


def _minima(curve: Float[Tensor, " F"]) -> list[int]:
    """Indices of the local minima inside the range, the lowest first."""
    values = curve.tolist()
    inner = [i for i in range(1, len(values) - 1) if values[i] <= min(values[i - 1], values[i + 1])]
    return sorted(inner, key=lambda i: values[i])


def _sweep(votes: _Votes, params: Float[Tensor, "C P"], unknown: list[int]) -> Float[Tensor, "C P"]:
    """Search each camera's focal length in turn, the others held, then all of them together."""
    for sweep in range(votes.config.sweeps):
        width = 1.2 / 2**sweep
        factors = torch.exp(torch.linspace(-width, width, 31, dtype=torch.float64))
        for cameras in [*([camera] for camera in unknown), unknown]:
            settings = votes.all_scaled(params, cameras, factors)
            focal = votes.focal(settings)[:, cameras]
            outside = (focal < votes.bounds[cameras, 0]) | (focal > votes.bounds[cameras, 1])
            cost = torch.where(outside.any(-1), torch.inf, votes.cost(settings))
            if bool(cost.isfinite().any()):
                params = settings[int(cost.argmin())]
    return params


def _distinct(hypotheses: list[Tensor], votes: _Votes) -> list[Tensor]:
    kept: list[Tensor] = []
    for params in hypotheses:
        focal = votes.focal(params[None])
        if all(float((focal / votes.focal(k[None])).log().abs().max()) > votes.config.distinct for k in kept):
            kept.append(params)
    return kept
