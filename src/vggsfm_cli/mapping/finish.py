"""From the dense model of a window to the sparse ``Reconstruction`` that is written to files."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import alignment, pose
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.mapping.model import Model, Scene
from vggsfm_cli.mapping.schedule import median_depth, noise_px
from vggsfm_cli.scene import Cameras, ImageSet, Reconstruction
from vggsfm_cli.triangulation.ransac import reprojection_error


def normalized(model: Model) -> Model:
    """The same model with its first frame at the origin, looking along z, and a median depth of one."""
    first = model.cameras.cam_from_world[:, model.frames[0]]
    poses = pose.compose(model.cameras.cam_from_world, pose.inverse(first)[:, None])
    depth = median_depth(model).clamp_min(1e-12)
    poses = torch.cat([poses[..., :3], poses[..., 3:] / depth], -1)
    xyz = pose.transform(first[:, None], model.points.xyz_world) / depth
    xyz = torch.where(model.points.valid[..., None], xyz, torch.zeros_like(xyz))
    return dataclasses.replace(
        model,
        cameras=dataclasses.replace(model.cameras, cam_from_world=poses),
        points=dataclasses.replace(model.points, xyz_world=xyz),
    )


def spanning(model: Model, extent: float = 5.0) -> Model:
    """The same model with its registered cameras about the origin and spread over ``extent``, as COLMAP normalises.

    Center and spread are those of the middle eight tenths of the centres, axis by axis, or of all three or fewer.
    """
    ordered = pose.center(model.cameras.cam_from_world[0, model.frames]).sort(0).values
    last = len(ordered) - 1
    low, high = (int(0.1 * last), int(0.9 * last)) if last > 2 else (0, last)  # noqa: PLR2004
    spread = (ordered[high] - ordered[low]).norm()
    scale = extent / spread.clamp_min(1e-12)
    shift = -scale * ordered[low : high + 1].mean(0)
    eye = torch.eye(3, dtype=ordered.dtype)
    return dataclasses.replace(
        model,
        cameras=dataclasses.replace(
            model.cameras,
            cam_from_world=alignment.apply_to_cameras(scale, eye, shift, model.cameras.cam_from_world[0])[None],
        ),
        points=dataclasses.replace(
            model.points, xyz_world=alignment.apply_to_points(scale, eye, shift, model.points.xyz_world[0])[None]
        ),
    )


def figures(scene: Scene, model: Model, origin: str) -> dict[str, Any]:
    """What the report says of a model; ``origin`` names where it comes from."""
    used = model.cameras.camera_index[0, model.frames].unique().tolist()
    return {
        "origin": origin,
        "registered": len(model.frames),
        "points": int(model.points.valid.sum()),
        "observations": int(model.inliers.sum()),
        "noise_px": noise_px(scene, model),
        "focal_px": [float(camera_models.focal(model.cameras.models[c], model.cameras.params[0, c])) for c in used],
    }


def to_reconstruction(scene: Scene, model: Model, report: dict[str, Any]) -> Reconstruction:
    """Keep what is registered and observed, renumbered. Colours are zero until ``colorize``."""
    frames = model.frames
    inliers = model.inliers[0, frames]
    points = (model.points.valid[0] & (inliers.sum(0) >= 2)).nonzero().flatten()  # noqa: PLR2004
    frame, point = inliers[:, points].nonzero(as_tuple=True)
    error = reprojection_error(model.cameras, model.points, scene.tracks)[0, frames][:, points]
    total = torch.zeros(len(points), dtype=error.dtype).index_add(0, point, error[frame, point])
    index = model.cameras.camera_index[0, frames]
    used, camera_index = index.unique(return_inverse=True)
    cameras = Cameras(
        cam_from_world=model.cameras.cam_from_world[:, frames],
        models=tuple(model.cameras.models[int(c)] for c in used),
        params=model.cameras.params[:, used],
        camera_index=camera_index[None],
        registered=torch.ones(1, len(frames), dtype=torch.bool),
    )
    xyz = model.points.xyz_world[0, points]
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
        return sample(picture, xy[None].to(picture.dtype))[0].float().cpu()
    affine = images.stored_from_network[0, frame].cpu().double()
    network = (xy.double() - affine[:, 2]) @ torch.linalg.inv(affine[:, :2]).mT
    return sample(images.pixels[0, frame][None], network[None].to(images.pixels))[0].float().cpu()
