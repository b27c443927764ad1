"""Recorded figures of peers, and the rule of their means: what is published follows from what is published."""

import pytest
from pose_bench import peers
from pose_bench.tables import means_by_method, to_markdown

TEXT = """# Peers

AUC_max of something,
in percent.

## Full sets

| scene | K | peer | registered | AUC@1 | @3 | @5 | @10 | ATE % | focal % | points |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| a | unknown | one | 7/8 | 70 | 90 | 94 | 97 | 0.05 | 0.1 | 7139 |
| a | known | one | 8/8 | 95 | 96 | 97 | 98 | 0.05 | 0.1 | 7139 |

## Bags

| scene | size | peer | bags | registered | AUC@1 | @3 | @5 | @10 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| a | bag3 | one | 0,1,2 | 3.0 | 10 | 20 | 30 | 40 |
| a | bag3 | two | 0,2 | 3.0 | 10 | 20 | 30 | 40 |
| b | bag3 | one | 0 | 2.5 | 50 | 60 | 70 | 80 |
| b | bag3 | two | 0,1 | 2.5 | 50 | 60 | 70 | 80 |

## Means

| size | peer | scenes | bags | AUC@1 | @3 | @5 | @10 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| bag3 | one | 2 | 3 | 30.0 | 40.0 | 50.0 | 60.0 |
"""


def row(scene, bag, area, method="vggsfm"):
    areas = dict.fromkeys(peers.AREAS, area)
    score = {"registered": 2, "images": 3, **areas}
    return {"scene": scene, "bag": bag, "method": method, "score": score, "seconds": 1.0, "peak_memory_mb": 5}


def test_tables_are_read():
    document = peers.parse(TEXT)
    assert document["protocol"] == "AUC_max of something, in percent."
    assert document["full"][0] == {
        "scene": "a",
        "K": "unknown",
        "peer": "one",
        "registered": 7,
        "images": 8,
        "AUC@1": 70.0,
        "AUC@3": 90.0,
        "AUC@5": 94.0,
        "AUC@10": 97.0,
        "ATE %": 0.05,
        "focal %": 0.1,
        "points": 7139,
    }
    assert document["bags"][0]["bags"] == [0, 1, 2]
    assert document["means"][0]["bags"] == 3


def test_common_bags_are_those_of_every_peer():
    assert peers.common_bags(peers.parse(TEXT)) == {("a", "bag3", 0), ("a", "bag3", 2), ("b", "bag3", 0)}


def test_means_are_over_bags_then_over_scenes():
    rows = [row("a", "bag3-0", 10), row("a", "bag3-1", 99), row("a", "bag3-2", 30), row("b", "bag3-0", 80)]
    count, of, values = means_by_method([*rows, row("a", "full", 99)], peers.parse(TEXT))["bag3"]["vggsfm"]
    assert (count, of) == (3, 3)
    assert values["AUC@5"] == pytest.approx((20 + 80) / 2)


def test_recorded_means_follow_from_the_recorded_bags():
    """ALIKED's rows are over the common bags alone, so that its means can be computed again from rounded figures."""
    document = peers.read()
    common = peers.common_bags(document)
    assert {size: sum(bag[1] == size for bag in common) for size in peers.BAG_SIZES} == {
        "bag3": 33,
        "bag5": 33,
        "bag10": 13,
    }
    for mean in document["means"]:
        if mean["peer"].startswith("aliked"):
            for area in peers.AREAS:
                values = {
                    (row["scene"], row["size"], bag): row[area]
                    for row in document["bags"]
                    if row["peer"] == mean["peer"]
                    for bag in row["bags"]
                }
                assert set(values) == common
                assert peers.mean_over_scenes(values, mean["size"]) == pytest.approx(mean[area], abs=0.5)


def test_page_shows_ours_beside_the_recorded():
    rows = [row("a", "full", 60), row("a", "full", 50, "sift"), row("a", "bag3-0", 10)]
    machine = {"threads": 2, "cores": 2, "processor": "p"}
    page = to_markdown(rows, peers.parse(TEXT), machine)
    assert "| a | vggsfm | 2/3 | 60.0 | 60.0 | 60.0 | 60.0 | 1.0 | 5 |" in page
    assert "| a | *one, recorded* | 7/8 | 70 | 90 | 94 | 97 |  |  |" in page
    assert "| a | vggsfm | best recorded | -5 | -10.0 | -30.0 | -34.0 | -37.0 |" in page  # not those with known K
    assert "| a | vggsfm | sift | 0 | +10.0 | +10.0 | +10.0 | +10.0 |" in page
    assert "| bag3 | vggsfm | 1 of 3 | 10.0 | 10.0 | 10.0 | 10.0 |" in page
    assert "| a | bag3 | vggsfm | 0 | 2.0 | 10.0 | 10.0 | 10.0 | 10.0 |" in page
