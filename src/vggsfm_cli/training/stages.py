"""What the stages behind the tracker learn from: tracks of rendered scenes, preliminary cameras, and the truth."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggsfm_cli.camera_estimation import CameraEstimator, PreliminaryCamerasConfig
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.devices import moved
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Points, TensorRecord, Tracks
from vggsfm_cli.tracking import CoarseToFineTracker
from vggsfm_cli.training.task import seed_of
from vggsfm_cli.training.tracked import TrackedPool, TrackedPoolConfig, TrackedScene

MODEL = "SIMPLE_RADIAL"
GUESSED_FOCAL, GUESSED_FOCAL_SPREAD = 1.2, 0.5
"""What is assumed of a photograph without EXIF data, in long sides, as when photographs are read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageSample(TensorRecord):
    """B views of scenes with S frames and N tracks each.

    Attributes:
        tracks: what the tracker made of it.
        thumbnail: the frames, small.
        start: preliminary cameras; frames of one camera where the scene has one.
        cameras: true.
        points: true positions of the tracks' points.
        visible: truly seen.
        size: width and height of the pictures.
    """

    tracks: Tracks
    thumbnail: Float[Tensor, "B S 3 h w"]
    start: Cameras
    cameras: Cameras
    points: Points
    visible: Bool[Tensor, "B S N"]
    size: Int[Tensor, "B S 2"]

    def images(self) -> ImageSet:
        """Frames of that size, which show the small pictures."""
        batch, frames = self.visible.shape[:2]
        device = self.size.device
        long_side = float(self.size.max())
        height, width = self.thumbnail.shape[-2:]
        params = torch.stack(
            [camera_models.from_focal(MODEL, GUESSED_FOCAL * long_side, *(int(x) for x in self.size[0, 0]))]
            * self.start.params.shape[1]
        )
        return ImageSet(
            pixels=self.thumbnail,
            mask=torch.ones(batch, frames, height, width, dtype=torch.bool, device=device),
            frame_valid=torch.ones(batch, frames, dtype=torch.bool, device=device),
            stored_from_network=torch.eye(2, 3, device=device).expand(batch, frames, 2, 3),
            stored_size=self.size,
            names=(tuple(f"{s:03d}" for s in range(frames)),) * batch,
            originals=None,
            priors=CameraPriors(
                camera_index=self.start.camera_index,
                models=self.start.models,
                params=moved(params, device).expand(batch, -1, -1),
                known=torch.zeros(batch, *params.shape, dtype=torch.bool, device=device),
                focal_spread=torch.full((batch, len(params)), GUESSED_FOCAL_SPREAD, device=device),
            ),
        )


def tracks_of(tracker: CoarseToFineTracker, scene: TrackedScene) -> Tracks:
    """Tracks of one scene (B = 1) from its evidence; gradients reach the judge."""
    parts = []
    for source in range(scene.frames):
        evidence = scene.evidence(source)
        parts.append(tracker.conclude(evidence, source, evidence.xy))
    xy, visibility, covariance = (torch.cat(column, 1)[None] for column in zip(*parts, strict=True))
    per_frame = scene.query.shape[1]
    return Tracks(
        xy=xy,
        visibility=visibility,
        covariance=covariance,
        query_frame=torch.arange(scene.frames, device=xy.device).repeat_interleave(per_frame)[None],
        valid=scene.valid[None],
    )


def sample_of(scene: TrackedScene, tracks: Tracks, estimator: CameraEstimator) -> StageSample:
    """Everything the later stages need of one scene; the estimator gives the preliminary cameras."""
    frames = scene.frames
    one_camera = bool((scene.params == scene.params[:1]).all())
    index = (torch.zeros(frames, dtype=torch.long) if one_camera else torch.arange(frames))[None]
    count = 1 if one_camera else frames
    true = Cameras(
        cam_from_world=scene.cam_from_world[None],
        models=(MODEL,) * count,
        params=scene.params[None, :count],
        camera_index=index,
        registered=torch.ones(1, frames, dtype=torch.bool),
    )
    sample = StageSample(
        tracks=tracks,
        thumbnail=scene.thumbnail[None].float() / 255,
        start=true,
        cameras=true,
        points=Points(xyz_world=scene.xyz_world[None], valid=scene.valid[None]),
        visible=scene.visible[None],
        size=scene.size.long().expand(1, frames, 2),
    )
    with torch.no_grad():
        return dataclasses.replace(sample, start=estimator(sample.images(), tracks.detach()))


def subset_of(frames: int, number: int, variant: int, seed: int, sizes: tuple[int, ...]) -> list[int]:
    """Which frames of a scene one sample has, ``sizes[variant]`` of them; the first one is the reference."""
    generator = torch.Generator().manual_seed(seed_of(seed, number, variant, "frames"))
    return torch.randperm(frames, generator=generator)[: sizes[variant]].tolist()


class StagePool:
    """Samples by scene and variant: some frames of the scene, its tracks, its preliminary cameras; kept in a folder.

    Args:
        scenes: tracked scenes.
        tracker: whose judge makes tracks of the evidence.
        estimator: of the preliminary cameras.
        sizes: number of frames of each variant.
        name: of the folder; another judge or estimator needs another one.
    """

    def __init__(
        self,
        scenes: TrackedPool,
        tracker: CoarseToFineTracker,
        estimator: CameraEstimator,
        sizes: tuple[int, ...],
        name: str,
    ) -> None:
        self.scenes, self.tracker, self.estimator, self.sizes = scenes, tracker, estimator, sizes
        self.folder: Path = scenes.folder / name
        self._kept: dict[tuple[int, int], StageSample] = {}

    def frames(self, number: int, variant: int) -> list[int]:
        """Which frames of the scene a sample has."""
        return subset_of(self.scenes.config.scene.frames, number, variant, self.scenes.seed, self.sizes)

    def __call__(self, number: int, variant: int) -> StageSample:
        """One sample, the same every time."""
        key = (number, variant)
        if key not in self._kept:
            self._kept[key] = self._read(number, variant)
        return self._kept[key]

    def _read(self, number: int, variant: int) -> StageSample:
        path = self.folder / f"{number:06d}-{variant}.safetensors"
        if path.is_file():
            return unflatten(load_file(path))
        scene = self.scenes[number].of_frames(self.frames(number, variant))
        with torch.no_grad():
            sample = sample_of(scene, tracks_of(self.tracker, scene), self.estimator)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({name: value.clone() for name, value in flatten(sample).items()}, partial)
        partial.replace(path)
        return sample


def stage_pool(config: TrackedPoolConfig, folder: Path, seed: int, sizes: tuple[int, ...], held_out: bool) -> StagePool:
    """Samples with the tracks and the preliminary cameras of the model that the pool names."""
    model = load_model(config.tracker)
    assert isinstance(model.tracker, CoarseToFineTracker)
    scenes = TrackedPool(config, seed, folder, held_out=held_out)
    estimator = PreliminaryCamerasConfig().build()
    name = f"{Path(config.tracker).name}-{'-'.join(map(str, sizes))}"
    return StagePool(scenes, model.tracker, estimator, sizes, name)


def flatten(sample: StageSample) -> dict[str, Tensor]:
    """The tensors of a sample under one name each."""
    found = {}
    for item in dataclasses.fields(sample):
        value = getattr(sample, item.name)
        parts = {item.name: value}
        if isinstance(value, TensorRecord):
            inner = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
            parts = {f"{item.name}.{name}": part for name, part in inner.items()}
        found.update({name: part.contiguous() for name, part in parts.items() if isinstance(part, Tensor)})
    return found


def unflatten(values: dict[str, Tensor]) -> StageSample:
    """The sample of such tensors."""

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}

    models = (MODEL,) * values["start.params"].shape[1]
    return StageSample(
        tracks=Tracks(**part("tracks")),
        thumbnail=values["thumbnail"],
        start=Cameras(models=models, **part("start")),
        cameras=Cameras(models=models, **part("cameras")),
        points=Points(**part("points")),
        visible=values["visible"],
        size=values["size"],
    )


def stack(samples: list[StageSample]) -> StageSample:
    """Samples of equally many frames as one batch; every frame has a camera of its own in it, where one does not."""
    frames = samples[0].visible.shape[1]
    shared = all(sample.start.params.shape[1] == 1 for sample in samples)
    if not shared:
        samples = [
            dataclasses.replace(sample, start=_apart(sample.start, frames), cameras=_apart(sample.cameras, frames))
            for sample in samples
        ]
    parts = [flatten(sample) for sample in samples]
    return unflatten({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _apart(cameras: Cameras, frames: int) -> Cameras:
    """The same cameras, as many as frames; those that share one still name the same."""
    params = cameras.params.expand(-1, frames, -1) if cameras.params.shape[1] == 1 else cameras.params
    return dataclasses.replace(cameras, params=params.contiguous(), models=(MODEL,) * frames)
