"""How a model is laid out for the eye: which way is up, and how large its cameras are drawn."""

import numpy as np
from jaxtyping import Float

from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.scene import Reconstruction


def upright_axes(rotation: Float[np.ndarray, "s 3 3"]) -> Float[np.ndarray, "3 3"]:
    """Rows are the directions right, down and away of the picture, in world coordinates.

    Stored pixels need not be upright: a camera held sideways has its x axis up or down. So the direction is up that
    most cameras have along one of their four image axes, in the sense most of them agree on.
    """
    x, y, z = rotation[:, 0], rotation[:, 1], rotation[:, 2]
    candidates = np.stack([-y, x, -x, y], axis=1)
    best_up, best_score = -y[0], -np.inf
    for start in -y:
        agreement = candidates @ start
        chosen = agreement.argmax(1)
        score = agreement.max(1).sum() + 0.2 * (chosen == 0).sum()
        if score > best_score:
            best_up, best_score = candidates[np.arange(len(z)), chosen].mean(0), score
    up = best_up / np.linalg.norm(best_up)
    away = _perpendicular(z.mean(0), up)
    if away is None:  # cameras all around, or looking straight down
        away = _perpendicular(z[0], up)
    if away is None:
        away = _perpendicular(np.eye(3)[np.abs(up).argmin()], up)
    assert away is not None
    return np.stack([np.cross(-up, away), -up, away])


def _perpendicular(direction: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"] | None:
    flat = direction - (direction @ up) * up
    length = float(np.linalg.norm(flat))
    return flat / length if length > 0.1 else None  # noqa: PLR2004


def corner_rays(reconstruction: Reconstruction) -> Float[np.ndarray, "s 3 4"]:
    """Directions of the four picture corners of each frame, in camera coordinates, at unit depth.

    Distortion is left out; of a camera model that is not in ``geometry.camera`` the first parameter is taken for the
    focal length, as it is in COLMAP's models, and the picture's centre for the principal point.
    """
    cameras = reconstruction.cameras
    params = cameras.frame_params[0].detach().cpu().double()
    models = [cameras.models[c] for c in cameras.camera_index[0].tolist()]
    rays = np.ones((len(models), 3, 4))
    for s, (model, (width, height)) in enumerate(zip(models, reconstruction.sizes.tolist(), strict=True)):
        if model in camera_models.PARAM_NAMES:
            K = camera_models.calibration_matrix(model, params[s]).numpy()
        else:
            focal = float(params[s, 0])
            K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        corners = np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]])
        rays[s] = np.linalg.solve(K, corners)
    return rays


def frustum_depth(center: Float[np.ndarray, "s 3"], radius: float, smallest: float = 0.03) -> float:
    """A size at which neighbouring frusta do not cover one another, but ``smallest`` radii of the scene at least."""
    if len(center) < 2:  # noqa: PLR2004
        return 0.1 * radius
    nearest = np.array([np.partition(np.linalg.norm(center - one, axis=1), 1)[1] for one in center])
    return float(np.clip(0.6 * np.median(nearest), smallest * radius, 0.12 * radius))
