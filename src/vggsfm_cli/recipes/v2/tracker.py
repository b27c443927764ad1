"""The tracker of VGGSfM v2 behind the contract of stage 1.

What differs from the published code, on purpose:

- A query is visible where it starts; the published code keeps what the network says of it.
- Tracks are not seen outside the usable area of a frame; the published code applies masks to queries only.
- The covariance is the spread of the similarity around each observation in its own patch; the published code reads
  other tracks' positions in the patch of the first track, so that its score depends on the order of the tracks.
- Memory is bounded by pieces that change nothing; the published code tracks random groups apart.
- Patches at the border keep their place (``patches.py``), and images need not be square.
"""

import copy
import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vggsfm_cli.recipes.v2.encoders import COARSE_STRIDE, CoarseEncoder, FineEncoder
from vggsfm_cli.recipes.v2.iterative import FINE, IterativeTrackerConfig
from vggsfm_cli.recipes.v2.patches import PatchConfig, Refined, refine
from vggsfm_cli.scene import ImageSet, Queries, TensorRecord, Tracks
from vggsfm_cli.threads import map_threads
from vggsfm_cli.tracking.interface import PointTracker
from vggsfm_cli.tracking.masks import inside_mask

CENTER = 0.5
"""Where the centre of the first pixel is; the networks have it at zero."""


@dataclass(frozen=True, kw_only=True)
class V2TrackerConfig:
    """Settings of the tracker; the defaults are those of the published weights."""

    coarse: IterativeTrackerConfig = field(default_factory=IterativeTrackerConfig)
    fine: IterativeTrackerConfig = FINE
    patches: PatchConfig = field(default_factory=PatchConfig)
    refine: bool = True  # within patches, to the last pixel
    border_px: int = 4  # this close to what is not usable nothing is seen, network pixels
    home_deviation_px: float = 0.1  # of a query in its own frame, network pixels; no spread is below
    coarse_deviation_px: float = 2.0  # of a track that is not refined, network pixels
    pairs_at_once: int = 2048  # observations computed together; bounds the memory, changes nothing else

    def build(self) -> "V2Tracker":
        """The tracker, with weights still to be loaded."""
        return V2Tracker(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseFeatures(TensorRecord):
    """Feature maps of all frames, one cell for 8 x 8 network pixels."""

    maps: Float[Tensor, "B S C h w"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameTracks:
    """Tracks from one frame into all, network pixels with the origin of v2."""

    coarse: Float[Tensor, "S N 2"]
    refined: Refined
    visibility: Float[Tensor, "S N"]


class V2Tracker(PointTracker):
    """Coarse tracks over whole frames, refined within patches (VGGSfM, Sec. 3.1)."""

    def __init__(self, config: V2TrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.coarse_encoder = CoarseEncoder()
        self.coarse = config.coarse.build()
        self.fine_encoder = FineEncoder()
        self.fine = config.fine.build()

    def in_precision(self, dtype: torch.dtype) -> "V2Tracker":
        """With the matrices of the transformers' blocks in ``dtype``, of which there are most."""
        if dtype == torch.float32:
            return self
        other = copy.deepcopy(self)
        for transformer in (other.coarse.transformer, other.fine.transformer):
            blocks = [part for part in transformer.children() if isinstance(part, nn.ModuleList)]
            for layer in nn.ModuleList(blocks).modules():
                if isinstance(layer, nn.Linear):
                    layer.to(dtype)
        return other

    def in_pieces(self, pairs_at_once: int) -> "V2Tracker":
        """The same tracker in other pieces, with the same weights."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, pairs_at_once=pairs_at_once)
        return other

    def encode(self, images: ImageSet) -> CoarseFeatures:
        """Features of all frames, each frame alone, in float32 also under autocast: as the weights were used."""
        scenes, device = images.pixels.shape[:2], images.pixels.device

        def encode(frame: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 C h w"]:
            maps: Tensor = self.coarse_encoder(frame[None].float())
            return maps

        with torch.autocast(device.type, enabled=False):
            maps = list(map_threads(encode, images.pixels.flatten(0, 1), device))
        return CoarseFeatures(maps=torch.cat(maps).unflatten(0, scenes))

    def forward(self, images: ImageSet, queries: Queries, features: CoarseFeatures | None = None) -> Tracks:
        """Track ``queries`` (network pixels) through every frame; the result is in stored pixels.

        Queries of one frame are tracked together and see one another. Frames and queries that are not valid are seen by
        nobody; there a track stays where its query is, with visibility zero.
        """
        features = self.encode(images) if features is None else features
        scenes = [
            self._track_scene(images.scene(b), queries.scene(b), features.maps[b]) for b in range(len(queries.xy))
        ]
        xy, visibility, covariance = (torch.stack(part) for part in zip(*scenes, strict=True))
        scale = images.pixel_scale[..., None, None, None].square()
        with torch.autocast(xy.device.type, enabled=False):  # positions are no matter for half precision
            stored = images.to_stored(xy)
        return Tracks(
            xy=stored,
            visibility=visibility,
            covariance=covariance * scale,
            query_frame=queries.frame,
            valid=queries.valid,
        )

    def _track_scene(
        self, images: ImageSet, queries: Queries, maps: Float[Tensor, "S C h w"]
    ) -> tuple[Float[Tensor, "S Q 2"], Float[Tensor, "S Q"], Float[Tensor, "S Q 2 2"]]:
        """All queries of one scene, frame by frame: network pixels."""
        frames = images.frame_valid[0].nonzero().flatten()
        count = len(images.frame_valid[0])
        eye = torch.eye(2, device=maps.device)
        xy = queries.xy[0].float().expand(count, -1, -1)
        visibility = xy.new_zeros(xy.shape[:2])
        covariance = self.config.coarse_deviation_px**2 * eye.expand(*xy.shape[:2], 2, 2)
        for home, source in enumerate(frames.tolist()):
            chosen = ((queries.frame[0] == source) & queries.valid[0]).nonzero().flatten()
            if len(chosen) == 0:
                continue
            found = self.track(images.pixels[0, frames], maps[frames], queries.xy[0, chosen] - CENTER, home)
            where = (frames[:, None], chosen)
            usable = inside_mask(images.mask[0, frames], found.refined.xy + CENTER, self.config.border_px)
            at_home = (frames == source)[:, None].expand_as(usable)
            seen = torch.where(at_home, torch.ones_like(found.visibility), found.visibility * usable)
            spread = torch.where(at_home[..., None, None], torch.zeros_like(found.refined.spread), found.refined.spread)
            xy = xy.index_put(where, found.refined.xy + CENTER)
            visibility = visibility.index_put(where, seen)
            covariance = covariance.index_put(where, spread + self.config.home_deviation_px**2 * eye)
        return xy, visibility, covariance

    def track(
        self,
        pixels: Float[Tensor, "S 3 H W"],
        maps: Float[Tensor, "S C h w"],
        queries: Float[Tensor, "N 2"],
        home: int = 0,
        iterations: int | None = None,
    ) -> FrameTracks:
        """Follow queries of one frame: coarse, then within patches; the networks' own answer.

        Args:
            pixels: the frames.
            maps: their features.
            queries: pixels, the centre of the first at (0, 0).
            home: the frame they are in.
            iterations: of the coarse tracker, if not as configured.
        """
        at_once = self.config.pairs_at_once
        coarse = self.coarse(maps[None], queries[None].float() / COARSE_STRIDE, home, iterations, at_once)
        xy = coarse.xy[0] * COARSE_STRIDE
        if self.config.refine:
            refined = refine(self.fine_encoder, self.fine, pixels, xy, home, self.config.patches, at_once)
        else:
            spread = self.config.coarse_deviation_px**2 * torch.eye(2, device=xy.device)
            refined = Refined(xy=xy, spread=spread.expand(*xy.shape[:2], 2, 2))
        visibility = self.coarse.visibilities(coarse.features)[0]
        return FrameTracks(coarse=xy, refined=refined, visibility=visibility)
