"""Draw ``docs/report.jpg``: the report of the example scene, with a point chosen, as a browser shows it.

make demo && python examples/report_picture.py

Needs Chromium; ``tests/chromium.py`` says under which names it is found.
"""

import sys
import tempfile
from pathlib import Path

from vggsfm_cli.cli.report import report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from chromium import Chromium, find_chromium  # noqa: E402

SIZE = (1440, 960)
CHOOSE = """(() => {
    document.querySelectorAll("#film > div")[6].click();
    document.getElementById("layer-tracks").click();
    document.getElementById("layer-residuals").click();
    const { model, image } = vggsfmReport.state, [width, height] = model.cameras[image].size;
    const canvas = document.getElementById("picture"), area = canvas.getBoundingClientRect();
    let longest = -1;
    for (let i = model.start[image]; i < model.start[image + 1]; i++) {
        const x = model.xy[2 * i] / width, y = model.xy[2 * i + 1] / height;
        const central = x > 0.3 && x < 0.8 && y > 0.45 && y < 0.8;
        if (central && (longest < 0 || model.length[model.point[i]] > model.length[model.point[longest]])) longest = i;
    }
    const [x, y] = [model.xy[2 * longest] / width, model.xy[2 * longest + 1] / height];
    canvas.dispatchEvent(
        new MouseEvent("click", { clientX: area.left + x * area.width, clientY: area.top + y * area.height }));
    return vggsfmReport.state.point;
})()"""


def main() -> None:
    """Write the page, open it, choose an image and a point, and take the picture."""
    program = find_chromium()
    if program is None:
        sys.exit("no Chromium was found")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "report.html"
        images = ROOT / "examples" / "reading_corner" / "images"
        report(ROOT / "demo_output", images=images, out=page, title="reading_corner")
        browser = Chromium(program, Path(folder), SIZE)
        try:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            browser.send("Emulation.setEmulatedMedia", features=[scheme])
            browser.open(page)
            browser.wait("document.getElementById('picture').dataset.image")
            assert browser.evaluate(CHOOSE) is not None
            browser.evaluate("new Promise((done) => setTimeout(done, 1500))")
            picture = browser.screenshot(format="jpeg", quality=82)
        finally:
            browser.close()
    (ROOT / "docs" / "report.jpg").write_bytes(picture)


if __name__ == "__main__":
    main()
