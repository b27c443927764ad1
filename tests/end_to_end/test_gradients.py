"""A loss on adjusted cameras reaches the weights of a learned tracker, through all four stages."""

import copy
import dataclasses
import inspect

import pytest
import torch

from bundles import shape_of
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.model import VGGSfM, VGGSfMConfig
from vggsfm_cli.scene import Queries
from vggsfm_cli.tracking.features import select_keypoints
from vggsfm_cli.tracking.lucas_kanade import LucasKanadeConfig
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig
from vggsfm_cli.training.tasks.joint import JointTask
from warped import image_set, photograph

WIDTH = 192
TRACKER = CoarseToFineTrackerConfig(
    fine=LucasKanadeConfig(levels=2, iterations=(1, 1)),
    judge=TrackTransformerConfig(width=8, heads=2, blocks=1, neighbours=4),
)


class Recorded(CameraEstimator):
    """The cameras that RANSAC found once: its choices are frozen."""

    def __init__(self, cameras):
        super().__init__()
        self.cameras = cameras

    def forward(self, images, tracks):
        return self.cameras


@pytest.fixture(scope="module")
def scene():
    """Three example photographs, in double precision, whose lens is known."""
    images = image_set([photograph(f"view_{i:02d}.jpg", WIDTH) for i in (7, 8, 9)])
    images = images._map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    params = torch.tensor([[[905 / 1024 * WIDTH, WIDTH / 2, images.pixels.shape[-2] / 2, 0.0]]], dtype=torch.float64)
    priors = dataclasses.replace(images.priors, params=params, known=torch.ones(1, 1, 4, dtype=torch.bool))
    return dataclasses.replace(images, priors=priors)


@pytest.fixture(scope="module")
def queries(scene):
    with torch.no_grad():
        xy = select_keypoints(load_model("small").tracker.double().encode(scene).keypoint_score[0, 0], 60)
    valid = torch.ones(1, len(xy), dtype=torch.bool)
    return Queries(frame=torch.zeros(1, len(xy), dtype=torch.long), xy=xy[None], valid=valid)


@pytest.fixture(scope="module")
def model(scene, queries):
    """A tiny transformer on the bundled features; one step of alignment a level."""
    torch.manual_seed(0)
    model = VGGSfMConfig(tracker=TRACKER).build()
    model.tracker.encoder.load_state_dict(load_model("small").tracker.encoder.state_dict())
    head = model.tracker.judge.head
    with torch.no_grad():
        head.weight *= 0.1
        head.bias[:] = torch.tensor([4.0, 0.1, -0.1, 0.0, 0.0])  # most are visible
        model = model.double().eval()
        model.camera_estimator = Recorded(model(scene, queries).initial_cameras)
    assert model.camera_estimator.cameras.registered.all()
    return model


def pose_loss(outputs):
    """The distance of the cameras' shape and turns from some others."""
    cameras = outputs.solution.cameras
    turns = cameras.cam_from_world[0, 1:, :, :3]
    target = torch.linspace(-1, 1, 9, dtype=torch.float64).sin().reshape(3, 3)
    return (shape_of(cameras)[0] - target).square().sum() + (turns - target).square().sum()


def directions(model):
    """One random direction in the space of the weights, as long in each tensor as the tensor."""
    generator = torch.Generator().manual_seed(1)
    out = {}
    for name, value in model.tracker.named_parameters():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        length = value.detach().norm() if value.detach().any() else 1.0
        out[name] = direction / direction.norm() * length
    return out


STEPS = {"judge": 1e-4, "encoder": 1e-7}
"""Of the finite differences, as a share of the weights: so small that no cell, neighbour or inlier changes."""


@pytest.fixture(scope="module")
def differences(scene, model, queries):
    """Derivatives of the loss along the directions, part by part, by finite differences."""
    # a solver stops where the cost no longer falls, that is at half the digits; further steps of Gauss and Newton give
    # the others
    model.use_adjuster(SchurConfig(backward="truncated", truncated_steps=15, initial_damping=1e-10, max_iterations=60))
    found = {}
    for part, step in STEPS.items():
        outputs = []
        for sign in (1, -1):
            moved, along = copy.deepcopy(model).requires_grad_(False), directions(model)
            with torch.no_grad():
                for name, value in moved.tracker.named_parameters():
                    if name.startswith(part):
                        value.add_(along[name], alpha=sign * step)
            outputs.append(moved(scene, queries))
        for field in ("tracks", "initial_points"):
            first, second = (getattr(output, field).valid for output in outputs)
            assert torch.equal(first, second)
        assert torch.equal(*(output.tracks.visible() for output in outputs))
        found[part] = float((pose_loss(outputs[0]) - pose_loss(outputs[1])).detach()) / (2 * step)
    return found


@pytest.mark.parametrize(
    "adjuster",
    [
        SchurConfig(backward="implicit", cost_tolerance=1e-15, max_iterations=60),
        SchurConfig(backward="unroll", cost_tolerance=1e-15, max_iterations=60),
        TheseusConfig(backward="implicit", cost_tolerance=1e-15, max_iterations=60),
    ],
    ids=["schur implicit", "schur unroll", "theseus implicit"],
)
def test_gradient_reaches_the_tracker(scene, model, queries, differences, adjuster):
    model.use_adjuster(adjuster)
    parameters = dict(model.tracker.named_parameters())
    outputs = model(scene, queries)
    assert outputs.solution.status[0].converged and outputs.initial_points.valid.sum() > 40
    gradients = torch.autograd.grad(pose_loss(outputs), list(parameters.values()), allow_unused=True)
    # nothing reaches the heads that choose key points
    learned = {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}
    for part in ("judge.patches", "judge.cues", "judge.blocks", "judge.head", "encoder.net.block1"):
        assert sum(float(g.norm()) for name, g in learned.items() if name.startswith(part)) > 1e-4, part
    along = directions(model)
    for part, expected in differences.items():
        slope = sum(float((g * along[name]).sum()) for name, g in learned.items() if name.startswith(part))
        assert slope == pytest.approx(expected, rel=1e-3), part


def test_the_gradient_comes_through_the_tracks(scene, model, queries):
    model.use_adjuster(SchurConfig(backward="implicit"))
    assert pose_loss(model(scene, queries)).requires_grad
    cut = model(scene, queries, lambda stage, record: record.detach() if stage == "tracker" else record)
    assert not pose_loss(cut).requires_grad


def test_the_joint_training_runs_the_stages_of_the_model():
    """There is one wiring of triangulation and adjustment; a second one would have to build a problem of its own."""
    for place in (VGGSfM.forward, JointTask):
        source = inspect.getsource(place)
        assert "finish_stages(" in source
        assert ".inliers(" not in source and "build_problem(" not in source
