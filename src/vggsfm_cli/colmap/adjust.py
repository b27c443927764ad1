"""Bundle adjustment through pycolmap: COLMAP's cost functions, Ceres' Levenberg-Marquardt.

pycolmap weighs all observations alike, knows no prior on a focal length, and frees focal lengths, principal points and
distortions of all cameras together or not at all, but for cameras that are held as a whole.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pycolmap
import pycolmap.pyceres  # the solver's options and summary are of its types
import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.colmap.convert import to_pycolmap
from vggsfm_cli.colmap.estimators import quiet
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.scene import Reconstruction


@dataclass(frozen=True, kw_only=True)
class AdjustOptions:
    """What one adjustment may change and when it stops; frames and cameras by their index."""

    held_frames: frozenset[int]
    held_cameras: frozenset[int]
    poses: bool
    points: bool
    focal: bool
    principal_point: bool
    distortion: bool
    fix_scale: bool  # hold what the held frames leave undetermined: the scale
    loss: Literal["none", "huber", "cauchy"]
    loss_scale_px: float
    max_iterations: int
    cost_tolerance: float  # relative fall of the cost below which it has converged
    threads: int
    covariance: bool

    def refined_indices(self, model: str) -> list[int]:
        """Parameters of a camera of this model that may change."""
        groups = (
            (self.focal, camera_models.focal_indices(model)),
            (self.principal_point, camera_models.principal_point_indices(model)),
            (self.distortion, camera_models.distortion_indices(model)),
        )
        return [index for wanted, indices in groups if wanted for index in indices]


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjusted:
    """What came out, in the order of the reconstruction that went in.

    Attributes:
        cam_from_world, params, xyz_world: adjusted; whatever took no part is as it was.
        outcome: why Ceres stopped.
        iterations: steps taken.
        params_covariance: of the camera parameters for observations of unit variance, zero where held; None where it
            was not asked for or could not be computed.
    """

    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "C P"]
    xyz_world: Float[Tensor, "N 3"]
    outcome: Literal["gradient", "cost", "iterations", "failure"]
    iterations: int
    params_covariance: Float[Tensor, "C P P"] | None


def adjust(reconstruction: Reconstruction, options: AdjustOptions) -> Adjusted:
    """Adjust a model; frames without observations and points without any take no part.

    pycolmap stops at points with a single observation: there must be none.
    """
    model = to_pycolmap(reconstruction, min_views=1)
    with quiet():
        config = _config(model, reconstruction, options)
        adjuster = pycolmap.create_default_ceres_bundle_adjuster(_options(options), config, model)
        summary = adjuster.solve()
        assert isinstance(summary, pycolmap.CeresBundleAdjustmentSummary)
        covariance = _covariance(model, adjuster, reconstruction, options) if options.covariance else None
    return Adjusted(
        cam_from_world=_poses(model, reconstruction, options),
        params=_params(model, reconstruction),
        xyz_world=_points(model, reconstruction),
        outcome=_outcome(summary),
        iterations=max(summary.ceres_summary.num_successful_steps - 1, 0),  # Ceres counts the start as one
        params_covariance=covariance,
    )


def _config(
    model: pycolmap.Reconstruction, reconstruction: Reconstruction, options: AdjustOptions
) -> pycolmap.BundleAdjustmentConfig:
    config = pycolmap.BundleAdjustmentConfig()
    for s in reconstruction.frame.unique().tolist():
        config.add_image(s + 1)
        if s in options.held_frames:
            config.set_constant_rig_from_world_pose(model.images[s + 1].frame_id)
    for c in options.held_cameras:
        if c + 1 in model.cameras:
            config.set_constant_cam_intrinsics(c + 1)
    if options.fix_scale:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    return config


def _options(options: AdjustOptions) -> pycolmap.BundleAdjustmentOptions:
    out = pycolmap.BundleAdjustmentOptions()
    out.print_summary = False
    out.refine_rig_from_world = options.poses
    out.refine_sensor_from_rig = False
    out.refine_points3D = options.points
    out.refine_focal_length = options.focal
    out.refine_principal_point = options.principal_point
    out.refine_extra_params = options.distortion
    kinds = pycolmap.LossFunctionType
    ceres = out.ceres
    ceres.loss_function_type = {"none": kinds.TRIVIAL, "huber": kinds.HUBER, "cauchy": kinds.CAUCHY}[options.loss]
    ceres.loss_function_scale = options.loss_scale_px
    solver = ceres.solver_options
    solver.max_num_iterations = options.max_iterations
    solver.function_tolerance = options.cost_tolerance
    solver.gradient_tolerance = 1e-10
    solver.num_threads = options.threads
    return out


def _outcome(summary: pycolmap.CeresBundleAdjustmentSummary) -> Literal["gradient", "cost", "iterations", "failure"]:
    kinds = pycolmap.BundleAdjustmentTerminationType
    if summary.termination_type == kinds.CONVERGENCE:
        return "gradient" if summary.ceres_summary.message.startswith("Gradient") else "cost"
    return "iterations" if summary.termination_type == kinds.NO_CONVERGENCE else "failure"


def _poses(
    model: pycolmap.Reconstruction, reconstruction: Reconstruction, options: AdjustOptions
) -> Float[Tensor, "S 3 4"]:
    out = reconstruction.cameras.cam_from_world[0].detach().cpu().double().clone()
    moved = set(reconstruction.frame.tolist()) - options.held_frames if options.poses else set()
    for s in moved:
        out[s] = torch.from_numpy(model.images[s + 1].cam_from_world().matrix())
    return out


def _params(model: pycolmap.Reconstruction, reconstruction: Reconstruction) -> Float[Tensor, "C P"]:
    out = reconstruction.cameras.params[0].detach().cpu().double().clone()
    for camera_id, camera in model.cameras.items():
        out[camera_id - 1, : len(camera.params)] = torch.tensor(np.array(camera.params))
    return out


def _points(model: pycolmap.Reconstruction, reconstruction: Reconstruction) -> Float[Tensor, "N 3"]:
    out = reconstruction.xyz_world.detach().cpu().double().clone()
    seen = reconstruction.point.unique().cpu()
    xyz = [model.points3D[i + 1].xyz for i in range(len(seen))]
    out[seen] = torch.from_numpy(np.array(xyz, dtype=np.float64).reshape(-1, 3))
    return out


def _covariance(
    model: pycolmap.Reconstruction,
    adjuster: pycolmap.BundleAdjuster,
    reconstruction: Reconstruction,
    options: AdjustOptions,
) -> Float[Tensor, "C P P"] | None:
    cameras = reconstruction.cameras
    width = cameras.params.shape[-1]
    out = torch.zeros(len(cameras.models), width, width, dtype=torch.float64)
    if not isinstance(adjuster, pycolmap.CeresBundleAdjuster):  # before pycolmap 4.1 its type is lost on the way
        return None
    found = pycolmap.estimate_ba_covariance(pycolmap.BACovarianceOptions(), model, adjuster)
    if found is None:
        return None
    for camera_id, camera in model.cameras.items():
        index = torch.tensor(options.refined_indices(cameras.models[camera_id - 1]), dtype=torch.long)
        if len(index) == 0 or camera_id - 1 in options.held_cameras:
            continue
        block = found.get_other_params_cov(camera.params)
        if block is None:
            return None
        out[camera_id - 1, index[:, None], index] = torch.from_numpy(np.ascontiguousarray(block))
    return out
