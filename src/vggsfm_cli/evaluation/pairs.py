"""Pairs of frames, grouped by how far the camera turned, and what is found in them: distances from the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.evaluation.metrics import epipolar_distance
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.geometry.camera import calibration_matrix
from vggsfm_cli.geometry.epipolar import essential_from_pose
from vggsfm_cli.scene import Cameras

ROTATION_BINS_DEG = {"10": (5.0, 17.0), "25": (17.0, 37.0), "50": (37.0, 65.0), "80": (65.0, 95.0)}
"""Angle of the relative rotation of a pair, from (included) and to (excluded), by the name of the group."""


def pair_groups(cameras: Cameras, b: int = 0) -> dict[tuple[int, int], str]:
    """The group of each ordered pair of frames of one scene; pairs in no group are left out."""
    world = cameras.cam_from_world[b].double()
    angle = rotation.angle_deg(pose.relative(world[:, None], world[None])[..., :3]).tolist()
    return {
        (i, j): group
        for i in range(len(world))
        for j in range(len(world))
        for group, (low, high) in ROTATION_BINS_DEG.items()
        if i != j and low <= angle[i][j] < high
    }


def distance_to_line(
    cameras: Cameras, source: int, target: int, xy_source: Float[Tensor, "M 2"], xy_target: Float[Tensor, "M 2"]
) -> Float[Tensor, " M"]:
    """Distance of ``xy_target`` to the true epipolar line of ``xy_source``, all in stored pixels, of scene 0.

    Both are undistorted first, so that lines are straight; the distance is in pixels of the undistorted picture that
    has the target's calibration matrix. In double precision.
    """
    if len(xy_source) == 0:
        return xy_source.new_zeros(0, dtype=torch.float64)
    frames = cameras.cam_from_world.shape[1]
    both = torch.zeros(1, frames, len(xy_source), 2, dtype=torch.float64, device=xy_source.device)
    both[0, source], both[0, target] = xy_source.double(), xy_target.double()
    plane = cameras.unproject(both)[0]
    camera = int(cameras.camera_index[0, target])
    k = calibration_matrix(cameras.models[camera], cameras.params[0, camera].double())
    world = cameras.cam_from_world[0].double()
    # x2 in pixels, x1 on the z = 1 plane: K2^-T E
    mixed = torch.linalg.inv(k).mT @ essential_from_pose(pose.relative(world[source], world[target]))
    return epipolar_distance(mixed, plane[source], plane[target] @ k[:2, :2].mT + k[:2, 2])


@dataclass(frozen=True, kw_only=True, eq=False)
class PairDistances:
    """Distances from the truth: ``values[kind][group]`` has one vector for each pair of frames."""

    values: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)

    def add(self, kind: str, group: str, distance_px: Float[Tensor, " M"]) -> None:
        """Take in what was found in one pair; infinite for what is not there at all."""
        self.values.setdefault(kind, {}).setdefault(group, []).append(distance_px)

    def update(self, other: "PairDistances") -> None:
        """Take in all pairs of another scene."""
        for kind, groups in other.values.items():
            for group, pairs in groups.items():
                for distance in pairs:
                    self.add(kind, group, distance)

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Figures of each kind and group, see ``summarize_distances``."""
        return {
            kind: {group: summarize_distances(groups[group]) for group in ROTATION_BINS_DEG if group in groups}
            for kind, groups in self.values.items()
        }


def summarize_distances(pairs: Sequence[Float[Tensor, " _"]]) -> dict[str, Any]:
    """Figures of one group of pairs.

    ``per_pair`` counts what was found, ``within_1px_per_pair`` what of it is near. Median and shares (percent) are over
    the findings of all pairs together, so pairs where more is found weigh more; None where nothing was found. Near is
    strictly nearer than the threshold.
    """
    distance = torch.cat(list(pairs))
    count = len(distance)
    near = {threshold: int((distance < threshold).sum()) for threshold in (1, 5)}
    median = float(distance.double().quantile(0.5)) if count else float("nan")
    return {
        "pairs": len(pairs),
        "per_pair": round(count / len(pairs), 1),
        "within_1px_per_pair": round(near[1] / len(pairs), 1),
        "median_px": rounded(median),
        "within_1px": rounded(100 * near[1] / count, 2) if count else None,
        "within_5px": rounded(100 * near[5] / count, 2) if count else None,
    }


def rounded(value: float, digits: int = 4) -> float | None:
    """A figure for JSON, which knows no infinity and no NaN."""
    return round(value, digits) if abs(value) < float("inf") else None
