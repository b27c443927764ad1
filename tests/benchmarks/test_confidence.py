"""The ROC of a confidence, by hand."""

import pytest
from pose_bench.confidence import area_under, operating_points, summarize, to_markdown


def row(confidence, wrong, pairs=10, registered=10):
    report = None if confidence is None else {"models": [{"confidence": confidence}]}
    score = {"pairs": pairs, "pairs_registered": registered, "pairs_wrong": wrong, "registered": 5, "AUC@5": 50.0}
    return {"scene": "s", "bag": f"bag5-{wrong}", "score": score, "report": report}


def test_area_is_the_share_of_pairs_in_order():
    assert area_under([0.1, 0.2, 0.8, 0.9], [True, True, False, False]) == 1
    assert area_under([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == 0
    assert area_under([0.5, 0.5], [True, False]) == 0.5
    assert area_under([0.1, 0.6, 0.5, 0.9], [True, True, False, False]) == 0.75
    assert area_under([0.5, 0.4], [False, False]) is None


def test_operating_points_go_from_nothing_to_everything():
    points = operating_points([0.1, 0.6, 0.5, 0.9], [True, True, False, False])
    assert [(point["caught"], point["false_alarms"]) for point in points] == [
        (0, 0),
        (0.5, 0),
        (0.5, 0.5),
        (1, 0.5),
        (1, 1),
    ]


def test_wrong_is_more_than_half_of_all_pairs():
    summary = summarize([row(0.9, 5), row(0.9, 6), row(0.2, 10), row(0.3, 1)], low=0.5)
    assert [run["wrong"] for run in summary["each"]] == [False, True, True, False]
    assert (summary["wrong"], summary["missed"], summary["miss_rate"]) == (2, 1, 0.5)
    assert (summary["false_alarms"], summary["false_alarm_rate"]) == (1, 0.5)
    assert summary["missed_runs"] == ["s/bag5-6"]
    assert summary["auroc"] == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_pairs_that_are_not_in_the_model_are_not_wrong():
    """Three images of five, all wrong: the report says that two are missing."""
    summary = summarize([row(0.9, 3, registered=3), row(0.9, 0)])
    assert summary["wrong"] == 0 and summary["miss_rate"] is None and summary["auroc"] is None
    assert summary["of_registered"]["wrong"] == 1 and summary["of_registered"]["miss_rate"] == 1


def test_threshold_is_stated_and_runs_without_a_model_count_apart():
    nothing = row(None, 0, registered=0)
    nothing["score"]["registered"] = 0
    summary = summarize([row(0.6, 9), row(0.9, 0), nothing], low=0.7)
    assert (summary["runs"], summary["without_model"], summary["missed"], summary["threshold"]) == (2, 1, 0, 0.7)
    assert "| s | bag5-9 | 0.600 | yes | 9/10/10 | 50.0 |" in to_markdown(summary)
    assert summarize([nothing]) is None
