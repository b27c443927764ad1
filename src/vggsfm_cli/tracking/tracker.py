"""The point tracker: global start, affinity, sub-pixel refinement, visibility and covariance."""

import copy
import dataclasses
import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.scene import ImageSet, Queries, Tracks
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking import lucas_kanade
from vggsfm_cli.tracking.context import ContextConfig, SeedFinder
from vggsfm_cli.tracking.evidence import CUES, Evidence, Judge, LogOddsConfig
from vggsfm_cli.tracking.features import DenseEncoder, FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.lucas_kanade import LucasKanadeConfig, Pyramid
from vggsfm_cli.tracking.masks import inside_mask
from vggsfm_cli.tracking.starts import StartConfig, Starts, find_starts, nearest
from vggsfm_cli.tracking.transformer import TrackTransformerConfig


@dataclass(frozen=True, kw_only=True)
class CoarseToFineTrackerConfig:
    """Settings of the tracker."""

    start: StartConfig = field(default_factory=StartConfig)
    fine: LucasKanadeConfig = field(default_factory=LucasKanadeConfig)
    judge: LogOddsConfig | TrackTransformerConfig = field(default_factory=LogOddsConfig)
    context: ContextConfig | None = None  # what looks at all around before queries are searched for; None: nothing
    home_deviation_px: float = 0.05  # of a query in its own frame, network pixels
    pairs_at_once: int = 2048  # observations computed together; bounds the memory, changes nothing else

    def build(self) -> "CoarseToFineTracker":
        """The tracker, with weights still to be loaded."""
        return CoarseToFineTracker(self)


class CoarseToFineTracker(PointTracker):
    """Tracks points from any frame to all others, without matching frames pair by pair (VGGSfM, Sec. 3.1).

    Search by descriptors, a local affinity by vote, alignment of patches of the photographs by Lucas-Kanade, and a
    judge that predicts correction, visibility and covariance. Learned are the descriptors and, where so configured, the
    judge.
    """

    def __init__(self, config: CoarseToFineTrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = DenseEncoder()
        self.judge = config.judge.build()
        self.context: SeedFinder | None = None if config.context is None else config.context.build()

    def in_pieces(self, pairs_at_once: int) -> "CoarseToFineTracker":
        """The same tracker in other pieces, with the same weights."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, pairs_at_once=pairs_at_once)
        return other

    def encode(self, images: ImageSet) -> FeatureMaps:
        """Dense features of all frames, and the brightness pyramids of their files."""
        features: FeatureMaps = self.encoder(images)
        scenes, frames = images.pixels.shape[:2]
        places = [(b, s) for b in range(scenes) for s in range(frames)]
        pyramids = list(map_threads(lambda place: self._pyramid(images, *place), places, images.pixels.device))
        photographs = tuple(tuple(pyramids[b * frames : (b + 1) * frames]) for b in range(scenes))
        return dataclasses.replace(features, photographs=photographs)

    def relate(self, images: ImageSet, features: FeatureMaps, partners: Bool[Tensor, "S S"] | None) -> FeatureMaps:
        """The features with the seeds of every two frames that are partners, if the tracker looks for any."""
        if self.context is None:
            return features
        seeds = []
        for b in range(images.pixels.shape[0]):
            wanted = images.frame_valid[b, :, None] & images.frame_valid[b]
            wanted = (wanted if partners is None else wanted & partners).triu(1)
            pairs = [(int(first), int(second)) for first, second in wanted.nonzero().tolist()]
            seeds.append(self.context.seeds(images, features, b, pairs))
        return dataclasses.replace(features, seeds=tuple(seeds))

    def _pyramid(self, images: ImageSet, b: int, s: int) -> Pyramid:
        if images.originals is None:
            grey, scale, halved = images.pixels[b, s].mean(0), 1.0, 0
        else:
            grey, scale = images.originals.grey(b, s).to(images.pixels.device), float(images.pixel_scale[b, s])
            halved = round(math.log2(float(images.stored_size[b, s, 0]) / grey.shape[-1]))
        return lucas_kanade.make_pyramid(grey, scale, self.config.fine, halved)

    def forward(self, images: ImageSet, queries: Queries, features: FeatureMaps | None = None) -> Tracks:
        """Track ``queries`` (network pixels) through every frame; the result is in stored pixels.

        A track's own query frame has visibility 1 and the covariance of the noise floor. Not visible tracks,
        among them those that end outside the mask, keep the best guess of their position. Differentiable in the pixels,
        up to the choice of start.
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
            frames_here = torch.arange(frames, device=chosen.device)[:, None]
            found = self._from_frame(images, features, b, source, queries.xy[b, chosen])
            xy = xy.index_put((frames_here, chosen), found[0])
            visibility = visibility.index_put((frames_here, chosen), found[1])
            covariance = covariance.index_put((frames_here, chosen), found[2])
        return xy, visibility, covariance

    def _from_frame(
        self, images: ImageSet, features: FeatureMaps, b: int, source: int, xy: Float[Tensor, "Q 2"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Follow the queries of one frame into every frame: position, visibility and covariance, stored pixels."""
        scene = images.scene(b)
        evidence = self.gather(images, features, b, source, xy, self.judge)
        ends, visibility, covariance = self.conclude(evidence, source, scene.to_stored(evidence.xy[None])[0])
        usable = inside_mask(images.mask[b], scene.to_network(ends.detach()[None])[0])
        usable[source] = True
        return ends, visibility * usable, covariance

    def conclude(
        self, evidence: Evidence, source: int, stored: Float[Tensor, "S Q 2"]
    ) -> tuple[Float[Tensor, "S Q 2"], Float[Tensor, "S Q"], Float[Tensor, "S Q 2 2"]]:
        """Position, visibility and covariance of what was found, in stored pixels; differentiable in the judge.

        Args:
            evidence: of the queries of frame ``source``.
            source: there the query itself is the position.
            stored: positions found, in stored pixels.
        """
        verdict = self.judge(evidence, self.config.pairs_at_once)
        tried, eye = evidence.tried, _eye(evidence.xy)
        unknown = eye * (4 * evidence.scale).square()[:, None, None, None]
        home = torch.zeros(len(tried), 1, dtype=torch.bool, device=tried.device)
        home[source] = True
        at_home = eye * (self.config.home_deviation_px * evidence.scale[source]).square()
        covariance = torch.where(tried[..., None, None], verdict.covariance, unknown)
        return (
            torch.where(tried[..., None], stored + verdict.move, stored),
            torch.where(home, torch.ones_like(verdict.logit), torch.sigmoid(verdict.logit) * tried),
            torch.where(home[..., None, None], at_home, covariance),
        )

    def gather(
        self,
        images: ImageSet,
        features: FeatureMaps,
        b: int,
        source: int,
        xy: Float[Tensor, "Q 2"],
        judge: Judge | None = None,
    ) -> Evidence:
        """Search for and align the queries ``xy`` (network pixels) of frame ``source`` of scene ``b`` in every frame.

        Frames run side by side on the threads there are. In the query frame itself nothing is tried. With a ``judge``,
        patches are kept only until it has looked at them.
        """
        stored = _stored(images, b, source, xy)
        photograph = features.photographs[b][source]
        templates = [
            lucas_kanade.make_templates(level, stored / photograph.scale(i), self.config.fine.radius)
            for i, level in enumerate(photograph.levels)
        ]
        neighbours = nearest(xy, self.config.start.neighbours)

        def follow(target: int) -> Evidence:
            return self._align(images, features, b, source, target, xy, templates, neighbours, judge)

        found = list(map_threads(follow, range(images.pixels.shape[1]), images.pixels.device))
        parts = {
            name: torch.cat([getattr(one, name) for one in found])
            for name in ("xy", "affinity", "aligned", "covariance", "cues", "tried", "scale")
        }
        patches = [one.patches for one in found if one.patches is not None]
        looked = [one.looked for one in found if one.looked is not None]
        return Evidence(
            query=xy,
            patches=torch.cat(patches) if patches else None,
            looked=torch.cat(looked) if looked else None,
            **parts,
        )

    def _align(
        self,
        images: ImageSet,
        features: FeatureMaps,
        b: int,
        source: int,
        target: int,
        xy: Float[Tensor, "Q 2"],
        templates: list[lucas_kanade.Templates],
        neighbours: Tensor,
        judge: Judge | None,
    ) -> Evidence:
        """The evidence of one frame, with a frame axis of one."""
        nothing = _nothing(xy, images.pixel_scale[b, target], self.config.fine.radius, judge)
        if target == source:
            return nothing
        maps = features.descriptors[b]
        seeds = features.seeds[b].between(source, target) if features.seeds else None
        if features.seeds and seeds is None:
            return nothing
        starts = find_starts(xy, maps[source], maps[target], neighbours, self.config.start, seeds)
        evidence = dataclasses.replace(nothing, xy=starts.xy[None])
        believed = (starts.believed & images.frame_valid[b, target]).nonzero().squeeze(-1)
        for chosen in believed.split(self.config.pairs_at_once):
            evidence = self._align_some(evidence, chosen, images, features, b, source, target, starts, templates, judge)
        return evidence

    def _align_some(
        self,
        evidence: Evidence,
        chosen: Int[Tensor, " K"],
        images: ImageSet,
        features: FeatureMaps,
        b: int,
        source: int,
        target: int,
        starts: Starts,
        templates: list[lucas_kanade.Templates],
        judge: Judge | None,
    ) -> Evidence:
        """The evidence of one frame with that on the queries ``chosen`` added."""
        fine = self.config.fine
        scale = images.pixel_scale[b, target]
        begin = _stored(images, b, target, starts.xy[chosen])
        here, there = features.photographs[b][source], features.photographs[b][target]
        # offsets: level pixels of the query frame -> stored -> network -> affinity -> stored -> level pixels here
        from_network = images.stored_from_network[b, target, :, :2]
        to_network = torch.linalg.inv(images.stored_from_network[b, source, :, :2])
        levels = here.scale(0) / there.scale(0)
        refined = lucas_kanade.refine(
            [template.select(chosen) for template in templates],
            there,
            begin,
            from_network @ starts.affinity[chosen] @ to_network * levels,
            fine,
        )
        drift = (refined.xy - begin).norm(dim=-1) / scale
        kept = (drift < fine.max_drift_px) & _inside(images, b, target, refined.xy)
        affinity = torch.linalg.inv(from_network) @ refined.affinity @ torch.linalg.inv(to_network) / levels
        stretch = torch.linalg.svdvals(affinity)
        cues = {
            "correlation": refined.correlation,
            "similarity": starts.similarity[chosen],
            "support": starts.support[chosen],
            "drift": drift,
            "way_back": starts.way_back_px[chosen],
            "stretch_min": stretch[:, 1],
            "stretch_max": stretch[:, 0],
            "spread": 0.5 * refined.covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / scale.square(),
            "residual": refined.unexplained,
        }
        network = torch.linalg.solve(from_network, (refined.xy - images.stored_from_network[b, target, :, 2]).T).T
        moved = torch.where(kept[:, None], network, starts.xy[chosen])
        where = (torch.zeros_like(chosen), chosen)
        found = {
            "xy": moved,
            "affinity": affinity,
            "aligned": refined.affinity * there.scale(0),
            "covariance": refined.covariance,
            "cues": torch.stack([cues[name] for name in CUES], -1),
            "tried": kept,
            **({"patches": refined.patches} if judge is None else {"looked": judge.look(refined.patches)}),
        }
        changes = {name: getattr(evidence, name).index_put(where, value) for name, value in found.items()}
        return dataclasses.replace(evidence, **changes)


def _nothing(xy: Float[Tensor, "Q 2"], scale: Tensor, radius: int, judge: Judge | None) -> Evidence:
    """Evidence of one frame in which nothing was tried."""
    count, patch = len(xy), (4, (2 * radius + 1) ** 2)
    width = 0 if judge is None else judge.look(xy.new_zeros(1, *patch)).shape[-1]
    eye = _eye(xy).expand(1, count, 2, 2)
    return Evidence(
        query=xy,
        xy=xy[None],
        affinity=eye,
        aligned=eye * scale,
        covariance=eye * scale.square(),
        cues=xy.new_zeros(1, count, len(CUES)),
        patches=xy.new_zeros(1, count, *patch) if judge is None else None,
        looked=None if judge is None else xy.new_zeros(1, count, width),
        tried=torch.zeros(1, count, dtype=torch.bool, device=xy.device),
        scale=scale[None],
    )


def _eye(like: Tensor) -> Float[Tensor, "2 2"]:
    return torch.eye(2, dtype=like.dtype, device=like.device)


def _stored(images: ImageSet, b: int, s: int, xy: Float[Tensor, "Q 2"]) -> Float[Tensor, "Q 2"]:
    matrix = images.stored_from_network[b, s]
    return xy @ matrix[:, :2].mT + matrix[:, 2]


def _inside(images: ImageSet, b: int, s: int, xy: Float[Tensor, "Q 2"], border: float = 2.0) -> Tensor:
    size = images.stored_size[b, s].to(xy.dtype)
    return ((xy > border) & (xy < size - border)).all(-1)
