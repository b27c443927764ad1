"""Our measures of poses and our alignment against the numbers of VGGSfM v2's."""

import torch
from torch import Tensor

from goldens import golden
from vggsfm_cli.camera_estimation import encoding
from vggsfm_cli.evaluation.poses import auc_by_degrees, auc_max, fold_directions_deg, pair_errors_deg
from vggsfm_cli.geometry import alignment, pose, rotation

FIXTURE = golden("metrics_align")


def errors() -> Tensor:
    found, true = (encoding.from_pytorch3d(FIXTURE[f"{who}_R_p3d"], FIXTURE[f"{who}_T_p3d"]) for who in ("pred", "gt"))
    return fold_directions_deg(pair_errors_deg(found, true, torch.ones(6, dtype=torch.bool)))


def test_pair_errors_as_published() -> None:
    turned, between = errors().unbind(-1)
    torch.testing.assert_close(turned, FIXTURE["rel_rot_deg"].double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(between, FIXTURE["rel_trans_deg"].double(), atol=2e-3, rtol=0)


def test_shares_within_a_threshold_as_published() -> None:
    for threshold in (5, 15, 30):
        turned, between = (errors() < threshold).double().mean(0)
        torch.testing.assert_close(turned, FIXTURE[f"RRA_{threshold}"])
        torch.testing.assert_close(between, FIXTURE[f"RTA_{threshold}"])


def test_area_under_the_curve_as_published() -> None:
    for threshold in (3, 5, 10, 30):
        torch.testing.assert_close(
            torch.tensor(auc_by_degrees(errors(), threshold) / 100), FIXTURE[f"auc{threshold}_np"].float()
        )
    # the exact area lies between that of the histogram and a degree's share less; the published torch variant too
    for exact in (auc_max(errors(), 30.0), 100 * float(FIXTURE["auc30_torch"])):
        assert auc_by_degrees(errors(), 30) - 100 / 30 <= exact <= auc_by_degrees(errors(), 30)


def test_directions_fold_at_a_right_angle() -> None:
    folded = fold_directions_deg(torch.tensor([[10.0, 170.0], [10.0, 20.0], [10.0, 90.0]]))
    assert folded[:, 1].tolist() == [10.0, 20.0, 90.0]
    assert torch.isinf(fold_directions_deg(torch.tensor([[torch.inf, torch.inf]]))).all()


def test_alignment_as_published() -> None:
    scale, turned, shift = alignment.align_cameras(FIXTURE["align_src"], FIXTURE["align_tgt"])
    torch.testing.assert_close(scale, FIXTURE["align_s"])
    torch.testing.assert_close(turned, FIXTURE["align_R"][0].mT, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(-turned.mT @ shift, FIXTURE["align_t"][0], atol=1e-9, rtol=1e-7)
    moved = alignment.apply_to_cameras(scale, turned, shift, golden("triangulation")["extrinsics"])
    torch.testing.assert_close(moved, FIXTURE["align_applied"], atol=1e-9, rtol=1e-7)


def test_cameras_on_a_line_are_aligned_in_full() -> None:
    true = alignment.apply_to_cameras(
        torch.tensor(2.0),
        rotation.exp(torch.tensor([0.3, -0.2, 0.9])),
        torch.tensor([1.0, 2.0, 3.0]),
        line_of_cameras(),
    )
    moved = alignment.apply_to_cameras(*alignment.align_cameras(line_of_cameras(), true), line_of_cameras())
    torch.testing.assert_close(moved, true, atol=1e-5, rtol=0)


def line_of_cameras() -> Tensor:
    poses = pose.identity(4)
    poses[:, 0, 3] = -torch.arange(4.0)
    return poses
