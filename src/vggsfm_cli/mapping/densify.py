"""More points between the verified ones: a grid of queries, tracked like any others, with the cameras held fixed.

Cells of a grid over each photograph that no observation lies in start new tracks. A track becomes a point if enough
photographs that claim to see it agree on one place, from directions far enough apart, and if that place is no farther
off than the verified points around it. Points found cover cells of all photographs that see them, so nothing is found
twice.
"""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.devices import MAPPING
from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import ImageSet, Points, Progress, ProgressCallback, Queries, Reconstruction, Tracks, silent
from vggsfm_cli.tracking import FeatureMaps, PointTracker
from vggsfm_cli.triangulation import RansacTriangulatorConfig, reprojection_error


@dataclass(frozen=True, kw_only=True)
class DensifyConfig:
    """Settings of the grid; lengths in network pixels."""

    points: int = 0  # wanted; none are looked for if 0
    spacings_px: tuple[int, ...] = (32, 16, 8, 4)  # of the grid, one pass each, until there are enough points
    queries_per_point: float = 2.0  # queries started for each point still wanted
    max_queries: int = 2048  # of one photograph at once
    max_error_px: float = 1.0  # of an observation that agrees
    min_agreement: float = 0.75  # share of the photographs that claim to see the point whose observation agrees
    neighbours: int = 8  # verified points around the query that say how far off the point may be
    depth_factor: float = 1.25  # it may be nearer or farther than all of them by this factor
    triangulator: RansacTriangulatorConfig = field(
        default_factory=lambda: RansacTriangulatorConfig(min_views=3, min_angle_deg=2.0)
    )


@torch.no_grad()
def add_points(
    reconstruction: Reconstruction,
    images: ImageSet,
    tracker: PointTracker,
    config: DensifyConfig,
    precision: torch.dtype = torch.float32,
    progress: ProgressCallback = silent,
) -> Reconstruction:
    """The same model with up to ``config.points`` more points; cameras and the points it has stay as they are.

    New points have no colour yet. The report's ``extra_points`` says how many were wanted, tried and found.

    Args:
        reconstruction: of frames of ``images``, found again by their names.
        images: the scene (B = 1).
        tracker: stage 1.
        config: policy.
        precision: of the feature network; everything else is float32 or more.
        progress: told what is done.
    """
    if config.points <= 0:
        return reconstruction
    return _Densifier(reconstruction, images, tracker, config, precision, progress).run()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """New points and the observations that agree with them, by the frames of the model."""

    xyz_world: Float[Tensor, "n 3"]
    error_px: Float[Tensor, " n"]
    xy: Float[Tensor, "S n 2"]
    inliers: Bool[Tensor, "S n"]

    def select(self, chosen: Tensor) -> "_Found":
        return _Found(
            xyz_world=self.xyz_world[chosen],
            error_px=self.error_px[chosen],
            xy=self.xy[:, chosen],
            inliers=self.inliers[:, chosen],
        )


class _Densifier:
    """One run: the model, the features, what is covered and what was found so far."""

    def __init__(
        self,
        reconstruction: Reconstruction,
        images: ImageSet,
        tracker: PointTracker,
        config: DensifyConfig,
        precision: torch.dtype,
        progress: ProgressCallback,
    ) -> None:
        self.reconstruction, self.tracker, self.config, self.progress = reconstruction, tracker, config, progress
        self.frames = [images.names[0].index(name) for name in reconstruction.names]
        registered = torch.zeros_like(images.frame_valid)
        registered[0, self.frames] = True
        self.images = dataclasses.replace(images, frame_valid=registered)
        with torch.autocast(images.pixels.device.type, dtype=precision, enabled=precision != torch.float32):
            self.features: FeatureMaps = tracker.encode(self.images)
        self.scale = images.pixel_scale[0, self.frames].cpu().double()
        self.triangulator = config.triangulator.build()
        self.covered = [self._to_network(s, reconstruction.xy[reconstruction.frame == s]) for s in self._each()]
        self.found: list[_Found] = []
        self.tried = 0

    def run(self) -> Reconstruction:
        """Pass after pass over all frames, each with a finer grid."""
        passes = [(spacing, s) for spacing in self.config.spacings_px for s in self._each()]
        for done, (spacing, s) in enumerate(passes):
            missing = self.config.points - self._count()
            if missing <= 0:
                break
            self.progress(Progress(stage="extra points", done=done, total=len(passes), detail=f"{self._count()} found"))
            # every frame left in this pass gets the same share
            self._frame(s, spacing, -(-missing // (len(self.frames) - s)))
        detail = f"{self._count()} found"
        self.progress(Progress(stage="extra points", done=len(passes), total=len(passes), detail=detail))
        return self._merged()

    def _each(self) -> range:
        return range(len(self.frames))

    def _count(self) -> int:
        return sum(len(part.xyz_world) for part in self.found)

    def _frame(self, s: int, spacing: int, wanted: int) -> None:
        """Track the free cells of one frame and keep at most ``wanted`` points."""
        xy = free_cells(
            self.features.keypoint_score[0, self.frames[s]],
            self.images.mask[0, self.frames[s]],
            self.covered[s],
            spacing,
        )
        limit = min(self.config.max_queries, round(self.config.queries_per_point * wanted))
        if len(xy) > limit:
            xy = xy[torch.linspace(0, len(xy) - 1, limit).round().long()]
        if len(xy) == 0:
            return
        self.tried += len(xy)
        found = self._verified(s, self._track(s, xy))
        best = (found.error_px - found.inliers.sum(0)).argsort(stable=True)[:wanted]  # long tracks first
        found = found.select(best.sort().values)
        self.found.append(found)
        for t in self._each():
            seen = found.xy[t, found.inliers[t]]
            self.covered[t] = torch.cat([self.covered[t], self._to_network(t, seen)])

    def _track(self, s: int, xy: Float[Tensor, "Q 2"]) -> Tracks:
        """Tracks of queries of one frame, in the frames of the model, on the CPU in double precision."""
        queries = Queries(
            frame=torch.full((1, len(xy)), self.frames[s], device=xy.device),
            xy=xy[None],
            valid=torch.ones(1, len(xy), dtype=torch.bool, device=xy.device),
        )
        tracks = self.tracker(self.images, queries, self.features).to(MAPPING)
        return Tracks(
            xy=tracks.xy[:, self.frames].double(),
            visibility=tracks.visibility[:, self.frames].double(),
            covariance=tracks.covariance[:, self.frames].double(),
            query_frame=torch.full_like(tracks.query_frame, s),
            valid=tracks.valid,
        )

    def _verified(self, s: int, tracks: Tracks) -> _Found:
        """The points of the tracks that pass every test."""
        cameras = self.reconstruction.cameras
        threshold = self.config.max_error_px * self.scale[None]
        points = self.triangulator(cameras, tracks, threshold)
        inliers = self.triangulator.inliers(cameras, points, tracks, threshold)
        claimed = tracks.visible(self.triangulator.config.min_visibility)
        agreement = inliers.sum(1) / claimed.sum(1).clamp_min(1)
        good = points.valid & (agreement >= self.config.min_agreement) & inliers[:, s]
        good = good & (inliers.sum(1) >= self.triangulator.config.min_views)
        good = good[0] & self._plausible(s, points, tracks.xy[0, s])
        inliers = inliers[0] & good
        error = torch.where(
            inliers, reprojection_error(cameras, points, tracks)[0], torch.zeros_like(tracks.xy[0, ..., 0])
        )
        return _Found(
            xyz_world=points.xyz_world[0],
            error_px=error.sum(0) / inliers.sum(0).clamp_min(1),
            xy=tracks.xy[0],
            inliers=inliers,
        ).select(good.nonzero().flatten())

    def _plausible(self, s: int, points: Points, xy: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
        """Whether a point is about as far from the frame as the verified points around its query."""
        model = self.reconstruction
        observed = model.frame == s
        count = min(self.config.neighbours, int(observed.sum()))
        if count == 0:
            return torch.zeros(len(xy), dtype=torch.bool)
        depth = self._depth(s, model.xyz_world[model.point[observed]])
        near = torch.cdist(xy, model.xy[observed].double()).topk(count, largest=False).indices
        around, own = depth[near], self._depth(s, points.xyz_world[0])
        factor = self.config.depth_factor
        return (own > around.amin(-1) / factor) & (own < around.amax(-1) * factor)

    def _depth(self, s: int, xyz_world: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return pose.transform(self.reconstruction.cameras.cam_from_world[0, s], xyz_world.double())[..., 2]

    def _to_network(self, s: int, xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        affine = self.images.stored_from_network[0, self.frames[s]].cpu().double()
        return (xy.double() - affine[:, 2]) @ torch.linalg.inv(affine[:, :2]).mT

    def _merged(self) -> Reconstruction:
        old = self.reconstruction
        xyz, error = [old.xyz_world], [old.error_px]
        frame, point, xy = [old.frame], [old.point], [old.xy]
        count = len(old.xyz_world)
        for part in self.found:
            n, s = part.inliers.mT.nonzero(as_tuple=True)
            xyz.append(part.xyz_world.to(old.xyz_world))
            error.append(part.error_px.to(old.error_px))
            frame.append(s)
            point.append(n + count)
            xy.append(part.xy[s, n].to(old.xy))
            count += len(part.xyz_world)
        color = torch.cat([old.color, old.color.new_zeros(count - len(old.color), 3)])
        figures = {"wanted": self.config.points, "tried": self.tried, "found": self._count()}
        merged = torch.cat(frame)
        return dataclasses.replace(
            old,
            xyz_world=torch.cat(xyz),
            color=color,
            error_px=torch.cat(error),
            frame=merged,
            point=torch.cat(point),
            xy=torch.cat(xy),
            report={**old.report, "points": count, "observations": len(merged), "extra_points": figures},
        )


def free_cells(
    score: Float[Tensor, "H W"], mask: Bool[Tensor, "H W"], covered: Float[Tensor, "T 2"], spacing: int
) -> Float[Tensor, "Q 2"]:
    """One position in every cell of a grid that holds no observation, in the order of rows.

    Args:
        score: how well a track could start at each pixel; the best pixel of a cell is taken.
        mask: pixels that may be used.
        covered: network pixels of the observations.
        spacing: side of a cell.

    Returns:
        Pixels, corner origin, on the device of ``score``. Cells that lie partly outside the picture are left out.
    """
    rows, columns = score.shape[0] // spacing, score.shape[1] // spacing
    if rows == 0 or columns == 0:
        return score.new_zeros(0, 2)
    usable = torch.where(mask, score, torch.full_like(score, -1.0))[: rows * spacing, : columns * spacing]
    best, index = functional.max_pool2d(usable[None, None].float(), spacing, return_indices=True)
    free = best[0, 0] >= 0
    column, row = (covered / spacing).floor().long().to(score.device).unbind(-1)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    free[row[inside], column[inside]] = False
    pixel: Int[Tensor, " Q"] = index[0, 0][free]
    return torch.stack([pixel % usable.shape[1], pixel // usable.shape[1]], -1).to(score.dtype) + 0.5
