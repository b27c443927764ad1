"""The camera transformer: all cameras at once, from image features, tracks and preliminary cameras (Sec. 3.2).

Preliminary cameras from two-view geometry are embedded and refined in a few rounds. In each round every frame looks at
its own observations (where they are, how sure, how they miss the points of the present cameras) and at its own small
picture, then at the other frames, and moves. What a Gauss-Newton step of that frame alone, and of all frames together,
would do is among the things it sees; how far to go along each of their coordinates is learned, and so is a step of its
own. To the eight numbers of the paper a radial distortion is added, without which wide lenses cannot be fitted.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vggsfm_cli.camera_estimation.interface import CameraEstimator
from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.view_graph import ViewGraph
from vggsfm_cli.camera_estimation.views import Agreement, CameraState, TrackViews, agreement, moved, normalized
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.nn.attention import Attention, Feedforward
from vggsfm_cli.scene import Cameras, ImageSet, Tracks

OBSERVATION = 14
FRAME = 38
BELIEVED = 0.1
"""Visibility below which an observation is not looked at."""

RADIAL_MODELS = ("SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Models whose first distortion parameter is that of SIMPLE_RADIAL."""

MOST_PULL = 2.0
"""How many times its own Gauss-Newton step a frame may go."""


@dataclass(frozen=True, kw_only=True)
class CameraTransformerConfig:
    """Size of the transformer, and what it starts from."""

    preliminary: PreliminaryCamerasConfig = field(default_factory=PreliminaryCamerasConfig)
    width: int = 96
    heads: int = 4
    blocks: int = 2
    rounds: int = 6
    max_tracks: int = 512  # those seen most often
    thumbnail: int = 64  # long side of the pictures it looks at
    min_observations: int = 12  # of a frame, that agree with its camera, to count as registered
    agree: float = 0.01  # an observation within so many halves of the projection agrees

    def build(self) -> "CameraTransformer":
        """The estimator, with weights still to be loaded."""
        return CameraTransformer(self)


class Thumbnails(nn.Module):
    """A few tokens for each picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(64, width, 1),
        )
        self.position = nn.Parameter(torch.zeros(16, width))

    def forward(self, pictures: Float[Tensor, "B S 3 h w"]) -> Float[Tensor, "B S 16 D"]:
        """Encode pictures with values from 0 to 1."""
        tokens = self.layers(pictures.flatten(0, 1) - 0.5).flatten(2).mT.unflatten(0, pictures.shape[:2])
        out: Tensor = tokens + self.position
        return out


class Block(nn.Module):
    """A frame looks at its observations, at its picture and at the other frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.tracks_norm, self.picture_norm, self.frames_norm = (nn.LayerNorm(width) for _ in range(3))
        self.tracks, self.picture, self.frames = (Attention(width, heads) for _ in range(3))
        self.feedforward = Feedforward(width)

    def forward(
        self,
        frames: Float[Tensor, "B S D"],
        observations: Float[Tensor, "B S N D"],
        seen: Bool[Tensor, "B S N"],
        pictures: Float[Tensor, "B S G D"],
        valid: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B S D"]:
        """Update the frames' tokens."""
        alone = self.tracks_norm(frames)[:, :, None]
        frames = frames + self.tracks(alone, observations, seen)[:, :, 0]
        alone = self.picture_norm(frames)[:, :, None]
        everything = torch.ones(pictures.shape[:3], dtype=torch.bool, device=pictures.device)
        frames = frames + self.picture(alone, pictures, everything)[:, :, 0]
        together = self.frames_norm(frames)
        frames = frames + self.frames(together, together, valid)
        out: Tensor = frames + self.feedforward(frames)
        return out


class CameraTransformer(CameraEstimator):
    """Refines preliminary cameras; permuting the frames but the first permutes the cameras."""

    def __init__(self, config: CameraTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.preliminary = config.preliminary.build()
        self.pictures = Thumbnails(config.width)
        self.observations = nn.Sequential(
            nn.Linear(OBSERVATION, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.frames = nn.Linear(FRAME, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 24)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: ImageSet, tracks: Tracks, graphs: Sequence[ViewGraph] | None = None) -> Cameras:
        """Cameras of all frames; registered are those that enough of their observations agree with."""
        with torch.no_grad():
            start = self.preliminary(images, tracks, graphs)
            chosen = best_tracks(tracks, self.config.max_tracks)
        views, state = views_of(images, chosen, start)
        pictures = thumbnails(images, self.config.thumbnail)
        state = self.refine(views, state, pictures, images.frame_valid)[-1]
        return self._cameras(images, start, state, views)

    def refine(
        self,
        views: TrackViews,
        state: CameraState,
        pictures: Float[Tensor, "B S 3 h w"],
        valid: Bool[Tensor, "B S"],
    ) -> list[CameraState]:
        """The cameras after each round; no gradient passes from one round to the one before it.

        Args:
            views: the tracks.
            state: preliminary cameras; frames without one have that of a neighbour.
            pictures: the frames, small.
            valid: False for padding frames.
        """
        first = state = normalized(state, views)
        seen = self.pictures(pictures)
        states = []
        for _ in range(self.config.rounds):
            state = state.detach()
            state = normalized(moved(state, views, self._step(views, state, first, seen, valid)), views)
            states.append(state)
        return states

    def _step(
        self, views: TrackViews, state: CameraState, first: CameraState, pictures: Tensor, valid: Tensor
    ) -> Float[Tensor, "B S 8"]:
        fit = agreement(state, views)
        dtype = self.head.weight.dtype
        tokens = self.observations(_observation_features(views, fit).to(dtype))
        frames = self.frames(_frame_features(views, state, first, fit).to(dtype))
        seen = views.weight > 0
        for block in self.blocks:
            frames = block(frames, tokens, seen, pictures, valid)
        alone, together, free = self.head(self.norm(frames)).to(fit.alone).split(8, -1)
        step = MOST_PULL * torch.sigmoid(together) * fit.together + torch.tanh(alone) * fit.alone + 0.1 * free
        reference = torch.ones_like(step)
        reference[:, 0, :6] = 0
        return step * reference * valid[..., None]

    def _cameras(self, images: ImageSet, start: Cameras, state: CameraState, views: TrackViews) -> Cameras:
        fit = agreement(state, views)
        agrees = (fit.residual.norm(dim=-1) < self.config.agree) & (views.weight > 0.5) & (fit.weight > 0)  # noqa: PLR2004
        registered = (agrees.sum(-1) >= self.config.min_observations) & images.frame_valid
        return Cameras(
            cam_from_world=state.cam_from_world.to(start.cam_from_world),
            models=start.models,
            params=with_lenses(images, start, state),
            camera_index=start.camera_index,
            registered=registered,
        )


def half_side(images: ImageSet) -> Float[Tensor, "B S"]:
    """Half of each frame's long side, stored pixels."""
    return images.stored_size.amax(-1) / 2


def views_of(images: ImageSet, tracks: Tracks, start: Cameras) -> tuple[TrackViews, CameraState]:
    """Tracks and preliminary cameras as the transformer takes them, in double precision."""
    half = half_side(images).double()
    focal = _of_frames(start, start.params).double() / half
    double = dataclasses.replace(start, params=start.params.double(), cam_from_world=start.cam_from_world.double())
    # preliminary cameras do not bend; where a distortion is given it is undone here, and stays
    ideal = double.unproject(tracks.xy.double()) * focal[..., None, None]
    variance = tracks.covariance.double().diagonal(dim1=-2, dim2=-1).mean(-1)
    believed = tracks.visibility.double() * tracks.valid[:, None] * images.frame_valid[..., None]
    twice = (believed > BELIEVED).sum(1, keepdim=True) > 1  # once says nothing of a point
    believed = torch.where((believed > BELIEVED) & twice, believed, torch.zeros_like(believed))
    same = (start.camera_index[:, :, None] == start.camera_index[:, None]) & images.frame_valid[:, None]
    spread = images.priors.focal_spread.to(half).gather(1, start.camera_index)
    views = TrackViews(
        xy=torch.where((believed > 0)[..., None], ideal, torch.zeros_like(ideal)).clamp(-8, 8),
        weight=believed,
        deviation=variance.sqrt() / half[..., None],
        same_camera=same.double() / same.double().sum(-1, keepdim=True).clamp(min=1),
        log_focal=(_of_frames(start, images.priors.params.to(half)) / half).clamp(0.2, 40.0).log(),
        spread=spread,
        bends=_bending(images, start).double().gather(1, start.camera_index),
    )
    state = CameraState(
        cam_from_world=_all_placed(start).double(),
        log_focal=focal.clamp(0.2, 40.0).log(),
        radial=torch.zeros_like(focal),
    )
    return views, state


def _of_frames(cameras: Cameras, params: Float[Tensor, "B C P"]) -> Float[Tensor, "B S"]:
    """Focal length of each frame's camera."""
    focal = [camera_models.focal(model, params[:, c]) for c, model in enumerate(cameras.models)]
    return torch.stack(focal, dim=1).gather(1, cameras.camera_index)


def _bending(images: ImageSet, start: Cameras) -> Bool[Tensor, "B C"]:
    """Cameras whose radial distortion is to be found."""
    free = []
    for c, model in enumerate(start.models):
        indices = camera_models.distortion_indices(model)
        if model not in RADIAL_MODELS:
            free.append(torch.zeros_like(start.params[:, c, 0], dtype=torch.bool))
            continue
        columns = list(indices)
        unknown = ~images.priors.known[:, c, columns].any(-1).to(start.params.device)
        free.append(unknown & (start.params[:, c, columns] == 0).all(-1))
    return torch.stack(free, 1)


def _all_placed(cameras: Cameras) -> Float[Tensor, "B S 3 4"]:
    """Poses in which frames that are not registered have that of the nearest registered one, by number."""
    frames = cameras.registered.shape[1]
    number = torch.arange(frames, device=cameras.registered.device)
    distance = (number[:, None] - number).abs().double()
    distance = distance + torch.where(cameras.registered[:, None], 0.0, torch.inf)
    nearest = distance.argmin(-1)
    placed = cameras.cam_from_world.gather(1, nearest[..., None, None].expand(-1, -1, 3, 4))
    none = ~cameras.registered.any(-1)
    return torch.where(none[:, None, None, None], pose.identity(1, 1).to(placed), placed)


def best_tracks(tracks: Tracks, count: int) -> Tracks:
    """The ``count`` tracks that are seen most often, in their order."""
    if tracks.xy.shape[2] <= count:
        return tracks
    often = (tracks.visibility * tracks.valid[:, None]).sum(1)
    index = often.topk(count, dim=-1).indices.sort(-1).values
    wide = index[:, None].expand(-1, tracks.xy.shape[1], -1)
    return Tracks(
        xy=tracks.xy.gather(2, wide[..., None].expand(-1, -1, -1, 2)),
        visibility=tracks.visibility.gather(2, wide),
        covariance=tracks.covariance.gather(2, wide[..., None, None].expand(-1, -1, -1, 2, 2)),
        query_frame=tracks.query_frame.gather(1, index),
        valid=tracks.valid.gather(1, index),
    )


def thumbnails(images: ImageSet, side: int) -> Float[Tensor, "B S 3 h w"]:
    """The pictures with a long side of ``side`` pixels."""
    pixels = images.pixels.flatten(0, 1)
    scale = side / max(pixels.shape[-2:])
    size = [max(round(length * scale), 1) for length in pixels.shape[-2:]]
    small = functional.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 1)
    return small.unflatten(0, images.pixels.shape[:2])


def with_lenses(images: ImageSet, start: Cameras, state: CameraState) -> Float[Tensor, "B C P"]:
    """Parameters of the cameras with the lenses that were found; the mean over the frames of each."""
    focal = state.log_focal + half_side(images).to(state.log_focal).log()
    params = start.params
    factors, bends = [], []
    for c, model in enumerate(start.models):
        mine = ((start.camera_index == c) & images.frame_valid).to(focal)
        share = mine / mine.sum(-1, keepdim=True).clamp(min=1)
        before = camera_models.focal(model, params[:, c]).to(focal)
        used = mine.any(-1)
        ratio = torch.where(used, (focal * share).sum(-1).exp() / before, torch.ones_like(before))
        radial = (state.radial * share).sum(-1)
        column = torch.arange(params.shape[-1], device=params.device)
        is_focal = torch.isin(column, column.new_tensor(camera_models.focal_indices(model)))
        free = is_focal & ~images.priors.known[:, c].to(params.device)
        factors.append(torch.where(free, ratio[:, None], torch.ones_like(ratio)[:, None]))
        first = camera_models.distortion_indices(model)[0] if model in RADIAL_MODELS else -1
        bends.append(torch.where(column == first, radial[:, None], torch.zeros_like(radial)[:, None]))
    return params * torch.stack(factors, 1).to(params) + torch.stack(bends, 1).to(params)


def _observation_features(views: TrackViews, fit: Agreement) -> Float[Tensor, "B S N F"]:
    depth = fit.xyz_cam[..., 2].clamp(min=1e-3)
    miss = fit.residual * 512  # pixels of a picture of 1024
    return torch.cat(
        [
            views.xy.clamp(-2, 2),
            torch.asinh(miss / 0.5),
            torch.asinh(miss / 8),
            torch.asinh((fit.xyz_cam / depth[..., None])[..., :2]),
            depth.clamp(max=1e3).log()[..., None],
            (fit.xyz_cam[..., 2:] > 0).to(depth),
            (views.deviation * 512).clamp(1e-3, 1e3).log()[..., None],
            views.weight[..., None],
            fit.weight[..., None],
            miss.norm(dim=-1, keepdim=True).clamp(min=1e-2).log(),
        ],
        -1,
    )


def _frame_features(views: TrackViews, state: CameraState, first: CameraState, fit: Agreement) -> Tensor:
    total = fit.weight.sum(-1)
    squared = (fit.residual * 512).square().sum(-1)
    rms = ((squared * fit.weight).sum(-1) / total.clamp(min=1e-3)).clamp(min=1e-4).sqrt()
    change = pose.compose(state.cam_from_world, pose.inverse(first.cam_from_world))
    reference = torch.zeros_like(total)
    reference[:, 0] = 1
    return torch.cat(
        [
            rotation.to_quaternion(state.cam_from_world[..., :3]),
            torch.asinh(state.cam_from_world[..., 3]),
            state.log_focal[..., None],
            rotation.log(change[..., :3]),
            torch.asinh(change[..., 3]),
            (state.log_focal - first.log_focal)[..., None],
            ((state.log_focal - views.log_focal) / views.spread.clamp(min=1e-3)).clamp(-5, 5)[..., None],
            10 * state.radial[..., None],
            torch.asinh(20 * fit.alone),
            torch.asinh(20 * fit.together),
            torch.log1p(total)[..., None],
            torch.log1p(views.weight.sum(-1))[..., None],
            (total / views.weight.sum(-1).clamp(min=1e-3))[..., None],
            rms.log()[..., None],
            reference[..., None],
        ],
        -1,
    )
