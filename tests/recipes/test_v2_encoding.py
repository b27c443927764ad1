import torch

from goldens import golden, golden_json
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.recipes.v2 import encoding


def test_decoded_as_published() -> None:
    fixture = golden("pose_encoding")
    poses, focal = encoding.decode(fixture["enc8"][0])
    turned, translation = encoding.to_pytorch3d(poses)
    torch.testing.assert_close(turned, fixture["enc8_p3d_R"], atol=1e-6, rtol=0)
    torch.testing.assert_close(translation, fixture["enc8_p3d_T"])
    torch.testing.assert_close(focal[:, None], fixture["enc8_focal"])
    moved = encoding.relative_to(poses, 0)
    torch.testing.assert_close(moved[..., :3], fixture["enc8_cv_R"], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[..., 3], fixture["enc8_cv_T"], atol=1e-5, rtol=1e-5)


def test_encoded_as_published() -> None:
    fixture = golden("pose_encoding")
    poses = encoding.from_pytorch3d(fixture["cam_R"], fixture["cam_T"])
    found = encoding.encode(poses, fixture["cam_focal"][:, 0])
    torch.testing.assert_close(found, fixture["cam_enc8"], atol=1e-6, rtol=1e-5)


def test_there_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = torch.cat([rotation.exp(torch.randn(7, 3, generator=generator)), torch.randn(7, 3, 1)], -1)
    focal = torch.linspace(0.2, 20, 7)
    back, same = encoding.decode(encoding.encode(poses, focal))
    torch.testing.assert_close(back, poses, atol=1e-5, rtol=0)
    torch.testing.assert_close(same, focal)


def test_average_as_published() -> None:
    fixture = golden("average_camera")
    poses, focals = [], []
    for run, query in enumerate(fixture["query_indices"].tolist()):
        order = list(range(4))
        order[0], order[query] = order[query], order[0]
        single = torch.cat([fixture["single_R"][run], fixture["single_T"][run][..., None]], -1)
        poses.append(encoding.relative_to(single[order], 0))
        focals.append(fixture["single_focal"][run][order])
    found, focal = encoding.average(torch.stack(poses), torch.stack(focals)[..., 0])
    torch.testing.assert_close(found[..., :3], fixture["avg_R"], atol=2e-6, rtol=0)
    torch.testing.assert_close(found[..., 3], fixture["avg_T"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(focal, fixture["avg_focal"][:, 0])


def test_mean_rotation_as_published() -> None:
    fixture = golden_json("sampling")
    given, expected = (torch.tensor(fixture[f"avg_rot_{end}"], dtype=torch.float64) for end in ("in", "out"))
    torch.testing.assert_close(rotation.mean(given), expected, atol=1e-9, rtol=0)


def test_mean_of_opposite_quaternions_does_not_cancel() -> None:
    # 170 and 190 degrees: the quaternions with positive real part are almost opposite
    turns = rotation.exp(torch.deg2rad(torch.tensor([[170.0, 0, 0], [190.0, 0, 0]], dtype=torch.float64)))
    poses = torch.cat([turns, torch.zeros(2, 3, 1, dtype=torch.float64)], -1)[:, None]
    found, _ = encoding.average(poses, torch.ones(2, 1, dtype=torch.float64))
    half = rotation.exp(torch.tensor([torch.pi, 0, 0], dtype=torch.float64))
    assert rotation.angle_deg(found[0, :, :3] @ half.mT) < 1e-6


def test_origin_moves_to_a_frame() -> None:
    generator = torch.Generator().manual_seed(1)
    poses = torch.cat([rotation.exp(torch.randn(4, 3, generator=generator)), torch.randn(4, 3, 1)], -1)
    moved = encoding.relative_to(poses, 2)
    torch.testing.assert_close(moved[2], pose.identity(), atol=1e-6, rtol=0)
    torch.testing.assert_close(pose.relative(moved[0], moved[1]), pose.relative(poses[0], poses[1]), atol=1e-5, rtol=0)
