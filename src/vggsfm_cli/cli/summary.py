"""What ``vggsfm reconstruct`` says when it is done."""

import sys
from pathlib import Path
from typing import Any

from vggsfm_cli.cli.console import console


def print_summary(report: dict[str, Any], out: Path, undistorted: Path | None) -> None:
    """The result in a few lines on stdout."""
    paper = console(sys.stdout)
    registered = sum(image["registered"] for image in report["images"])
    paper.print(f"{registered} of {len(report['images'])} images registered in {report['seconds']:.1f} s", markup=False)
    for i, model in enumerate(report["models"]):
        error = model["mean_reprojection_error_px"]
        paper.print(
            f"{out / str(i)}: {model['images']} images, {model['points']} points, "
            f"mean track length {model['mean_track_length']:.2f}, "
            f"mean reprojection error {'unknown' if error is None else f'{error:.3f} px'}",
            markup=False,
        )
        if model.get("doubts"):
            doubts = "; ".join(model["doubts"])
            paper.print(f"  confidence in it is {model['confidence_level']}: {doubts}", markup=False)
    for image in report["images"]:
        if not image["registered"]:
            paper.print(f"not registered: {image['name']} ({image['reason']})", markup=False)
    if report.get("caution"):
        paper.print(report["caution"], markup=False)
    if undistorted is not None:
        paper.print(f"{undistorted}: undistorted pictures and their model in sparse/0", markup=False)
