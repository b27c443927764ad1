"""Damaged and malicious files end in a sentence and the right exit code: never in a traceback, a hang or a full memory.

``VGGSFM_HOSTILE_FILES`` says how many files of each kind to try; there are always the same ones.
"""

import dataclasses
import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from example_model import example_model
from hostile import hostile
from vggsfm_cli.cli.scene_options import settings
from vggsfm_cli.colmap.files import read_colmap, write_model
from vggsfm_cli.config_file import read_config, to_toml
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.io import read_images
from vggsfm_cli.io.intrinsics import read_intrinsics
from vggsfm_cli.io.masks import read_mask
from vggsfm_cli.options import SceneOptions

COUNT = int(os.environ.get("VGGSFM_HOSTILE_FILES", "25"))
SECONDS = 10.0  # alone on a core none takes one
MEMORY_BYTES = 2 * 2**30

pytestmark = pytest.mark.filterwarnings("ignore::Warning:PIL", "ignore::Warning:tomllib")


@pytest.fixture(autouse=True)
def bounds() -> Iterator[None]:
    """No file may take memory for more than it holds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES


def tried(read: Callable[[], object], allowed: tuple[type[Exception], ...]) -> bool:
    """Whether it could be read; anything but an allowed error passes through."""
    start = time.perf_counter()
    try:
        read()
    except allowed as error:
        assert str(error) and "\n" not in str(error)
        return False
    finally:
        assert time.perf_counter() - start < SECONDS
    return True


def picture(suffix: str, path: Path) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (36, 48, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    exif.get_ifd(0x8769)[0xA405] = 35
    options = {".png": {"exif": exif}, ".jpg": {"exif": exif}, ".tif": {"compression": "tiff_lzw", "exif": exif}}
    image.save(path.with_suffix(suffix), **options.get(suffix, {}))
    return path.with_suffix(suffix).read_bytes()


def test_images(tmp_path: Path) -> None:
    kinds = [".jpg", ".png", ".tif", ".webp", ".bmp", ".avif"]
    whole = {kind: picture(kind, tmp_path / "whole") for kind in kinds}
    folder = tmp_path / "photos"
    folder.mkdir()
    good = {"0.png", "1.jpg"}
    (folder / "0.png").write_bytes(whole[".png"])
    (folder / "1.jpg").write_bytes(whole[".jpg"])
    for seed in range(COUNT):
        kind = random.Random(seed).choice(kinds)
        (folder / f"x{seed}{kind}").write_bytes(hostile(whole[kind], seed))
    images = read_images(folder)
    assert good <= set(images.names[0]) and all(item.reason for item in images.skipped)
    assert len(images.names[0]) + len(images.skipped) == COUNT + 2 and len(images.skipped) > COUNT / 4
    assert bool(images.pixels.isfinite().all()) and bool(images.priors.params.isfinite().all())


def test_masks(tmp_path: Path) -> None:
    kinds = [".png", ".jpg", ".tif"]
    whole = {kind: picture(kind, tmp_path / "whole") for kind in kinds}
    failures = 0
    for seed in range(COUNT):
        path = tmp_path / "mask.png"
        path.write_bytes(hostile(whole[random.Random(seed).choice(kinds)], seed))
        failures += not tried(lambda: read_mask(path, (48, 36)), (InputError,))  # noqa: B023
    assert failures > COUNT / 4


def told(path: Path) -> SceneOptions:
    """The options that a file sets, as the command line makes them."""
    values: dict[str, Any] = dict(read_config(path, settings()))
    return SceneOptions(**{name: Path(value) if name == "masks" else value for name, value in values.items()})


def test_configs(tmp_path: Path) -> None:
    options = SceneOptions(seed=7, preset="fast", threads=2, masks=Path("größe"), intrinsics="1,2,3")
    whole = to_toml({key: value for key, value in options.as_dict().items() if value is not None}).encode()
    failures = 0
    for seed in range(COUNT):
        path = tmp_path / "config.toml"
        path.write_bytes(hostile(whole, seed))
        failures += not tried(lambda: told(path), (UsageError,))  # noqa: B023
    assert failures > COUNT / 4


@pytest.mark.parametrize("text", [False, True])
def test_models(tmp_path: Path, text: bool) -> None:
    model = example_model()
    names = tuple(name.replace(" ", "_") for name in model.names)
    write_model(dataclasses.replace(model, names=names), tmp_path / "whole", legacy=False, text=text)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    (tmp_path / "model").mkdir()
    failures = 0
    for seed in range(COUNT):
        name = random.Random(seed).choice(sorted(whole))
        for other, data in whole.items():
            (tmp_path / "model" / other).write_bytes(hostile(data, seed) if other == name else data)
        failures += not tried(lambda: read_colmap(tmp_path / "model"), (InputError,))
    assert failures > COUNT / 4


def test_intrinsics(tmp_path: Path) -> None:
    write_model(example_model(), tmp_path / "whole", legacy=False)
    known = [{"model": "PINHOLE", "params": [70, 71, 30, 20], "width": 60, "height": 40, "images": ["a*"]}]
    whole = {".json": json.dumps(known).encode(), ".bin": (tmp_path / "whole" / "cameras.bin").read_bytes()}
    failures = 0
    for seed in range(COUNT):
        kind = random.Random(seed).choice([".json", ".bin"])
        path = tmp_path / f"cameras{kind}"
        path.write_bytes(hostile(whole[kind], seed))
        failures += not tried(lambda: read_intrinsics(str(path), "PINHOLE"), (InputError,))  # noqa: B023
    assert failures > COUNT / 4
