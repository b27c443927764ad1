"""What a scene is made from: its own options and its own files."""

import dataclasses
import logging
from pathlib import Path

from vggsfm_cli import job
from vggsfm_cli.batch.plan import Scene
from vggsfm_cli.errors import InputError
from vggsfm_cli.io.masks import find_mask
from vggsfm_cli.io.sources import find_images
from vggsfm_cli.options import SceneOptions

logger = logging.getLogger(__name__)


def absolute(options: SceneOptions) -> SceneOptions:
    """The same choices with paths that hold in any working folder, as workers may have another.

    Raises:
        InputError: there is no folder of masks.
    """
    if options.masks is not None and not options.masks.is_dir():
        hint = "In a batch it holds a folder of masks for each scene, under the scene's name."
        raise InputError(f"No folder {str(options.masks)!r} of masks.", hint)
    return job.absolute(options)


def options_of(scene: Scene, options: SceneOptions) -> SceneOptions:
    """The choices for one scene of a batch: its masks are those in the folder of its name, if there is one."""
    if options.masks is None:
        return options
    masks = options.masks / scene.name
    if masks.is_dir():
        return dataclasses.replace(options, masks=masks)
    logger.warning("There is no %s: the photographs are used whole", masks)
    return dataclasses.replace(options, masks=None, mask_invert=False)


def input_files(images: Path, options: SceneOptions) -> dict[str, Path]:
    """The files whose change makes a result out of date, by what they are: photographs by their names, and masks.

    Raises:
        InputError: there is no such folder.
    """
    without = () if options.masks is None else (options.masks,)
    found = find_images(images, recursive=options.recursive, without=without)
    files = dict(zip(found.names, found.files, strict=True))
    if options.masks is not None:
        masks = {f"mask of {name}": find_mask(options.masks, name) for name in found.names}
        files.update({name: path for name, path in masks.items() if path is not None})
    return files
