"""Key points of OpenCV: numpy in, numpy out."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8


def sift_keypoints(
    grey: UInt8[np.ndarray, "H W"], keep: Bool[np.ndarray, "H W"], count: int
) -> Float[np.ndarray, "Q 2"]:
    """Positions of the strongest SIFT key points, corner origin, the strongest first, one per pixel.

    Thresholds are those of COLMAP, as VGGSfM v2 sets them.

    Args:
        grey: luminance.
        keep: where key points may lie.
        count: at most so many.
    """
    # without precise upscaling all positions are a quarter pixel off
    detector = cv2.SIFT.create(
        nOctaveLayers=4, contrastThreshold=0.0066667, edgeThreshold=10, enable_precise_upscale=True
    )
    found = detector.detect(grey, keep.astype(np.uint8))
    strongest = sorted(found, key=lambda point: -point.response)
    pixels: dict[tuple[int, int], tuple[float, float]] = {}
    for x, y in (point.pt for point in strongest):
        pixels.setdefault((round(x), round(y)), (x + 0.5, y + 0.5))
    return np.array(list(pixels.values())[:count], dtype=np.float32).reshape(-1, 2)
