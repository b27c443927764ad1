"""A short walk from pictures to a model, and what becomes of films that are cut, damaged or stand still."""

import dataclasses

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.evaluation.poses import aligned_distances
from vggsfm_cli.geometry import pose
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.mapping.candidates import CandidateConfig
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.sequence import SequenceOptions, reconstruct_sequence
from vggsfm_cli.sequence.options import KeyframeConfig, LoopConfig, WindowConfig


@pytest.fixture(scope="module")
def model() -> VGGSfM:
    return load_model("small")


def quick() -> SequenceOptions:
    """Small windows of few tracks."""
    options = SequenceOptions(
        keyframes=KeyframeConfig(points=192),
        windows=WindowConfig(size=5, overlap=3, joint_every=2),
        loops=LoopConfig(min_gap=5, max_checks=4),
    )
    one = CandidateConfig(max_candidates=1)
    return dataclasses.replace(options, mapping=dataclasses.replace(options.mapping, candidates=one))


def error_of(found: Reconstruction, walk: object) -> float:
    """ATE as a share of the way."""
    names = [path.name for path in walk.files]  # type: ignore[attr-defined]
    true = walk.cameras.cam_from_world[0, [names.index(name) for name in found.names]]  # type: ignore[attr-defined]
    length = pose.center(true).diff(dim=0).norm(dim=-1).sum()
    distance = aligned_distances(found.cameras.cam_from_world[0], true)
    return float(distance.square().mean().sqrt() / length)


def test_a_walk_becomes_one_model(walk: object, model: VGGSfM) -> None:
    images = PhotographSequence(walk.files, long_side=192)  # type: ignore[attr-defined]
    read: list[int] = []
    original = images.read

    def counted(frames: list[int]) -> object:
        read.append(len(frames))
        return original(frames)

    images.read = counted  # type: ignore[method-assign]
    options = quick()
    found = reconstruct_sequence(images, model, options)
    assert len(found) == 1 and found[0].names == images.names
    assert error_of(found[0], walk) < 0.01
    assert max(read) <= options.read_ahead
    report = found[0].report
    assert found.unregistered == {} and report["loops"] == []
    assert len(report["windows"]) > 1 and report["keyframes"] < len(images)
    assert sum(window["new_frames"] for window in report["windows"]) <= len(images)
    assert set(found.stages) >= {"features", "tracks", "windows", "adjustment", "frames between"}
    views = torch.bincount(found[0].point)
    assert int(views.min()) >= 2 and float(views.double().mean()) > 3
    assert bool((found[0].color >= 0).all()) and float(found[0].color.std()) > 0.05
