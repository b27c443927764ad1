"""Published files become model folders; wrong, truncated and hostile ones are refused with the reason."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.checkpoints import convert as conversion
from vggsfm_cli.checkpoints.convert import PublishedLayout, convert, layout_of
from vggsfm_cli.errors import WeightsUnavailable, WriteFailed

SHAPES = {"net.0.weight": (4, 3), "net.0.bias": (4,), "virual": (1, 2, 1), "net.1.weight": (2, 4), "net.1.bias": (2,)}
LAYOUT = PublishedLayout(
    expected=SHAPES,
    rename={name: f"tracker.{name.replace('virual', 'virtual')}" for name in SHAPES},
    config=SchurConfig(),
)


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "published.bin"


def refused(file, tmp_path):
    with pytest.raises(WeightsUnavailable) as caught:
        convert(file, LAYOUT, tmp_path / "out", {})
    assert caught.value.exit_code == 6 and caught.value.hint
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    return str(caught.value)


def test_every_tensor_arrives_under_our_name(file, tmp_path):
    state = tensors()
    torch.save(state, file)
    out = convert(file, LAYOUT, tmp_path / "new" / "out", {"sha256": "abc"})
    written = load_file(out / "model.safetensors")
    assert set(written) == set(LAYOUT.rename.values())
    assert all(torch.equal(written[LAYOUT.rename[name]], value) for name, value in state.items())
    assert json.loads((out / "config.json").read_text())["type"] == "SchurConfig"
    assert json.loads((out / "source.json").read_text()) == {"sha256": "abc"}
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    torch.save(tensors(1), file)
    convert(file, LAYOUT, out, {"sha256": "def"})
    assert json.loads((out / "source.json").read_text()) == {"sha256": "def"}


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_of_torch_are_read(file, tmp_path, legacy):
    torch.save(tensors(), file, _use_new_zipfile_serialization=not legacy)
    assert len(load_file(convert(file, LAYOUT, tmp_path / "out", {}) / "model.safetensors")) == len(SHAPES)


def test_views_and_shared_storage_are_written_whole(file, tmp_path):
    state = tensors()
    state["net.0.weight"] = torch.arange(12.0).reshape(3, 4).T
    state["net.1.bias"] = state["net.0.bias"][1:3]
    torch.save(state, file)
    written = load_file(convert(file, LAYOUT, tmp_path / "out", {}) / "model.safetensors")
    assert torch.equal(written["tracker.net.0.weight"], torch.arange(12.0).reshape(3, 4).T)
    assert torch.equal(written["tracker.net.1.bias"], state["net.1.bias"])


def test_what_differs_is_named(file, tmp_path):
    state = tensors()
    state["extra.weight"] = torch.zeros(1)
    del state["virual"]
    state["net.0.weight"] = torch.zeros(4, 5)
    state["net.1.bias"][0] = torch.nan
    torch.save(state, file)
    text = refused(file, tmp_path)
    assert "misses virual" in text and "has the unknown extra.weight" in text
    assert "net.0.weight [4, 5] instead of [4, 3]" in text and "no finite real numbers in net.1.bias" in text


def test_only_a_few_are_listed(file, tmp_path):
    torch.save({f"w{i}": torch.zeros(1) for i in range(50)}, file)
    text = refused(file, tmp_path)
    assert "w0, w1, w2 and 47 more" in text and "and 2 more" in text and len(text) < 500


@pytest.mark.parametrize("value", [torch.arange(2), torch.tensor([1.0, float("inf")])])
def test_only_finite_real_numbers_are_weights(file, tmp_path, value):
    torch.save({**tensors(), "net.1.bias": value}, file)
    assert "net.1.bias" in refused(file, tmp_path)


class Hostile:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("raw", [False, True])
def test_a_hostile_file_is_refused_and_not_run(file, tmp_path, raw):
    state = {**tensors(), "net.0.bias": Hostile(tmp_path / "harm")}
    if raw:
        file.write_bytes(pickle.dumps(state["net.0.bias"]))
    else:
        torch.save(state, file)
    text = refused(file, tmp_path)
    assert "refused, and nothing in it was run" in text and len(text) < 400
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(file, tmp_path, share):
    torch.save(tensors(), file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "published.bin" in refused(file, tmp_path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"net": 3}, {1: torch.zeros(2)}, torch.zeros(2)])
def test_other_content_is_refused(file, tmp_path, content):
    torch.save(content, file)
    assert "no tensor" in (text := refused(file, tmp_path)) or "not named tensors" in text


def test_other_files_are_refused(file, tmp_path):
    file.write_text("<!doctype html>Not found")
    assert "published.bin" in refused(file, tmp_path)
    file.unlink()
    assert "no file" in refused(file, tmp_path)


def test_a_folder_that_cannot_be_written(file, tmp_path):
    torch.save(tensors(), file)
    (tmp_path / "taken").write_text("")
    with pytest.raises(WriteFailed, match="Cannot write"):
        convert(file, LAYOUT, tmp_path / "taken" / "out", {})


def test_models_without_a_layout_cannot_run(monkeypatch):
    monkeypatch.setattr(conversion, "LAYOUTS", {"v2": lambda: LAYOUT})
    assert layout_of("v2") is LAYOUT
    with pytest.raises(WeightsUnavailable, match="cannot run the published weights of 'v3'"):
        layout_of("v3")
