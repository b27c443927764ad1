"""The peer is given what this tool is given: nothing about the camera."""

import pycolmap
from pose_bench.sift import forget_exif, free_principal_point


def test_a_focal_length_from_exif_is_forgotten(tmp_path):
    path = tmp_path / "database.db"
    with pycolmap.Database.open(path) as database:
        known = pycolmap.Camera(model="SIMPLE_RADIAL", width=1000, height=1500, params=[700.0, 500.0, 750.0, 0.0])
        known.has_prior_focal_length = True
        database.write_camera(known)
        database.write_camera(
            pycolmap.Camera(model="SIMPLE_RADIAL", width=400, height=300, params=[480.0, 200.0, 150.0, 0.0])
        )
    forget_exif(path)
    with pycolmap.Database.open(path) as database:
        cameras = database.read_all_cameras()
    assert [camera.params.tolist() for camera in cameras] == [[1800.0, 500.0, 750.0, 0.0], [480.0, 200.0, 150.0, 0.0]]
    assert not any(camera.has_prior_focal_length for camera in cameras)


def test_the_last_adjustment_moves_the_principal_point(tmp_path):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, 8
    options.num_points3D = 200
    model = pycolmap.synthesize_dataset(options)
    camera = next(iter(model.cameras.values()))
    index = list(camera.principal_point_idxs())
    true = camera.params[index].copy()
    params = camera.params.copy()
    params[index] += 7.0
    camera.params = params
    (tmp_path / "models" / "0").mkdir(parents=True)
    model.write(tmp_path / "models" / "0")
    free_principal_point(tmp_path / "models", tmp_path / "freed", 1)
    found = next(iter(pycolmap.Reconstruction(tmp_path / "freed" / "0").cameras.values())).params[index]
    assert abs(found - true).max() < 0.5
