"""The report page in headless Chromium: it draws, says no error, fetches nothing, and answers to pointer and keys."""

import contextlib
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from chromium import Chromium, find_chromium
from example_model import example_model
from vggsfm_cli.visualization.report import save_html_report

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium is installed; name one in $CHROMIUM or install chromium-headless-shell"
)

SIZE = (1100, 760)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    folder = tmp_path_factory.mktemp("report")
    models = [example_model(points=300), example_model(frames=3, points=60, seed=1)]
    sizes = dict(zip(models[0].names, models[0].sizes.tolist(), strict=True))

    def photograph(name: str) -> tuple[np.ndarray, int]:
        width, height = sizes[name]
        return np.full((height, width, 3), 200, dtype=np.uint8), 6 if name == "view 2.jpg" else 1

    report = {"images": [{"name": "lost.jpg", "reason": "too few tracks"}], "stages": {"tracks": {"seconds": 3.0}}}
    save_html_report(models, folder / "report.html", title="<b>test", photographs=photograph, report=report)
    browser = Chromium(find_chromium() or "", folder, SIZE)
    try:
        browser.open(folder / "report.html")
        browser.wait(
            "document.getElementById('viewer').dataset.drawn && document.getElementById('picture').dataset.image"
        )
        yield browser
    finally:
        browser.close()


@pytest.fixture(autouse=True)
def nothing_to_complain_about(page: Chromium) -> Iterator[None]:
    choose_model(page, 0)
    yield
    assert page.complaints == []
    assert page.requests and all(url.startswith(("data:", "file:///")) for url in page.requests)


def choose_model(page: Chromium, number: int) -> None:
    choice = "document.getElementById('model')"
    page.evaluate(f"{choice}.value = {number}, {choice}.dispatchEvent(new Event('change'))")


def chosen(page: Chromium) -> int:
    return int(page.evaluate("vggsfmReport.state.image"))


def scene(page: Chromium) -> np.ndarray:
    """What is seen of the 3D view."""
    area = json.loads(page.evaluate("JSON.stringify(document.getElementById('scene').getBoundingClientRect())"))
    clip = {key: area[key] for key in ("x", "y", "width", "height")} | {"scale": 1}
    return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)


def share(picture: np.ndarray, color: tuple[int, int, int], tolerance: int = 40) -> float:
    return float((np.abs(picture - color).max(-1) < tolerance).mean())


def test_points_and_cameras_are_drawn(page: Chromium) -> None:
    drawn = scene(page)
    assert 0.4 < share(drawn, (17, 21, 29), 8) < 0.98
    assert share(drawn, (255, 154, 60)) > 0.001  # frusta
    assert share(drawn, (90, 209, 255)) > 0.0003  # the chosen one
    assert len(np.unique(drawn.reshape(-1, 3) // 32, axis=0)) > 20  # points, in their colours


def test_a_click_on_a_camera_shows_its_image(page: Chromium) -> None:
    for s in (3, 5, 1):
        shown = f"document.getElementById('picture').dataset.image === '{s}'"
        for _ in range(5):  # on a busy machine the scene may still turn between the look and the click
            page.click(*page.evaluate(f"vggsfmReport.cameraOnScreen({s})"))
            with contextlib.suppress(AssertionError):
                page.wait(shown, timeout_s=5)
                break
        assert page.evaluate(f"Boolean({shown})") and chosen(page) == s
        assert page.evaluate("document.getElementById('picture-name').textContent") == f"view {s}.jpg"
        current = "document.querySelector('#images tr[aria-current] th').textContent"
        assert page.evaluate(current) == f"view {s}.jpg"


def test_the_picture_shows_its_points_where_they_were_observed(page: Chromium) -> None:
    page.evaluate("document.getElementById('layer-residuals').click()")
    for s in (0, 2):  # the second one lies on its side in the file
        page.evaluate(f"document.querySelectorAll('#film > div')[{s}].click()")
        page.wait(f"document.getElementById('picture').dataset.image === '{s}'")
        marks = page.evaluate(
            """(() => {
                const { model, image } = vggsfmReport.state, canvas = document.getElementById("picture");
                const camera = model.cameras[image], [w, h] = camera.size, turned = camera.orientation === 6;
                const scale = canvas.width / (turned ? h : w), found = [];
                const copy = document.createElement("canvas");
                const context = copy.getContext("2d", { willReadFrequently: true });
                [copy.width, copy.height] = [canvas.width, canvas.height];
                context.drawImage(canvas, 0, 0);
                for (let i = model.start[image]; i < model.start[image + 1]; i++) {
                    const x = model.xy[2 * i], y = model.xy[2 * i + 1], [X, Y] = turned ? [h - y, x] : [x, y];
                    found.push([...context.getImageData(Math.floor(X * scale), Math.floor(Y * scale), 1, 1).data]);
                }
                return found;
            })()"""
        )
        marked = [max(abs(channel - 200) for channel in pixel[:3]) > 60 for pixel in marks]
        assert len(marked) > 100 and np.mean(marked) > 0.95
    page.evaluate("document.getElementById('layer-residuals').click()")


def test_a_click_on_a_point_of_the_picture_shows_it_in_all_images(page: Chromium) -> None:
    at = """(() => {
        const { model } = vggsfmReport.state, area = document.getElementById("picture").getBoundingClientRect();
        const scale = area.width / model.cameras[0].size[0];
        return [area.left + scale * model.xy[20], area.top + scale * model.xy[21]];
    })()"""
    page.click(*page.evaluate(at))
    page.wait("vggsfmReport.state.point !== null")
    count = page.evaluate("(({ model, point }) => model.length[point])(vggsfmReport.state)")
    assert page.evaluate("document.querySelectorAll('#patches button').length") == count > 1
    assert "mean error" in page.evaluate("document.getElementById('point-figures').textContent")
    assert page.evaluate("document.getElementById('point').hidden") is False


def test_all_works_from_the_keyboard(page: Chromium) -> None:
    page.evaluate("document.getElementById('scene').focus()")
    before = scene(page)
    for _ in range(4):
        page.press("ArrowRight")
    assert np.abs(scene(page) - before).max() > 60
    page.press(".")
    assert chosen(page) == 1
    page.evaluate("document.getElementById('film').focus()")
    page.press("End")
    assert chosen(page) == 5
    page.press("ArrowLeft")
    assert chosen(page) == 4
    reach = """[...document.querySelectorAll("button, select, input, summary, [role=listbox], #scene")]
        .filter((el) => el.offsetParent && el.tabIndex < 0).length"""
    assert page.evaluate(reach) == 0


def test_charts_and_tables(page: Chromium) -> None:
    bars = {
        name: page.evaluate(f"document.querySelectorAll('#chart-{name} rect').length")
        for name in ("error", "length", "angle")
    }
    assert bars["error"] == bars["angle"] == 32 and bars["length"] >= 2
    assert page.evaluate("document.getElementById('covisibility').width") == 6
    assert page.evaluate("document.querySelector('h1').textContent") == "<b>test"
    sort = "document.querySelector('#images thead th:nth-child(4) button').click()"
    seen = "[...document.querySelectorAll('#images tbody tr')].map((row) => parseInt(row.cells[3].textContent) || -1)"
    page.evaluate(sort)
    rising = page.evaluate(seen)
    assert rising == sorted(rising) and rising[0] == -1
    page.evaluate(sort)
    assert page.evaluate(seen) == rising[::-1]


def test_another_model(page: Chromium) -> None:
    choose_model(page, 1)
    page.wait("document.querySelectorAll('#film > div').length === 3")
    assert page.evaluate("document.querySelector('section.tiles[data-model=\"0\"]').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Chromium, scheme: str) -> None:
    page.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(int(value) for value in paper[4:-1].split(",")) > 600) == (scheme == "light")
    finally:
        page.send("Emulation.clearDeviceMetricsOverride")
