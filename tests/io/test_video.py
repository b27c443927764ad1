"""Frames of video files: which are taken, which way up they are, and what is said of files that hold none."""

import builtins
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from films import turned
from vggsfm_cli.errors import InputError, MissingDependency, UsageError
from vggsfm_cli.io.video import VideoConfig, extract_frames, is_video, sharpness

av = pytest.importorskip("av")

RATE, FRAMES = 10, 20
SIZE = (96, 64)


def picture(number: int, blurred: bool = False) -> np.ndarray:
    """Fine stripes; a bright corner at the top left; the number in the level of the rest."""
    width, height = SIZE
    columns = np.indices((height, width))[1]
    pixels = np.full((height, width, 3), 20 + 5 * number, dtype=np.uint8)
    if not blurred:
        pixels[columns // 2 % 2 == 0] += 60
    pixels[: height // 3, : width // 3] = 250
    return pixels


def write_video(path: Path, sharp: set[int] | None = None, frames: int = FRAMES) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(frames):
            pixels = picture(number, blurred=sharp is not None and number not in sharp)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "JPEG" and not image.getexif()
        return np.asarray(image)


def test_one_frame_of_each_slot(tmp_path: Path) -> None:
    found = extract_frames(write_video(tmp_path / "film.mp4"), tmp_path / "images", VideoConfig(fps=2.0))
    assert len(found.files) == 4 and found.decoded == FRAMES and found.damaged == 0
    for k, (file, seconds) in enumerate(zip(found.files, found.seconds, strict=True)):
        number = int(file.stem)
        assert 5 * k <= number < 5 * (k + 1)
        assert seconds == pytest.approx(number / RATE, abs=1e-3)
        assert abs(int(read(file)[-10, -10].min()) - (20 + 5 * number)) < 25
    assert sorted((tmp_path / "images").iterdir()) == list(found.files)


def test_the_sharpest_frame_is_taken(tmp_path: Path) -> None:
    sharp = {1, 8, 12, 16}
    film = write_video(tmp_path / "film.mp4", sharp)
    found = extract_frames(film, tmp_path / "images", VideoConfig(fps=2.0))
    assert {int(file.stem) for file in found.files} == sharp


def test_sharpness_falls_with_blur() -> None:
    assert sharpness(picture(0)[..., 0]) > 2 * sharpness(picture(0, blurred=True)[..., 0])


def test_most_frames_are_spread_over_the_film(tmp_path: Path) -> None:
    found = extract_frames(write_video(tmp_path / "film.mp4"), tmp_path / "images", VideoConfig(fps=10.0, max_frames=5))
    assert len(found.files) == 5 and found.fps == pytest.approx(2.5)
    assert int(found.files[-1].stem) >= 16


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), "top right"), ((-1, 0, 0, -1), "bottom right"), ((0, -1, 1, 0), "bottom left")],
    ids=["90 clockwise", "180", "90 counter-clockwise"],
)
def test_pictures_are_upright(tmp_path: Path, matrix: tuple[int, int, int, int], corner: str) -> None:
    film = turned(write_video(tmp_path / "film.mp4"), matrix)
    pixels = read(extract_frames(film, tmp_path / "images", VideoConfig(fps=2.0)).files[0])
    assert pixels.shape[:2] == (SIZE if "180" not in corner and matrix[0] == 0 else SIZE[::-1])
    corners = {"top left": pixels[4, 4], "top right": pixels[4, -5], "bottom right": pixels[-5, -5]}
    corners["bottom left"] = pixels[-5, 4]
    assert max(corners, key=lambda name: int(corners[name].min())) == corner


def test_a_folder_of_frames_is_replaced_only_when_asked(tmp_path: Path) -> None:
    film, out = write_video(tmp_path / "film.mp4"), tmp_path / "images"
    extract_frames(film, out, VideoConfig(fps=4.0))
    with pytest.raises(UsageError, match="already holds frames"):
        extract_frames(film, out)
    assert len(extract_frames(film, out, VideoConfig(fps=2.0), overwrite=True).files) == len(list(out.iterdir())) == 4
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        extract_frames(film, out, overwrite=True)


def test_a_film_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi")
    data = film.read_bytes()
    film.write_bytes(data[: int(0.6 * len(data))])
    found = extract_frames(film, tmp_path / "images", VideoConfig(fps=5.0))
    assert 2 <= found.decoded < FRAMES and len(found.files) >= 2


def broken(folder: Path, kind: str) -> Path:
    path = folder / "film.mp4"
    if kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "empty":
        path.touch()
    elif kind == "half a header":
        path.write_bytes(write_video(folder / "whole.mp4").read_bytes()[:600])
    elif kind == "one frame":
        write_video(path, frames=1)
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16_000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            for packet in (*stream.encode(frame), *stream.encode()):
                container.mux(packet)
    return path


@pytest.mark.parametrize("kind", ["missing", "noise", "empty", "half a header", "one frame", "sound"])
def test_broken_files_are_bad_input(tmp_path: Path, kind: str) -> None:
    film = broken(tmp_path, kind)
    with pytest.raises(InputError) as failure:
        extract_frames(film, tmp_path / "images")
    assert failure.value.exit_code == 3 and "film.mp4" in failure.value.message and failure.value.hint
    assert {path.name for path in tmp_path.iterdir()} <= {"film.mp4", "whole.mp4"}, "nothing half is left"


@pytest.mark.parametrize("change", [{"fps": 0.0}, {"fps": -1.0}, {"fps": float("nan")}, {"max_frames": 1}])
def test_impossible_options(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        extract_frames(tmp_path / "film.mp4", tmp_path / "images", dataclasses.replace(VideoConfig(), **change))


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4")
    imported = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "av":
            raise ImportError(name)
        return imported(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency) as failure:
        extract_frames(film, tmp_path / "images")
    assert "vggsfm-cli[video]" in failure.value.hint


def test_kinds_of_files() -> None:
    assert is_video("film.MP4") and is_video(Path("a/film.mov")) and not is_video("photo.jpg") and not is_video("mp4")
