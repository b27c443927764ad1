import pytest
import torch

from goldens import golden_json, needs_full_set
from v2_recipe import SHAPES
from vggsfm_cli.checkpoints.files import config_from_json, config_to_json
from vggsfm_cli.recipes.v2.weights import V2, our_key, published_keys, published_shapes


def test_all_published_weights_have_a_place_and_fit_it() -> None:
    keys = published_keys()
    assert len(keys) == 690
    assert set(keys) == set(SHAPES)
    assert len(set(keys.values())) == 690
    assert all(our_key(published) == ours for published, ours in keys.items())
    assert published_shapes() == {name: tuple(shape) for name, shape in SHAPES.items()}
    with torch.device("meta"):
        model = V2.build()
        state = {ours: torch.empty(SHAPES[published]) for published, ours in keys.items()}
    model.load_state_dict(state, strict=True, assign=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 281_238_349


@needs_full_set
def test_names_and_shapes_are_those_of_the_specification() -> None:
    listed = golden_json("vggsfm_v2_keys")["keys"]
    assert len(listed) == 690
    assert published_shapes() == {name: tuple(entry["shape"]) for name, entry in listed.items()}


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_anything_else_is_refused(damage: str) -> None:
    with torch.device("meta"):
        model = V2.build()
        state = {our_key(published): torch.empty(shape) for published, shape in SHAPES.items()}
        name = our_key("camera_predictor.pose_token")
        if damage == "missing":
            del state[name]
        else:
            state["another" if damage == "extra" else name] = torch.empty(3)
    with pytest.raises(RuntimeError):
        model.load_state_dict(state, strict=True, assign=True)


def test_the_configuration_is_plain_data() -> None:
    assert config_from_json(config_to_json(V2)) == V2
