"""The matrix of the camera unknowns, made of blocks of frames and of pairs of frames, and how to solve with it."""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.layout import PairBatch
from vggsfm_cli.bundle_adjustment.residual import POSE
from vggsfm_cli.bundle_adjustment.unknowns import Unknowns

RIDGES = {torch.float64: (0.0, 1e-12, 1e-9, 1e-6, 1e-3), torch.float32: (0.0, 1e-6, 1e-4, 1e-2)}
"""Added to the unit diagonal, one after the other, of a matrix that rounding has made indefinite."""

MAX_CONJUGATE_STEPS = 500


class Pattern:
    """Where the blocks of a scene's matrix stand.

    Attributes:
        unknowns: the numbering.
        first, second: frames of the pairs with a block, in the order of the batches.
        dense: whether the matrix is formed and factorised, or kept in blocks and solved by conjugate gradients.
    """

    def __init__(self, unknowns: Unknowns, pairs: list[PairBatch], *, dense: bool) -> None:
        """Line the pairs up."""
        self.unknowns, self.dense = unknowns, dense
        self.frames = torch.arange(len(unknowns.column), device=unknowns.column.device)
        self.first = torch.cat([self.frames[:0], *(batch.first_frame for batch in pairs)])
        self.second = torch.cat([self.frames[:0], *(batch.second_frame for batch in pairs)])

    @cached_property
    def places(self) -> Int[Tensor, " k"]:
        """Of the entries of all blocks in the dense matrix, with one more row and column for what is fixed."""
        column = self.unknowns.column
        rows = torch.cat([self.frames, self.first, self.second])
        columns = torch.cat([self.frames, self.second, self.first])
        return (column[rows][:, :, None] * (self.unknowns.count + 1) + column[columns][:, None]).flatten()


class CameraMatrix:
    """A symmetric positive (semi-)definite matrix.

    Attributes:
        own: blocks of frames with themselves.
        mixed: blocks of the pairs of frames of the pattern.
        diagonal: what is added on the diagonal.
        tolerance: relative residual at which conjugate gradients stop.
    """

    def __init__(
        self,
        pattern: Pattern,
        own: Float[Tensor, "S W W"],
        mixed: Float[Tensor, "Q W W"],
        diagonal: Float[Tensor, " D"],
        tolerance: float,
    ) -> None:
        """Keep the blocks."""
        self.pattern, self.own, self.mixed, self.diagonal, self.tolerance = pattern, own, mixed, diagonal, tolerance

    def dense(self) -> Float[Tensor, "D D"]:
        """The whole matrix."""
        size = self.pattern.unknowns.count + 1
        entries = torch.cat([self.own.flatten(), self.mixed.flatten(), self.mixed.mT.flatten()])
        flat = self.own.new_zeros(size * size).index_add(0, self.pattern.places, entries)
        return flat.reshape(size, size)[:-1, :-1] + torch.diag_embed(self.diagonal)

    def solve(self, rhs: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The solution, or zero where there is none; scaled to a unit diagonal inside."""
        if rhs.numel() == 0:
            return rhs
        if not self.pattern.dense:
            return conjugate_gradients(self.times, self.precondition, rhs, self.tolerance)
        if self._factor is None:
            return torch.zeros_like(rhs)
        factor, scale = self._factor
        return scale * torch.cholesky_solve((scale * rhs)[:, None], factor).squeeze(-1)

    @cached_property
    def _factor(self) -> tuple[Tensor, Tensor] | None:
        matrix = self.dense()
        scale = matrix.diagonal().clamp(min=1e-30).rsqrt()
        matrix = matrix * scale[:, None] * scale
        for ridge in RIDGES[matrix.dtype]:
            tried = matrix if ridge == 0 else matrix + torch.diag_embed(torch.full_like(scale, ridge))
            factor, failed = torch.linalg.cholesky_ex(tried)
            if not bool(failed):
                return factor, scale
        return None

    def times(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The matrix times a vector, without forming it."""
        unknowns, first, second = self.pattern.unknowns, self.pattern.first, self.pattern.second
        parts = unknowns.spread(vector)
        blocks = (self.own @ parts[..., None]).squeeze(-1)
        blocks = blocks.index_add(0, first, (self.mixed @ parts[second][..., None]).squeeze(-1))
        blocks = blocks.index_add(0, second, (self.mixed.mT @ parts[first][..., None]).squeeze(-1))
        return unknowns.add_vectors(blocks) + self.diagonal * vector

    def precondition(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The inverse of the blocks of single poses and single cameras, times a vector."""
        padded = torch.cat([vector, vector.new_zeros(1)])
        out = torch.zeros_like(padded)
        for columns, inverse in self._block_inverses:
            out = out.index_add(0, columns.flatten(), (inverse @ padded[columns][..., None]).flatten())
        return out[:-1]

    @cached_property
    def _block_inverses(self) -> list[tuple[Tensor, Tensor]]:
        unknowns, first, second = self.pattern.unknowns, self.pattern.first, self.pattern.second
        wanted = torch.tensor(unknowns.wanted, device=self.own.device)
        poses = int((wanted < POSE).sum())
        camera = unknowns.camera_index
        shared = (camera[first] == camera[second]).nonzero().flatten()
        of_params = self.mixed[shared][:, poses:, poses:]
        params = self.own.new_zeros(len(unknowns.params_column), *of_params.shape[1:])
        params = params.index_add(0, camera, self.own[:, poses:, poses:])
        params = params.index_add(0, camera[first[shared]], of_params + of_params.mT)
        params_column = unknowns.params_column[:, wanted[poses:] - POSE]
        pairs = [(unknowns.column[:, :poses], self.own[:, :poses, :poses]), (params_column, params)]
        return [(columns, self._inverse(columns, blocks)) for columns, blocks in pairs if blocks.numel()]

    def _inverse(self, columns: Int[Tensor, "G w"], blocks: Float[Tensor, "G w w"]) -> Float[Tensor, "G w w"]:
        """Inverse of blocks with the added diagonal; fixed coordinates count for nothing."""
        free = columns < self.pattern.unknowns.count
        added = torch.cat([self.diagonal, self.diagonal.new_zeros(1)])[columns]
        both = free[:, :, None] & free[:, None]
        blocks = torch.where(both, blocks + torch.diag_embed(added), 0.0)
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        scale = diagonal.clamp(min=1e-30).rsqrt()
        eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        unit = torch.where(eye.bool(), 1.0, blocks * scale[:, :, None] * scale[:, None])
        factor, failed = torch.linalg.cholesky_ex(unit)
        factor = torch.where(failed[:, None, None] > 0, eye, factor)
        return torch.cholesky_inverse(factor) * scale[:, :, None] * scale[:, None] * both


def conjugate_gradients(
    times: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, " n"],
    tolerance: float,
    max_steps: int = MAX_CONJUGATE_STEPS,
) -> Float[Tensor, " n"]:
    """Solve a positive definite system (Nocedal & Wright, "Numerical optimization", 2006, Alg. 5.3).

    Args:
        times: the matrix times a vector.
        precondition: an approximation of its inverse times a vector.
        rhs: the right-hand side.
        tolerance: of the residual relative to ``rhs``, both in the norm of the preconditioner.
        max_steps: after so many, the best that there is.
    """
    solution, residual = torch.zeros_like(rhs), rhs
    direction = preconditioned = precondition(residual)
    along = residual @ preconditioned
    enough = tolerance**2 * float(along.detach())
    for _ in range(max_steps):
        if not float(along.detach()) > enough:
            break
        bent = times(direction)
        curvature = direction @ bent
        if not float(curvature.detach()) > 0:  # not strictly convex: the best that the directions so far can do
            break
        solution = solution + along / curvature * direction
        residual = residual - along / curvature * bent
        preconditioned = precondition(residual)
        before, along = along, residual @ preconditioned
        direction = preconditioned + along / before * direction
    return solution
