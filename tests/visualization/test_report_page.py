"""The report page without a browser: complete in itself, well-formed, escaped, and true to the model."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from example_model import example_model
from report_page import Page, digest, numbers
from vggsfm_cli.errors import InputError, WriteFailed
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization.report import HtmlReportConfig, render_html_report, save_html_report
from vggsfm_cli.visualization.report.pictures import reduced_pictures

HOSTILE = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>&{{ 7 * 7 }}.jpg"


def photograph(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise, which no JPEG makes small."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def pixels_of(model: Reconstruction):
    """A lookup with a photograph for every name of a model."""
    sizes = {name: tuple(size) for name, size in zip(model.names, model.sizes.tolist(), strict=True)}
    return lambda name: (photograph(sizes[name]), 1)


def run_report(model: Reconstruction) -> dict:
    return {
        "seconds": 12.5,
        "stages": {"tracks": {"seconds": 10.0, "peak_memory_mb": 900.0}, "mapping": {"seconds": 2.5}},
        "models": [{"confidence": 0.4, "confidence_level": "low", "doubts": ["few long tracks"]}],
        "images": [
            *({"name": name, "registered": True, "reason": None} for name in model.names),
            {"name": "lost.jpg", "registered": False, "reason": "too few tracks"},
        ],
        "weights": {"name": "small", "licence": "Apache-2.0", "licence_note": ""},
        "options": {"seed": 0, "adjuster": None},
    }


def test_the_page_is_complete_in_itself() -> None:
    model = example_model(points=40)
    text = render_html_report([model], title="test", photographs=pixels_of(model), report=run_report(model))
    page = Page(text)
    assert page.links_out() == []
    (policy,) = [found["content"] for tag, found, _ in page.elements if tag == "meta" and "http-equiv" in found]
    assert policy.startswith("default-src 'none'; img-src data: blob:;") and "http" not in policy
    assert len(page.scripts) == 2 and "\r" not in text
    for script in page.scripts:  # a browser runs these, and no others
        assert digest(script) in policy
    assert "Three.js Authors" in text
    ids = [found["id"] for _, found, _ in page.elements if "id" in found]
    assert len(ids) == len(set(ids))


def test_numbers_survive_the_way_into_the_page() -> None:
    model = example_model(points=90)
    moved = dataclasses.replace(model, xyz_world=model.xyz_world + 1e6, xy=model.xy + 0.5)
    centers = model.cameras.centers[0]
    poses = model.cameras.cam_from_world.clone()
    poses[0, :, :, 3] = -(poses[0, :, :, :3] @ (centers + 1e6)[..., None]).squeeze(-1)
    moved = dataclasses.replace(moved, cameras=dataclasses.replace(model.cameras, cam_from_world=poses))
    (data,) = Page(render_html_report([moved], title="far away")).data["models"]
    middle = np.array(data["view"]["middle"])
    xyz = numbers(data["points"]["xyz"], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(xyz + middle, moved.xyz_world.numpy(), atol=1e-6)
    np.testing.assert_allclose([c["center"] for c in data["cameras"]], (centers + 1e6).numpy(), rtol=1e-8)
    assert numbers(data["points"]["color"], "u1").tolist() == (model.color * 255).round().flatten().tolist()
    start, point = data["observations"]["start"], numbers(data["observations"]["point"], "<u4")
    xy = numbers(data["observations"]["xy"], "<f4").reshape(-1, 2)
    residual = numbers(data["observations"]["residual"], "<f4").reshape(-1, 2)
    assert start[-1] == len(point) == len(model.frame) == data["observations"]["count"]
    for s in range(len(model.names)):
        mine = model.frame == s
        order = model.point[mine].argsort()
        np.testing.assert_array_equal(point[start[s] : start[s + 1]], model.point[mine][order].numpy())
        np.testing.assert_allclose(xy[start[s] : start[s + 1]], moved.xy[mine][order].numpy(), atol=1e-3)
    np.testing.assert_allclose(residual, -0.5, atol=1e-3)
    assert numbers(data["covisibility"]["counts"], "<u4").reshape(6, 6).diagonal().sum() == len(model.frame)


def test_frusta_open_towards_what_the_camera_sees() -> None:
    model = example_model(points=40)
    (data,) = Page(render_html_report([model], title="test")).data["models"]
    for s, camera in enumerate(data["cameras"]):
        corners = torch.tensor(camera["corners"]).double() * 3 + torch.tensor(camera["center"]).double()
        pinhole = dataclasses.replace(model.cameras, params=model.cameras.params.clone())
        pinhole.params[0, 0, 3], pinhole.params[0, 1, 4:] = 0, 0
        width, height = model.sizes[s].tolist()
        xy = pinhole.project(corners[None])[0][0, s]
        expected = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]]).double()
        torch.testing.assert_close(xy, expected, atol=1e-3, rtol=0)


def test_the_table_says_what_was_registered_and_why_not() -> None:
    model = example_model(points=40)
    page = Page(render_html_report([model], title="test", report=run_report(model)))
    rows = page.texts("tr")
    assert sum("not registered: too few tracks" in row and "lost.jpg" in row for row in rows) == 1
    assert all(sum(name in row for row in rows) == 1 for name in model.names)
    text = " ".join(page.texts("body"))
    for word in ("6 of 7", "few long tracks", "Apache-2.0", "tracks", "12", "Doubtful", "seed"):
        assert word in text
    widths = [found["style"] for _, found, _ in page.elements if found.get("style", "").startswith("width")]
    assert widths == ["width: 100.0%", "width: 25.0%"]


def test_a_report_of_anything_is_survived() -> None:
    model = example_model(points=20)
    for report in (
        {"stages": 3, "models": "x", "images": {"a": 1}, "weights": [], "seconds": "long", "options": None},
        {"stages": {"a": {"seconds": "x"}, "b": 1}, "models": [7], "images": [1, {"name": None}]},
        {},
    ):
        Page(render_html_report([model], title="test", report=report))


def test_names_cannot_break_out() -> None:
    model = example_model(points=30)
    hostile = dataclasses.replace(model, names=(HOSTILE, "<!--", *model.names[2:]))
    report = run_report(hostile)
    report["images"].append({"name": "a", "registered": False, "reason": HOSTILE})
    report["weights"][HOSTILE] = HOSTILE
    report["stages"][HOSTILE] = {"seconds": 1.0}
    report["models"][0]["doubts"] = [HOSTILE]
    report["models"][0]["confidence_level"] = HOSTILE
    text = render_html_report([hostile], title=HOSTILE, report=report)
    plain = render_html_report([model], title="test", report=run_report(model))
    assert "<script>alert" not in text and "<img" not in text and "<!--" not in text and "49.jpg" not in text
    page = Page(text)
    assert page.scripts == Page(plain).scripts
    assert page.data["models"][0]["cameras"][0]["name"] == HOSTILE
    assert sum(row.startswith(HOSTILE) for row in page.texts("tr")) == 2  # in the table of images, and as a stage
    assert page.texts("h1") == [HOSTILE]


def test_large_models_are_thinned_and_the_page_says_so() -> None:
    model = example_model(points=500)
    config = HtmlReportConfig(max_points=100, max_observations=120)
    page = Page(render_html_report([model], title="test", config=config))
    (data,) = page.data["models"]
    index, point = numbers(data["points"]["index"], "<u4"), numbers(data["observations"]["point"], "<u4")
    assert index.tolist() == list(range(0, 500, 5)) and data["points"]["count"] == 500
    assert 0 < len(point) < 160 and point.max() < 100
    xy = numbers(data["observations"]["xy"], "<f4").reshape(-1, 2)
    start = data["observations"]["start"]
    for s in range(6):
        for i in range(start[s], start[s + 1]):
            same = (model.frame == s) & (model.point == int(index[point[i]]))
            np.testing.assert_allclose(xy[i], model.xy[same][0].numpy(), atol=1e-3)
    assert data["histograms"]["error"]["count"] == len(model.frame)
    footer = " ".join(page.texts("footer"))
    assert "every 5th point" in footer and "Tracks" in footer


def test_pictures_fit_whatever_their_number() -> None:
    names, sizes = [str(i) for i in range(12)], [(300, 200)] * 12
    noise = photograph((300, 200))
    for budget, least in ((2_000_000, 12), (60_000, 12), (9_000, 1)):
        pictures = reduced_pictures(names, sizes, lambda _: (noise, 6), max_bytes=budget, max_side_px=250)
        kept = [picture for picture in pictures if picture]
        assert sum(len(picture.jpeg) for picture in kept) <= budget and len(kept) >= least
        for picture in kept:
            assert Image.open(io.BytesIO(picture.jpeg)).size == picture.size and max(picture.size) <= 250
            assert picture.orientation == 6
    assert len(kept) < 12


def test_wrong_and_missing_photographs_are_left_out() -> None:
    model = example_model(points=30)
    right = pixels_of(model)
    found = {model.names[0]: right(model.names[0]), model.names[1]: (photograph((20, 20)), 1)}
    page = Page(render_html_report([model], title="test", photographs=found.get))
    pictures = [camera["picture"] for camera in page.data["models"][0]["cameras"]]
    assert pictures[0].startswith("data:image/jpeg;base64,") and pictures[1:] == [None] * 5
    assert "5 of 6 photographs are not shown" in " ".join(page.texts("footer"))


def test_several_models() -> None:
    first, second = example_model(points=40), example_model(frames=3, points=20, seed=1)
    page = Page(render_html_report([first, second], title="test"))
    assert [len(model["cameras"]) for model in page.data["models"]] == [6, 3]
    assert len(page.texts("option")) == 2 + 4
    hidden = [found["data-model"] for tag, found, _ in page.elements if tag == "section" and "hidden" in found]
    assert hidden == ["1"]


def test_models_that_cannot_be_shown() -> None:
    model = example_model(points=20)
    poses = model.cameras.cam_from_world.clone()
    poses[0, 1, 0, 0] = torch.nan
    broken = dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, cam_from_world=poses))
    with pytest.raises(InputError, match="not numbers"):
        render_html_report([broken], title="test")
    params = model.cameras.params.clone()
    params[..., 0] = 0
    broken = dataclasses.replace(model, cameras=dataclasses.replace(model.cameras, params=params))
    with pytest.raises(InputError, match="focal length"):
        render_html_report([broken], title="test")
    far = dataclasses.replace(model, xyz_world=model.xyz_world.clone())
    far.xyz_world[0] = torch.nan
    far.xyz_world[1] = 1e30
    Page(render_html_report([far], title="test"))


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    model = example_model(points=20)
    out = tmp_path / "report.html"
    save_html_report([model], out, title="test")
    assert json.dumps(Page(out.read_text(encoding="utf-8")).data)
    before = out.read_bytes()
    with pytest.raises(InputError):
        save_html_report([dataclasses.replace(model, names=())], out, title="test")
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(WriteFailed, match="Cannot write"):
        save_html_report([model], tmp_path / "no" / "report.html", title="test")
