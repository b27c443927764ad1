"""VGGSfM v2 on CUDA: the golden values in float32, and half precision beside it.

Tolerances are ten times those on the CPU: other kernels add in another order. TensorFloat-32 is off.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from goldens import golden
from v2_golden import check, pictures, recipe_backbone, recipe_tracker
from vggsfm_cli.recipes.v2.correlation import make_pyramid
from vggsfm_cli.recipes.v2.patches import PatchConfig, refine
from vggsfm_cli.recipes.v2.tracker import FrameTracks, V2Tracker

DEVICE = "cuda"
RADIUS = 15

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No gradients, and products in full float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def tracker() -> Iterator[V2Tracker]:
    """There for the test, then back: it serves all tests."""
    yield recipe_tracker().to(DEVICE)
    recipe_tracker().cpu()


def inside(coarse: Tensor) -> Tensor:
    """Tracks [N] whose patches lie within the pictures in all frames."""
    corner = coarse.floor() - RADIUS
    return ((corner >= 0) & (corner + 2 * RADIUS < 256)).all(-1).all(0)


def follow(tracker: V2Tracker, home: int = 0) -> FrameTracks:
    pixels = pictures().to(DEVICE)
    queries = golden("tracker_predictor")["query_points"][0].to(DEVICE)
    return tracker.track(pixels, tracker.coarse_encoder(pixels), queries, home)


def test_encoders(tracker: V2Tracker) -> None:
    maps = tracker.coarse_encoder(pictures().to(DEVICE))
    check(maps[None].cpu(), "coarse_fnet", "fmaps", 1e-3)
    check(tracker.fine_encoder(golden("fine_fnet")["patches"].to(DEVICE)).cpu(), "fine_fnet", "feat", 2e-4)


def test_correlation() -> None:
    known = {name: value.to(DEVICE) for name, value in golden("correlation").items()}
    pyramid = make_pyramid(known["nonsq_fmaps"][0], 3, 3, 3)
    found = pyramid.windows(known["nonsq_feats"][0], known["nonsq_coords"][0])
    check(found[None].cpu(), "correlation", "nonsq_out_L3_r3", 1e-3)


@pytest.mark.parametrize("at_once", [4096, 7], ids=["whole", "pieces"])
def test_update_transformers(tracker: V2Tracker, at_once: int) -> None:
    known = golden("updateformer")
    for part, name in ((tracker.coarse, "coarse"), (tracker.fine, "fine")):
        tokens = known[f"{name}_in"].to(DEVICE).transpose(1, 2)
        found = part.transformer(part.transformer.input_transform(tokens), at_once)
        check(found.transpose(1, 2).cpu(), "updateformer", f"{name}_out", 1e-4)


def test_refinement(tracker: V2Tracker) -> None:
    known = golden("refine_track")
    coarse = known["coarse_tracks"][0]
    found = refine(tracker.fine_encoder, tracker.fine, pictures().to(DEVICE), coarse.to(DEVICE), 0, PatchConfig(), 1000)
    interior = inside(coarse)
    torch.testing.assert_close(
        found.xy[:, interior.to(DEVICE)].cpu(), known["refined_tracks"][0][:, interior], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("home", "prefix"), [(0, ""), (2, "q2_")])
def test_whole_tracker(tracker: V2Tracker, home: int, prefix: str) -> None:
    found = follow(tracker, home)
    if home == 0:
        check(found.coarse[None].cpu(), "tracker_predictor", "coarse_tracks", 1e-2)
    check(found.visibility[None].cpu(), "tracker_predictor", f"{prefix}vis", 5e-5)
    interior = inside(found.coarse.cpu())
    expected = golden("tracker_predictor")[f"{prefix}fine_tracks"][0][:, interior]
    torch.testing.assert_close(found.refined.xy.cpu()[:, interior], expected, atol=1e-2, rtol=0)


def test_dinov2() -> None:
    backbone = recipe_backbone().to(DEVICE)
    features = backbone(golden("dinov2")["small_in"].to(DEVICE))
    recipe_backbone().cpu()
    check(features.class_token.cpu(), "dinov2", "small_x_norm_clstoken", 2.5e-4)
    check(features.patches.cpu(), "dinov2", "small_x_norm_patchtokens", 2.5e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_tracks_by_less_than_a_tenth_of_a_pixel(tracker: V2Tracker, dtype: torch.dtype) -> None:
    expected = follow(tracker)
    pixels = pictures().to(DEVICE)
    maps = tracker.coarse_encoder(pixels)
    with torch.autocast(DEVICE, dtype=dtype):
        found = tracker.track(pixels, maps, golden("tracker_predictor")["query_points"][0].to(DEVICE))
    assert found.refined.xy.dtype == torch.float32
    assert (found.refined.xy - expected.refined.xy).norm(dim=-1)[1:].median() < 0.1
