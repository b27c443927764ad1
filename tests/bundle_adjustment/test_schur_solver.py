import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from bundles import LENSES, lens_priors
from vggsfm_cli.bundle_adjustment.interface import Solution, SolveStatus
from vggsfm_cli.bundle_adjustment.problem import (
    BundleProblem,
    FreeParameters,
    RobustLoss,
    build_problem,
    linearize,
    move_poses,
    problem_from_observations,
    problem_from_reconstruction,
    residuals,
    whitening_of,
)
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.errors import InputError
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.geometry.robust import Loss, evaluate
from vggsfm_cli.scene import Cameras, Points, Reconstruction, Tracks

MODES = ("unroll", "truncated", "implicit")


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Truth, what is seen of it, and a disturbed start."""

    cameras: Cameras
    points: Points
    tracks: Tracks
    inliers: Tensor
    start_cameras: Cameras
    start_points: Points

    def problem(self, **options: Any) -> BundleProblem:
        return build_problem(self.start_cameras, self.start_points, self.tracks, self.inliers, **options)


def make_scene(
    *,
    frames: int = 6,
    points: int = 60,
    models: tuple[str, ...] = ("SIMPLE_RADIAL",),
    noise: float = 0.0,
    seed: int = 0,
) -> Scene:
    """Cameras on an arc around a cloud of points; two thirds of the points are seen in each."""
    xyz = _normal(points, 3, seed=seed)
    turn = 0.1 * _normal(frames, 3, seed=seed + 1)
    turn[:, 1] += torch.linspace(-1, 1, frames, dtype=torch.float64)
    translation = torch.tensor([0.0, 0.0, 6.0], dtype=torch.float64) + 0.2 * _normal(frames, 3, seed=seed + 2)
    cam_from_world = torch.cat([rotation.exp(turn), translation[..., None]], -1)[None]
    width = max(camera_models.num_params(model) for model in models)
    params = torch.tensor([LENSES[m] + (0.0,) * (width - len(LENSES[m])) for m in models], dtype=torch.float64)[None]
    cameras = Cameras(
        cam_from_world=cam_from_world,
        models=models,
        params=params,
        camera_index=torch.arange(frames)[None] % len(models),
        registered=torch.ones(1, frames, dtype=torch.bool),
    )
    xy, _ = cameras.project(xyz[None])
    spread = 0.5 + torch.rand(1, frames, points, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inliers = torch.rand(1, frames, points, generator=torch.Generator().manual_seed(seed + 3)) < 0.67
    start_params = params.clone()
    for c, model in enumerate(models):
        start_params[:, c, list(camera_models.focal_indices(model))] *= 1.05
        start_params[:, c, list(camera_models.distortion_indices(model))] = 0
    return Scene(
        cameras=cameras,
        points=Points(xyz_world=xyz[None], valid=torch.ones(1, points, dtype=torch.bool)),
        tracks=Tracks(
            xy=xy + noise * spread * _normal(*xy.shape, seed=seed + 4),
            visibility=inliers.double(),
            covariance=torch.diag_embed(spread.square()),
            query_frame=torch.zeros(1, points, dtype=torch.long),
            valid=torch.ones(1, points, dtype=torch.bool),
        ),
        inliers=inliers,
        start_cameras=dataclasses.replace(
            cameras,
            cam_from_world=move_poses(cam_from_world[0], 0.02 * _normal(frames, 6, seed=seed + 5))[None],
            params=start_params,
        ),
        start_points=Points(
            xyz_world=xyz[None] + 0.05 * _normal(1, points, 3, seed=seed + 6),
            valid=torch.ones(1, points, dtype=torch.bool),
        ),
    )


def solve(problem: BundleProblem, **settings: Any) -> Solution:
    return SchurConfig(**settings).build()(problem)


def relative_poses(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Rotations and translations relative to the first frame, the longest translation one unit long."""
    relative = pose.relative(cameras.cam_from_world[:, :1], cameras.cam_from_world)
    translation = relative[..., 3]
    return relative[..., :3], translation / translation.norm(dim=-1).amax(-1)[:, None, None]


def assert_recovered(solution: Solution, scene: Scene, atol: float = 1e-7) -> None:
    for found, true in zip(relative_poses(solution.cameras), relative_poses(scene.cameras), strict=True):
        torch.testing.assert_close(found, true, atol=atol, rtol=0)
    torch.testing.assert_close(solution.cameras.params, scene.cameras.params, atol=900 * atol, rtol=atol)


@pytest.mark.parametrize("model", LENSES)
def test_jacobian_is_the_derivative(model: str) -> None:
    scene = make_scene(frames=2, points=3, models=(model,))
    where, params = scene.cameras.cam_from_world[0, 1], scene.cameras.params[0, 0]
    xyz, xy = scene.points.xyz_world[0], scene.tracks.xy[0, 1] + 3
    whitening = whitening_of(torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double().expand(3, 2, 2))
    lin = linearize(model, where, params, xyz, xy, whitening)
    torch.testing.assert_close(lin.residual, residuals(model, where, params, xyz, xy, whitening))

    def moved(update: Tensor, params: Tensor, change: Tensor) -> Tensor:
        return residuals(model, move_poses(where[None], update[None])[0], params, xyz + change, xy, whitening)

    by_pose, by_params, by_points = torch.autograd.functional.jacobian(
        moved, (torch.zeros(6).double(), params, torch.zeros(3, 3).double())
    )
    torch.testing.assert_close(lin.by_pose, by_pose)
    torch.testing.assert_close(lin.by_params, by_params)
    torch.testing.assert_close(lin.by_point, by_points[torch.arange(3), :, torch.arange(3)])
    each = linearize(model, where.expand(3, 3, 4), params.expand(3, -1), xyz, xy, whitening)
    for name in ("residual", "by_pose", "by_params", "by_point"):
        torch.testing.assert_close(getattr(each, name), getattr(lin, name))


def test_whitening_is_a_root_of_the_information() -> None:
    covariance = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[0.1, 0.0], [0.0, 9.0]]]).double()
    root = whitening_of(covariance)
    torch.testing.assert_close(root.mT @ root, torch.linalg.inv(covariance))
    assert (root[:, 1, 0] == 0).all()


@pytest.mark.parametrize("loss", Loss)
def test_robust_weight_is_the_derivative(loss: Loss) -> None:
    squared = torch.tensor([0.0, 0.5, 3.9, 4.1, 100.0]).double().requires_grad_()
    value, weight = evaluate(loss, squared, 2.0)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), squared)[0], weight.detach())
    assert value[0] == 0 and weight[0] == 1


@pytest.mark.parametrize("models", [*((model,) for model in LENSES), ("SIMPLE_RADIAL", "PINHOLE")], ids=str)
def test_recovers_the_truth(models: tuple[str, ...]) -> None:
    scene = make_scene(models=models, frames=8, points=100)
    solution = solve(scene.problem())
    assert solution.status[0].converged
    assert float(solution.cost_final) < 1e-10 < float(solution.cost_initial)
    assert_recovered(solution, scene, atol=1e-6)


def test_own_cameras() -> None:
    scene = make_scene(models=("SIMPLE_PINHOLE",) * 6, points=100)
    solution = solve(scene.problem())
    assert_recovered(solution, scene)
    assert (solution.cameras.params[0, :, 1:] == scene.cameras.params[0, :, 1:]).all(), "principal points stay"


def test_principal_point_may_move() -> None:
    scene = make_scene(frames=10, points=150)
    start = scene.start_cameras.params + torch.tensor([0.0, 5.0, -4.0, 0.0])
    shifted = dataclasses.replace(scene, start_cameras=dataclasses.replace(scene.start_cameras, params=start))
    assert_recovered(solve(shifted.problem(free=FreeParameters(principal_point=True))), scene, atol=1e-6)


def test_noise_ends_at_the_expected_cost() -> None:
    scene = make_scene(frames=8, points=300, noise=0.5)
    scene = dataclasses.replace(
        scene, tracks=dataclasses.replace(scene.tracks, covariance=0.25 * scene.tracks.covariance)
    )
    problem = scene.problem()
    solution = solve(problem, covariance=True)
    freedom = 2 * len(problem.xy) - 3 * 300 - 6 * 7 + 1 - 2
    assert 2 * float(solution.cost_final) / freedom == pytest.approx(1.0, abs=0.1)
    assert solution.params_covariance is not None
    spread = solution.params_covariance[0, 0].diagonal().sqrt()
    error = (solution.cameras.params - scene.cameras.params)[0, 0]
    assert (error.abs() <= 3.5 * spread).all() and spread[0] < 10
    assert spread[1] == spread[2] == 0


def test_covariance_is_the_inverse_of_the_full_system() -> None:
    scene = make_scene(frames=4, points=12, noise=0.5)
    problem = scene.problem()
    solution = solve(problem, covariance=True)
    frame, point = problem.frame, problem.point
    lin = linearize(
        "SIMPLE_RADIAL",
        solution.cameras.cam_from_world[0, frame],
        solution.cameras.params[0, torch.zeros_like(frame)],
        solution.points.xyz_world[0, point],
        problem.xy,
        problem.whitening,
    )
    jacobian = torch.zeros(len(frame), 2, 4 * 6 + 4 + 12 * 3, dtype=torch.float64)
    for i, (f, p) in enumerate(zip(frame.tolist(), point.tolist(), strict=True)):
        jacobian[i, :, 6 * f : 6 * f + 6] = lin.by_pose[i]
        jacobian[i, :, 24:28] = lin.by_params[i]
        jacobian[i, :, 28 + 3 * p : 31 + 3 * p] = lin.by_point[i]
    free = torch.cat([problem.pose_free.flatten(), problem.params_free.flatten(), torch.ones(36, dtype=torch.bool)])
    free[28:] = (torch.bincount(point, minlength=12) > 0).repeat_interleave(3)
    columns = jacobian.reshape(-1, 64)[:, free]
    inverse = torch.linalg.inv(columns.T @ columns)
    variance = lin.residual.square().sum() / (len(columns) - columns.shape[1])
    where = (free.cumsum(0) - 1)[torch.tensor([24, 27])]
    assert solution.params_covariance is not None
    kept = torch.tensor([0, 3])
    found = solution.params_covariance[0, 0][kept[:, None], kept]
    torch.testing.assert_close(found, variance * inverse[where[:, None], where], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [Loss.CAUCHY, Loss.GEMAN_MCCLURE])
def test_robust_loss_resists_outliers(kind: Loss) -> None:
    scene = make_scene(frames=8, points=150)
    wrong = torch.rand(scene.inliers.shape, generator=torch.Generator().manual_seed(9)) < 0.03
    disturbed = scene.tracks.xy + wrong[..., None] * 80 * _normal(*scene.tracks.xy.shape, seed=10)
    tracks = dataclasses.replace(scene.tracks, xy=disturbed)
    scene = dataclasses.replace(scene, tracks=tracks, start_cameras=scene.cameras)
    plain = solve(scene.problem())
    robust = solve(scene.problem(loss=RobustLoss(kind=kind, scale=1.0)), cost_tolerance=1e-9, max_iterations=60)
    true, _ = relative_poses(scene.cameras)
    error_plain = rotation.angle_deg(relative_poses(plain.cameras)[0].mT @ true).max()
    error_robust = rotation.angle_deg(relative_poses(robust.cameras)[0].mT @ true).max()
    assert error_robust < 0.02 < error_plain


def test_two_scenes_are_two_single_scenes() -> None:
    one, two = make_scene(noise=0.3), make_scene(noise=0.3, seed=50)

    def both(a: Any, b: Any) -> Any:
        values = {}
        for item in dataclasses.fields(a):
            x, y = getattr(a, item.name), getattr(b, item.name)
            values[item.name] = torch.cat([x, y]) if isinstance(x, Tensor) else x
        return type(a)(**values)

    joint = solve(
        build_problem(
            both(one.start_cameras, two.start_cameras),
            both(one.start_points, two.start_points),
            both(one.tracks, two.tracks),
            torch.cat([one.inliers, two.inliers]),
        )
    )
    for b, scene in enumerate([one, two]):
        alone = solve(scene.problem())
        assert joint.status[b] == alone.status[0] and joint.iterations[b] == alone.iterations[0]
        torch.testing.assert_close(joint.cameras.cam_from_world[b], alone.cameras.cam_from_world[0])
        torch.testing.assert_close(joint.cameras.params[b], alone.cameras.params[0])
        torch.testing.assert_close(joint.points.xyz_world[b], alone.points.xyz_world[0])


def test_order_of_observations_does_not_matter() -> None:
    scene = make_scene(noise=0.5)
    problem = scene.problem()
    order = torch.randperm(len(problem.xy), generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(
        problem,
        frame=problem.frame[order],
        point=problem.point[order],
        xy=problem.xy[order],
        whitening=problem.whitening[order],
    )
    torch.testing.assert_close(solve(shuffled).cameras.cam_from_world, solve(problem).cameras.cam_from_world)


def test_a_point_twice_in_a_frame_counts_twice() -> None:
    scene = make_scene(noise=0.5)
    problem = scene.problem()
    doubled = dataclasses.replace(
        problem,
        frame=problem.frame.repeat(2),
        point=problem.point.repeat(2),
        xy=problem.xy.repeat(2, 1),
        whitening=problem.whitening.repeat(2, 1, 1),
    )
    twice, once = solve(doubled), solve(problem)
    torch.testing.assert_close(twice.cameras.cam_from_world, once.cameras.cam_from_world)
    torch.testing.assert_close(twice.cost_final, 2 * once.cost_final)


def test_gauge() -> None:
    scene = make_scene()
    problem = scene.problem()
    assert not problem.pose_free[0, 0].any()
    assert int((~problem.pose_free[0, 1:]).sum()) == 1 and problem.pose_free[..., :3][0, 1:].all()
    solution = solve(problem)
    assert (solution.cameras.cam_from_world[0, 0] == scene.start_cameras.cam_from_world[0, 0]).all()
    fixed = torch.zeros(1, 6, dtype=torch.bool)
    fixed[0, [2, 4]] = True
    at_truth = dataclasses.replace(
        scene,
        start_cameras=dataclasses.replace(
            scene.start_cameras,
            cam_from_world=torch.where(
                fixed[..., None, None], scene.cameras.cam_from_world, scene.start_cameras.cam_from_world
            ),
        ),
    )
    problem = at_truth.problem(fixed_frames=fixed)
    assert (problem.pose_free.any(-1) == ~fixed).all() and problem.pose_free[~fixed].all()
    torch.testing.assert_close(solve(problem).cameras.cam_from_world, scene.cameras.cam_from_world, atol=1e-6, rtol=0)


@pytest.mark.parametrize("what", ["poses", "points"])
def test_only_poses_or_only_points(what: str) -> None:
    scene = make_scene()
    if what == "poses":
        scene = dataclasses.replace(scene, start_points=scene.points)
    else:
        scene = dataclasses.replace(scene, start_cameras=scene.cameras)
    free = FreeParameters(poses=what == "poses", points=what == "points", focal=False, distortion=False)
    known = dataclasses.replace(scene.start_cameras, params=scene.cameras.params)
    scene = dataclasses.replace(scene, start_cameras=known)
    solution = solve(scene.problem(free=free))
    torch.testing.assert_close(solution.cameras.cam_from_world, scene.cameras.cam_from_world, atol=1e-7, rtol=0)
    used = scene.inliers.sum(1) > 1
    torch.testing.assert_close(solution.points.xyz_world[used], scene.points.xyz_world[used], atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV"])
def test_focal_prior(model: str) -> None:
    scene = make_scene(noise=1.0, models=(model,))
    priors = lens_priors(scene.start_cameras, 1e-5)
    index = list(camera_models.focal_indices(model))
    held = solve(scene.problem(priors=priors)).cameras.params[0, 0, index]
    torch.testing.assert_close(held.mean(), priors.params[0, 0, index].mean(), rtol=1e-4, atol=0)
    loose = solve(scene.problem(priors=lens_priors(scene.start_cameras, 100.0))).cameras.params
    torch.testing.assert_close(loose, solve(scene.problem()).cameras.params, rtol=1e-4, atol=1e-4)
    exact = solve(scene.problem(priors=lens_priors(scene.start_cameras, 0.0))).cameras.params[0, 0, index]
    assert (exact == priors.params[0, 0, index]).all()
    known = dataclasses.replace(priors, known=torch.ones_like(priors.known))
    assert (solve(scene.problem(priors=known)).cameras.params == scene.start_cameras.params).all()


def test_nothing_to_adjust() -> None:
    scene = make_scene()
    for problem in (
        dataclasses.replace(scene, inliers=torch.zeros_like(scene.inliers)).problem(),
        scene.problem(free=FreeParameters(poses=False, points=False, focal=False, distortion=False)),
    ):
        solution = solve(problem, covariance=True)
        assert solution.status == (SolveStatus.EMPTY,) and solution.iterations == (0,)
        assert (solution.cameras.cam_from_world == scene.start_cameras.cam_from_world).all()


def test_frames_and_points_without_support_stay() -> None:
    scene = make_scene()
    inliers = scene.inliers.clone()
    inliers[:, 5] = False  # a frame that sees nothing
    inliers[:, :, :3] = False  # points that nobody sees, and one that one frame sees
    inliers[:, 1, 2] = True
    scene = dataclasses.replace(scene, inliers=inliers)
    solution = solve(scene.problem())
    assert solution.status[0].converged
    assert (solution.cameras.cam_from_world[:, 5] == scene.start_cameras.cam_from_world[:, 5]).all()
    assert (solution.points.xyz_world[:, :3] == scene.start_points.xyz_world[:, :3]).all()
    assert float(solution.cost_final) < 1e-10


def test_unregistered_frames_stay() -> None:
    scene = make_scene()
    registered = torch.tensor([[True, True, False, True, True, True]])
    cameras = dataclasses.replace(scene.start_cameras, registered=registered)
    solution = solve(dataclasses.replace(scene, start_cameras=cameras).problem())
    assert (solution.cameras.cam_from_world[:, 2] == cameras.cam_from_world[:, 2]).all()
    assert float(solution.cost_final) < 1e-10


def test_hopeless_starts_end_finite() -> None:
    scene = make_scene()
    behind = scene.start_points.xyz_world.clone()
    behind[:, ::3, 2] -= 40.0
    far = scene.start_points.xyz_world * 1e9
    same = torch.zeros_like(behind)
    for xyz in (behind, far, same):
        points = dataclasses.replace(scene.start_points, xyz_world=xyz)
        solution = solve(dataclasses.replace(scene, start_points=points).problem(), covariance=True)
        assert isinstance(solution.status[0], SolveStatus)
        assert solution.cameras.cam_from_world.isfinite().all() and solution.cameras.params.isfinite().all()
        assert solution.points.xyz_world.isfinite().all()
        assert float(solution.cost_final) <= float(solution.cost_initial)
    backward = dataclasses.replace(scene.start_cameras, params=-scene.start_cameras.params)
    assert solve(dataclasses.replace(scene, start_cameras=backward).problem()).status == (SolveStatus.NOT_FINITE,)


def test_points_behind_do_not_stop_the_others() -> None:
    scene = make_scene(frames=6, points=60)
    behind = scene.start_points.xyz_world.clone()
    behind[:, :3, 2] -= 40.0
    points = dataclasses.replace(scene.start_points, xyz_world=behind)
    solution = solve(dataclasses.replace(scene, start_points=points).problem())
    seen = int(scene.inliers[:, :, :3].sum())
    assert float(solution.cost_final) == pytest.approx(seen * 0.5e6, abs=1e-6)
    assert_recovered(solution, scene, atol=1e-6)


def test_two_frames_with_one_center_end_finite() -> None:
    scene = make_scene(frames=2)
    poses = scene.cameras.cam_from_world[:, :1].repeat(1, 2, 1, 1)
    cameras = dataclasses.replace(scene.cameras, cam_from_world=poses)
    solution = solve(dataclasses.replace(scene, start_cameras=cameras).problem())
    assert solution.cameras.cam_from_world.isfinite().all() and solution.points.xyz_world.isfinite().all()


@pytest.mark.parametrize("what", ["xy", "covariance", "xyz_world", "cam_from_world", "params"])
def test_not_a_number_is_refused(what: str) -> None:
    scene = make_scene()
    if what in ("xy", "covariance"):
        values = getattr(scene.tracks, what).clone()
        values[scene.inliers.nonzero()[3].unbind()] = torch.nan
        scene = dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, **{what: values}))
    elif what == "xyz_world":
        points = dataclasses.replace(scene.start_points, xyz_world=scene.start_points.xyz_world * torch.nan)
        scene = dataclasses.replace(scene, start_points=points)
    else:
        values = getattr(scene.start_cameras, what) * torch.nan
        scene = dataclasses.replace(scene, start_cameras=dataclasses.replace(scene.start_cameras, **{what: values}))
    with pytest.raises(InputError, match="not finite"):
        scene.problem()


def test_not_a_number_where_unused_is_ignored() -> None:
    scene = make_scene()
    xy = torch.where(scene.inliers[..., None], scene.tracks.xy, torch.nan)
    scene = dataclasses.replace(scene, tracks=dataclasses.replace(scene.tracks, xy=xy))
    assert float(solve(scene.problem()).cost_final) < 1e-10


def test_sparse_observations_give_the_same_problem() -> None:
    scene = make_scene(noise=0.5)
    _, frame, point = scene.inliers.nonzero(as_tuple=True)
    dense = dataclasses.replace(
        scene, tracks=dataclasses.replace(scene.tracks, covariance=torch.eye(2).double().expand(1, 6, 60, 2, 2))
    ).problem()
    sparse = problem_from_observations(
        scene.start_cameras, scene.start_points, frame=frame, point=point, xy=scene.tracks.xy[0, frame, point]
    )
    model = problem_from_reconstruction(
        Reconstruction(
            cameras=scene.start_cameras,
            names=tuple("abcdef"),
            sizes=torch.full((6, 2), 1000),
            xyz_world=scene.start_points.xyz_world[0],
            color=torch.zeros(60, 3),
            error_px=torch.zeros(60),
            frame=frame,
            point=point,
            xy=scene.tracks.xy[0, frame, point],
        )
    )
    for other in (sparse, model):
        for name in ("frame", "point", "xy", "whitening", "pose_free", "params_free"):
            assert (getattr(other, name) == getattr(dense, name)).all()


def _value(
    scene: Scene, kind: Loss, backward: str, xy: Tensor | None = None, covariance: Tensor | None = None
) -> Tensor:
    """Some number that depends on all of the cameras, not on the gauge."""
    tracks = dataclasses.replace(
        scene.tracks,
        xy=scene.tracks.xy if xy is None else xy,
        covariance=scene.tracks.covariance if covariance is None else covariance,
    )
    problem = dataclasses.replace(scene, tracks=tracks).problem(loss=RobustLoss(kind=kind, scale=3.0))
    solution = solve(
        problem, backward=backward, truncated_steps=8, cost_tolerance=0.0, max_iterations=12, max_rejections=0
    )
    rotations, translations = relative_poses(solution.cameras)
    weights = _normal(1, 4, 3, 4, seed=1)
    return (weights * torch.cat([rotations, translations[..., None]], -1)).sum() + 1e-3 * solution.cameras.params.sum()


@pytest.mark.parametrize("kind", [Loss.NONE, Loss.CAUCHY])
def test_gradient_agrees_with_finite_differences(kind: Loss) -> None:
    scene = make_scene(frames=4, points=20, noise=1.0)
    scene = dataclasses.replace(scene, start_cameras=scene.cameras, start_points=scene.points)
    changes = {
        "xy": _normal(*scene.tracks.xy.shape, seed=3),
        "covariance": scene.tracks.covariance * _normal(1, 4, 20, 1, 1, seed=4).clamp(-1, 1),
    }
    step, expected = 1e-2, {}
    with torch.no_grad():
        for name, change in changes.items():
            values = [
                _value(scene, kind, "unroll", **{name: getattr(scene.tracks, name) + sign * step * change})
                for sign in (1, -1)
            ]
            expected[name] = (values[0] - values[1]) / (2 * step)
    for backward in MODES:
        inputs = {name: getattr(scene.tracks, name).clone().requires_grad_() for name in changes}
        gradients = torch.autograd.grad(_value(scene, kind, backward, **inputs), list(inputs.values()))
        for (name, change), gradient in zip(changes.items(), gradients, strict=True):
            found = (gradient * change).sum()
            tolerance = 0.02 if backward == "truncated" else 1e-3
            torch.testing.assert_close(found, expected[name], rtol=tolerance, atol=0, msg=lambda m, b=backward: b + m)
            assert (gradient[~scene.inliers] == 0).all()


def test_gradcheck_unroll() -> None:
    scene = make_scene(frames=3, points=8, noise=0.5)

    def solved(xy: Tensor, poses: Tensor, params: Tensor) -> Tensor:
        cameras = dataclasses.replace(scene.start_cameras, cam_from_world=poses, params=params)
        tracks = dataclasses.replace(scene.tracks, xy=xy)
        solution = solve(dataclasses.replace(scene, start_cameras=cameras, tracks=tracks).problem(), max_iterations=2)
        return solution.points.xyz_world

    inputs = (scene.tracks.xy, scene.start_cameras.cam_from_world, scene.start_cameras.params)
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(solved, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True)


def test_implicit_gradient_reaches_fixed_cameras() -> None:
    scene = make_scene(frames=4, points=20, noise=0.5)
    free = FreeParameters(focal=False, distortion=False)

    def depth(params: Tensor, backward: str) -> Tensor:
        cameras = dataclasses.replace(scene.start_cameras, params=params)
        problem = dataclasses.replace(scene, start_cameras=cameras).problem(free=free)
        solution = solve(problem, backward=backward, cost_tolerance=0.0)
        return relative_poses(solution.cameras)[1][..., 2].sum()

    gradients = []
    for backward in ("implicit", "unroll"):
        params = scene.cameras.params.clone().requires_grad_()
        gradients.append(torch.autograd.grad(depth(params, backward), params)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-9)


def test_gradients_are_finite_with_points_behind() -> None:
    scene = make_scene(frames=3, points=10)
    behind = scene.start_points.xyz_world.clone()
    behind[:, 0, 2] -= 40
    points = dataclasses.replace(scene.start_points, xyz_world=behind)
    xy = scene.tracks.xy.clone().requires_grad_()
    tracks = dataclasses.replace(scene.tracks, xy=xy)
    for backward in MODES:
        solution = solve(dataclasses.replace(scene, start_points=points, tracks=tracks).problem(), backward=backward)
        (gradient,) = torch.autograd.grad(solution.cameras.cam_from_world.sum() + solution.cost_final.sum(), xy)
        assert gradient.isfinite().all()
