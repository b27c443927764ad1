"""Recipes: what a file says, and what is refused with the key and the file named."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from shift_task import NoiseConfig, ShiftConfig
from vggsfm_cli.errors import InputError, UsageError
from vggsfm_cli.training.config import MAY_CHANGE, check_same_run, config_as_data, read_config
from vggsfm_cli.training.tasks import TASKS

MINIMAL = 'name = "a"\nsteps = 10\nlearning_rate = 1\n'
TASK = '[task]\ntype = "shift"\n'


@dataclass(frozen=True, kw_only=True)
class ManyKindsConfig(ShiftConfig):
    mode: Literal["near", "far"] = "near"
    folder: Path | None = None
    sizes: tuple[int, int] = (1, 2)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    amount: int | float = 1
    fast: bool = False


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "shift", ShiftConfig)
    monkeypatch.setitem(TASKS, "many", ManyKindsConfig)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.toml"


def test_values_reach_their_fields(recipe: Path) -> None:
    recipe.write_text(
        MINIMAL
        + 'betas = [0.5, 0]\nprecision = "bfloat16"\n[task]\ntype = "many"\nwaves = [1, 2.5]\nmode = "far"\n'
        + 'folder = "some/where"\nsizes = [3, 4]\nfast = true\nweights = {a = 1}\nnoise = {spread = 1}\n'
    )
    config = read_config(recipe)
    assert (config.name, config.steps, config.learning_rate, config.betas) == ("a", 10, 1.0, (0.5, 0.0))
    assert isinstance(config.learning_rate, float) and config.precision == "bfloat16"
    assert config.task == ManyKindsConfig(
        waves=(1.0, 2.5),
        mode="far",
        folder=Path("some/where"),
        sizes=(3, 4),
        fast=True,
        weights={"a": 1.0},
        noise=NoiseConfig(spread=1.0),
    )
    assert read_config(recipe, steps=99).steps == 99


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (MINIMAL + "lerning_rate = 1\n" + TASK, "unknown key `lerning_rate`", "`learning_rate`"),
        (MINIMAL + "[task]\ntype = 'shift'\nrow = 3", "unknown key `task.row`", "`task.rows`"),
        (MINIMAL + TASK + "noise = {spred = 1}", "unknown key `task.noise.spred`", "`task.noise.spread`"),
        ("name = 'a'\nsteps = 10\n" + TASK, "`learning_rate` is missing", ""),
        (MINIMAL, r"table `\[task\]` is missing", "type = NAME"),
        (MINIMAL + "task = 'shift'", r"table `\[task\]` is missing", "type = NAME"),
        (MINIMAL + "[task]\nrows = 3", "`task.type` is missing", "shift"),
        (MINIMAL + "[task]\ntype = 'shuft'", "`task.type` names no known task: 'shuft'", "shift"),
        (MINIMAL + "[task]\ntype = ['shift']", "`task.type` names no known task", "shift"),
        (MINIMAL.replace("10", "10.0") + TASK, "`steps` must be a whole number, not 10.0", ""),
        (MINIMAL.replace("10", "true") + TASK, "`steps` must be a whole number, not True", ""),
        (MINIMAL.replace("= 1\n", "= '1'\n") + TASK, "`learning_rate` must be a number, not '1'", ""),
        (MINIMAL.replace("= 1\n", "= true\n") + TASK, "`learning_rate` must be a number, not True", ""),
        (MINIMAL.replace("= 1\n", "= nan\n") + TASK, "`learning_rate` must be above 0", ""),
        (MINIMAL.replace("= 1\n", "= inf\n") + TASK, "`learning_rate` must be above 0", ""),
        (MINIMAL.replace("10", "0") + TASK, "`steps` must be at least 1", ""),
        (MINIMAL + "warmup_steps = -1\n" + TASK, "`warmup_steps` must be at least 0", ""),
        (MINIMAL + "final_fraction = 2\n" + TASK, "`final_fraction` must be between 0 and 1", ""),
        (MINIMAL + "ema_decay = 1\n" + TASK, "`ema_decay` and `betas` must be", ""),
        (MINIMAL.replace('"a"', '"../a"') + TASK, "`name` must be a plain file name", ""),
        (MINIMAL + "schedule = 'linear'\n" + TASK, "`schedule` must be one of 'cosine', 'constant', not 'linear'", ""),
        (MINIMAL + "betas = [0.9]\n" + TASK, r"`betas` must be a list of 2 \(a number\), not \[0.9\]", ""),
        (MINIMAL + TASK + "waves = [1, 'x']", r"`task.waves\[1\]` must be a number, not 'x'", ""),
        (MINIMAL + TASK + "waves = 1", r"`task.waves` must be a list \(a number\), not 1", ""),
        (MINIMAL + TASK + "noise = 1", "`task.noise` must be a table, not 1", ""),
        (MINIMAL + TASK + "rows = 0", "`task`: `rows` must be at least 1", ""),
        (MINIMAL + TASK + "signal_at = 'x'", "`task.signal_at` must be a whole number, not 'x'", ""),
        (MINIMAL + "[task]\ntype = 'many'\nmode = 1", "`task.mode` must be one of 'near', 'far', not 1", ""),
        (MINIMAL + "[task]\ntype = 'many'\nfast = 1", "`task.fast` must be true or false, not 1", ""),
        (MINIMAL + "[task]\ntype = 'many'\namount = 'x'", "`task.amount` must be a whole number or a number", ""),
    ],
)
def test_mistakes_name_the_key_and_the_file(recipe: Path, text: str, message: str, hint: str) -> None:
    recipe.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_config(recipe)
    assert str(recipe) in raised.value.message and hint in raised.value.hint


def test_what_is_no_toml(recipe: Path) -> None:
    for text in (b"name = ", b"name = '\xff'"):
        recipe.write_bytes(text)
        with pytest.raises(InputError, match="not valid TOML"):
            read_config(recipe)


def test_data_hold_everything_and_compare(recipe: Path) -> None:
    recipe.write_text(MINIMAL + '[task]\ntype = "many"\nfolder = "x"\n')
    config = read_config(recipe)
    data = config_as_data(config)
    assert data["task"]["type"] == "many" and data["task"]["noise"] == {"spread": 0.01}
    assert data["task"]["folder"] == "x" and data["betas"] == [0.9, 0.99]
    stored = json.loads(json.dumps(data))
    check_same_run(config, stored)
    for field in MAY_CHANGE:
        check_same_run(config, {**stored, field: 12345})
    for changed in ({**stored, "seed": 1}, {**stored, "new": 1}, {**stored, "task": {**stored["task"], "rows": 1}}):
        with pytest.raises(UsageError, match="recipe differs"):
            check_same_run(config, changed)
