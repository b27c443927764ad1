"""Stage 3: cameras and tracks to points."""

from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig, frame_focal, reprojection_error
from vggsfm_cli.triangulation.transformer import (
    Fitted,
    TriangulationTransformer,
    TriangulationTransformerConfig,
    depth_deviation,
    fit,
)

__all__ = [
    "Fitted",
    "RansacTriangulatorConfig",
    "TriangulationTransformer",
    "TriangulationTransformerConfig",
    "Triangulator",
    "depth_deviation",
    "fit",
    "frame_focal",
    "reprojection_error",
]
