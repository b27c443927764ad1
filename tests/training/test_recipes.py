"""The committed recipes: all can be read, and the smallest one learns and resumes to the bit."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from vggsfm_cli.cli.app import app
from vggsfm_cli.synthetic.scenes import SceneConfig
from vggsfm_cli.training.config import read_config
from vggsfm_cli.training.data import Pool, PoolConfig
from vggsfm_cli.training.tasks.tracks import TracksTaskConfig, gather

RECIPES = Path(__file__).parents[2] / "benchmarks" / "training"


@pytest.fixture(autouse=True)
def procedural(monkeypatch, tmp_path):
    monkeypatch.delenv("VGGSFM_TEXTURES", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_can_be_read(path):
    assert read_config(path).name == path.stem


def train(*options: str) -> None:
    result = CliRunner().invoke(app, ["train", str(RECIPES / "smoke.toml"), "--quiet", "--device", "cpu", *options])
    assert result.exit_code == 0, result.output


def test_the_smoke_recipe_learns_and_resumes_to_the_bit():
    train("--out", "whole")
    train("--out", "parts", "--stop-after-steps", "20")
    train("--out", "parts", "--resume")
    log = [[json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()] for run in ("whole", "parts")]
    losses = [[line["loss"] for line in lines if "terms" in line] for lines in log]
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.8 * losses[0][0]
    weights = [torch.load(Path(run, "best.pt"), weights_only=True) for run in ("whole", "parts")]
    assert str(weights[0]) == str(weights[1])
    exported = [Path(run, "export", "encoder.safetensors").read_bytes() for run in ("whole", "parts")]
    assert exported[0] == exported[1]


def test_evidence_on_renders_lies_beside_the_truth():
    """The tracker's findings and the exact tracks speak of the same pixels."""
    pool = PoolConfig(
        scene=SceneConfig(frames=3, height=192, width=192, max_angle_deg=(5.0, 15.0), shadows=False),
        scenes_per_example=1,
        examples=2,
        queries_per_frame=120,
        texture_side=128,
        textures=24,
    )
    config = TracksTaskConfig(pool=pool, pool_folder="runs", groups=2, validation_examples=1)
    torch.manual_seed(0)
    task = config.build(0, torch.device("cpu"))
    distances = []
    for number in range(2):
        for judged in gather(task.tracker, Pool(pool, 0)[number]):
            seen = judged.evidence.tried & judged.visible
            distances.append((judged.evidence.xy - judged.xy).norm(dim=-1)[seen])
    distance = torch.cat(distances)
    assert len(distance) > 200
    assert distance.median() < 0.2
    terms = task.losses(task.batch(0))
    assert set(terms) == {"visibility", "position"}
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in task.module.parameters() if p.grad is not None)
    figures = task.validate()
    assert {"loss", "precision", "classical precision", "inside 50"} <= set(figures)
    with torch.no_grad():
        task.module.head.bias[0] = -50.0
        assert task.calibration() == 0
        task.module.head.bias[0] = 50.0
    factor = math.exp(task.calibration())
    task.export(Path("export"))
    exported = {
        name.removeprefix("tracker.judge."): value for name, value in load_file("export/tracks.safetensors").items()
    }
    logit = task.module.head.bias[0].clone()
    task.module.load_state_dict(exported)
    assert task.module.head.bias[0] == logit
    assert math.exp(task.calibration()) == pytest.approx(1, abs=0.03)
    assert factor != pytest.approx(1, abs=0.03)
