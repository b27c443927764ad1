"""Structure from motion in torch: images become tracks, tracks become cameras and points, written as COLMAP.

    images = read_images("photos/")
    model = load_model("small")
    models = reconstruct(images, model)
    write_colmap(models, "sparse/")

Names are imported when first used, so that ``import vggsfm_cli`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggsfm_cli.checkpoints import load_model
    from vggsfm_cli.colmap.files import read_colmap, write_colmap
    from vggsfm_cli.errors import VGGSfMError
    from vggsfm_cli.io.images import read_images
    from vggsfm_cli.io.sequence import PhotographSequence
    from vggsfm_cli.options import ReconstructOptions
    from vggsfm_cli.pipeline import reconstruct
    from vggsfm_cli.result import RunResult
    from vggsfm_cli.scene import (
        CameraPriors,
        Cameras,
        ImageSet,
        Points,
        Progress,
        Queries,
        Reconstruction,
        Tracks,
    )
    from vggsfm_cli.sequence import SequenceOptions, reconstruct_sequence

__version__ = "0.1.0"

__all__ = [
    "CameraPriors",
    "Cameras",
    "ImageSet",
    "PhotographSequence",
    "Points",
    "Progress",
    "Queries",
    "ReconstructOptions",
    "Reconstruction",
    "RunResult",
    "SequenceOptions",
    "Tracks",
    "VGGSfMError",
    "load_model",
    "read_colmap",
    "read_images",
    "reconstruct",
    "reconstruct_sequence",
    "write_colmap",
]

_ROOMS = {
    "load_model": "checkpoints",
    "read_colmap": "colmap.files",
    "write_colmap": "colmap.files",
    "VGGSfMError": "errors",
    "read_images": "io.images",
    "reconstruct": "pipeline",
    "ReconstructOptions": "options",
    "RunResult": "result",
    "PhotographSequence": "io.sequence",
    "SequenceOptions": "sequence",
    "reconstruct_sequence": "sequence",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOMS.get(name, 'scene')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
