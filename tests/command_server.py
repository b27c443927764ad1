"""Runs commands of the program in copies of one process, in milliseconds each, under faults of the disk and signals.

    LD_PRELOAD=faults.so python tests/command_server.py

Requests and answers are JSON objects, one a line. What takes long is replaced: the pipeline gives the model that the
request names, the workers of a batch live in its process, and what is trained is tiny.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from batch_scenes import InlinePool
from commands import SHAPES
from shift_task import ShiftConfig
from vggsfm_cli import job
from vggsfm_cli.batch import local
from vggsfm_cli.batch import worker as batch_worker
from vggsfm_cli.bundle_adjustment import ceres_solver, schur_solver, sparse
from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
from vggsfm_cli.checkpoints import convert as conversion
from vggsfm_cli.checkpoints import inventory, resolve
from vggsfm_cli.checkpoints.convert import PublishedLayout
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import read_colmap
from vggsfm_cli.evaluation import model as evaluation_model
from vggsfm_cli.io import synthetic, video
from vggsfm_cli.result import RunResult, RunSettings
from vggsfm_cli.synthetic import render, scenes, textures
from vggsfm_cli.training import loop
from vggsfm_cli.training.tasks import TASKS
from vggsfm_cli.visualization import overview
from vggsfm_cli.visualization.report import page

IMPORTED = (
    local, batch_worker, ceres_solver, schur_solver, sparse, inventory, resolve, evaluation_model, synthetic, video,
    render, scenes, loop, overview, page,
)  # fmt: skip
"""What commands import when they run; here before there are copies."""

SECONDS = 60.0
STREAMS = ((1, "stdout"), (2, "stderr"))
LAYOUT = PublishedLayout(expected=SHAPES, rename={name: f"tracker.{name}" for name in SHAPES}, config=SchurConfig())


def pause(request: dict[str, Any], at: str) -> None:
    """Wait for a signal at a place that the request names."""
    if request.get("pause") == at:
        Path(request["marker"]).touch()
        time.sleep(SECONDS)


def replace_what_takes_long(request: dict[str, Any]) -> None:
    def reconstruct(*_: object, **__: object) -> RunResult:
        pause(request, "pipeline")
        return RunResult(models=(read_colmap(request["model"]),), settings=RunSettings(recipe="small"))

    export = job.export_model

    def paused_export(*arguments: Any) -> Any:
        pause(request, "undistort")
        return export(*arguments)

    job.reconstruct, job.export_model = reconstruct, paused_export
    job.load_networks = lambda *_, **__: Networks()
    batch_worker.load_networks = job.load_networks
    local.LocalPool = lambda setup, jobs: InlinePool(setup)
    conversion.LAYOUTS = {"v2": lambda: LAYOUT}
    TASKS["shift"] = ShiftConfig
    draw = textures.procedural_textures
    textures.procedural_textures = lambda _, __, generator: draw(9, 16, generator)


class Weights:
    def as_dict(self) -> dict[str, Any]:
        return {"name": "none"}


class Networks:
    """No model at all: the pipeline does not need one."""

    weights, model, device = Weights(), None, torch.device("cpu")


def faults() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "faults_arm") else None


def serve(request: dict[str, Any]) -> None:
    """In a copy of the process: one command, and the end."""
    for number, name in STREAMS:
        if request.get(name) == "closed":
            os.close(number)
        else:
            opened = os.open(request.get(name) or f"{request['answer']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
    sys.stdout, sys.stderr = (None if request.get(n) == "closed" else os.fdopen(k, "w") for k, n in STREAMS)
    os.chdir(request.get("cwd", "."))
    os.environ.update(request.get("environment", {}))
    if "memory" in request:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    replace_what_takes_long(request)
    library = faults()
    if library is not None and "root" in request:
        library.faults_arm(
            request["root"].encode(),
            ctypes.c_long(request.get("number", 0)),
            request.get("error", 5),
            ctypes.c_longlong(request.get("bytes", -1)),
        )
    code: Any = 99
    try:
        app(request["arguments"])
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:  # the interpreter would print a traceback
        Path(f"{request['answer']}.escaped").write_text(repr(error))
        code = 98
    counts = {}
    if library is not None and "root" in request:
        library.faults_failed.restype = ctypes.c_char_p
        counts = {"counted": library.faults_counted(), "failed": library.faults_failed().decode()}
        library.faults_arm(b"/nowhere", ctypes.c_long(0), 0, ctypes.c_longlong(-1))
    Path(request["answer"]).write_text(json.dumps({"code": code, **counts}))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request in a copy and tell how it ended."""
    child = os.fork()
    if child == 0:
        try:
            serve(request)
        finally:
            os._exit(0)
    begun, told = time.monotonic(), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if "signal" in request and not told and Path(request["marker"]).exists():
            os.kill(child, request["signal"])
            told = True
        if time.monotonic() - begun > SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    result: dict[str, Any] = {"seconds": seconds, "status": status, "code": None}
    if Path(request["answer"]).exists():
        result.update(json.loads(Path(request["answer"]).read_text()))
    for name in ("stdout", "stderr", "escaped"):
        path = Path(f"{request['answer']}.{name}")
        result[name] = path.read_text(errors="replace") if path.exists() else ""
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
