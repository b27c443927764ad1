"""The tracker on photographs moved by known homographies, and the promises of every stage."""

import dataclasses

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.plan import Plan
from vggsfm_cli.scene import Queries
from vggsfm_cli.tracking import lucas_kanade
from vggsfm_cli.tracking.features import select_keypoints
from vggsfm_cli.tracking.queries import QueryConfig
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds
from vggsfm_cli.tracking.starts import StartConfig, local_affinity, nearest
from warped import homography, image_set, move, photograph, warp


@pytest.fixture(scope="module")
def tracker():
    return load_model("small").tracker


@pytest.fixture(scope="module")
def scene():
    picture = photograph()
    size = picture.shape[::-1]
    matrices = [
        homography(0, 1, (0, 0), size),
        homography(8, 1.1, (9, -6), size),
        homography(-15, 0.85, (-20, 12), size),
    ]
    matrices[0][2, :2] = 0
    return image_set([picture, warp(picture, matrices[1]), warp(picture, matrices[2])]), matrices


def queries_of(images, features, frame=0, count=200):
    xy = select_keypoints(features.keypoint_score[0, frame], count)
    return Queries(frame=torch.full((1, len(xy)), frame), xy=xy[None], valid=torch.ones(1, len(xy), dtype=torch.bool))


def test_follows_a_homography_to_a_tenth_of_a_pixel(tracker, scene):
    images, matrices = scene
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        tracks = tracker(images, queries, features)
    for s, matrix in enumerate(matrices):
        visible = tracks.visible()[0, s]
        error = (tracks.xy[0, s] - move(matrix, queries.xy[0]).float()).norm(dim=-1)[visible]
        assert visible.sum() > 0.6 * len(visible)
        assert error.median() < 0.1
        assert (error < 1).float().mean() > 0.95


def test_points_outside_the_other_picture_are_not_visible(tracker):
    picture = photograph()
    matrix = homography(0, 1, (260, 0), picture.shape[::-1])
    images = image_set([picture, warp(picture, matrix)])
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        tracks = tracker(images, queries, features)
    gone = queries.xy[0, :, 0] > picture.shape[1] - 260 + 16
    assert gone.sum() > 30
    assert tracks.visible()[0, 1, gone].float().mean() < 0.1


def test_promises_of_a_stage(tracker, scene):
    images, _ = scene
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features, count=80)
        tracks = tracker(images, queries, features)
        order = torch.randperm(queries.xy.shape[1], generator=torch.Generator().manual_seed(0))
        shuffled = dataclasses.replace(queries, xy=queries.xy[:, order])
        moved = tracker(images, shuffled, features)
    torch.testing.assert_close(moved.xy, tracks.xy[:, :, order], atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.visibility, tracks.visibility[:, :, order], atol=1e-3, rtol=0)
    assert tracks.xy.dtype == torch.float32
    for values in (tracks.xy, tracks.visibility, tracks.covariance):
        assert torch.isfinite(values).all()
    assert (torch.linalg.eigvalsh(tracks.covariance) > 0).all()
    assert ((tracks.visibility >= 0) & (tracks.visibility <= 1)).all()
    torch.testing.assert_close(tracks.xy[0, 0], queries.xy[0])


def test_scenes_do_not_touch_each_other(tracker, scene):
    images, _ = scene
    pictures = [p.mean(0).numpy() for p in images.pixels[0]]
    both = image_set([*pictures, *pictures[::-1]], scenes=2)
    with torch.no_grad():
        single_features = tracker.encode(images)
        queries = queries_of(images, single_features, count=60)
        alone = tracker(images, queries, single_features)
        double = Queries(
            frame=queries.frame.repeat(2, 1) * torch.tensor([[1], [0]]) + torch.tensor([[0], [2]]),
            xy=queries.xy.repeat(2, 1, 1),
            valid=queries.valid.repeat(2, 1),
        )
        together = tracker(both, double)
    torch.testing.assert_close(together.xy[0], alone.xy[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(together.xy[1].flip(0), alone.xy[0], atol=1e-3, rtol=0)


def test_padded_frames_and_queries_stay_invisible(tracker, scene):
    images, _ = scene
    images = dataclasses.replace(images, frame_valid=torch.tensor([[True, True, False]]))
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features, count=60)
        valid = queries.valid.clone()
        valid[:, 40:] = False
        tracks = tracker(images, dataclasses.replace(queries, valid=valid), features)
    assert not tracks.visible()[0, 2].any()
    assert not tracks.visible()[0, :, 40:].any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_cuda_agrees_with_cpu(tracker, scene):
    images, _ = scene
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        cpu = tracker(images, queries, features)
        cuda = tracker.to("cuda")(images.to("cuda"), queries.to("cuda")).to("cpu")
        tracker.to("cpu")
    both = cpu.visible() & cuda.visible()
    assert both.sum() > 0.98 * cpu.visible().sum()
    assert (cpu.xy - cuda.xy).norm(dim=-1)[both].median() < 0.01


def test_rounds_cover_all_frames_and_merge(tracker, scene):
    images, matrices = scene
    tracks = track_in_rounds(tracker, images, RoundsConfig(queries=QueryConfig(points_per_frame=300)))
    visible = tracks.visible()[0]
    assert (visible.sum(0) >= 2).all()
    assert (visible.sum(1) > 150).all()
    # no two tracks are the same point: none lie closer than the merging distance in all frames that both see
    xy = tracks.xy[0]
    both = visible[:, :, None] & visible[:, None]
    near = torch.cdist(xy, xy) < 0.3
    twins = ((near | ~both).all(0) & both.any(0)).fill_diagonal_(False)
    assert twins.sum() / 2 < 0.05 * visible.shape[1]
    for s, matrix in enumerate(matrices[1:], 1):
        seen = visible[0] & visible[s]
        error = (xy[s, seen] - move(matrix, xy[0, seen]).float()).norm(dim=-1)
        assert error.median() < 0.15
        assert (error < 1.5).float().mean() > 0.93


def test_pieces_change_nothing(tracker, scene):
    images, _ = scene
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        whole = tracker(images, queries, features)
        for pairs in (3, 64, 100_000):
            pieces = tracker.in_pieces(pairs)
            assert pieces.config.pairs_at_once == pairs
            found = pieces(images, queries, features)
            torch.testing.assert_close(found.xy, whole.xy, rtol=0, atol=1e-3)
            torch.testing.assert_close(found.visibility, whole.visibility, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.covariance, whole.covariance, rtol=1e-3, atol=1e-5)
    assert tracker.config.pairs_at_once == 2048


def test_running_out_of_memory_changes_nothing(tracker, scene, monkeypatch):
    images, _ = scene
    refine = lucas_kanade.refine

    def greedy(templates, target, xy, *rest):
        if len(xy) > 64:
            torch.empty(2**58, dtype=torch.uint8)
        return refine(templates, target, xy, *rest)

    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        whole = tracker(images, queries, features)
        monkeypatch.setattr(lucas_kanade, "refine", greedy)
        frugal = FrugalTracker(tracker, Budget(Plan(pairs_at_once=256), None, "free memory", 0))
        found = frugal(images, queries, features)
    assert frugal.budget.use().out_of_memory == 2 and frugal.budget.plan.pairs_at_once == 64
    torch.testing.assert_close(found.xy, whole.xy, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.visibility, whole.visibility, rtol=0, atol=1e-4)


def test_what_runs_side_by_side_changes_nothing(tracker, scene):
    images = scene[0]
    config = RoundsConfig(
        queries=QueryConfig(points_per_frame=100, enough_tracks=10_000), frames_at_once=2, alone_below=0
    )
    both, alone = (
        track_in_rounds(tracker, images, dataclasses.replace(config, side_by_side=count)) for count in (2, 1)
    )
    assert both.query_frame.unique().tolist() == [0, 1, 2]
    assert both.xy.shape == alone.xy.shape
    torch.testing.assert_close(both.xy, alone.xy, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(both.visibility, alone.visibility, rtol=1e-4, atol=1e-4)


def test_local_affinity_survives_wrong_neighbours():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(200, 2, generator=generator) * 400
    linear = torch.tensor([[1.2, 0.3], [-0.25, 0.9]])
    target = source @ linear.T + torch.tensor([30.0, -10.0])
    wrong = torch.rand(200, generator=generator) < 0.3
    target[wrong] = torch.rand(int(wrong.sum()), 2, generator=generator) * 400
    config = StartConfig()
    near = nearest(source, config.neighbours)
    vote = local_affinity(source, source[near], target[near], torch.ones_like(near, dtype=torch.bool), config)
    truth = source @ linear.T + torch.tensor([30.0, -10.0])
    good = vote.support > 6
    assert good.float().mean() > 0.7
    assert (vote.predicted - truth)[good].norm(dim=-1).median() < 1.0
    assert (vote.affinity[good] - linear).abs().median() < 0.05


def test_a_vote_is_unsure_of_places_that_its_points_do_not_surround():
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(1, 12, 2, generator=generator) * 40
    moved = near + torch.randn(1, 12, 2, generator=generator)
    trusted = torch.ones(1, 12, dtype=torch.bool)
    among, beside = (
        local_affinity(torch.tensor([place]), near, moved, trusted, StartConfig()).deviation
        for place in ([20.0, 20.0], [120.0, 20.0])
    )
    assert among < 3 < beside


def test_a_single_query_does_no_harm(tracker, scene):
    images, _ = scene
    queries = Queries(
        frame=torch.zeros(1, 1, dtype=torch.long),
        xy=torch.tensor([[[250.0, 200.0]]]),
        valid=torch.ones(1, 1, dtype=torch.bool),
    )
    with torch.no_grad():
        tracks = tracker(images, queries)
    assert torch.isfinite(tracks.xy).all()


def test_tracks_do_not_end_where_a_mask_forbids_it(tracker, scene):
    images, _ = scene
    with torch.no_grad():
        features = tracker.encode(images)
        queries = queries_of(images, features)
        free = tracker(images, queries, features)
        mask = images.mask.clone()
        mask[0, 1, :, : mask.shape[-1] // 2] = False
        masked = dataclasses.replace(images, mask=mask)
        # with the features of the whole picture: it is the end that counts, not only where descriptors are
        held = tracker(masked, queries, features)
    left = free.xy[0, 1, :, 0] < images.stored_size[0, 1, 0] / 2
    assert (free.visible()[0, 1] & left).sum() > 20
    assert not (held.visible()[0, 1] & left).any()
    assert torch.equal(held.visible()[0, 1] & ~left, free.visible()[0, 1] & ~left)
    assert torch.equal(held.visibility[0, [0, 2]], free.visibility[0, [0, 2]])
