"""``vggsfm batch``: many scenes, each a folder of photographs."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vggsfm_cli.cli import process
from vggsfm_cli.cli.batch_summary import BatchProgress, print_batch
from vggsfm_cli.cli.choices import choose_adjuster
from vggsfm_cli.cli.console import StageProgress, say, set_up_logging
from vggsfm_cli.cli.failures import explain
from vggsfm_cli.cli.scene_options import takes_scene_options
from vggsfm_cli.options import SceneOptions

if TYPE_CHECKING:
    from vggsfm_cli.batch.run import Pool
    from vggsfm_cli.batch.worker import WorkerSetup

Engine = Literal["local", "ray"]
SHOWN_FAILURES = 10
"""In the last line; the table above it has all."""


@takes_scene_options
def batch(
    options: SceneOptions,
    scenes: Annotated[
        str,
        typer.Argument(
            metavar="SCENES",
            help="Folder whose sub-folders are scenes, text file with one folder per line, or 'PATTERN'.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Results go to DIR/SCENE, and to DIR/results.jsonl.", metavar="DIR")],
    jobs: Annotated[
        int | None,
        typer.Option(help="Scenes at a time; by default one per GPU, one without GPUs, all that fit with ray.", min=1),
    ] = None,
    retry: Annotated[int, typer.Option(help="Repetitions of a scene after a crash or an unexpected error.", min=0)] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Repeat finished scenes, and replace results that are not from a batch.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Reconstruct only part i of N, counted from 1; auto: from the SLURM array task.", metavar="i/N|auto"
        ),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Run workers as local processes or on a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Address of the Ray cluster; by default RAY_ADDRESS, a local one, or a new local one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv shows all.")] = 0,
) -> None:
    """Reconstruct many scenes independently of one another.

    Finished scenes are kept. Run the same command again to resume, or to repeat scenes whose images or options changed.
    --threads applies to each worker; by default they share the cores. --masks contains a folder of masks for each
    scene, with the name of the scene. Exits with 4 if any scene failed.

    Example: vggsfm batch scenes/ --out results/ --jobs 2
    """
    set_up_logging(verbose, quiet)
    from vggsfm_cli.batch.fingerprint import hash_options
    from vggsfm_cli.batch.inputs import absolute
    from vggsfm_cli.batch.plan import choose_shard, find_scenes, shard_of
    from vggsfm_cli.batch.run import run_batch
    from vggsfm_cli.batch.worker import WorkerSetup
    from vggsfm_cli.errors import ReconstructionFailed, UsageError

    if engine == "local" and ray_address is not None:
        raise UsageError("--ray-address is for --engine ray.", "Add --engine ray.")
    out, options = out.resolve(), absolute(options)
    found = find_scenes(scenes, out)
    if shard is not None:
        found = shard_of(found, *choose_shard(shard, os.environ))
    setup = WorkerSetup(
        out=out,
        options=options,
        options_hash=hash_options(options),
        explain=explain,
        adjuster=choose_adjuster(options.adjuster),
        force=force,
    )
    if engine == "local":
        setup, start = _local(setup, jobs, len(found))
    else:
        start = _on_ray(setup, jobs, ray_address)
    with StageProgress(quiet).drawing() as progress:
        told = BatchProgress(progress, len(found))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Ray prints what it has to say; stdout is for the results
                outcomes = run_batch(found, setup, start, retry=retry, told=told)
        except KeyboardInterrupt as interruption:
            ended = f"{told.final} of {len(found)} scenes have ended"
            say(f"{explain(interruption).message[:-1]}: {ended}. The same command goes on with the others.")
            raise typer.Exit(process.ended_by_signal()) from None
    print_batch(outcomes, out, as_json=as_json)
    failed = [outcome.scene for outcome in outcomes if outcome.status == "failed"]
    if failed:
        named = ", ".join(failed[:SHOWN_FAILURES]) + (", ..." if len(failed) > SHOWN_FAILURES else "")
        raise ReconstructionFailed(
            f"{len(failed)} of {len(outcomes)} scenes failed: {named}.",
            f"{out / 'results.jsonl'} says why; the same command tries them again.",
        )


def _local(setup: "WorkerSetup", jobs: int | None, scenes: int) -> "tuple[WorkerSetup, Callable[[], Pool]]":
    """Processes that divide the cores; a device or model that is not there is told before any of them starts."""
    import torch

    from vggsfm_cli.batch.local import LocalPool
    from vggsfm_cli.checkpoints import resolve_model
    from vggsfm_cli.devices import choose_device
    from vggsfm_cli.threads import available_cores

    options = setup.options
    device = choose_device(options.device)
    # downloads what is missing, once: workers find the files where they are now
    resolve_model(options.model, device, offline=options.offline, revision=options.revision, notice=say)
    count = max(1, min(jobs or (torch.cuda.device_count() if device.type == "cuda" else 1), scenes))
    threads = options.threads or max(1, available_cores() // count)
    setup = dataclasses.replace(setup, threads=threads)
    return setup, lambda: LocalPool(setup, count)


def _on_ray(setup: "WorkerSetup", jobs: int | None, address: str | None) -> "Callable[[], Pool]":
    """Actors of a cluster, which is joined only when there is work."""
    from vggsfm_cli.batch.ray_pool import RayPool, cluster_size, connect, plan_workers

    def start() -> "Pool":
        connect(address)
        cpus, gpus = cluster_size(with_gpus=setup.options.device in ("auto", "cuda"))
        share = plan_workers(cpus, gpus, jobs=jobs, threads=setup.options.threads)
        return RayPool(dataclasses.replace(setup, threads=share.cpus), share)

    return start
