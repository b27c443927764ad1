"""Frames that show the same part of a scene are found among those that do not, and cost grows as their number."""

import dataclasses

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.retrieval import RetrievalConfig, choose_partners, likeness, local_descriptors, make_vocabulary, pool
from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.synthetic.layouts import Layout
from vggsfm_cli.synthetic.render import render
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import procedural_textures
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds

PART = 6
CONFIG = RetrievalConfig(complete_to=4, partners=5, far=0, words=8)


@pytest.fixture(scope="module")
def model() -> VGGSfM:
    return load_model("small")


@pytest.fixture(scope="module")
def two_parts() -> ImageSet:
    """Frames of two scenes that have nothing in common, as one set."""
    textures = procedural_textures(12, 64, torch.Generator().manual_seed(0))
    config = SceneConfig(
        frames=PART, height=96, width=128, max_angle_deg=(15.0, 20.0), focal=(0.8, 1.0), rolled=0.0,
        layouts=((Layout.FACADE, 1.0),),
    )  # fmt: skip
    one, other = (render(config, textures, 1, torch.Generator().manual_seed(seed)).images for seed in (1, 2))
    both = {
        name: torch.cat([getattr(one, name), getattr(other, name)], 1)
        for name in ("pixels", "mask", "frame_valid", "stored_from_network", "stored_size")
    }
    index = torch.cat([one.priors.camera_index, other.priors.camera_index], 1)
    return dataclasses.replace(
        one,
        names=(tuple(f"{s}.png" for s in range(2 * PART)),),
        priors=dataclasses.replace(one.priors, camera_index=index),
        **both,
    )


def same_part() -> torch.Tensor:
    part = torch.arange(2 * PART) // PART
    return part == part[:, None]


def test_likeness_tells_the_parts_apart(model: VGGSfM, two_parts: ImageSet) -> None:
    with torch.no_grad():
        features = model.tracker.encode(two_parts)
    descriptors = [local_descriptors(features, s, CONFIG) for s in range(2 * PART)]
    alike = likeness(descriptors, CONFIG, torch.Generator().manual_seed(0))
    torch.testing.assert_close(alike.diagonal(), torch.ones(2 * PART))
    torch.testing.assert_close(alike, alike.T)
    other = same_part() & ~torch.eye(2 * PART, dtype=torch.bool)
    assert alike[other].median() > alike[~same_part()].max()
    partners = choose_partners(features, two_parts.frame_valid[0], CONFIG, torch.Generator().manual_seed(0))
    assert bool((partners == same_part()).all())


def test_far_frames_are_partners_too(model: VGGSfM, two_parts: ImageSet) -> None:
    with torch.no_grad():
        features = model.tracker.encode(two_parts)
    config = dataclasses.replace(CONFIG, partners=7, far=2)
    valid = two_parts.frame_valid[0].clone()
    valid[3] = False
    partners = choose_partners(features, valid, config, torch.Generator().manual_seed(0))
    assert bool((partners & ~same_part()).any(1)[valid].all())
    assert not bool(partners[3].any()) and not bool(partners[:, 3].any())
    assert bool((partners == partners.T).all())


def test_small_sets_are_tracked_in_full() -> None:
    features = fake_features(5)
    valid = torch.tensor([True, True, False, True, True])
    config = dataclasses.replace(CONFIG, complete_to=4)
    partners = choose_partners(features, valid, config, torch.Generator().manual_seed(0))
    assert bool((partners == (valid & valid[:, None])).all())


def test_a_frame_without_key_points_is_like_none() -> None:
    words = make_vocabulary([torch.eye(4)], RetrievalConfig(words=2), torch.Generator().manual_seed(0))
    assert not bool(pool(torch.zeros(0, 4), words).any())
    alike = likeness([torch.eye(4), torch.zeros(0, 4)], RetrievalConfig(words=2), torch.Generator().manual_seed(0))
    assert alike.tolist()[0][1] == alike.tolist()[1][0] == -1.0


def fake_features(frames: int) -> FeatureMaps:
    """A ring of frames, each most like its neighbours."""
    angle = 2 * torch.pi * torch.arange(frames) / frames
    across = torch.linspace(0, 0.5, 8)[None, :] + angle[:, None]
    descriptors = torch.stack([across.cos(), across.sin()], 1)[:, :, None].expand(frames, 2, 4, 8)
    score = torch.zeros(1, frames, 32, 64)
    score[:, :, 8::16, 8::16] = 0.5
    return FeatureMaps(
        descriptors=descriptors[None].clone(),
        keypoint_score=score,
        usable=torch.ones(1, frames, 4, 8, dtype=torch.bool),
    )


class CountingTracker(PointTracker):
    """Sees every query in the neighbouring frames of a ring, and counts pairs of frames."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames, self.pairs = frames, 0

    def encode(self, images: ImageSet) -> FeatureMaps:
        return fake_features(self.frames)

    def forward(self, images: ImageSet, queries: Queries, features: FeatureMaps | None = None) -> Tracks:
        numbers = torch.tensor([int(name) for name in images.names[0]])
        source = int(numbers[queries.frame[0, 0]])
        self.pairs += len(numbers) - 1
        gap = (numbers - source) % self.frames
        near = torch.minimum(gap, self.frames - gap) <= 1
        count = queries.xy.shape[1]
        # between the key points of other frames, so that all of these start tracks of their own
        xy = queries.xy[:, None] + 8.0 * (gap != 0)[None, :, None, None]
        return Tracks(
            xy=xy.expand(1, len(numbers), count, 2),
            visibility=near.float()[None, :, None].expand(1, len(numbers), count).clone(),
            covariance=torch.eye(2).expand(1, len(numbers), count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def ring_images(frames: int, like: ImageSet) -> ImageSet:
    first = like.some([0] * frames)
    return dataclasses.replace(first, names=(tuple(str(s) for s in range(frames)),))


@pytest.mark.parametrize("limited", [True, False])
def test_pairs_grow_with_the_frames(two_parts: ImageSet, limited: bool) -> None:
    counts = []
    queries = QueryConfig(points_per_frame=16, max_carried=0, enough_tracks=1000)
    config = RoundsConfig(queries=queries, max_query_frames=1000, merge_px=0.0)
    for frames in (20, 40):
        tracker = CountingTracker(frames)
        retrieval = dataclasses.replace(CONFIG, complete_to=10 if limited else 1000)

        def partners(
            features: FeatureMaps, retrieval: RetrievalConfig = retrieval, frames: int = frames
        ) -> torch.Tensor:
            return choose_partners(
                features, torch.ones(frames, dtype=torch.bool), retrieval, torch.Generator().manual_seed(0)
            )

        tracks = track_in_rounds(tracker, ring_images(frames, two_parts), config, choose_partners=partners)
        counts.append(tracker.pairs)
        seen = tracks.visible()[0]
        assert bool((seen.sum(0) >= 2).all()) and int(seen.sum(1).min()) > 0
    growth = counts[1] / counts[0]
    assert growth < 2.3 if limited else growth > 3.5
