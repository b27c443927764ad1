import torch

from goldens import golden
from vggsfm_cli.geometry import pose
from vggsfm_cli.recipes.v2 import encoding
from vggsfm_cli.training import v2

LOSSES = golden("training_losses")
CAMERAS = golden("camera_normalization")


def test_losses_of_tracks_as_published() -> None:
    predicted, true, visible = LOSSES["preds"], LOSSES["gt"], LOSSES["vis"]
    valid = LOSSES["valids"] > 0
    found = v2.sequence_loss(predicted, true, valid, weight=visible + 0.1)
    torch.testing.assert_close(found, LOSSES["seq_loss_visaware"])
    found = v2.sequence_loss(predicted, true, valid, weight=visible + 0.1, huber_px=10.0)
    torch.testing.assert_close(found, LOSSES["seq_loss_huber10"])
    found = v2.sequence_loss(predicted[:, :, 1:], true[:, 1:], visible[:, 1:] > 0)
    torch.testing.assert_close(found, LOSSES["seq_loss_plain_ignore_first"])


def test_a_broken_prediction_counts_nothing() -> None:
    predicted = LOSSES["preds"].clone()
    predicted[0, 0, 0, 0] = torch.nan
    found = v2.sequence_loss(predicted, LOSSES["gt"], LOSSES["valids"] > 0)
    assert torch.isfinite(found)


def test_loss_of_visibility_as_published() -> None:
    valid = LOSSES["valids"] > 0
    found = v2.balanced_visibility_loss(LOSSES["vis_pred"], LOSSES["vis"] > 0, valid)
    torch.testing.assert_close(found, LOSSES["vis_loss"])


def test_loss_of_cameras_as_published() -> None:
    torch.testing.assert_close(v2.encoding_loss(LOSSES["encs"], LOSSES["enc_gt"]), LOSSES["pose_loss"])


def test_cameras_are_normalised_as_published() -> None:
    poses = encoding.from_pytorch3d(CAMERAS["R_p3d"], CAMERAS["T_p3d"])
    found, points = v2.normalize_cameras(poses, CAMERAS["points"])
    expected = encoding.from_pytorch3d(CAMERAS["norm_R_p3d"], CAMERAS["norm_T_p3d"])
    flip = torch.tensor([-1.0, -1.0, 1.0])  # their first camera is at the origin in their axes, ours in OpenCV's
    torch.testing.assert_close(found[..., :3] * flip, expected[..., :3], atol=2e-6, rtol=0)
    torch.testing.assert_close(found[..., 3], expected[..., 3], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(points * flip, CAMERAS["norm_points"], atol=1e-5, rtol=1e-5)


def test_the_point_nearest_to_all_axes() -> None:
    poses = encoding.from_pytorch3d(CAMERAS["R_p3d"], CAMERAS["T_p3d"]).double()
    found = v2.nearest_to_axes(poses)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 3.0]).double(), atol=0.3, rtol=0)
    in_camera = pose.transform(poses, found)
    assert (in_camera[:, 2] > 0).all()


def test_calibration_is_cropped_as_published() -> None:
    found, center = v2.crop_calibration(
        CAMERAS["crop_focal_in"], CAMERAS["crop_pp_in"], CAMERAS["crop_image_wh"], CAMERAS["crop_bbox_xywh"]
    )
    torch.testing.assert_close(found, CAMERAS["crop_focal"])
    torch.testing.assert_close(center, CAMERAS["crop_pp"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, CAMERAS["scaled512_focal"])
    torch.testing.assert_close(center, CAMERAS["scaled512_pp"], atol=1e-5, rtol=1e-5)
