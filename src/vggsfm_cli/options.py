"""Options of a user for one scene, each declared once: type, default, help, unit and range.

The command line, the environment, config files and batches derive their options from these classes, which therefore
import nothing heavy. A field has one name everywhere: ``long_side`` is ``--long-side``, ``VGGSFM_LONG_SIDE`` in the
environment and ``long-side`` in a file.
"""

import dataclasses
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from vggsfm_cli.errors import UsageError

CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
CameraMode = Literal["auto", "single", "per-folder", "per-image"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
"""Names of torch's types that the networks may run in; geometry is always float32 or more."""
Preset = Literal["auto", "small", "fast", "v2"]
"""How tracks are chosen and become cameras and points; each but ``auto`` is a row of a recipe's ``PRESETS``."""
QuerySource = Literal["auto", "aliked", "sift", "xfeat", "grid"]
"""What finds the points where the tracks of v2 start."""
AutoChoice = Literal["auto", "yes", "no"]
Adjuster = Literal["schur", "theseus", "ceres"]

ExportTarget = Literal["3dgs", "gsplat", "nerfstudio", "instant-ngp", "ply", "txt"]
"""Programs that ``export`` writes for."""


class Loss(StrEnum):
    """Robust losses of an adjustment."""

    NONE = "none"
    HUBER = "huber"
    CAUCHY = "cauchy"
    GEMAN_MCCLURE = "geman-mcclure"


GROUPS = INPUT, CAMERAS, SPEED, OUTPUT, ADVANCED = "Input", "Cameras", "Speed and memory", "Output", "Advanced"
"""Headings of the help, in their order."""


@dataclass(frozen=True)
class About:
    """Description of an option beside its type and default.

    Attributes:
        help: one sentence.
        group: where the help shows it.
        unit: of a number, or what a text holds; empty if the type says enough.
        minimum: smallest number allowed.
        shapes: whether another value can change what is written.
    """

    help: str
    group: str
    _: KW_ONLY
    unit: str = ""
    minimum: int | float | None = None
    shapes: bool = True


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a class of options.

    Attributes:
        name: of the field.
        annotation: its type.
        kind: what a value is, if there is one; of a choice among texts ``str``.
        choices: the texts to choose from, if it has such.
        default: None where something else decides.
        about: what is said of it.
    """

    name: str
    annotation: Any
    kind: type[bool] | type[int] | type[float] | type[str]
    choices: tuple[str, ...]
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """On the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return f"VGGSFM_{self.name.upper()}"

    def check(self, value: Any) -> None:
        """Refuse a value out of range.

        Raises:
            UsageError: it is too small, or none of the choices.
        """
        lowest = self.about.minimum
        if value is not None and lowest is not None and value < lowest:
            raise UsageError(
                f"{self.flag} is {value}, and may not be below {lowest:g}.", f"Choose another {self.flag}."
            )
        if value is not None and self.choices and value not in self.choices:
            raise UsageError(f"{self.flag} cannot be {value!r}.", f"Choose one of: {', '.join(self.choices)}.")


def options_of(declared: type) -> tuple[Option, ...]:
    """The options that a class declares, group by group."""
    hints = get_type_hints(declared, include_extras=True)
    found = []
    for item in dataclasses.fields(declared):
        annotation, about = get_args(hints[item.name])
        kind = annotation
        if get_origin(kind) is not Literal:
            kind = next((part for part in get_args(kind) if part is not NoneType), kind)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        found.append(
            Option(
                name=item.name,
                annotation=annotation,
                kind=str if choices or kind is Path else kind,
                choices=choices,
                default=item.default,
                about=about,
            )
        )
    return tuple(sorted(found, key=lambda one: GROUPS.index(one.about.group)))


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Options of ``reconstruct``; settings of single steps are fields of the recipes.

    Raises:
        UsageError: a value out of its range.
    """

    preset: Annotated[Preset, About("auto: the one of the model; fast: fewer tracks, about half the time.", SPEED)] = (
        "auto"
    )
    query_points: Annotated[
        int | None,
        About("Tracks started per image; by default 1024, with fast 512, with v2 2048.", SPEED, unit="N", minimum=16),
    ] = None
    long_side: Annotated[
        int, About("Long side of the images as the networks see them.", SPEED, unit="PX", minimum=64)
    ] = 1024
    max_memory: Annotated[
        float | None,
        About(
            "Memory limit for networks and tracks, on the device; by default most of the free memory.",
            SPEED,
            unit="GB",
            minimum=0.1,
            shapes=False,
        ),
    ] = None
    refine_principal_point: Annotated[
        AutoChoice,
        About("Estimate the principal point in the last adjustment; auto: if the images determine it.", ADVANCED),
    ] = "auto"
    extra_points: Annotated[
        int,
        About("Triangulate up to N more points between the others, for denser models.", OUTPUT, unit="N", minimum=0),
    ] = 0
    queries: Annotated[
        QuerySource, About("Keypoints at which tracks of v2 start; auto: aliked if installed, else sift.", ADVANCED)
    ] = "auto"
    precision: Annotated[
        Precision, About("Number type of the networks; geometry is always float32 or float64.", ADVANCED)
    ] = "float32"
    seed: Annotated[int, About("Random seed; equal seeds give equal results.", ADVANCED, unit="N", minimum=0)] = 0

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            one.check(getattr(self, one.name))
        if self.seed >= 2**63:
            raise UsageError(f"The seed {self.seed} is not from 0 to 2^63 - 1.", "Choose another --seed.")


@dataclass(frozen=True, kw_only=True)
class SceneOptions(ReconstructOptions):
    """Options of one scene, from image files to model files.

    Raises:
        UsageError: a value out of its range, or a combination that makes no sense.
    """

    recursive: Annotated[bool, About("Include sub-folders; image names are then relative paths.", INPUT)] = False
    masks: Annotated[
        Path | None, About("Folder of masks: NAME.jpg.png or NAME.png, black = ignore.", INPUT, unit="DIR")
    ] = None
    mask_invert: Annotated[bool, About("In the masks, white = ignore.", INPUT)] = False
    ignore_alpha: Annotated[
        bool, About("Use transparent parts of images too; by default they count as masked.", INPUT)
    ] = False
    sequential: Annotated[
        bool | None, About("Treat the images as a sequence in the order of their names; default for videos.", INPUT)
    ] = None
    fps: Annotated[
        float,
        About("Frames per second to take from a video, the sharpest of each interval.", INPUT, unit="N", minimum=0.01),
    ] = 4.0
    max_frames: Annotated[
        int | None, About("Take at most N frames, spread over the whole video.", INPUT, unit="N", minimum=2)
    ] = None
    camera_model: Annotated[CameraModel, About("Camera model, by its COLMAP name.", CAMERAS)] = "SIMPLE_RADIAL"
    camera_mode: Annotated[CameraMode, About("Which images share a camera; auto: by size and EXIF data.", CAMERAS)] = (
        "auto"
    )
    intrinsics: Annotated[
        str | None,
        About(
            "Known intrinsics: parameters of --camera-model in order, distortion optional; a JSON file; or a COLMAP "
            "model.",
            CAMERAS,
            unit="f,cx,cy|fx,fy,cx,cy,...|PATH",
        ),
    ] = None
    device: Annotated[Device, About("Device of the networks.", SPEED, shapes=False)] = "auto"
    threads: Annotated[
        int | None, About("CPU threads; by default all cores.", SPEED, unit="N", minimum=1, shapes=False)
    ] = None
    overview: Annotated[bool, About("Draw DIR/overview.png.", OUTPUT)] = True
    report: Annotated[bool, About("Write DIR/report.html, a page with the model in 3D and all images.", OUTPUT)] = False
    min_registered: Annotated[
        int,
        About(
            "Exit with 5 if the largest model has fewer images than this.", OUTPUT, unit="N", minimum=0, shapes=False
        ),
    ] = 0
    legacy_colmap: Annotated[
        bool, About("Leave out rigs.bin and frames.bin, for programs that read COLMAP 3 models.", OUTPUT)
    ] = False
    model: Annotated[
        str,
        About(
            "Networks to use; auto: v2 on CUDA if it is downloaded, else small. v2 is experimental.",
            ADVANCED,
            unit="auto|small|v2|DIR|hf:REPO@REV",
        ),
    ] = "auto"
    revision: Annotated[str | None, About("Branch, tag or commit of a model on the Hub.", ADVANCED, unit="REV")] = None
    offline: Annotated[bool, About("Never use the network.", ADVANCED, shapes=False)] = False
    adjuster: Annotated[
        Adjuster | None,
        About(
            "Solver of the final bundle adjustments; by default the one of the model. ceres weighs all points equally.",
            ADVANCED,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_invert and self.masks is None:
            raise UsageError("--mask-invert needs masks.", "Add --masks DIR.")
        if self.intrinsics is not None and self.refine_principal_point == "yes":
            raise UsageError(
                "--refine-principal-point yes contradicts --intrinsics, which are kept fixed.",
                "Leave out one of the two.",
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for ``report.json``."""
        return {**dataclasses.asdict(self), "masks": None if self.masks is None else str(self.masks)}
