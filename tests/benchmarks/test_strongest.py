"""The strongest peer stands beside this tool whichever it is, and the sentences follow the figures."""

from typing import Any

from pose_bench.peers import AREAS
from pose_bench.strongest import FREED, OURS, SIFT, scenes_table, sets_table, verdict


def row(scene: str, method: str, area: float) -> dict[str, Any]:
    score = {"registered": 8, "images": 8, **dict.fromkeys(AREAS, area)}
    return {"scene": scene, "bag": "full", "method": method, "seconds": 10.0, "peak_memory_mb": 900, "score": score}


def document(ours: float, pinned: float, freed: float, small: float = 60.0) -> dict[str, Any]:
    methods = {OURS: small, SIFT: 30.0, FREED: 50.0}
    means = {"bag3": {name: {"bags": 26, **dict.fromkeys(AREAS, area)} for name, area in methods.items()}}
    areas = {OURS: ours, SIFT: pinned, FREED: freed}
    return {"means": means, "results": [row("house", method, area) for method, area in areas.items()]}


def recorded(area: float, small: float = 40.0) -> dict[str, Any]:
    figures = dict.fromkeys(AREAS, area)
    return {
        "full": [
            {"scene": "house", "K": "unknown", "peer": "aliked+global", **figures},
            {"scene": "house", "K": "known", "peer": "sift+global", **dict.fromkeys(AREAS, 100.0)},
        ],
        "means": [{"size": "bag3", "peer": "xfeat+global", **dict.fromkeys(AREAS, small)}],
    }


def test_a_peer_of_the_same_run_can_be_the_strongest() -> None:
    table = scenes_table(document(80.0, 60.0, 85.5), recorded(70.0))
    assert "80.0 / 80.0 / 80.0 / 80.0 | 85.5 / 85.5 / 85.5 / 85.5 | SIFT, principal point freed |" in table


def test_a_recorded_peer_can_be_the_strongest_and_keeps_its_digits() -> None:
    assert "| 90 / 90 / 90 / 90 | ALIKED, global mapping |" in scenes_table(document(80.0, 60.0, 85.5), recorded(90.0))


def test_peers_with_known_cameras_do_not_count() -> None:
    assert "100" not in scenes_table(document(80.0, 60.0, 85.5), recorded(70.0))


def test_small_sets_stand_beside_their_strongest_peer() -> None:
    assert "| 50.0 / 50.0 / 50.0 / 50.0 | SIFT, principal point freed |" in sets_table(
        document(80.0, 60.0, 70.0), recorded(70.0)
    )
    assert "| 55.0 / 55.0 / 55.0 / 55.0 | XFeat, global mapping |" in sets_table(
        document(80.0, 60.0, 70.0), recorded(70.0, small=55.0)
    )


def test_the_verdict_says_where_the_tool_is_ahead_and_where_behind() -> None:
    ahead = verdict(document(88.0, 60.0, 85.5), recorded(70.0))
    assert "ahead of every peer on house (2.5)" in ahead and "loses" not in ahead
    behind = verdict(document(80.0, 60.0, 85.5, small=45.0), recorded(70.0))
    assert "loses to the strongest peer on house (5.5)" in behind and "ahead of every peer" not in behind
    assert "loses to the strongest peer on small sets of 3 (5.0) images" in behind


def test_the_verdict_says_how_much_is_the_principal_point() -> None:
    peers = recorded(70.0)
    assert "so all of that lead" in verdict(document(80.0, 60.0, 85.0), peers)
    assert "so most of that lead" in verdict(document(80.0, 60.0, 75.0), peers)
    assert "so part of that lead" in verdict(document(80.0, 60.0, 65.0), peers)
    assert "principal point" not in verdict(document(80.0, 60.0, 50.0), peers)
