"""Symmetric 3 x 3 matrices, many at once, written out component by component: LAPACK is slow on many small ones.

Six numbers stand for a symmetric or a lower triangular matrix: 00 10 20 11 21 22.
"""

import torch
from jaxtyping import Float
from torch import Tensor

DIAGONAL = (0, 3, 5)
"""Where the diagonal stands among the six numbers."""


def products(by_point: Float[Tensor, "F 3 2 n"], residual: Float[Tensor, "F 2 n"]) -> Float[Tensor, "F 9 n"]:
    """Six numbers of ``J^T J`` and three of ``J^T r``."""
    x, y, z = (by_point[:, i : i + 1] for i in range(3))
    parts = torch.cat([by_point * x, by_point[:, 1:] * y, z * z, by_point * residual[:, None]], 1)
    return parts[:, :, 0] + parts[:, :, 1]


def inverse_cholesky(matrix: Float[Tensor, "6 *K"]) -> Float[Tensor, "6 *K"]:
    """The lower triangular ``F`` with ``F^T F`` the inverse; finite for singular matrices."""
    tiny = 1e-150 if matrix.dtype == torch.float64 else 1e-18
    a00, a10, a20, a11, a21, a22 = matrix.unbind(0)
    i00 = a00.clamp(min=tiny).rsqrt()
    l10, l20 = a10 * i00, a20 * i00
    i11 = torch.addcmul(a11, l10, l10, value=-1).clamp(min=tiny).rsqrt()
    l21 = torch.addcmul(a21, l20, l10, value=-1) * i11
    left = torch.addcmul(torch.addcmul(a22, l20, l20, value=-1), l21, l21, value=-1)
    i22 = left.clamp(min=tiny).rsqrt()
    n00, n22 = -i00, -i22
    i10 = l10 * n00 * i11
    return torch.stack([i00, i10, torch.addcmul(l20 * i00, l21, i10) * n22, i11, l21 * i11 * n22, i22])


def times(root: Float[Tensor, "6 *#K"], vector: Float[Tensor, "3 *#K"]) -> Float[Tensor, "3 *#K"]:
    """``F v`` with ``F`` lower triangular; batch axes broadcast."""
    i00, i10, i20, i11, i21, i22 = root.unbind(0)
    x, y, z = vector.unbind(0)
    return torch.stack([i00 * x, torch.addcmul(i10 * x, i11, y), torch.addcmul(i20 * x + i21 * y, i22, z)])


def transposed_times(root: Float[Tensor, "6 K"], vector: Float[Tensor, "3 K"]) -> Float[Tensor, "3 K"]:
    """``F^T v`` with ``F`` lower triangular."""
    i00, i10, i20, i11, i21, i22 = root.unbind(0)
    x, y, z = vector.unbind(0)
    return torch.stack([torch.addcmul(i00 * x + i10 * y, i20, z), torch.addcmul(i11 * y, i21, z), i22 * z])
