"""The result of ``tracks.evaluate_trackers`` as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from vggsfm_cli.evaluation.pairs import ROTATION_BINS_DEG

KIND_LABELS = {
    "tracks": "tracks",
    "starts": "dense matches, consistent with neighbours",
    "dense": "dense matches, consistent both ways",
    "mutual": "mutual matches of keypoints",
}
"""How the rows are called, in their order."""


def to_markdown(result: dict[str, Any]) -> str:
    """All tables, with what the columns mean."""
    parts = ["# Tracks", *_rendered(result), *_real(result), *_failures(result), _origin(result)]
    return "\n\n".join(parts) + "\n"


def _rendered(result: dict[str, Any]) -> list[str]:
    measured = {name: model["rendered"] for name, model in result["models"].items() if model["rendered"]}
    if not measured:
        return []
    settings = result["settings"]["rendered"]
    first = next(iter(measured.values()))
    note = (
        f"{first['scenes']} scenes that no training sees, textures {settings['textures']}; queries are each model's "
        f"own key points, {settings['queries']} of {settings['query_frames']} frames. <δ_avg, OA and AJ as in TAP-Vid, "
        f"on pictures rescaled to 256 x 256; precision and recall of visibility, right within {settings['right_px']:g} "
        f"px; median error of visible tracks, px of a 1024-px picture; share of errors below "
        f"{settings['calibration_px']:g} px inside the predicted 50 % and 90 % ellipses. All shares in percent."
    )
    figures = ("delta_average", "occlusion_accuracy", "average_jaccard", "precision", "recall")
    rows = [
        [
            name,
            *(_number(model[key], 1) for key in figures),
            _number(model["median_px_at_1024"], 3),
            _number(model["inside_50"], 1),
            _number(model["inside_90"], 1),
        ]
        for name, model in measured.items()
    ]
    head = ["model", "<δ_avg", "OA", "AJ", "precision", "recall", "median px", "in 50 %", "in 90 %"]
    pairs = "Distance to the true position in pixels of the network's picture; a point that is not visible is wrong."
    distances = {name: model["distances"] for name, model in measured.items()}
    return ["## Rendered scenes", note, _table(head, rows), pairs, _by_rotation(distances)]


def _real(result: dict[str, Any]) -> list[str]:
    measured = {name: model["real"] for name, model in result["models"].items() if model["real"]["scenes"]}
    if not measured:
        return []
    settings = result["settings"]["real"]
    note = (
        "Distance to the true epipolar line in pixels of the network's picture "
        f"(long side {settings['long_side']}, smaller photographs as they are), from {settings['query_frames']} frames "
        f"of each scene with {settings['queries']} key points. All scenes together:"
    )
    together = _by_rotation({name: real["all"] for name, real in measured.items()})
    head = ["scene", "model", *(f"{group}°" for group in ROTATION_BINS_DEG)]
    rows = [
        [scene, name, *(_short(figures["distances"]["tracks"].get(group)) for group in ROTATION_BINS_DEG)]
        for scene in _in_order(scene for real in measured.values() for scene in real["scenes"])
        for name, real in measured.items()
        if "tracks" in (figures := real["scenes"].get(scene, {"distances": {}}))["distances"]
    ]
    each = "Tracks scene by scene: median px, share within 1 px in percent, visible tracks a pair."
    return ["## Surveyed scenes", note, together, each, _table(head, rows)]


def _by_rotation(models: dict[str, dict[str, Any]]) -> str:
    """One row for each group of pairs, model and kind."""
    head = ["rotation", "pairs", "model", "what", "a pair", "of them within 1 px", "median px", "≤ 1 px %", "≤ 5 px %"]
    rows = []
    for group, (low, high) in ROTATION_BINS_DEG.items():
        for name, kinds in models.items():
            for kind, label in KIND_LABELS.items():
                figures = kinds.get(kind, {}).get(group)
                if figures is None:
                    continue
                rows.append(
                    [
                        f"{group}° ({low:g}-{high:g})",
                        str(figures["pairs"]),
                        name,
                        label,
                        _number(figures["per_pair"], 0),
                        _number(figures["within_1px_per_pair"], 0),
                        _number(figures["median_px"], 3),
                        _number(figures["within_1px"], 1),
                        _number(figures["within_5px"], 1),
                    ]
                )
    return _table(head, rows)


def _failures(result: dict[str, Any]) -> list[str]:
    if not result["failures"]:
        return []
    lines = [f"- {f['scene']}{', ' + f['model'] if f['model'] else ''}: {f['error']}" for f in result["failures"]]
    return ["## Not measured", "\n".join(lines)]


def _origin(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    device = machine["cuda"] or f"{machine['cores']} cores"
    seconds = "; ".join(f"{name} {_seconds(model):.0f} s" for name, model in result["models"].items())
    return (
        f"Written by `vggsfm evaluate tracks`: vggsfm-cli {versions['vggsfm-cli']}, torch {versions['torch']}, "
        f"{device}, seed {result['settings']['rendered']['seed']}. Tracking took: {seconds}."
    )


def _seconds(model: dict[str, Any]) -> float:
    rendered = model["rendered"]["seconds"] if model["rendered"] else 0.0
    return float(rendered + sum(scene["seconds"] for scene in model["real"]["scenes"].values()))


def _short(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    median, near = _number(figures["median_px"], 2), _number(figures["within_1px"], 0)
    return f"{median} / {near} / {_number(figures['per_pair'], 0)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
