"""The model: four stages, composed once."""

import dataclasses
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster, Solution
from vggsfm_cli.bundle_adjustment.problem import RobustLoss, build_problem
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Points, Queries, TensorRecord, Tracks
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

AdjusterConfig = SchurConfig | TheseusConfig | CeresConfig
"""The solvers of the last stage; all solve the same problem."""

Record = TypeVar("Record", bound=TensorRecord)
Stage_co = TypeVar("Stage_co", bound=nn.Module, covariant=True)


@runtime_checkable
class StageConfig(Protocol[Stage_co]):
    """Settings of a stage, in a frozen dataclass."""

    def build(self) -> Stage_co:
        """The stage, with weights still to be loaded."""


@dataclass(frozen=True, kw_only=True)
class VGGSfMConfig:
    """A recipe's name and one configuration a stage; a checkpoint's ``config.json`` holds these.

    The recipe says which stages may be combined, and how images become reconstructions with them.
    """

    name: str = "small"
    recipe: str = "small"
    tracker: StageConfig[PointTracker] = field(default_factory=CoarseToFineTrackerConfig)
    camera_estimator: StageConfig[CameraEstimator] = field(default_factory=PreliminaryCamerasConfig)
    triangulator: StageConfig[Triangulator] = field(default_factory=RansacTriangulatorConfig)
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


@runtime_checkable
class Between(Protocol):
    """What is done to the output of a stage before it goes on to the next."""

    def __call__(self, stage: str, record: Record) -> Record:
        """The record that goes on; ``stage`` is ``tracker``, ``camera_estimator`` or ``triangulator``."""


def passed_on(stage: str, record: Record) -> Record:
    """The output as it is; ``record.detach()`` in its place cuts the gradient."""
    del stage
    return record


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

    def forward(self, images: ImageSet, queries: Queries, between: Between = passed_on) -> StageOutputs:
        """Every stage once; the later ones by ``finish_stages``, as in the joint training.

        Args:
            images: B scenes.
            queries: where tracks start, network pixels.
            between: what is done to the output of the named stage before it goes on; see ``passed_on``.
        """
        tracks = between("tracker", self.tracker(images, queries))
        cameras = between("camera_estimator", self.camera_estimator(images, tracks))
        return finish_stages(cameras, tracks, self.triangulator, self.adjuster, images.priors, between=between)


def finish_stages(
    cameras: Cameras,
    tracks: Tracks,
    triangulator: Triangulator,
    adjuster: BundleAdjuster,
    priors: CameraPriors,
    *,
    max_error_px: Float[Tensor, "B S"] | None = None,
    loss: RobustLoss | None = None,
    min_inliers: int = 0,
    between: Between = passed_on,
) -> StageOutputs:
    """Points of tracks and cameras, and all three adjusted.

    Args:
        cameras: of B scenes.
        tracks: in stored pixels.
        triangulator: stage 3.
        adjuster: stage 4.
        priors: what is known of the cameras.
        max_error_px: of an inlier, stored pixels; the triangulator's own if None.
        loss: of the adjustment; a plain sum of squares if None.
        min_inliers: observations that there is any use in adjusting.
        between: what is done to the points before they go on.

    Raises:
        ReconstructionFailed: fewer inliers.
    """
    points = between("triangulator", triangulator(cameras, tracks, max_error_px))
    inliers = triangulator.inliers(cameras, points, tracks, max_error_px)
    if (count := int(inliers.sum())) < min_inliers:
        raise ReconstructionFailed(
            f"Triangulation: {count} observations agree with a point; {min_inliers} are needed.",
            "Take photographs with more overlap or texture, and move sideways between them.",
        )
    problem = build_problem(cameras, points, tracks, inliers, priors=priors, loss=loss or RobustLoss())
    return StageOutputs(tracks=tracks, initial_cameras=cameras, initial_points=points, solution=adjuster(problem))
