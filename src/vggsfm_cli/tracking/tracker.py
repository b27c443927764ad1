"""The point tracker: global start, affinity, sub-pixel refinement, visibility and covariance."""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking import lucas_kanade
from vggsfm_cli.tracking.features import FeatureMaps, XFeatEncoder
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.lucas_kanade import LucasKanadeConfig, Pyramid
from vggsfm_cli.tracking.starts import StartConfig, find_starts, nearest


@dataclass(frozen=True, kw_only=True)
class VisibilityConfig:
    """How what the geometric stages say of a match adds up to the log-odds of its being right."""

    correlation: tuple[float, float] = (10.0, 0.8)  # weight and break-even of the patches' correlation
    similarity: tuple[float, float] = (5.0, 0.85)  # of the descriptors' cosine
    support: tuple[float, float] = (4.0, 0.5)  # of the share of neighbours that agree
    drift_px: tuple[float, float] = (-0.15, 3.0)  # of the distance from the start, network pixels
    max_stretch: float = 3.0  # the affinity may stretch or shrink by so much along any axis


@dataclass(frozen=True, kw_only=True)
class CoarseToFineTrackerConfig:
    """Settings of the tracker."""

    start: StartConfig = field(default_factory=StartConfig)
    fine: LucasKanadeConfig = field(default_factory=LucasKanadeConfig)
    visibility: VisibilityConfig = field(default_factory=VisibilityConfig)

    def build(self) -> "CoarseToFineTracker":
        """The tracker, with weights still to be loaded."""
        return CoarseToFineTracker(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """Result for the queries of one frame in one other frame."""

    xy: Float[Tensor, "Q 2"]
    visibility: Float[Tensor, " Q"]
    covariance: Float[Tensor, "Q 2 2"]


class CoarseToFineTracker(PointTracker):
    """Tracks points from any frame to all others, without matching frames pair by pair (VGGSfM, Sec. 3.1).

    Learned: the descriptors and keypoints. Geometric for now: affinity and sub-pixel refinement.
    """

    def __init__(self, config: CoarseToFineTrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = XFeatEncoder()

    def encode(self, images: ImageSet) -> FeatureMaps:
        """Dense features of all frames, and the brightness pyramids of their files."""
        features: FeatureMaps = self.encoder(images)
        scenes, frames = images.pixels.shape[:2]
        photographs = tuple(tuple(self._pyramid(images, b, s) for s in range(frames)) for b in range(scenes))
        return dataclasses.replace(features, photographs=photographs)

    def _pyramid(self, images: ImageSet, b: int, s: int) -> Pyramid:
        if images.originals is None:
            grey, scale = images.pixels[b, s].mean(0), 1.0
        else:
            grey, scale = images.originals.grey(b, s).to(images.pixels.device), float(images.pixel_scale[b, s])
        return lucas_kanade.make_pyramid(grey, scale, self.config.fine)

    def forward(self, images: ImageSet, queries: Queries, features: FeatureMaps | None = None) -> Tracks:
        """Track ``queries`` (network pixels) through every frame; the result is in stored pixels.

        A track's own query frame has visibility 1 and the covariance of the noise floor. Not visible tracks keep the
        best guess of their position. Differentiable in the pixels, up to the choice of start.
        """
        features = self.encode(images) if features is None else features
        scenes = [self._track_scene(images, queries, features, b) for b in range(queries.xy.shape[0])]
        return Tracks(
            xy=torch.stack([scene[0] for scene in scenes]),
            visibility=torch.stack([scene[1] for scene in scenes]),
            covariance=torch.stack([scene[2] for scene in scenes]),
            query_frame=queries.frame,
            valid=queries.valid,
        )

    def _track_scene(
        self, images: ImageSet, queries: Queries, features: FeatureMaps, b: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        frames, count = images.pixels.shape[1], queries.xy.shape[1]
        like = queries.xy
        xy = like.new_zeros(frames, count, 2)
        visibility = like.new_zeros(frames, count)
        covariance = torch.eye(2, dtype=like.dtype, device=like.device).repeat(frames, count, 1, 1)
        for source in queries.frame[b].unique().tolist():
            chosen = ((queries.frame[b] == source) & queries.valid[b]).nonzero().squeeze(-1)
            if len(chosen) == 0:
                continue
            for target, found in enumerate(self._from_frame(images, features, b, source, queries.xy[b, chosen])):
                where = (torch.tensor(target, device=chosen.device), chosen)
                xy = xy.index_put(where, found.xy)
                visibility = visibility.index_put(where, found.visibility)
                covariance = covariance.index_put(where, found.covariance)
        return xy, visibility, covariance

    def _from_frame(
        self, images: ImageSet, features: FeatureMaps, b: int, source: int, xy: Float[Tensor, "Q 2"]
    ) -> list[_Found]:
        """Follow the queries of one frame into every frame; frames run side by side on the threads there are."""
        fine = self.config.fine
        stored = _stored(images, b, source, xy)
        photograph = features.photographs[b][source]
        templates = [
            lucas_kanade.make_templates(level, stored / photograph.scale(i), fine.radius)
            for i, level in enumerate(photograph.levels)
        ]
        neighbours = nearest(xy, self.config.start.neighbours)
        differentiate = torch.is_grad_enabled()

        def follow(target: int) -> _Found:
            with torch.set_grad_enabled(differentiate):  # the switch is each thread's own
                if target == source:
                    return self._at_home(images, b, source, stored)
                return self._refine(images, features, b, source, target, xy, templates, neighbours)

        return list(map_threads(follow, range(images.pixels.shape[1]), images.pixels.device))

    def _at_home(self, images: ImageSet, b: int, source: int, stored: Float[Tensor, "Q 2"]) -> _Found:
        floor = (self.config.fine.noise_floor_px * images.pixel_scale[b, source]).square()
        return _Found(
            xy=stored,
            visibility=torch.ones(len(stored), dtype=stored.dtype, device=stored.device),
            covariance=(floor * _eye(stored)).expand(len(stored), 2, 2),
        )

    def _refine(
        self,
        images: ImageSet,
        features: FeatureMaps,
        b: int,
        source: int,
        target: int,
        xy: Float[Tensor, "Q 2"],
        templates: list[lucas_kanade.Templates],
        neighbours: Tensor,
    ) -> _Found:
        fine = self.config.fine
        starts = find_starts(
            xy, features.descriptors[b, source], features.descriptors[b, target], neighbours, self.config.start
        )
        begin = _stored(images, b, target, starts.xy)
        scale = images.pixel_scale[b, target]
        chosen = (starts.believed & images.frame_valid[b, target]).nonzero().squeeze(-1)
        unseen = _eye(xy) * (4 * scale).square()
        result = _Found(
            xy=begin,
            visibility=begin.new_zeros(len(xy)),
            covariance=unseen.expand(len(xy), 2, 2),
        )
        if len(chosen) == 0:
            return result
        here, there = features.photographs[b][source], features.photographs[b][target]
        # offsets: level pixels of the query frame -> stored -> network -> affinity -> stored -> level pixels here
        linear = images.stored_from_network[b, target, :, :2] @ starts.affinity[chosen]
        affinity = linear @ torch.linalg.inv(images.stored_from_network[b, source, :, :2])
        affinity = affinity * (here.scale(0) / there.scale(0))
        refined = lucas_kanade.refine(
            [template.select(chosen) for template in templates],
            there,
            begin[chosen],
            affinity,
            fine,
        )
        drift = (refined.xy - begin[chosen]).norm(dim=-1)
        kept = (drift < fine.max_drift_px * scale) & _inside(images, b, target, refined.xy)
        cues = self.config.visibility
        stretch = torch.linalg.svdvals(refined.affinity)
        kept = kept & (stretch[:, 0] < cues.max_stretch) & (stretch[:, 1] > 1 / cues.max_stretch)
        log_odds = sum(
            weight * (cue - even)
            for cue, (weight, even) in (
                (refined.correlation, cues.correlation),
                (starts.similarity[chosen], cues.similarity),
                (starts.support[chosen], cues.support),
                (drift / scale, cues.drift_px),
            )
        )
        visibility = torch.sigmoid(torch.as_tensor(log_odds)) * kept
        floor = _eye(xy) * (fine.noise_floor_px * scale).square()
        return _Found(
            xy=result.xy.index_put((chosen,), torch.where(kept[:, None], refined.xy, begin[chosen])),
            visibility=result.visibility.index_put((chosen,), visibility),
            covariance=result.covariance.index_put((chosen,), refined.covariance + floor),
        )


def _eye(like: Tensor) -> Float[Tensor, "2 2"]:
    return torch.eye(2, dtype=like.dtype, device=like.device)


def _stored(images: ImageSet, b: int, s: int, xy: Float[Tensor, "Q 2"]) -> Float[Tensor, "Q 2"]:
    matrix = images.stored_from_network[b, s]
    return xy @ matrix[:, :2].mT + matrix[:, 2]


def _inside(images: ImageSet, b: int, s: int, xy: Float[Tensor, "Q 2"], border: float = 2.0) -> Tensor:
    size = images.stored_size[b, s].to(xy.dtype)
    return ((xy > border) & (xy < size - border)).all(-1)
