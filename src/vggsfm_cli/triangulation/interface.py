"""The contract of stage 3."""

from abc import ABC, abstractmethod

from torch import nn

from vggsfm_cli.scene import Cameras, Points, Tracks


class Triangulator(nn.Module, ABC):
    """Finds a 3D point for every track (VGGSfM, Sec. 3.3)."""

    @abstractmethod
    def forward(self, cameras: Cameras, tracks: Tracks) -> Points:
        """Points of all tracks; those without a trustworthy position have ``valid`` False and finite coordinates."""
