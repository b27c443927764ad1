"""Random scenes: a layout, its cameras with their lenses, and its light."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggsfm_cli.geometry import pose
from vggsfm_cli.scene import Cameras
from vggsfm_cli.synthetic.dice import Dice
from vggsfm_cli.synthetic.layouts import LAYOUTS, Ambience, Layout, Stage, toward
from vggsfm_cli.synthetic.photometry import PhotometryConfig
from vggsfm_cli.synthetic.surfaces import Lighting, Surfaces, pack
from vggsfm_cli.synthetic.things import Brief

UNFOLDED = 0.6
"""Share of the strongest negative distortion at which the corners of the picture still show something."""


FILM = PhotometryConfig(
    exposure=0.08, white_balance=0.01, contrast=0.03, vignetting=0.2, blurred=0.2, noise=0.015, quality=(60.0, 95.0)
)
"""What a video camera does to the light: settings change less from frame to frame than between photographs."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What scenes are drawn from."""

    frames: int = 4
    height: int = 320
    width: int = 320
    max_angle_deg: tuple[float, float] = (5.0, 90.0)  # between the outermost views of a scene
    focal: tuple[float, float] = (0.5, 2.5)  # in widths
    shared_camera: float = 0.5  # share of scenes whose frames have one camera
    principal_point: float = 0.02  # standard deviation of its offset from the centre, in widths
    distortion: tuple[float, float] = (-0.2, 0.1)  # radial, less where a wide view would fold over
    roll_deg: tuple[float, float] = (3.0, 30.0)  # standard deviation in most scenes, largest in the others
    rolled: float = 0.2  # share of those others
    layouts: tuple[tuple[Layout, float], ...] = (
        (Layout.FACADE, 2.0),
        (Layout.ROOM, 2.0),
        (Layout.TABLETOP, 2.0),
        (Layout.TURNTABLE, 1.0),
        (Layout.TERRAIN, 1.0),
        (Layout.STREET, 1.0),
        (Layout.POSTER, 1.0),
        (Layout.CLUTTER, 1.0),
    )  # with their weights
    samples: int = 1  # rays a pixel, squared
    shadows: bool = True
    photometry: PhotometryConfig | None = None  # what the camera does to the light; None: nothing


def of_film(config: SceneConfig) -> SceneConfig:
    """The same size and number of frames, as one video camera takes them on a walk: one lens, even light, no turns."""
    return dataclasses.replace(
        config,
        layouts=((Layout.WALK, 1.0),),
        focal=(0.6, 0.9),
        shared_camera=1.0,
        principal_point=0.0,
        distortion=(-0.05, 0.05),
        roll_deg=(0.3, 0.3),
        rolled=0.0,
        photometry=None if config.photometry is None else FILM,
    )


def make_scenes(
    config: SceneConfig, pictures: int, side: int, scenes: int, generator: torch.Generator
) -> tuple[Surfaces, Cameras]:
    """Geometry, light and cameras of random scenes, on the CPU.

    Args:
        config: what to draw from.
        pictures: number of textures.
        side: of the textures in texels.
        scenes: how many.
        generator: on the CPU.
    """
    dice = Dice(generator)
    built, poses, params, index = [], [], [], []
    for _ in range(scenes):
        focal = dice.scale(*config.focal)
        brief = Brief(
            dice=dice,
            frames=config.frames,
            focal=focal,
            spread=math.radians(dice.uniform(*config.max_angle_deg)),
            width=config.width,
            pictures=pictures,
            side=side,
        )
        layout = dice.pick([layout for layout, _ in config.layouts], [weight for _, weight in config.layouts])
        stage = LAYOUTS[layout](brief)
        shared = dice.chance(config.shared_camera)
        built.append((stage.parts, _light(dice, stage, pictures)))
        poses.append(pose.look_at(stage.centers, stage.targets, _rolls(config, dice)))
        params.append(_lenses(config, dice, focal, shared))
        index.append(torch.zeros(config.frames).long() if shared else torch.arange(config.frames))
    cameras = Cameras(
        cam_from_world=torch.stack(poses),
        models=("SIMPLE_RADIAL",) * config.frames,
        params=torch.stack(params),
        camera_index=torch.stack(index),
        registered=torch.ones(scenes, config.frames, dtype=torch.bool),
    )
    return pack(built), cameras


def _rolls(config: SceneConfig, dice: Dice) -> Float[Tensor, " S"]:
    usual, largest = (math.radians(angle) for angle in config.roll_deg)
    if dice.chance(config.rolled):
        return dice.uniforms(-largest, largest, config.frames)
    return usual * dice.normals(config.frames)


def _lenses(config: SceneConfig, dice: Dice, focal: float, shared: bool) -> Float[Tensor, "S 4"]:
    """Parameters of one camera a frame; all the same if the frames share one."""
    rows = []
    for _ in range(1 if shared else config.frames):
        own = focal if shared else min(max(focal * math.exp(dice.normal(0.15)), config.focal[0]), config.focal[1])
        offset = [dice.normal(config.principal_point) for _ in range(2)]
        corner = math.hypot(0.5 + abs(offset[0]), 0.5 * config.height / config.width + abs(offset[1])) / own
        # r + k r^3 reaches the corner only if k >= -4 / (27 corner^2)
        low = max(config.distortion[0], -UNFOLDED * 4 / (27 * corner * corner))
        bend = 0.0 if dice.chance(0.2) else dice.uniform(low, config.distortion[1])
        center = [0.5 * config.width + offset[0] * config.width, 0.5 * config.height + offset[1] * config.width]
        rows.append([own * config.width, *center, bend])
    return torch.tensor(rows, dtype=torch.float64).expand(config.frames, 4).clone()


def _light(dice: Dice, stage: Stage, pictures: int) -> Lighting:
    frames = len(stage.centers)
    azimuth, elevation = stage.azimuth + dice.normal(0.8), math.radians(dice.uniform(18, 70))
    toward_sun = toward(torch.tensor([azimuth]), torch.tensor([elevation])).expand(frames, 3)
    warm = 1 + dice.uniform(-0.05, 0.15) * torch.tensor([1.0, 0.0, -1.0])
    share = dice.uniform(0.35, 0.8)  # of the sun
    strength = dice.uniform(0.8, 1.35)
    shadow = dice.uniform(0.6, 1.0)
    horizon = dice.uniform(0.6, 1.0) * torch.tensor([0.92, 0.95, 1.0])
    zenith = torch.tensor([0.35, 0.55, 0.9]) * dice.uniform(0.6, 1.1)
    if dice.chance(0.4):  # overcast
        zenith, share, shadow = horizon * dice.uniform(0.7, 1.0), share * 0.4, shadow * 0.4
    if stage.ambience is Ambience.STUDIO:
        horizon, zenith, shadow = torch.zeros(3), torch.zeros(3), 0.0
        if dice.chance(0.7):  # the lamp stays with the camera while the object turns
            back = torch.nn.functional.normalize(stage.centers - stage.targets, dim=-1)
            lift = torch.tensor([0.2, -0.5, 0.1], dtype=torch.float64)
            toward_sun = torch.nn.functional.normalize(back + lift, dim=-1)
    cool = torch.tensor([0.95, 1.0, 1.05])
    return Lighting(
        toward_sun=toward_sun.float()[None],
        sun=(strength * share * 1.5 * warm)[None],
        ambient=(strength * (1 - 0.6 * share) * cool)[None],
        shadow=torch.tensor([shadow]),
        horizon=horizon[None],
        zenith=zenith[None],
        clouds=torch.tensor([dice.whole(0, pictures - 1)]),
        cloudiness=torch.tensor([0.0 if stage.ambience is Ambience.STUDIO else dice.uniform(0, 0.35)]),
    )
