"""Examples: their truth, their numbers, and where they are kept."""

import dataclasses

import pytest
import torch

from vggsfm_cli.errors import InputError
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.training.data import Pool, PoolConfig, corner_score, read_textures

CONFIG = PoolConfig(
    scene=SceneConfig(frames=2, height=64, width=96, shadows=False),
    scenes_per_example=1,
    examples=3,
    queries_per_frame=40,
    texture_side=64,
    textures=12,
)


@pytest.fixture(autouse=True)
def procedural(monkeypatch):
    monkeypatch.delenv("VGGSFM_TEXTURES", raising=False)


def same(one, two) -> bool:
    return all(torch.equal(getattr(one, item.name), getattr(two, item.name)) for item in dataclasses.fields(one))


def test_an_example_is_a_function_of_seed_and_number(tmp_path):
    kept = Pool(CONFIG, 0, folder=tmp_path)
    first = kept[1]
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 1
    assert same(kept[1], first) and same(kept[4], first)
    assert list(tmp_path.rglob("*.safetensors")) == files
    assert same(Pool(CONFIG, 0)[1], first)
    assert not same(Pool(CONFIG, 1)[1], first)
    assert not same(Pool(CONFIG, 0, held_out=True)[1], first)


def test_queries_are_where_they_say(tmp_path):
    example = Pool(CONFIG, 0)[0]
    assert example.pixels.shape == (1, 2, 3, 64, 96) and example.pixels.dtype == torch.uint8
    assert example.query_frame.shape == (1, 80)
    for s in range(2):
        own = example.query_frame[0] == s
        assert own.sum() == 40
        assert bool(example.visible[0, s, own & example.valid[0]].all())
        xy = example.xy[0, s, own]
        assert bool(((xy > 0) & (xy < torch.tensor([96, 64]))).all())


def test_corners_are_found_and_edges_are_not():
    picture = torch.zeros(3, 64, 64)
    picture[:, 20:40, 30:50] = 1
    score = corner_score(picture)
    assert score[20, 30] > 100 * score[30, 30].clamp(min=1e-9)


def test_textures_of_validation_are_others(tmp_path, monkeypatch):
    from PIL import Image

    for i in range(12):
        Image.new("RGB", (20, 16), (20 * i, 0, 0)).save(tmp_path / f"{i:02d}.png")
    monkeypatch.setenv("VGGSFM_TEXTURES", str(tmp_path))
    training, held_out = (read_textures(CONFIG, held_out=flag)[:, 0, 0, 0] for flag in (False, True))
    assert len(training) == 10 and len(held_out) == 2
    assert not set(training.tolist()) & set(held_out.tolist())


def test_a_folder_without_textures_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGSFM_TEXTURES", str(tmp_path))
    with pytest.raises(InputError, match="No texture"):
        read_textures(CONFIG, held_out=False)
