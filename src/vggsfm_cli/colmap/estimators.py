"""RANSAC estimators, through pycolmap. Pixels are stored pixels, corner origin; arrays in, tensors out; seeded."""

from dataclasses import dataclass

import numpy as np
import pycolmap
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.geometry import camera as camera_models


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoView:
    """Two-view geometry of a pair of frames.

    Attributes:
        cam2_from_cam1: relative pose, translation of unit length.
        inliers: of the given correspondences.
        angle_deg: median angle between the rays to the inlier points.
        planar: whether a homography explains the pair as well: a plane or no baseline.
    """

    cam2_from_cam1: Float[Tensor, "3 4"]
    inliers: Bool[Tensor, " M"]
    angle_deg: float
    planar: bool


def make_camera(model: str, params: Float[Tensor, " P"], width: int, height: int) -> pycolmap.Camera:
    """A pycolmap camera whose focal length counts as known."""
    values = params[: camera_models.num_params(model)].double().numpy()
    return pycolmap.Camera(model=model, width=width, height=height, params=values, has_prior_focal_length=True)


def fundamental(
    xy1: Float[Tensor, "M 2"], xy2: Float[Tensor, "M 2"], max_error_px: float, seed: int
) -> tuple[Float[Tensor, "3 3"], Bool[Tensor, " M"]] | None:
    """Fundamental matrix by LO-RANSAC, ``x2^T F x1 = 0``; None where none is found."""
    options = pycolmap.RANSACOptions(max_error=max_error_px, random_seed=seed, max_num_trials=2000)
    found = pycolmap.estimate_fundamental_matrix(xy1.double().numpy(), xy2.double().numpy(), options)
    if found is None:
        return None
    return torch.from_numpy(np.array(found["F"])), torch.from_numpy(np.array(found["inlier_mask"]).astype(bool))


def two_view(
    camera1: pycolmap.Camera,
    xy1: Float[Tensor, "M 2"],
    camera2: pycolmap.Camera,
    xy2: Float[Tensor, "M 2"],
    max_error_px: float,
    seed: int,
) -> TwoView | None:
    """Relative pose of two calibrated frames by LO-RANSAC; None where too little agrees."""
    ransac = pycolmap.RANSACOptions(max_error=max_error_px, random_seed=seed, max_num_trials=2000)
    options = pycolmap.TwoViewGeometryOptions(
        ransac=ransac, compute_relative_pose=True, detect_watermark=False, max_H_inlier_ratio=0.9
    )
    found = pycolmap.estimate_calibrated_two_view_geometry(
        camera1, xy1.double().numpy(), camera2, xy2.double().numpy(), options=options
    )
    kinds = pycolmap.TwoViewGeometryConfiguration
    if found.cam2_from_cam1 is None or found.config in (kinds.DEGENERATE, kinds.UNDEFINED, kinds.MULTIPLE):
        return None
    inliers = torch.zeros(len(xy1), dtype=torch.bool)
    inliers[torch.from_numpy(np.array(found.inlier_matches)[:, 0].astype(np.int64))] = True
    return TwoView(
        cam2_from_cam1=torch.from_numpy(np.array(found.cam2_from_cam1.matrix())),
        inliers=inliers,
        angle_deg=float(np.degrees(found.tri_angle)),
        planar=found.config in (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Resection:
    """Pose of a frame from points seen in it; ``params`` differ from the given ones if the focal length was refined."""

    cam_from_world: Float[Tensor, "3 4"]
    inliers: Bool[Tensor, " M"]
    params: Float[Tensor, " P"]


def absolute_pose(
    camera: pycolmap.Camera,
    xy: Float[Tensor, "M 2"],
    xyz_world: Float[Tensor, "M 3"],
    max_error_px: float,
    seed: int,
    refine_focal: bool,
) -> Resection | None:
    """Camera pose by PnP LO-RANSAC and refinement (resection); None where too few points agree."""
    options = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=refine_focal)
    options.ransac.max_error = max_error_px
    options.ransac.random_seed = seed
    refinement = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=refine_focal)
    found = pycolmap.estimate_and_refine_absolute_pose(
        xy.double().numpy(), xyz_world.double().numpy(), camera, options, refinement
    )
    if found is None:
        return None
    return Resection(
        cam_from_world=torch.from_numpy(np.array(found["cam_from_world"].matrix())),
        inliers=torch.from_numpy(np.array(found["inlier_mask"]).astype(bool)),
        params=torch.from_numpy(np.array(camera.params)),
    )


def average_rotations(
    frames: int, pairs: list[tuple[int, int]], cam2_from_cam1: list[Float[Tensor, "3 4"]], weights: list[int], seed: int
) -> Float[Tensor, "S 3 3"] | None:
    """Rotations of all frames from relative ones, by robust averaging; None where it fails."""
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=2, height=2, params=[1.0, 1.0, 1.0], camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    for s in range(frames):
        image = pycolmap.Image(name=str(s), camera_id=1, image_id=s + 1)
        reconstruction.add_image_with_trivial_frame(image)
    graph = pycolmap.PoseGraph()
    for (i, j), relative, weight in zip(pairs, cam2_from_cam1, weights, strict=True):
        edge = pycolmap.PoseGraphEdge(pycolmap.Rigid3d(relative.double().numpy()))
        edge.num_matches = weight
        graph.add_edge(i + 1, j + 1, edge)
    options = pycolmap.RotationEstimatorOptions(random_seed=seed)
    if not pycolmap.run_rotation_averaging(options, graph, reconstruction, []):
        return None
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1)
    for s in range(frames):
        image = reconstruction.images[s + 1]
        if image.has_pose:
            rotations[s] = torch.from_numpy(np.array(image.cam_from_world().rotation.matrix()))
    return rotations
