"""Photographs of a long sequence: what their headers say at once, pixels only of the frames that are asked for."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vggsfm_cli.errors import NotEnoughMemory
from vggsfm_cli.io.exif import AXIS_CHANGES, ExifData
from vggsfm_cli.io.images import (
    MIN_SIDE_PX,
    NETWORK_MULTIPLE,
    Photograph,
    PhotographSet,
    check_reading,
    check_something_left,
    find_masks,
    pad,
    read_photograph,
    reason_of,
    stored_from_network_of,
    too_few,
    warned,
)
from vggsfm_cli.io.intrinsics import KnownCamera
from vggsfm_cli.io.photographs import PhotographFiles, find_levels, read_header
from vggsfm_cli.io.priors import camera_priors
from vggsfm_cli.io.sources import FoundImages, SkippedImage, Source, find_images
from vggsfm_cli.scene import ImageSet
from vggsfm_cli.threads import map_threads

logger = logging.getLogger(__name__)


class PhotographSequence:
    """Photographs of one scene in their order; only the frames that ``read`` is asked for are ever decoded.

    Attributes:
        names: of the frames.
        facts: all frames without their pixels, and the files whose headers cannot be read.
    """

    def __init__(
        self,
        source: Source | FoundImages,
        *,
        recursive: bool = False,
        long_side: int = 1024,
        camera_mode: str = "auto",
        camera_model: str = "SIMPLE_RADIAL",
        intrinsics: Sequence[KnownCamera] = (),
        masks: Path | str | None = None,
        mask_invert: bool = False,
        ignore_alpha: bool = False,
    ) -> None:
        """Read the headers of all files; the arguments, and what is raised, are those of ``read_images``."""
        check_reading(long_side, camera_mode, camera_model)
        found = source
        if not isinstance(found, FoundImages):
            found = find_images(found, recursive=recursive, without=() if masks is None else (Path(masks),))
        mask_of = find_masks(masks, found.names)
        skipped = list(found.skipped)
        headers: list[tuple[tuple[int, int], ExifData]] = []
        kept: list[int] = []
        for i, result in enumerate(map_threads(_header, found.files)):
            if isinstance(result, str):
                skipped.append(SkippedImage(name=found.names[i], reason=result))
                logger.warning("Skipped %s: %s", found.names[i], result)
            else:
                headers.append(result)
                kept.append(i)
        if len(kept) < 2:  # noqa: PLR2004
            raise too_few(found, len(kept), skipped)
        self.names = tuple(found.names[i] for i in kept)
        self._long_side, self._mask_invert, self._ignore_alpha = long_side, mask_invert, ignore_alpha
        self._by_masks = masks is not None
        self._levels = find_levels(found.files)
        self._something_left = False
        self._files, self._masks = [found.files[i] for i in kept], [mask_of[i] for i in kept]
        sizes, exif = [size for size, _ in headers], [data for _, data in headers]
        small = [_small_size(size, long_side) for size in sizes]
        upright = [
            side[::-1] if AXIS_CHANGES[data.orientation][0] else side for side, data in zip(small, exif, strict=True)
        ]
        width, height = (-(-max(side[k] for side in upright) // NETWORK_MULTIPLE) * NETWORK_MULTIPLE for k in (0, 1))
        self._canvas = (height, width)
        ways = [
            stored_from_network_of(size, side, data.orientation)
            for size, side, data in zip(sizes, small, exif, strict=True)
        ]
        self.facts = PhotographSet(
            pixels=torch.zeros(1, len(kept), 3, 0, 0),
            mask=torch.zeros(1, len(kept), 0, 0, dtype=torch.bool),
            frame_valid=torch.ones(1, len(kept), dtype=torch.bool),
            stored_from_network=torch.from_numpy(np.stack(ways)).float()[None],
            stored_size=torch.tensor(sizes)[None],
            names=(self.names,),
            originals=PhotographFiles(self._files, self._levels, cache_bytes=0, long_side=long_side),
            priors=camera_priors(self.names, sizes, exif, camera_mode, camera_model, intrinsics),
            skipped=tuple(skipped),
            caution=warned(self._projections()),
        )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, frames: Sequence[int]) -> ImageSet:
        """Some frames with their pixels (B = 1), on one canvas for all frames of the sequence.

        A frame whose file turns out to be damaged is not valid, and is logged.

        Raises:
            InputError: a mask cannot be read, does not fit, or all of the first ones leave nothing.
        """
        some = self.facts.some(frames)
        valid = torch.ones(1, len(frames), dtype=torch.bool)
        photographs = []
        originals = PhotographFiles([self._files[s] for s in frames], self._levels, long_side=self._long_side)
        for k, found in enumerate(map_threads(self._photograph, frames)):
            if isinstance(found, Photograph) and list(found.size) == some.stored_size[0, k].tolist():
                photographs.append(found)
                originals.keep(k, found.grey)
            else:
                reason = found if isinstance(found, str) else "its header tells another size"
                logger.warning("Skipped %s: %s", self.names[frames[k]], reason)
                photographs.append(_nothing())
                valid[0, k] = False
        self._check_something_left([self.names[s] for s in frames], photographs, valid[0].tolist())
        pixels, mask = pad(photographs, self._canvas)
        return ImageSet(
            pixels=pixels[None],
            mask=mask[None],
            frame_valid=valid,
            stored_from_network=some.stored_from_network,
            stored_size=some.stored_size,
            names=some.names,
            originals=originals,
            priors=some.priors,
        )

    def _photograph(self, frame: int) -> Photograph | str:
        mask = self._masks[frame]
        return read_photograph(
            self._files[frame], self._long_side, mask, self._mask_invert, self._levels, self._ignore_alpha
        )

    def _projections(self) -> list[str | None]:
        """What kinds of pictures the first frame, the last one and one between them are."""
        some = [self._photograph(s) for s in sorted({0, len(self) // 2, len(self) - 1})]
        return [found.projection for found in some if isinstance(found, Photograph)]

    def _check_something_left(self, names: list[str], photographs: list[Photograph], valid: list[bool]) -> None:
        """As for a set, of the first frames that are read: later ones may well show nothing that is to be used."""
        chosen = [(name, found) for name, found, readable in zip(names, photographs, valid, strict=True) if readable]
        if not self._something_left and len(chosen) > 1:
            check_something_left(*map(list, zip(*chosen, strict=True)), by_masks=self._by_masks)
            self._something_left = True


def _nothing() -> Photograph:
    """In the place of a damaged file."""
    pixels = np.zeros((MIN_SIDE_PX, MIN_SIDE_PX, 3), dtype=np.uint8)
    return Photograph(
        pixels=pixels,
        keep=np.zeros(pixels.shape[:2], dtype=bool),
        stored_from_network=np.eye(2, 3),
        size=(MIN_SIDE_PX, MIN_SIDE_PX),
        exif=ExifData(),
        grey=pixels[..., 0],
    )


def _header(path: Path) -> tuple[tuple[int, int], ExifData] | str:
    try:
        size, exif = read_header(path)
    except (MemoryError, NotEnoughMemory):
        raise
    except Exception as error:  # decoders meet damage with anything from OSError to struct.error
        return reason_of(error)
    return (size, exif) if min(size) >= MIN_SIDE_PX else f"only {size[0]} x {size[1]} pixels"


def _small_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
