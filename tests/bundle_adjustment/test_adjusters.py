"""The three adjusters solve one problem: the same minimum, the same promises, the same gradients."""

import dataclasses
import importlib.util

import pytest
import torch

from bundles import LENSES, lens_priors, make_bundle, shape_of, uneven
from vggsfm_cli.bundle_adjustment import evaluate
from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
from vggsfm_cli.bundle_adjustment.interface import SolveStatus
from vggsfm_cli.bundle_adjustment.problem import FreeParameters, RobustLoss
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.bundle_adjustment.theseus_linear import SparseSolver
from vggsfm_cli.bundle_adjustment.theseus_problem import Layout, build_objective
from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig
from vggsfm_cli.errors import MissingDependency, UsageError
from vggsfm_cli.geometry.robust import Loss

CONFIGS = {"schur": SchurConfig, "theseus": TheseusConfig, "ceres": CeresConfig}
DIFFERENTIABLE = ("schur", "theseus")


def solve(name, problem, **settings):
    settings = {"cost_tolerance": 1e-12, "max_iterations": 100, **settings}
    return CONFIGS[name](**settings).build()(problem)


def assert_same_minimum(problem, names=tuple(CONFIGS), cost=1e-6, centers=1e-5):
    first, *others = (solve(name, problem) for name in names)
    assert all(status.converged for status in first.status)
    for other in others:
        assert all(status.converged for status in other.status)
        torch.testing.assert_close(other.cost_initial, first.cost_initial, rtol=1e-9, atol=0)
        torch.testing.assert_close(other.cost_final, first.cost_final, rtol=cost, atol=0)
        torch.testing.assert_close(shape_of(other.cameras), shape_of(first.cameras), rtol=0, atol=centers)


class TestSameMinimum:
    @pytest.mark.parametrize("model", LENSES)
    def test_ten_random_problems(self, model):
        assert_same_minimum(make_bundle((model,), scenes=10, frames=4, points=30, seed=7).problem())

    def test_cameras_of_several_models(self):
        assert_same_minimum(make_bundle(("SIMPLE_RADIAL", "OPENCV", "PINHOLE"), frames=6).problem())

    @pytest.mark.parametrize("kind", [Loss.HUBER, Loss.CAUCHY])
    def test_robust_losses(self, kind):
        assert_same_minimum(make_bundle(seed=1).problem(loss=RobustLoss(kind=kind, scale=1.2)))

    @pytest.mark.parametrize("kind", Loss)
    def test_uneven_covariances(self, kind):
        loss = RobustLoss(kind=kind, scale=3.0)
        assert_same_minimum(uneven(make_bundle(seed=2, noise_px=0.3)).problem(loss=loss), names=DIFFERENTIABLE)

    @pytest.mark.parametrize(
        "free",
        [
            FreeParameters(points=False),
            FreeParameters(poses=False),
            FreeParameters(focal=False, distortion=False),
            FreeParameters(principal_point=True),
        ],
        ids=["points held", "poses held", "lenses held", "principal point free"],
    )
    def test_parts_that_are_held(self, free):
        assert_same_minimum(make_bundle(seed=3).problem(free=free))

    def test_a_camera_that_is_known(self):
        bundle = make_bundle(("SIMPLE_RADIAL", "SIMPLE_RADIAL"), frames=6, seed=4)
        priors = lens_priors(bundle.cameras, spread=torch.inf)
        priors.known[:, 1] = True
        assert_same_minimum(bundle.problem(priors=priors))

    def test_frames_that_are_held(self):
        fixed = torch.tensor([[True, False, True, False, False]])
        problem = make_bundle(seed=5).problem(fixed_frames=fixed)
        assert_same_minimum(problem)
        for name in CONFIGS:
            moved = solve(name, problem).cameras.cam_from_world
            assert torch.equal(moved[fixed], problem.cameras.cam_from_world[fixed])

    def test_focal_priors(self):
        bundle = make_bundle(("SIMPLE_RADIAL", "OPENCV"), frames=6, seed=6)
        problem = bundle.problem(priors=lens_priors(bundle.cameras, spread=1e-3))
        assert_same_minimum(problem, names=DIFFERENTIABLE)
        free = bundle.problem()
        assert float(solve("theseus", problem).cost_final) > 1.001 * float(solve("theseus", free).cost_final)

    def test_covariance_of_lens_parameters(self):
        problem = make_bundle(("SIMPLE_RADIAL", "PINHOLE"), frames=6).problem(free=FreeParameters(principal_point=True))
        expected, *others = (solve(name, problem, covariance=True).params_covariance for name in CONFIGS)
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
class TestPromises:
    def test_scenes_do_not_mix(self, name):
        both = make_bundle(scenes=2, seed=8)
        ragged = dataclasses.replace(both, inliers=both.inliers.clone())
        ragged.inliers[1, :, 30:] = False
        together = solve(name, ragged.problem())
        for b in range(2):
            parts = {part: getattr(ragged, part).scene(b) for part in ("cameras", "points", "tracks")}
            alone = solve(name, dataclasses.replace(ragged, inliers=ragged.inliers[b : b + 1], **parts).problem())
            assert together.status[b] == alone.status[0]
            torch.testing.assert_close(together.cost_final[b], alone.cost_final[0])
            torch.testing.assert_close(together.cameras.cam_from_world[b], alone.cameras.cam_from_world[0])

    def test_what_takes_no_part_stays(self, name):
        bundle = make_bundle(frames=7, seed=9)
        inliers = bundle.inliers.clone()
        inliers[:, 5] = False  # a frame that sees nothing
        inliers[:, :, :3] = False  # points that nobody sees, and one that one frame sees
        inliers[:, 1, 2] = True
        registered = torch.arange(7)[None] != 6
        bundle = dataclasses.replace(bundle, inliers=inliers).changed("cameras", registered=registered)
        solution = solve(name, bundle.problem())
        assert solution.status[0].converged and solution.cost_final < 0.01 * solution.cost_initial
        given, found = bundle.cameras.cam_from_world, solution.cameras.cam_from_world
        assert torch.equal(found[:, [0, 5, 6]], given[:, [0, 5, 6]])
        assert torch.equal(solution.points.xyz_world[:, :3], bundle.points.xyz_world[:, :3])
        assert (found[:, 1:5] != given[:, 1:5]).flatten(2).any(-1).all()

    def test_points_seen_once_may_take_part(self, name):
        bundle = make_bundle(seed=10)
        inliers = bundle.inliers.clone()
        inliers[:, :, 0] = False
        inliers[:, 2, 0] = True
        problem = dataclasses.replace(bundle, inliers=inliers).problem(min_views=1)
        without = dataclasses.replace(bundle, inliers=inliers).problem()
        assert len(problem.frame) == len(without.frame) + 1
        if name == "ceres":
            with pytest.raises(UsageError, match="single observation"):
                solve(name, problem)
            return
        expected = solve(name, without).cost_final  # its two coordinates are explained by three of its own
        torch.testing.assert_close(solve(name, problem).cost_final, expected, rtol=1e-6, atol=0)

    def test_nothing_to_adjust(self, name):
        bundle = make_bundle()
        held = FreeParameters(poses=False, points=False, focal=False, distortion=False)
        unseen = dataclasses.replace(bundle, inliers=torch.zeros_like(bundle.inliers))
        for problem in (bundle.problem(free=held), unseen.problem()):
            solution = solve(name, problem, covariance=True)
            assert solution.status == (SolveStatus.EMPTY,) and solution.iterations == (0,)
            assert torch.equal(solution.cameras.cam_from_world, bundle.cameras.cam_from_world)
            assert solution.cost_final == solution.cost_initial

    def test_an_impossible_camera_is_said_so(self, name):
        bundle = make_bundle()
        solution = solve(name, bundle.changed("cameras", params=-bundle.cameras.params).problem(), covariance=True)
        assert solution.status == (SolveStatus.NOT_FINITE,)
        assert torch.equal(solution.cameras.params, -bundle.cameras.params)

    @pytest.mark.parametrize("case", ["behind", "far", "one place", "one center", "collinear", "no parallax"])
    def test_hopeless_starts_end_finite(self, name, case):
        bundle = make_bundle(seed=11)
        xyz, poses = bundle.points.xyz_world.clone(), bundle.cameras.cam_from_world.clone()
        if case == "behind":
            xyz[:, ::3, 2] -= 40
        elif case == "far":
            xyz *= 1e9
        elif case == "one place":
            xyz *= 0
        elif case == "one center":
            poses[:] = poses[:, :1].clone()
        else:
            poses[..., :3] = torch.eye(3)
            step = 1.0 if case == "collinear" else 1e-9
            poses[..., 3] = torch.tensor([0.0, 0.0, 6.0])
            poses[..., 0, 3] = step * torch.arange(5.0)
        bundle = bundle.changed("points", xyz_world=xyz).changed("cameras", cam_from_world=poses)
        solution = solve(name, bundle.problem(), max_iterations=15)
        assert isinstance(solution.status[0], SolveStatus)
        for values in (solution.cameras.cam_from_world, solution.cameras.params, solution.points.xyz_world):
            assert values.isfinite().all()
        assert solution.cost_final <= solution.cost_initial

    def test_a_focal_length_does_not_turn_negative(self, name):
        bundle = make_bundle(frames=2, points=10, seed=12)
        params = bundle.cameras.params.clone()
        params[..., 0] = 5.0
        solution = solve(name, bundle.changed("cameras", params=params).problem(), max_iterations=20)
        assert solution.cameras.params.isfinite().all() and (solution.cameras.params[..., 0] > 0).all()

    def test_double_precision_out_whatever_comes_in(self, name):
        bundle = make_bundle()
        single = bundle.changed("cameras", cam_from_world=bundle.cameras.cam_from_world.float())
        single = single.changed("tracks", xy=bundle.tracks.xy.float(), covariance=bundle.tracks.covariance.float())
        solution = solve(name, single.problem())
        assert solution.cameras.cam_from_world.dtype == solution.points.xyz_world.dtype == torch.float64
        torch.testing.assert_close(solution.cost_final, solve(name, bundle.problem()).cost_final, rtol=1e-4, atol=0)


def pose_loss(name, bundle, xy, covariance, settings, **options):
    """Some number that depends on the shape of the cameras and the lens."""
    problem = bundle.changed("tracks", xy=xy, covariance=covariance).problem(**options)
    solution = solve(name, problem, **settings)
    weights = torch.linspace(-1, 1, 3 * bundle.inliers.shape[1], dtype=torch.float64).sin().reshape(-1, 3)
    return (weights * shape_of(solution.cameras)).sum() + 1e-4 * solution.cameras.params.sum()


class TestGradients:
    @pytest.mark.parametrize("kind", [Loss.NONE, Loss.CAUCHY])
    def test_theseus_agrees_with_schur(self, kind):
        bundle = uneven(make_bundle(frames=4, points=25, seed=13))
        settings, gradients = {"backward": "implicit", "cost_tolerance": 1e-15}, []
        for name in DIFFERENTIABLE:
            inputs = [getattr(bundle.tracks, part).clone().requires_grad_() for part in ("xy", "covariance")]
            loss = RobustLoss(kind=kind, scale=4.0)
            gradients.append(torch.autograd.grad(pose_loss(name, bundle, *inputs, settings, loss=loss), inputs))
        for ours, theirs in zip(*gradients, strict=True):
            assert ours.norm() > 0
            assert (ours - theirs).norm() < 1e-4 * ours.norm()

    @pytest.mark.parametrize(("backward", "iterations", "eps"), [("unroll", 3, 1e-6), ("implicit", 12, 1e-3)])
    def test_theseus_passes_gradcheck(self, backward, iterations, eps):
        bundle = make_bundle(("PINHOLE",), frames=3, points=15, seed=14)
        settings = {"backward": backward, "max_iterations": iterations, "cost_tolerance": 0.0, "initial_damping": 0.1}
        inputs = tuple(getattr(bundle.tracks, part).clone().requires_grad_() for part in ("xy", "covariance"))

        def loss(xy, covariance):
            covariance = 0.5 * (covariance + covariance.mT)
            return pose_loss("theseus", bundle, xy, covariance, settings, free=FreeParameters(focal=False))

        assert torch.autograd.gradcheck(loss, inputs, eps=eps, atol=1e-6, rtol=1e-3, fast_mode=True)

    @pytest.mark.parametrize("name", DIFFERENTIABLE)
    def test_what_is_held_has_gradients(self, name):
        bundle = make_bundle(frames=4, points=25, seed=15)
        gradients = []
        for backward in ("implicit", "unroll"):
            params = bundle.cameras.params.clone().requires_grad_()
            problem = bundle.changed("cameras", params=params).problem(free=FreeParameters(focal=False))
            solution = solve(name, problem, backward=backward, cost_tolerance=1e-15)
            gradients.append(torch.autograd.grad(shape_of(solution.cameras)[..., 0].square().sum(), params)[0])
        assert gradients[0][..., 0].abs().max() > 0
        torch.testing.assert_close(gradients[0][..., :3], gradients[1][..., :3], rtol=1e-4, atol=1e-10)

    def test_without_gradients_nothing_is_kept(self):
        problem = make_bundle().problem()
        with torch.no_grad():
            quick = solve("theseus", problem, backward="implicit")
        torch.testing.assert_close(quick.cost_final, solve("theseus", problem).cost_final)


def test_theseus_jacobians_are_the_derivatives():
    bundle = uneven(make_bundle(("OPENCV", "SIMPLE_RADIAL"), frames=4, points=6, seed=16))
    layout = Layout(bundle.problem(priors=lens_priors(bundle.cameras, spread=0.1)), 0)
    objective = build_objective(layout)
    assert len(objective.cost_functions) == 3, "one for each camera model, one for the priors"
    variable = objective.optim_vars["scene"]
    start = variable.tensor
    for cost in objective.cost_functions.values():
        (found,), error = cost.jacobians()
        torch.testing.assert_close(error, cost.error())

        def moved(step, cost=cost):
            variable.update(layout.move(start, step))
            value = cost.error()
            variable.update(start)
            return value

        expected = torch.autograd.functional.jacobian(moved, start.new_zeros(1, layout.unknowns))[:, :, 0]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_sparse_steps_are_the_dense_ones():
    bundle = make_bundle(("RADIAL",), frames=3, points=12, seed=19)
    objective = build_objective(Layout(bundle.problem(priors=lens_priors(bundle.cameras, spread=0.1)), 0))
    solver = SparseSolver(objective)
    lin = solver.linearization
    lin.linearize()
    (dense, *more), error = zip(*(cost.jacobians() for cost in objective.cost_functions.values()), strict=True)
    matrix = torch.cat([dense[0], *(part[0] for part in more)], 1)
    torch.testing.assert_close(lin.AtA, matrix.mT @ matrix)
    torch.testing.assert_close(lin.Atb[..., 0], -(torch.cat(error, -1)[:, None] @ matrix)[:, 0])
    vector = torch.linspace(-1, 1, lin.num_cols, dtype=torch.float64)[None]
    torch.testing.assert_close(lin.Av(vector), (matrix @ vector[..., None])[..., 0])
    damped = lin.AtA + torch.diag_embed(0.1 * lin.AtA.diagonal(dim1=1, dim2=2) + 1e-8)
    expected = torch.linalg.solve(damped, lin.Atb)[..., 0]
    torch.testing.assert_close(solver.solve(damping=torch.tensor([0.1], dtype=torch.float64)), expected)
    copy = objective.copy()
    torch.testing.assert_close(copy.error(), objective.error())


def test_without_theseus_both_ways_out_are_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "theseus" else found(name))
    with pytest.raises(MissingDependency, match="theseus") as raised:
        TheseusConfig().build()
    assert "make setup" in raised.value.hint and "--no-build-isolation" in raised.value.hint


class TestCeresRefuses:
    @pytest.mark.parametrize("case", ["covariances", "prior", "part of a lens"])
    def test_what_pycolmap_cannot_say(self, case):
        bundle = make_bundle(("OPENCV", "OPENCV"), frames=6, seed=17)
        priors = lens_priors(bundle.cameras, spread=0.1 if case == "prior" else torch.inf)
        if case == "part of a lens":
            priors.known[:, 1, :2] = True
        problem = (uneven(bundle) if case == "covariances" else bundle).problem(priors=priors)
        with pytest.raises(UsageError, match="ceres"):
            solve("ceres", problem)
        near = solve("ceres", problem, approximate=True)
        exact = solve("schur", problem)
        assert near.status[0].converged
        assert exact.cost_final <= near.cost_final < 0.01 * near.cost_initial

    def test_geman_mcclure(self):
        with pytest.raises(UsageError, match="geman-mcclure"):
            solve("ceres", make_bundle().problem(loss=RobustLoss(kind=Loss.GEMAN_MCCLURE)), approximate=True)

    def test_single_coordinates_of_poses(self):
        problem = make_bundle().problem(free=FreeParameters(points=False))
        problem.pose_free[0, 2:, 1] = False
        with pytest.raises(UsageError, match="single coordinates"):
            solve("ceres", problem)


def test_cost_is_the_one_that_schur_minimises():
    bundle = uneven(make_bundle(("SIMPLE_RADIAL", "PINHOLE"), scenes=2, frames=6, seed=18))
    problem = bundle.problem(
        priors=lens_priors(bundle.cameras, spread=0.01), loss=RobustLoss(kind=Loss.CAUCHY, scale=2.0)
    )
    solution = SchurConfig().build()(problem)
    torch.testing.assert_close(evaluate.cost(problem, problem.cameras, problem.points), solution.cost_initial)
    torch.testing.assert_close(evaluate.cost(problem, solution.cameras, solution.points), solution.cost_final)
    error = evaluate.reprojection_error_px(problem, solution.cameras, solution.points)
    assert 0.1 < float(error.mean()) < 2 and len(error) == len(problem.frame)
