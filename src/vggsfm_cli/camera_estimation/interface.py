"""The contract of stage 2."""

from abc import ABC, abstractmethod

from torch import nn

from vggsfm_cli.scene import Cameras, ImageSet, Tracks


class CameraEstimator(nn.Module, ABC):
    """Finds all cameras at once (VGGSfM, Sec. 3.2); ``images.priors`` holds what is known about them."""

    @abstractmethod
    def forward(self, images: ImageSet, tracks: Tracks) -> Cameras:
        """Cameras of all frames; frames that could not be placed have ``registered`` False."""


class GivenCameras(CameraEstimator):
    """Cameras that are there already, whatever the tracks say."""

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        self.cameras = cameras

    def forward(self, images: ImageSet, tracks: Tracks) -> Cameras:
        """Those cameras."""
        del images
        return self.cameras.to(tracks.xy.device)
