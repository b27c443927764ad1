"""Robust losses on squared residual norms, and the weights that iterated least squares gives them.

With ``s`` the squared norm over the squared scale: ``huber`` is linear beyond 1, ``cauchy`` logarithmic,
``geman-mcclure`` bounded. See Zhang, "Parameter estimation techniques" (1997), and Triggs et al., "Bundle adjustment"
(2000), Sec. 3.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.options import Loss

__all__ = ["Loss", "evaluate"]


def evaluate(
    loss: Loss, squared: Float[Tensor, "*batch"], scale: float = 1.0
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Loss and its derivative with respect to ``squared``; the derivative is the weight of the residual.

    Args:
        loss: which one.
        squared: squared residual norms.
        scale: residual norm at which the loss starts to bend.

    Returns:
        value: equal to ``squared`` near zero.
        weight: one near zero, falling beyond ``scale``.
    """
    s = squared / scale**2
    if loss is Loss.NONE:
        return squared, torch.ones_like(squared)
    if loss is Loss.HUBER:
        root = s.clamp(min=1.0).sqrt()
        return torch.where(s > 1, 2 * root - 1, s) * scale**2, 1 / root
    if loss is Loss.CAUCHY:
        return torch.log1p(s) * scale**2, 1 / (1 + s)
    return s / (1 + s) * scale**2, 1 / (1 + s).square()
