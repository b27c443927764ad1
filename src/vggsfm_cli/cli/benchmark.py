"""``vggsfm benchmark``: the paper's tables, on data sets that a user has."""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vggsfm_cli.cli.console import StageProgress, console, set_up_logging
from vggsfm_cli.cli.failures import EXIT_CODE_HELP, explained
from vggsfm_cli.options import Device, Precision, ReconstructOptions

if TYPE_CHECKING:
    from vggsfm_cli.evaluation.datasets import PosedScene, Unreadable

benchmark = typer.Typer(
    name="benchmark", no_args_is_help=True, help="Run the protocols of the paper on data sets that you have."
)

Root = Annotated[Path, typer.Option(help="Folder of the unpacked data set.", metavar="DATA")]
Limit = Annotated[int | None, typer.Option(help="Measure only the first N scenes of each kind.", min=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """The options that all commands have after their own."""

    model: Annotated[
        str, typer.Option(help="Networks to use, as for reconstruct.", metavar="auto|small|v2|DIR|hf:REPO@REV")
    ] = "auto"
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0
    out: Annotated[
        Path | None,
        typer.Option(help="Write the results of every scene to this file.", metavar="FILE.json", show_default=False),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False
    device: Annotated[Device, typer.Option(help="Device of the networks.")] = "auto"
    precision: Annotated[
        Precision, typer.Option(help="Number type of the networks; geometry is always float32 or float64.")
    ] = "float32"
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0

    def __call__(
        self,
        header: dict[str, Any],
        scenes: "Iterator[PosedScene | Unreadable]",
        measure: Callable[..., dict[str, Any]],
    ) -> None:
        from vggsfm_cli.checkpoints import resolve_model
        from vggsfm_cli.devices import choose_device
        from vggsfm_cli.evaluation.benchmark import BenchmarkConfig, run_benchmark, to_markdown

        device = choose_device(self.device)
        config = BenchmarkConfig(options=ReconstructOptions(seed=self.seed, precision=self.precision))
        with self._progress() as progress:
            found = resolve_model(self.model, device, notice=progress.say, progress=progress)
            if not self.quiet:
                progress.say(found.sentence())
            given = (found.load(device), config, device, progress)
            model = {key: value for key, value in found.as_dict().items() if key != "reason"}
            header = {**header, "model": model, "settings": dataclasses.asdict(config), "device": str(device)}
            document = run_benchmark(
                scenes,
                lambda scene: measure(scene, *given),
                header,
                out=self.out,
                resume=self.resume,
                progress=progress,
            )
        if self.as_json:
            print(json.dumps(document, indent=1))  # noqa: T201
        else:
            console(sys.stdout).print(to_markdown(document), markup=False, end="")

    @contextmanager
    def _progress(self) -> Iterator[StageProgress]:
        set_up_logging(self.verbose, self.quiet)
        with StageProgress(self.quiet).drawing() as progress:
            yield progress


def _command(body: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: its own options, and those of ``_Run``, which it gets as its first argument."""
    own = list(inspect.signature(body).parameters.values())[1:]
    common = [
        inspect.Parameter(part.name, inspect.Parameter.KEYWORD_ONLY, default=part.default, annotation=part.type)
        for part in dataclasses.fields(_Run)
    ]

    @functools.wraps(body)
    def run(**given: Any) -> None:
        options = {part.name: given.pop(part.name) for part in common}
        body(_Run(**options), **given)

    # typer reads a command's options from these two
    run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    run.__annotations__ = {part.name: part.annotation for part in (*own, *common)}
    return benchmark.command(epilog=EXIT_CODE_HELP)(explained(run))


@_command
def co3d(
    run: _Run,
    root: Root,
    category: Annotated[
        list[str] | None, typer.Option(help="Repeat for several.", metavar="NAME", show_default="all")
    ] = None,
    frames: Annotated[int, typer.Option(help="Number of random images per sequence.", min=2)] = 10,
    limit: Limit = None,
) -> None:
    """CO3D v2: camera poses from 10 random frames of each test sequence; RRA@15, RTA@15 and AUC@30 in percent.

    DATA contains CATEGORY/frame_annotations.jgz, CATEGORY/set_lists/ and the images.

    Example: vggsfm benchmark co3d --root co3d/ --category apple --limit 5 --out co3d.json
    """
    from vggsfm_cli.evaluation.benchmark import CO3D, measure_poses
    from vggsfm_cli.evaluation.datasets import find_co3d

    run(
        {"benchmark": "co3d", "categories": category, "frames": frames, "limit": limit},
        find_co3d(root, categories=category, frames=frames, seed=run.seed, limit=limit),
        functools.partial(measure_poses, protocol=CO3D),
    )


@_command
def imc(
    run: _Run,
    root: Root,
    scene: Annotated[
        list[str] | None, typer.Option(help="Repeat for several.", metavar="NAME", show_default="all")
    ] = None,
    bag_size: Annotated[
        list[int] | None, typer.Option(help="Repeat for several.", min=2, show_default="5, 10 and 25")
    ] = None,
    limit: Limit = None,
) -> None:
    """Image Matching Challenge, Phototourism: poses from bags of 5, 10 and 25 images; AUC@3, @5 and @10 in percent.

    DATA contains SCENE/set_100/ with images, calibration and sub_set.

    Example: vggsfm benchmark imc --root phototourism/ --bag-size 5 --limit 10 --out imc.json
    """
    from vggsfm_cli.evaluation.benchmark import IMC, measure_poses
    from vggsfm_cli.evaluation.datasets import find_imc
    from vggsfm_cli.evaluation.datasets.imc import BAG_SIZES

    sizes = bag_size or list(BAG_SIZES)
    run(
        {"benchmark": "imc", "scenes": scene, "bag_sizes": sizes, "limit": limit},
        find_imc(root, scenes=scene, bag_sizes=sizes, limit=limit),
        functools.partial(measure_poses, protocol=IMC),
    )


@_command
def eth3d(
    run: _Run,
    root: Root,
    scene: Annotated[
        list[str] | None, typer.Option(help="Repeat for several.", metavar="NAME", show_default="all")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            help="Write the points of each scene to DIR/SCENE.ply, for the ETH3D evaluation program.", metavar="DIR"
        ),
    ] = None,
    limit: Limit = None,
) -> None:
    """ETH3D: points triangulated with the known cameras; accuracy and completeness at 1, 2 and 5 cm in percent.

    DATA contains SCENE/images, SCENE/dslr_calibration_undistorted and SCENE/dslr_scan_eval.

    Example: vggsfm benchmark eth3d --root eth3d/ --scene relief --points points/ --out eth3d.json
    """
    from vggsfm_cli.evaluation.benchmark import measure_surface
    from vggsfm_cli.evaluation.datasets import find_eth3d

    def measure(chosen: "PosedScene", *given: Any) -> dict[str, Any]:
        file = None if points is None else points / f"{chosen.name}.ply"
        return measure_surface(chosen, *given, points_file=file)

    run({"benchmark": "eth3d", "scenes": scene, "limit": limit}, find_eth3d(root, scenes=scene, limit=limit), measure)
