"""The model: four stages, composed once."""

import dataclasses
from collections.abc import Set
from dataclasses import dataclass, field

from torch import nn

from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.interface import Solution
from vggsfm_cli.bundle_adjustment.problem import build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformerConfig
from vggsfm_cli.camera_estimation.v2 import V2CameraPredictorConfig
from vggsfm_cli.scene import Cameras, ImageSet, Points, Queries, Tracks
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.tracking.v2.tracker import V2TrackerConfig
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformerConfig

AdjusterConfig = SchurConfig | TheseusConfig | CeresConfig
"""The solvers of the last stage; all solve the same problem."""


@dataclass(frozen=True, kw_only=True)
class VGGSfMConfig:
    """One configuration a stage; a checkpoint's ``config.json`` holds these."""

    name: str = "small"
    tracker: CoarseToFineTrackerConfig | V2TrackerConfig = field(default_factory=CoarseToFineTrackerConfig)
    camera_estimator: PreliminaryCamerasConfig | CameraTransformerConfig | V2CameraPredictorConfig = field(
        default_factory=PreliminaryCamerasConfig
    )
    triangulator: RansacTriangulatorConfig | TriangulationTransformerConfig = field(
        default_factory=RansacTriangulatorConfig
    )
    adjuster: AdjusterConfig = field(default_factory=SchurConfig)

    def build(self) -> "VGGSfM":
        """The model, with weights still to be loaded."""
        return VGGSfM(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class StageOutputs:
    """What each stage gave: whatever a loss may look at."""

    tracks: Tracks
    initial_cameras: Cameras
    initial_points: Points
    solution: Solution


class VGGSfM(nn.Module):
    """Images to tracks to cameras to points, all three adjusted (arXiv 2312.04563)."""

    def __init__(self, config: VGGSfMConfig) -> None:
        super().__init__()
        self.config = config
        self.tracker = config.tracker.build()
        self.camera_estimator = config.camera_estimator.build()
        self.triangulator = config.triangulator.build()
        self.adjuster = config.adjuster.build()

    def use_adjuster(self, adjuster: AdjusterConfig) -> None:
        """Put another solver in the place of the model's; the other stages stay.

        Raises:
            MissingDependency: it needs a package that is not installed.
        """
        self.adjuster = adjuster.build()
        self.config = dataclasses.replace(self.config, adjuster=adjuster)

    def forward(self, images: ImageSet, queries: Queries, stop_gradient_after: Set[str] = frozenset()) -> StageOutputs:
        """Every stage once.

        Args:
            images: B scenes.
            queries: where tracks start, network pixels.
            stop_gradient_after: stages (``tracker``, ``camera_estimator``, ``triangulator``) whose output is cut.
        """
        tracks = self.tracker(images, queries)
        tracks = tracks.detach() if "tracker" in stop_gradient_after else tracks
        cameras = self.camera_estimator(images, tracks)
        cameras = cameras.detach() if "camera_estimator" in stop_gradient_after else cameras
        points = self.triangulator(cameras, tracks)
        points = points.detach() if "triangulator" in stop_gradient_after else points
        inliers = self.triangulator.inliers(cameras, points, tracks)
        solution = self.adjuster(build_problem(cameras, points, tracks, inliers, priors=images.priors))
        return StageOutputs(tracks=tracks, initial_cameras=cameras, initial_points=points, solution=solution)
