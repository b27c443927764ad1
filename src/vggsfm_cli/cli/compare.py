"""``vggsfm evaluate model`` and ``vggsfm compare``: figures of cameras, as tables."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vggsfm_cli.cli.console import console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

THRESHOLDS = (1, 3, 5, 10)


def model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")],
    ground_truth: Annotated[
        Path, typer.Option(metavar="GT.json|MODEL", help="Ground truth: a JSON file or a COLMAP model.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare the cameras of a model with ground truth.

    The JSON file contains images[name] with R, t (x_cam = R x_world + t, OpenCV axes), K, width and height. All pairs
    of its images are evaluated; pairs with an image that is not registered count as wrong.

    Example: vggsfm evaluate model sparse/0 --ground-truth gt.json
    """
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.evaluation.model import evaluate_model
    from vggsfm_cli.evaluation.truth import read_posed_images

    truth = read_posed_images(ground_truth)
    result = evaluate_model(read_colmap(model), truth)
    if as_json:
        print(json.dumps(result, indent=2))  # noqa: T201
    else:
        _print_evaluation(result)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Model folder, or a folder of models.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another model of the same images.")],
    as_json: AsJson = False,
) -> None:
    """Compare two models of the same images: poses, scale, focal lengths, points.

    Example: vggsfm compare sparse/0 colmap/sparse/0
    """
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.evaluation.model import compare_models

    result = compare_models(read_colmap(a), read_colmap(b))
    if as_json:
        print(json.dumps(result, indent=2))  # noqa: T201
    else:
        _print_comparison(result)


def _print_evaluation(result: dict[str, Any]) -> None:
    from rich.table import Table

    paper = console(sys.stdout)
    paper.print(f"{'registered':<24}{result['registered']} of {result['images']}", markup=False)
    if result["missing"]:
        paper.print(f"{'missing':<24}{_some(result['missing'])}", markup=False)
    shares = Table("percent", *(f"@{t} deg" for t in THRESHOLDS), box=None, pad_edge=False)
    for row in ("RRA", "RTA", "AUC_max", "AUC_min"):
        shares.add_row(row, *(f"{result[f'{row}@{t}']:.1f}" for t in THRESHOLDS))
    paper.print()
    paper.print(shares)
    paper.print()
    paper.print(
        _spreads(
            ("rotation error, degrees", result["rotation_error_deg"]),
            ("translation error, degrees", result["translation_error_deg"]),
            ("focal error, percent", result["focal_error_percent"]),
        )
    )
    paper.print()
    ate = "-" if result["ate"] is None else f"{result['ate']:.5g} ({_number(result['ate_percent'], 3)} % of the extent)"
    paper.print(f"{'ATE':<24}{ate}", markup=False)
    for label, text in _count_rows(result):
        paper.print(f"{label:<24}{text}", markup=False)


def _print_comparison(result: dict[str, Any]) -> None:
    from rich.table import Table

    paper = console(sys.stdout)
    paper.print(f"{'shared images':<24}{result['shared_images']}", markup=False)
    for key, label in (("only_in_a", "only in A"), ("only_in_b", "only in B")):
        if result[key]:
            paper.print(f"{label:<24}{_some(result[key])}", markup=False)
    paper.print(f"{'scale, B / A':<24}{_number(result['scale'], 6)}", markup=False)
    paper.print()
    paper.print(
        _spreads(
            ("relative rotation, degrees", result["pair_rotation_deg"]),
            ("relative translation, degrees", result["pair_translation_deg"]),
            ("camera rotation, degrees", result["camera_rotation_deg"]),
            ("camera distance, units of B", result["camera_distance"]),
            ("camera distance, % of the extent", result["camera_distance_percent"]),
            ("focal length, percent", result["focal_difference_percent"]),
            title="difference",
        )
    )
    paper.print()
    counts = Table("", "A", "B", box=None, pad_edge=False)
    for (label, text_a), (_, text_b) in zip(_count_rows(result["a"]), _count_rows(result["b"]), strict=True):
        counts.add_row(label, text_a, text_b)
    paper.print(counts)


def _spreads(*rows: tuple[str, dict[str, float] | None], title: str = "") -> Any:
    from rich.table import Table

    table = Table(title, "mean", "median", "max", box=None, pad_edge=False)
    for label, spread in rows:
        table.add_row(label, *("-" if spread is None else _number(spread[key], 4) for key in ("mean", "median", "max")))
    return table


def _count_rows(counts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("points", str(counts["points"])),
        ("observations", str(counts["observations"])),
        ("mean track length", f"{counts['mean_track_length']:.2f}"),
        ("reprojection error, px", _number(counts["mean_reprojection_error_px"], 3)),
        ("focal length, px", _some([f"{value:.1f}" for value in counts["focal_px"]])),
    ]


def _some(items: list[str], shown: int = 5) -> str:
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
