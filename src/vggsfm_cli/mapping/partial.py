"""What mapping works on: the tracks of one scene, which stay, and the reconstruction that grows from them."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.devices import MAPPING
from vggsfm_cli.scene import Cameras, ImageSet, Points, Tracks
from vggsfm_cli.triangulation.interface import Triangulator


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedScene:
    """The photographs of one scene (B = 1) and their tracks, in double precision.

    Attributes:
        images: names, sizes, priors; pixels are not looked at.
        tracks: all tracks, or a well spread part of them.
        triangulator: finds points and inliers.
        scale: stored pixels per network pixel, frame by frame; thresholds are given in network pixels.
    """

    images: ImageSet
    tracks: Tracks
    triangulator: Triangulator
    scale: Float[Tensor, "1 S"]

    @classmethod
    def of(cls, images: ImageSet, tracks: Tracks, triangulator: Triangulator) -> "TrackedScene":
        """The scene where mapping runs; ``tracks`` are in stored pixels."""
        images, tracks = images.to(MAPPING), tracks.to(MAPPING).detach()
        tracks = dataclasses.replace(
            tracks, xy=tracks.xy.double(), covariance=tracks.covariance.double(), visibility=tracks.visibility.double()
        )
        return cls(images=images, tracks=tracks, triangulator=triangulator, scale=images.pixel_scale.double())

    @property
    def seen(self) -> Bool[Tensor, "S N"]:
        """Observations that count."""
        visible = self.tracks.visible(self.triangulator.min_visibility)
        return (visible & self.images.frame_valid[..., None])[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Partial:
    """A reconstruction that grows: cameras and points so far, and the observations that agree (all with B = 1)."""

    cameras: Cameras
    points: Points
    inliers: Bool[Tensor, "1 S N"]

    @property
    def frames(self) -> list[int]:
        """Registered frames."""
        return [int(s) for s in self.cameras.registered[0].nonzero().flatten()]

    @property
    def cameras_in_use(self) -> list[int]:
        """Cameras of registered frames."""
        found: list[int] = self.cameras.camera_index[0, self.frames].unique().tolist()
        return found


def with_model_error(images: ImageSet, tracks: Tracks, deviation_px: float) -> Tracks:
    """Tracks whose covariance also holds what the lens model leaves over, so that no observation rules alone.

    Args:
        images: says how large a network pixel is.
        tracks: in stored pixels.
        deviation_px: network pixels, the same in all directions.
    """
    variance = (deviation_px * images.pixel_scale).square()[..., None, None, None].to(tracks.covariance)
    eye = torch.eye(2, dtype=variance.dtype, device=variance.device)
    return dataclasses.replace(tracks, covariance=tracks.covariance + variance * eye)
