"""The free coordinates of one scene's poses and cameras, numbered.

Every frame has a block: its pose and the parameters of its camera, as far as any of them are free. Blocks of frames
that share a camera overlap there.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BundleProblem, move_poses
from vggsfm_cli.bundle_adjustment.residual import POSE


class Unknowns:
    """Numbers of the unknowns of scene ``b``.

    Attributes:
        count: how many there are.
        pose_free, params_free: which coordinates they are.
        wanted: coordinates of a block that are free in any frame: 0-5 the pose, from 6 the camera's parameters.
        column: number of each coordinate of each frame's block; ``count`` where it is fixed.
        pose_column, params_column: numbers of all coordinates of the poses and of the cameras.
        camera_index: camera of each frame.
    """

    def __init__(self, problem: BundleProblem, b: int, seen: Bool[Tensor, " S"]) -> None:
        """Number the coordinates of frames with observations, and of their cameras."""
        self.camera_index = problem.cameras.camera_index[b]
        in_use = torch.zeros_like(problem.params_free[b, :, 0]).index_fill(0, self.camera_index[seen], True)
        self.pose_free = problem.pose_free[b] & seen[:, None]
        self.params_free: Bool[Tensor, "C P"] = problem.params_free[b] & in_use[:, None]
        free = torch.cat([self.pose_free.flatten(), self.params_free.flatten()])
        self._free = free.nonzero().flatten()
        self.count = len(self._free)
        number = torch.where(free, free.cumsum(0) - 1, self.count)
        poses, params = number.split([self.pose_free.numel(), self.params_free.numel()])
        self.pose_column, self.params_column = poses.reshape(-1, POSE), params.reshape(self.params_free.shape)
        column = torch.cat([self.pose_column, self.params_column[self.camera_index]], -1)[seen]
        self.wanted: list[int] = (column < self.count).any(0).nonzero().flatten().tolist()
        whole = torch.cat([self.pose_column, self.params_column[self.camera_index]], -1)
        self.column: Int[Tensor, "S W"] = whole[:, self.wanted]

    def add_vectors(self, vectors: Float[Tensor, "S W"]) -> Float[Tensor, " D"]:
        """Add vectors of frames up in the vector of the unknowns."""
        return vectors.new_zeros(self.count + 1).index_add(0, self.column.flatten(), vectors.flatten())[:-1]

    def spread(self, vector: Float[Tensor, " D"]) -> Float[Tensor, "S W"]:
        """The unknowns of each frame; zero where they are fixed."""
        return torch.cat([vector, vector.new_zeros(1)])[self.column]

    def move(
        self, cam_from_world: Float[Tensor, "S 3 4"], params: Float[Tensor, "C P"], step: Float[Tensor, " D"]
    ) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "C P"]]:
        """Poses and parameters after a step; fixed ones are exactly as they were."""
        full = step.new_zeros(self.pose_free.numel() + self.params_free.numel()).index_put((self._free,), step)
        by_pose, by_params = full.split([self.pose_free.numel(), self.params_free.numel()])
        moved = move_poses(cam_from_world, by_pose.reshape(-1, POSE))
        still = ~self.pose_free.any(-1)
        return torch.where(still[:, None, None], cam_from_world, moved), params + by_params.reshape(params.shape)
