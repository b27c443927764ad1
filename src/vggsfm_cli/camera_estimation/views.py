"""Tracks as rays of cameras whose poses and lenses are being sought: residuals, points, and where they push.

Residuals and their derivatives are those of bundle adjustment, for all frames of all scenes at once.

Lengths in pictures are in half long sides of each frame ("halves"), so that nothing depends on the resolution; focal
lengths too. Everything is batched over scenes and differentiable in the tracks.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.residual import POSE, Rows, linearize_rows, residual_rows
from vggsfm_cli.bundle_adjustment.small_matrices import DIAGONAL, inverse_cholesky, products, times
from vggsfm_cli.geometry import pose, rotation, triangulate
from vggsfm_cli.scene import TensorRecord

DAMPING = 1e-5
"""Of the Gauss-Newton steps, relative to the diagonal."""

FLOOR = 1e-3
"""Deviation that is added to every observation's, halves."""

RADIAL_SPREAD = 0.1
"""Standard deviation that is expected of a radial distortion."""

UNBENDING = 6
"""Iterations to undo it."""

MODEL = "SIMPLE_RADIAL"
"""Of all cameras here; its principal point is zero."""

COORDINATES = (*range(POSE), POSE, POSE + 3)
"""What moves: the pose, the focal length and the distortion, as ``residual.linearize_rows`` counts them."""

MOST_MISS = 4.0
"""Residuals are held below this, halves."""

MIN_DEPTH = 1e-3
"""Of points, in median depths; nearer ones and those behind a camera do not count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackViews(TensorRecord):
    """Observations of N tracks in S frames of B scenes.

    Attributes:
        xy: less the principal point, halves.
        weight: weight of each observation, 0 to 1.
        deviation: of ``xy``, halves.
        same_camera: weights that average over the frames of one physical camera.
        log_focal: what is expected of the focal length, in halves, before anything is seen.
        spread: standard deviation of that.
        bends: 1 where the camera may have a radial distortion, else 0.
    """

    xy: Float[Tensor, "B S N 2"]
    weight: Float[Tensor, "B S N"]
    deviation: Float[Tensor, "B S N"]
    same_camera: Float[Tensor, "B S S"]
    log_focal: Float[Tensor, "B S"]
    spread: Float[Tensor, "B S"]
    bends: Float[Tensor, "B S"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraState(TensorRecord):
    """Poses and lenses on their way; frame 0 is at the origin, points are at about unit distance.

    Attributes:
        cam_from_world: of each frame.
        log_focal: logarithm of the focal length in halves.
        radial: distortion, as that of COLMAP's SIMPLE_RADIAL.
    """

    cam_from_world: Float[Tensor, "B S 3 4"]
    log_focal: Float[Tensor, "B S"]
    radial: Float[Tensor, "B S"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement(TensorRecord):
    """How the observations fit the cameras.

    Attributes:
        xyz_cam: each track's point in each frame.
        residual: projection minus observation, halves; zero where the point is not in front.
        weight: belief times a robust weight of the residual; zero where the point is not in front.
        alone: Gauss-Newton step of each frame, the others held, the points following: rotation vector, translation,
            log focal, radial distortion.
        together: the same of all frames at once.
    """

    xyz_cam: Float[Tensor, "B S N 3"]
    residual: Float[Tensor, "B S N 2"]
    weight: Float[Tensor, "B S N"]
    alone: Float[Tensor, "B S 8"]
    together: Float[Tensor, "B S 8"]


def normalized(state: CameraState, views: TrackViews) -> CameraState:
    """The same cameras with frame 0 at the origin and the median point of all frames at unit depth."""
    moved = pose.compose(state.cam_from_world, pose.inverse(state.cam_from_world[:, :1]))
    depth = _points(replace(state, cam_from_world=moved), views, views.weight)[1][..., 2]
    counted = torch.where((views.weight > 0.5) & (depth > 0), depth, torch.nan)  # noqa: PLR2004
    scale = counted.flatten(1).nanmedian(-1).values.nan_to_num(nan=1.0).clamp(1e-6, 1e6).detach()
    scaled = torch.cat([moved[..., :3], moved[..., 3:] / scale[:, None, None, None]], -1)
    return replace(state, cam_from_world=scaled)


def _points(state: CameraState, views: TrackViews, weight: Float[Tensor, "B S N"]) -> tuple[Tensor, Tensor]:
    """Points by linear triangulation, in the world and in each frame."""
    rays = _rays(state, views)
    poses = state.cam_from_world[:, None].expand(-1, rays.shape[2], -1, -1, -1)
    trust = (weight * _trust(views) * (2 * state.log_focal).exp()[..., None]).transpose(1, 2)
    xyz = triangulate.triangulate(rays.transpose(1, 2), poses, trust)
    xyz = triangulate.refine(xyz, rays.transpose(1, 2), poses, trust, 2)
    return xyz, pose.transform(state.cam_from_world[:, :, None], xyz[:, None])


def _trust(views: TrackViews) -> Float[Tensor, "B S N"]:
    """Information of the observations, with half a pixel of 1024 for the floor: the best ones do not rule."""
    return 1 / (views.deviation.square() + FLOOR**2)


def _rays(state: CameraState, views: TrackViews) -> Float[Tensor, "B S N 2"]:
    """Observations on the plane z = 1, the distortion undone by fixed-point iteration."""
    bent = views.xy / state.log_focal.exp()[..., None, None]
    radial = state.radial[..., None, None]
    rays = bent
    for _ in range(UNBENDING):
        rays = bent / (1 + radial * rays.square().sum(-1, keepdim=True)).clamp(0.5, 2.0)
    return rays


def agreement(state: CameraState, views: TrackViews) -> Agreement:
    """Points, residuals and pushes; the second of two triangulations leaves out what does not fit the first."""
    weight = views.weight
    for last in (False, True):
        xyz_world, xyz_cam = _points(state, views, weight)
        in_front = xyz_cam[..., 2] > MIN_DEPTH
        missed = residual_rows(_rows(state, views, xyz_world, torch.ones_like(weight))).mT.unflatten(
            0, views.weight.shape[:2]
        )
        residual = torch.where(in_front[..., None], missed, torch.zeros_like(missed)).clamp(-MOST_MISS, MOST_MISS)
        length = residual.norm(dim=-1)
        scale = _scale(length, views.weight * in_front)
        weight = views.weight * in_front / (1 + (length / scale[:, None, None]).square()).square()
        if not last:
            weight = weight.detach()
    alone, together = _steps(state, views, xyz_world, residual, weight)
    return Agreement(xyz_cam=xyz_cam, residual=residual, weight=weight, alone=alone, together=together)


def _rows(
    state: CameraState, views: TrackViews, xyz_world: Float[Tensor, "B N 3"], root: Float[Tensor, "B S N"]
) -> Rows:
    """The observations as bundle adjustment takes them, a row for each frame of each scene.

    Args:
        state: cameras.
        views: observations.
        xyz_world: points.
        root: weight of the residuals.
    """
    batch, frames, count = views.weight.shape
    root = root.flatten(0, 1)
    zero = torch.zeros_like(root)
    lens = torch.zeros_like(state.log_focal)
    return Rows(
        model=MODEL,
        cam_from_world=state.cam_from_world.flatten(0, 1),
        params=torch.stack([state.log_focal.exp(), lens, lens, state.radial], -1).flatten(0, 1),
        xyz_world=xyz_world.mT[:, None].expand(batch, frames, 3, count).flatten(0, 1),
        xy=views.xy.flatten(0, 1).mT,
        whitening=torch.stack([root, zero, zero, root], 1).unflatten(1, (2, 2)),
    )


def _scale(length: Float[Tensor, "B S N"], weight: Float[Tensor, "B S N"]) -> Float[Tensor, " B"]:
    """Residual at which doubt begins: three times the median, between 0.3 and 20 percent of the picture."""
    counted = torch.where(weight > 0.5, length, torch.nan).flatten(1)  # noqa: PLR2004
    return (3 * counted.nanmedian(-1).values.nan_to_num(nan=0.01)).clamp(0.003, 0.2).detach()


def _steps(
    state: CameraState, views: TrackViews, xyz_world: Tensor, residual: Tensor, weight: Tensor
) -> tuple[Float[Tensor, "B S 8"], Float[Tensor, "B S 8"]]:
    """The normal equations from which the points are eliminated, solved frame by frame and as a whole."""
    batch, frames, _ = weight.shape
    trust = weight * _trust(views)
    counts = trust > 0  # the root has no slope at zero
    root = torch.where(counts, torch.where(counts, trust, torch.ones_like(trust)).sqrt(), torch.zeros_like(trust))
    at = linearize_rows(_rows(state, views, xyz_world, root), COORDINATES)
    # the lens is told by the logarithm of its focal length
    focal = state.log_focal.exp().flatten()[:, None, None]
    by_camera = torch.cat([at.columns[:, :6], at.columns[:, 6:7] * focal[..., None], at.columns[:, 7:8]], 1)
    error = (residual * root[..., None]).flatten(0, 1).mT
    flat = by_camera.flatten(2)
    camera_block = (flat @ flat.mT).unflatten(0, (batch, frames))
    gradient = (flat @ error.flatten(1)[..., None])[..., 0].unflatten(0, (batch, frames))
    camera_block, gradient = _with_priors(state, views, camera_block, gradient)
    points = products(at.by_point, error).unflatten(0, (batch, frames)).sum(1)
    block, pull = points[:, :6].movedim(1, 0), points[:, 6:].movedim(1, 0)
    diagonal = torch.tensor(DIAGONAL, device=block.device)
    largest = block[diagonal].amax(0).clamp(min=1e-12)
    inverse = inverse_cholesky(block.index_add(0, diagonal, (1e-6 * largest).expand(3, -1, -1)))
    # the points follow: M M^T is what they take away
    mixed = (by_camera[:, :, None, 0] * at.by_point[:, None, :, 0]) + (
        by_camera[:, :, None, 1] * at.by_point[:, None, :, 1]
    )
    mixed = mixed.unflatten(0, (batch, frames)).movedim(3, 0)
    followed = times(inverse[:, :, None, None], mixed)
    gradient = gradient - (followed * times(inverse, pull)[:, :, None, None]).sum((0, -1))
    followed = followed.movedim(0, -2).flatten(3)
    on_diagonal = camera_block.diagonal(dim1=-2, dim2=-1)
    damping = DAMPING * on_diagonal + 1e-6 * on_diagonal.amax(-1, keepdim=True) + 1e-3
    reduced = camera_block - followed @ followed.mT + torch.diag_embed(damping)
    alone = -torch.linalg.solve_ex(reduced, gradient[..., None])[0][..., 0]
    return _bounded(alone), _bounded(_together(views, camera_block, followed, damping, gradient))


def _with_priors(
    state: CameraState, views: TrackViews, block: Float[Tensor, "B S 8 8"], gradient: Float[Tensor, "B S 8"]
) -> tuple[Float[Tensor, "B S 8 8"], Float[Tensor, "B S 8"]]:
    """The normal equations with what is expected of lenses; those that do not bend are held."""
    know = torch.zeros_like(gradient)
    know[..., 6] = 1 / views.spread.clamp(min=1e-4).square()
    know[..., 7] = torch.where(views.bends > 0, 1 / RADIAL_SPREAD**2, 1e12)
    off = torch.zeros_like(gradient)
    off[..., 6] = state.log_focal - views.log_focal
    off[..., 7] = torch.where(views.bends > 0, state.radial, torch.zeros_like(state.radial))
    return block + torch.diag_embed(know), gradient + know * off


def _bounded(step: Float[Tensor, "B S 8"]) -> Float[Tensor, "B S 8"]:
    return step.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(-1, 1)


def _together(
    views: TrackViews, camera_block: Tensor, followed: Tensor, damping: Tensor, gradient: Tensor
) -> Float[Tensor, "B S 8"]:
    """The step of all frames at once; the first one stands still, frames of one camera share their lens."""
    batch, frames, size = gradient.shape
    length = size * frames
    eye = torch.eye(frames).to(gradient)
    blocks = camera_block + torch.diag_embed(damping)
    whole = (blocks[:, :, None] * eye[:, :, None, None]).transpose(2, 3).reshape(batch, length, length)
    rows = followed.flatten(1, 2)
    whole = whole - rows @ rows.mT
    sharing = torch.eye(length).to(gradient).repeat(batch, 1, 1)
    for lens in (6, 7):
        sharing[:, lens::size, lens::size] = views.same_camera
    sharing[:, :, :6] = 0
    # what is shared or held leaves directions empty
    spare = torch.eye(length).to(gradient) - sharing
    filled = spare.mT @ spare * damping.flatten(1).amax(-1)[:, None, None].clamp(min=1e-3)
    normal = sharing.mT @ whole @ sharing + filled
    step = -torch.linalg.solve_ex(normal, sharing.mT @ gradient.flatten(1)[..., None])[0]
    return (sharing @ step)[..., 0].unflatten(-1, (frames, size))


def moved(state: CameraState, views: TrackViews, step: Float[Tensor, "B S 8"]) -> CameraState:
    """Cameras after a step on each frame's side; frames of one camera take the mean step of their lens."""
    update = torch.cat([rotation.exp(step[..., :3]), step[..., 3:6, None]], -1)
    lens = views.same_camera @ step[..., 6:]
    return CameraState(
        cam_from_world=pose.compose(update, state.cam_from_world),
        log_focal=(state.log_focal + lens[..., 0]).clamp(-1.5, 4.0),
        radial=((state.radial + lens[..., 1]) * views.bends).clamp(-0.5, 0.5),
    )
