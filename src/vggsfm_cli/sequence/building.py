"""Windows of keyframes, mapped as soon as a part of the film has enough new ones."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from vggsfm_cli.clock import StageClock
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.sequence.following import Anchor, Followed, Look, become_anchor, with_error
from vggsfm_cli.sequence.joint import adjust_jointly
from vggsfm_cli.sequence.loops import Place, note_place
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap
from vggsfm_cli.sequence.windows import map_first_window, map_window

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A stretch of the film that hangs together."""

    scene_map: SceneMap
    places: list[Place]
    windows: list[dict[str, Any]]


class WindowBuilder:
    """Takes the frames of a part as they come, and maps a window whenever enough keyframes are new."""

    def __init__(self, part: Part, model: VGGSfM, options: SequenceOptions, clock: StageClock) -> None:
        self.part, self.model, self.options, self.clock = part, model, options, clock
        self.first = 0  # keyframe with which the next window begins
        self.waiting = options.windows.size  # keyframes at which it is mapped
        self.attempts = 0
        self.lost_at: int | None = None  # frame from which another part has to begin
        self.since = (time.perf_counter(), time.process_time())
        self.frames_before = 0

    def see(self, step: Followed) -> None:
        """Note what a frame sees."""
        error = self.options.mapping.model_error_px * step.look.scale
        self.part.scene_map.see(step.look.frame, with_error(step.sightings, error))

    def keyframe(self, look: Look, step: Followed | None) -> Anchor:
        """Make a frame, already seen, a keyframe."""
        scene_map, options = self.part.scene_map, self.options
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
        with self.clock.stage("windows"):
            self._map_window()

    def _map_window(self) -> None:
        scene_map, options = self.part.scene_map, self.options
        frames = scene_map.keyframes[self.first :]
        if len(frames) < 2:  # noqa: PLR2004
            return
        windows = options.windows
        if not scene_map.placed_keyframes:
            mapped = map_first_window(scene_map, frames, self.model, options)
        else:
            mapped = bool(map_window(scene_map, frames, self.model, options))
        if not mapped:
            self._try_later()
            return
        if (len(self.part.windows) + 1) % windows.joint_every == 0:
            self._adjust_last()
        self._note(frames)
        placed = [k for k, s in enumerate(scene_map.keyframes) if scene_map.registered[s]]
        self.first, self.attempts = placed[-windows.overlap :][0], 0
        self.waiting = len(scene_map.keyframes) + windows.size - windows.overlap

    def _try_later(self) -> None:
        """A window failed: let it grow. If that does not help, begin with a later keyframe, or another part."""
        windows, scene_map = self.options.windows, self.part.scene_map
        self.attempts += 1
        self.waiting = len(scene_map.keyframes) + windows.size // 2
        if self.attempts < windows.attempts:
            return
        placed = scene_map.placed_keyframes
        if placed:
            self.lost_at = next(s for s in scene_map.keyframes if s > placed[-1])
        self.first, self.attempts = max(len(scene_map.keyframes) - windows.size // 2, 0), 0

    def _adjust_last(self) -> None:
        """Adjust the keyframes of the last windows together; those just before them hold them in place."""
        windows, placed = self.options.windows, self.part.scene_map.placed_keyframes
        moving = windows.joint_every * (windows.size - windows.overlap) + windows.overlap
        frames = placed[-moving - windows.overlap :]
        fixed = frames[:-moving] if len(placed) > moving else []
        adjust_jointly(self.part.scene_map, frames, self.options.local_adjuster.build(), self.options, fixed=fixed)

    def _note(self, frames: list[int]) -> None:
        now = (time.perf_counter(), time.process_time())
        seconds, cpu_seconds = (round(end - start, 3) for start, end in zip(self.since, now, strict=True))
        count = frames[-1] + 1 - self.frames_before
        self.part.windows.append(
            {
                "frames": [frames[0], frames[-1]],
                "new_frames": count,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
            }
        )
        self.since, self.frames_before = now, frames[-1] + 1
        logger.info("window %d: frames %d to %d", len(self.part.windows), frames[0], frames[-1])
