"""Scenes for the v2 tracker."""

import torch
from torch import Tensor

from vggsfm_cli.scene import CameraPriors, ImageSet


def image_set(pixels: Tensor) -> ImageSet:
    """Scenes of frames [B S 3 H W] whose files are twice as large and start at (3, 5)."""
    scenes, frames, _, height, width = pixels.shape
    affine = torch.tensor([[2.0, 0, 3], [0, 2, 5]])
    return ImageSet(
        pixels=pixels,
        mask=torch.ones(scenes, frames, height, width, dtype=torch.bool),
        frame_valid=torch.ones(scenes, frames, dtype=torch.bool),
        stored_from_network=affine.expand(scenes, frames, 2, 3),
        stored_size=torch.tensor([2 * width, 2 * height]).expand(scenes, frames, 2),
        names=tuple(tuple(f"{s}.jpg" for s in range(frames)) for _ in range(scenes)),
        originals=None,
        priors=CameraPriors(
            camera_index=torch.zeros(scenes, frames, dtype=torch.long),
            models=("SIMPLE_PINHOLE",),
            params=torch.zeros(scenes, 1, 8),
            known=torch.zeros(scenes, 1, 8, dtype=torch.bool),
            focal_spread=torch.ones(scenes, 1),
        ),
    )
