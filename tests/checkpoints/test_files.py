"""Models in folders: written, read again, and what damaged ones say."""

import json

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.checkpoints.files import config_from_json, config_to_json, save_model
from vggsfm_cli.errors import UsageError, WeightsUnavailable
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.tracking.starts import StartConfig
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tracker = CoarseToFineTrackerConfig(judge=TrackTransformerConfig(width=16), start=StartConfig(guided_cells=2))
    model = VGGSfMConfig(name="mine", tracker=tracker).build()
    save_model(model, tmp_path / "mine")
    return tmp_path / "mine", model


def test_a_saved_model_comes_back(folder):
    path, model = folder
    loaded = load_model(str(path))
    assert loaded.config == model.config
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(item.name for item in path.iterdir()) == ["config.json", "model.safetensors"]


def test_every_configuration_survives_json():
    config = VGGSfMConfig(tracker=CoarseToFineTrackerConfig(judge=TrackTransformerConfig()))
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_damaged_models_say_which_file(folder):
    path, _ = folder
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"width": 16', '"width": 32'))
    with pytest.raises(WeightsUnavailable, match="does not fit"):
        load_model(str(path))
    (path / "config.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="not JSON"):
        load_model(str(path))
    (path / "config.json").write_text('{"type": "SchurConfig"}')
    with pytest.raises(WeightsUnavailable, match="does not describe a model"):
        load_model(str(path))
    (path / "config.json").write_text('{"type": "Strange"}')
    with pytest.raises(WeightsUnavailable, match="unknown type"):
        load_model(str(path))
    (path / "config.json").write_text(config)
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsUnavailable, match=r"model\.safetensors"):
        load_model(str(path))
    (path / "model.safetensors").unlink()
    with pytest.raises(WeightsUnavailable, match="is missing"):
        load_model(str(path))


def test_unknown_names_list_the_models():
    with pytest.raises(UsageError, match="no model 'large'") as caught:
        load_model("large")
    assert "small" in caught.value.hint
