"""How one scene's observations are laid out for fast arithmetic; nothing here depends on where cameras and points are.

Lists of very different lengths (the observations of each frame; the points that two frames share) are sorted by their
lengths, cut in batches, and padded to the longest of each. A batch is one tensor, and no loop runs over frames.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BundleProblem

BATCH_ITEMS = 16384
"""Items of a batch, if it is more than one list: intermediate results of so many stay in a core's cache."""

PADDING = 1.25
"""A batch may be longer than its content by this factor."""

SMALL_BATCH = 2048
"""Batches up to this length are not cut for their padding: there, calling costs more than computing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowBatch:
    """Observations of one camera model; each row is a frame or a piece of it.

    Attributes:
        model: of the cameras.
        frame, camera: of each row.
        point: of each observation, counted among the observed points.
        real: False for padding, whose weight is zero.
        xy, whitening: as ``residual.Rows`` has them.
        slots: numbers of the observations among all of the scene, padding included.
    """

    model: str
    frame: Int[Tensor, " F"]
    camera: Int[Tensor, " F"]
    point: Int[Tensor, "F n"]
    real: Bool[Tensor, "F n"]
    xy: Float[Tensor, "F 2 n"]
    whitening: Float[Tensor, "F 2 2 n"]
    slots: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs of frames, and the slots of their observations of the points that both see; padding is slot ``slots``."""

    first_frame: Int[Tensor, " Q"]
    second_frame: Int[Tensor, " Q"]
    first: Int[Tensor, "Q n"]
    second: Int[Tensor, "Q n"]


class Layout:
    """The observations of scene ``b``.

    Attributes:
        batches: all observations, by camera model.
        slots: how many the batches have room for.
        count: how many there are.
        active: points that are observed.
        seen: frames with observations.
    """

    def __init__(self, problem: BundleProblem, b: int, dtype: torch.dtype) -> None:
        """Sort, cut, pad."""
        camera_index = problem.cameras.camera_index[b]
        frames, points = len(camera_index), problem.points.xyz_world.shape[1]
        chosen = (torch.div(problem.frame, frames, rounding_mode="floor") == b).nonzero().flatten()
        key = (problem.frame[chosen] - b * frames) * points + problem.point[chosen] - b * points
        key, order = key.sort()
        chosen, self.count, self.device = chosen[order], len(chosen), key.device
        self._frame, point = torch.div(key, points, rounding_mode="floor"), key % points
        observed = torch.bincount(point, minlength=points) > 0
        self.active = observed.nonzero().flatten()
        self._point = (observed.cumsum(0) - 1)[point]
        counts = torch.bincount(self._frame, minlength=frames)
        self.seen = counts > 0
        self._slot = torch.empty_like(self._frame)
        self.slots, self.batches = 0, list[RowBatch]()
        cameras = camera_index.tolist()
        for model in sorted(set(problem.cameras.models)):
            of_model = [problem.cameras.models[camera] == model for camera in cameras]
            rows = sorted(_rows(counts.tolist(), of_model), key=lambda row: -row[2])
            for start, stop in cut([length for _, _, length in rows]):
                self._add(problem, model, camera_index, chosen, rows[start:stop], dtype)

    def _add(
        self,
        problem: BundleProblem,
        model: str,
        camera_index: Tensor,
        chosen: Tensor,
        rows: list[tuple[int, int, int]],
        dtype: torch.dtype,
    ) -> None:
        frame, begin, length = torch.tensor(rows, device=self.device).unbind(1)
        index, real = spread(begin, length, rows[0][2])
        slots = slice(self.slots, self.slots + index.numel())
        self._slot[index[real]] = torch.arange(slots.start, slots.stop, device=self.device).reshape(index.shape)[real]
        self.slots = slots.stop
        taken = chosen[index]
        whitening = problem.whitening[taken].to(dtype).permute(0, 3, 2, 1) * real[:, None, None]
        self.batches.append(
            RowBatch(
                model=model,
                frame=frame,
                camera=camera_index[frame],
                point=self._point[index],
                real=real,
                xy=problem.xy[taken].to(dtype).mT.contiguous(),
                whitening=whitening.contiguous(),
                slots=slots,
            )
        )

    def pairs(self) -> list[PairBatch]:
        """All pairs of observations of one point, by their two frames; the first frame is not the later one."""
        order = self._point.argsort(stable=True)
        point, first, second = self._point[order], [], []
        longest = int(torch.bincount(point).max()) if self.count else 0
        for lag in range(1, longest):
            same = (point[lag:] == point[:-lag]).nonzero().flatten()
            first.append(order[same])
            second.append(order[same + lag])
        if not first:
            return []
        one, two, frames = torch.cat(first), torch.cat(second), self.seen.shape[0]
        key, by_key = (self._frame[one] * frames + self._frame[two]).sort()
        keys, lengths = torch.unique_consecutive(key, return_counts=True)
        ends = lengths.cumsum(0)
        lengths, by_length = lengths.sort(descending=True, stable=True)
        keys, begin = keys[by_length], ends[by_length] - lengths
        padding = self._slot.new_full((1,), self.slots)
        one, two = (torch.cat([self._slot[side[by_key]], padding]) for side in (one, two))
        batches, widths = [], lengths.tolist()
        for start, stop in cut(widths):
            index, real = spread(begin[start:stop], lengths[start:stop], widths[start])
            index = torch.where(real, index, one.shape[0] - 1)
            batches.append(
                PairBatch(
                    first_frame=torch.div(keys[start:stop], frames, rounding_mode="floor"),
                    second_frame=keys[start:stop] % frames,
                    first=one[index],
                    second=two[index],
                )
            )
        return batches


def _rows(counts: list[int], of_model: list[bool]) -> list[tuple[int, int, int]]:
    """Frame, first observation and length of each row: frames of one model, long ones in pieces."""
    rows, begin = [], 0
    for frame, (count, wanted) in enumerate(zip(counts, of_model, strict=True)):
        if wanted and count:
            pieces = -(-count // BATCH_ITEMS)
            bounds = [begin + count * i // pieces for i in range(pieces + 1)]
            rows += [(frame, start, stop - start) for start, stop in itertools.pairwise(bounds)]
        begin += count
    return rows


def cut(lengths: list[int]) -> list[tuple[int, int]]:
    """Cut a falling list of lengths in batches (start, stop) that may be padded to their first length."""
    batches, start, content = [], 0, 0
    for i, length in enumerate(lengths):
        padded, content = lengths[start] * (i + 1 - start), content + length
        if padded > SMALL_BATCH and i > start and (padded > BATCH_ITEMS or padded > PADDING * content):
            batches.append((start, i))
            start, content = i, length
    return [*batches, (start, len(lengths))] if lengths else []


def spread(
    begin: Int[Tensor, " Q"], length: Int[Tensor, " Q"], width: int
) -> tuple[Int[Tensor, "Q n"], Bool[Tensor, "Q n"]]:
    """Indices of lists within a long one, padded with their last; and which are not padding."""
    step = torch.arange(width, device=begin.device)
    return begin[:, None] + torch.minimum(step, length[:, None] - 1), step < length[:, None]
