"""The paper's tables on data sets that a user has: scenes in, one JSON document out, failures kept apart."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.errors import InputError, ReconstructionFailed, UsageError, VGGSfMError
from vggsfm_cli.evaluation.datasets.posed import PosedScene, Unreadable
from vggsfm_cli.evaluation.known_cameras import triangulate_known
from vggsfm_cli.evaluation.poses import PairErrors, accuracy, auc_by_degrees, pair_errors, without_sign
from vggsfm_cli.evaluation.surface import Scan, SurfaceConfig, compare_with_scans
from vggsfm_cli.folders import whole_file
from vggsfm_cli.io.images import PhotographSet, read_images
from vggsfm_cli.io.ply import write_ply
from vggsfm_cli.io.scans import read_alignment, read_points
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.pipeline import reconstruct
from vggsfm_cli.report import machine, stages_as_dict, versions
from vggsfm_cli.scene import Cameras, Progress, ProgressCallback, Reconstruction, silent

logger = logging.getLogger(__name__)

Measure = Callable[[PosedScene], dict[str, Any]]
"""Figures of one scene, JSON types; ``figures`` are those that tables hold."""


@dataclass(frozen=True, kw_only=True)
class PoseProtocol:
    """What is reported of the cameras; errors of directions without their sign."""

    shares_deg: tuple[int, ...] = ()  # RRA@ and RTA@
    auc_deg: tuple[int, ...] = ()  # AUC@
    camera_mode: str = "auto"


CO3D = PoseProtocol(shares_deg=(15,), auc_deg=(30,))
IMC = PoseProtocol(auc_deg=(3, 5, 10), camera_mode="per-image")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """How scenes are run."""

    long_side: int = 1024  # of the pictures the network sees
    camera_model: str = "SIMPLE_RADIAL"
    options: ReconstructOptions = field(default_factory=ReconstructOptions)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)


def measure_poses(
    scene: PosedScene,
    model: VGGSfM,
    config: BenchmarkConfig,
    device: torch.device,
    progress: ProgressCallback = silent,
    *,
    protocol: PoseProtocol,
) -> dict[str, Any]:
    """Reconstruct a scene without its cameras and compare those of the largest model with the truth.

    Pairs with a photograph that was not registered have infinite errors; so has every pair where nothing could be
    reconstructed, which is a result.

    Raises:
        InputError: photographs are missing or cannot be read.
    """
    images = _read(scene, config, protocol.camera_mode, progress)
    started = time.perf_counter()
    try:
        found = reconstruct(images.to(device), model, config.options, progress)
        failed, stages = None, stages_as_dict(found.stages)
        poses, registered = _by_file(scene, found[0])
    except ReconstructionFailed as error:
        failed, stages = error.message, {}
        poses, registered = scene.cameras.cam_from_world[0], torch.zeros(len(scene.files), dtype=torch.bool)
    errors = pair_errors(poses, scene.cameras.cam_from_world[0], registered)
    return {
        "images": len(scene.files),
        "registered": int(registered.sum()),
        "failed": failed,
        "seconds": round(time.perf_counter() - started, 2),
        "stages": stages,
        "figures": pose_figures(errors, protocol),
    }


def pose_figures(errors: PairErrors, protocol: PoseProtocol) -> dict[str, float]:
    """The protocol's figures of pair errors, in percent; the sign of a direction does not count."""
    errors = without_sign(errors)
    shares = {}
    for threshold in protocol.shares_deg:
        shares[f"RRA@{threshold}"] = accuracy(errors.rotation_deg, threshold)
        shares[f"RTA@{threshold}"] = accuracy(errors.translation_deg, threshold)
    for threshold in protocol.auc_deg:
        shares[f"AUC@{threshold}"] = auc_by_degrees(errors, threshold)
    return {name: round(100 * share, 3) for name, share in shares.items()}


def _by_file(scene: PosedScene, found: Reconstruction) -> tuple[Float[Tensor, "S 3 4"], Bool[Tensor, " S"]]:
    """Poses in the order of the scene's files, and which were registered."""
    row = {Path(name).name: s for s, name in enumerate(found.names)}
    registered = torch.tensor([file.name in row for file in scene.files])
    index = torch.tensor([row.get(file.name, 0) for file in scene.files])
    return found.cameras.cam_from_world[0, index].double().cpu(), registered


def measure_surface(
    scene: PosedScene,
    model: VGGSfM,
    config: BenchmarkConfig,
    device: torch.device,
    progress: ProgressCallback = silent,
    *,
    points_file: Path | None = None,
) -> dict[str, Any]:
    """Triangulate a scene with its own cameras and compare the points with its laser scans.

    Args:
        scene: with scans.
        model: whose tracker, triangulator and adjuster run.
        config: how.
        device: of the tracker; the scans are compared there too.
        progress: told of the stages.
        points_file: PLY file to write the points to, for the benchmark's own program; None for none.

    Raises:
        InputError: photographs or scans are missing or cannot be read.
    """
    assert scene.scans is not None
    images = _read(scene, config, "auto", progress)
    started = time.perf_counter()
    try:
        xyz = triangulate_known(images.to(device), _as_read(scene, images).to(device), model, config.options, progress)
        failed = None
    except ReconstructionFailed as error:
        xyz, failed = torch.zeros(0, 3, dtype=torch.float64), error.message
    seconds = time.perf_counter() - started
    if points_file is not None:
        points_file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(points_file) as partial:
            write_ply(partial, xyz, torch.ones_like(xyz))
    scans = [Scan(xyz=read_points(path).to(device), world_from_scan=pose) for path, pose in read_alignment(scene.scans)]
    surface = compare_with_scans(xyz.float().to(device), scans, config.surface)
    figures = {}
    for kind, values in (("accuracy", surface.accuracy), ("completeness", surface.completeness)):
        for tolerance, value in zip(config.surface.tolerances, values, strict=True):
            # no point in a scanned part is no accurate point
            figures[f"{kind} {100 * tolerance:g} cm"] = round(value, 4) if value == value else 0.0  # noqa: PLR0124
    return {
        "images": len(scene.files),
        "points": len(xyz),
        "failed": failed,
        "seconds": round(seconds, 2),
        "figures": figures,
    }


def _as_read(scene: PosedScene, images: PhotographSet) -> Cameras:
    """The true cameras of the photographs that could be read, in their order."""
    row = {file.name: s for s, file in enumerate(scene.files)}
    index = torch.tensor([row[Path(name).name] for name in images.names[0]])
    return dataclasses.replace(
        scene.cameras,
        cam_from_world=scene.cameras.cam_from_world[:, index],
        camera_index=scene.cameras.camera_index[:, index],
        registered=scene.cameras.registered[:, index],
    )


def _read(scene: PosedScene, config: BenchmarkConfig, camera_mode: str, progress: ProgressCallback) -> PhotographSet:
    images = read_images(
        list(scene.files),
        long_side=config.long_side,
        camera_mode=camera_mode,
        camera_model=config.camera_model,
        progress=progress,
    )
    if images.skipped:
        raise InputError(f"{images.skipped[0].name} cannot be read: {images.skipped[0].reason}", "Get it again.")
    if scene.sizes is not None and not torch.equal(images.stored_size[0], scene.sizes):
        raise InputError(f"The photographs of {scene.name} have other sizes than its cameras.", "Get them again.")
    return images


def run_benchmark(
    scenes: Iterable[PosedScene | Unreadable],
    measure: Measure,
    header: Mapping[str, Any],
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Measure every scene; what cannot be measured is listed and the rest goes on.

    Args:
        scenes: of one data set.
        measure: gives the figures of a scene.
        header: JSON types that say what is measured, and how; two runs with equal headers go together.
        out: file that is written anew after every scene, whole or not at all.
        resume: keep the scenes that ``out`` already holds.
        progress: told of every scene.

    Returns:
        JSON types: ``header``, ``machine``, ``versions``, ``scenes`` (by name), ``failures`` (scenes that could not be
        measured, and why), ``groups`` (mean figures of the scenes of each) and ``mean`` (of the groups).

    Raises:
        InputError: nothing could be measured at all.
        UsageError: ``out`` holds results of another kind, or ``resume`` is not set.
    """
    document: dict[str, Any] = {
        "header": json.loads(json.dumps(header)),
        "machine": machine(),
        "versions": versions(),
        "scenes": _earlier(out, resume, header),
        "failures": [],
    }
    for number, scene in enumerate(scenes):
        progress(Progress(stage="scenes", done=number, total=number + 1, detail=scene.name))
        if isinstance(scene, Unreadable):
            document["failures"].append({"scene": scene.name, "error": scene.reason})
            logger.warning("%s: %s", scene.name, scene.reason)
        elif scene.name not in document["scenes"]:
            try:
                document["scenes"][scene.name] = {"group": scene.group, **measure(scene)}
            except Exception as error:  # whatever it is, it concerns this scene only
                document["failures"].append({"scene": scene.name, "error": _reason(error)})
                logger.warning("%s: %s", scene.name, _reason(error))
                logger.debug("", exc_info=error)
        document.update(summarize(document["scenes"]))
        _write(document, out)
    if not document["scenes"]:
        reason = document["failures"][0]["error"] if document["failures"] else "there are no scenes"
        raise InputError(f"Nothing could be measured: {reason}", "Run with -v to see where it failed.")
    count = len(document["scenes"]) + len(document["failures"])
    progress(Progress(stage="scenes", done=count, total=count, detail=f"{len(document['failures'])} not measured"))
    _write(document, out)
    return document


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, VGGSfMError) else f"{type(error).__name__}: {error}"


def _earlier(out: Path | None, resume: bool, header: Mapping[str, Any]) -> dict[str, Any]:
    """The scenes that an earlier run left in ``out``."""
    if out is None or not out.exists():
        return {}
    if not resume:
        raise UsageError(f"{str(out)!r} is there already.", "Add --resume to go on, or name another file.")
    try:
        document = json.loads(out.read_text())
        if document["header"] != json.loads(json.dumps(header)):
            raise UsageError(f"{str(out)!r} was measured in another way.", "Name another file with --out.")
        scenes: dict[str, Any] = document["scenes"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(out)!r} holds no results.", "Name another file with --out.") from error
    return scenes


def summarize(scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``groups``: number of scenes and mean of each figure over them; ``mean``: of each figure over the groups."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for scene in scenes.values():
        grouped.setdefault(scene["group"], []).append(scene)
    means = {name: _mean([member["figures"] for member in members]) for name, members in grouped.items()}
    groups = {name: {"scenes": len(grouped[name]), "figures": means[name]} for name in grouped}
    return {"groups": groups, "mean": _mean(list(means.values()))}


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(row[name] for row in figures) / len(figures), 3) for name in figures[0]} if figures else {}


def _write(document: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as partial:
            partial.write_text(json.dumps(document, indent=1) + "\n")


def to_markdown(document: Mapping[str, Any]) -> str:
    """The table: a row for each group, and their mean."""
    names = list(document["mean"])
    lines = ["| " + " | ".join(["", "scenes", *names]) + " |", "| --- " * (len(names) + 2) + "|"]
    for name, group in document["groups"].items():
        cells = [name, str(group["scenes"]), *(f"{group['figures'][figure]:.2f}" for figure in names)]
        lines.append("| " + " | ".join(cells) + " |")
    if len(document["groups"]) > 1:
        lines.append("| " + " | ".join(["mean", "", *(f"{document['mean'][figure]:.2f}" for figure in names)]) + " |")
    if document["failures"]:
        lines += ["", "Not measured, and not in the table:"]
        lines += [f"- {failure['scene']}: {failure['error']}" for failure in document["failures"]]
    return "\n".join(lines) + "\n"
