"""What the networks and tracks of v2 take; the factors were measured on the CPU."""

from vggsfm_cli.memory.plan import Plan, Size
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.recipes.v2.cameras import V2CameraPredictorConfig
from vggsfm_cli.recipes.v2.patches import PAIRS_PER_PATCH
from vggsfm_cli.recipes.v2.tracker import V2TrackerConfig


def memory_parts(size: Size, config: VGGSfMConfig, plan: Plan) -> dict[str, int | float]:
    """Bytes at the peak, less the weights."""
    tracker, predictor = config.tracker, config.camera_estimator
    assert isinstance(tracker, V2TrackerConfig)
    pairs = size.frames * size.queries
    looking = 0.0
    if isinstance(predictor, V2CameraPredictorConfig):
        token = 4 * predictor.backbone.width
        tokens = (predictor.side_px / predictor.backbone.patch) ** 2
        together = plan.threads if size.in_process else min(8, size.frames)
        looking = token * tokens * (14 * size.frames + 16 * together)
    encoding = 350 * size.pixels * plan.threads
    following = (
        pairs * 4 * 8 * tracker.coarse.transformer.width
        + 440_000 * min(max(plan.pairs_at_once // PAIRS_PER_PATCH, size.frames) * plan.threads, pairs)  # patches
        + 40_000 * min(max(plan.pairs_at_once, size.frames) * plan.threads, pairs)
        + plan.threads * min(100_000 * plan.pairs_at_once, 80_000_000)  # cells read at once for the correlation
    )
    return {
        "pictures": size.frames * 2 * 13 * size.pixels,
        "features": size.frames * size.pixels / 64 * tracker.coarse.channels * 4 * 2.4,
        "tracks": 56 * size.query_frames * pairs,
        # one after the other; but a process keeps what threads have freed, each for itself
        "networks": max(looking, encoding) + following if size.in_process else max(looking, encoding, following),
    }
