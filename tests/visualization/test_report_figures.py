"""The report's figures against slow and obvious ways to count."""

import dataclasses
import itertools
import math

import numpy as np
import torch

from example_model import example_model
from vggsfm_cli.scene import Reconstruction
from vggsfm_cli.visualization.report.figures import histogram, length_histogram, measure


def shifted(model: Reconstruction, pixels: float) -> Reconstruction:
    """Every observation moved to the right."""
    return dataclasses.replace(model, xy=model.xy + torch.tensor([pixels, 0.0], dtype=torch.float64))


def test_residuals_are_those_of_the_cameras() -> None:
    model = shifted(example_model(points=60), 0.75)
    figures = measure(model)
    np.testing.assert_allclose(figures.error_px, 0.75, atol=1e-9)
    np.testing.assert_allclose(figures.reprojected[:, 0], model.xy[:, 0].numpy() - 0.75, atol=1e-9)


def test_counts_and_angles_are_right() -> None:
    model = example_model(points=40)
    figures = measure(model)
    centers = model.cameras.centers[0].numpy()
    seen = [set(model.frame[model.point == n].tolist()) for n in range(40)]
    assert figures.length.tolist() == [len(frames) for frames in seen]
    for n, frames in enumerate(seen):
        rays = [(centers[s] - model.xyz_world[n].numpy()) for s in frames]
        angles = [
            math.degrees(math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))
            for a, b in itertools.combinations(rays, 2)
        ]
        assert abs(figures.angle_deg[n] - max(angles)) < 1e-6
    for a, b in itertools.product(range(6), repeat=2):
        assert figures.covisibility[a, b] == sum(a in frames and b in frames for frames in seen)


def test_an_image_that_sees_a_point_twice_counts_once() -> None:
    model = example_model(points=30)
    twice = dataclasses.replace(
        model,
        frame=torch.cat([model.frame, model.frame[:1]]),
        point=torch.cat([model.point, model.point[:1]]),
        xy=torch.cat([model.xy, model.xy[:1]]),
    )
    np.testing.assert_array_equal(measure(twice).covisibility, measure(model).covisibility)
    np.testing.assert_array_equal(measure(twice).length, measure(model).length)
    assert len(measure(twice).error_px) == len(model.frame) + 1


def test_many_images_are_taken_together() -> None:
    model = example_model(points=50)
    whole, pooled = measure(model), measure(model, max_cells=2)
    assert pooled.frames_per_cell == 3 and pooled.covisibility.shape == (2, 2)
    assert pooled.covisibility[0, 1] == whole.covisibility[:3, 3:].sum()


def test_unknown_camera_models_and_points_behind_have_no_reprojection() -> None:
    model = example_model(points=30)
    foreign = dataclasses.replace(
        model, cameras=dataclasses.replace(model.cameras, models=("SIMPLE_RADIAL", "THIN_PRISM_FISHEYE"))
    )
    known = np.isfinite(measure(foreign).error_px)
    np.testing.assert_array_equal(known, model.cameras.camera_index[0][model.frame].numpy() == 0)
    behind = dataclasses.replace(model, xyz_world=model.xyz_world + torch.tensor([0.0, -100.0, 0.0]))
    assert np.isnan(measure(behind).error_px).any()


def test_histograms_hold_every_value_once() -> None:
    values = np.concatenate([np.linspace(0, 1, 997), [50.0, 60.0, np.nan]])
    found = histogram(values, bins=10)
    assert sum(found["counts"]) == found["count"] == 999 and found["max"] == 60
    assert found["top"] < 2 and found["counts"][0] > 50
    assert histogram(np.array([np.nan]))["counts"] == []
    assert histogram(np.zeros(5))["counts"][0] == 5
    lengths = length_histogram(np.array([2, 2, 3, 70]), bins=10)
    assert lengths["counts"] == [0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1] and lengths["max"] == 70


def test_a_model_without_points() -> None:
    model = example_model(points=10)
    empty = dataclasses.replace(
        model,
        xyz_world=model.xyz_world[:0], color=model.color[:0], error_px=model.error_px[:0],
        frame=model.frame[:0], point=model.point[:0], xy=model.xy[:0],
    )  # fmt: skip
    figures = measure(empty)
    assert figures.covisibility.sum() == 0 and len(figures.error_px) == 0
