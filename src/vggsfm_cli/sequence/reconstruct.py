"""A film becomes one model: followed frame by frame, reconstructed window by window, joined and adjusted."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vggsfm_cli.errors import ReconstructionFailed, UsageError
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.pipeline import PRECISIONS
from vggsfm_cli.scene import Progress, ProgressCallback, Reconstruction, silent
from vggsfm_cli.sequence.finish import place_frames_between, to_reconstruction
from vggsfm_cli.sequence.following import Look, Step, become_anchor, follow, look_at, wants_keyframe, with_error
from vggsfm_cli.sequence.joint import adjust_jointly, find_points_anew
from vggsfm_cli.sequence.loops import Place, close_loops, find_loops, note_place
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap
from vggsfm_cli.sequence.windows import map_first_window, map_window
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.tracker import CoarseToFineTracker

logger = logging.getLogger(__name__)


@torch.no_grad()
def reconstruct_sequence(
    images: PhotographSequence,
    model: VGGSfM,
    options: SequenceOptions | None = None,
    progress: ProgressCallback = silent,
) -> list[Reconstruction]:
    """Cameras and points of a film, or of photographs in the order of a walk; cost grows as the number of frames.

    Tracks are followed from each keyframe to the next ones, so large steps are no harder than for a set without order.
    Windows of keyframes are reconstructed from the tracks and points they share with the window before, brought into
    the map by a similarity, and adjusted together every few windows. Then places that are seen again close loops, all
    keyframes are adjusted, and the frames between them are placed. Pixels are held of a few frames at a time.

    Args:
        images: the frames in their order.
        model: whose tracker has dense features, as ``small`` has.
        options: policy.
        progress: told what is done.

    Returns:
        One reconstruction for each part of the film that hangs together, largest first. The report of the first names
        every frame that is in no model, with the reason.

    Raises:
        ReconstructionFailed: no part can be reconstructed.
        UsageError: the model's tracker cannot follow films.
    """
    options = options or SequenceOptions()
    if not isinstance(model.tracker, CoarseToFineTracker):
        raise UsageError(
            f"The tracker of {model.config.name!r} cannot follow a sequence.", "Use --model small, or no --sequential."
        )
    with one_thread_each():
        run = _Run(images, model, options, progress)
        parts = run.follow()
        return run.finish(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """A stretch of the film that hangs together."""

    scene_map: SceneMap
    places: list[Place]
    windows: list[dict[str, Any]]


class _Run:
    """One run: the film, the model and the settings, so that the steps below need no long argument lists."""

    def __init__(
        self, images: PhotographSequence, model: VGGSfM, options: SequenceOptions, progress: ProgressCallback
    ) -> None:
        self.images, self.model, self.options, self.progress = images, model, options, progress
        self.device = next(model.parameters()).device
        self.precision = PRECISIONS[options.precision]

    def see(self, frame: int) -> Look:
        """Read one frame and its features."""
        pixels = self.images.read([frame]).to(self.device)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            return look_at(self.model.tracker, pixels, frame)

    def follow(self) -> list[_Part]:
        """All parts, mapped window by window while they are followed."""
        parts: list[_Part] = []
        start = 0
        while start < len(self.images):
            part = _Part(scene_map=SceneMap(self.images.facts), places=[], windows=[])
            builder = _WindowBuilder(self, part)
            start = self._follow_part(part, builder, start)
            builder.finish()
            parts.append(part)
        return parts

    def _follow_part(self, part: _Part, builder: "_WindowBuilder", start: int) -> int:
        """Follow the film from a frame until it is lost; the frame to go on from."""
        config = self.options.keyframes
        frames = iter(range(start, len(self.images)))
        look = self._first_usable(frames)
        if look is None:
            return len(self.images)
        anchor = builder.keyframe(look, None)
        spare: Step | None = None
        lost: list[int] = []
        for frame in frames:
            self.progress(Progress(stage="frames", done=frame, total=len(self.images), detail=self.images.names[frame]))
            look = self.see(frame)
            step = follow(self.model.tracker, anchor, look, part.scene_map, config)
            if step.share < config.lost_share and spare is not None:
                anchor, spare = builder.keyframe(spare.look, spare), None
                step = follow(self.model.tracker, anchor, look, part.scene_map, config)
            if len(step.sightings) < config.min_tracks:
                lost.append(frame)
                if len(lost) >= config.max_lost:
                    return lost[0]
                continue
            lost = []
            builder.see(step)
            if wants_keyframe(step, config):
                anchor, spare = builder.keyframe(look, step), None
            else:
                spare = step
        return len(self.images)

    def _first_usable(self, frames: Iterator[int]) -> Look | None:
        for frame in frames:
            look = self.see(frame)
            if bool(look.images.frame_valid.all()):
                return look
        return None

    def finish(self, parts: list[_Part]) -> list[Reconstruction]:
        """Close loops, adjust, place the frames between."""
        found = []
        reasons: dict[int, str] = {}
        for part in parts:
            if len(part.scene_map.placed_keyframes) < 2:  # noqa: PLR2004
                continue
            started = time.perf_counter()
            report = self._finish_part(part)
            reasons.update(place_frames_between(part.scene_map, self.options))
            report["finish_s"] = round(time.perf_counter() - started, 3)
            found.append(to_reconstruction(part.scene_map, report, self.options))
        if not found:
            raise ReconstructionFailed(
                f"Sequence: no window of {len(self.images)} frames could be reconstructed.",
                "The camera must move sideways between frames; try fewer frames a second, or without --sequential.",
            )
        found.sort(key=lambda one: -len(one.names))
        placed = {name for one in found for name in one.names}
        missing = {
            name: reasons.get(s, "its tracks end before and after it")
            for s, name in enumerate(self.images.names)
            if name not in placed
        }
        for number, one in enumerate(found):
            one.report["unregistered"] = missing if number == 0 else {}
        return found

    def _finish_part(self, part: _Part) -> dict[str, Any]:
        options, scene_map = self.options, part.scene_map
        adjuster = options.joint_adjuster.build()
        self._tell("adjustment", 0)
        find_points_anew(scene_map, self.model.triangulator, options)
        adjust_jointly(scene_map, scene_map.placed_keyframes, adjuster, options)
        loops = []
        if options.loops.close:
            self._tell("loops", 0)
            loops = find_loops(scene_map, part.places, self.see, self.model.tracker, options)
            loops = close_loops(scene_map, loops)
            self._tell("loops", 1, f"{len(loops)} closed")
        if loops:
            adjust_jointly(scene_map, scene_map.placed_keyframes, adjuster, options, max_error_px=LOOP_ERROR_PX)
        for _ in range(FINAL_ROUNDS):
            find_points_anew(scene_map, self.model.triangulator, options)
            adjust_jointly(scene_map, scene_map.placed_keyframes, adjuster, options, max_error_px=options.max_error_px)
        self._tell("adjustment", 1)
        return {
            "origin": "sequence",
            "keyframes": len(scene_map.placed_keyframes),
            "windows": part.windows,
            "loops": [loop.as_dict() for loop in loops],
        }

    def _tell(self, stage: str, done: int, detail: str = "") -> None:
        self.progress(Progress(stage=stage, done=done, total=1, detail=detail))


LOOP_ERROR_PX = 12.0
"""Network pixels by which an observation may miss its point right after a loop was closed."""

FINAL_ROUNDS = 2
"""Of finding all points anew and adjusting everything."""


class _WindowBuilder:
    """Takes the frames of a part as they come, and maps a window whenever enough keyframes are new."""

    def __init__(self, run: _Run, part: _Part) -> None:
        self.run, self.part = run, part
        self.first = 0  # keyframe with which the next window begins
        self.waiting = run.options.windows.size  # keyframes at which it is mapped
        self.attempts = 0
        self.since = time.perf_counter()
        self.frames_before = 0

    def see(self, step: Step) -> None:
        """Note what a frame sees."""
        error = self.run.options.mapping.model_error_px * step.look.scale
        self.part.scene_map.see(step.look.frame, with_error(step.sightings, error))

    def keyframe(self, look: Look, step: Step | None) -> Any:
        """Make a frame, already seen, a keyframe."""
        scene_map, options = self.part.scene_map, self.run.options
        anchor = become_anchor(
            look, None if step is None else step.sightings, scene_map, options.keyframes, options.mapping.model_error_px
        )
        self.part.places.append(note_place(look, options.retrieval))
        if len(scene_map.keyframes) >= self.waiting:
            self._map()
        return anchor

    def finish(self) -> None:
        """Map what is left."""
        mapped = [s for s in self.part.scene_map.keyframes if self.part.scene_map.registered[s]]
        if not mapped or mapped[-1] != self.part.scene_map.keyframes[-1]:
            self._map()

    def _map(self) -> None:
        scene_map, options = self.part.scene_map, self.run.options
        frames = scene_map.keyframes[self.first :]
        if len(frames) < 2:  # noqa: PLR2004
            return
        windows = options.windows
        if not scene_map.placed_keyframes:
            if not map_first_window(scene_map, frames, self.run.model, options):
                self._try_later()
                return
        else:
            map_window(scene_map, frames, self.run.model, options)
        number = len(self.part.windows) + 1
        if number % windows.joint_every == 0:
            self._adjust_last()
        self._note(frames)
        self.first = max(len(scene_map.keyframes) - windows.overlap, 0)
        self.waiting = len(scene_map.keyframes) + windows.size - windows.overlap

    def _try_later(self) -> None:
        """The first window failed: let it grow, then begin with a later keyframe."""
        windows = self.run.options.windows
        self.attempts += 1
        if self.attempts >= windows.first_attempts:
            self.first, self.attempts = max(len(self.part.scene_map.keyframes) - windows.size // 2, 0), 0
        self.waiting = len(self.part.scene_map.keyframes) + windows.size // 2

    def _adjust_last(self) -> None:
        """Adjust the keyframes of the last windows together; those just before them hold them in place."""
        windows, placed = self.run.options.windows, self.part.scene_map.placed_keyframes
        moving = windows.joint_every * (windows.size - windows.overlap) + windows.overlap
        frames = placed[-moving - windows.overlap :]
        fixed = frames[:-moving] if len(placed) > moving else []
        adjust_jointly(
            self.part.scene_map, frames, self.run.options.local_adjuster.build(), self.run.options, fixed=fixed
        )

    def _note(self, frames: list[int]) -> None:
        now = time.perf_counter()
        count = frames[-1] + 1 - self.frames_before
        self.part.windows.append(
            {"frames": [frames[0], frames[-1]], "new_frames": count, "seconds": round(now - self.since, 3)}
        )
        self.since, self.frames_before = now, frames[-1] + 1
        logger.info("window %d: frames %d to %d", len(self.part.windows), frames[0], frames[-1])
