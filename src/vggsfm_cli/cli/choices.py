"""Strings a user may choose from, kept apart from the code they name, which imports torch; a test compares both."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vggsfm_cli.model import AdjusterConfig

CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
CameraMode = Literal["auto", "single", "per-image"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]
Preset = Literal["auto", "small", "fast", "v2"]
Keypoints = Literal["auto", "aliked", "sift", "xfeat", "grid"]
AutoChoice = Literal["auto", "yes", "no"]
ExportTarget = Literal["3dgs", "gsplat", "nerfstudio", "instant-ngp", "ply", "txt"]
Adjuster = Literal["schur", "theseus", "ceres"]
Loss = Literal["none", "huber", "cauchy", "geman-mcclure"]
Refinable = Literal["focal", "principal-point", "distortion", "poses", "points"]


def adjuster_config(name: Adjuster, *, approximate: bool = False) -> "AdjusterConfig":
    """The solver a user means, with its default settings; ``approximate`` as in ``CeresConfig``."""
    from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
    from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
    from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig

    table: dict[Adjuster, AdjusterConfig] = {
        "schur": SchurConfig(),
        "theseus": TheseusConfig(),
        "ceres": CeresConfig(approximate=approximate),
    }
    return table[name]
