"""Points between the verified ones: on the surface, where none were, seen by true tracks; cameras stay."""

import dataclasses

import pytest
import torch

from vggsfm_cli.geometry import pose
from vggsfm_cli.mapping.densify import DensifyConfig, add_points, free_cells
from vggsfm_cli.scene import CameraPriors, Cameras, ImageSet, Reconstruction, Tracks
from vggsfm_cli.tracking.features import FeatureMaps
from vggsfm_cli.tracking.interface import PointTracker

WIDTH, HEIGHT, FOCAL, FRAMES = 256, 192, 240.0, 5
SCALE = 2.0  # stored pixels per network pixel


def surface(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Depth along z of the scene: a gentle hill."""
    return 4 - 0.5 * torch.exp(-(x * x + y * y))


def true_cameras() -> Cameras:
    poses = torch.eye(3, 4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    poses[:, 0, 3] = -0.25 * (torch.arange(FRAMES) - 2)
    return Cameras(
        cam_from_world=poses[None],
        models=("SIMPLE_RADIAL",),
        params=torch.tensor([[[FOCAL * SCALE, WIDTH * SCALE / 2, HEIGHT * SCALE / 2, -0.03]]], dtype=torch.float64),
        camera_index=torch.zeros(1, FRAMES, dtype=torch.long),
        registered=torch.ones(1, FRAMES, dtype=torch.bool),
    )


def on_surface(cameras: Cameras, frame: int, xy: torch.Tensor) -> torch.Tensor:
    """Where the rays of stored pixels meet the surface, by fixed point iteration."""
    uv = cameras.unproject(xy[None, None].expand(1, FRAMES, -1, -1).double())[0, frame]
    ray = torch.cat([uv, torch.ones_like(uv[:, :1])], -1)  # the cameras look along z, unturned
    center = pose.center(cameras.cam_from_world[0, frame])
    depth = torch.full_like(uv[:, 0], 4.0)
    for _ in range(20):
        xyz = center + depth[:, None] * ray
        depth = surface(xyz[:, 0], xyz[:, 1])
    return center + depth[:, None] * ray


class SurfaceTracker(PointTracker):
    """Knows the surface; every third query is lost in one of its ways, and frame 5, which is not in the model, errs."""

    def __init__(self, wrong: bool = True) -> None:
        super().__init__()
        self.wrong = wrong
        self.queries = 0

    def encode(self, images: ImageSet) -> FeatureMaps:
        score = torch.full((1, FRAMES + 1, HEIGHT, WIDTH), 0.1)
        score[..., 5::8, 3::8] = 0.9
        cells = torch.ones(1, FRAMES + 1, HEIGHT // 8, WIDTH // 8, dtype=torch.bool)
        return FeatureMaps(
            descriptors=torch.zeros(1, FRAMES + 1, 4, HEIGHT // 8, WIDTH // 8), keypoint_score=score, usable=cells
        )

    def forward(self, images, queries, features=None):
        assert not bool(images.frame_valid[0, FRAMES])
        frame, count = int(queries.frame[0, 0]), queries.xy.shape[1]
        self.queries += count
        cameras = true_cameras()
        stored = queries.xy[0].double() * SCALE
        xyz = on_surface(cameras, frame, stored)
        if self.wrong:
            center = pose.center(cameras.cam_from_world[0, frame])
            xyz[::3] = center + 1.8 * (xyz[::3] - center)  # all frames agree, far behind the surface
        xy, _ = cameras.project(xyz[None])
        xy = xy[0]
        inside = ((xy > 0) & (xy < torch.tensor([WIDTH, HEIGHT]) * SCALE)).all(-1)
        if self.wrong:
            xy[(frame + 2) % FRAMES, 1::3] += 7.0  # one frame disagrees: the point stays, that observation does not
            xy[(frame + 1) % FRAMES, 2::9] += 9.0  # two do: too few agree
            xy[(frame + 3) % FRAMES, 2::9] -= 9.0
        everywhere = torch.cat([xy, stored[None]])
        visible = torch.cat([inside, torch.ones(1, count, dtype=torch.bool)]).float()
        return Tracks(
            xy=everywhere[None].float(),
            visibility=visible[None],
            covariance=torch.eye(2).expand(1, FRAMES + 1, count, 2, 2),
            query_frame=queries.frame,
            valid=queries.valid,
        )


def image_set() -> ImageSet:
    frames = FRAMES + 1
    affine = torch.tensor([[SCALE, 0, 0], [0, SCALE, 0]]).expand(1, frames, 2, 3)
    mask = torch.ones(1, frames, HEIGHT, WIDTH, dtype=torch.bool)
    mask[..., :32] = False
    return ImageSet(
        pixels=torch.zeros(1, frames, 3, HEIGHT, WIDTH),
        mask=mask,
        frame_valid=torch.ones(1, frames, dtype=torch.bool),
        stored_from_network=affine,
        stored_size=(torch.tensor([WIDTH, HEIGHT]) * int(SCALE)).expand(1, frames, 2),
        names=(tuple(f"{s}.png" for s in range(frames)),),
        originals=None,
        priors=CameraPriors(
            camera_index=torch.zeros(1, frames, dtype=torch.long),
            models=("SIMPLE_RADIAL",),
            params=torch.zeros(1, 1, 4, dtype=torch.float64),
            known=torch.zeros(1, 1, 4, dtype=torch.bool),
            focal_spread=torch.zeros(1, 1),
        ),
    )


def verified_model(points: int = 40) -> Reconstruction:
    """Some points of the surface seen by all frames, with exact observations."""
    cameras = true_cameras()
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(points, 2, generator=generator, dtype=torch.float64) * torch.tensor([WIDTH, HEIGHT]) * SCALE
    xyz = on_surface(cameras, 2, xy)
    projected = cameras.project(xyz[None])[0][0]
    inside = ((projected > 0) & (projected < torch.tensor([WIDTH, HEIGHT]) * SCALE)).all(-1)
    frame, point = inside.nonzero(as_tuple=True)
    return Reconstruction(
        cameras=cameras,
        names=tuple(f"{s}.png" for s in range(FRAMES)),
        sizes=(torch.tensor([WIDTH, HEIGHT]) * int(SCALE)).expand(FRAMES, 2),
        xyz_world=xyz,
        color=torch.zeros(points, 3),
        error_px=torch.zeros(points, dtype=torch.float64),
        frame=frame,
        point=point,
        xy=projected[frame, point],
        report={"points": points, "origin": "test"},
    )


def added(model: Reconstruction, before: Reconstruction) -> torch.Tensor:
    return model.xyz_world[len(before.xyz_world) :]


def test_extra_points_lie_on_the_surface_and_their_tracks_are_true() -> None:
    before = verified_model()
    model = add_points(before, image_set(), SurfaceTracker(), DensifyConfig(points=400))
    extra = added(model, before)
    assert 250 < len(extra) <= 400
    assert float((extra[:, 2] - surface(extra[:, 0], extra[:, 1])).abs().max()) < 1e-3
    new = model.point >= len(before.xyz_world)
    error = model.cameras.project(model.xyz_world[None])[0][0][model.frame, model.point] - model.xy
    assert float(error[new].norm(dim=-1).max()) < 0.01  # float32 tracks; the wrong observations are 7 px off
    length = torch.bincount(model.point[new] - len(before.xyz_world))
    assert int(length.min()) >= 3 and len(length) == len(extra)
    projected = model.cameras.project(extra[None])[0][0]
    claimed = ((projected > 1) & (projected < torch.tensor([WIDTH, HEIGHT]) * SCALE - 1)).all(-1).sum(0)
    assert float((length / claimed).min()) >= 0.75  # of the frames that claim to see a point, so many agree
    assert torch.allclose(model.error_px[len(before.xyz_world) :], torch.zeros(1).double(), atol=0.01)


def test_what_was_there_stays() -> None:
    before = verified_model()
    model = add_points(before, image_set(), SurfaceTracker(), DensifyConfig(points=100))
    count, seen = len(before.xyz_world), len(before.frame)
    assert model.cameras is before.cameras
    assert torch.equal(model.xyz_world[:count], before.xyz_world) and torch.equal(model.xy[:seen], before.xy)
    assert torch.equal(model.point[:seen], before.point) and torch.equal(model.frame[:seen], before.frame)
    found = model.report["extra_points"]["found"]
    assert model.report["points"] == count + found == len(model.color) and model.report["origin"] == "test"
    assert model.report["extra_points"]["wanted"] == 100 and found <= 100
    assert model.report["observations"] == len(model.frame)


def test_points_are_spread_and_none_is_found_twice() -> None:
    before = verified_model(10)
    config = DensifyConfig(points=5000, spacings_px=(16,), queries_per_point=10.0)
    model = add_points(before, image_set(), SurfaceTracker(wrong=False), config)
    extra = added(model, before)
    cells = (WIDTH - 32) // 16 * (HEIGHT // 16)
    assert 0.6 * cells < len(extra) < 2.2 * cells  # a cell of the surface is not found from every frame anew
    distance = torch.cdist(extra, extra).fill_diagonal_(10)
    assert float((distance.min(0).values < 0.02).double().mean()) < 0.02
    assert float(model.xy[model.point >= 10][:, 0].min()) > 0


def test_no_points_are_wanted_or_possible() -> None:
    before, tracker = verified_model(), SurfaceTracker()
    assert add_points(before, image_set(), tracker, DensifyConfig()) is before and tracker.queries == 0
    masked = dataclasses.replace(image_set(), mask=torch.zeros(1, FRAMES + 1, HEIGHT, WIDTH, dtype=torch.bool))
    model = add_points(before, masked, tracker, DensifyConfig(points=50))
    assert len(model.xyz_world) == len(before.xyz_world) and model.report["extra_points"]["found"] == 0


@pytest.mark.parametrize("spacing", [8, 24])
def test_free_cells(spacing: int) -> None:
    score = torch.rand(50, 70, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(50, 70, dtype=torch.bool)
    mask[:spacing, :spacing] = False
    covered = torch.tensor([[spacing + 0.5, spacing + 0.5], [69.0, 49.0], [-3.0, 200.0]])
    xy = free_cells(score, mask, covered, spacing)
    cell = (xy / spacing).floor().long()
    rows, columns = 50 // spacing, 70 // spacing
    assert (
        len({tuple(c) for c in cell.tolist()})
        == len(xy)
        == rows * columns - 2 - (69 // spacing < columns and 49 // spacing < rows)
    )
    assert (0, 0) not in {tuple(c) for c in cell.tolist()} and (1, 1) not in {tuple(c) for c in cell.tolist()}
    for (column, row), (x, y) in zip(cell.tolist(), xy.tolist(), strict=True):
        patch = score[row * spacing : (row + 1) * spacing, column * spacing : (column + 1) * spacing]
        assert score[int(y), int(x)] == patch.max()
