"""What the papers report of pose errors: shares of pairs below a threshold, and the area under their curve."""

import torch
from jaxtyping import Float
from torch import Tensor

RIGHT_ANGLE_DEG, HALF_TURN_DEG = 90.0, 180.0


def without_sign(errors_deg: Float[Tensor, "P 2"]) -> Float[Tensor, "P 2"]:
    """Pair errors in which the sign of a direction does not count: translation errors folded at 90 degrees.

    VGGSfM and PoseDiffusion (ICCV 2023) evaluate so, on all benchmarks. Infinite errors stay infinite.
    """
    turned, between = errors_deg.unbind(-1)
    folded = torch.where(between.isfinite(), torch.minimum(between, HALF_TURN_DEG - between), between)
    return torch.stack([turned, folded], -1)


def share_below(errors_deg: Float[Tensor, " P"], threshold_deg: float) -> float:
    """RRA@threshold of rotation errors, RTA@threshold of translation errors: share of the pairs below, in percent.

    0 without pairs.
    """
    return float(100 * (errors_deg < threshold_deg).double().mean()) if len(errors_deg) else 0.0


def auc_by_degrees(errors_deg: Float[Tensor, "P 2"], threshold_deg: int) -> float:
    """AUC@threshold as VGGSfM reports it, in percent: mean over 1, 2, ..., ``threshold_deg`` degrees of the share of
    pairs whose larger error is below.

    This is the mean of a cumulative histogram with bins of one degree; ``poses.auc_max`` is the exact area, which is
    larger by up to half a degree's worth. 0 without pairs.
    """
    if len(errors_deg) == 0:
        return 0.0
    larger = errors_deg.amax(-1)
    steps = torch.arange(1, threshold_deg + 1, dtype=larger.dtype, device=larger.device)
    return float(100 * (larger[:, None] < steps).double().mean())
