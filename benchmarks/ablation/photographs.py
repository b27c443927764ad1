"""The learned stages on small sets of photographs: the same tracks, mapped in several ways."""

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pose_bench.records import Records, key_of
from pose_bench.scenes import Item
from pose_bench.score import errors_of

from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.evaluation.poses import auc_max
from vggsfm_cli.io.images import read_images
from vggsfm_cli.mapping.candidates import CandidateConfig, Origins
from vggsfm_cli.mapping.mapper import MappingOptions, reconstruct_from_tracks
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import ImageSet, Tracks
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.rounds import RoundsConfig, track_in_rounds

THRESHOLDS = (1, 3, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to map: which weights track, where cameras start, which weights they and the points have.

    Attributes:
        name: for the table.
        tracker: a model's name or folder.
        origins: of candidates, see ``CandidateConfig``.
        stages: a model's name or folder: its camera estimator and triangulator; None for those of ``classical``.
        cameras, points: take that model's, else the classical ones.
        weighted: by the covariances of the tracks, else all observations alike.
    """

    name: str
    tracker: str = "small"
    origins: Origins = "pairs"
    stages: str | None = None
    cameras: bool = False
    points: bool = False
    weighted: bool = True


class Bench:
    """Bags of photographs, their tracks kept in a folder, results on record.

    Args:
        folder: for both.
        tracking: what decides the tracks.
        source: what decides the results.
    """

    def __init__(self, folder: Path, tracking: str, source: str) -> None:
        self.folder, self.tracking, self.source = folder, tracking, source
        self.records = Records(folder / "photographs.jsonl")
        self._models: dict[str, VGGSfM] = {}

    def model(self, name: str) -> VGGSfM:
        """A model, loaded once."""
        if name not in self._models:
            self._models[name] = load_model(name)
        return self._models[name]

    def measure(self, item: Item, variant: Variant) -> dict[str, Any]:
        """AUC in percent at each threshold of one set mapped in one way."""
        key = key_of(
            source=self.source, variant=dataclasses.asdict(variant), scene=item.scene, bag=item.bag, names=item.names
        )
        row = self.records.get(key)
        if row is None:
            row = {
                "key": key,
                "scene": item.scene,
                "bag": item.bag,
                "variant": variant.name,
                **self._run(item, variant),
            }
            self.records.add(row)
        return row

    def _run(self, item: Item, variant: Variant) -> dict[str, Any]:
        images, tracks = self._tracks(item, variant.tracker)
        if not variant.weighted:
            half_pixel = 0.25 * torch.eye(2) * images.pixel_scale[..., None, None, None].square()
            tracks = dataclasses.replace(tracks, covariance=half_pixel.expand_as(tracks.covariance).contiguous())
        classical, other = self.model("classical"), self.model(variant.stages or "classical")
        options = MappingOptions(candidates=CandidateConfig(origins=variant.origins))
        with tempfile.TemporaryDirectory() as name, one_thread_each():
            out = Path(name) / "out"
            try:
                found = reconstruct_from_tracks(
                    images,
                    tracks,
                    camera_estimator=(other if variant.cameras else classical).camera_estimator,
                    triangulator=(other if variant.points else classical).triangulator,
                    adjuster=classical.adjuster,
                    options=options,
                )
                write_colmap(found, out)
            except ReconstructionFailed:
                pass
            errors = errors_of(out, item.truth, item.names)
        return {f"AUC@{degrees}": round(100 * auc_max(errors, degrees), 3) for degrees in THRESHOLDS}

    def _tracks(self, item: Item, tracker: str) -> tuple[ImageSet, Tracks]:
        path = self.folder / "tracks" / f"{key_of(source=self.tracking, names=item.names, tracker=tracker)}.pt"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for photograph in item.names:
                shutil.copy(item.images / photograph, folder / photograph)
            images = read_images(folder, camera_mode="single" if item.shared_camera else "per-image")
            if path.is_file():
                values = torch.load(path, weights_only=True)
                return dataclasses.replace(images, originals=None), Tracks(**values)
            with torch.no_grad(), one_thread_each():
                tracks = track_in_rounds(self.model(tracker).tracker, images, RoundsConfig())
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {item.name: getattr(tracks, item.name) for item in dataclasses.fields(tracks)}
        torch.save({name: value for name, value in fields.items() if value is not None}, path)
        return dataclasses.replace(images, originals=None), tracks


def share_above(rows: list[dict[str, Any]], level: float) -> float:
    """Percent of the sets whose AUC@5 exceeds a level."""
    return 100 * sum(row["AUC@5"] > level for row in rows) / len(rows)
