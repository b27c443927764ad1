"""A video file, from the file to what trainers read; policy only, with a tracker that knows where points are."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ring_walk import HEIGHT, WIDTH, ring_cameras, ring_model, wall_points
from vggsfm_cli.checkpoints import resolve_model
from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.evaluation.poses import aligned_distances
from vggsfm_cli.job import Networks, reconstruct_scene
from vggsfm_cli.options import SceneOptions

av = pytest.importorskip("av")

FRAMES = 10


def write_film(path: Path, frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), 60 + 10 * number, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_from_a_video_to_a_trainer(tmp_path: Path) -> None:
    film = write_film(tmp_path / "walk.mp4", FRAMES)
    cameras = ring_cameras(0.06 * torch.arange(FRAMES, dtype=torch.float64))
    model = ring_model(cameras, wall_points(3000))
    out, splat = tmp_path / "walk", tmp_path / "splat"
    options = SceneOptions(fps=10.0, overview=False, report=True, query_points=160, long_side=WIDTH)

    def networks() -> Networks:
        return Networks(weights=resolve_model("small"), model=model, device=torch.device("cpu"))

    report = reconstruct_scene(film, out, options, networks, undistort=splat)
    assert {path.name for path in tmp_path.iterdir()} == {"walk.mp4", "walk", "splat"}, "nothing else is left"
    names = [f"{number:06d}.jpg" for number in range(FRAMES)]
    assert sorted(path.name for path in (out / "images").iterdir()) == names
    found = read_colmap(out / "0")
    assert sorted(found.names) == names
    order = [names.index(name) for name in found.names]
    distance = aligned_distances(found.cameras.cam_from_world[0], cameras.cam_from_world[0, order])
    assert float(distance.max()) < 0.02
    assert report["video"] == {"frames": FRAMES, "fps": 10.0, "decoded": FRAMES, "damaged_packets": 0, "changes": []}
    assert report["options"]["images"] == str(film) and {"video", "tracks", "windows"} <= set(report["stages"])
    assert all(image["registered"] for image in report["images"])
    assert json.loads((out / "report.json").read_text())["models"][0]["keyframes"] >= 2
    assert "000003.jpg" in (out / "report.html").read_text()
    assert sorted(path.name for path in (splat / "images").iterdir()) == names
    assert len(read_colmap(splat / "sparse" / "0").names) == FRAMES
    again = reconstruct_scene(
        film, out, SceneOptions(max_frames=5, overview=False, long_side=WIDTH), networks, overwrite=True
    )
    assert again["video"]["frames"] == len(list((out / "images").iterdir())) == math.ceil(4.0)


def test_what_cannot_be_done_with_a_video(tmp_path: Path) -> None:
    def never() -> Networks:
        raise AssertionError("the model is not needed")

    with pytest.raises(InputError, match="cannot be read as a video"):
        (tmp_path / "bad.mp4").write_bytes(b"nothing")
        reconstruct_scene(tmp_path / "bad.mp4", tmp_path / "out", SceneOptions(), never)
    film = write_film(tmp_path / "walk.mp4", 4)
    with pytest.raises(UsageError, match="--extra-points"):
        reconstruct_scene(film, tmp_path / "out", SceneOptions(extra_points=100, fps=10.0), never)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.mp4", "walk.mp4"}
