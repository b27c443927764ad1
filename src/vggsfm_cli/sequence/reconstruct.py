"""A film becomes one model: followed frame by frame, reconstructed window by window, joined and adjusted."""

import logging
from collections.abc import Iterator
from typing import Any

import torch

from vggsfm_cli.clock import StageClock
from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.errors import ReconstructionFailed, UsageError
from vggsfm_cli.io.sequence import PhotographSequence
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.result import RunResult, RunSettings
from vggsfm_cli.scene import Progress, ProgressCallback, silent
from vggsfm_cli.sequence.building import Part, WindowBuilder
from vggsfm_cli.sequence.finish import place_frames_between, to_reconstruction
from vggsfm_cli.sequence.following import Anchor, Followed, Look, follow, look_at, shows_enough, wants_keyframe
from vggsfm_cli.sequence.joint import adjust_jointly, find_points_anew
from vggsfm_cli.sequence.loops import Loop, close_loops, find_loops
from vggsfm_cli.sequence.options import SequenceOptions
from vggsfm_cli.sequence.scene_map import SceneMap
from vggsfm_cli.threads import one_thread_each
from vggsfm_cli.tracking.tracker import CoarseToFineTracker

logger = logging.getLogger(__name__)

LOOP_ERROR_PX = 12.0
"""Network pixels by which an observation may miss its point right after a loop was closed."""

FINAL_ROUNDS = 2
"""Of finding all points anew and adjusting everything."""


@torch.no_grad()
def reconstruct_sequence(
    images: PhotographSequence,
    model: VGGSfM,
    options: SequenceOptions | None = None,
    progress: ProgressCallback = silent,
) -> RunResult:
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
        One reconstruction for each part of the film that hangs together, largest first; every frame that is in no
        model, with the reason; and facts about the run.

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
        run = SequenceRun(images, model, options, progress)
        return run.finish(run.follow())


class SequenceRun:
    """One run: the film, the model and the settings, so that the steps below need no long argument lists.

    ``reconstruct_sequence`` is ``finish`` after ``follow``; a benchmark finishes the same parts in several ways.
    """

    def __init__(
        self, images: PhotographSequence, model: VGGSfM, options: SequenceOptions, progress: ProgressCallback
    ) -> None:
        self.images, self.model, self.options, self.progress = images, model, options, progress
        self.device = next(model.parameters()).device
        self.precision: torch.dtype = getattr(torch, options.precision)
        self.clock = StageClock()

    def see(self, *frames: int) -> list[Look]:
        """Read some frames, and their features."""
        pixels = self.images.read(frames).to(self.device)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            return look_at(self.model.tracker, pixels, frames)

    def looks(self, start: int) -> Iterator[Look]:
        """All frames from one on; a few are read and looked at side by side."""
        for first in range(start, len(self.images), self.options.read_ahead):
            frames = range(first, min(first + self.options.read_ahead, len(self.images)))
            with self.clock.stage("features"):
                looks = self.see(*frames)
            yield from looks

    def follow(self) -> list[Part]:
        """All parts, mapped window by window while they are followed."""
        parts: list[Part] = []
        start = 0
        while start < len(self.images):
            part = Part(scene_map=SceneMap(self.images.facts), places=[], windows=[])
            builder = WindowBuilder(part, self.model, self.options, self.clock)
            start = self._follow_part(part, builder, start)
            builder.finish()
            parts.append(part)
        self.progress(Progress(stage="frames", done=len(self.images), total=len(self.images)))
        return parts

    def _follow_part(self, part: Part, builder: WindowBuilder, start: int) -> int:
        """Follow the film from a frame until it is lost; the frame to go on from."""
        config = self.options.keyframes
        looks = self.looks(start)
        look = next((look for look in looks if shows_enough(look, config)), None)
        if look is None:
            return len(self.images)
        anchor = builder.keyframe(look, None)
        spare: Followed | None = None
        lost: list[int] = []
        for look in looks:
            frame = look.frame
            self.progress(Progress(stage="frames", done=frame, total=len(self.images), detail=self.images.names[frame]))
            step = self._follow(anchor, look, part)
            if step.share < config.lost_share and spare is not None:
                anchor, spare = builder.keyframe(spare.look, spare), None
                step = self._follow(anchor, look, part)
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
            if builder.lost_at is not None:
                return builder.lost_at
        return len(self.images)

    def _follow(self, anchor: Anchor, look: Look, part: Part) -> Followed:
        with self.clock.stage("tracks"):
            return follow(self.model.tracker, anchor, look, part.scene_map, self.options.keyframes)

    def finish(self, parts: list[Part], *, close_loops: bool | None = None) -> RunResult:
        """Close loops (as the options say if None), adjust, place the frames between; the parts' maps are changed."""
        close = self.options.loops.close if close_loops is None else close_loops
        found = []
        reasons: dict[int, str] = {}
        for part in parts:
            if len(part.scene_map.placed_keyframes) < 2:  # noqa: PLR2004
                continue
            report = self._finish_part(part, close)
            with self.clock.stage("frames between"):
                reasons.update(place_frames_between(part.scene_map, self.options))
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
        return RunResult(
            models=tuple(found),
            unregistered=missing,
            stages=self.clock.stages,
            settings=RunSettings(recipe="sequence"),
        )

    def _finish_part(self, part: Part, close: bool) -> dict[str, Any]:
        scene_map = part.scene_map
        self._tell("adjustment", 0)
        self._adjust(scene_map, self.options.mapping.growth.max_error_px)
        loops: list[Loop] = []
        if close:
            self._tell("loops", 0)
            with self.clock.stage("loops"):
                loops = find_loops(scene_map, part.places, self.see, self.model.tracker, self.options)
                loops = close_loops(scene_map, loops)
            self._tell("loops", 1, f"{len(loops)} closed")
        if loops:
            self._adjust(scene_map, LOOP_ERROR_PX, anew=False)
        for _ in range(FINAL_ROUNDS):
            self._adjust(scene_map, self.options.max_error_px)
        self._tell("adjustment", 1)
        return {
            "origin": "sequence",
            "keyframes": len(scene_map.placed_keyframes),
            "windows": part.windows,
            "loops": [loop.as_dict() for loop in loops],
        }

    def _adjust(self, scene_map: SceneMap, max_error_px: float, *, anew: bool = True) -> None:
        """Adjust all keyframes, after points were found anew."""
        with self.clock.stage("adjustment"):
            if anew:
                find_points_anew(scene_map, copy_on(self.model.triangulator.geometric, MAPPING), self.options)
            adjuster = self.options.joint_adjuster.build()
            adjust_jointly(scene_map, scene_map.placed_keyframes, adjuster, self.options, max_error_px=max_error_px)

    def _tell(self, stage: str, done: int, detail: str = "") -> None:
        self.progress(Progress(stage=stage, done=done, total=1, detail=detail))
