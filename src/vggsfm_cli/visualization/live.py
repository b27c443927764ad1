"""A model in the browser, served from this machine; viser draws it (extra ``view``)."""

from typing import Any

import numpy as np

from vggsfm_cli.errors import MissingDependency
from vggsfm_cli.geometry import rotation
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization.arrangement import corner_rays, frustum_depth, upright_axes

CAMERA = (255, 154, 60)
MAX_POINTS = 1_000_000
"""More are thinned evenly; browsers do not like them."""


def serve(model: Reconstruction, *, host: str = "127.0.0.1", port: int = 8080) -> Any:
    """Start to serve a model; a click on a camera moves the spectator there.

    Args:
        model: with one registered frame or more.
        host: address to listen on; ``0.0.0.0`` lets other machines in.
        port: the next free one is taken if it is in use.

    Returns:
        viser's server, which runs in threads of its own: ``get_port()``, ``stop()``.

    Raises:
        MissingDependency: viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise MissingDependency("The viewer needs viser.", 'pip install "vggsfm-cli[view]"') from error
    server = viser.ViserServer(host=host, port=port, label="vggsfm", verbose=False)
    poses = model.cameras.cam_from_world[0].detach().cpu().double()
    centers = model.cameras.centers[0].detach().cpu().double().numpy()
    xyz = model.xyz_world.detach().cpu().double().numpy()
    middle = np.median(np.concatenate([xyz, centers]), axis=0)
    radius = float(np.percentile(np.linalg.norm(np.concatenate([xyz, centers]) - middle, axis=1), 95)) or 1.0
    axes = upright_axes(poses[:, :, :3].numpy())
    server.scene.set_up_direction(-axes[1])
    server.initial_camera.position = middle + radius * (0.8 * axes[0] - axes[1] - 2.0 * axes[2])
    server.initial_camera.look_at = middle
    step = max(1, -(-len(xyz) // MAX_POINTS))
    color = (model.color.detach().cpu().double().numpy() * 255).round().clip(0, 255).astype(np.uint8)
    server.scene.add_point_cloud("/points", xyz[::step], color[::step], point_size=0.006 * radius, point_shape="circle")
    _add_cameras(server, model, frustum_depth(centers, radius, smallest=0.01))
    return server


def _add_cameras(server: Any, model: Reconstruction, depth: float) -> None:
    poses = model.cameras.cam_from_world[0].detach().cpu().double()
    wxyz = rotation.to_quaternion(poses[:, :, :3].mT).numpy()
    centers = model.cameras.centers[0].detach().cpu().double().numpy()
    rays = corner_rays(model)
    for s, name in enumerate(model.names):
        height = rays[s, 1, 2] - rays[s, 1, 1]
        frustum = server.scene.add_camera_frustum(
            f"/cameras/{s:05d} {name.replace('/', ' ')}",
            fov=2 * float(np.arctan(height / 2)),
            aspect=float((rays[s, 0, 1] - rays[s, 0, 0]) / height),
            scale=depth,
            color=CAMERA,
            wxyz=wxyz[s],
            position=centers[s],
        )

        def go_there(event: Any, s: int = s) -> None:
            event.client.camera.wxyz = wxyz[s]
            event.client.camera.position = centers[s]

        frustum.on_click(go_there)
