"""The camera predictor of VGGSfM v2: all cameras from the images alone, relative to one of them.

DINOv2 tells what each image shows; every image then looks at the reference image, and a pose token of each goes round a
small transformer that improves its encoding. The tracks are not looked at.

What differs from the published code, on purpose:

- Predictions from several reference frames are averaged with their quaternions on one side (``encoding.average``).
- DINOv2 runs once, for all references and for the ranking of frames; there once for each.
- Frames that share a camera get one focal length, the mean of theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.view_graph import ViewGraph
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.nn.attention import MLP, CrossBlock, SelfBlock, plain_norm
from vggsfm_cli.nn.cnn import resize_aligned
from vggsfm_cli.nn.dinov2 import DINOv2Config, normalize_colors
from vggsfm_cli.nn.embeddings import grid_embedding, harmonic_embedding
from vggsfm_cli.recipes.v2 import encoding
from vggsfm_cli.scene import Cameras, ImageSet, Tracks
from vggsfm_cli.threads import map_threads

FOCAL_LIMITS = (0.2, 5.0)
"""Predicted focal lengths are held in this range, in sides of the square image."""

FRAMES_AT_ONCE = 8
"""Frames that look at the reference together on an accelerator; on the CPU each does so alone, beside others."""


@dataclass(frozen=True, kw_only=True)
class V2CameraPredictorConfig:
    """Settings; the defaults are those of the published weights."""

    backbone: DINOv2Config = field(default_factory=DINOv2Config)
    side_px: int = 336  # images are resized to squares of this size
    heads: int = 8
    image_blocks: int = 8  # of each kind, among an image's tokens and from them to the reference
    trunk_blocks: int = 4
    iterations: int = 4

    def build(self) -> "V2CameraPredictor":
        """The predictor, with weights still to be loaded."""
        return V2CameraPredictor(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One iteration: what came out of the trunk, of the head, and the updated state of every frame."""

    trunk: Float[Tensor, "1 S D"]
    update: Float[Tensor, "1 S U"]
    features: Float[Tensor, "1 S D"]
    encodings: Float[Tensor, "1 S 8"]


class V2CameraPredictor(CameraEstimator):
    """Images to cameras (VGGSfM, Sec. 3.2, as released in v2)."""

    def __init__(self, config: V2CameraPredictorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width
        self.backbone = config.backbone.build()
        self.input_transform = MLP(width, width)
        self.pose_token = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.self_att = nn.ModuleList(SelfBlock(width, config.heads) for _ in range(config.image_blocks))
        self.cross_att = nn.ModuleList(CrossBlock(width, config.heads) for _ in range(config.image_blocks))
        self.trunk = nn.ModuleList(SelfBlock(width, config.heads) for _ in range(config.trunk_blocks))
        self.pose_branch = MLP(width, 2 * width, width + encoding.LENGTH)
        self.feature_update = nn.Linear(width, width)

    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        """Cameras of all frames, with the first as reference, whose tokens are made anew; from ``images`` alone."""
        del tracks, graphs
        return self.predict(images, self.look(images), [0])

    def look(self, images: ImageSet) -> Float[Tensor, "B S P D"]:
        """DINOv2's patch tokens of every frame, each frame alone; no gradients."""
        side = self.config.side_px

        def look(frame: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 P D"]:
            small = resize_aligned(frame[None], (side, side)) if frame.shape[-1] != side else frame[None]
            patches: Tensor = self.backbone(normalize_colors(small)).patches
            return patches

        with torch.no_grad():
            tokens = list(map_threads(look, images.pixels.flatten(0, 1), images.pixels.device))
        return torch.cat(tokens).unflatten(0, images.pixels.shape[:2])

    def predict(self, images: ImageSet, tokens: Float[Tensor, "B S P D"], references: list[int]) -> Cameras:
        """Cameras of all frames in stored pixels, averaged over predictions with each of some frames as reference.

        Args:
            images: squares with the principal point in the middle; priors say which frames share a camera.
            tokens: what ``look`` gave.
            references: frames; the first frame is at the origin whichever they are.
        """
        scenes = [self._scene(images, tokens[b], b, references) for b in range(len(tokens))]
        poses, focal = (torch.stack(part) for part in zip(*scenes, strict=True))
        return with_focal(images, poses, focal)

    def _scene(
        self, images: ImageSet, tokens: Float[Tensor, "S P D"], b: int, references: list[int]
    ) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, " S"]]:
        """Poses, and focal lengths in network pixels; padding frames stay out."""
        valid = images.frame_valid[b].nonzero().flatten()
        runs = [
            self._from_reference(tokens[valid], int((valid == reference).nonzero()))
            for reference in references
            if bool(images.frame_valid[b, reference])
        ]
        poses, focal = encoding.average(*(torch.stack(part) for part in zip(*runs, strict=True)))
        side = min(images.pixels.shape[-2:])
        all_poses = torch.eye(3, 4, device=poses.device).repeat(images.frame_valid.shape[1], 1, 1)
        all_focal = torch.ones(len(all_poses), device=poses.device)
        focal = (focal * side / 2).clamp(FOCAL_LIMITS[0] * side, FOCAL_LIMITS[1] * side)
        return all_poses.index_put((valid,), poses), all_focal.index_put((valid,), focal)

    def _from_reference(
        self, tokens: Float[Tensor, "S P D"], reference: int
    ) -> tuple[Float[Tensor, "S 3 4"], Float[Tensor, " S"]]:
        """Poses with frame 0 at the origin, focal lengths in half sides."""
        order = list(range(len(tokens)))
        order[0], order[reference] = order[reference], order[0]
        encodings = self.iterate(self.pose_tokens(tokens[order]))[-1].encodings[0, order]
        poses, focal = encoding.decode(encodings)
        return encoding.relative_to(poses, 0), focal

    def pose_tokens(self, tokens: Float[Tensor, "S P D"]) -> Float[Tensor, "1 S D"]:
        """One token a frame, after all frames but the first, the reference, looked at it."""
        side = round(tokens.shape[1] ** 0.5)
        x = plain_norm(self.input_transform(tokens))
        x = x + grid_embedding(x.shape[-1], side, side, x.device).flatten(2).mT
        x = torch.cat([self.pose_token[0].expand(len(x), -1, -1), x], 1)
        reference, others = x[:1], x[1:].split(1 if x.device.type == "cpu" else FRAMES_AT_ONCE)
        for own, across in zip(self.self_att, self.cross_att, strict=True):
            reference = own(reference)

            def look(part: Tensor, own: nn.Module = own, across: nn.Module = across, at: Tensor = reference) -> Tensor:
                seen: Tensor = across(own(part).flatten(0, 1)[None], at)[0]
                return seen.unflatten(0, part.shape[:2])

            others = list(map_threads(look, others, x.device))
        return torch.cat([reference, *others])[None, :, 0]

    def iterate(self, start: Float[Tensor, "1 S D"], encodings: Float[Tensor, "1 S 8"] | None = None) -> list[Step]:
        """All iterations, from the pose tokens and from zero or given encodings."""
        encodings = start.new_zeros(*start.shape[:2], encoding.LENGTH) if encodings is None else encodings
        features, steps = start, []
        for _ in range(self.config.iterations):
            steps.append(self.step(start, features, encodings))
            features, encodings = steps[-1].features, steps[-1].encodings
        return steps

    def step(
        self, start: Float[Tensor, "1 S D"], features: Float[Tensor, "1 S D"], encodings: Float[Tensor, "1 S 8"]
    ) -> Step:
        """One iteration, in float32: half of the embedding's channels are noise of the last bits as it is.

        Args:
            start: pose tokens, mixed in again every time.
            features: of the last iteration.
            encodings: of the last iteration; cut from the graph.
        """
        encodings = encodings.detach()
        mixed = features + harmonic_embedding(encodings)
        for block in self.trunk:
            mixed = block(mixed)
        update = self.pose_branch(mixed)
        moved = functional.gelu(self.feature_update(plain_norm(update[..., encoding.LENGTH :]))) + mixed
        return Step(
            trunk=mixed,
            update=update,
            features=(moved + start) / 2,
            encodings=encodings + update[..., : encoding.LENGTH],
        )


def with_focal(images: ImageSet, poses: Float[Tensor, "B S 3 4"], focal_px: Float[Tensor, "B S"]) -> Cameras:
    """Cameras of the models that the priors name, with one focal length a camera and no distortion.

    Args:
        images: priors, and how large a network pixel is.
        poses: of every frame.
        focal_px: of every frame, network pixels.
    """
    priors = images.priors
    focal = (focal_px * images.pixel_scale).to(priors.params.dtype)
    share = torch.nn.functional.one_hot(priors.camera_index, len(priors.models)) * images.frame_valid[..., None]
    mean = (share * focal[..., None]).sum(1) / share.sum(1).clamp_min(1)
    params = priors.params.clone()
    for c, model in enumerate(priors.models):
        used = share[..., c].sum(1) > 0
        for index in camera_models.focal_indices(model):
            params[:, c, index] = torch.where(used, mean[:, c], params[:, c, index])
        params[:, c, list(camera_models.distortion_indices(model))] = 0
    return Cameras(
        cam_from_world=poses,
        models=priors.models,
        params=torch.where(priors.known, priors.params, params),
        camera_index=priors.camera_index,
        registered=images.frame_valid,
    )
