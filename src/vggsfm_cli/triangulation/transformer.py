"""The triangulation transformer: points by DLT, moved by what their neighbours say (Sec. 3.3).

Points come from ``ransac.py``, fitted again to their inliers with the tracks' own covariances. A token for each track
holds where its point is (harmonic embedding), how far its rays pass by, how many there are and how well they fix it;
attention among the tracks that are near it in its own frame tells surfaces from mistakes. The answer is a residual to
the point, in units of the point's own covariance, and a share of the way to the plane through its neighbours.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vggsfm_cli.geometry import pose, triangulate
from vggsfm_cli.nn import Attention, Feedforward
from vggsfm_cli.scene import Cameras, Points, Tracks
from vggsfm_cli.triangulation.interface import Triangulator
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig, frame_focal, rays_of

FREQUENCIES = 5
VIEW = 6
TOKEN = 10
RELATION = 9
MOST_DEVIATIONS = 4.0
"""Longest free step along each axis, in the point's own deviations."""


@dataclass(frozen=True, kw_only=True)
class TriangulationTransformerConfig:
    """Size of the transformer, and the triangulation it starts from."""

    ransac: RansacTriangulatorConfig = field(default_factory=RansacTriangulatorConfig)
    width: int = 64
    heads: int = 4
    blocks: int = 2
    neighbours: int = 16

    def build(self) -> "TriangulationTransformer":
        """The triangulator, with weights still to be loaded."""
        return TriangulationTransformer(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """Points of one scene fitted to their inliers, and how well; positions in the scene's own units.

    Attributes:
        xyz: in the world.
        covariance: of each, from the tracks' covariances.
        miss: distance of each view's ray from the point, in deviations; zero where it is no inlier.
        inliers: views that count.
    """

    xyz: Float[Tensor, "N 3"]
    covariance: Float[Tensor, "N 3 3"]
    miss: Float[Tensor, "N S"]
    inliers: Bool[Tensor, "N S"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """Points as their query frames see them, and their neighbours there.

    Attributes:
        index: of the neighbours.
        known: whether there are so many.
        offset: to the neighbours on the plane z = 1.
        inverse_depth: of each point in its own frame; of its neighbours in that frame too.
        deviation: of the point's inverse depth, and of its neighbours'.
    """

    index: Int[Tensor, "N k"]
    known: Bool[Tensor, "N k"]
    offset: Float[Tensor, "N k 2"]
    inverse_depth: Float[Tensor, " N"]
    their_inverse_depth: Float[Tensor, "N k"]
    deviation: Float[Tensor, " N"]
    their_deviation: Float[Tensor, "N k"]


class Block(nn.Module):
    """A track looks at its neighbours."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.relation = nn.Linear(RELATION, width)
        self.feedforward = Feedforward(width)

    def forward(
        self,
        tokens: Float[Tensor, "N D"],
        index: Int[Tensor, "N k"],
        known: Bool[Tensor, "N k"],
        relation: Float[Tensor, "N k F"],
    ) -> Float[Tensor, "N D"]:
        """Update the tokens."""
        own = self.norm(tokens)
        beside = own[index] + self.relation(relation)
        tokens = tokens + self.attention(own[:, None], beside, known)[:, 0]
        out: Tensor = tokens + self.feedforward(tokens)
        return out


class TriangulationTransformer(Triangulator):
    """RANSAC and DLT, then learned corrections; which points are valid is not changed."""

    def __init__(self, config: TriangulationTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.ransac = config.ransac.build()
        self.min_views, self.min_visibility = config.ransac.min_views, config.ransac.min_visibility
        self.min_angle_deg = config.ransac.min_angle_deg
        self.views = nn.Sequential(nn.Linear(VIEW, config.width), nn.GELU(), nn.Linear(config.width, config.width))
        self.tokens = nn.Linear(TOKEN + 6 * FREQUENCIES, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 4)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([-3.0, 0.0, 0.0, 0.0]))

    @property
    def geometric(self) -> Triangulator:
        """RANSAC and DLT alone."""
        return self.ransac

    def forward(self, cameras: Cameras, tracks: Tracks, max_error_px: Float[Tensor, "B S"] | None = None) -> Points:
        """Points of all tracks seen by enough registered frames; arguments as those of ``RansacTriangulator``."""
        found = self.ransac(cameras, tracks, max_error_px)
        inliers = self.ransac.inliers(cameras, found, tracks, max_error_px)
        moved = [
            self._scene(cameras.scene(b), tracks.scene(b), found.scene(b), inliers[b].mT)
            for b in range(tracks.xy.shape[0])
        ]
        return Points(xyz_world=torch.stack(moved).to(found.xyz_world), valid=found.valid)

    def inliers(
        self, cameras: Cameras, points: Points, tracks: Tracks, max_error_px: Float[Tensor, "B S"] | None = None
    ) -> Bool[Tensor, "B S N"]:
        """Observations that agree with the points, as ``RansacTriangulator`` says."""
        return self.ransac.inliers(cameras, points, tracks, max_error_px)

    def _scene(
        self, cameras: Cameras, tracks: Tracks, points: Points, inliers: Bool[Tensor, "N S"]
    ) -> Float[Tensor, "N 3"]:
        chosen = points.valid[0].nonzero().flatten()
        out = points.xyz_world[0].double()
        if len(chosen) <= 1:
            return out
        some = tracks.some(chosen)
        fitted = fit(cameras, some, out[chosen], inliers[chosen])
        return out.index_put((chosen,), self.correct(cameras, some, fitted))

    def correct(self, cameras: Cameras, tracks: Tracks, fitted: Fitted) -> Float[Tensor, "N 3"]:
        """Fitted points of one scene (B = 1), moved."""
        around = surroundings(cameras, tracks, fitted, self.config.neighbours)
        plane, plane_deviation = plane_through(around)
        dtype = self.head.weight.dtype
        tokens = self.tokens(_token_features(cameras, tracks, fitted, around, plane, plane_deviation).to(dtype))
        views = self.views(_view_features(cameras, tracks, fitted).to(dtype))
        share = fitted.inliers.to(dtype)
        tokens = tokens + (views * share[..., None]).sum(1) / share.sum(1).clamp(min=1)[:, None]
        relation = _relation(around, fitted).to(dtype)
        for block in self.blocks:
            tokens = block(tokens, around.index, around.known, relation)
        gate, free = self.head(self.norm(tokens)).double().split((1, 3), -1)
        step = MOST_DEVIATIONS * torch.tanh(free / MOST_DEVIATIONS)
        origin, axes = _query_axes(cameras, tracks, fitted.xyz)
        local = axes.mT @ fitted.covariance @ axes
        moved = fitted.xyz + (axes @ (_cholesky(local) @ step[..., None]))[..., 0]
        # towards the plane, along the ray of the query
        wanted = around.inverse_depth + torch.sigmoid(gate[..., 0]) * (plane - around.inverse_depth)
        ratio = (around.inverse_depth / wanted.clamp(min=1e-9)).clamp(0.5, 2.0)
        result: Tensor = moved + (fitted.xyz - origin) * (ratio - 1)[:, None]
        return result


def fit(
    cameras: Cameras, tracks: Tracks, xyz: Float[Tensor, "N 3"], inliers: Bool[Tensor, "N S"], refinements: int = 3
) -> Fitted:
    """Points that fit their inliers best, by Gauss-Newton with the tracks' covariances; B = 1."""
    seen = inliers.mT
    rays = rays_of(cameras, tracks, seen).transpose(0, 1)
    focal = frame_focal(cameras)[0].double()
    variance = tracks.covariance[0].double().diagonal(dim1=-2, dim2=-1).mean(-1) / focal.square()[:, None]
    weight = torch.where(seen, 1 / variance.clamp(min=1e-12), torch.zeros_like(variance)).mT
    poses = cameras.cam_from_world[0].double().expand(len(xyz), -1, -1, -1)
    xyz = triangulate.refine(xyz, rays, poses, weight, refinements)
    xyz_cam = pose.transform(poses, xyz[:, None])
    inverse = 1 / xyz_cam[..., 2].clamp(min=1e-9)
    uv = xyz_cam[..., :2] * inverse[..., None]
    turned = poses[..., :3]
    rows = (turned[..., :2, :] - uv[..., None] * turned[..., 2:, :]) * inverse[..., None, None]
    information = ((rows * weight[..., None, None]).flatten(1, 2).mT) @ rows.flatten(1, 2)
    scale = information.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None].clamp(min=1e-30)
    eye = torch.eye(3, dtype=xyz.dtype, device=xyz.device)
    covariance = torch.linalg.inv(information / scale + 1e-9 * eye) / scale
    miss = (uv - rays).norm(dim=-1) * weight.sqrt()
    return Fitted(
        xyz=xyz, covariance=covariance, miss=torch.where(inliers, miss, torch.zeros_like(miss)), inliers=inliers
    )


def _query_axes(cameras: Cameras, tracks: Tracks, xyz: Tensor) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3 3"]]:
    """Centre of each track's query frame, and axes in the columns: along the ray to the point, and across it."""
    poses = cameras.cam_from_world[0].double()[tracks.query_frame[0]]
    origin = pose.center(poses)
    along = xyz - origin
    along = along / along.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    across = torch.linalg.cross(along, poses[:, 0, :3])
    across = across / across.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return origin, torch.stack([along, across, torch.linalg.cross(along, across)], -1)


def depth_deviation(cameras: Cameras, tracks: Tracks, fitted: Fitted) -> Float[Tensor, " N"]:
    """Deviation of each point along the ray of its query, in the scene's units."""
    _, axes = _query_axes(cameras, tracks, fitted.xyz)
    along = axes[..., 0]
    return (along[:, None] @ fitted.covariance @ along[..., None])[..., 0, 0].clamp(min=1e-18).sqrt()


def _cholesky(matrix: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3 3"]:
    scale = matrix.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None].clamp(min=1e-30)
    eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky_ex(matrix / scale + 1e-9 * eye)[0] * scale.sqrt()


def surroundings(cameras: Cameras, tracks: Tracks, fitted: Fitted, count: int) -> Surroundings:
    """The nearest points in the frame where each track starts, among those that are seen there; B = 1."""
    total = len(fitted.xyz)
    poses = cameras.cam_from_world[0].double()
    query = tracks.query_frame[0]
    device = fitted.xyz.device
    index = torch.arange(total, device=device)[:, None].repeat(1, count)
    known = torch.zeros(total, count, dtype=torch.bool, device=device)
    xyz_cam = pose.transform(poses[:, None], fitted.xyz)
    for s in query.unique().tolist():
        mine = (query == s).nonzero().flatten()
        theirs = (fitted.inliers[:, s] & (xyz_cam[s, :, 2] > 0)).nonzero().flatten()
        if len(theirs) < 2:  # noqa: PLR2004
            continue
        here, there = (
            (xyz_cam[s, part, :2] / xyz_cam[s, part, 2:].clamp(min=1e-9)).detach() for part in (mine, theirs)
        )
        distance = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance.masked_fill(mine[:, None] == theirs, torch.inf)
        near = distance.topk(min(count, len(theirs)), dim=-1, largest=False)
        wide = near.values.shape[1]
        index[mine, :wide] = torch.where(near.values.isfinite(), theirs[near.indices], mine[:, None])
        known[mine, :wide] = near.values.isfinite()
    own = xyz_cam[query, torch.arange(total, device=device)]
    there = xyz_cam[query[:, None], index]
    towards = poses[query][:, 2, :3]
    depth, their_depth = own[:, 2].clamp(min=1e-9), there[..., 2].clamp(min=1e-9)
    variance = (towards[:, None] @ fitted.covariance @ towards[..., None])[..., 0, 0]
    their_variance = (towards[:, None, None] @ fitted.covariance[index] @ towards[:, None, :, None])[..., 0, 0]
    return Surroundings(
        index=index,
        known=known,
        offset=there[..., :2] / their_depth[..., None] - own[:, None, :2] / depth[:, None, None],
        inverse_depth=1 / depth,
        their_inverse_depth=1 / their_depth,
        deviation=variance.clamp(min=1e-18).sqrt() / depth.square(),
        their_deviation=their_variance.clamp(min=1e-18).sqrt() / their_depth.square(),
    )


def plane_through(around: Surroundings, rounds: int = 3) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Inverse depth of each point on the plane through its neighbours, and its deviation.

    Inverse depth is linear over the picture where the surface is a plane. The fit is weighted by the neighbours'
    deviations and their distance, and by how well they fit; a little is added so that three neighbours suffice.
    """
    distance = around.offset.norm(dim=-1)
    typical = torch.where(around.known, distance, torch.nan).nanmedian(-1).values.nan_to_num(nan=1.0)[:, None]
    near = 1 / (1 + (distance / typical.clamp(min=1e-9)).square())
    rows = torch.cat([torch.ones_like(distance)[..., None], around.offset / typical[..., None].clamp(min=1e-9)], -1)
    value = around.their_inverse_depth - around.inverse_depth[:, None]
    spread = (around.their_deviation.square() + around.deviation[:, None].square()).sqrt().clamp(min=1e-12)
    weight = around.known * near / around.their_deviation.square().clamp(min=1e-18)
    scale = weight.amax(-1, keepdim=True).clamp(min=1e-30)
    eye = torch.diag(torch.tensor([1e-6, 1e-2, 1e-2], dtype=rows.dtype, device=rows.device))
    for _ in range(rounds):
        weighted = rows * (weight / scale)[..., None]
        normal = weighted.mT @ rows + eye
        solution = torch.linalg.solve(normal, (weighted * value[..., None]).sum(-2)[..., None])[..., 0]
        residual = (rows @ solution[..., None])[..., 0] - value
        typical_miss = torch.where(around.known, residual.abs() / spread, torch.nan).nanmedian(-1, keepdim=True).values
        bend = (residual / spread / (2 * typical_miss.nan_to_num(nan=1.0).clamp(min=1.0))).square()
        weight = around.known * near / around.their_deviation.square().clamp(min=1e-18) / (1 + bend)
    total = weight.sum(-1).clamp(min=1e-30)
    scatter = (weight * residual.square()).sum(-1) / total
    variance = torch.linalg.inv(normal)[:, 0, 0] / scale[:, 0] + scatter
    some = around.known.sum(-1) >= 3  # noqa: PLR2004
    deviation = torch.where(some, variance.clamp(min=1e-24).sqrt(), 1e3 * around.deviation)
    return around.inverse_depth + torch.where(some, solution[:, 0], torch.zeros_like(solution[:, 0])), deviation


def _token_features(
    cameras: Cameras, tracks: Tracks, fitted: Fitted, around: Surroundings, plane: Tensor, plane_deviation: Tensor
) -> Float[Tensor, "N F"]:
    poses = cameras.cam_from_world[0].double()[tracks.query_frame[0]]
    own = pose.transform(poses, fitted.xyz)
    depth = own[:, 2].clamp(min=1e-9)
    typical = depth.median().clamp(min=1e-9)
    place = torch.stack([own[:, 0] / depth, own[:, 1] / depth, (depth / typical).log()], -1).clamp(-4, 4)
    power = 2.0 ** torch.arange(FREQUENCIES, dtype=place.dtype, device=place.device)
    angle = (place[..., None] * power).flatten(-2)
    views = fitted.inliers.sum(-1).to(depth)
    centers = pose.center(cameras.cam_from_world.double())[0].expand(len(depth), -1, -1)
    widest = triangulate.max_angle_deg(fitted.xyz, centers, fitted.inliers.to(depth))
    rms = (fitted.miss.square().sum(-1) / views.clamp(min=1)).sqrt()
    both = (around.deviation.square() + plane_deviation.square()).sqrt()
    return torch.cat(
        [
            angle.sin(),
            angle.cos(),
            torch.stack(
                [
                    (around.deviation / around.inverse_depth).clamp(1e-8, 1e3).log(),
                    (plane_deviation / around.deviation).clamp(1e-4, 1e4).log(),
                    torch.asinh((plane - around.inverse_depth) / both),
                    torch.asinh((plane - around.inverse_depth) / around.deviation),
                    views.log(),
                    widest.clamp(min=1e-2).log(),
                    torch.log1p(rms),
                    torch.log1p(fitted.miss.amax(-1)),
                    (depth / typical).log().clamp(-4, 4),
                    around.known.sum(-1).to(depth) / around.known.shape[1],
                ],
                -1,
            ),
        ],
        -1,
    )


def _view_features(cameras: Cameras, tracks: Tracks, fitted: Fitted) -> Float[Tensor, "N S F"]:
    poses = cameras.cam_from_world[0].double()
    xyz_cam = pose.transform(poses, fitted.xyz[:, None])
    focal = frame_focal(cameras)[0].double()
    variance = tracks.covariance[0].double().diagonal(dim1=-2, dim2=-1).mean(-1).mT
    own = xyz_cam[torch.arange(len(fitted.xyz)), tracks.query_frame[0]][:, None, 2].clamp(min=1e-9)
    return torch.stack(
        [
            torch.log1p(fitted.miss),
            fitted.miss.clamp(max=4),
            (variance.sqrt() / focal).clamp(1e-7, 1).log(),
            tracks.visibility[0].double().mT,
            (xyz_cam[..., 2].clamp(min=1e-9) / own).clamp(1e-2, 1e2).log(),
            (torch.arange(len(poses), device=own.device) == tracks.query_frame[0][:, None]).to(own),
        ],
        -1,
    )


def _relation(around: Surroundings, fitted: Fitted) -> Float[Tensor, "N k F"]:
    distance = around.offset.norm(dim=-1).clamp(min=1e-9)
    typical = torch.where(around.known, distance, torch.nan).nanmedian(-1, keepdim=True).values.nan_to_num(nan=1.0)
    difference = around.their_inverse_depth - around.inverse_depth[:, None]
    views = fitted.inliers.sum(-1).to(distance).clamp(min=1).log()
    rms = (fitted.miss.square().sum(-1) / fitted.inliers.sum(-1).clamp(min=1)).sqrt()
    return torch.stack(
        [
            *(around.offset / typical[..., None].clamp(min=1e-9)).clamp(-8, 8).unbind(-1),
            (distance / typical.clamp(min=1e-9)).clamp(1e-3, 1e3).log(),
            torch.asinh(difference / around.deviation[:, None]),
            torch.asinh(difference / around.their_deviation.clamp(min=1e-18)),
            (around.their_deviation / around.deviation[:, None]).clamp(1e-4, 1e4).log(),
            torch.asinh(20 * difference / around.inverse_depth[:, None]),
            views[around.index],
            torch.log1p(rms)[around.index],
        ],
        -1,
    )
