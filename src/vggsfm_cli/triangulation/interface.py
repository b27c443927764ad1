"""The contract of stage 3."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from vggsfm_cli.scene import Cameras, Points, Tracks


class Triangulator(nn.Module, ABC):
    """Finds a 3D point for every track (VGGSfM, Sec. 3.3).

    Attributes:
        min_views: fewest inliers of a valid point.
        min_visibility: observations above it count.
        min_angle_deg: smallest angle between the rays of a valid point.
    """

    min_views: int
    min_visibility: float
    min_angle_deg: float

    @property
    def geometric(self) -> "Triangulator":
        """The triangulation it starts from: quick, for models that still grow."""
        return self

    @abstractmethod
    def forward(self, cameras: Cameras, tracks: Tracks, max_error_px: Float[Tensor, "B S"] | None = None) -> Points:
        """Points of all tracks; those without a trustworthy position have ``valid`` False and finite coordinates.

        Args:
            cameras: frames that are not registered are ignored.
            tracks: in stored pixels.
            max_error_px: reprojection error of an inlier in stored pixels, of each frame; the configured one if None.
        """

    @abstractmethod
    def inliers(
        self, cameras: Cameras, points: Points, tracks: Tracks, max_error_px: Float[Tensor, "B S"] | None = None
    ) -> Bool[Tensor, "B S N"]:
        """Observations that agree with the points: in a registered frame, in front of it, close to the projection."""
