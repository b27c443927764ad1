"""Where options come from: flag, environment, config file, default; and files that say something wrong."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vggsfm_cli import job
from vggsfm_cli.cli import scene_options
from vggsfm_cli.cli.app import app
from vggsfm_cli.config_file import Setting, read_config, to_toml
from vggsfm_cli.errors import UsageError
from vggsfm_cli.options import SceneOptions, options_of

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(one.variable for one in options_of(SceneOptions)), scene_options.CONFIG_VARIABLE]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.toml"
    path.write_text('seed = 3\nlong-side = 256\ncamera_model = "OPENCV"\noffline = true\noverview = false\n')
    return path


def shown(*arguments: str, env: dict[str, str] | None = None) -> tuple[dict[str, object], dict[str, str]]:
    """Values, and where each came from."""
    result = run(app, ["config", "show", *arguments], env=env)
    assert result.exit_code == 0, result.stderr
    lines = [line.split("  # ") for line in result.stdout.splitlines() if not line.startswith("#")]
    return tomllib.loads(result.stdout), {line.split(" = ")[0]: source for line, source in lines}


def test_flag_before_environment_before_file_before_default(file: Path) -> None:
    values, source = shown(
        "--config",
        str(file),
        "--seed",
        "9",
        env={"VGGSFM_SEED": "8", "VGGSFM_LONG_SIDE": "512", "VGGSFM_OVERVIEW": "1"},
    )
    assert (values["seed"], source["seed"]) == (9, "flag")
    assert (values["long-side"], source["long-side"]) == (512, "environment, VGGSFM_LONG_SIDE")
    assert (values["overview"], source["overview"]) == (True, "environment, VGGSFM_OVERVIEW")
    assert (values["camera-model"], source["camera-model"]) == ("OPENCV", str(file))
    assert (values["offline"], source["offline"]) == (True, str(file))
    assert (values["preset"], source["preset"]) == ("auto", "default")
    assert shown(env={"VGGSFM_CONFIG": str(file)})[0]["seed"] == 3


def test_what_is_shown_can_be_fed_back(file: Path, tmp_path: Path) -> None:
    first = run(app, ["config", "show", "--config", str(file), "--preset", "fast", "--threads", "2"]).stdout
    (tmp_path / "again.toml").write_text(first)
    again = shown("--config", str(tmp_path / "again.toml"))[0]
    assert again == tomllib.loads(first) and again["preset"] == "fast" and again["threads"] == 2


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("sede = 3", "unknown option 'sede'", "Did you mean 'seed'?"),
        ("out = 'x'", "unknown option 'out'", "config show"),
        ("[seed]\nvalue = 3", "which is not a whole number", "seed = 1"),
        ("seed = '3'", "which is not a whole number", "seed = 1"),
        ("seed = true", "which is not a whole number", "seed = 1"),
        ("seed = 1.5", "which is not a whole number", "seed = 1"),
        ("seed = [1, 2]", "which is not a whole number", "seed = 1"),
        ("threads = nan", "which is not a whole number", "threads = 1"),
        ("offline = 1", "which is not true or false", "offline = true"),
        ("model = 2024-01-01", "which is not a text", 'model = "..."'),
        ("camera-model = 'FANCY'", "which it cannot be", "SIMPLE_RADIAL"),
        ("long-side = 1\nlong_side = 2", "twice", "Keep one"),
        ("seed = 3\nseed = 4", "not valid TOML", "seed = 7"),
        ("seed", "not valid TOML", "seed = 7"),
        ("seed = " + "[" * 5000, "not valid TOML", "seed = 7"),
        ("seed = " + "9" * 5000, "not valid TOML", "seed = 7"),
    ],
)
def test_wrong_files_end_in_a_sentence_and_2(text: str, said: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    result = run(app, ["config", "show", "--config", str(path)])
    assert result.exit_code == 2 and result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ") and said in first and str(path) in first
    assert second.startswith("hint: ") and hint in second


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes("model = 'é'".encode("latin-1"))
    (tmp_path / "large.toml").write_bytes(b"#" * 2**21)
    for name, said in (("latin", "UTF-8"), ("large", "more than 1 MiB"), ("missing", "cannot be read")):
        with pytest.raises(UsageError, match=said):
            read_config(tmp_path / f"{name}.toml", {})
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path, {})


def test_values_out_of_range_are_refused_wherever_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "range.toml"
    path.write_text("seed = -1\n")
    assert run(app, ["config", "show", "--config", str(path)]).exit_code == 2
    assert run(app, ["config", "show"], env={"VGGSFM_SEED": "-1"}).exit_code == 2
    assert run(app, ["config", "show"], env={"VGGSFM_SEED": "many"}).exit_code == 2
    assert run(app, ["config", "show"], env={"VGGSFM_CAMERA_MODEL": "FANCY"}).exit_code == 2


@pytest.mark.parametrize("text", ['"quoted" \\ back', "a\tb\nc", "größe 📷", "\x7f\x01", "'''"])
def test_any_text_survives_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "text.toml"
    path.write_text(to_toml({"model": text, "revision": None}, {"revision": "a note"}), encoding="utf-8")
    assert read_config(path, {"model": Setting(kind=str), "revision": Setting(kind=str)}) == {"model": text}


def test_help_has_an_example() -> None:
    assert "Example: vggsfm config show" in run(app, ["config", "show", "--help"]).stdout


def test_numbers_with_a_point(tmp_path: Path) -> None:
    path = tmp_path / "numbers.toml"
    path.write_text(to_toml({"fps": 2.5, "overlap": 1e-05}) + "share = 2\n")
    known = {name: Setting(kind=float) for name in ("fps", "overlap", "share")}
    assert read_config(path, known) == {"fps": 2.5, "overlap": 1e-05, "share": 2.0}
    for text in ("true", "nan", "-inf", "'2'", "[2.0]"):
        path.write_text(f"fps = {text}\n")
        with pytest.raises(UsageError, match="which is not a number"):
            read_config(path, known)


def test_no_variable_means_two_things() -> None:
    names = {one.variable for one in options_of(SceneOptions)}
    others = {"VGGSFM_BENCH", "VGGSFM_REFERENCE", "VGGSFM_TEXTURES", "VGGSFM_DEBUG", scene_options.CONFIG_VARIABLE}
    assert not names & others


def test_the_file_of_a_result_gives_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = SceneOptions(seed=5, preset="fast", threads=1, overview=False)
    path = tmp_path / "config.toml"
    path.write_text(job.CONFIG_HEADER + to_toml(job.absolute(chosen).as_dict()))
    assert SceneOptions(**read_config(path, scene_options.settings())) == chosen
