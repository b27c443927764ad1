"""The contract of stage 2."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from vggsfm_cli.camera_estimation.view_graph import ViewGraph
from vggsfm_cli.scene import Cameras, ImageSet, Tracks


class CameraEstimator(nn.Module, ABC):
    """Finds all cameras at once (VGGSfM, Sec. 3.2); ``images.priors`` holds what is known about them."""

    @abstractmethod
    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        """Cameras of all frames; frames that could not be placed have ``registered`` False.

        Args:
            images: B scenes.
            tracks: in stored pixels.
            graphs: two-view geometry of these tracks, one graph a scene, with the settings and the seed of all that is
                random; an estimator that needs it and is given None builds it with its own settings.
        """


class GivenCameras(CameraEstimator):
    """Cameras that are there already, whatever the tracks say."""

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        self.cameras = cameras

    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        """Those cameras."""
        del images, graphs
        return self.cameras.to(tracks.xy.device)
