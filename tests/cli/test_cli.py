"""The command line: fast help, results on stdout, one exit code for each kind of failure."""

import dataclasses
import json
import os
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vggsfm_cli
from example_model import example_model
from vggsfm_cli import errors, job
from vggsfm_cli.cli import choices, failures
from vggsfm_cli.cli.app import app
from vggsfm_cli.colmap.files import write_colmap
from vggsfm_cli.geometry import camera
from vggsfm_cli.model import AdjusterConfig
from vggsfm_cli.options import (
    GROUPS,
    Adjuster,
    CameraModel,
    Precision,
    Preset,
    ReconstructOptions,
    SceneOptions,
    options_of,
)
from vggsfm_cli.recipes import RECIPES
from vggsfm_cli.result import RunResult, RunSettings, StageCost
from vggsfm_cli.scene import ImageSet, Progress, ProgressCallback

run = CliRunner().invoke


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for s in range(6):
        pixels = np.random.default_rng(s).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"view {s}.jpg")
    (folder / "view 7.jpg").write_bytes(b"broken")
    return folder


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """Replaces the pipeline; called with an exception, the pipeline raises it."""
    failure: list[BaseException] = []

    def reconstruct(images: ImageSet, model: object, options: object, progress: ProgressCallback) -> RunResult:
        for error in failure:
            raise error
        progress(Progress(stage="tracking", done=1, total=1, detail="3 tracks"))
        model_a, model_b = example_model(frames=4), example_model(frames=3, seed=1)
        return RunResult(
            models=(model_a, model_b),
            unregistered={"view 5.jpg": "too few tracks"},
            stages={"tracking": StageCost(seconds=0.5, peak_memory_mb=10.0)},
            settings=RunSettings(recipe="small", preset="fast"),
        )

    monkeypatch.setattr(job, "reconstruct", reconstruct)
    monkeypatch.delenv("VGGSFM_DEBUG", raising=False)
    return lambda error: failure.append(error) if error is not None else None


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, vggsfm_cli.cli.app\n"
        "try: vggsfm_cli.cli.app.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'cv2', 'pycolmap', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 1.5  # alone on a core: 0.2
    assert "reconstruct" in shown.stdout and "130  interrupted" in shown.stdout


@pytest.mark.parametrize("command", ["reconstruct", "inspect", "adjust", "doctor", "version"])
def test_every_command_has_an_example(command: str) -> None:
    shown = run(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: vggsfm {command}" in shown.stdout


def test_version() -> None:
    for arguments in (["version"], ["--version"]):
        assert run(app, arguments).stdout == f"vggsfm {vggsfm_cli.__version__}\n"


def test_every_choice_means_something() -> None:
    assert set(typing.get_args(CameraModel)) == set(camera.PARAM_NAMES)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in typing.get_args(Precision))
    rows = [preset for presets in RECIPES.values() for preset in presets]
    assert sorted(rows) == sorted(set(typing.get_args(Preset)) - {"auto"})
    for name in typing.get_args(Adjuster):
        assert isinstance(choices.adjuster_config(name), AdjusterConfig)


def test_choices_are_written_down_once() -> None:
    lists = {one.name: ", ".join(f'"{choice}"' for choice in one.choices) for one in options_of(SceneOptions)}
    for path in Path(vggsfm_cli.__file__).parent.rglob("*.py"):
        copied = [name for name, text in lists.items() if text.count(",") > 1 and text in path.read_text()]
        assert not copied or path.name == "options.py", (path, copied)


@pytest.mark.parametrize("command", ["reconstruct", "batch"])
def test_help_shows_the_options_group_by_group(command: str) -> None:
    shown = run(app, [command, "--help"], terminal_width=200).stdout
    places = [shown.index(f"\n{title}:\n") for title in ("Options", *GROUPS)]
    assert places == sorted(places)
    for one in options_of(SceneOptions):
        start = places[1 + GROUPS.index(one.about.group)]
        assert start < shown.index(f"\n  {one.flag} ") < min([p for p in places if p > start], default=len(shown))
        assert one.about.help.split()[0] in shown


def test_an_option_has_one_name_from_the_flag_to_the_pipeline(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command is told arrives in ``reconstruct`` under the same names."""
    arrived: list[SceneOptions] = []

    def reconstruct(images: ImageSet, model: object, options: SceneOptions, **_: object) -> RunResult:
        arrived.append(options)
        raise errors.ReconstructionFailed("Enough is seen.", "A hint.")

    monkeypatch.setattr(job, "reconstruct", reconstruct)
    given = {"preset": "fast", "query_points": 77, "long_side": 128, "max_memory": 3.5, "seed": 9}
    given |= {"precision": "bfloat16", "refine_principal_point": "yes", "extra_points": 5, "queries": "grid"}
    assert set(given) == {field.name for field in dataclasses.fields(ReconstructOptions)}
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    result = run(app, ["reconstruct", str(photographs), "--out", str(tmp_path / "o"), "--model", "small", *flags])
    assert result.exit_code == 4, result.stderr
    assert {name: getattr(arrived[0], name) for name in given} == given


def test_options_out_of_range_are_refused_from_python_too() -> None:
    for name, value in {"query_points": 3, "long_side": 5, "max_memory": 0.0, "seed": -1}.items():
        with pytest.raises(errors.UsageError, match=f"--{name.replace('_', '-')}"):
            ReconstructOptions(**{name: value})  # type: ignore[arg-type]
    precision = next(one for one in options_of(ReconstructOptions) if one.name == "precision")
    with pytest.raises(errors.UsageError, match="--precision cannot be 'int8'"):
        precision.check("int8")


def test_reconstruct_writes_everything_and_sums_up(
    photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    out = tmp_path / "sparse"
    result = run(app, ["reconstruct", str(photographs), "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["0", "1", "config.toml", "overview.png", "report.json"]
    assert "4 of 7 images registered" in result.stdout
    assert "view 5.jpg (too few tracks)" in result.stdout
    assert "tracking" in result.stderr and "Skipped view 7.jpg" in result.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["weights"]["licence"] == "Apache-2.0" and "Model small: " in result.stderr
    assert (report["recipe"], report["preset"], report["memory"]) == ("small", "fast", None)
    assert report["seed"] == 0 and report["versions"]["torch"] == torch.__version__
    assert {"images", "weights", "tracking", "overview"} <= set(report["stages"])
    assert all(stage["seconds"] >= 0 and stage["peak_memory_mb"] > 0 for stage in report["stages"].values())
    by_name = {image["name"]: image for image in report["images"]}
    assert by_name["view 0.jpg"]["model"] == 0 and by_name["view 0.jpg"]["observations"] > 0
    assert by_name["view 4.jpg"] == {
        "name": "view 4.jpg",
        "registered": False,
        "model": None,
        "observations": 0,
        "reason": "not connected to any model",
    }
    assert by_name["view 7.jpg"]["reason"].startswith("skipped")


def test_json_alone_is_on_stdout_and_quiet_is_quiet(
    photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    arguments = ["reconstruct", str(photographs), "--out", str(tmp_path / "a"), "--json", "-q", "--no-overview"]
    result = run(app, [*arguments, "--legacy-colmap", "--seed", "5"])
    assert result.exit_code == 0 and result.stderr == ""
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["seed"] == 5 and report["options"]["legacy_colmap"] is True
    assert not (tmp_path / "a" / "overview.png").exists() and not (tmp_path / "a" / "0" / "rigs.bin").exists()


def test_an_existing_result_is_refused_before_any_work(
    photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    out = tmp_path / "sparse"
    write_colmap(example_model(), out)
    pipeline(AssertionError("the pipeline ran"))
    result = run(app, ["reconstruct", str(photographs), "--out", str(out)])
    assert result.exit_code == 2 and "--overwrite" in result.stderr


def test_too_few_registered_still_writes(
    photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    out = tmp_path / "sparse"
    result = run(app, ["reconstruct", str(photographs), "--out", str(out), "--min-registered", "5"])
    assert result.exit_code == 5 and "4 images registered" in result.stderr
    assert (out / "0" / "cameras.bin").is_file()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("Bad option.", "A hint."), 2),
        (errors.InputError("Bad input.", "A hint."), 3),
        (errors.ReconstructionFailed("tracking found 3 tracks.", "A hint."), 4),
        (errors.WeightsUnavailable("No weights.", "A hint."), 6),
        (errors.MissingDependency("No Theseus.", "A hint."), 2),
        (MemoryError(), 7),
        (torch.OutOfMemoryError("CUDA out of memory."), 7),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), 7),
        (PermissionError(13, "Permission denied", "/nowhere"), 3),
        (KeyboardInterrupt(), 130),
        (ValueError("a bug"), 1),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    pipeline(error)
    result = run(app, ["reconstruct", str(photographs), "--out", str(tmp_path / "sparse")])
    assert result.exit_code == code and code in failures.EXIT_CODES
    assert result.stdout == "" and "error: " in result.stderr and "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_debug_shows_the_traceback(
    photographs: Path,
    tmp_path: Path,
    pipeline: Callable[[BaseException | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline(ValueError("a bug"))
    monkeypatch.setenv("VGGSFM_DEBUG", "1")
    result = run(app, ["reconstruct", str(photographs), "--out", str(tmp_path / "sparse")])
    assert result.exit_code == 1 and "Traceback" in result.stderr


def test_every_error_class_has_a_documented_code() -> None:
    pending = [errors.VGGSfMError]
    while pending:
        kind = pending.pop()
        assert kind.exit_code in failures.EXIT_CODES
        pending.extend(kind.__subclasses__())


def test_usage_mistakes(photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]) -> None:
    assert run(app, ["reconstruct", str(photographs)]).exit_code == 2
    result = run(app, ["reconstruct", str(photographs), "--out", "x", "--camera-model", "FANCY"])
    assert result.exit_code == 2 and "SIMPLE_RADIAL" in result.stderr
    if not torch.cuda.is_available():
        result = run(app, ["reconstruct", str(photographs), "--out", str(tmp_path / "x"), "--device", "cuda"])
        assert result.exit_code == 2 and "doctor" in result.stderr


def test_missing_folder(tmp_path: Path, pipeline: Callable[[BaseException | None], None]) -> None:
    result = run(app, ["reconstruct", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")])
    assert result.exit_code == 3 and "nowhere" in result.stderr


def test_inspect(tmp_path: Path) -> None:
    write_colmap(example_model(), tmp_path / "sparse")
    shown = run(app, ["inspect", str(tmp_path / "sparse")])
    assert shown.exit_code == 0
    for text in ("points                  200", "OPENCV", "600 x 900", "view 5.jpg"):
        assert text in shown.stdout
    summary = json.loads(run(app, ["inspect", str(tmp_path / "sparse" / "0"), "--json"]).stdout)
    model = example_model()
    length = torch.bincount(model.point)
    assert summary["points"] == 200 and len(summary["images"]) == 6
    assert summary["mean_track_length"] == pytest.approx(len(model.frame) / 200, abs=1e-3)
    expected = float((model.error_px * length).sum() / length.sum())
    assert summary["mean_reprojection_error_px"] == pytest.approx(expected, abs=1e-3)
    assert run(app, ["inspect", str(tmp_path)]).exit_code == 3


def test_doctor(pipeline: Callable[[BaseException | None], None], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert {"torch", "pycolmap", "weights 'small'", "memory"} <= {finding["subject"] for finding in findings}
    assert "torch" in run(app, ["doctor"]).stdout

    def unavailable(name: str, device: str) -> None:
        raise errors.WeightsUnavailable("No weights.")

    monkeypatch.setattr(sys.modules["vggsfm_cli.checkpoints"], "load_model", unavailable)
    result = run(app, ["doctor"])
    assert result.exit_code == 6 and "problem" in result.stdout


def test_module_runs_and_public_names_are_lazy() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vggsfm_cli", "version"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert shown.stdout.startswith("vggsfm ")
    code = "import sys, vggsfm_cli as v; assert 'torch' not in sys.modules; v.ImageSet; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    assert set(vggsfm_cli.__all__) <= set(dir(vggsfm_cli))
    with pytest.raises(AttributeError):
        vggsfm_cli.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--mask-invert"], 2, "needs masks"),
        (["--intrinsics", "100,48"], 2, "2 numbers"),
        (["--intrinsics", "100,48,32", "--refine-principal-point", "yes"], 2, "Leave out one"),
        (["--seed", str(2**63)], 2, "seed"),
        (["--config", "nowhere.toml"], 2, "cannot be read"),
        (["--intrinsics", "nowhere.json"], 3, "cannot be read"),
        (["--masks", "nowhere"], 3, "No folder"),
        (["--masks", "masks"], 3, "The mask"),
    ],
)
def test_input_mistakes(
    options: list[str],
    code: int,
    said: str,
    photographs: Path,
    tmp_path: Path,
    pipeline: Callable[[BaseException | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "view 0.png").write_bytes(b"broken")
    result = run(app, ["reconstruct", str(photographs), "--out", "sparse", *options])
    assert result.exit_code == code and said in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "sparse").exists()


def test_several_paths_and_patterns(
    photographs: Path, tmp_path: Path, pipeline: Callable[[BaseException | None], None]
) -> None:
    chosen = [str(photographs / f"view {s}.jpg") for s in range(3)]
    for images in (chosen, [str(photographs / "view [0-4].jpg")]):
        result = run(app, ["reconstruct", *images, "--out", str(tmp_path / "sparse"), "--overwrite", "--no-overview"])
        assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "sparse" / "report.json").read_text())
    assert report["options"]["images"].endswith("view [0-4].jpg")
    result = run(app, ["reconstruct", *chosen, "--recursive", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and "--recursive" in result.stderr
