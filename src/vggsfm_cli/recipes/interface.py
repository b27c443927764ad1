"""What a recipe is: how images become tracks, and perhaps cameras, and how these become reconstructions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from vggsfm_cli.camera_estimation.interface import CameraEstimator, GivenCameras
from vggsfm_cli.devices import MAPPING, copy_on
from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.plan import Need
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.options import ReconstructOptions
from vggsfm_cli.result import OWN_QUERIES
from vggsfm_cli.scene import Cameras, ImageSet, Progress, ProgressCallback, Reconstruction, Tracks, silent


@dataclass(frozen=True, kw_only=True, eq=False)
class Sighted:
    """What the networks make of a scene.

    Attributes:
        images: as they saw them.
        tracks: in stored pixels.
        cameras: predicted from the images; None where the model finds them from the tracks.
        queries: what found the points where tracks start.
        tracker: the model's, within the memory there may be.
    """

    images: ImageSet
    tracks: Tracks
    cameras: Cameras | None = None
    queries: str = OWN_QUERIES
    tracker: FrugalTracker

    def estimator(self, model: VGGSfM) -> CameraEstimator:
        """What gives the mapping its cameras, on its device."""
        if self.cameras is None:
            return copy_on(model.camera_estimator, MAPPING)
        return GivenCameras(self.cameras.to(MAPPING))


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapped:
    """What tracks became.

    Attributes:
        models: largest first, without colours.
        unregistered: images that are in no model, with the reason.
    """

    models: Sequence[Reconstruction]
    unregistered: Mapping[str, str] = field(default_factory=dict)


class Recipe(ABC):
    """A frozen record of settings, and the steps that follow them.

    A model's config names the recipe that makes its tracks. The same recipe maps them, unless a preset names another.

    Attributes:
        name: as a model's config has it.
        stages: types of the stages that its models may have.
        note: what a user should know before using it; may be empty.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    stages: ClassVar[tuple[type, ...]]

    @abstractmethod
    def check_tracking(self, model: VGGSfM, options: ReconstructOptions) -> None:
        """Refuse options that the tracks cannot follow.

        Raises:
            UsageError: there is one.
        """

    @abstractmethod
    def check_mapping(self, options: ReconstructOptions) -> None:
        """Refuse options that the mapping cannot follow.

        Raises:
            UsageError: there is one.
        """

    @abstractmethod
    def sight(
        self, images: ImageSet, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Sighted:
        """Tracks through one scene (B = 1), and cameras where the model predicts them from the images.

        Raises:
            NotEnoughMemory: the smallest pieces need more than there may be.
        """

    @abstractmethod
    def map(
        self, sighted: Sighted, model: VGGSfM, options: ReconstructOptions, progress: ProgressCallback = silent
    ) -> Mapped:
        """Models from tracks, without colours.

        Raises:
            ReconstructionFailed: a step found too little to go on; the message names it and the counts.
        """

    def add_points(
        self,
        reconstruction: Reconstruction,
        sighted: Sighted,
        options: ReconstructOptions,
        progress: ProgressCallback = silent,
    ) -> Reconstruction:
        """The same model with up to ``options.extra_points`` more points; a recipe without them refuses the option."""
        del sighted, options, progress
        return reconstruction


def precision_of(options: ReconstructOptions) -> torch.dtype:
    """Torch's type in which the networks run."""
    found: torch.dtype = getattr(torch, options.precision)
    return found


def within_memory(
    model: VGGSfM, need: Need, device: torch.device, options: ReconstructOptions, progress: ProgressCallback
) -> FrugalTracker:
    """The model's tracker in its precision, in pieces that fit.

    Raises:
        NotEnoughMemory: the smallest pieces need more than there may be.
    """
    budget = Budget.make(need, device, options.max_memory)
    progress(Progress(stage="memory", done=1, total=1, detail=str(budget)))
    return FrugalTracker(model.tracker.in_precision(precision_of(options)), budget)
