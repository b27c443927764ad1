"""A short rendered walk, for all tests of sequences."""

import dataclasses
from pathlib import Path

import pytest
import torch

from vggsfm_cli.io.synthetic import write_scenes
from vggsfm_cli.scene import Cameras
from vggsfm_cli.synthetic.render import render
from vggsfm_cli.synthetic.scenes import SceneConfig, of_film
from vggsfm_cli.synthetic.textures import procedural_textures

FRAMES = 24


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """Files of a film in their order, and the true cameras."""

    files: list[Path]
    cameras: Cameras


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    textures = procedural_textures(12, 128, torch.Generator().manual_seed(0))
    config = of_film(SceneConfig(frames=FRAMES, height=144, width=192))
    rendered = render(config, textures, 1, torch.Generator().manual_seed(0))
    out = write_scenes([(rendered.images, rendered.cameras, None)], tmp_path_factory.mktemp("walk") / "scenes")
    return Walk(files=sorted((out / "scene_000" / "images").iterdir()), cameras=rendered.cameras)
