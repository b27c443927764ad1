"""One scene from photographs on the disk to models on the disk: what a command does, and each scene of a batch."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from vggsfm_cli import __version__
from vggsfm_cli.checkpoints import resolve_model
from vggsfm_cli.checkpoints.registry import REGISTRY
from vggsfm_cli.checkpoints.resolve import AUTO, Notice, ResolvedModel, unheard
from vggsfm_cli.clock import StageClock
from vggsfm_cli.colmap.files import check_writable, write_colmap
from vggsfm_cli.config_file import to_toml
from vggsfm_cli.errors import TooFewRegistered
from vggsfm_cli.export.targets import ExportOptions, check_export, export_model
from vggsfm_cli.folders import claimed, scratch_folder
from vggsfm_cli.io.images import read_images
from vggsfm_cli.io.intrinsics import KnownCamera, read_intrinsics
from vggsfm_cli.io.lookup import photographs_of
from vggsfm_cli.io.photographs import limit_decoding
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.io.sources import Source, find_images
from vggsfm_cli.io.video import ExtractedFrames, VideoConfig, extract_frames, is_video
from vggsfm_cli.memory.machine import usable_bytes
from vggsfm_cli.memory.plan import GB, PROCESS_BYTES
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import SceneOptions
from vggsfm_cli.pipeline import reconstruct
from vggsfm_cli.recipes import recipe_named
from vggsfm_cli.report import build_report
from vggsfm_cli.scene import ProgressCallback, silent
from vggsfm_cli.sequence import reconstruct_sequence, sequence_options
from vggsfm_cli.visualization import save_overview
from vggsfm_cli.visualization.report import save_html_report

if TYPE_CHECKING:
    from vggsfm_cli.model import AdjusterConfig

CONFIG_HEADER = (
    f"# What vggsfm {__version__} was told; `vggsfm reconstruct IMAGES --out DIR --config FILE` repeats it.\n"
)

FRAMES_FOLDER = "images"
"""Where the result holds the pictures of a video."""


class ReadingOptions(TypedDict):
    """How photographs are read, all at once or some at a time."""

    long_side: int
    camera_mode: str
    camera_model: str
    intrinsics: Sequence[KnownCamera]
    masks: Path | None
    mask_invert: bool
    ignore_alpha: bool


def model_folder(options: SceneOptions) -> Path | None:
    """The folder of the model, if it is one; a name of a model counts before a folder of that name."""
    return _existing(options.model) if options.model not in (AUTO, *REGISTRY) else None


def intrinsics_path(options: SceneOptions) -> Path | None:
    """The file or folder of known cameras, if they are not given as numbers."""
    return None if options.intrinsics is None else _existing(options.intrinsics)


def absolute(options: SceneOptions) -> SceneOptions:
    """The same choices with paths that hold in any working folder."""
    return dataclasses.replace(
        options,
        masks=None if options.masks is None else options.masks.absolute(),
        model=_in_full(model_folder(options)) or options.model,
        intrinsics=_in_full(intrinsics_path(options)) or options.intrinsics,
    )


def _existing(path: str) -> Path | None:
    try:
        return Path(path) if Path(path).exists() else None
    except (OSError, ValueError):  # a text that no path can be
        return None


def _in_full(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


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
        announce: is told which model was taken, and why, and what to know of its recipe.
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
    recipe = recipe_named(model.config.recipe)
    if recipe.note:
        announce(f"The recipe {recipe.name} is {recipe.note}.")
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
    images: Source,
    out: Path,
    options: SceneOptions,
    networks: Callable[[], Networks],
    *,
    undistort: Path | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Read the photographs of one scene, reconstruct it, and write its models, picture and report.

    Args:
        images: folder, pattern, list or files, see ``find_images``; or a video file.
        out: folder to create, with a model in ``0``, ``1``, ..., ``report.json``, ``config.toml``, if wanted
            ``overview.png`` and ``report.html``, and the pictures of a video in ``images``.
        options: what the user chose.
        networks: gives the model; it is called once, and its time is the stage "weights" of the report.
        undistort: folder to create with undistorted pictures and ``sparse/0``.
        overwrite: replace earlier results.
        notes: JSON types to add to the report, by keys of their own.
        progress: is told how far it is.

    Returns:
        The content of ``report.json``.

    Raises:
        VGGSfMError: of any kind; then nothing was written, or all but the undistorted pictures.
    """
    check_places(out, undistort, overwrite=overwrite)
    limit_decoding(_decoding_bytes(options))
    clock = StageClock()
    with (
        claimed(out.resolve()),
        claimed((undistort or out).resolve()),
        _pictures(images, out, options, clock, progress) as (pictures, film),
    ):
        return _reconstruct(
            pictures,
            out,
            options,
            networks,
            clock,
            given=images,
            film=film,
            undistort=undistort,
            overwrite=overwrite,
            notes=notes,
            progress=progress,
        )


def _decoding_bytes(options: SceneOptions) -> int | None:
    """Memory for decoding photographs: what there may be in all, less what the process takes before anything else."""
    if options.max_memory is not None and (options.device == "cpu" or not torch.cuda.is_available()):
        return max(0, round(options.max_memory * GB) - PROCESS_BYTES)
    free = usable_bytes(torch.device("cpu"))
    return None if free is None else max(0, free - PROCESS_BYTES)


@contextmanager
def _pictures(
    images: Source, out: Path, options: SceneOptions, clock: StageClock, progress: ProgressCallback
) -> Iterator[tuple[Source, ExtractedFrames | None]]:
    """The photographs; those of a video lie in a folder beside ``out`` until the result takes them over."""
    if not isinstance(images, Path | str) or not is_video(images):
        yield images, None
        return
    with scratch_folder(out.resolve()) as folder:
        config = VideoConfig(fps=float(options.fps), max_frames=options.max_frames)
        with clock.stage("video"):
            film = extract_frames(images, folder / FRAMES_FOLDER, config, progress=progress)
        yield film.files, film


def _reconstruct(
    images: Source,
    out: Path,
    options: SceneOptions,
    networks: Callable[[], Networks],
    clock: StageClock,
    *,
    given: Source,
    film: ExtractedFrames | None,
    undistort: Path | None,
    overwrite: bool,
    notes: Mapping[str, Any] | None,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """As ``reconstruct_scene``, from pictures, which are frames of ``film`` if it is given."""
    in_order = film is not None if options.sequential is None else options.sequential
    told = sequence_options(options) if in_order else None
    known = () if options.intrinsics is None else read_intrinsics(options.intrinsics, options.camera_model)
    without = () if options.masks is None else (options.masks,)
    found = find_images(images, recursive=options.recursive, without=without)
    with clock.stage("weights"):
        loaded = networks()
    reading: ReadingOptions = {
        "long_side": options.long_side,
        "camera_mode": options.camera_mode,
        "camera_model": options.camera_model,
        "intrinsics": known,
        "masks": options.masks,
        "mask_invert": options.mask_invert,
        "ignore_alpha": options.ignore_alpha,
    }
    if told is None:
        with clock.stage("images"):
            photographs = read_images(found, **reading, progress=progress)
        result = reconstruct(photographs.to(loaded.device), loaded.model, options, progress=progress)
    else:
        with clock.stage("images"):
            sequence = PhotographSequence(found, **reading)
        photographs = sequence.facts
        result = reconstruct_sequence(sequence, loaded.model, told, progress=progress)
    clock.add(result.stages)
    report: dict[str, Any] = {}

    def add_extras(folder: Path) -> None:
        if options.overview:
            with clock.stage("overview"):
                save_overview(result[0], folder / "overview.png")
        shown = str(given) if isinstance(given, Path | str) else [str(path) for path in given]
        chosen = {"images": shown, **options.as_dict(), "device": str(loaded.device)}
        report.update(build_report(photographs, result, options=chosen, seed=options.seed, clock=clock))
        report["weights"] = loaded.weights.as_dict()
        report["caution"] = photographs.caution
        report["left_out"] = [dataclasses.asdict(item) for item in found.left_out]
        if film is not None:
            report["video"] = film.as_dict()
        if options.report:
            save_html_report(
                result.models,
                folder / "report.html",
                title=Path(shown).resolve().name if isinstance(shown, str) else out.resolve().name,
                photographs=photographs_of(photographs),
                report=report,
                progress=progress,
            )
        if film is not None:
            shutil.move(film.files[0].parent, folder / FRAMES_FOLDER)
        report.update(notes or {})
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "config.toml").write_text(CONFIG_HEADER + to_toml(absolute(options).as_dict()), encoding="utf-8")

    write_colmap(result, out, overwrite=overwrite, legacy=options.legacy_colmap, extras=add_extras)
    if undistort is not None:
        export = ExportOptions(
            masks=options.masks,
            mask_invert=options.mask_invert,
            ignore_alpha=options.ignore_alpha,
            overwrite=overwrite,
        )
        folder = found.root if film is None else out / FRAMES_FOLDER
        export_model(result[0], undistort, folder, export, progress)
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
