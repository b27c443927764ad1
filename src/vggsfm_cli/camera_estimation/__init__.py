"""Stage 2: tracks to cameras."""

from vggsfm_cli.camera_estimation.interface import CameraEstimator, GivenCameras
from vggsfm_cli.camera_estimation.preliminary import (
    PreliminaryCameraEstimator,
    PreliminaryCamerasConfig,
    cameras_without_poses,
)
from vggsfm_cli.camera_estimation.star import seed_cameras
from vggsfm_cli.camera_estimation.sweep import InitialPair
from vggsfm_cli.camera_estimation.transformer import (
    CameraTransformer,
    CameraTransformerConfig,
    thumbnails,
    views_of,
    with_lenses,
)
from vggsfm_cli.camera_estimation.view_graph import Pair, ViewGraph, build_view_graph, physical_cameras, relative_poses
from vggsfm_cli.camera_estimation.views import CameraState

__all__ = [
    "CameraEstimator",
    "CameraState",
    "CameraTransformer",
    "CameraTransformerConfig",
    "GivenCameras",
    "InitialPair",
    "Pair",
    "PreliminaryCameraEstimator",
    "PreliminaryCamerasConfig",
    "ViewGraph",
    "build_view_graph",
    "cameras_without_poses",
    "physical_cameras",
    "relative_poses",
    "seed_cameras",
    "thumbnails",
    "views_of",
    "with_lenses",
]
