"""The confidence in a model: high where it is well held, low where views are few or tracks do not agree."""

import dataclasses
import json
import math

import pytest
import torch
from worlds import World, WorldConfig, make_world, only_frames

from mapped import NOISE, arc, from_above, partial_of, scene_of
from support.noise import NoiseConfig
from vggsfm_cli.mapping.partial import TrackedScene
from vggsfm_cli.mapping.quality import Confidence, ConfidenceConfig, focal_deviation, judge

CONFIG = ConfidenceConfig()


def judged(world: World, scene: TrackedScene) -> Confidence:
    return judge(scene, partial_of(scene, world, max_error_px=2.0), CONFIG)


def known_focal(scene: TrackedScene) -> TrackedScene:
    known = scene.images.priors.known.clone()
    known[..., 0] = True
    images = dataclasses.replace(scene.images, priors=dataclasses.replace(scene.images.priors, known=known))
    return dataclasses.replace(scene, images=images)


def shuffled(scene: TrackedScene, share: float) -> TrackedScene:
    """The first tracks change places with each other, in each frame another way; those that come last are longest."""
    generator = torch.Generator().manual_seed(0)
    count = round(share * scene.tracks.xy.shape[2])
    xy, visibility = scene.tracks.xy.clone(), scene.tracks.visibility.clone()
    for s in range(xy.shape[1]):
        order = torch.randperm(count, generator=generator)
        xy[0, s, :count], visibility[0, s, :count] = xy[0, s, order], visibility[0, s, order]
    return dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, xy=xy, visibility=visibility))


def meeting_pair() -> World:
    """Two cameras as far from the point that both look at: they leave the focal length open."""
    return only_frames(make_world(WorldConfig(points=400, distortion=0.0, jitter=0.0), 0), [3, 4])


def test_a_good_model_is_trusted_and_not_doubted() -> None:
    world = arc()
    found = judged(world, scene_of(world))
    assert found.level == "high"
    assert found.value > 0.85
    assert 0 < found.focal_deviation < 0.005
    assert found.agreement > 0.95
    assert found.reasons == ()


@pytest.mark.parametrize("case", ["two views", "from above"])
def test_an_open_focal_length_is_doubted(case: str) -> None:
    world = meeting_pair() if case == "two views" else from_above()
    scene = scene_of(world)
    found = judged(world, scene)
    assert found.level == "low"
    assert found.agreement > 0.9
    assert len(found.reasons) == 1 and "focal length" in found.reasons[0]
    held = judged(world, known_focal(scene))  # the focal length is all that was wrong
    assert held.focal_deviation == 0.0
    assert held.level == "high"
    assert held.value == pytest.approx(held.agreement**2)


def test_two_views_alone_are_not_highly_trusted() -> None:
    world = only_frames(make_world(WorldConfig(points=400, distortion=0.0, jitter=0.3), 1), [0, 2])
    scene = scene_of(world, NoiseConfig(sigma_px=0.1, outliers=0.0, missing=0.0))
    found = judged(world, scene)
    assert found.value > CONFIG.high and found.level == "medium"
    assert found.reasons == ("two views alone do not confirm the focal length",)
    assert judged(world, known_focal(scene)).level == "high"


@pytest.mark.parametrize("how", ["shuffled", "outliers"])
def test_tracks_that_do_not_agree_are_doubted(how: str) -> None:
    world = arc()
    scene = (
        shuffled(scene_of(world), 0.85)
        if how == "shuffled"
        else scene_of(world, NoiseConfig(sigma_px=0.3, outliers=0.7, missing=0.0))
    )
    found = judged(world, scene)
    assert found.level == "low"
    assert found.agreement < 0.4
    assert found.focal_deviation < 0.02
    assert found.reasons == (
        f"only {100 * found.agreement:.0f} % of the observations in several images agree on one point",
    )


def test_more_shuffled_is_less_trusted() -> None:
    world = arc()
    scene = scene_of(world)
    values = [judged(world, shuffled(scene, share)).value for share in (0.0, 0.5, 0.85)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[1] > 0.1 < values[1] - values[2]


def test_the_value_follows_from_the_measures() -> None:
    world = arc()
    found = judged(world, shuffled(scene_of(world), 0.6))
    assert found.level == "medium"
    assert len(found.reasons) == 1
    expected = math.exp(-found.focal_deviation / CONFIG.focal_deviation) * found.agreement**2
    assert found.value == pytest.approx(expected)


def test_noise_that_is_larger_leaves_the_focal_length_more_open() -> None:
    world = arc()
    deviations = []
    for sigma in (0.3, 0.9):
        scene = scene_of(world, dataclasses.replace(NOISE, sigma_px=sigma))
        deviations.append(focal_deviation(scene, partial_of(scene, world, max_error_px=5.0), CONFIG))
    assert deviations[1] / deviations[0] == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("deviation", [0.0123, math.inf, math.nan])
def test_the_report_takes_it(deviation: float) -> None:
    confidence = Confidence(value=0.5, level="medium", focal_deviation=deviation, agreement=0.87654, reasons=("A", "B"))
    found = json.loads(json.dumps(confidence.as_dict(), allow_nan=False))
    assert found == {
        "confidence": 0.5,
        "confidence_level": "medium",
        "focal_deviation": 0.0123 if math.isfinite(deviation) else None,
        "agreement": 0.8765,
        "doubts": ["A", "B"],
    }
