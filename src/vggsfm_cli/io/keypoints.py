"""Key points of OpenCV: numpy in, numpy out."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8


def sift_keypoints(
    grey: UInt8[np.ndarray, "H W"], keep: Bool[np.ndarray, "H W"], count: int
) -> Float[np.ndarray, "Q 2"]:
    """Positions of the strongest SIFT key points, corner origin, the strongest first, each position once.

    Thresholds are those of COLMAP, as VGGSfM v2 sets them.

    Args:
        grey: luminance.
        keep: where key points may lie.
        count: at most so many.
    """
    detector = cv2.SIFT.create(nOctaveLayers=4, contrastThreshold=0.0066667, edgeThreshold=10)
    found = detector.detect(grey, keep.astype(np.uint8))
    strongest = sorted(found, key=lambda point: -point.response)
    positions = dict.fromkeys((point.pt[0] + 0.5, point.pt[1] + 0.5) for point in strongest)
    return np.array(list(positions)[:count], dtype=np.float32).reshape(-1, 2)
