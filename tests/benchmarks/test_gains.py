"""Every learned part stands beside its measured gain, with its sign."""

from typing import Any

from ablation.gains import gains


def document() -> dict[str, Any]:
    ways = {
        "classical tracker": {"difference": [-4.0, -9.0, 1.0]},
        "camera transformer as a further start": {"difference": [0.4, -0.01, 1.1]},
    }
    points = {
        "triangulation transformer": {"ratio of medians": [0.8, 0.7, 0.9]},
        "transformer, adjusted": {"median": 0.124},
        "weighted by covariance, adjusted": {"median": 0.124},
    }
    cameras = {"camera transformer": {"against Gauss-Newton": [0.3, -1.2, 1.8]}}
    return {"photographs": {"3": ways}, "renders": {"cameras": {"3": cameras, "5": cameras}, "points": {"3": points}}}


def test_a_gain_is_what_is_lost_without_the_part() -> None:
    assert "AUC@5, photographs, 3 images | +4.0 [-1.0, +9.0] |" in gains(document())


def test_gains_are_signed() -> None:
    table = gains(document())
    assert "classical starts alone | AUC@5, photographs, 3 images | +0.4 [+0.0, +1.1] |" in table
    assert "AUC@10, rendered, 3 / 5 images | +0.3 [-1.2, +1.8] / +0.3 [-1.2, +1.8] |" in table
    assert "| -20 [-30, -10] % |" in table
    assert "| +0 % |" in table


def test_parts_that_were_not_measured_are_left_out() -> None:
    table = gains({"photographs": document()["photographs"]})
    assert "triangulation" not in table and "covariances" not in table and "track transformer" in table
