"""LightGlue of our own against kornia's, with the same weights."""

import pytest
import torch
from kornia.feature import LightGlue as KorniaLightGlue

from vggsfm_cli.checkpoints.lightglue import from_published
from vggsfm_cli.nn.lightglue import LightGlueConfig, normalize_positions

SIZE = torch.tensor([[640.0, 480.0]])


def pair(config, count=60, seed=0, **options):
    """Both networks with the same random weights, and two frames that share half their points."""
    torch.manual_seed(seed)
    theirs = KorniaLightGlue(
        None,
        input_dim=config.descriptor,
        descriptor_dim=config.width,
        n_layers=config.layers,
        num_heads=config.heads,
        depth_confidence=-1,
        flash=False,
        filter_threshold=0.0,
        **options,
    ).eval()
    ours = config.build().eval()
    state = {name: value for name, value in theirs.state_dict().items() if name != "confidence_thresholds"}
    ours.load_state_dict(from_published(state, config.heads), strict=True)
    descriptors = torch.nn.functional.normalize(torch.randn(2, count, config.descriptor), dim=-1)
    descriptors[1, : count // 2] = descriptors[0, : count // 2]
    xy = torch.rand(2, count, 2) * SIZE[0]
    return theirs, ours, descriptors, xy


def kornia_matches(theirs, descriptors, xy):
    frames = [{"keypoints": xy[i : i + 1], "descriptors": descriptors[i : i + 1], "image_size": SIZE} for i in range(2)]
    with torch.no_grad():
        return theirs({"image0": frames[0], "image1": frames[1]})


def run(ours, descriptors, xy, keep=None):
    with torch.no_grad():
        frames = ours.look(descriptors, normalize_positions(xy, SIZE.expand(len(xy), 2)), keep)
        return ours(frames.frames(torch.tensor([0])), frames.frames(torch.tensor([1])))


@pytest.mark.parametrize(
    "config",
    [
        LightGlueConfig(drop_below=0.0),
        LightGlueConfig(descriptor=128, width=128, heads=4, layers=3, drop_below=0.0),
    ],
)
def test_scores_are_those_of_kornia(config):
    theirs, ours, descriptors, xy = pair(config, width_confidence=-1)
    found = kornia_matches(theirs, descriptors, xy)
    scores, _, _ = run(ours, descriptors, xy)
    best = scores[0].exp().max(1)
    mutual = scores[0].argmax(0)[best.indices] == torch.arange(len(best.indices))
    assert mutual.sum() > 5
    torch.testing.assert_close(found["matching_scores0"][0][mutual], best.values[mutual], rtol=1e-4, atol=1e-7)
    assert (found["matches0"][0][mutual] == best.indices[mutual]).all()


def test_points_dropped_on_the_way_are_those_of_kornia():
    config = LightGlueConfig(drop_below=0.48)
    theirs, ours, descriptors, xy = pair(config, width_confidence=0.52)
    for confidence in ours.confidences:  # sure of everything: what has no partner goes
        torch.nn.init.constant_(confidence.bias, 9.0)
    for confidence in theirs.token_confidence:
        torch.nn.init.constant_(confidence.token[0].bias, 9.0)
    found = kornia_matches(theirs, descriptors, xy)
    scores, first, second = run(ours, descriptors, xy)
    left = [int((found[f"prune{i}"][0] == found[f"prune{i}"].max()).sum()) for i in range(2)]
    assert scores.shape[1:] == tuple(left) and max(left) < 60
    best = scores[0].exp().max(1)
    mutual = scores[0].argmax(0)[best.indices] == torch.arange(len(best.indices))
    expected = found["matches0"][0, first.index[0][mutual]]
    assert (expected == second.index[0][best.indices[mutual]]).all()


def test_padding_changes_nothing():
    _, ours, descriptors, xy = pair(LightGlueConfig(drop_below=0.0))
    alone, _, _ = run(ours, descriptors, xy)
    keep = torch.ones(2, 70, dtype=torch.bool)
    keep[:, 60:] = False
    padded = [torch.cat([part, torch.randn(2, 10, part.shape[-1])], 1) for part in (descriptors, xy)]
    beside, _, _ = run(ours, *padded, keep)
    torch.testing.assert_close(beside[0, :60, :60], alone[0], rtol=1e-4, atol=1e-4)
    assert (beside[0, 60:].exp() < 1e-6).all() and (beside[0, :, 60:].exp() < 1e-6).all()


def test_positions_fill_minus_one_to_one_along_the_long_side():
    xy = torch.tensor([[[0.0, 0.0], [640.0, 480.0], [320.0, 240.0]]])
    expected = torch.tensor([[[-1.0, -0.75], [1.0, 0.75], [0.0, 0.0]]])
    torch.testing.assert_close(normalize_positions(xy, SIZE), expected)
