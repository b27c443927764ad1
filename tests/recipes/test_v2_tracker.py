"""The v2 tracker behind the contract of stage 1: frames of pixels, masks, padding, order, memory, precision.

Its networks are compared with the published ones in ``test_v2_networks.py``; here small ones with random weights serve
where the numbers themselves do not matter.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

import v2_naive
from goldens import golden
from v2_golden import pictures, recipe_tracker
from v2_scenes import image_set
from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.plan import Plan
from vggsfm_cli.recipes.v2 import patches
from vggsfm_cli.recipes.v2.iterative import FINE, IterativeTrackerConfig
from vggsfm_cli.recipes.v2.patches import refine
from vggsfm_cli.recipes.v2.tracker import V2Tracker, V2TrackerConfig
from vggsfm_cli.recipes.v2.transformer import UpdateTransformerConfig
from vggsfm_cli.scene import ImageSet, Queries, Tracks

COARSE = UpdateTransformerConfig(width=32, heads=2, blocks=2, virtual_tracks=8)
SMALL = V2TrackerConfig(
    coarse=IterativeTrackerConfig(iterations=3, transformer=COARSE),
    fine=dataclasses.replace(
        FINE,
        iterations=2,
        transformer=UpdateTransformerConfig(tokens_in=216, width=16, heads=2, blocks=1, virtual_tracks=0),
    ),
)


def small_tracker(**changes: object) -> V2Tracker:
    """Random weights that move points by some pixels; the virtual tracks tell the tracks apart.

    Motion enters as sines of a thousand times itself: with weights as large as the others' it would amplify rounding.
    """
    torch.manual_seed(0)
    tracker = dataclasses.replace(SMALL, **changes).build().eval()
    with torch.no_grad():
        torch.nn.init.normal_(tracker.coarse.transformer.virtual_tracks)
        for part in (tracker.coarse, tracker.fine):
            part.transformer.input_transform.weight[:, : part.config.channels] *= 0.05
    return tracker


def network(tracks: Tracks) -> Tensor:
    return (tracks.xy - torch.tensor([3.0, 5.0])) / 2


@pytest.fixture(scope="module")
def images():
    """Two scenes of three frames, wider than high."""
    return image_set(torch.rand(2, 3, 3, 144, 192, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def queries():
    generator = torch.Generator().manual_seed(2)
    return Queries(
        frame=torch.tensor([0, 0, 1, 0, 2, 1, 0, 0]).repeat(2, 1),
        xy=4 + torch.rand(2, 8, 2, generator=generator) * torch.tensor([184.0, 136.0]),
        valid=torch.ones(2, 8, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def tracks(images, queries):
    with torch.no_grad():
        return small_tracker()(images, queries)


def same(found: Tracks, expected: Tracks, atol: float = 1e-3) -> None:
    for name in ("xy", "visibility", "covariance"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=atol, rtol=0)


@torch.no_grad()
def test_pixels_are_converted_at_the_door():
    """The golden tracks, in stored pixels with a corner origin."""
    known = golden("tracker_predictor")
    xy = known["query_points"] + 0.5
    queries = Queries(frame=torch.zeros(xy.shape[:2], dtype=torch.long), xy=xy, valid=torch.ones_like(xy[..., 0]) > 0)
    found = recipe_tracker()(image_set(pictures()[None]), queries)
    expected = known["fine_tracks"] + 0.5
    inside = ((expected > 18) & (expected < 238)).all(-1).all(1)[0]
    assert inside.sum() >= 5
    torch.testing.assert_close(network(found)[:, :, inside], expected[:, :, inside], atol=2e-3, rtol=0)
    torch.testing.assert_close(found.xy[:, 0], 2 * xy + torch.tensor([3.0, 5.0]))


def test_promises_of_a_stage(tracks, queries):
    assert (network(tracks) - queries.xy[:, None]).norm(dim=-1).max() > 0.5  # these weights do move points
    for values in (tracks.xy, tracks.visibility, tracks.covariance):
        assert torch.isfinite(values).all() and values.dtype == torch.float32
    assert (torch.linalg.eigvalsh(tracks.covariance) > 0).all()
    assert ((tracks.visibility >= 0) & (tracks.visibility <= 1)).all()
    home = queries.frame[:, None, :, None]
    at_home = network(tracks).gather(1, home.expand(-1, 1, -1, 2))[:, 0]
    torch.testing.assert_close(at_home, queries.xy, atol=1e-4, rtol=0)
    assert (tracks.visibility.gather(1, home[..., 0]) == 1).all()
    assert torch.equal(tracks.query_frame, queries.frame)


@torch.no_grad()
def test_order_of_queries_and_frames_does_not_matter(images, queries, tracks):
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    moved = small_tracker()(images, queries._map(lambda tensor: tensor[:, order]))
    for name in ("xy", "visibility", "covariance"):
        torch.testing.assert_close(getattr(moved, name), getattr(tracks, name)[:, :, order], atol=1e-3, rtol=0)
    turned = dataclasses.replace(images, pixels=images.pixels.flip(1))
    moved = small_tracker()(turned, dataclasses.replace(queries, frame=2 - queries.frame))
    for name in ("xy", "visibility", "covariance"):
        torch.testing.assert_close(getattr(moved, name), getattr(tracks, name).flip(1), atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_fast_tracker_is_the_naive_one(images, queries):
    tracker = small_tracker(pairs_at_once=20)
    pixels = images.pixels[0]
    maps = tracker.encode(images).maps[0]
    expected = v2_naive.track(tracker, pixels, maps, queries.xy[0])
    found = tracker.track(pixels, maps, queries.xy[0])
    torch.testing.assert_close(found.coarse, expected["coarse"], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.visibility, expected["visibility"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.refined.xy, expected["refined"], atol=1e-3, rtol=0)


@torch.no_grad()
def test_scenes_do_not_touch_each_other(images, queries, tracks):
    same(small_tracker()(images.scene(1), queries.scene(1)), tracks.scene(1))


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 10, 100_000])
def test_pieces_change_nothing(at_once, images, queries, tracks):
    same(small_tracker(pairs_at_once=at_once)(images, queries), tracks)


@torch.no_grad()
def test_running_out_of_memory_changes_nothing(images, monkeypatch):
    cut = patches.cut_patches

    def greedy(pixels, corner, side):
        if corner.shape[1] > 10:
            torch.empty(2**58, dtype=torch.uint8)
        return cut(pixels, corner, side)

    images, count = images.scene(0), 24
    xy = 4 + torch.rand(1, count, 2, generator=torch.Generator().manual_seed(5)) * torch.tensor([184.0, 136.0])
    queries = Queries(
        frame=torch.zeros(1, count, dtype=torch.long), xy=xy, valid=torch.ones(1, count, dtype=torch.bool)
    )
    whole = small_tracker()(images, queries)
    monkeypatch.setattr(patches, "cut_patches", greedy)
    frugal = FrugalTracker(small_tracker(), Budget(Plan(pairs_at_once=512), None, "free memory", 0))
    same(frugal(images, queries), whole)
    assert frugal.budget.use().out_of_memory == 2 and frugal.budget.plan.pairs_at_once == 128


@torch.no_grad()
def test_frames_and_queries_that_are_not_valid_are_seen_by_nobody(images, queries):
    valid = queries.valid.clone()
    valid[:, 3:5] = False
    frame_valid = images.frame_valid.clone()
    frame_valid[:, 1] = False
    padded = dataclasses.replace(images, frame_valid=frame_valid)
    found = small_tracker()(padded, dataclasses.replace(queries, valid=valid))
    garbage = dataclasses.replace(padded, pixels=images.pixels.clone())
    garbage.pixels[:, 1] = 7
    far = queries.xy.clone()
    far[:, 3:5] = -1e6
    moved = small_tracker()(garbage, dataclasses.replace(queries, xy=far, valid=valid))
    kept = torch.tensor([0, 1, 6, 7])  # valid and from a valid frame
    for name in ("xy", "visibility", "covariance"):
        here, there = (getattr(one, name)[:, [0, 2]][:, :, kept] for one in (found, moved))
        torch.testing.assert_close(here, there, atol=1e-3, rtol=0)
    assert not found.visibility[:, 1].any() and not found.visibility[:, :, 2:6].any()
    assert torch.isfinite(found.xy).all()


@torch.no_grad()
def test_nothing_is_seen_on_masked_pixels_or_beside_them(images, queries, tracks):
    xy = network(tracks)[0, 2, 0]
    mask = images.mask.clone()
    column = int(xy[0]) + 3
    mask[0, 2, :, column : column + 1] = False
    found = small_tracker()(dataclasses.replace(images, mask=mask), queries)
    near = (network(tracks)[0, 2, :, 0] - (column + 0.5)).abs() < 4
    outside = ~((network(tracks)[0, 2] > 0) & (network(tracks)[0, 2] < torch.tensor([192.0, 144.0]))).all(-1)
    elsewhere = ~near & (queries.frame[0] != 2)
    assert near[0] and found.visibility[0, 2, near & (queries.frame[0] != 2)].max() == 0
    assert torch.equal(found.visibility[0, 2, elsewhere], tracks.visibility[0, 2, elsewhere])
    assert (found.visibility[0, 2, outside & (queries.frame[0] != 2)] == 0).all()
    assert (found.visibility[0, 2, queries.frame[0] == 2] == 1).all()


def test_no_queries_give_no_tracks(images, queries):
    none = queries._map(lambda tensor: tensor[:, :0])
    assert small_tracker()(images, none).xy.shape == (2, 3, 0, 2)


@torch.no_grad()
def test_coarse_tracks_alone(images, queries):
    found = small_tracker(refine=False)(images, queries)
    assert (torch.linalg.eigvalsh(found.covariance)[:, 1:] > 0).all()
    assert (found.xy - small_tracker()(images, queries).xy).abs().max() > 1e-3


def test_gradients_reach_pixels_and_weights(images, queries):
    tracker = small_tracker()
    pixels = images.pixels.clone().requires_grad_()
    found = tracker(dataclasses.replace(images, pixels=pixels), queries)
    (found.xy.sum() + found.visibility.sum() + found.covariance.sum()).backward()
    assert torch.isfinite(pixels.grad).all() and pixels.grad.abs().max() > 0
    for name, weight in tracker.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_tracks_by_less_than_a_tenth_of_a_pixel(dtype, images, queries, tracks):
    tracker = small_tracker()
    prepared = tracker.in_precision(dtype)
    assert prepared.coarse.transformer.time_blocks[0].mlp.fc1.weight.dtype == dtype
    assert prepared.coarse.transformer.flow_head.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=dtype):
        found = tracker(images, queries)
        same(prepared(images, queries), found, atol=0)
    assert tracker.in_precision(torch.float32) is tracker
    assert torch.equal(tracker.encode(images).maps, _encode_under_autocast(tracker, images, dtype))
    assert found.xy.dtype == found.visibility.dtype == torch.float32
    assert (network(found) - network(tracks)).norm(dim=-1).median() < 0.1
    assert (found.visibility - tracks.visibility).abs().median() < 0.02


def _encode_under_autocast(tracker: V2Tracker, images: ImageSet, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype=dtype):
        return tracker.encode(images).maps


def test_patches_at_the_border_keep_their_place():
    """A picture and the same picture with its edge repeated around it give the same refinement."""
    tracker = small_tracker()
    pixels = torch.rand(3, 3, 60, 50, generator=torch.Generator().manual_seed(4))
    wide = torch.nn.functional.pad(pixels, (20, 20, 20, 20), mode="replicate")
    xy = torch.tensor([[2.3, 4.1], [48.9, 58.2], [25.0, 30.5]]).expand(3, 3, 2) + torch.arange(3.0)[:, None, None]
    settings = (0, tracker.config.patches, 1000)
    with torch.no_grad():
        here = refine(tracker.fine_encoder, tracker.fine, pixels, xy, *settings)
        there = refine(tracker.fine_encoder, tracker.fine, wide, xy + 20, *settings)
    torch.testing.assert_close(there.xy - 20, here.xy, atol=1e-3, rtol=0)
    torch.testing.assert_close(there.spread, here.spread, atol=1e-4, rtol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@torch.no_grad()
def test_cuda_agrees_with_cpu(images, queries, tracks):
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = small_tracker().to("cuda")(images.to("cuda"), queries.to("cuda"))
    same(found.to("cpu"), tracks, atol=1e-2)
