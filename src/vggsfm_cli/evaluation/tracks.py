"""Trackers beside each other, on the same scenes."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vggsfm_cli.errors import InputError, VGGSfMError
from vggsfm_cli.evaluation.observed import device_of
from vggsfm_cli.evaluation.pairs import PairDistances
from vggsfm_cli.evaluation.real import RealConfig, evaluate_real, measure_real
from vggsfm_cli.evaluation.rendered import RenderedConfig, evaluate_rendered, render_held_out
from vggsfm_cli.evaluation.scenes import read_surveyed_scene
from vggsfm_cli.report import machine, versions
from vggsfm_cli.scene import ProgressCallback, silent
from vggsfm_cli.synthetic.textures import Textures
from vggsfm_cli.tracking import PointTracker

__all__ = ["RealConfig", "RenderedConfig", "TracksConfig", "evaluate_real", "evaluate_rendered", "evaluate_trackers"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TracksConfig:
    """How trackers are compared."""

    real: RealConfig = field(default_factory=RealConfig)
    rendered: RenderedConfig = field(default_factory=RenderedConfig)


def evaluate_trackers(
    trackers: Mapping[str, PointTracker],
    config: TracksConfig | None = None,
    *,
    scenes: Sequence[Path] = (),
    textures: Textures | None = None,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Measure every tracker on every scene; what fails is listed and the rest goes on.

    Args:
        trackers: by the name they are to have in the result, all on one device.
        config: how.
        scenes: folders of surveyed scenes.
        textures: for the rendered scenes; procedural ones if None.
        progress: told of what is done.

    Returns:
        JSON types: ``machine``, ``versions``, ``settings``, ``models[name]`` and ``failures``. A model has
        ``rendered`` (``evaluate_rendered``, or None) and ``real`` with ``scenes[name]`` (``evaluate_real``) and ``all``
        (the distances of all scenes together).

    Raises:
        InputError: nothing could be measured at all.
    """
    config = config or TracksConfig()
    failures: list[dict[str, str]] = []
    models: dict[str, dict[str, Any]] = {
        name: {"rendered": None, "real": {"scenes": {}, "all": {}}} for name in trackers
    }
    _on_rendered(trackers, models, config.rendered, textures, failures, progress)
    _on_real(trackers, models, config.real, scenes, failures, progress)
    if not any(model["rendered"] or model["real"]["scenes"] for model in models.values()):
        reason = failures[0]["error"] if failures else "there are no scenes"
        raise InputError(f"Nothing could be measured: {reason}", "Run with -v to see where it failed.")
    return {
        "machine": machine(),
        "versions": versions(),
        "settings": dataclasses.asdict(config),
        "models": models,
        "failures": failures,
    }


def _on_rendered(
    trackers: Mapping[str, PointTracker],
    models: dict[str, dict[str, Any]],
    config: RenderedConfig,
    textures: Textures | None,
    failures: list[dict[str, str]],
    progress: ProgressCallback,
) -> None:
    if config.scenes == 0:
        return
    device = device_of(next(iter(trackers.values())))
    rendered = _attempt(failures, "rendered", None, render_held_out, config, textures, device, progress)
    if rendered is None:
        return
    for name, tracker in trackers.items():
        models[name]["rendered"] = _attempt(
            failures, "rendered", name, evaluate_rendered, tracker, config, rendered, _named(name, progress)
        )


def _on_real(
    trackers: Mapping[str, PointTracker],
    models: dict[str, dict[str, Any]],
    config: RealConfig,
    scenes: Sequence[Path],
    failures: list[dict[str, str]],
    progress: ProgressCallback,
) -> None:
    pooled = {name: PairDistances() for name in trackers}
    for folder in scenes:
        scene = _attempt(failures, folder.name, None, read_surveyed_scene, folder, config.long_side)
        if scene is None:
            continue
        for name, tracker in trackers.items():
            report = _named(name, progress)
            measured = _attempt(failures, folder.name, name, measure_real, tracker, scene, config, report)
            if measured is not None:
                models[name]["real"]["scenes"][folder.name] = measured.summary()
                pooled[name].update(measured.distances)
    for name, distances in pooled.items():
        models[name]["real"]["all"] = distances.summary()


def _named(model: str, progress: ProgressCallback) -> ProgressCallback:
    """Progress of one model among several."""
    return lambda event: progress(dataclasses.replace(event, stage=f"{model}: {event.stage}"))


def _attempt(
    failures: list[dict[str, str]],
    scene: str,
    model: str | None,
    function: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result | None:
    """The result of a call, or None and one more failure."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # whatever it is, it concerns this scene and this model only
        text = str(error) if isinstance(error, VGGSfMError) else f"{type(error).__name__}: {error}"
        failures.append({"scene": scene, "model": model or "", "error": text})
        logger.warning("%s%s: %s", scene, f", {model}" if model else "", text)
        logger.debug("", exc_info=error)
        return None
