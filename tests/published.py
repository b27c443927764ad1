"""Small data sets in the layouts of CO3D, IMC and ETH3D, made from a world whose truth is known."""

import gzip
import json

import torch
from PIL import Image
from worlds import observe

from vggsfm_cli.geometry.pose import inverse
from vggsfm_cli.scene import Tracks


def write_pictures(files, world):
    """Grey pictures of the world's sizes; tracks are looked up by the number in the file's name."""
    for file, size in zip(files, world.sizes[0].tolist(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", tuple(size), 128).convert("RGB").save(file)


def truth(world):
    """``cam_from_world``, focal length, centre, and width and height of each frame."""
    for s, pose in enumerate(world.cameras.cam_from_world[0]):
        params = world.cameras.frame_params[0, s].tolist()
        yield pose, params[0], params[1:3], world.sizes[0, s].tolist()


def write_co3d(root, world, sequence="110_1_2", category="apple", isotropic=True):
    """One category with one sequence; PyTorch3D's row vectors, x left, y up, normalised intrinsics."""
    names = [f"{category}/{sequence}/images/frame{s:06d}.jpg" for s in range(world.cameras.cam_from_world.shape[1])]
    write_pictures([root / name for name in names], world)
    flip = torch.tensor([-1.0, -1.0, 1.0]).double()
    frames = []
    for s, (pose, focal, center, (width, height)) in enumerate(truth(world)):
        units = [min(width, height) / 2] * 2 if isotropic else [width / 2, height / 2]
        viewpoint = {
            "R": (flip[:, None] * pose[:, :3]).mT.tolist(),
            "T": (flip * pose[:, 3]).tolist(),
            "focal_length": [focal / unit for unit in units],
            "principal_point": [(side / 2 - c) / u for side, c, u in zip((width, height), center, units, strict=True)],
        }
        if isotropic:
            viewpoint["intrinsics_format"] = "ndc_isotropic"
        image = {"path": names[s], "size": [height, width]}
        frames.append({"sequence_name": sequence, "frame_number": s, "image": image, "viewpoint": viewpoint})
    folder = root / category
    (folder / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(frames).encode()))
    (folder / "set_lists").mkdir()
    listed = [[sequence, s, name] for s, name in enumerate(names)]
    lists = {"train": [["other", 0, "other.jpg"]], "val": [], "test": listed}
    (folder / "set_lists" / "set_lists_fewview_dev.json").write_text(json.dumps(lists))
    return [root / name for name in names]


def write_colmap_text(folder, world, names):
    """A COLMAP model as text: one PINHOLE camera an image, and no points."""
    folder.mkdir(parents=True)
    cameras, images = ["# cameras"], ["# images"]
    for s, (pose, focal, center, (width, height)) in enumerate(truth(world)):
        cameras.append(f"{s + 1} PINHOLE {width} {height} {focal} {focal} {center[0]} {center[1]}")
        quaternion = " ".join(map(str, quaternion_of(pose[:, :3]).tolist()))
        images += [f"{s + 1} {quaternion} {' '.join(map(str, pose[:, 3].tolist()))} {s + 1} {names[s]}", ""]
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "points3D.txt").write_text("# points\n")


def quaternion_of(rotation):
    """w x y z; of rotations by less than half a turn."""
    w = (1 + rotation.trace()).clamp_min(1e-12).sqrt() / 2
    skew = torch.stack(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    return torch.cat([w[None], skew / (4 * w)])


def write_imc(root, world, scene="reichstag", bags=None, calibration="h5"):
    """One scene with bags; calibration files, or a COLMAP model."""
    folder = root / scene / "set_100"
    names = [f"photo_{s:03d}.jpg" for s in range(world.cameras.cam_from_world.shape[1])]
    write_pictures([folder / "images" / name for name in names], world)
    (folder / "sub_set").mkdir()
    for (size, number), frames in (bags or {(5, 0): range(5)}).items():
        lines = "".join(f"phototourism/{scene}/set_100/images/{names[s]}\n" for s in frames)
        (folder / "sub_set" / f"{size}bag_{number:03d}.txt").write_text(lines)
    if calibration == "model":
        write_colmap_text(root / scene / "sfm", world, names)
    elif calibration == "h5":
        import h5py

        (folder / "calibration").mkdir()
        for s, (pose, focal, center, _) in enumerate(truth(world)):
            with h5py.File(folder / "calibration" / f"calibration_photo_{s:03d}.h5", "w") as file:
                file["K"] = [[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1.0]]
                file["R"], file["T"] = pose[:, :3].numpy(), pose[:, 3].numpy()


SCAN_FROM_WORLD = torch.tensor([[0.0, 0, 1, -1], [1, 0, 0, 2], [0, 1, 0, 0.5]]).double()


def write_eth3d(root, world, scanned, scene="relief"):
    """One scene with one scan of the points ``scanned`` [N, 3], in a frame of its own."""
    folder = root / scene
    names = [f"dslr_images_undistorted/DSC_{s:04d}.JPG" for s in range(world.cameras.cam_from_world.shape[1])]
    write_pictures([folder / "images" / name for name in names], world)
    write_colmap_text(folder / "dslr_calibration_undistorted", world, names)
    scans = folder / "dslr_scan_eval"
    scans.mkdir()
    xyz = scanned @ SCAN_FROM_WORLD[:, :3].mT + SCAN_FROM_WORLD[:, 3]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (scans / "scan1.ply").write_bytes(header.encode() + xyz.float().numpy().tobytes())
    rows = torch.cat([inverse(SCAN_FROM_WORLD), torch.tensor([[0.0, 0, 0, 1]]).double()]).tolist()
    matrix = "\n".join(" ".join(map(str, row)) for row in rows)
    (scans / "scan_alignment.mlp").write_text(
        f'<!DOCTYPE MeshLabDocument>\n<MeshLabProject><MeshGroup><MLMesh label="scan1" filename="scan1.ply">'
        f"<MLMatrix44>\n{matrix}\n</MLMatrix44></MLMesh></MeshGroup></MeshLabProject>\n"
    )


def oracle(world):
    """What replaces ``track_in_rounds``: the world's exact tracks, of the frames whose numbers the names end with."""
    tracks = observe(world)

    def track(tracker, images, config, **_):
        frames = [int("".join(filter(str.isdigit, name.rsplit("/", 1)[-1]))) for name in images.names[0]]
        index = torch.tensor(frames)
        return Tracks(
            xy=tracks.xy[:, index],
            visibility=tracks.visibility[:, index],
            covariance=tracks.covariance[:, index],
            query_frame=torch.zeros_like(tracks.query_frame),
            valid=tracks.valid,
        )

    return track
