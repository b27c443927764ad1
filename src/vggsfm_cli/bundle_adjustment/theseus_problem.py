"""One scene of a bundle problem as an objective of Theseus: one variable, and one cost function a camera model.

Theseus' stock reprojection cost is one Python object an observation and looks down -z without a principal point, so
these wrap ``problem.py``'s residuals of all observations at once. Theseus stores Jacobians dense; a bundle problem's
are sparse, so these cost functions give the entries as well, for ``theseus_linear.py``.

Imported only where Theseus is installed: ``theseus_solver.py`` sees to that.
"""

from typing import Any

import theseus as th
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BundleProblem, linearize, move_poses, residuals
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import robust


class Layout:
    """Which numbers of one scene are unknown, and where they stand in the variable and among the unknowns.

    The variable holds all poses, all camera parameters and the observed points, one after the other. Fixed ones are in
    it only for their place: their values come from the problem, with their graph.
    """

    def __init__(self, problem: BundleProblem, b: int) -> None:
        cameras, count = problem.cameras, problem.points.xyz_world.shape[1]
        self.problem, self.b = problem, b
        self.frames = cameras.camera_index.shape[1]
        self.rows = (torch.div(problem.frame, self.frames, rounding_mode="floor") == b).nonzero().flatten()
        self.frame = problem.frame[self.rows] - b * self.frames
        self.camera = cameras.camera_index[b][self.frame]
        self.active, self.point = (problem.point[self.rows] - b * count).unique(return_inverse=True)
        used = torch.zeros(len(cameras.models), dtype=torch.bool, device=self.frame.device)
        used[self.camera] = True
        pose_free, self.params_free = problem.pose_free[b], problem.params_free[b] & used[:, None]
        points_free = torch.full((3 * len(self.active),), problem.points_free, device=used.device)
        free = torch.cat([pose_free.flatten(), self.params_free.flatten(), points_free])
        self.pose_moves = pose_free.any(-1)
        self.free = free.nonzero().flatten()
        self.unknowns = len(self.free)
        column = torch.where(free, free.cumsum(0) - 1, self.unknowns)
        poses, params, points = self._split(column, 6)
        self.pose_column, self.point_column = poses.reshape(-1, 6), points.reshape(-1, 3)
        self.params_column = params.reshape(self.params_free.shape)

    def _split(self, flat: Tensor, numbers_a_pose: int) -> tuple[Tensor, Tensor, Tensor]:
        poses, params = numbers_a_pose * self.frames, self.params_free.numel()
        return flat[:poses], flat[poses : poses + params], flat[poses + params :]

    def given(self) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "C P"], Float[Tensor, "K 3"]]:
        """Poses, camera parameters and observed points of the problem."""
        cameras, b = self.problem.cameras, self.b
        xyz_world = self.problem.points.xyz_world[b][self.active]
        return cameras.cam_from_world[b].double(), cameras.params[b].double(), xyz_world.double()

    def start(self) -> Float[Tensor, "1 n"]:
        """The variable at the given values."""
        return torch.cat([part.flatten() for part in self.given()])[None]

    def values(
        self, variable: Float[Tensor, "1 n"]
    ) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, "C P"], Float[Tensor, "K 3"]]:
        """Poses, camera parameters and observed points: free ones of the variable, fixed ones of the problem."""
        given = self.given()
        poses, params, points = (
            part.reshape(like.shape) for part, like in zip(self._split(variable[0], 12), given, strict=True)
        )
        return (
            torch.where(self.pose_moves[:, None, None], poses, given[0]),
            torch.where(self.params_free, params, given[1]),
            points if self.problem.points_free else given[2],
        )

    def move(self, variable: Float[Tensor, "1 n"], step: Float[Tensor, "1 D"]) -> Float[Tensor, "1 n"]:
        """The variable after a step of the unknowns."""
        size = 6 * self.frames + variable.shape[1] - 12 * self.frames
        full = step.new_zeros(size).index_put((self.free,), step[0])
        by_pose, by_params, by_point = self._split(full, 6)
        poses, params, points = self._split(variable[0], 12)
        moved = move_poses(poses.reshape(-1, 3, 4), by_pose.reshape(-1, 6))
        poses = torch.where(self.pose_moves[:, None, None], moved, poses.reshape(-1, 3, 4))
        return torch.cat([poses.flatten(), params + by_params, points + by_point])[None]


class SceneVariable(th.Manifold):  # type: ignore[misc]
    """All of a scene's numbers; moves as ``problem.py`` says."""

    def __init__(self, layout: Layout, tensor: Tensor, name: str = "scene") -> None:
        self.layout = layout
        super().__init__(tensor.shape[1], tensor=tensor, name=name)

    @staticmethod
    def _init_tensor(*args: Any) -> Tensor:
        return torch.empty(1, int(args[0]))

    def dof(self) -> int:
        """Number of unknowns."""
        return self.layout.unknowns

    def _retract_impl(self, delta: Tensor) -> "SceneVariable":
        return SceneVariable(self.layout, self.layout.move(self.tensor, delta), self.name)

    def _copy_impl(self, new_name: str | None = None) -> "SceneVariable":
        return SceneVariable(self.layout, self.tensor.clone(), new_name or self.name)

    def _local_impl(self, variable2: th.Manifold, jacobians: list[Tensor] | None = None) -> Tensor:
        raise NotImplementedError("bundle adjustment needs no differences of scenes")

    def _project_impl(self, euclidean_grad: Tensor, is_sparse: bool = False) -> Tensor:
        raise NotImplementedError("bundle adjustment has its Jacobians in closed form")

    @staticmethod
    def normalize(tensor: Tensor) -> Tensor:
        """Every tensor is valid."""
        return tensor

    @staticmethod
    def _check_tensor_impl(tensor: Tensor) -> bool:
        return True


class SparseCost(th.CostFunction):  # type: ignore[misc]
    """A cost function that gives the entries of its Jacobian.

    Attributes:
        columns: unknown of each entry; the number of unknowns where the entry belongs to nothing free.
    """

    columns: Int[Tensor, "R W"]

    def __init__(self, scene: SceneVariable, name: str) -> None:
        like = scene.tensor
        super().__init__(th.ScaleCostWeight(torch.ones(1, 1, dtype=like.dtype, device=like.device)), name=name)
        self.scene = scene
        self.register_optim_vars(["scene"])

    @property
    def layout(self) -> Layout:
        """Where the unknowns stand."""
        return self.scene.layout

    def dim(self) -> int:
        """Number of residuals."""
        return len(self.columns)

    def entries(self) -> tuple[Float[Tensor, "R W"], Float[Tensor, " R"]]:
        """Entries of the Jacobian in the order of ``columns``, and the error; their product is the gradient."""
        raise NotImplementedError

    def jacobians(self) -> tuple[list[Tensor], Tensor]:
        """The dense Jacobian that Theseus asks for; its solvers of small problems and its checks use it."""
        values, error = self.entries()
        dense = values.new_zeros(len(values), self.layout.unknowns + 1).scatter_add(1, self.columns, values)
        return [dense[None, :, :-1]], error[None]

    def weighted_error(self) -> Tensor:
        """The error carries its weight already."""
        return self.error()

    def weighted_jacobians_error(self) -> tuple[list[Tensor], Tensor]:
        """So do the Jacobians."""
        return self.jacobians()

    def _copy_impl(self, new_name: str | None = None) -> "SparseCost":
        copy: SparseCost = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.name, copy.scene = new_name or self.name, self.scene.copy()
        return copy


class ReprojectionCost(SparseCost):
    """Whitened residuals of all observations that cameras of one model made, under the robust loss.

    The squared norm of ``error`` is the robust cost; ``entries`` are those of reweighted least squares (Triggs et al.,
    "Bundle adjustment", 2000, Sec. 4.3).
    """

    def __init__(self, scene: SceneVariable, model: str, chosen: Int[Tensor, " m"]) -> None:
        super().__init__(scene, f"reprojection_{model}")
        layout = scene.layout
        self.model = model
        self.frame, self.camera, self.point = layout.frame[chosen], layout.camera[chosen], layout.point[chosen]
        rows = layout.rows[chosen]
        self.xy, self.whitening = layout.problem.xy[rows], layout.problem.whitening[rows]
        columns = [layout.pose_column[self.frame], layout.params_column[self.camera], layout.point_column[self.point]]
        self.columns = torch.cat(columns, -1).repeat_interleave(2, dim=0)

    def error(self) -> Tensor:
        """Residuals scaled so that their squares are the robust cost; infinite where no camera can be such."""
        poses, params, xyz = self.layout.values(self.scene.tensor)
        error = residuals(self.model, poses[self.frame], params[self.camera], xyz[self.point], self.xy, self.whitening)
        loss, squared = self.layout.problem.loss, error.square().sum(-1)
        nought = squared < torch.finfo(squared.dtype).tiny ** 0.5
        squared = torch.where(nought, torch.ones_like(squared), squared)
        scale = (robust.evaluate(loss.kind, squared, loss.scale)[0] / squared).sqrt()
        error = error * torch.where(nought, torch.ones_like(scale), scale)[:, None]
        focals = params[self.camera.unique()][:, list(camera_models.focal_indices(self.model))]
        possible = (focals > 0).all() & error.isfinite().all()
        return torch.where(possible, error, torch.inf).flatten()[None]

    def entries(self) -> tuple[Tensor, Tensor]:
        """Entries and residuals, times the root of the robust weight."""
        poses, params, xyz = self.layout.values(self.scene.tensor)
        lin = linearize(self.model, poses[self.frame], params[self.camera], xyz[self.point], self.xy, self.whitening)
        loss = self.layout.problem.loss
        weight = robust.evaluate(loss.kind, lin.residual.square().sum(-1), loss.scale)[1].sqrt()
        values = torch.cat([lin.by_pose, lin.by_params, lin.by_point], -1) * weight[:, None, None]
        return values.flatten(0, 1), (lin.residual * weight[:, None]).flatten()


class FocalPriorCost(SparseCost):
    """Distance of the logarithms of focal lengths to their priors, in standard deviations."""

    def __init__(self, scene: SceneVariable, cameras: list[int]) -> None:
        super().__init__(scene, "focal_prior")
        layout, problem = scene.layout, scene.layout.problem
        self.cameras = cameras
        self.columns = layout.params_column[cameras]
        self.log_focal = problem.log_focal[layout.b, cameras]
        self.spread = problem.log_focal_spread[layout.b, cameras]
        self.share = scene.tensor.new_zeros(self.columns.shape)
        for row, c in enumerate(cameras):
            index = list(camera_models.focal_indices(problem.cameras.models[c]))
            self.share[row, index] = 1 / len(index)

    def _focal(self) -> Tensor:
        _, params, _ = self.layout.values(self.scene.tensor)
        return (params[self.cameras] * self.share).sum(-1).clamp(min=1e-6)

    def error(self) -> Tensor:
        """In standard deviations."""
        return ((self._focal().log() - self.log_focal) / self.spread)[None]

    def entries(self) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to the parameters of each camera."""
        return self.share / (self._focal() * self.spread)[:, None], self.error()[0]


def build_objective(layout: Layout) -> th.Objective:
    """The objective of one scene."""
    problem = layout.problem
    scene = SceneVariable(layout, layout.start())
    objective = th.Objective(dtype=torch.float64)
    models = problem.cameras.models
    for model in sorted(set(models)):
        of_model = torch.tensor([name == model for name in models], device=layout.camera.device)
        chosen = of_model[layout.camera].nonzero().flatten()
        if len(chosen):
            objective.add(ReprojectionCost(scene, model, chosen))
    held = problem.log_focal_spread[layout.b].isfinite() & layout.params_free.any(-1)
    if bool(held.any()):
        objective.add(FocalPriorCost(scene, held.nonzero().flatten().tolist()))
    objective.to(scene.tensor.device)
    objective.update()
    return objective
