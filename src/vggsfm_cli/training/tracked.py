"""Rendered scenes with what a tracker found in them: where cameras, points and the joint training learn from.

Search and alignment are costly and their weights are given, so they are done once for every scene and kept in a folder.
What the judge makes of the evidence is worked out anew, so that gradients can reach it.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.camera_estimation import thumbnails
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.geometry import sampling
from vggsfm_cli.scene import Queries, TensorRecord
from vggsfm_cli.synthetic.render import RenderedScenes, render, true_points, true_tracks
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.synthetic.textures import Textures, make_textures
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking import STRIDE, CoarseToFineTracker, Evidence, FeatureMaps, select_keypoints
from vggsfm_cli.training.data import TEXTURE_VARIABLE, PoolConfig, read_textures
from vggsfm_cli.training.task import seed_of

VIEWS = tuple(item.name for item in dataclasses.fields(Evidence) if item.name not in ("query", "scale", "looked"))
"""Fields of the evidence that have a frame and a query axis."""


@dataclass(frozen=True, kw_only=True)
class TrackedPoolConfig:
    """Which scenes, and where tracks start."""

    scene: SceneConfig = field(default_factory=lambda: SceneConfig(frames=8))
    scenes: int = 400
    queries_per_frame: int = 48  # on the encoder's key points, and anywhere where it finds too few
    thumbnail: int = 64  # long side of the small pictures that are kept
    tracker: str = "small"  # a model's name or folder
    textures: PoolConfig = field(default_factory=PoolConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedScene(TensorRecord):
    """One scene of S frames, with Q queries in each; N = S * Q tracks, those of the first frame first. Pixels are the
    pictures' own.

    Attributes:
        query: positions of the queries.
        xy, affinity, aligned, covariance, cues, patches, tried: evidence, by query frame, frame and query.
        descriptor: of each track at its query, a unit vector.
        thumbnail: the frames, small.
        cam_from_world, params: true cameras, SIMPLE_RADIAL.
        xyz_world: true points.
        true_xy: where they are in each frame.
        visible: truly seen there.
        valid: tracks whose query lies on a surface.
        size: width and height of the pictures.
    """

    query: Float[Tensor, "S Q 2"]
    xy: Float[Tensor, "S S Q 2"]
    affinity: Float[Tensor, "S S Q 2 2"]
    aligned: Float[Tensor, "S S Q 2 2"]
    covariance: Float[Tensor, "S S Q 2 2"]
    cues: Float[Tensor, "S S Q K"]
    patches: Float[Tensor, "S S Q 4 P"]
    tried: Bool[Tensor, "S S Q"]
    descriptor: Float[Tensor, "N C"]
    thumbnail: UInt8[Tensor, "S 3 h w"]
    cam_from_world: Float[Tensor, "S 3 4"]
    params: Float[Tensor, "S 4"]
    xyz_world: Float[Tensor, "N 3"]
    true_xy: Float[Tensor, "S N 2"]
    visible: Bool[Tensor, "S N"]
    valid: Bool[Tensor, " N"]
    size: Float[Tensor, "2"]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.query.shape[0]

    def evidence(self, source: int) -> Evidence:
        """What the tracker found of the queries of one frame; as float32."""
        views = {name: getattr(self, name)[source] for name in VIEWS}
        views["patches"] = views["patches"].float()
        return Evidence(query=self.query[source], scale=self.query.new_ones(self.frames), **views)

    def of_frames(self, chosen: list[int]) -> "TrackedScene":
        """The scene as if it had these frames only, in this order, with the tracks that start in them."""
        frames = torch.tensor(chosen)
        per_frame = self.query.shape[1]
        tracks = (frames[:, None] * per_frame + torch.arange(per_frame)).flatten()
        return dataclasses.replace(
            self,
            query=self.query[frames],
            descriptor=self.descriptor[tracks],
            thumbnail=self.thumbnail[frames],
            cam_from_world=self.cam_from_world[frames],
            params=self.params[frames],
            xyz_world=self.xyz_world[tracks],
            true_xy=self.true_xy[frames][:, tracks],
            visible=self.visible[frames][:, tracks],
            valid=self.valid[tracks],
            **{name: getattr(self, name)[frames][:, frames] for name in VIEWS},
        )


class TrackedPool:
    """Scenes by number, each a function of the configuration, the seed and its number alone.

    Args:
        config: what they are.
        seed: another seed gives other scenes.
        folder: where scenes are kept.
        held_out: draw from the textures of validation.
    """

    def __init__(self, config: TrackedPoolConfig, seed: int, folder: Path, *, held_out: bool = False) -> None:
        self.config, self.seed, self.held_out = config, seed, held_out
        self.folder = folder / self._name()
        self._textures: Textures | None = None
        self._tracker: CoarseToFineTracker | None = None

    def _name(self) -> str:
        described = {
            "config": dataclasses.asdict(dataclasses.replace(self.config, scenes=0)),
            "seed": self.seed,
            "held_out": self.held_out,
            "textures": TEXTURE_VARIABLE in os.environ,
        }
        return "tracked-" + hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return self.config.scenes

    def __getitem__(self, number: int) -> TrackedScene:
        """Scene ``number``, the same every time; beyond the last one they repeat."""
        number = number % self.config.scenes
        path = self.folder / f"{number:06d}.safetensors"
        if path.is_file():
            return TrackedScene(**load_file(path))
        scene = self._make(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        fields = {item.name: getattr(scene, item.name).contiguous() for item in dataclasses.fields(scene)}
        save_file(fields, partial)
        partial.replace(path)
        return scene

    @torch.no_grad()
    def _make(self, number: int) -> TrackedScene:
        if self._tracker is None or self._textures is None:
            tracker = load_model(self.config.tracker).tracker
            if not isinstance(tracker, CoarseToFineTracker):
                raise TypeError("evidence comes from the tracker of small")
            self._tracker = tracker
            self._textures = make_textures(read_textures(self.config.textures, held_out=self.held_out))
        generator = torch.Generator().manual_seed(seed_of(self.seed, number, "held out" if self.held_out else ""))
        rendered = render(self.config.scene, self._textures, 1, generator)
        with one_thread_each():
            return track(rendered, self._tracker, self.config, generator)


def track(
    rendered: RenderedScenes, tracker: CoarseToFineTracker, config: TrackedPoolConfig, generator: torch.Generator
) -> TrackedScene:
    """Evidence and truth of one rendered scene."""
    images = rendered.images
    features = tracker.encode(images)
    frames, _, height, width = images.pixels.shape[1:]
    query = torch.stack([_queries(features, s, config.queries_per_frame, generator) for s in range(frames)])
    queries = Queries(
        frame=torch.arange(frames).repeat_interleave(config.queries_per_frame)[None],
        xy=query.flatten(0, 1)[None],
        valid=torch.ones(1, query.shape[0] * query.shape[1], dtype=torch.bool),
    )
    truth, points = true_tracks(rendered, queries), true_points(rendered, queries)
    found = [tracker.gather(images, features, 0, s, query[s]) for s in range(frames)]
    views = {name: torch.stack([getattr(one, name) for one in found]) for name in VIEWS}
    views["patches"] = views["patches"].half()
    descriptor = torch.cat(
        [sampling.sample(features.descriptors[0, s, None], query[s, None] / STRIDE)[0] for s in range(frames)]
    )
    return TrackedScene(
        query=query,
        **views,
        descriptor=functional.normalize(descriptor, dim=-1),
        thumbnail=(thumbnails(images, config.thumbnail)[0] * 255).round().to(torch.uint8),
        cam_from_world=rendered.cameras.cam_from_world[0].float(),
        params=rendered.cameras.frame_params[0].float(),
        xyz_world=points.xyz_world[0].float(),
        true_xy=truth.xy[0].float(),
        visible=truth.visibility[0] > 0.5,  # noqa: PLR2004
        valid=truth.valid[0],
        size=torch.tensor([float(width), float(height)]),
    )


def _queries(features: FeatureMaps, s: int, count: int, generator: torch.Generator) -> Float[Tensor, "Q 2"]:
    score = features.keypoint_score[0, s]
    found = select_keypoints(score, count)
    size = torch.tensor([score.shape[1], score.shape[0]])
    anywhere = torch.rand(count - len(found), 2, generator=generator) * (size - 8) + 4
    return torch.cat([found, anywhere.to(found)])
