"""Draw ``docs/overview.jpg``: the example photographs beside what became of them.

python examples/demo.py && python examples/readme_picture.py
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HEIGHT = 560


def read(path: Path) -> Any:
    """Pixels of a picture."""
    pixels = cv2.imread(str(path))
    assert pixels is not None, f"{path} cannot be read"
    return pixels


def contact_sheet(height: int) -> Any:
    """The photographs in four rows of four."""
    files = sorted((ROOT / "examples" / "reading_corner" / "images").glob("*.jpg"))
    side = (height // 4 * 4 // 3, height // 4)
    small = [cv2.resize(read(path), side, interpolation=cv2.INTER_AREA) for path in files]
    return np.vstack([np.hstack(small[i : i + 4]) for i in range(0, 16, 4)])


def main() -> None:
    """Photographs, an arrow, the left half of ``overview.png``."""
    overview = read(ROOT / "demo_output" / "overview.png")
    left = overview[:, : overview.shape[1] // 2]
    result = cv2.resize(left, (left.shape[1] * HEIGHT // left.shape[0], HEIGHT), interpolation=cv2.INTER_AREA)
    gap = np.full((HEIGHT, 90, 3), 255, np.uint8)
    cv2.arrowedLine(gap, (12, HEIGHT // 2), (78, HEIGHT // 2), (90, 90, 90), 5, cv2.LINE_AA, tipLength=0.35)
    picture = np.hstack([contact_sheet(HEIGHT), gap, result])
    cv2.imwrite(str(ROOT / "docs" / "overview.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
