"""Shares and areas of pose errors, by hand and against the published metric's own figures."""

import os
from pathlib import Path

import pytest
import torch

from vggsfm_cli.evaluation.poses import pair_errors
from vggsfm_cli.evaluation.shares import auc_by_degrees, share_below, without_sign

INF = torch.inf


def test_shares_count_what_is_below():
    errors = torch.tensor([1.0, 14.9, 15.0, INF])
    assert share_below(errors, 15.0) == 50.0
    assert share_below(torch.zeros(0), 15.0) == 0.0


def test_area_is_the_mean_over_whole_degrees_of_the_larger_error():
    errors = torch.tensor([[0.5, 0.2], [0.1, 1.5], [5.0, 0.0], [INF, INF]])
    # below 1: one of four pairs, below 2 and 3: two
    assert auc_by_degrees(errors, 3) == pytest.approx(100 * (1 + 2 + 2) / 12)
    assert auc_by_degrees(torch.zeros(3, 2), 30) == 100.0
    assert auc_by_degrees(torch.zeros(0, 2), 30) == 0.0


def test_the_sign_of_a_direction_is_left_out_but_not_a_missing_frame():
    errors = without_sign(torch.tensor([[3.0, 20.0], [3.0, 170.0], [3.0, 90.0], [INF, INF]]))
    assert errors.tolist() == [[3.0, 20.0], [3.0, 10.0], [3.0, 90.0], [INF, INF]]


@pytest.mark.skipif("VGGSFM_REFERENCE" not in os.environ, reason="VGGSFM_REFERENCE names no folder")
def test_figures_are_those_of_the_published_metric():
    from safetensors.torch import load_file

    golden = load_file(Path(os.environ["VGGSFM_REFERENCE"]) / "metrics_align.safetensors")
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    true, found = (
        torch.cat([(golden[f"{kind}_R_p3d"] * flip).mT, (golden[f"{kind}_T_p3d"] * flip)[..., None]], -1)
        for kind in ("gt", "pred")
    )
    errors = without_sign(pair_errors(found, true, torch.ones(len(true), dtype=torch.bool)).stacked)
    torch.testing.assert_close(errors[:, 0].float(), golden["rel_rot_deg"], atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(errors[:, 1].float(), golden["rel_trans_deg"], atol=2e-3, rtol=1e-4)
    for threshold in (5, 15, 30):
        for column, name in enumerate(("RRA", "RTA")):
            share = share_below(errors[:, column], float(threshold))
            assert share == pytest.approx(
                100 * float(golden[f"{name}_{threshold}"]), abs=1e-3
            ) or share == pytest.approx(float(golden[f"{name}_{threshold}"]), abs=1e-3)
    for threshold in (3, 5, 10, 30):
        area = auc_by_degrees(errors, threshold)
        assert area == pytest.approx(100 * float(golden[f"auc{threshold}_np"]), abs=1e-3)
