"""The whole way from tracks to models: one graph, one seed, what is refused and what is said of what stays out."""

import dataclasses
import re

import pytest
import torch
from worlds import WorldConfig, blank_images, make_world, observe

from mapped import arc, moved_sideways, partial_of, pose_error_deg, scene_of, with_known_lens
from support.noise import NoiseConfig, add_noise
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.camera_estimation import preliminary, view_graph
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformerConfig
from vggsfm_cli.colmap import estimators
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.mapping import mapper
from vggsfm_cli.mapping.candidates import CandidateConfig
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.mapping.quality import ParallaxConfig, parallax_px
from vggsfm_cli.scene import Cameras, ImageSet, Reconstruction, Tracks
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig

NOISE = NoiseConfig(sigma_px=0.3, outliers=0.02, missing=0.0)


def run(
    images: ImageSet,
    tracks: Tracks,
    estimator: CameraEstimator | None = None,
    options: MappingOptions | None = None,
    seed: int = 0,
) -> list[Reconstruction]:
    return reconstruct_from_tracks(
        images,
        tracks,
        camera_estimator=estimator,
        triangulator=RansacTriangulatorConfig().build(),
        adjuster=SchurConfig().build(),
        options=options,
        seed=seed,
    )


def noisy() -> tuple[ImageSet, Tracks]:
    """Tracks of eight frames whose lens is known, which leaves one setting for the sweep over the focal length."""
    world = make_world(WorldConfig(points=400, distortion=0.0), 0)
    return with_known_lens(blank_images(world), world), add_noise(observe(world), world.sizes, NOISE, 0)


def hidden(tracks: Tracks, frame: int) -> Tracks:
    visibility = tracks.visibility.clone()
    visibility[0, frame] = 0.0
    return dataclasses.replace(tracks, visibility=visibility)


@pytest.mark.parametrize("config", [PreliminaryCamerasConfig(), CameraTransformerConfig(width=8, heads=2, rounds=1)])
def test_the_graph_is_built_once_with_the_seed_of_the_run(
    config: PreliminaryCamerasConfig | CameraTransformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, seeds = [], set()

    def counted(images: ImageSet, tracks: Tracks, settings: view_graph.ViewGraphConfig) -> view_graph.ViewGraph:
        built.append(settings)
        return view_graph.build_view_graph(images, tracks, settings)

    def seeded(name: str) -> None:
        inner = getattr(estimators, name)

        def call(*given, **named):
            ransac = [value for value in (*given, *named.values()) if isinstance(value, estimators.RansacConfig)]
            seeds.update(one.seed for one in ransac)
            return inner(*given, **named)

        monkeypatch.setattr(estimators, name, call)

    for module in (mapper, preliminary):
        monkeypatch.setattr(module, "build_view_graph", counted)
    names = ("fundamental", "homography", "relative_pose", "absolute_pose")
    for name in (*(f"estimate_{kind}" for kind in names), "average_poses"):
        seeded(name)
    images, tracks = noisy()
    options = MappingOptions(candidates=CandidateConfig(good_enough=2.0, agreement=0.0, max_candidates=2))
    models = run(images, tracks, config.build(), options, seed=7)
    assert len(models[0].names) == 8
    assert [settings.ransac.seed for settings in built] == [7]
    assert seeds == {7}


def test_equal_seeds_give_equal_models_and_other_seeds_equal_worlds() -> None:
    (images, tracks), world = noisy(), make_world(WorldConfig(points=400, distortion=0.0), 0)
    one, same, other = (run(images, tracks, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(one.cameras.cam_from_world, same.cameras.cam_from_world)
    assert torch.equal(one.xyz_world, same.xyz_world)
    for found in (one, other):
        assert pose_error_deg(found.cameras, world) < 0.2


def test_frames_that_stay_out_are_named_with_reasons() -> None:
    images, tracks = noisy()
    tracks = hidden(tracks, 5)
    xy = tracks.xy.clone()
    seen = tracks.visible()[0, 2].nonzero().flatten()
    xy[0, 2, seen] = xy[0, 2, seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]]
    (found,) = run(images, dataclasses.replace(tracks, xy=xy))
    assert found.names == tuple(f"{s:03d}.jpg" for s in (0, 1, 3, 4, 6, 7))
    unregistered = found.report["unregistered"]
    assert unregistered["005.jpg"] == "no other image shares enough of its 0 tracks"
    assert set(unregistered) == {"002.jpg", "005.jpg"}
    assert found.report["registered"] == 6
    assert found.report["points"] == len(found.xyz_world)
    assert found.report["observations"] == len(found.xy)
    assert found.report["noise_px"] == pytest.approx(0.27, abs=0.05)
    assert found.report["confidence_level"] == "high"
    assert re.fullmatch(r"frames \d and \d, focal length \d+ px", found.report["origin"])


def test_frames_that_share_nothing_are_an_error_with_counts() -> None:
    images, tracks = noisy()
    for frame in range(1, 8):
        tracks = hidden(tracks, frame)
    with pytest.raises(ReconstructionFailed, match=r"no two of 8 frames are connected; the best pair shares 0 of 0"):
        run(images, tracks)


def test_cameras_that_only_turn_are_refused() -> None:
    world = moved_sideways(arc(), 0.0)
    tracks = add_noise(observe(world, min_facing=-1.0), world.sizes, NOISE, 0)
    with pytest.raises(ReconstructionFailed, match="no model could be grown"):
        run(blank_images(world), tracks)


def test_parallax_is_what_turns_and_focal_lengths_leave() -> None:
    world = arc()
    scene = scene_of(world, NOISE)
    config = ParallaxConfig()
    found = parallax_px(scene, partial_of(scene, world), config)
    assert found > 30
    assert config.enough(found, 0.3)
    assert not config.enough(0.9, 0.01) and not config.enough(4.0, 0.3) and config.enough(5.0, 0.3)


def test_a_camera_estimator_that_places_nothing_changes_nothing() -> None:
    class Nobody(CameraEstimator):
        def forward(self, images, tracks, graphs=None) -> Cameras:
            world = arc()
            return dataclasses.replace(world.cameras, registered=torch.zeros_like(world.cameras.registered))

    images, tracks = noisy()
    never = MappingOptions(candidates=CandidateConfig(good_enough=2.0, agreement=0.0, max_candidates=2))
    alone, beside = run(images, tracks, None, never)[0], run(images, tracks, Nobody(), never)[0]
    assert torch.equal(alone.xyz_world, beside.xyz_world)
