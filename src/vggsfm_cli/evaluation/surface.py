"""Points against a scanned surface: accuracy and completeness, as ETH3D defines them.

Source: Schoeps et al., "A Multi-View Stereo Benchmark with High-Resolution Images and Multi-Camera Videos", CVPR 2017,
Sec. 5. Lengths are in the units of the scans, which are metres. The benchmark's own program is the reference where a
figure is to be published; the points are written as a PLY file for it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_PAIRS = 2**23
"""Pairs that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class SurfaceConfig:
    """How a surface is compared; the defaults are those of ETH3D's program."""

    tolerances: tuple[float, ...] = (0.01, 0.02, 0.05)
    voxel: float = 0.01  # side of the cubes that figures are averaged over, so that dense places count no more
    beam_radius: float = 0.5 * 0.00225  # of the laser at the scanner
    beam_divergence_deg: float = 0.011  # half the opening angle


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One laser scan.

    Attributes:
        xyz: in the scanner's frame, which is at the origin.
        world_from_scan: a rigid transform.
    """

    xyz: Float[Tensor, "M 3"]
    world_from_scan: Float[Tensor, "4 4"]

    def in_world(self) -> Float[Tensor, "M 3"]:
        """The points in world coordinates."""
        pose = self.world_from_scan.to(self.xyz)
        return self.xyz @ pose[:3, :3].mT + pose[:3, 3]

    def to_scan(self, xyz_world: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """World coordinates in the scanner's frame."""
        pose = torch.linalg.inv(self.world_from_scan).to(xyz_world)
        return xyz_world @ pose[:3, :3].mT + pose[:3, 3]


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceFigures:
    """Percent, one for each tolerance; NaN for accuracy where no point lies in a part that was scanned."""

    accuracy: tuple[float, ...]
    completeness: tuple[float, ...]


def compare_with_scans(
    xyz_world: Float[Tensor, "N 3"], scans: Sequence[Scan], config: SurfaceConfig | None = None
) -> SurfaceFigures:
    """Accuracy and completeness of reconstructed points.

    - Completeness: share of the scanned points with a reconstructed point within the tolerance.
    - Accuracy: share of the reconstructed points with a scanned point within the tolerance. Of the others only those
      count that a laser beam shows to be wrong, as it passed there and went on by more than the tolerance; a point
      where no beam came is left out. A beam is a cone around the line from scanner to scanned point, widened by the
      tolerance.

    Both are means over cubes of ``config.voxel``, of the means within the cubes.
    """
    config = config or SurfaceConfig()
    nearest = xyz_world.new_full((len(xyz_world),), torch.inf)
    reached, places = [], []
    for scan in scans:
        surface = scan.in_world().to(xyz_world)
        to_surface, to_points = nearest_within(xyz_world, surface, max(config.tolerances))
        nearest = torch.minimum(nearest, to_surface)
        reached.append(to_points)
        places.append(surface)
    distance, place = torch.cat(reached), torch.cat(places)
    accuracy, completeness = [], []
    for tolerance in config.tolerances:
        accurate = nearest <= tolerance
        counted = accurate.clone()
        for scan in scans:
            open_question = ~counted
            passed = passed_by_a_beam(scan.to_scan(xyz_world[open_question]), scan.xyz.to(xyz_world), tolerance, config)
            counted[open_question] = passed
        accuracy.append(100 * mean_over_voxels(xyz_world[counted], accurate[counted], config.voxel))
        completeness.append(100 * mean_over_voxels(place, distance <= tolerance, config.voxel))
    return SurfaceFigures(accuracy=tuple(accuracy), completeness=tuple(completeness))


def mean_over_voxels(xyz: Float[Tensor, "N 3"], good: Bool[Tensor, " N"], side: float) -> float:
    """Mean over the occupied cubes of the share of good points in each; NaN without points."""
    if len(xyz) == 0:
        return float("nan")
    cell = (xyz.double() / side).floor().long()
    cell = cell - cell.amin(0)
    size = cell.amax(0) + 1
    fits = math.prod(size.tolist()) < 2**63
    # one number a cube is sorted much faster than three; only points at absurd distances have too many cubes for it
    _, voxel = torch.unique(_key(cell, size), return_inverse=True) if fits else cell.unique(dim=0, return_inverse=True)
    count = torch.bincount(voxel)
    return float((torch.bincount(voxel[good], minlength=len(count)) / count).double().mean())


def nearest_within(
    points: Float[Tensor, "N 3"], reference: Float[Tensor, "M 3"], radius: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, " M"]]:
    """Distance from each point to the nearest of the others, both ways; infinite where it is more than ``radius``."""
    to_reference, to_points = points.new_full((len(points),), torch.inf), points.new_full((len(reference),), torch.inf)
    for i, j in pairs_within(points, reference, radius):
        distance = (points[i] - reference[j]).norm(dim=-1)
        to_reference.scatter_reduce_(0, i, distance, "amin")
        to_points.scatter_reduce_(0, j, distance, "amin")
    return to_reference, to_points


def passed_by_a_beam(
    xyz_scan: Float[Tensor, "N 3"], beams: Float[Tensor, "M 3"], tolerance: float, config: SurfaceConfig
) -> Bool[Tensor, " N"]:
    """Whether a laser beam passed a point, nearer than beam width and tolerance, and ended more than that behind it.

    Args:
        xyz_scan: points in the scanner's frame.
        beams: where beams ended, in the scanner's frame.
        tolerance: by which beams are widened, and points must lie in front of their ends.
        config: shape of the beams.
    """
    passed = torch.zeros(len(xyz_scan), dtype=torch.bool, device=xyz_scan.device)
    if len(xyz_scan) == 0 or len(beams) == 0:
        return passed
    depth, length = xyz_scan.norm(dim=-1), beams.norm(dim=-1)
    divergence = torch.deg2rad(torch.tensor(config.beam_divergence_deg)).tan().item()
    width = config.beam_radius + divergence * depth + tolerance
    passed |= depth <= width  # inside the scanner
    ahead = ((depth > width).nonzero()[:, 0], (length > 0).nonzero()[:, 0])
    direction = xyz_scan[ahead[0]] / depth[ahead[0], None]
    beam_direction = beams[ahead[1]] / length[ahead[1], None]
    # points near the scanner see many beams under wide angles: those of similar reach are searched together
    reach = 2 * (0.5 * torch.asin((width / depth)[ahead[0]].clamp(max=1))).sin()
    level = torch.log2(reach).floor().long()
    for value in level.unique().tolist():
        chosen = (level == value).nonzero()[:, 0]
        for i, j in pairs_within(direction[chosen], beam_direction, 2.0 ** (value + 1)):
            point, beam = ahead[0][chosen[i]], ahead[1][j]
            near = (direction[chosen[i]] - beam_direction[j]).norm(dim=-1) <= reach[chosen[i]]
            passed[point[near & (length[beam] > depth[point] + tolerance)]] = True
    return passed


def pairs_within(
    points: Float[Tensor, "N 3"], reference: Float[Tensor, "M 3"], radius: float
) -> Iterator[tuple[Int[Tensor, " K"], Int[Tensor, " K"]]]:
    """All pairs that may be as near as ``radius``, and some that are not, in portions: index into each set.

    The points lie in cubes with sides of ``radius``, and each of ``reference`` is compared with those of the 27 cubes
    around it.
    """
    if len(points) == 0 or len(reference) == 0:
        return
    low, high = reference.amin(0) - radius, reference.amax(0) + radius
    usable = ((points >= low) & (points <= high)).all(-1).nonzero()[:, 0]
    if len(usable) == 0:
        return
    points = points[usable]
    origin = points.amin(0) - radius
    cell = ((points - origin) / radius).floor().long()
    size = cell.amax(0) + 2
    candidates = ((reference >= origin) & (reference <= points.amax(0) + radius)).all(-1).nonzero()[:, 0]
    key, order = _key(cell, size).sort()
    order = usable[order]
    for chosen in candidates.split(MAX_PAIRS // 64):
        place = ((reference[chosen] - origin) / radius).floor().long()
        for step in itertools.product((-1, 0, 1), repeat=3):
            beside = place + place.new_tensor(step)
            inside = ((beside >= 0) & (beside < size)).all(-1)
            wanted = _key(beside[inside], size)
            start, end = torch.searchsorted(key, wanted), torch.searchsorted(key, wanted, right=True)
            yield from _expanded(start, end - start, order, chosen[inside])


def _key(cell: Int[Tensor, "n 3"], size: Int[Tensor, "3"]) -> Int[Tensor, " n"]:
    return (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]


def _expanded(
    start: Int[Tensor, " n"], count: Int[Tensor, " n"], order: Int[Tensor, " N"], other: Int[Tensor, " n"]
) -> Iterator[tuple[Int[Tensor, " K"], Int[Tensor, " K"]]]:
    """Each of ``other`` with its ``count`` points from ``start`` on, at most about ``MAX_PAIRS`` together."""
    some = count.nonzero()[:, 0]
    start, count, other = start[some], count[some], other[some]
    portion = count.cumsum(0) // MAX_PAIRS
    for begin, end in _runs(portion):
        n = count[begin:end]
        first = start[begin:end] - (n.cumsum(0) - n)
        position = torch.arange(int(n.sum()), device=n.device) + first.repeat_interleave(n)
        yield order[position], other[begin:end].repeat_interleave(n)


def _runs(values: Int[Tensor, " n"]) -> Iterator[tuple[int, int]]:
    """Begin and end of the stretches of equal values."""
    _, lengths = torch.unique_consecutive(values, return_counts=True)
    end = 0
    for length in lengths.tolist():
        begin, end = end, end + length
        yield begin, end
