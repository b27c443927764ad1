"""RANSAC and averaging through pycolmap: numpy in, numpy out, the same result for the same seed.

pycolmap is imported in this folder only. All positions are stored pixels with a corner origin. Estimators
return None when they find nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pycolmap
from jaxtyping import Bool, Float

Pixels = Float[np.ndarray, "m 2"]


@dataclass(frozen=True, kw_only=True)
class RansacConfig:
    """When sampling stops; ``max_error_px`` is given with each call."""

    confidence: float = 0.9999
    min_trials: int = 100
    max_trials: int = 10_000
    min_inlier_ratio: float = 0.1
    seed: int = 0

    def options(self, max_error_px: float) -> pycolmap.RANSACOptions:
        """As pycolmap wants it."""
        options = pycolmap.RANSACOptions()
        options.max_error = float(max_error_px)
        options.confidence = self.confidence
        options.min_num_trials = self.min_trials
        options.max_num_trials = self.max_trials
        options.min_inlier_ratio = self.min_inlier_ratio
        options.random_seed = self.seed
        options.num_threads = 1
        return options


@dataclass(frozen=True, kw_only=True, eq=False)
class PhysicalCamera:
    """A camera in COLMAP's terms."""

    model: str
    width: int
    height: int
    params: Float[np.ndarray, " P"]

    def to_pycolmap(self) -> pycolmap.Camera:
        """The same for pycolmap; trailing padding of the parameters is dropped."""
        camera = pycolmap.Camera.create_from_model_name(0, self.model, 1.0, self.width, self.height)
        camera.params = self.params[: len(camera.params)].astype(np.float64).tolist()
        return camera


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoViewMatrix:
    """A fundamental matrix or a homography, from image 1 to image 2, with its inliers."""

    matrix: Float[np.ndarray, "3 3"]
    inliers: Bool[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativePose:
    """Pose of camera 2 in the frame of camera 1, unit baseline, with its inliers."""

    cam2_from_cam1: Float[np.ndarray, "3 4"]
    inliers: Bool[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AbsolutePose:
    """Pose of a camera among known points, its parameters (changed if they were free), and the inliers."""

    cam_from_world: Float[np.ndarray, "3 4"]
    params: Float[np.ndarray, " P"]
    inliers: Bool[np.ndarray, " m"]


def estimate_fundamental(xy1: Pixels, xy2: Pixels, max_error_px: float, config: RansacConfig) -> TwoViewMatrix | None:
    """Fundamental matrix by LO-RANSAC on the Sampson error: ``x2^T F x1 = 0``."""
    if len(xy1) < 8:  # noqa: PLR2004
        return None
    found = pycolmap.estimate_fundamental_matrix(xy1, xy2, config.options(max_error_px))
    if found is None:
        return None
    return TwoViewMatrix(matrix=np.asarray(found["F"]), inliers=np.asarray(found["inlier_mask"], dtype=bool))


def estimate_homography(xy1: Pixels, xy2: Pixels, max_error_px: float, config: RansacConfig) -> TwoViewMatrix | None:
    """Homography ``x2 ~ H x1`` by LO-RANSAC."""
    if len(xy1) < 4:  # noqa: PLR2004
        return None
    found = pycolmap.estimate_homography_matrix(xy1, xy2, config.options(max_error_px))
    if found is None:
        return None
    return TwoViewMatrix(matrix=np.asarray(found["H"]), inliers=np.asarray(found["inlier_mask"], dtype=bool))


def estimate_relative_pose(
    camera1: PhysicalCamera,
    xy1: Pixels,
    camera2: PhysicalCamera,
    xy2: Pixels,
    max_error_px: float,
    config: RansacConfig,
) -> RelativePose | None:
    """Relative pose by five-point LO-RANSAC on the tangent Sampson error, refined on its inliers."""
    if len(xy1) < 5:  # noqa: PLR2004
        return None
    first, second = camera1.to_pycolmap(), camera2.to_pycolmap()
    found = pycolmap.estimate_relative_pose(first, xy1, second, xy2, config.options(max_error_px))
    if found is None:
        return None
    inliers = np.asarray(found["inlier_mask"], dtype=bool)
    refined = pycolmap.refine_relative_pose(found["cam2_from_cam1"], first, xy1, second, xy2, inliers)
    chosen = found if refined is None else refined
    return RelativePose(cam2_from_cam1=chosen["cam2_from_cam1"].matrix(), inliers=inliers)


def estimate_absolute_pose(
    camera: PhysicalCamera,
    xy: Pixels,
    xyz_world: Float[np.ndarray, "m 3"],
    max_error_px: float,
    config: RansacConfig,
    *,
    free_focal: bool = False,
) -> AbsolutePose | None:
    """Pose of a camera from points by LO-RANSAC P3P (P4Pf with ``free_focal``), refined with a robust loss."""
    if len(xy) < 4:  # noqa: PLR2004
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.estimate_focal_length = free_focal
    options.ransac = config.options(max_error_px)
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = free_focal
    refinement.loss_function_scale = max(0.25 * float(max_error_px), 0.1)
    camera_colmap = camera.to_pycolmap()
    found = pycolmap.estimate_and_refine_absolute_pose(xy, xyz_world, camera_colmap, options, refinement)
    if found is None:
        return None
    params = np.array(camera.params, dtype=np.float64)
    if free_focal:
        # pycolmap writes the refined parameters into the camera it was given
        params[: len(camera_colmap.params)] = camera_colmap.params
    return AbsolutePose(
        cam_from_world=found["cam_from_world"].matrix(),
        params=params,
        inliers=np.asarray(found["inlier_mask"], dtype=bool),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativeEdge:
    """A measured relative pose between two frames, and the number of correspondences behind it."""

    frame1: int
    frame2: int
    cam2_from_cam1: Float[np.ndarray, "3 4"]
    support: int


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragedPoses:
    """Global poses of the frames that could be placed."""

    cam_from_world: Float[np.ndarray, "S 3 4"]
    registered: Bool[np.ndarray, " S"]


def average_poses(
    cameras: list[PhysicalCamera],
    edges: list[RelativeEdge],
    xy: Float[np.ndarray, "S N 2"],
    seen: Bool[np.ndarray, "S N"],
    config: RansacConfig,
) -> AveragedPoses | None:
    """Rotation averaging over relative poses, then positions of frames and points together (GLOMAP, ECCV 2024).

    Args:
        cameras: the camera of each frame.
        edges: relative poses; frames outside their largest connected component are not placed.
        xy: stored pixels of the tracks in every frame.
        seen: observations that count.
        config: the seed.
    """
    if not edges:
        return None
    reconstruction = _bare_reconstruction(cameras, xy, seen)
    graph = pycolmap.PoseGraph()
    for edge in edges:
        item = pycolmap.PoseGraphEdge()
        item.cam2_from_cam1 = pycolmap.Rigid3d(edge.cam2_from_cam1)
        item.num_matches = edge.support
        graph.add_edge(edge.frame1 + 1, edge.frame2 + 1, item)
    with quiet():
        return _average(reconstruction, graph, config)


def _average(
    reconstruction: pycolmap.Reconstruction, graph: pycolmap.PoseGraph, config: RansacConfig
) -> AveragedPoses | None:
    rotation_options = pycolmap.RotationEstimatorOptions()
    rotation_options.random_seed = config.seed
    if not pycolmap.run_rotation_averaging(rotation_options, graph, reconstruction, []):
        return None
    position_options = pycolmap.GlobalPositionerOptions()
    position_options.random_seed = config.seed
    position_options.use_gpu = False
    if not pycolmap.run_global_positioning(position_options, graph, reconstruction):
        return None
    frames = reconstruction.num_images()
    poses = np.tile(np.eye(3, 4), (frames, 1, 1))
    registered = np.zeros(frames, dtype=bool)
    for frame in range(frames):
        image = reconstruction.image(frame + 1)
        if image.has_pose:
            poses[frame] = image.cam_from_world().matrix()
            registered[frame] = bool(np.isfinite(poses[frame]).all())
    return AveragedPoses(cam_from_world=poses, registered=registered)


@contextmanager
def quiet() -> Iterator[None]:
    """Within this block pycolmap writes nothing unless it stops the process."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _bare_reconstruction(
    cameras: list[PhysicalCamera],
    xy: Float[np.ndarray, "S N 2"],
    seen: Bool[np.ndarray, "S N"],
) -> pycolmap.Reconstruction:
    """Frames without poses and points without positions; image ``s + 1`` is frame ``s``."""
    reconstruction = pycolmap.Reconstruction()
    rank = np.cumsum(seen, axis=1) - 1
    for s, camera in enumerate(cameras):
        item = camera.to_pycolmap()
        item.camera_id = s + 1
        reconstruction.add_camera_with_trivial_rig(item)
        image = pycolmap.Image(name=str(s), camera_id=s + 1, image_id=s + 1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(position) for position in xy[s, seen[s]]])
        reconstruction.add_image_with_trivial_frame(image)
    for n in range(xy.shape[1]):
        track = pycolmap.Track()
        for s in np.flatnonzero(seen[:, n]).tolist():
            track.add_element(s + 1, int(rank[s, n]))
        reconstruction.add_point3D(np.zeros(3), track)
    return reconstruction
