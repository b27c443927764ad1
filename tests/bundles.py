"""Random bundle problems with known truth, several scenes at once, for tests of every adjuster."""

import dataclasses

import torch
from torch import Tensor

from vggsfm_cli.bundle_adjustment.problem import BundleProblem, build_problem, move_poses
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import CameraPriors, Cameras, Points, Tracks

LENSES = {
    "SIMPLE_PINHOLE": (900.0, 640.0, 480.0),
    "PINHOLE": (900.0, 910.0, 640.0, 480.0),
    "SIMPLE_RADIAL": (900.0, 640.0, 480.0, -0.05),
    "RADIAL": (900.0, 640.0, 480.0, -0.05, 0.02),
    "OPENCV": (900.0, 910.0, 640.0, 480.0, -0.05, 0.02, 0.001, -0.002),
    "OPENCV_FISHEYE": (900.0, 910.0, 640.0, 480.0, 0.02, -0.01, 0.003, -0.001),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """What was seen, by whom, and where to start."""

    cameras: Cameras
    points: Points
    tracks: Tracks
    inliers: Tensor

    def problem(self, **options) -> BundleProblem:
        return build_problem(self.cameras, self.points, self.tracks, self.inliers, **options)

    def changed(self, part: str, **values) -> "Bundle":
        return dataclasses.replace(self, **{part: dataclasses.replace(getattr(self, part), **values)})


def make_bundle(
    models=("SIMPLE_RADIAL",), scenes=1, frames=5, points=40, noise_px=0.5, deviation_px=0.7, seed=0
) -> Bundle:
    """Cameras on an arc about a cloud of points; two thirds of the points are seen in each; the start is disturbed.

    All observations have the same isotropic covariance.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(scenes, *shape, generator=generator, dtype=torch.float64)

    xyz, turn = normal(points, 3), 0.1 * normal(frames, 3)
    turn[..., 1] += torch.linspace(-1, 1, frames, dtype=torch.float64)
    translation = torch.tensor([0.0, 0.0, 6.0], dtype=torch.float64) + 0.2 * normal(frames, 3)
    width = max(camera_models.num_params(model) for model in models)
    params = torch.tensor([LENSES[m] + (0.0,) * (width - len(LENSES[m])) for m in models], dtype=torch.float64)
    truth = Cameras(
        cam_from_world=torch.cat([rotation.exp(turn), translation[..., None]], -1),
        models=tuple(models),
        params=params.expand(scenes, -1, -1).clone(),
        camera_index=(torch.arange(frames) % len(models)).expand(scenes, -1),
        registered=torch.ones(scenes, frames, dtype=torch.bool),
    )
    xy, _ = truth.project(xyz)
    start = truth.params.clone()
    for c, model in enumerate(models):
        start[:, c, list(camera_models.focal_indices(model))] *= 1.03
        start[:, c, list(camera_models.distortion_indices(model))] = 0
    inliers = torch.rand(scenes, frames, points, generator=generator) < 0.67
    valid = torch.ones(scenes, points, dtype=torch.bool)
    return Bundle(
        cameras=dataclasses.replace(
            truth, cam_from_world=move_poses(truth.cam_from_world, 0.02 * normal(frames, 6)), params=start
        ),
        points=Points(xyz_world=xyz + 0.05 * normal(points, 3), valid=valid),
        tracks=Tracks(
            xy=xy + noise_px * normal(frames, points, 2),
            visibility=inliers.double(),
            covariance=deviation_px**2 * torch.eye(2).double().expand(scenes, frames, points, 2, 2),
            query_frame=torch.zeros(scenes, points, dtype=torch.long),
            valid=valid,
        ),
        inliers=inliers,
    )


def uneven(bundle: Bundle, seed: int = 0) -> Bundle:
    """The same with covariances that differ in size and direction."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(bundle.tracks.covariance.shape, generator=generator, dtype=torch.float64)
    covariance = 0.1 * root @ root.mT + 0.1 * torch.eye(2)
    return bundle.changed("tracks", covariance=covariance)


def lens_priors(cameras: Cameras, spread: float) -> CameraPriors:
    """The lenses as they are, all of them uncertain."""
    return CameraPriors(
        camera_index=cameras.camera_index,
        models=cameras.models,
        params=cameras.params,
        known=torch.zeros_like(cameras.params, dtype=torch.bool),
        focal_spread=torch.full(cameras.params.shape[:2], spread, dtype=torch.float64),
    )


def shape_of(cameras: Cameras) -> Tensor:
    """Camera centres ``[B S 3]`` from the first, which no adjuster moves, in units of the size of all."""
    centers = cameras.centers - cameras.centers[:, :1]
    return centers / centers.norm(dim=(-2, -1), keepdim=True)
