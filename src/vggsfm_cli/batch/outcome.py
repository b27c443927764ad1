"""What became of a scene: as a value, as a line of ``results.jsonl``, and as the record inside its own report."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vggsfm_cli.batch.fingerprint import Stamps
from vggsfm_cli.reading import read_text

REPORT_FILE = "report.json"
RECORD_KEY = "batch"
"""Of the record in ``report.json``."""


@dataclass(frozen=True, kw_only=True)
class SceneFailure:
    """Why a scene failed.

    Attributes:
        kind: name of the exception, or ``WorkerDied``.
        message: a sentence.
        hint: what to do; may be empty.
        exit_code: what ``vggsfm reconstruct`` would have ended with.
        unexpected: neither the photographs nor the options are to blame, so another try may succeed, and the worker is
            replaced.
    """

    kind: str
    message: str
    hint: str
    exit_code: int
    unexpected: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one attempt at a scene.

    Attributes:
        scene: its name.
        status: ``busy`` if another process is working on the scene.
        attempt: random; also in the scene's report, so that both can be told to belong together.
        started: date and time with time zone, ISO 8601.
        seconds: the whole attempt.
        host: where it ran.
        tried: number of the attempt within this batch, from 1.
        kept: the result was there already.
        figures: ``images``, ``registered``, ``points`` and ``mean_reprojection_error_px`` of the largest model, and
            ``reconstruction_s``, the seconds of all stages.
        failure: of a failed one.
        warnings: what was logged.
    """

    scene: str
    status: Literal["done", "failed", "busy"]
    attempt: str
    started: str
    seconds: float
    host: str
    tried: int = 1
    kept: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)
    failure: SceneFailure | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**dataclasses.asdict(self), "figures": dict(self.figures), "warnings": list(self.warnings)}

    def as_line(self) -> dict[str, Any]:
        """A line of ``results.jsonl``: ``kept`` depends on when one looks, and is left out."""
        line = self.as_dict()
        del line["kept"]
        return line


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A result that stands, and what it was made from.

    Attributes:
        report: content of ``report.json``.
        attempt: the attempt that made it.
        started: of that attempt.
        host: of that attempt.
        inputs: hash of the photographs.
        options: hash of the options.
        stamps: sizes and times of the photographs.
    """

    report: Mapping[str, Any]
    attempt: str
    started: str
    host: str
    inputs: str
    options: str
    stamps: Stamps

    def record(self) -> dict[str, Any]:
        """What ``report.json`` says of it."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "report"}
        return {RECORD_KEY: values}


def read_finished(folder: Path) -> Finished | None:
    """The result in the folder of a scene; None if there is none, or no batch made it."""
    try:
        report = json.loads(read_text(folder / REPORT_FILE))
        figures_of(report)
        return Finished(report=report, **report[RECORD_KEY]) if (folder / "0").is_dir() else None
    except (OSError, ValueError, LookupError, TypeError):  # none, or not as this version writes it
        return None


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a table shows of a report."""
    largest = report["models"][0]
    return {
        "images": len(report["images"]),
        "registered": largest["images"],
        "points": largest["points"],
        "mean_reprojection_error_px": largest["mean_reprojection_error_px"],
        "reconstruction_s": report["seconds"],
    }
