"""The tables of a result."""

from vggsfm_cli.evaluation.table import to_markdown


def figures(median, per_pair=100.0):
    return {
        "pairs": 4,
        "per_pair": per_pair,
        "within_1px_per_pair": 80.0,
        "median_px": median,
        "within_1px": 80.0,
        "within_5px": 95.5,
    }


def a_result():
    rendered = {
        "scenes": 3,
        "positions": 1000,
        "seconds": 2.0,
        "delta_average": 81.25,
        "average_jaccard": 60.0,
        "occlusion_accuracy": 90.0,
        "points_within": [50.0] * 5,
        "precision": 97.0,
        "recall": 70.0,
        "median_px": 0.1,
        "median_px_at_1024": 0.2,
        "inside_50": 51.0,
        "inside_90": None,
        "distances": {"tracks": {"10": figures(0.111)}},
    }
    distances = {"tracks": {"10": figures(0.3), "80": figures(None, 0.0)}, "mutual": {"10": figures(0.7)}}
    real = {
        "scenes": {"wall": {"scene": "wall", "frames": 5, "seconds": 4.0, "distances": distances}},
        "all": distances,
    }
    return {
        "machine": {"system": "any", "cores": 2, "torch_threads": 1, "cuda": None},
        "versions": {"vggsfm-cli": "1.2.3", "torch": "2.13"},
        "settings": {
            "real": {"long_side": 1024, "query_frames": 4, "queries": 2048},
            "rendered": {
                "textures": "procedural",
                "query_frames": 2,
                "queries": 64,
                "right_px": 3.0,
                "calibration_px": 5.0,
                "seed": 7,
            },
        },
        "models": {
            "small": {"rendered": rendered, "real": real},
            "other": {"rendered": None, "real": {"scenes": {}, "all": {}}},
        },
        "failures": [{"scene": "wall", "model": "other", "error": "no reason"}],
    }


def test_every_figure_stands_in_its_row():
    text = to_markdown(a_result())
    assert "| small | 81.2 | 90.0 | 60.0 | 97.0 | 70.0 | 0.200 | 51.0 | - |" in text
    assert "| 10° (5-17) | 4 | small | tracks | 100 | 80 | 0.111 | 80.0 | 95.5 |" in text
    assert "| 10° (5-17) | 4 | small | mutual matches of keypoints | 100 | 80 | 0.700 | 80.0 | 95.5 |" in text
    assert "| wall | small | 0.30 / 80 / 100 |  |  | - / 80 / 0 |" in text
    assert "- wall, other: no reason" in text
    assert "vggsfm-cli 1.2.3, torch 2.13, 2 cores, seed 7" in text and "small 6 s" in text


def test_rows_of_a_table_have_as_many_cells_as_its_head():
    width = None
    for line in to_markdown(a_result()).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width


def test_parts_that_were_not_measured_are_left_out():
    result = a_result()
    result["models"]["small"]["real"]["scenes"] = {}
    assert "Surveyed" not in to_markdown(result)
    result = a_result()
    result["models"]["small"]["rendered"] = None
    assert "Rendered" not in to_markdown(result)
