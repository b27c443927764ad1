"""Networks of the v2 tracker against the golden values of the published recipe, and against their definitions."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import v2_naive
from goldens import REDUCED, golden, needs_full_set
from v2_golden import COMMITTED, OMITTED, check, pictures, recipe_tracker
from vggsfm_cli.nn.cnn import resize_aligned
from vggsfm_cli.recipes.v2 import correlation
from vggsfm_cli.recipes.v2.correlation import make_pyramid
from vggsfm_cli.recipes.v2.iterative import Followed
from vggsfm_cli.recipes.v2.patches import (
    PatchConfig,
    cut_patches,
    cut_windows,
    encode_patches,
    heat_moments,
    refine,
)

RADIUS = 15
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


class Outputs:
    """What modules gave, or were given, during a run."""

    def __init__(self) -> None:
        self.of: dict[str, list[Tensor]] = {}

    def listen(self, name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, out: self.of.setdefault(name, []).append(out.clone()))

    def listen_to_input(self, name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, args: self.of.setdefault(name, []).append(args[0].clone()))


@pytest.fixture
def outputs():
    """Hooks, gone after the test: the tracker serves all tests."""
    listening = Outputs()
    yield listening
    for module in recipe_tracker().modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


@pytest.fixture(scope="module")
def maps():
    return recipe_tracker().coarse_encoder(pictures())


@needs_full_set
@pytest.mark.parametrize("fixture", COMMITTED)
def test_committed_values_are_part_of_the_full_set(fixture):
    committed, whole = load_file(REDUCED / f"{fixture}.safetensors"), golden(fixture)
    parts = {name: COMMITTED[fixture].get(name, ()) for name in whole}
    assert set(committed) == {name for name, part in parts.items() if part is not OMITTED}
    for name, value in committed.items():
        assert torch.equal(value, whole[name][parts[name]]), name


def test_coarse_encoder(outputs):
    encoder = recipe_tracker().coarse_encoder
    for name in ("conv1", "layer1", "layer3", "layer4", "conv2"):
        outputs.listen(name, getattr(encoder, name))
    found = encoder(pictures())
    of = {name: out[0][:1] for name, out in outputs.of.items()}
    check(resize_aligned(pictures()[:1], (128, 128)), "coarse_fnet", "down_frame0", 1e-6)
    stem = nn.functional.instance_norm(of["conv1"])[:, :4]
    check(stem, "coarse_fnet", "frame0_stem_norm1_ch0_3", 1e-4)
    check(of["layer1"][:, :4], "coarse_fnet", "frame0_layer1_ch0_3", 1e-4)
    check(of["layer3"], "coarse_fnet", "frame0_layer3", 1e-4)
    check(of["layer4"], "coarse_fnet", "frame0_layer4", 1e-4)
    check(of["conv2"][:, :8], "coarse_fnet", "frame0_conv2_ch0_7", 1e-4)
    check(found[None], "coarse_fnet", "fmaps", 1e-4)


def test_fine_encoder(outputs):
    encoder = recipe_tracker().fine_encoder
    for name in ("layer1", "layer2"):
        outputs.listen(name, getattr(encoder, name))
    found = encoder(golden("fine_fnet")["patches"])
    for name, out in outputs.of.items():
        check(out[0], "fine_fnet", name, 2e-5)
    check(found, "fine_fnet", "feat", 2e-5)


@pytest.mark.parametrize("dense_cells", [0, 4096], ids=["read", "dense"])
def test_correlation_windows(dense_cells, monkeypatch):
    monkeypatch.setattr(correlation, "DENSE_CELLS", dense_cells)
    known = golden("correlation")
    pyramid = make_pyramid(known["nonsq_fmaps"][0], 3, 3, 3)
    found = pyramid.windows(known["nonsq_feats"][0], known["nonsq_coords"][0])
    check(found[None], "correlation", "nonsq_out_L3_r3", 1e-4)


@needs_full_set
@pytest.mark.parametrize("dense_cells", [0, 4096], ids=["read", "dense"])
def test_correlation_windows_of_five_levels(dense_cells, monkeypatch):
    monkeypatch.setattr(correlation, "DENSE_CELLS", dense_cells)
    known = golden("correlation")
    grid, features = known["sq_fmaps_f16"][0].float(), known["sq_feats"][0]
    check(v2_naive.volumes(grid, features, 3)[2][None], "correlation", "sq_level2", 1e-5)
    found = make_pyramid(grid, 5, 4, 4).windows(features, known["sq_coords"][0])
    check(found[None], "correlation", "sq_out_L5_r4", 1e-4)


@pytest.mark.parametrize("dense_cells", [0, 4096], ids=["read", "dense"])
def test_windows_are_samples_of_whole_volumes(dense_cells, monkeypatch):
    """Also far outside, where nothing is left, and at whole cells."""
    monkeypatch.setattr(correlation, "DENSE_CELLS", dense_cells)
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(2, 16, 37, 23, generator=generator)
    features = torch.randn(2, 40, 16, generator=generator)
    xy = torch.rand(2, 40, 2, generator=generator) * torch.tensor([35.0, 50.0]) - 6
    xy[0, :3] = torch.tensor([[4.0, 9.0], [-1e5, 3.0], [5.5, 1e7]])
    expected = v2_naive.windows(grid, features, xy, 4, 3)
    for at_once in (1, 7, 1000):
        found = make_pyramid(grid, 4, 3, at_once).windows(features, xy)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert found[0, 1].abs().max() == 0


def test_maps_too_small_for_the_pyramid_are_refused():
    with pytest.raises(ValueError, match="too small for a pyramid of 5 levels"):
        make_pyramid(torch.zeros(1, 8, 40, 15), 5, 4, 100)


def test_gradients_of_windows_are_those_of_volumes():
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(1, 6, 2, generator=generator) * 12
    weight = torch.randn(1, 6, 2 * 25, generator=generator)
    found = []
    with torch.enable_grad():
        for fast in (True, False):
            grid = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(2)).requires_grad_()
            features = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
            if fast:
                out = make_pyramid(grid, 2, 2, 4).windows(features, xy)
            else:
                out = v2_naive.windows(grid, features, xy, 2, 2)
            found.append(torch.autograd.grad((out * weight).sum(), (grid, features)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("at_once", [4096, 7], ids=["whole", "pieces"])
def test_update_transformers(at_once, outputs):
    known = golden("updateformer")
    tracker = recipe_tracker()
    coarse = tracker.coarse.transformer
    outputs.listen("time", coarse.time_blocks[0])
    outputs.listen("time5", coarse.time_blocks[5])
    for i in (0, 5):
        outputs.listen(f"p2v{i}", coarse.space_point2virtual_blocks[i])
    outputs.listen("v2p", coarse.space_virtual2point_blocks[0])
    outputs.listen("virtual", coarse.space_virtual_blocks[0])
    found = coarse(coarse.input_transform(known["coarse_in"].transpose(1, 2)), at_once)
    check(found.transpose(1, 2), "updateformer", "coarse_out", 1e-5)
    of = outputs.of
    if at_once > 7:
        for i, name in ((0, "time"), (5, "time5")):
            check(of[name][0][0], "updateformer", f"coarse_time{i}_out_first6tracks", 1e-5)
        for i in (0, 5):
            check(of[f"p2v{i}"][0][0], "updateformer", f"coarse_p2v{i}_out", 1e-5)
        check(of["v2p"][0][:, 0], "updateformer", "coarse_v2p0_out_t0", 1e-5)
        check(of["virtual"][0][:, 0], "updateformer", "coarse_virt0_out_t0", 1e-5)
    fine = tracker.fine.transformer
    found = fine(fine.input_transform(known["fine_in"].transpose(1, 2)), at_once)
    check(found.transpose(1, 2), "updateformer", "fine_out", 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_coarse_tracker(device, maps, outputs):
    tracker = recipe_tracker().coarse.to(device)
    queries, maps = golden("coarse_tracker")["query_points"].to(device) / 8, maps[None].to(device)
    outputs.listen_to_input("tokens", tracker.transformer.input_transform)
    outputs.listen("delta", tracker.transformer)
    found = tracker(maps, queries)
    in_pieces = tracker(maps, queries, iterations=2, pairs_at_once=9)
    seen = [tracker.visibilities(one.features).cpu() for one in (found, in_pieces)]
    tracker.cpu()
    check(torch.stack(found.steps).cpu() * 8, "coarse_tracker", "preds_6", 1e-3)
    check(torch.stack(in_pieces.steps).cpu() * 8, "coarse_tracker", "preds_2", 1e-3)
    check(seen[0], "coarse_tracker", "vis_6", 5e-6)
    check(seen[1], "coarse_tracker", "vis_2", 5e-6)
    check(found.query_features.cpu(), "coarse_tracker", "query_feat", 1e-4)
    check(found.features.cpu(), "coarse_tracker", "track_feats_6", 1e-3)
    tokens = [part.transpose(1, 2).cpu() for part in outputs.of["tokens"]]
    # from the second iteration on, sines of a thousand times the motion carry its rounding
    for i, atol in ((0, 1e-4), (1, 2e-3), (5, 2e-2)):
        check(tokens[i], "coarse_tracker", f"iter{i}_tokens", atol)
    check(outputs.of["delta"][0].transpose(1, 2).cpu(), "coarse_tracker", "iter0_delta", 1e-4)


def inside(coarse: Tensor, size: int = 256) -> Tensor:
    """Tracks [N] whose patches lie within the pictures in all frames."""
    corner = coarse.floor() - RADIUS
    return ((corner >= 0) & (corner + 2 * RADIUS < size)).all(-1).all(0)


def published_refinement(pixels: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Followed]:
    """Refined tracks and score as published: patches moved inside at the border, scores of other tracks' windows."""
    tracker = recipe_tracker()
    corner = coarse.floor().long() - RADIUS
    patches = cut_patches(pixels, corner.clamp(0, pixels.shape[-1] - 2 * RADIUS - 1), 2 * RADIUS + 1)
    features = encode_patches(tracker.fine_encoder, patches)
    found = tracker.fine(features, (coarse[0] - corner[0])[:, None])
    refined = found.xy[:, :, 0].transpose(0, 1) + corner
    refined[0] = coarse[0]
    frames, tracks = coarse.shape[:2]
    listed = (found.xy[:, :, 0].floor().long() - 2).flatten(0, 1)
    first = features[0, 0].expand(tracks, -1, -1, -1)
    score = torch.ones(frames, tracks)
    for s in range(1, frames):
        windows = cut_windows(first, listed[s * tracks : (s + 1) * tracks], 5)
        moments = heat_moments(found.query_features[:, 0], windows)
        score[s] = moments.diagonal(dim1=-2, dim2=-1).clamp(min=1e-10).sqrt().sum(-1)
    return refined, score, found


def check_score(found: Tensor, fixture: str, name: str) -> None:
    """A window may flip where a position lies at a whole pixel."""
    wrong = (found - golden(fixture)[name]).abs() > 1e-4
    assert wrong.sum() <= 1


def test_fine_tracker():
    known = golden("refine_track")
    coarse = known["coarse_tracks"][0]
    refined, score, found = published_refinement(pictures(), coarse)
    check(torch.stack(found.steps), "refine_track", "fine_preds_patch", 1e-4)
    check(found.query_features, "refine_track", "query_point_feat", 1e-4)
    check(refined[None], "refine_track", "refined_tracks", 1e-4)
    check_score(score[None], "refine_track", "score")
    corner = (coarse.floor().long() - RADIUS).clamp(0, 225)
    patches = cut_patches(pictures(), corner, 2 * RADIUS + 1).transpose(0, 1)
    check((patches * 255).round().to(torch.uint8), "refine_track", "patches_u8", 0)


@pytest.mark.parametrize("at_once", [1000, 9], ids=["whole", "pieces"])
def test_refinement_is_the_published_one_away_from_the_border(at_once):
    known = golden("refine_track")
    coarse, tracker = known["coarse_tracks"][0], recipe_tracker()
    found = refine(tracker.fine_encoder, tracker.fine, pictures(), coarse, 0, PatchConfig(), at_once)
    interior = inside(coarse)
    assert interior.sum() >= 5
    torch.testing.assert_close(found.xy[:, interior], known["refined_tracks"][0][:, interior], atol=1e-4, rtol=0)


def test_whole_tracker(maps):
    tracker, known = recipe_tracker(), golden("tracker_predictor")
    queries = known["query_points"][0]
    found = tracker.track(pictures(), maps, queries)
    check(found.coarse[None], "tracker_predictor", "coarse_tracks", 1e-3)
    check(found.visibility[None], "tracker_predictor", "vis", 5e-6)
    interior = inside(found.coarse)
    expected = known["fine_tracks"][0][:, interior]
    torch.testing.assert_close(found.refined.xy[:, interior], expected, atol=1e-3, rtol=0)
    refined, score, _ = published_refinement(pictures(), found.coarse)
    check(refined[None], "tracker_predictor", "fine_tracks", 1e-3)
    check_score(score[None], "tracker_predictor", "score")


def test_whole_tracker_from_another_frame(maps):
    """The published code swaps the query frame with the first; the order of frames is nothing to the networks."""
    tracker, known = recipe_tracker(), golden("tracker_predictor")
    found = tracker.track(pictures(), maps, known["query_points"][0], home=2)
    check(found.visibility[None], "tracker_predictor", "q2_vis", 5e-6)
    swap = [2, 1, 0, 3]
    refined, score, _ = published_refinement(pictures()[swap], found.coarse[swap])
    check(refined[swap][None], "tracker_predictor", "q2_fine_tracks", 1e-3)
    check_score(score[swap][None], "tracker_predictor", "q2_score")


def test_coarse_tracks_alone(maps):
    known = golden("tracker_predictor")
    short = recipe_tracker().coarse(maps[None], known["query_points"] / 8, iterations=2)
    check(short.xy * 8, "tracker_predictor", "nofine_tracks_2it", 1e-3)
    check(recipe_tracker().coarse.visibilities(short.features), "tracker_predictor", "nofine_vis_2it", 5e-6)
