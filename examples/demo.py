"""Reconstruct the example scene with the bundled model, and compare the cameras with the truth.

    python examples/demo.py [--out demo_output]

Exits with 1 if the result is worse than it should be: every image, 0.3 degrees and 1 % of the scene.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import torch

from vggsfm_cli import read_colmap
from vggsfm_cli.geometry import pose, rotation
from vggsfm_cli.geometry.alignment import apply_to_points, umeyama

HERE = Path(__file__).resolve().parent
SCENE = HERE / "reading_corner"
MAX_ROTATION_DEG = 0.3
MAX_POSITION_SHARE = 0.01


def load_truth(path: Path) -> dict[str, torch.Tensor]:
    """``cam_from_world`` ``[3, 4]`` of every image of the scene."""
    images = json.loads(path.read_text())["images"]
    return {
        name: torch.cat([torch.tensor(im["R"]).double(), torch.tensor(im["t"]).double()[:, None]], -1)
        for name, im in images.items()
    }


def compare(found: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    """Largest error of a relative rotation in degrees, and of a camera's place as a share of the scene's extent."""
    pairs = list(itertools.combinations(range(len(true)), 2))
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    found_relative = pose.relative(found[first], found[second])[..., :3]
    true_relative = pose.relative(true[first], true[second])[..., :3]
    rotation_deg = float(rotation.angle_deg(found_relative @ true_relative.mT).max())
    true_centers = pose.center(true)
    centers = pose.center(found)
    aligned = apply_to_points(*umeyama(centers, true_centers, torch.ones(len(centers)).double()), centers)
    extent = torch.cdist(true_centers, true_centers).max()
    return rotation_deg, float((aligned - true_centers).norm(dim=-1).max() / extent)


def main() -> int:
    """Run the command a user would run, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "demo_output")
    out = parser.parse_args().out
    command = [
        sys.executable,
        "-m",
        "vggsfm_cli",
        "reconstruct",
        str(SCENE / "images"),
        "--out",
        str(out),
        "--overwrite",
    ]
    if code := subprocess.run(command, check=False).returncode:
        return code
    truth = load_truth(SCENE / "ground_truth.json")
    model = read_colmap(out / "0")
    rotation_deg, position_share = compare(
        model.cameras.cam_from_world[0].double(), torch.stack([truth[name] for name in model.names])
    )
    complete = len(model.names) == len(truth)
    good = complete and rotation_deg < MAX_ROTATION_DEG and position_share < MAX_POSITION_SHARE
    print(
        f"Against the truth: {len(model.names)} of {len(truth)} cameras, largest error {rotation_deg:.3f} degrees",
        end="",
    )
    print(f" and {100 * position_share:.3f} % of the scene's extent: {'good' if good else 'worse than it should be'}")
    print(f"COLMAP model: {out / '0'}")
    print(f"Picture:      {out / 'overview.png'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
