"""Which device a user gets, and copies of stages on another one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from support.pretended import AVAILABLE, WrongDevice, pretended_device
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.cli import doctor
from vggsfm_cli.cli.app import app
from vggsfm_cli.devices import MAPPING, choose_device, copy_on, has_float64, moved, with_float64
from vggsfm_cli.errors import UsageError

SMOKE = Path(__file__).parents[2] / "benchmarks" / "training" / "smoke.toml"

needs_pretended = pytest.mark.skipif(not AVAILABLE, reason="this torch has no backends in Python")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets which accelerators torch finds."""

    def found(*, cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return found


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device_there_is(machine, cuda, mps, expected):
    machine(cuda=cuda, mps=mps)
    assert choose_device("auto") == torch.device(expected)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
@pytest.mark.parametrize("command", [["reconstruct", "photos", "--out", "x"], ["train", str(SMOKE)]])
def test_a_device_that_is_not_there_is_a_usage_error(machine, tmp_path, monkeypatch, name, command):
    monkeypatch.chdir(tmp_path)
    machine()
    with pytest.raises(UsageError, match=f"no {name.upper()} device"):
        choose_device(name)
    result = CliRunner().invoke(app, [*command, "--device", name])
    assert result.exit_code == 2
    assert f"no {name.upper()} device" in result.stderr and "hint: Use --device auto" in result.stderr


def test_the_doctor_names_each_device(machine):
    machine(mps=True)
    lines = {finding.subject: finding for finding in doctor._check_devices()}
    assert lines["device cuda"].status == "note"
    assert lines["device mps"].status == "ok" and "double precision" in lines["device mps"].detail
    assert lines["--device auto"].detail == "means mps here"
    machine()
    assert CliRunner().invoke(app, ["doctor"]).stdout.count("torch finds none") == 2


@needs_pretended
def test_the_pretended_device_refuses_what_accelerators_refuse():
    with pretended_device() as device:
        here, there = torch.ones(3, device=device), torch.ones(3)
        assert float((here + 1).sum()) == 6 and (here.cpu() == there).all()
        with pytest.raises(WrongDevice, match="mixes"):
            here + there
        with pytest.raises(WrongDevice, match="mixes"):
            here[torch.tensor([0, 1])] = there[:2]
        with pytest.raises(WrongDevice, match="mixes"):
            nn.Linear(3, 2)(here)
        with pytest.raises(WrongDevice, match="numpy"):
            here.numpy()
        with pytest.raises(WrongDevice, match="numpy"):
            np.asarray(here)
        with pytest.raises(WrongDevice, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=device)
        with pytest.raises(WrongDevice, match="generator"):
            here.uniform_(generator=torch.Generator())
        grown = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
        grown.square().sum().backward()
        assert grown.grad is not None and grown.grad.device == device and grown.grad.tolist() == [2.0, 4.0]
    with pretended_device(float64=False) as device:
        for make in (lambda: torch.zeros(2).double().to(device), lambda: torch.zeros(2, device=device).double()):
            with pytest.raises(TypeError, match="float64"):
                make()


@needs_pretended
def test_double_precision_is_looked_for():
    value = torch.tensor([1 / 3], dtype=torch.float64)
    assert has_float64(torch.device("cpu"))
    with pretended_device() as device:
        assert has_float64(device) and with_float64(device) == device
        assert moved(value, device).dtype == torch.float64
    with pretended_device(float64=False) as device:
        assert not has_float64(device) and with_float64(device) == torch.device("cpu")
        assert moved(value, device).dtype == torch.float32 and moved(value, device).device == device


@needs_pretended
def test_a_copy_leaves_the_model_where_it_is():
    model = load_model()
    assert copy_on(model.triangulator, MAPPING) is model.triangulator
    with pretended_device() as device:
        model = model.to(device)
        copied = copy_on(model.triangulator, MAPPING)
        assert copied is not model.triangulator and type(copied) is type(model.triangulator)
        assert {tensor.device.type for tensor in copied.state_dict().values()} == {"cpu"}
        assert {tensor.device for tensor in model.state_dict().values()} == {device}
        for name, value in model.triangulator.state_dict().items():
            assert torch.equal(copied.state_dict()[name], value.cpu()), name
