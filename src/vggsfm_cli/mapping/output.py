"""From the dense arrays of mapping to the sparse ``Reconstruction`` that is written to files."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import alignment, pose
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.scene import Cameras, ImageSet, Reconstruction
from vggsfm_cli.triangulation.ransac import reprojection_error


def normalized(partial: Partial) -> Partial:
    """The same reconstruction with its first frame at the origin, looking along z, and a median depth of one."""
    first = partial.cameras.cam_from_world[:, partial.frames[0]]
    poses = pose.compose(partial.cameras.cam_from_world, pose.inverse(first)[:, None])
    depth = _median_depth(partial).clamp_min(1e-12)
    poses = torch.cat([poses[..., :3], poses[..., 3:] / depth], -1)
    xyz = pose.transform(first[:, None], partial.points.xyz_world) / depth
    xyz = torch.where(partial.points.valid[..., None], xyz, torch.zeros_like(xyz))
    return dataclasses.replace(
        partial,
        cameras=dataclasses.replace(partial.cameras, cam_from_world=poses),
        points=dataclasses.replace(partial.points, xyz_world=xyz),
    )


def _median_depth(partial: Partial) -> Float[Tensor, ""]:
    """Of the inlier observations."""
    poses = partial.cameras.cam_from_world[0]
    depth = (poses[:, 2, :3] @ partial.points.xyz_world[0].mT) + poses[:, 2, 3:]
    return depth[partial.inliers[0]].median()


def spanning(partial: Partial, extent: float = 5.0) -> Partial:
    """The same reconstruction with its cameras about the origin and spread over ``extent``, as COLMAP normalises.

    Center and spread are those of the middle eight tenths of the centres, axis by axis, or of all three or fewer.
    """
    ordered = pose.center(partial.cameras.cam_from_world[0, partial.frames]).sort(0).values
    last = len(ordered) - 1
    low, high = (int(0.1 * last), int(0.9 * last)) if last > 2 else (0, last)  # noqa: PLR2004
    spread = (ordered[high] - ordered[low]).norm()
    scale = extent / spread.clamp_min(1e-12)
    shift = -scale * ordered[low : high + 1].mean(0)
    eye = torch.eye(3, dtype=ordered.dtype)
    return dataclasses.replace(
        partial,
        cameras=dataclasses.replace(
            partial.cameras,
            cam_from_world=alignment.apply_to_cameras(scale, eye, shift, partial.cameras.cam_from_world[0])[None],
        ),
        points=dataclasses.replace(
            partial.points, xyz_world=alignment.apply_to_points(scale, eye, shift, partial.points.xyz_world[0])[None]
        ),
    )


def figures(partial: Partial, origin: str, noise_px: float) -> dict[str, Any]:
    """What the report says of a model: where it comes from, its size, and the deviation of its residuals."""
    used = partial.cameras_in_use
    return {
        "origin": origin,
        "registered": len(partial.frames),
        "points": int(partial.points.valid.sum()),
        "observations": int(partial.inliers.sum()),
        "noise_px": noise_px,
        "focal_px": [float(camera_models.focal(partial.cameras.models[c], partial.cameras.params[0, c])) for c in used],
    }


def to_reconstruction(scene: TrackedScene, partial: Partial, report: dict[str, Any]) -> Reconstruction:
    """Keep what is registered and observed, renumbered. Colours are zero until ``colorize``."""
    frames = partial.frames
    inliers = partial.inliers[0, frames]
    points = (partial.points.valid[0] & (inliers.sum(0) >= 2)).nonzero().flatten()  # noqa: PLR2004
    frame, point = inliers[:, points].nonzero(as_tuple=True)
    error = reprojection_error(partial.cameras, partial.points, scene.tracks)[0, frames][:, points]
    total = torch.zeros(len(points), dtype=error.dtype).index_add(0, point, error[frame, point])
    index = partial.cameras.camera_index[0, frames]
    used, camera_index = index.unique(return_inverse=True)
    cameras = Cameras(
        cam_from_world=partial.cameras.cam_from_world[:, frames],
        models=tuple(partial.cameras.models[int(c)] for c in used),
        params=partial.cameras.params[:, used],
        camera_index=camera_index[None],
        registered=torch.ones(1, len(frames), dtype=torch.bool),
    )
    xyz = partial.points.xyz_world[0, points]
    return Reconstruction(
        cameras=cameras,
        names=tuple(scene.images.names[0][s] for s in frames),
        sizes=scene.images.stored_size[0, frames].cpu(),
        xyz_world=xyz,
        color=torch.zeros_like(xyz),
        error_px=total / inliers[:, points].sum(0).clamp_min(1),
        frame=frame,
        point=point,
        xy=scene.tracks.xy[0, frames][:, points][frame, point],
        report=report,
    )


def colorize(reconstruction: Reconstruction, images: ImageSet) -> Reconstruction:
    """The same reconstruction with the mean colour of each point's observations, in [0, 1].

    Read from the original files where there are any, from network pixels otherwise.
    """
    total = torch.zeros(len(reconstruction.xyz_world), 3)
    count = torch.zeros(len(reconstruction.xyz_world), 1)
    for s, name in enumerate(reconstruction.names):
        observed = reconstruction.frame == s
        color = _colors(images, images.names[0].index(name), reconstruction.xy[observed])
        total.index_add_(0, reconstruction.point[observed], color)
        count.index_add_(0, reconstruction.point[observed], torch.ones(len(color), 1))
    return dataclasses.replace(reconstruction, color=total / count.clamp_min(1))


def _colors(images: ImageSet, frame: int, xy: Float[Tensor, "m 2"]) -> Float[Tensor, "m 3"]:
    if images.originals is not None:
        picture = images.originals.color(0, frame)[None]
        halved = picture.shape[-1] / float(images.stored_size[0, frame, 0])  # less than 1 for giant photographs
        return sample(picture, halved * xy[None].to(picture.dtype))[0].float().cpu()
    affine = images.stored_from_network[0, frame].cpu().double()
    network = (xy.double() - affine[:, 2]) @ torch.linalg.inv(affine[:, :2]).mT
    return sample(images.pixels[0, frame][None], network[None].to(images.pixels))[0].float().cpu()
