"""Rendered scenes, measured with trackers that know the truth and err in known ways."""

import dataclasses
import math

import pytest
import torch

from vggsfm_cli.evaluation.rendered import RenderedConfig, evaluate_rendered, render_held_out
from vggsfm_cli.evaluation.tracks import TracksConfig, evaluate_trackers
from vggsfm_cli.synthetic.render import true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import procedural_textures
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker

WIDTH, HEIGHT = 128, 64
SIGMA_PX = 0.5
CONFIG = RenderedConfig(
    scene=SceneConfig(frames=4, width=WIDTH, height=HEIGHT, max_angle_deg=(20.0, 40.0)),
    scenes=3,
    query_frames=2,
    queries=300,
)


class KnowingTracker(PointTracker):
    """Gives the truth of whichever of ``rendered`` it is shown, moved by ``offset`` and by noise."""

    def __init__(self, rendered, offset=(0.0, 0.0), noise_px=0.0, always_visible=False):
        super().__init__()
        self.rendered, self.offset = rendered, torch.tensor(offset)
        self.noise_px, self.always_visible = noise_px, always_visible

    def encode(self, images):
        score = torch.zeros(1, images.pixels.shape[1], HEIGHT, WIDTH)
        score[..., 2:-2:5, 2:-2:5] = 0.5
        cells = (1, images.pixels.shape[1], 8, HEIGHT // 8, WIDTH // 8)
        return FeatureMaps(
            descriptors=torch.ones(cells) / math.sqrt(8),
            keypoint_score=score,
            usable=torch.ones(1, cells[1], *cells[3:], dtype=torch.bool),
        )

    def forward(self, images, queries, features=None):
        scene = next(scene for scene in self.rendered if torch.equal(scene.images.pixels, images.pixels))
        truth = true_tracks(scene, queries)
        noise = torch.randn(truth.xy.shape, generator=torch.Generator().manual_seed(0)) * self.noise_px
        return dataclasses.replace(
            truth,
            xy=truth.xy + self.offset + noise,
            visibility=torch.ones_like(truth.visibility) if self.always_visible else truth.visibility,
            covariance=(SIGMA_PX**2 * torch.eye(2)).expand_as(truth.covariance),
            valid=torch.ones_like(truth.valid),
        )


@pytest.fixture(scope="module")
def textures():
    return procedural_textures(4, 32, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def rendered(textures):
    return render_held_out(CONFIG, textures)


def evaluate(tracker, rendered, kinds=("tracks",)):
    return evaluate_rendered(tracker, dataclasses.replace(CONFIG, kinds=kinds), rendered)


def test_the_truth_has_full_marks(rendered):
    figures = evaluate(KnowingTracker(rendered), rendered)
    for name in ("delta_average", "average_jaccard", "occlusion_accuracy", "precision", "recall", "inside_50"):
        assert figures[name] == 100, name
    assert figures["median_px"] == 0 and figures["scenes"] == 3 and figures["positions"] > 500
    for group in figures["distances"]["tracks"].values():
        assert group["within_1px"] == 100 and group["per_pair"] > 0


def test_an_offset_shows_in_each_scale(rendered):
    """4 px along x of 128 are 8 of 256 and 32 of 1024; along y of 64 they are 16 of 256."""
    along_x = evaluate(KnowingTracker(rendered, (4.0, 0.0)), rendered)
    assert along_x["median_px"] == pytest.approx(4, abs=1e-3)
    assert along_x["median_px_at_1024"] == pytest.approx(32, abs=1e-2)
    assert along_x["points_within"][:3] == [0, 0, 0] and along_x["points_within"][4] == 100
    assert along_x["occlusion_accuracy"] == 100 and along_x["precision"] == 0
    along_y = evaluate(KnowingTracker(rendered, (0.0, 3.0)), rendered)
    assert along_y["points_within"] == [0, 0, 0, 0, 100]  # 12 px of 256
    assert along_x["distances"]["tracks"]["10"]["within_5px"] == 100
    assert along_x["distances"]["tracks"]["10"]["within_1px"] == 0


def test_claiming_everything_costs_precision_but_not_recall(rendered):
    figures = evaluate(KnowingTracker(rendered, always_visible=True), rendered)
    assert figures["recall"] == 100 and 20 < figures["precision"] < 100
    assert figures["occlusion_accuracy"] == pytest.approx(figures["precision"], abs=10)
    assert figures["average_jaccard"] < 100 and figures["delta_average"] == 100
    assert any(group["within_5px"] < 100 for group in figures["distances"]["tracks"].values())


def test_true_covariances_are_calibrated_and_wrong_ones_are_not(rendered):
    figures = evaluate(KnowingTracker(rendered, noise_px=SIGMA_PX), rendered)
    assert figures["inside_50"] == pytest.approx(50, abs=3) and figures["inside_90"] == pytest.approx(90, abs=3)
    figures = evaluate(KnowingTracker(rendered, noise_px=2 * SIGMA_PX), rendered)
    assert figures["inside_50"] < 25


def test_scenes_depend_on_the_seed_alone(rendered, textures):
    again = render_held_out(dataclasses.replace(CONFIG, scenes=1), textures)
    assert torch.equal(again[0].images.pixels, rendered[0].images.pixels)
    other = render_held_out(dataclasses.replace(CONFIG, scenes=1, seed=1), textures)
    assert not torch.equal(other[0].images.pixels, rendered[0].images.pixels)


class FailingTracker(KnowingTracker):
    def forward(self, images, queries, features=None):
        raise RuntimeError("lost")


def test_trackers_stand_beside_each_other_and_failures_are_listed(rendered, textures, tmp_path):
    trackers = {"good": KnowingTracker(rendered), "bad": FailingTracker(rendered)}
    stages = []
    result = evaluate_trackers(
        trackers,
        TracksConfig(rendered=CONFIG),
        textures=textures,
        scenes=[tmp_path / "nothing"],
        progress=lambda event: stages.append(event.stage),
    )
    assert result["models"]["good"]["rendered"]["average_jaccard"] == 100
    assert result["models"]["bad"]["rendered"] is None
    assert [(f["scene"], f["model"]) for f in result["failures"]] == [("rendered", "bad"), ("nothing", "")]
    assert "RuntimeError: lost" in result["failures"][0]["error"]
    assert {"rendering", "good: rendered", "bad: rendered"} <= set(stages)
    assert result["settings"]["rendered"]["scenes"] == 3
