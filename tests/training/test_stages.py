"""Cameras, points and the joint training: their data lies beside the truth, their losses reach what they should."""

import dataclasses

import pytest
import torch

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.geometry import pose
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.training.data import PoolConfig
from vggsfm_cli.training.losses import camera_loss, pair_angles_deg, point_loss
from vggsfm_cli.training.stages import StagePool, flatten, stack, tracks_of, unflatten
from vggsfm_cli.training.tasks.cameras import CamerasTaskConfig, disturbed
from vggsfm_cli.training.tasks.joint import JointTaskConfig
from vggsfm_cli.training.tasks.points import PointsTaskConfig
from vggsfm_cli.training.tracked import TrackedPool, TrackedPoolConfig

POOL = TrackedPoolConfig(
    scene=SceneConfig(frames=4, height=160, width=192, max_angle_deg=(8.0, 20.0), shadows=False),
    scenes=2,
    queries_per_frame=32,
    textures=PoolConfig(texture_side=96, textures=16),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VGGSFM_TEXTURES", raising=False)
        yield tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def scene(folder):
    return TrackedPool(POOL, 0, folder)[0]


@pytest.fixture(scope="module")
def tracker():
    return load_model("small").tracker


def test_a_kept_scene_is_the_scene_that_was_made(folder, scene):
    again = TrackedPool(POOL, 0, folder)[2]  # two scenes, over and over
    for item in dataclasses.fields(scene):
        assert torch.equal(getattr(scene, item.name), getattr(again, item.name)), item.name


def test_points_project_to_their_true_tracks(scene):
    xyz_cam = pose.transform(scene.cam_from_world[:, None], scene.xyz_world)
    focal, cx, cy, k = scene.params.T[..., None]
    uv = xyz_cam[..., :2] / xyz_cam[..., 2:]
    bend = 1 + k * uv.square().sum(-1)
    projected = torch.stack([focal * uv[..., 0] * bend + cx, focal * uv[..., 1] * bend + cy], -1)
    distance = (projected - scene.true_xy).norm(dim=-1)[scene.visible & scene.valid]
    assert len(distance) > 100 and distance.max() < 0.02


def test_tracks_lie_on_the_truth(scene, tracker):
    with torch.no_grad():
        tracks = tracks_of(tracker, scene)
    seen = tracks.visible()[0] & scene.visible
    seen[tracks.query_frame[0], torch.arange(seen.shape[1])] = False
    distance = (tracks.xy[0] - scene.true_xy).norm(dim=-1)[seen]
    assert len(distance) > 50 and distance.median() < 0.4


def test_a_part_of_the_frames_is_consistent(scene, tracker):
    with torch.no_grad():
        whole, part = tracks_of(tracker, scene), scene.of_frames([2, 0])
    per_frame = scene.query.shape[1]
    chosen = torch.cat([torch.arange(2 * per_frame, 3 * per_frame), torch.arange(per_frame)])
    assert torch.equal(part.true_xy, scene.true_xy[[2, 0]][:, chosen])
    assert torch.equal(part.query[0], scene.query[2])
    for source in range(2):
        assert torch.equal(part.evidence(source).xy[1 - source], scene.evidence([2, 0][source]).xy[[2, 0][1 - source]])
    assert torch.equal(whole.query_frame[0, :per_frame], torch.zeros(per_frame, dtype=torch.long))


def test_samples_survive_the_disk_and_the_batch(folder, tracker):
    pool = StagePool(TrackedPool(POOL, 0, folder), tracker, load_model("small").camera_estimator, (3, 2), "samples")
    first, second = pool(0, 0), pool(1, 0)
    assert first.visible.shape == (1, 3, 96)
    back = unflatten(flatten(first))
    assert torch.equal(back.start.params, first.start.params) and back.start.models == first.start.models
    batch = stack([first, second])
    assert batch.visible.shape == (2, 3, 96)
    for b, one in enumerate((first, second)):
        torch.testing.assert_close(batch.cameras.frame_params[b], one.cameras.frame_params[0])
        assert torch.equal(batch.tracks.xy[b], one.tracks.xy[0])
    assert pool(0, 1).visible.shape == (1, 2, 64)
    worse = disturbed(batch, 1.0, torch.Generator().manual_seed(0))
    assert not torch.equal(worse.start.cam_from_world, batch.start.cam_from_world)
    assert torch.equal(disturbed(batch, 0.0, torch.Generator()).start.params, batch.start.params)


def test_camera_loss_is_least_at_the_truth(scene):
    true = scene.cam_from_world[None].double()
    scaled = torch.cat([true[..., :3], 3 * true[..., 3:]], -1)
    focal = torch.zeros(1, 4, dtype=torch.float64)
    assert camera_loss(scaled, true, focal, focal) < 1e-2
    turned, along = pair_angles_deg(scaled, true)
    assert turned.max() < 1e-3 and along.max() < 1e-3
    wrong = scaled.clone()
    wrong[:, 1, :, 3] += 0.2 * scaled[..., 3].norm(dim=-1).max()
    assert camera_loss(wrong, true, focal, focal) > camera_loss(scaled, true, focal, focal) + 0.1
    assert camera_loss(scaled, true, focal + 0.1, focal) > 0.1


def test_point_loss_counts_in_deviations():
    true, deviation = torch.zeros(3, 3), torch.tensor([1.0, 2.0, 4.0])
    found = torch.diag(deviation)
    torch.testing.assert_close(point_loss(found, true, deviation), torch.log(torch.tensor(2.0)))


def step(task, terms):
    assert all(torch.isfinite(term) for term in terms.values()), terms
    task.module.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}


def test_cameras_learn(folder):
    config = CamerasTaskConfig(pool=POOL, pool_folder=str(folder), sizes=(3,), scenes=2, validation_scenes=1)
    task = config.build(0, torch.device("cpu"))
    gradients = step(task, task.losses(task.batch(0)))
    assert gradients and all(torch.isfinite(grad).all() for grad in gradients.values())
    figures = task.validate()
    assert {"loss", "preliminary AUC@10 of 3", "AUC@10 of 3"} <= set(figures)
    task.export(folder)
    assert (folder / "cameras.safetensors").is_file()


def test_points_learn(folder):
    config = PointsTaskConfig(pool=POOL, pool_folder=str(folder), sizes=(4,), scenes=2, validation_scenes=2)
    task = config.build(0, torch.device("cpu"))
    optimizer = torch.optim.Adam(task.module.parameters(), 3e-3)
    losses = []
    for _ in range(10):
        terms = task.losses(task.batch(0))
        step(task, terms)
        optimizer.step()
        losses.append(float(terms["points"].detach()))
    assert losses[-1] < losses[0]
    assert {"DLT median %", "median %"} <= set(task.validate())


@pytest.mark.parametrize("joint", [True, False], ids=["together", "stage by stage"])
def test_the_adjusted_loss_reaches_the_judge_only_together(folder, joint):
    config = JointTaskConfig(
        pool=POOL, pool_folder=str(folder), sizes=(4,), variants=(0,), scenes=1, validation_scenes=1, joint=joint
    )
    task = config.build(0, torch.device("cpu"))
    scene, sample = task.batch(1)[0]
    terms = task._terms(scene, sample)
    assert ("adjusted" in terms) == joint
    everything = step(task, {name: term.float() for name, term in terms.items()})
    assert all(torch.isfinite(grad).all() for grad in everything.values())
    task.module.zero_grad()
    again = task._terms(scene, sample)
    wanted = again["adjusted"] if joint else again["cameras"] + again["points"]
    wanted.backward()
    reached = [p.grad for p in task.judge.parameters() if p.grad is not None]
    assert bool(reached and any(grad.abs().sum() > 0 for grad in reached)) == joint
    if joint:
        assert {"median deg", "median point %", "AUC@5"} <= set(task.validate())
