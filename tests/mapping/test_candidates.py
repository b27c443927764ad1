"""Candidates: where they come from, how they are compared, when the search ends."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from worlds import World

from mapped import arc, bent, partial_of, pose_error_deg, scene_of, with_known_lens
from vggsfm_cli.camera_estimation.interface import CameraEstimator, GivenCameras
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.view_graph import ViewGraph, ViewGraphConfig, build_view_graph
from vggsfm_cli.mapping.candidates import Candidate, CandidateConfig, CandidateSearch, growth_tracks, score
from vggsfm_cli.mapping.growth import GrowthConfig
from vggsfm_cli.mapping.partial import TrackedScene
from vggsfm_cli.mapping.rounds import ScheduleConfig
from vggsfm_cli.scene import Cameras, ImageSet, Progress, Tracks

FRAMES = list(range(8))


@pytest.fixture(scope="module")
def world() -> World:
    return arc()


@pytest.fixture(scope="module")
def scene(world: World) -> TrackedScene:
    """The focal length is known, which leaves one setting for the sweep over it."""
    scene = scene_of(world)
    return dataclasses.replace(scene, images=with_known_lens(scene.images, world))


@pytest.fixture(scope="module")
def graph(scene: TrackedScene) -> ViewGraph:
    return build_view_graph(scene.images, scene.tracks, ViewGraphConfig())


class Recorder(CameraEstimator):
    """Gives the true cameras and keeps what it was given."""

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        self.cameras = cameras
        self.graphs: list[Sequence[ViewGraph] | None] = []

    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        self.graphs.append(graphs)
        return self.cameras


def search(
    scene: TrackedScene,
    graph: ViewGraph,
    estimator: CameraEstimator | None = None,
    config: CandidateConfig | None = None,
    grown: list[str] | None = None,
    frames: list[int] = FRAMES,
) -> Candidate | None:
    config = config or CandidateConfig()

    def note(progress: Progress) -> None:
        if grown is not None:
            grown.append(progress.detail)

    return CandidateSearch(
        sparse=growth_tracks(scene, config, 0),
        tracks=scene.tracks,
        graph=graph,
        preliminary=PreliminaryCamerasConfig().build(),
        estimator=estimator,
        config=config,
        growth=GrowthConfig(),
        schedule=ScheduleConfig(),
        progress=note,
    ).best(frames)


def test_the_first_that_explains_enough_ends_the_search(scene: TrackedScene, graph: ViewGraph, world: World) -> None:
    grown: list[str] = []
    best = search(scene, graph, grown=grown)
    assert best is not None and grown == [best.origin]
    assert best.origin.startswith("frames ") and best.failed == {}
    assert best.partial.frames == FRAMES
    assert pose_error_deg(best.partial.cameras, world) < 0.5


def test_without_agreement_so_many_are_grown_and_the_best_is_taken(scene: TrackedScene, graph: ViewGraph) -> None:
    never = CandidateConfig(good_enough=2.0, agreement=0.0, max_candidates=3)
    grown: list[str] = []
    best = search(scene, graph, config=never, grown=grown)
    assert best is not None and len(grown) == 3 and best.origin in grown
    two = CandidateConfig(good_enough=2.0, agreement=1.0, max_candidates=3)
    grown.clear()
    assert search(scene, graph, config=two, grown=grown) is not None
    assert len(grown) == 2  # they agree


def test_the_estimator_is_given_the_graph_that_is_there(scene: TrackedScene, graph: ViewGraph, world: World) -> None:
    estimator = Recorder(world.cameras)
    best = search(scene, graph, estimator, CandidateConfig(origins="estimator"))
    assert best is not None and best.origin == "camera estimator"
    assert len(estimator.graphs) == 1
    given = estimator.graphs[0]
    assert given is not None and len(given) == 1 and given[0] is graph
    search(scene, graph, estimator, CandidateConfig(origins="pairs"))
    assert len(estimator.graphs) == 1


def test_a_wrong_estimator_loses(scene: TrackedScene, graph: ViewGraph, world: World) -> None:
    wrong = GivenCameras(bent(world, 0.3))
    grown: list[str] = []
    everything = CandidateConfig(good_enough=2.0, agreement=0.0, max_candidates=2)
    best = search(scene, graph, wrong, everything, grown)
    assert best is not None and best.origin.startswith("frames ")
    assert set(grown) <= {best.origin, "camera estimator"}


def test_frames_that_are_not_asked_for_stay_out(scene: TrackedScene, graph: ViewGraph, world: World) -> None:
    for estimator, origins in ((None, "pairs"), (GivenCameras(world.cameras), "estimator")):
        best = search(scene, graph, estimator, CandidateConfig(origins=origins), frames=[1, 2, 3])
        assert best is not None and best.partial.frames == [1, 2, 3]
    assert search(scene, graph, frames=[1]) is None


def test_the_truth_scores_more_than_what_is_near_it(scene: TrackedScene, world: World) -> None:
    truth = partial_of(scene, world)
    near = partial_of(scene, dataclasses.replace(world, cameras=bent(world, 0.002)))
    assert 0 < score(scene, near, 2.0) < 0.9 * score(scene, truth, 2.0)
    nobody = dataclasses.replace(world.cameras, registered=torch.zeros_like(world.cameras.registered))
    assert score(scene, dataclasses.replace(truth, cameras=nobody), 2.0) == 0.0
    # twice the pixels a network pixel, twice the threshold: the same error explains more
    double = dataclasses.replace(scene, scale=2 * scene.scale)
    assert score(double, truth, 2.0) == pytest.approx(score(scene, truth, 4.0))


def test_growth_tracks_are_long_and_fill_every_cell_that_can_be_filled(scene: TrackedScene) -> None:
    config = CandidateConfig(growth_cells=4, growth_per_cell=2)
    sparse = growth_tracks(scene, config, 0)
    assert sparse.tracks.xy.shape[2] < 0.7 * scene.tracks.xy.shape[2]
    assert int(sparse.seen.sum(0).min()) >= 2

    def filled(of: TrackedScene) -> torch.Tensor:
        shared = of.seen & (of.seen.sum(0) >= 2)
        column_row = (of.tracks.xy[0] / of.images.stored_size[0, :, None] * 4).floor().clamp(0, 3).long()
        cell = column_row[..., 1] * 4 + column_row[..., 0]
        return torch.stack([torch.bincount(cell[s, shared[s]], minlength=16) for s in FRAMES])

    assert torch.equal(filled(sparse).clamp(max=2), filled(scene).clamp(max=2))
    length = scene.seen.sum(0).double()
    assert sparse.seen.sum(0).double().mean() > length[length > 1].mean()
    assert torch.equal(growth_tracks(scene, config, 0).tracks.xy, sparse.tracks.xy)
    assert not torch.equal(growth_tracks(scene, config, 1).tracks.query_frame, sparse.tracks.query_frame)
