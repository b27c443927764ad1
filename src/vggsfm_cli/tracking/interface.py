"""The contract of stage 1."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vggsfm_cli.scene import ImageSet, Queries, Tracks


class PointTracker(nn.Module, ABC):
    """Follows query points through all frames of a scene, without pairwise matching (VGGSfM, Sec. 3.1)."""

    @abstractmethod
    def encode(self, images: ImageSet) -> Any:
        """Dense features of all frames; computed once and reused between rounds."""

    def relate(self, images: ImageSet, features: Any, partners: Bool[Tensor, "S S"] | None) -> Any:
        """The features with what frames have to do with each other, which ``forward`` then uses; computed once.

        Args:
            images: the scenes.
            features: of all frames.
            partners: the frames that tracks of each frame may go to; all of them if None.
        """
        del images, partners
        return features

    @abstractmethod
    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        """Track ``queries`` (network pixels) through every frame; the result is in stored pixels."""

    def in_precision(self, dtype: torch.dtype) -> "PointTracker":
        """The same tracker, made ready to run under autocast to ``dtype``: what autocast would convert again and again.

        One that has nothing to convert is returned as it is.
        """
        del dtype
        return self

    def in_pieces(self, pairs_at_once: int) -> "PointTracker":
        """The same tracker, with the same weights, that computes so many observations, or fewer, together.

        The pieces bound the memory and change nothing else; a tracker that has none is returned as it is.
        """
        del pairs_at_once
        return self
