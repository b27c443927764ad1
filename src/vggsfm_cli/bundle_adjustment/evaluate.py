"""What a problem costs at any cameras and points: the same number for every solver."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BundleProblem, residuals
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, robust
from vggsfm_cli.scene import Cameras, Points


def cost(problem: BundleProblem, cameras: Cameras, points: Points) -> Float[Tensor, " B"]:
    """Robust cost of each scene, priors included, differentiable.

    Infinite where a focal length in use is not positive or a number is not finite.
    """
    frames = cameras.camera_index.shape[1]
    each = cameras.params.new_zeros(len(problem.frame), dtype=torch.float64)
    for model, rows, camera in observations_by_model(problem):
        error = residuals(
            model,
            cameras.cam_from_world.flatten(0, 1)[problem.frame[rows]].double(),
            cameras.params.flatten(0, 1)[camera].double(),
            points.xyz_world.flatten(0, 1)[problem.point[rows]].double(),
            problem.xy[rows],
            problem.whitening[rows],
        )
        loss = problem.loss
        each = each.index_put((rows,), robust.evaluate(loss.kind, error.square().sum(-1), loss.scale)[0])
    scene = torch.div(problem.frame, frames, rounding_mode="floor")
    total = each.new_zeros(len(cameras.params)).index_add(0, scene, each) + _prior(problem, cameras)
    return 0.5 * torch.nan_to_num(total, nan=torch.inf, posinf=torch.inf)


def reprojection_error_px(problem: BundleProblem, cameras: Cameras, points: Points) -> Float[Tensor, " M"]:
    """Distance in stored pixels of every observation to its point's projection; infinite behind the camera."""
    out = cameras.params.new_zeros(len(problem.frame), dtype=torch.float64)
    for model, rows, camera in observations_by_model(problem):
        poses = cameras.cam_from_world.flatten(0, 1)[problem.frame[rows]].double()
        xyz_cam = pose.transform(poses, points.xyz_world.flatten(0, 1)[problem.point[rows]].double())
        xy, in_front = camera_models.project(model, cameras.params.flatten(0, 1)[camera].double(), xyz_cam)
        error = (xy - problem.xy[rows]).norm(dim=-1)
        out = out.index_put((rows,), torch.where(in_front, error, torch.full_like(error, torch.inf)))
    return out


def observations_by_model(problem: BundleProblem) -> Iterator[tuple[str, Int[Tensor, " n"], Int[Tensor, " n"]]]:
    """For each camera model in use: its observations, and the camera ``b * C + c`` of each."""
    cameras = problem.cameras
    count = len(cameras.models)
    first = count * torch.arange(len(cameras.params), device=problem.frame.device)
    camera = (cameras.camera_index + first[:, None]).flatten()[problem.frame]
    for model in sorted(set(cameras.models)):
        of_model = torch.tensor([name == model for name in cameras.models], device=camera.device)
        rows = of_model[camera % count].nonzero().flatten()
        if len(rows):
            yield model, rows, camera[rows]


def cameras_in_use(problem: BundleProblem) -> Bool[Tensor, "B C"]:
    """Cameras that made an observation."""
    used = torch.zeros_like(problem.log_focal, dtype=torch.bool).flatten()
    for _, _, camera in observations_by_model(problem):
        used = used.index_fill(0, camera, True)
    return used.reshape(problem.log_focal.shape)


def focal_errors(problem: BundleProblem, cameras: Cameras) -> Float[Tensor, "B C"]:
    """Distance of the logarithm of each focal length to its prior, in standard deviations; zero without a prior.

    A prior counts for cameras in use of which any parameter is free.
    """
    focals = [camera_models.focal(model, cameras.params[:, c]) for c, model in enumerate(cameras.models)]
    log_focal = torch.stack(focals, -1).double().clamp(min=1e-6).log()
    applies = problem.log_focal_spread.isfinite() & problem.params_free.any(-1) & cameras_in_use(problem)
    spread = torch.where(applies, problem.log_focal_spread, torch.ones_like(log_focal))
    return torch.where(applies, (log_focal - problem.log_focal) / spread, torch.zeros_like(log_focal))


def _prior(problem: BundleProblem, cameras: Cameras) -> Float[Tensor, " B"]:
    positive = [
        (cameras.params[:, c, list(camera_models.focal_indices(model))] > 0).all(-1)
        for c, model in enumerate(cameras.models)
    ]
    wrong = ~torch.stack(positive, -1) & cameras_in_use(problem)
    squared = focal_errors(problem, cameras).square()
    return torch.where(wrong, torch.inf, squared).sum(-1)
