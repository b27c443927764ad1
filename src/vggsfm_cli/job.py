"""One scene from photographs on the disk to models on the disk: what a command does, and each scene of a batch."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vggsfm_cli.checkpoints import resolve_model
from vggsfm_cli.checkpoints.resolve import Notice, ResolvedModel, unheard
from vggsfm_cli.colmap.files import check_writable, write_colmap
from vggsfm_cli.errors import TooFewRegistered
from vggsfm_cli.export.targets import ExportOptions, check_export, export_model
from vggsfm_cli.io.images import read_images
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.pipeline import Preset, ReconstructOptions, reconstruct
from vggsfm_cli.refinement.densify import DensifyConfig
from vggsfm_cli.report import StageClock, build_report
from vggsfm_cli.scene import ProgressCallback, silent
from vggsfm_cli.tracking.keypoints import Keypoints
from vggsfm_cli.visualization import save_overview

if TYPE_CHECKING:
    from vggsfm_cli.model import AdjusterConfig


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """All that a user may choose about the reconstruction of one scene, by the names of the command line."""

    camera_model: str = "SIMPLE_RADIAL"
    camera_mode: str = "auto"
    refine_principal_point: str = "auto"
    extra_points: int = 0
    model: str = "auto"
    revision: str | None = None
    offline: bool = False
    preset: Preset = "auto"
    queries: Keypoints = "auto"
    query_points: int | None = None
    long_side: int = 1024
    adjuster: Literal["schur", "theseus", "ceres"] | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: str = "float32"
    threads: int | None = None
    min_registered: int = 0
    overview: bool = True
    legacy_colmap: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for ``report.json``."""
        return dataclasses.asdict(self)

    def pipeline_options(self) -> ReconstructOptions:
        """What the pipeline is told of it."""
        return ReconstructOptions(
            seed=self.seed,
            precision=self.precision,
            refine_principal_point=self.refine_principal_point,
            densify=DensifyConfig(points=self.extra_points),
            preset=self.preset,
            keypoints=self.queries,
            query_points=self.query_points,
            network_side=self.long_side,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """A model in memory, which several scenes may share."""

    weights: ResolvedModel
    model: VGGSfM
    device: torch.device


def load_networks(
    options: SceneOptions,
    device: torch.device,
    adjuster: "AdjusterConfig | None" = None,
    *,
    notice: Notice = unheard,
    announce: Notice = unheard,
    progress: ProgressCallback = silent,
) -> Networks:
    """The model that the options name, on its device.

    Args:
        options: model, revision and offline are looked at.
        device: where it will run.
        adjuster: solver of the last adjustments; None for the model's own.
        notice: is told the licence before a download.
        announce: is told which model was taken, and why.
        progress: is told how a download goes.

    Raises:
        UsageError: no such model.
        WeightsUnavailable: its files are missing, damaged or cannot be downloaded.
    """
    weights = resolve_model(
        options.model, device, offline=options.offline, revision=options.revision, notice=notice, progress=progress
    )
    announce(f"{weights.sentence()} {weights.hint}".rstrip())
    model = weights.load(device)
    if adjuster is not None:
        model.use_adjuster(adjuster)
    return Networks(weights=weights, model=model, device=device)


def check_places(out: Path, undistort: Path | None = None, *, overwrite: bool = False) -> None:
    """Refuse early what could not be written after a long run.

    Raises:
        UsageError: ``out`` or ``undistort`` cannot be written to, or holds something that may not be replaced.
    """
    check_writable(out, overwrite=overwrite)
    if undistort is not None:
        check_export(undistort, overwrite=overwrite)


def reconstruct_scene(
    images: Path,
    out: Path,
    options: SceneOptions,
    networks: Callable[[], Networks],
    *,
    undistort: Path | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Read the photographs of one scene, reconstruct it, and write its models, picture and report.

    Args:
        images: folder of photographs.
        out: folder to create, with a model in ``0``, ``1``, ..., ``report.json`` and ``overview.png``.
        options: what the user chose.
        networks: gives the model; it is called once, and its time is the stage "weights" of the report.
        undistort: folder to create with undistorted pictures and ``sparse/0``.
        overwrite: replace earlier results.
        progress: is told how far it is.

    Returns:
        The content of ``report.json``.

    Raises:
        VGGSfMError: of any kind; then nothing was written, or all but the undistorted pictures.
    """
    check_places(out, undistort, overwrite=overwrite)
    clock = StageClock()
    with clock.stage("weights"):
        loaded = networks()
    with clock.stage("images"):
        photographs = read_images(
            images,
            long_side=options.long_side,
            camera_mode=options.camera_mode,
            camera_model=options.camera_model,
            progress=progress,
        )
    models = reconstruct(photographs.to(loaded.device), loaded.model, options.pipeline_options(), progress=progress)
    clock.add(models[0].report.get("stages", {}))
    report: dict[str, Any] = {}

    def add_extras(folder: Path) -> None:
        if options.overview:
            with clock.stage("overview"):
                save_overview(models[0], folder / "overview.png")
        chosen = {"images": str(images), **options.as_dict(), "device": str(loaded.device)}
        report.update(build_report(photographs, models, options=chosen, seed=options.seed, clock=clock))
        report["weights"] = loaded.weights.as_dict()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    write_colmap(models, out, overwrite=overwrite, legacy=options.legacy_colmap, extras=add_extras)
    if undistort is not None:
        export_model(models[0], undistort, images, ExportOptions(overwrite=overwrite), progress)
    return report


def require_registered(report: Mapping[str, Any], options: SceneOptions, out: Path) -> None:
    """Hold what was written against ``--min-registered``.

    Raises:
        TooFewRegistered: the largest model has fewer images.
    """
    registered = report["models"][0]["images"]
    if registered < options.min_registered:
        raise TooFewRegistered(
            f"{registered} images registered, fewer than --min-registered {options.min_registered}.",
            f"The model is in {str(out)!r}; report.json says why images are missing.",
        )
