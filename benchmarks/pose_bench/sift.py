"""COLMAP's classical pipeline through pycolmap, as a command: what this tool is compared with.

    python sift.py reconstruct IMAGES --out DIR [--camera-mode single|per-image] [--threads 2]
    python sift.py free-principal-point DIR --out OTHER [--threads 2]

SIFT, all pairs matched, incremental mapping, all with pycolmap's settings but for these: images at 1600 px at most, the
camera model SIMPLE_RADIAL, a first focal length of 1.2 long sides whatever EXIF says, and the threads. The second
command adjusts every model of the first once more, with the principal points free.
"""

import argparse
import tempfile
from pathlib import Path

import pycolmap

MAX_FEATURES = 8192
MAX_IMAGE_SIZE = 1600
FOCAL_FACTOR = 1.2
CAMERA_MODEL = "SIMPLE_RADIAL"


def reconstruct(images: Path, out: Path, shared_camera: bool, threads: int) -> None:
    """Write models as ``out/0``, ``out/1``, ...; none if there is none."""
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "database.db"
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.num_threads, extraction.max_image_size = threads, MAX_IMAGE_SIZE
        extraction.sift.max_num_features = MAX_FEATURES
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model, reader.default_focal_length_factor = CAMERA_MODEL, FOCAL_FACTOR
        mode = pycolmap.CameraMode.SINGLE if shared_camera else pycolmap.CameraMode.PER_IMAGE
        pycolmap.extract_features(
            database,
            images,
            camera_mode=mode,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        forget_exif(database)
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads = threads
        pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        mapping = pycolmap.IncrementalPipelineOptions()
        mapping.num_threads = threads
        pycolmap.incremental_mapping(database, images, out, options=mapping)


def forget_exif(database: Path) -> None:
    """Give every camera the focal length that nothing is known about."""
    with pycolmap.Database.open(database) as opened:
        for camera in opened.read_all_cameras():
            focal = FOCAL_FACTOR * max(camera.width, camera.height)
            if camera.has_prior_focal_length or camera.params[0] != focal:
                camera.params = [focal, camera.width / 2, camera.height / 2, 0.0]
                camera.has_prior_focal_length = False
                opened.update_camera(camera)


def free_principal_point(models: Path, out: Path, threads: int) -> None:
    """Write every model of ``models`` after one more adjustment."""
    out.mkdir(parents=True)
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = True
    options.print_summary = False
    options.ceres.solver_options.num_threads = threads
    for folder in sorted(path for path in models.iterdir() if path.is_dir()):
        model = pycolmap.Reconstruction(folder)
        pycolmap.bundle_adjustment(model, options)
        (out / folder.name).mkdir()
        model.write(out / folder.name)


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("reconstruct", "free-principal-point"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--camera-mode", choices=("single", "per-image"), default="single")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pycolmap.set_random_seed(0)
    if options.command == "reconstruct":
        reconstruct(options.source, options.out, options.camera_mode == "single", options.threads)
    else:
        free_principal_point(options.source, options.out, options.threads)


if __name__ == "__main__":
    main()
