"""Triangulation without parameters: hypotheses from pairs of views, consensus, local optimisation.

Everything is computed for all tracks at once. Tracks are sorted by length and handled in chunks, so that short tracks
do not pay for long ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import triangulate as multiview
from vggsfm_cli.scene import VISIBLE, Cameras, Points, Tracks
from vggsfm_cli.triangulation.interface import Triangulator

UNDISTORT_ITERATIONS = 4
"""Newton steps to undo the distortion; it converges quadratically."""


@dataclass(frozen=True, kw_only=True)
class RansacTriangulatorConfig:
    """Settings of the triangulator."""

    max_error_px: float = 4.0  # stored pixels; callers may scale it per frame
    min_angle_deg: float = 1.5  # between the rays of the two most different inliers
    min_views: int = 2
    max_pairs: int = 15  # hypotheses of a track
    refinements: int = 2  # rounds of: fit to the inliers, find the inliers again
    min_visibility: float = VISIBLE
    chunk_elements: int = 2_000_000  # tracks x hypotheses x views handled at once

    def build(self) -> "RansacTriangulator":
        """The triangulator."""
        return RansacTriangulator(self)


@dataclass(frozen=True, eq=False)
class _Views:
    """Observations of a chunk of tracks, padded to the longest: positions, poses, thresholds on the z = 1 plane."""

    xy: Float[Tensor, "n V 2"]
    cam_from_world: Float[Tensor, "n V 3 4"]
    max_error: Float[Tensor, "n V"]
    seen: Bool[Tensor, "n V"]


class RansacTriangulator(Triangulator):
    """DLT on pairs of views, the hypothesis with the best consensus, refined on its inliers.

    Only the choice of inliers is cut from the graph: the points themselves are differentiable with respect to cameras
    and tracks, through the last fit.
    """

    def __init__(self, config: RansacTriangulatorConfig) -> None:
        super().__init__()
        self.config = config
        self.min_views, self.min_visibility = config.min_views, config.min_visibility
        self.min_angle_deg = config.min_angle_deg

    def forward(self, cameras: Cameras, tracks: Tracks, max_error_px: Float[Tensor, "B S"] | None = None) -> Points:
        """Points of all tracks seen by enough registered frames.

        Args:
            cameras: frames that are not registered are ignored.
            tracks: in stored pixels.
            max_error_px: reprojection error of an inlier in stored pixels, of each frame; the configured one if None.
        """
        if max_error_px is None:
            max_error_px = torch.full_like(cameras.cam_from_world[..., 0, 0], self.config.max_error_px)
        xyz, valid = zip(
            *(
                self._scene(cameras.scene(b), tracks.scene(b), max_error_px[b].to(torch.float64))
                for b in range(tracks.xy.shape[0])
            ),
            strict=True,
        )
        return Points(xyz_world=torch.stack(xyz).to(cameras.cam_from_world.dtype), valid=torch.stack(valid))

    def inliers(
        self,
        cameras: Cameras,
        points: Points,
        tracks: Tracks,
        max_error_px: Float[Tensor, "B S"] | None = None,
    ) -> Bool[Tensor, "B S N"]:
        """Observations that agree with the points: in a registered frame, in front of it, close to the projection."""
        if max_error_px is None:
            max_error_px = torch.full_like(cameras.cam_from_world[..., 0, 0], self.config.max_error_px)
        error = reprojection_error(cameras, points, tracks)
        seen = tracks.visible(self.config.min_visibility) & cameras.registered[..., None] & points.valid[:, None]
        return seen & (error <= max_error_px[..., None])

    def _scene(
        self, cameras: Cameras, tracks: Tracks, max_error_px: Float[Tensor, " S"]
    ) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
        seen = (tracks.visible(self.config.min_visibility) & cameras.registered[..., None])[0]
        xy = rays_of(cameras, tracks, seen)
        poses = cameras.cam_from_world[0].to(torch.float64)
        max_error = max_error_px / frame_focal(cameras)[0].to(torch.float64)
        xyz = poses.new_zeros(seen.shape[1], 3)
        valid = torch.zeros_like(seen[0])
        for index, order in self._chunks(seen):
            track = index[:, None].expand_as(order)
            views = _Views(xy[order, track], poses[order], max_error[order], seen[order, track])
            found, good = self._chunk(views)
            xyz = xyz.index_put((index,), found)
            valid = valid.index_put((index,), good)
        return xyz, valid

    def _chunks(self, seen: Bool[Tensor, "S N"]) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, "n V"]]]:
        """Tracks of similar length, and for each the frames that see it (then others, to pad)."""
        length = seen.sum(0)
        index = (length >= max(self.config.min_views, 2)).nonzero().flatten()
        index = index[length[index].argsort(stable=True)]
        lengths = length[index].tolist()
        start = 0
        while start < len(lengths):
            end, longest = start, lengths[start]
            while end < len(lengths):
                longest = lengths[end]
                pairs = min(longest * (longest - 1) // 2, self.config.max_pairs)
                too_uneven = longest > lengths[start] + 1 + lengths[start] // 4
                if end > start and (too_uneven or (end - start) * pairs * longest > self.config.chunk_elements):
                    longest = lengths[end - 1]
                    break
                end += 1
            chunk = index[start:end]
            order = seen[:, chunk].to(torch.uint8).argsort(dim=0, descending=True, stable=True)[:longest].mT
            yield chunk, order
            start = end

    def _chunk(self, views: _Views) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
        with torch.no_grad():
            inliers = self._best_hypothesis(views)
            for _ in range(self.config.refinements):
                xyz = _fit(views, inliers, refinements=1)
                error = _error(views.xy, views.cam_from_world, xyz)
                inliers = (error <= views.max_error) & views.seen
        xyz = _fit(views, inliers, refinements=2)
        with torch.no_grad():
            inliers = (_error(views.xy, views.cam_from_world, xyz) <= views.max_error) & views.seen
            rotation, translation = views.cam_from_world[..., :3], views.cam_from_world[..., 3]
            centers = -(rotation.mT @ translation.unsqueeze(-1)).squeeze(-1)
            angle = multiview.max_angle_deg(xyz, centers, inliers.to(xyz.dtype))
            enough = inliers.sum(-1) >= self.config.min_views
            good = enough & (angle >= self.config.min_angle_deg) & xyz.isfinite().all(-1)
        return torch.where(good[:, None], xyz, torch.zeros_like(xyz)), good

    def _best_hypothesis(self, views: _Views) -> Bool[Tensor, "n V"]:
        """Inliers of the pair of views with the best consensus (truncated squared error)."""
        first, second = self._pairs(views)
        number = torch.arange(first.shape[0], device=first.device)[:, None].expand_as(first)
        pair = torch.stack([first, second], -1)
        chosen = number.unsqueeze(-1).expand_as(pair)
        xyz = multiview.triangulate(
            views.xy[chosen, pair],
            views.cam_from_world[chosen, pair],
            views.seen[chosen, pair].to(views.xy.dtype),
            reweightings=0,
        )
        error = _error(views.xy.unsqueeze(1), views.cam_from_world.unsqueeze(1), xyz)
        relative = (error / views.max_error.unsqueeze(1)).square().clamp(max=1)
        cost = torch.where(views.seen.unsqueeze(1), relative, torch.zeros_like(relative)).sum(-1)
        cost = torch.where((views.seen[chosen, pair]).all(-1), cost, torch.full_like(cost, torch.inf))
        best = cost.argmin(-1)
        n = torch.arange(best.shape[0], device=best.device)
        return (error[n, best] <= views.max_error) & views.seen

    def _pairs(self, views: _Views) -> tuple[Int[Tensor, "n K"], Int[Tensor, "n K"]]:
        """View pairs to try: all of them, or spread evenly over the better half by the angle between the rays."""
        longest = views.xy.shape[1]
        first, second = torch.triu_indices(longest, longest, 1, device=views.xy.device)
        if first.numel() <= self.config.max_pairs:
            return first.expand(views.xy.shape[0], -1), second.expand(views.xy.shape[0], -1)
        rays = (
            torch.cat([views.xy, torch.ones_like(views.xy[..., :1])], -1).unsqueeze(-2) @ views.cam_from_world[..., :3]
        )
        rays = rays.squeeze(-2) / rays.squeeze(-2).norm(dim=-1, keepdim=True)
        chord = (rays[:, first] - rays[:, second]).norm(dim=-1)
        both = views.seen[:, first] & views.seen[:, second]
        order = torch.where(both, chord, -torch.ones_like(chord)).argsort(dim=-1, descending=True, stable=True)
        half = ((both.sum(-1, keepdim=True) + 1) // 2).clamp_min(1)
        steps = torch.linspace(0, 1, self.config.max_pairs, dtype=views.xy.dtype, device=views.xy.device)
        taken = order.gather(-1, (steps * (half - 1)).round().long())
        return first[taken], second[taken]


def rays_of(cameras: Cameras, tracks: Tracks, seen: Bool[Tensor, "S N"]) -> Float[Tensor, "S N 2"]:
    """Positions on the z = 1 plane where ``seen``, zero elsewhere: distortion is costly to undo."""
    params = cameras.frame_params[0].to(torch.float64)
    index = cameras.camera_index[0]
    out = tracks.xy.new_zeros(*seen.shape, 2, dtype=torch.float64)
    for model in sorted(set(cameras.models)):
        of_model = torch.tensor([name == model for name in cameras.models], device=index.device)[index]
        frame, track = (seen & of_model[:, None]).nonzero(as_tuple=True)
        if frame.numel():
            observed = tracks.xy[0, frame, track].to(torch.float64)
            xy = camera_models.unproject(model, params[frame], observed, iterations=UNDISTORT_ITERATIONS)
            out = out.index_put((frame, track), xy)
    return out


def frame_focal(cameras: Cameras) -> Float[Tensor, "B S"]:
    """Mean focal length of every frame's camera, in stored pixels."""
    focal = torch.stack(
        [camera_models.focal(model, cameras.params[:, c]) for c, model in enumerate(cameras.models)], dim=1
    )
    return focal.gather(1, cameras.camera_index)


def reprojection_error(cameras: Cameras, points: Points, tracks: Tracks) -> Float[Tensor, "B S N"]:
    """Distance in stored pixels of every observation to its point's projection; infinite behind the camera."""
    xy, in_front = cameras.project(points.xyz_world)
    error = (xy - tracks.xy.to(xy.dtype)).norm(dim=-1)
    return torch.where(in_front, error, torch.full_like(error, torch.inf))


def _fit(views: _Views, inliers: Bool[Tensor, "n V"], refinements: int) -> Float[Tensor, "n 3"]:
    weights = inliers.to(views.xy.dtype) / views.max_error.square()
    xyz = multiview.triangulate(views.xy, views.cam_from_world, weights)
    return multiview.refine(xyz, views.xy, views.cam_from_world, weights, refinements)


def _error(
    xy: Float[Tensor, "n #K V 2"] | Float[Tensor, "n V 2"], cam_from_world: Tensor, xyz: Tensor
) -> Float[Tensor, "n K V"] | Float[Tensor, "n V"]:
    """Distance on the z = 1 plane, infinite behind the camera."""
    xyz_cam = (cam_from_world[..., :3] @ xyz[..., None, :, None]).squeeze(-1) + cam_from_world[..., 3]
    in_front = xyz_cam[..., 2] > camera_models.MIN_DEPTH
    depth = torch.where(in_front, xyz_cam[..., 2], torch.ones_like(xyz_cam[..., 2]))
    error = (xyz_cam[..., :2] / depth.unsqueeze(-1) - xy).norm(dim=-1)
    return torch.where(in_front, error, torch.full_like(error, torch.inf))
