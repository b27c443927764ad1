"""Video files become folders of pictures: a few frames a second, of each moment the sharpest one.

Everything behind this reads picture files, and so do trainers and COLMAP; that is why frames are written as JPEG files
and not handed on in memory.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vggsfm_cli import folders
from vggsfm_cli.errors import InputError, MissingDependency, UsageError
from vggsfm_cli.io import hdr
from vggsfm_cli.io.kinds import VIDEO_SUFFIXES
from vggsfm_cli.io.pictures import write_picture
from vggsfm_cli.scene import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.filter import Graph
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

SHARPNESS_SIDE_PX = 640
"""Sharpness is measured on pictures of at most this side, so that noise and compression count less than blur."""


MAX_ASPECT = 4.0
"""Pixels that are wider or higher than this are a mistake in the file."""

MIN_HD_SIDE_PX = 720
"""A film that names no matrix for its colours has BT.709's from this height on, below it BT.601's."""

UNSPECIFIED, BT709 = 2, 1
"""Of ITU-T H.273, where a film names no matrix or primaries, and the matrix of high definition."""


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Which frames of a video are taken."""

    fps: float = 4.0  # frames a second of film
    max_frames: int | None = None  # at most so many, spread over the whole film


@dataclass(frozen=True, kw_only=True)
class ExtractedFrames:
    """What was taken from a video.

    Attributes:
        files: pictures in the order of the film; ``000123.jpg`` is frame 123 of the video, counted from 0.
        seconds: time of each in the film.
        fps: frames taken a second, after ``max_frames``.
        decoded: frames that could be decoded.
        damaged: packets that could not.
        changes: what was done to the pictures, in words: "interlaced: fields taken apart", ...
    """

    files: tuple[Path, ...]
    seconds: tuple[float, ...]
    fps: float
    decoded: int
    damaged: int
    changes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "frames": len(self.files),
            "fps": round(self.fps, 4),
            "decoded": self.decoded,
            "damaged_packets": self.damaged,
            "changes": list(self.changes),
        }


def is_video(path: Path | str) -> bool:
    """Whether a path names a file, there or not, of a kind that is read as a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and not Path(path).is_dir()


def extract_frames(
    video: Path | str,
    out: Path | str,
    config: VideoConfig | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
) -> ExtractedFrames:
    """Write frames of a video as upright JPEG files into a folder, which appears whole or not at all.

    The film is cut into slots of ``1 / fps`` seconds, and of each slot the sharpest frame is taken (largest variance of
    the Laplacian). Pictures are what a screen would show: turned as phones note it beside the film, with square pixels,
    without the comb of interlaced fields, and in sRGB if the film has a high dynamic range (HLG or PQ).

    Args:
        video: the file.
        out: folder for the pictures; missing or empty, or a folder of such pictures with ``overwrite``.
        config: which frames.
        overwrite: replace pictures that are there.
        progress: is told of the frames.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: no such file, no video in it, or fewer than two frames can be decoded.
        UsageError: ``out`` holds something else, or the rate or number of frames makes no sense.
    """
    config, video, out = config or VideoConfig(), Path(video), Path(out).resolve()
    _check(config, video)

    def check() -> None:
        folders.check_writable(out, ours=_is_frame, holds="frames of a video", inside="images", overwrite=overwrite)

    with folders.whole_folder(out, check) as unfinished:
        with _opened(video) as container:
            first, seconds = _extent(container, video)
        fps, slots = _slots(config, seconds)
        written: list[tuple[str, float]] = []
        with _opened(video) as container:
            film = _Film(container)
            for slot, (number, time, frame) in enumerate(_sharpest(film, first, fps, slots)):
                name = f"{number:06d}.jpg"
                write_picture(unfinished / name, film.picture(frame))
                written.append((name, time))
                progress(Progress(stage="video", done=slot + 1, total=slots, detail=name))
        if len(written) < 2:  # noqa: PLR2004
            raise InputError(
                f"{str(video)!r}: only {len(written)} of about {slots} frames could be decoded.",
                "Is the file whole? A few seconds of film with a moving camera are needed.",
            )
    if film.damaged:
        logger.warning("%s: %d packets could not be decoded.", video.name, film.damaged)
    for change in film.changes:
        logger.info("%s: %s", video.name, change)
    progress(Progress(stage="video", done=slots, total=slots))
    return ExtractedFrames(
        files=tuple(out / name for name, _ in written),
        seconds=tuple(time for _, time in written),
        fps=fps,
        decoded=film.decoded,
        damaged=film.damaged,
        changes=tuple(film.changes),
    )


def _check(config: VideoConfig, video: Path) -> None:
    if not config.fps > 0 or not math.isfinite(config.fps):
        raise UsageError(f"{config.fps} is not a valid number of frames per second.", "Give --fps a number above 0.")
    if config.max_frames is not None and config.max_frames < 2:  # noqa: PLR2004
        raise UsageError(f"{config.max_frames} frames are too few.", "Give --max-frames a number of at least 2.")
    if not video.is_file():
        raise InputError(f"No video file {str(video)!r}.", "Check the path.")


def _is_frame(path: Path) -> bool:
    return path.suffix == ".jpg" and path.stem.isdecimal()


@contextmanager
def _opened(video: Path) -> "Iterator[InputContainer]":
    """The opened file; whatever the decoders dislike about it is an ``InputError``."""
    try:
        import av
    except ImportError as error:
        raise MissingDependency(
            f"{video.name!r} is a video, and PyAV, which reads videos, is not installed.",
            "pip install 'vggsfm-cli[video]'",
        ) from error
    try:
        with av.open(str(video), mode="r") as container:
            yield container
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{str(video)!r} cannot be read as a video: {reason}.", "Is the file whole?") from error


def _extent(container: "InputContainer", video: Path) -> tuple[float, float]:
    """Time of the first frame, and seconds to the end of the last one, from the packets, without decoding any."""
    if not container.streams.video:
        raise InputError(f"{str(video)!r} holds no video.", "It may be an audio file.")
    stream = container.streams.video[0]
    base = float(stream.time_base or 0)
    times = sorted(packet.pts * base for packet in container.demux(stream) if packet.pts is not None)
    if not times:
        raise InputError(f"{str(video)!r} holds no frames.", "Is the file whole?")
    usual = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return times[0], times[-1] - times[0] + usual


def _slots(config: VideoConfig, seconds: float) -> tuple[float, int]:
    """Frames a second and their number."""
    slots = max(math.ceil(config.fps * seconds - 1e-6), 1)
    if config.max_frames is None or slots <= config.max_frames:
        return config.fps, slots
    return config.max_frames / seconds, config.max_frames


class _Film:
    """Decoded frames one after the other, and counts of what could be decoded and what could not."""

    def __init__(self, container: "InputContainer") -> None:
        self.container = container
        self.decoded = self.damaged = 0
        self.changes: dict[str, None] = {}  # a set that keeps its order
        aspect = container.streams.video[0].sample_aspect_ratio or Fraction(1)
        self._aspect = float(aspect) if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else 1.0

    def frames(self) -> "Iterator[VideoFrame]":
        """All frames, each of one moment: interlaced ones keep their first field, the lines between are made anew."""
        graph: Graph | None = None
        size = (0, 0)
        for frame in self._decoded():
            if graph is not None and (frame.width, frame.height) != size:
                yield from _rest(graph)
                graph = None
            if graph is None and frame.interlaced_frame:
                graph, size = _deinterlacer(frame), (frame.width, frame.height)
                self.changes["interlaced: its fields were taken apart"] = None
            if graph is None:
                yield frame
            else:
                graph.vpush(frame)
                yield from _ready(graph)
        if graph is not None:
            yield from _rest(graph)

    def picture(self, frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
        """A frame as a screen shows it: in sRGB, with square pixels, turned as the file says."""
        pixels = self._square(self._srgb(frame))
        # PyAV gives the turn counter-clockwise, as numpy's does
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))

    def _srgb(self, frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
        matrix = BT709 if frame.colorspace == UNSPECIFIED and frame.height >= MIN_HD_SIDE_PX else None
        if frame.color_trc not in list(hdr.Transfer):
            return np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=matrix))
        transfer = hdr.Transfer(frame.color_trc)
        self.changes[f"high dynamic range ({transfer.name}): brought to sRGB"] = None
        return hdr.to_srgb(np.asarray(frame.to_ndarray(format="rgb48le")), transfer, int(frame.color_primaries))

    def _square(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The picture with square pixels; the shorter side of a pixel is stretched, so that nothing is lost."""
        height, width = pixels.shape[:2]
        size = round(width * max(1.0, self._aspect)), round(height * max(1.0, 1 / self._aspect))
        if size == (width, height):
            return pixels
        shape = f"{self._aspect:.4g} : 1"
        self.changes[f"pixels of {shape}: stretched from {width} x {height} to {size[0]} x {size[1]}"] = None
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)

    def _decoded(self) -> "Iterator[VideoFrame]":
        """All frames as they are stored; damaged packets are passed over."""
        import av

        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = self.container.demux(stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged += 1
                if self.damaged > MOST_DAMAGED:
                    raise
                continue
            for frame in decoded:
                self.decoded += 1
                yield frame


MOST_DAMAGED = 10_000
"""Packets that may be damaged before a file is given up."""


def _sharpest(film: _Film, first: float, fps: float, slots: int) -> "Iterator[tuple[int, float, VideoFrame]]":
    """Number, time and frame of the sharpest one of each slot that has any."""
    best: tuple[float, int, float, VideoFrame] | None = None
    current = 0
    for number, frame in enumerate(film.frames()):
        time = first if frame.time is None else float(frame.time)
        slot = min(max(math.floor((time - first) * fps + 1e-6), current), slots - 1)
        if slot != current and best is not None:
            yield best[1:]
            best = None
        current = slot
        sharp = sharpness(frame.to_ndarray(format="gray"))
        if best is None or sharp > best[0]:
            best = (sharp, number, time - first, frame)
    if best is not None:
        yield best[1:]


def sharpness(grey: UInt8[np.ndarray, "H W"]) -> float:
    """Variance of the Laplacian of a picture brought to at most ``SHARPNESS_SIDE_PX``; larger is sharper."""
    height, width = grey.shape
    scale = SHARPNESS_SIDE_PX / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return float(np.var(cv2.Laplacian(grey, cv2.CV_32F)))


def _deinterlacer(frame: "VideoFrame") -> "Graph":
    """A filter that is given frames of the size of this one; those that are not interlaced pass it unchanged."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    fields = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    graph.link_nodes(source, fields, graph.add("buffersink")).configure()
    return graph


def _ready(graph: "Graph") -> "Iterator[VideoFrame]":
    """The frames that a filter has finished."""
    import av

    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _rest(graph: "Graph") -> "Iterator[VideoFrame]":
    """The frames that a filter still holds."""
    graph.vpush(None)
    yield from _ready(graph)
