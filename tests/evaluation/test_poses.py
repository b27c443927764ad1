"""Pose figures: what they say of errors that are known, and that an independent script says the same."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from example_model import example_model
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.errors import InputError
from vggsfm_cli.evaluation.model import compare_models, evaluate_model
from vggsfm_cli.evaluation.poses import (
    PairErrors,
    accuracy,
    aligned_distances,
    auc_by_degrees,
    auc_max,
    auc_min,
    between_deg,
    pair_errors,
    without_sign,
)
from vggsfm_cli.evaluation.truth import match_names, posed_images, read_posed_images
from vggsfm_cli.geometry import alignment, camera, pose, rotation
from vggsfm_cli.scene import Reconstruction


def moved(model: Reconstruction, scale: float = 2.5) -> Reconstruction:
    """The same model in another world."""
    turn = rotation.exp(torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64))
    sim3 = (torch.tensor(scale, dtype=torch.float64), turn, torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64))
    poses = alignment.apply_to_cameras(*sim3, model.cameras.cam_from_world[0])
    return dataclasses.replace(
        model,
        cameras=dataclasses.replace(model.cameras, cam_from_world=poses[None]),
        xyz_world=alignment.apply_to_points(*sim3, model.xyz_world),
    )


def turned(model: Reconstruction, frame: int, degrees: float) -> Reconstruction:
    """One camera turned about its own viewing axis, at its place."""
    turn = rotation.exp(torch.tensor([0.0, 0.0, math.radians(degrees)], dtype=torch.float64))
    poses = model.cameras.cam_from_world.clone()
    poses[0, frame] = turn @ poses[0, frame]
    return dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, cam_from_world=poses))


def renamed(model: Reconstruction, names: tuple[str, ...]) -> Reconstruction:
    return dataclasses.replace(model, names=names)


def write_truth(model: Reconstruction, path: Path) -> Path:
    truth = {}
    for s, name in enumerate(model.names):
        c = int(model.cameras.camera_index[0, s])
        pose_ = model.cameras.cam_from_world[0, s]
        width, height = model.sizes[s].tolist()
        k = camera.calibration_matrix(model.cameras.models[c], model.cameras.params[0, c])
        truth[name] = {
            "R": pose_[:, :3].tolist(), "t": pose_[:, 3].tolist(), "K": k.tolist(), "width": width, "height": height,
        }  # fmt: skip
    path.write_text(json.dumps({"images": truth}))
    return path


def test_another_world_is_no_error() -> None:
    result = evaluate_model(moved(example_model()), posed_images(example_model()))
    assert result["registered"] == 6 and result["missing"] == []
    assert all(result[f"{key}@{t}"] == pytest.approx(100) for key in ("RRA", "RTA", "AUC_max") for t in (1, 3, 5, 10))
    assert result["ate"] < 1e-9 and result["rotation_error_deg"]["max"] < 1e-5
    assert result["focal_error_percent"]["max"] < 1e-9


def test_errors_of_known_size() -> None:
    true = example_model().cameras.cam_from_world[0]
    found = turned(example_model(), 2, 4.0).cameras.cam_from_world[0]
    errors = pair_errors(found, true, torch.ones(6, dtype=torch.bool))
    with_it = errors.rotation_deg > 1e-6
    assert int(with_it.sum()) == 5 and torch.allclose(errors.rotation_deg[with_it], torch.tensor(4.0).double())
    assert auc_max(errors, 10) == pytest.approx((10 + 5 * 0.6) / 15, abs=0.02)
    assert auc_max(errors, 3) == pytest.approx(10 / 15, abs=0.02)
    assert auc_min(errors, 5) == pytest.approx((4 * 10 / 15 + 1) / 5, abs=0.02)
    shifted = true.clone()
    shifted[1, :, 3] = -(true[1, :, :3] @ (pose.center(true)[1] + torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)))
    assert 0 < float(aligned_distances(shifted, true).square().mean().sqrt()) < 0.1 / math.sqrt(6) + 1e-9


def test_opposite_directions_are_half_a_turn_apart() -> None:
    x, zero = torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.zeros(1, 3).double()
    assert float(between_deg(x, -x)) == pytest.approx(180)
    assert float(between_deg(x, zero)) == 180 and float(between_deg(zero, zero)) == 0


def test_missing_images_are_wrong_pairs() -> None:
    model, truth = example_model(), posed_images(example_model())
    fewer = renamed(model, ("other.jpg", *model.names[1:]))
    result = evaluate_model(fewer, truth)
    assert result["registered"] == 5 and result["missing"] == ["view 0.jpg"]
    assert result["RRA@10"] == pytest.approx(100 * 10 / 15) and result["AUC_max@10"] == pytest.approx(100 * 10 / 15)


def test_pairs_without_a_baseline_have_no_direction() -> None:
    true = example_model().cameras.cam_from_world[0].clone()
    true[1, :, 3] = -(true[1, :, :3] @ (pose.center(true)[0] + 1e-4))
    found = true.clone()
    found[1, :, 3] = -(true[1, :, :3] @ (pose.center(true)[0] - 1e-4))
    assert float(pair_errors(found, true, torch.ones(6, dtype=torch.bool)).translation_deg[0]) == 0


def test_names_match_with_and_without_folders_and_endings() -> None:
    assert match_names(["a/1.jpg", "b/1.jpg", "2.JPG", "3.png", "4.png"], ["b/1.jpg", "x/2.jpg", "3.jpg"]) == [
        -1, 0, 1, 2, -1,
    ]  # fmt: skip
    assert match_names(["a.jpg"], ["a.png", "a.jpg"]) == [1]


def test_truth_from_json_is_truth_from_a_model(tmp_path: Path) -> None:
    write_colmap(example_model(), tmp_path / "sparse")
    path = write_truth(example_model(), tmp_path / "gt.json")
    from_json, from_model = read_posed_images(path), read_posed_images(tmp_path / "sparse")
    assert from_json.names == from_model.names
    assert torch.allclose(from_json.cam_from_world, from_model.cam_from_world)
    assert torch.allclose(from_json.focal_px, from_model.focal_px) and torch.equal(from_json.size, from_model.size)


@pytest.mark.parametrize("content", ["", "[]", '{"images": {}}', '{"images": {"a": {"R": 1}}}', '{"images": [1]}'])
def test_damaged_truth_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(content)
    with pytest.raises(InputError):
        read_posed_images(tmp_path / "gt.json")


def test_comparison_of_models() -> None:
    a = example_model()
    b = moved(turned(a, 0, 2.0))
    b = renamed(b, (*b.names[:-1], "new.jpg"))
    result = compare_models(a, b)
    assert result["shared_images"] == 5
    assert result["only_in_a"] == ["view 5.jpg"] and result["only_in_b"] == ["new.jpg"]
    assert result["scale"] == pytest.approx(2.5)
    assert result["camera_rotation_deg"]["max"] == pytest.approx(2) and result["pair_rotation_deg"]["median"] < 1e-5
    assert result["camera_distance_percent"]["max"] < 1e-6 and result["focal_difference_percent"]["max"] == 0
    assert result["a"]["points"] == result["b"]["points"] == 200
    with pytest.raises(InputError, match="No image is in both"):
        compare_models(a, renamed(a, tuple(f"{s}.jpg" for s in range(6))))


@pytest.mark.skipif("VGGSFM_BENCH" not in os.environ, reason="VGGSFM_BENCH names no folder")
def test_figures_are_those_of_the_bench_script(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    model = example_model()
    noise = 0.02 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    poses = model.cameras.cam_from_world.clone()
    poses[0] = torch.cat([rotation.exp(noise) @ poses[0, :, :, :3], poses[0, :, :, 3:] + 2 * noise[..., None]], -1)
    params = model.cameras.params * torch.tensor([1.03, 1, 1, 1, 1, 1, 1, 1])
    noisy = dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, cam_from_world=poses, params=params))
    noisy = renamed(noisy, (*noisy.names[:-1], "unknown.jpg"))
    write_colmap(noisy, tmp_path / "sparse")
    truth = write_truth(model, tmp_path / "gt.json")
    script = Path(os.environ["VGGSFM_BENCH"]) / "evaluate.py"
    out = tmp_path / "score.json"
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "sparse"), str(truth), "--json", str(out)],
        check=True, capture_output=True,
    )  # fmt: skip
    theirs, ours = json.loads(out.read_text()), evaluate_model(noisy, read_posed_images(truth))
    for kind in ("AUC_max", "AUC_min"):
        assert [ours[f"{kind}@{t}"] for t in (1, 3, 5, 10)] == pytest.approx(
            [theirs[f"{kind}@{t}"] for t in (1, 3, 5, 10)]
        )
    assert [ours["RRA@5"], ours["RTA@5"]] == pytest.approx([theirs["RRA@5"], theirs["RTA@5"]])
    assert ours["registered"] == theirs["registered"] == 5
    assert ours["ate"] == pytest.approx(theirs["ate_rmse"]) and ours["ate_percent"] == pytest.approx(
        theirs["ate_rmse_pct"]
    )
    assert ours["focal_error_percent"]["mean"] == pytest.approx(theirs["focal_error_pct_mean"])
    assert ours["rotation_error_deg"]["mean"] == pytest.approx(theirs["rotation_error_deg"]["mean"])


def errors_of(*pairs: tuple[float, float]) -> PairErrors:
    """Pairs of a rotation and a translation error, degrees."""
    turned, between = torch.tensor(pairs).reshape(-1, 2).unbind(-1)
    return PairErrors(rotation_deg=turned, translation_deg=between)


def test_accuracy_counts_what_is_below() -> None:
    assert accuracy(torch.tensor([1.0, 14.9, 15.0, math.inf]), 15.0) == 0.5
    assert accuracy(torch.zeros(0), 15.0) == 0.0


def test_area_is_the_mean_over_whole_degrees_of_the_larger_error() -> None:
    errors = errors_of((0.5, 0.2), (0.1, 1.5), (5.0, 0.0), (math.inf, math.inf))
    # below 1: one of four pairs, below 2 and 3: two
    assert auc_by_degrees(errors, 3) == pytest.approx((1 + 2 + 2) / 12)
    assert auc_by_degrees(errors_of(*[(0.0, 0.0)] * 3), 30) == 1.0
    assert auc_by_degrees(errors_of(), 30) == 0.0


def test_the_sign_of_a_direction_is_left_out_but_not_a_missing_frame() -> None:
    errors = without_sign(errors_of((3.0, 20.0), (3.0, 170.0), (3.0, 90.0), (math.inf, math.inf)))
    assert errors.rotation_deg.tolist() == [3.0, 3.0, 3.0, math.inf]
    assert errors.translation_deg.tolist() == [20.0, 10.0, 90.0, math.inf]


@pytest.mark.skipif("VGGSFM_REFERENCE" not in os.environ, reason="VGGSFM_REFERENCE names no folder")
def test_figures_are_those_of_the_published_metric() -> None:
    from safetensors.torch import load_file

    golden = load_file(Path(os.environ["VGGSFM_REFERENCE"]) / "metrics_align.safetensors")
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    true, found = (
        torch.cat([(golden[f"{kind}_R_p3d"] * flip).mT, (golden[f"{kind}_T_p3d"] * flip)[..., None]], -1)
        for kind in ("gt", "pred")
    )
    errors = without_sign(pair_errors(found, true, torch.ones(len(true), dtype=torch.bool)))
    named = {"RRA": errors.rotation_deg, "RTA": errors.translation_deg}
    torch.testing.assert_close(named["RRA"].float(), golden["rel_rot_deg"], atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(named["RTA"].float(), golden["rel_trans_deg"], atol=2e-3, rtol=1e-4)
    for threshold in (5, 15, 30):
        for name, values in named.items():
            assert accuracy(values, threshold) == pytest.approx(float(golden[f"{name}_{threshold}"]), abs=1e-5)
    for threshold in (3, 5, 10, 30):
        area = auc_by_degrees(errors, threshold)
        assert area == pytest.approx(float(golden[f"auc{threshold}_np"]), abs=1e-5)
