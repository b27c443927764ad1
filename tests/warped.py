"""Photographs moved by known homographies: image sets whose tracks are known exactly."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vggsfm_cli.scene import CameraPriors, ImageSet

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "reading_corner"


def photograph(name: str = "view_08.jpg", width: int = 512) -> np.ndarray:
    """An example photograph, grey, in [0, 1]."""
    grey = cv2.imread(str(EXAMPLE / "images" / name), cv2.IMREAD_GRAYSCALE)
    height = width * grey.shape[0] // grey.shape[1] // 32 * 32
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def homography(angle_deg: float, scale: float, shift: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Rotation and scale about the centre, then a shift; pixels have a corner origin."""
    width, height = size
    c, s = scale * np.cos(np.deg2rad(angle_deg)), scale * np.sin(np.deg2rad(angle_deg))
    cx, cy = width / 2, height / 2
    return np.array(
        [[c, -s, cx - c * cx + s * cy + shift[0]], [s, c, cy - s * cx - c * cy + shift[1]], [1e-5, -2e-5, 1.0]]
    )


def warp(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture moved by a homography in corner-origin pixels (OpenCV counts from pixel centres)."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    size = (picture.shape[1], picture.shape[0])
    return cv2.warpPerspective(picture, np.linalg.inv(half) @ matrix @ half, size, flags=cv2.INTER_CUBIC)


def move(matrix: np.ndarray, xy: Tensor) -> Tensor:
    """Positions after the homography."""
    homogeneous = torch.cat([xy.double(), torch.ones(len(xy), 1).double()], -1) @ torch.from_numpy(matrix).T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def image_set(pictures: list[np.ndarray], scenes: int = 1) -> ImageSet:
    """Grey pictures as ``scenes`` equal parts of an image set without files."""
    frames = len(pictures) // scenes
    pixels = torch.from_numpy(np.stack(pictures))[:, None].expand(-1, 3, -1, -1).clamp(0, 1)
    pixels = pixels.reshape(scenes, frames, *pixels.shape[1:]).contiguous()
    height, width = pixels.shape[-2:]
    priors = CameraPriors(
        camera_index=torch.zeros(scenes, frames, dtype=torch.long),
        models=("SIMPLE_RADIAL",),
        params=torch.tensor([[[1.2 * width, width / 2, height / 2, 0.0]]], dtype=torch.float64).expand(scenes, 1, 4),
        known=torch.zeros(scenes, 1, 4, dtype=torch.bool),
        focal_spread=torch.full((scenes, 1), 0.5, dtype=torch.float64),
    )
    return ImageSet(
        pixels=pixels,
        mask=torch.ones(scenes, frames, height, width, dtype=torch.bool),
        frame_valid=torch.ones(scenes, frames, dtype=torch.bool),
        stored_from_network=torch.eye(2, 3).expand(scenes, frames, 2, 3).clone(),
        stored_size=torch.tensor([width, height]).expand(scenes, frames, 2).clone(),
        names=tuple(tuple(f"{b}-{s}.png" for s in range(frames)) for b in range(scenes)),
        originals=None,
        priors=priors,
    )
