"""One self-contained HTML page about a model: nothing is fetched when it is looked at."""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch

from vggsfm_cli import __version__
from vggsfm_cli.errors import InputError
from vggsfm_cli.folders import whole_file
from vggsfm_cli.geometry.camera import PARAM_NAMES
from vggsfm_cli.scene import Progress, ProgressCallback, Reconstruction, silent
from vggsfm_cli.visualization.report.figures import measure
from vggsfm_cli.visualization.report.packing import Thinning, pack_model, plan_thinning
from vggsfm_cli.visualization.report.pictures import Photographs, Picture, reduced_pictures

ASSETS = resources.files("vggsfm_cli.visualization.report") / "assets"
SCRIPTS = ("three.min.js", "page.js")
FACTS = (("Weights and licence", "weights"), ("Options", "options"), ("Versions", "versions"), ("Machine", "machine"))
"""Headings, and the keys of ``report.json`` below them."""
LABELS = {"reason": "chosen because"}
UNKNOWN_REASON = "not in this model"


@dataclass(frozen=True, kw_only=True)
class HtmlReportConfig:
    """How much a page may carry; at these limits it has about 15 MB."""

    max_points: int = 80_000
    max_observations: int = 120_000
    picture_bytes: int = 5_500_000  # of all photographs together, before they are written as text
    picture_side_px: int = 1280
    covisibility_cells: int = 400


def save_html_report(
    models: Sequence[Reconstruction],
    path: Path | str,
    *,
    title: str,
    photographs: Photographs | None = None,
    report: Mapping[str, Any] | None = None,
    config: HtmlReportConfig | None = None,
    progress: ProgressCallback = silent,
) -> None:
    """Write ``render_html_report`` to a file, which appears whole or not at all.

    Raises:
        InputError: as ``render_html_report``.
        WriteFailed: the disk refuses.
    """
    text = render_html_report(
        models, title=title, photographs=photographs, report=report, config=config, progress=progress
    )
    with whole_file(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def render_html_report(
    models: Sequence[Reconstruction],
    *,
    title: str,
    photographs: Photographs | None = None,
    report: Mapping[str, Any] | None = None,
    config: HtmlReportConfig | None = None,
    progress: ProgressCallback = silent,
) -> str:
    """The page about the models of one run, or about any COLMAP model.

    Args:
        models: shown one at a time, the first one first.
        title: of the page.
        photographs: from a name to stored pixels and EXIF orientation; without it there are no pictures.
        report: content of ``report.json``, for reasons, confidence, times, weights and licence.
        config: limits of what the page carries; where they cut something off, the page says so.
        progress: is told of each photograph.

    Raises:
        InputError: a model without registered images, or with poses or camera parameters that are not numbers.
    """
    config = config or HtmlReportConfig()
    for model in models:
        _check(model)
    thinning = plan_thinning(models, max_points=config.max_points, max_observations=config.max_observations)
    pictures = _pictures(models, photographs, config, progress)
    packed, start = [], 0
    for model in models:
        chosen = pictures[start : start + len(model.names)]
        start += len(model.names)
        packed.append(pack_model(model, measure(model, config.covisibility_cells), chosen, thinning))
    scripts = [_asset(name) for name in SCRIPTS]
    rows = _rows(models, packed, report or {})
    return _template().render(
        title=title,
        version=__version__,
        policy=_policy(scripts),
        style=_asset("page.css"),
        scripts=scripts,
        data={"models": packed},
        models=[_describe(i, model, packed[i], report or {}) for i, model in enumerate(models)],
        rows=rows,
        missing=any(row["model"] is None for row in rows),
        seconds=_as_number((report or {}).get("seconds")),
        stages=_stages(report or {}),
        facts=_facts(report or {}),
        notes=_notes(models, thinning, pictures, photographs),
    )


def _check(model: Reconstruction) -> None:
    cameras = model.cameras
    if len(model.names) == 0:
        raise InputError("The model holds no registered image.", "There is nothing to show of it.")
    if not bool(torch.isfinite(cameras.cam_from_world).all() and torch.isfinite(cameras.params).all()):
        raise InputError("The model holds poses or camera parameters that are not numbers.", "Write it again.")
    if bool((cameras.frame_params[..., 0] <= 0).any()) or bool((model.sizes <= 0).any()):
        raise InputError("The model holds a camera without focal length or size.", "Write it again.")


def _pictures(
    models: Sequence[Reconstruction],
    photographs: Photographs | None,
    config: HtmlReportConfig,
    progress: ProgressCallback,
) -> list[Picture | None]:
    names = [name for model in models for name in model.names]
    if photographs is None:
        return [None] * len(names)
    sizes = [(width, height) for model in models for width, height in model.sizes.tolist()]
    return reduced_pictures(
        names,
        sizes,
        photographs,
        max_bytes=config.picture_bytes,
        max_side_px=config.picture_side_px,
        done=lambda count: progress(Progress(stage="pictures", done=count, total=len(names))),
    )


@functools.cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_asset("page.html.j2"))


def _number(value: Any, digits: int = 0) -> str:
    """A number as people write it; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _policy(scripts: Sequence[str]) -> str:
    """What a browser lets the page do: run these very scripts, show its own pictures, and nothing else."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"


def _describe(
    index: int, model: Reconstruction, packed: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """What is said about a model in words."""
    own = _entry(report.get("models"), index)
    histograms = packed["histograms"]
    return {
        "images": len(model.names),
        "points": len(model.xyz_world),
        "observations": len(model.frame),
        "track_length": histograms["length"]["mean"],
        "error_px": histograms["error"]["mean"],
        "angle_deg": histograms["angle"]["median"],
        "confidence": _as_number(own.get("confidence")),
        "confidence_level": own.get("confidence_level"),
        "doubts": own.get("doubts") or [],
        "cameras": _cameras(model),
    }


def _entry(items: Any, index: int) -> Mapping[str, Any]:
    found = items[index] if isinstance(items, list) and index < len(items) else {}
    return found if isinstance(found, Mapping) else {}


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _stages(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds and memory of each stage, and how long a bar to draw."""
    stages = report.get("stages")
    rows = [
        {"name": name, **{key: _as_number(entry.get(key)) for key in ("seconds", "peak_memory_mb")}}
        for name, entry in (stages.items() if isinstance(stages, Mapping) else ())
        if isinstance(entry, Mapping)
    ]
    longest = max((row["seconds"] or 0.0 for row in rows), default=0.0) or 1.0
    return [{**row, "percent": round(100 * (row["seconds"] or 0.0) / longest, 1)} for row in rows]


def _facts(report: Mapping[str, Any]) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    """Heading, whether it is unfolded at first, and names with values."""
    listed = []
    for heading, key in FACTS:
        entry = report.get(key)
        if isinstance(entry, Mapping):
            items = [
                (LABELS.get(str(name)) or str(name).replace("_", " "), "–" if value is None else str(value))
                for name, value in entry.items()
                if value != ""
            ]
            listed.append((heading, key == "weights", items))
    return listed


def _cameras(model: Reconstruction) -> list[dict[str, Any]]:
    index = model.cameras.camera_index[0].tolist()
    listed = []
    for c, name in enumerate(model.cameras.models):
        if c not in index:
            continue
        values = model.cameras.params[0, c].tolist()
        names = PARAM_NAMES.get(name, tuple(f"p{i + 1}" for i in range(len(values))))
        width, height = model.sizes[index.index(c)].tolist()
        listed.append(
            {
                "id": c + 1,
                "model": name,
                "size": f"{width} × {height}",
                "images": index.count(c),
                "params": [(label, f"{value:.6g}") for label, value in zip(names, values, strict=False)],
            }
        )
    return listed


def _rows(
    models: Sequence[Reconstruction], packed: Sequence[Mapping[str, Any]], report: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The table of images: those of the models with their figures, the others with the reason why they are missing."""
    placed: dict[str, dict[str, Any]] = {}
    for m, model in enumerate(models):
        for s, name in enumerate(model.names):
            camera = packed[m]["cameras"][s]
            figures = {key: camera[key] for key in ("observations", "mean_error_px", "high_error_px")}
            placed.setdefault(name, {"name": name, "model": m, "frame": s, "camera": camera["camera"], **figures})
    rows = []
    listed = report.get("images")
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, Mapping):
            continue
        name = str(item.get("name"))
        reason = item.get("reason") or UNKNOWN_REASON
        rows.append(placed.pop(name) if name in placed else {"name": name, "model": None, "reason": str(reason)})
    return rows + list(placed.values())


def _notes(
    models: Sequence[Reconstruction],
    thinning: Thinning,
    pictures: Sequence[Picture | None],
    photographs: Photographs | None,
) -> list[str]:
    """What the page leaves out, in sentences."""
    notes = []
    if thinning.point_step > 1:
        notes.append(f"Drawn is every {_ordinal(thinning.point_step)} point; figures are those of all.")
    if thinning.track_step > 1:
        notes.append(f"Tracks are those of every {_ordinal(thinning.track_step)} point; figures are those of all.")
    missing = sum(picture is None for picture in pictures)
    if photographs is None:
        notes.append("The photographs are not at hand, so positions are shown without them.")
    elif missing:
        notes.append(f"{missing} of {len(pictures)} photographs are not shown: missing, of another size, or too many.")
    if any(picture is not None for picture in pictures):
        notes.append("Photographs are reduced to keep the file small.")
    unknown = {name for model in models for name in model.cameras.models if name not in PARAM_NAMES}
    if unknown:
        notes.append(f"There are no reprojections for cameras of the model {', '.join(sorted(unknown))}.")
    return notes


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
