"""From a model's name to its weights: which, why, under which licence, and what the network is asked."""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from hub_server import COMMIT, REPO, be_impatient, hub  # noqa: F401
from vggsfm_cli.checkpoints import convert, load_model, registry, resolve_model
from vggsfm_cli.checkpoints.convert import PublishedLayout
from vggsfm_cli.checkpoints.files import save_model
from vggsfm_cli.cli.app import app
from vggsfm_cli.errors import UsageError, WeightsUnavailable
from vggsfm_cli.model import VGGSfMConfig

run = CliRunner().invoke
OFFICIAL = "official.bin"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as it could be published, and its layout: the weights of an untrained model under other names."""
    torch.manual_seed(0)
    model = VGGSfMConfig(name="v2").build()
    state = {f"theirs.{name}": value for name, value in model.state_dict().items()}
    file = tmp_path_factory.mktemp("published") / OFFICIAL
    torch.save(state, file)
    layout = PublishedLayout(
        expected={name: tuple(value.shape) for name, value in state.items()},
        rename={name: name.removeprefix("theirs.") for name in state},
        config=model.config,
    )
    return file, layout, model


@pytest.fixture
def served(hub, published, monkeypatch):  # noqa: F811
    """The stand-in for the Hub has that file, and ``v2`` is published there."""
    file, layout, model = published
    hub.files[OFFICIAL] = file.read_bytes()
    v2 = replace(registry.REGISTRY["v2"], hub=registry.HubFile(repo=REPO, file=OFFICIAL))
    monkeypatch.setitem(registry.REGISTRY, "v2", v2)
    monkeypatch.setitem(convert.LAYOUTS, "v2", lambda: layout)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    hub.model = model
    return hub


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open a connection is an error."""

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_small_needs_no_network(no_network):
    found = resolve_model("small")
    assert (found.name, found.licence) == ("small", "Apache-2.0")
    assert "Apache-2.0" in found.sentence() and found.load().config.name == "small"


def test_v2_is_downloaded_once_after_its_licence_was_shown(served):
    said = []

    def notice(text):
        said.append((text, len(served.asked)))

    found = resolve_model("v2", notice=notice)
    ((text, asked),) = said
    assert "CC BY-NC 4.0 (not for commercial use)" in text and REPO in text and asked == 0
    assert found.as_dict() == {
        "name": "v2",
        "reason": "asked for",
        "licence": "CC BY-NC 4.0",
        "licence_note": "not for commercial use",
        "repo": REPO,
        "file": OFFICIAL,
        "revision": "main",
        "commit": COMMIT,
        "sha256": hashlib.sha256(served.files[OFFICIAL]).hexdigest(),
    }
    loaded = found.load().state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in served.model.state_dict().items())
    asked = len(served.asked)
    assert resolve_model("v2", offline=True, notice=notice).folder == found.folder
    assert resolve_model("v2", revision=COMMIT, notice=notice).folder == found.folder
    assert resolve_model(f"hf:{REPO}@{COMMIT}", notice=notice).folder == found.folder
    assert len(served.asked) == asked and len(said) == 1


def test_auto_takes_v2_only_on_cuda_and_only_when_it_is_here(served):
    on_cpu, before = resolve_model("auto", "cpu"), resolve_model("auto", "cuda")
    assert on_cpu.name == "small" and "no CUDA device" in on_cpu.reason and "--model v2" in on_cpu.hint
    assert before.name == "small" and "weights download v2" in before.hint and "CC BY-NC" in before.hint
    assert served.asked == []
    resolve_model("v2")
    asked = len(served.asked)
    after = resolve_model("auto", "cuda")
    assert after.name == "v2" and "on CUDA" in after.reason and "CC BY-NC" in after.sentence()
    assert resolve_model("auto", "cpu").name == "small" and len(served.asked) == asked


def test_a_file_that_another_tool_downloaded_is_found(served):
    from vggsfm_cli.checkpoints.hub import fetch

    fetch(registry.REGISTRY["v2"].hub)
    asked, said = len(served.asked), []
    assert resolve_model("auto", "cuda", offline=True, notice=said.append).name == "v2"
    assert len(served.asked) == asked and said == []


def test_a_wrong_file_on_the_hub_is_refused_by_name_and_shape(served, published):
    state = torch.load(published[0], weights_only=True)
    name = next(iter(state))
    state[name] = torch.zeros(1)
    torch.save(state, published[0].with_name("wrong.bin"))
    served.files[OFFICIAL] = published[0].with_name("wrong.bin").read_bytes()
    with pytest.raises(WeightsUnavailable, match=rf"{name} \[1\] instead of"):
        resolve_model("v2")
    with pytest.raises(WeightsUnavailable, match="instead of"):
        resolve_model("auto", "cuda")


def test_a_model_of_ours_on_the_hub(served, tmp_path):
    save_model(served.model, tmp_path / "mine")
    for file in (tmp_path / "mine").iterdir():
        served.files[file.name] = file.read_bytes()
    registry.REGISTRY["v2"] = replace(registry.REGISTRY["v2"], hub=registry.HubFile(repo="other/one", file="x"))
    said = []
    found = resolve_model(f"hf:{REPO}@v2.0", notice=said.append)
    assert len(said) == 1 and "licence" in said[0].lower()
    assert found.source["commit"] == COMMIT and found.source["revision"] == "v2.0"
    assert found.source["sha256"] == hashlib.sha256(served.files["model.safetensors"]).hexdigest()
    loaded = found.load().state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in served.model.state_dict().items())
    assert resolve_model(f"hf:{REPO}", offline=False, revision="v2.0").folder == found.folder


def test_a_folder_keeps_its_licence(served, published, tmp_path):
    result = run(app, ["weights", "convert", str(published[0]), "--out", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "mine") and served.asked == []
    found = resolve_model(str(tmp_path / "mine"))
    assert found.licence == "CC BY-NC 4.0" and found.source["file"] == OFFICIAL
    assert load_model(str(tmp_path / "mine")).config == served.model.config
    again = run(app, ["weights", "convert", str(published[0]), "--out", str(tmp_path / "mine")])
    assert again.exit_code == 2 and "is there already" in again.stderr


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("huge", None, "no model 'huge'"),
        ("small", "main", "--revision makes no sense"),
        ("auto", "main", "--revision makes no sense"),
        ("hf:a/b@one", "two", "contradict"),
    ],
)
def test_names_that_make_no_sense(name, revision, says):
    with pytest.raises(UsageError, match=says) as caught:
        resolve_model(name, revision=revision)
    assert caught.value.hint


def test_weights_commands(served):
    listed = {row["name"]: row for row in json.loads(run(app, ["weights", "list", "--json"]).stdout)}
    assert listed["small"]["state"] == "bundled" and listed["v2"]["state"] == "not downloaded"
    missing = run(app, ["weights", "path", "v2"])
    assert missing.exit_code == 6 and "not on this disk" in missing.stderr and missing.stdout == ""
    assert served.asked == []
    got = run(app, ["weights", "download", "v2", "--json"])
    assert got.exit_code == 0 and "CC BY-NC 4.0" in got.stderr and "download" in got.stderr
    assert json.loads(got.stdout)["commit"] == COMMIT
    assert "downloaded      CC BY-NC 4.0" in run(app, ["weights", "list"]).stdout
    folder = run(app, ["weights", "path", "v2"]).stdout.strip()
    assert json.loads(got.stdout)["folder"] == folder
    info = json.loads(run(app, ["weights", "info", "v2", "--json"]).stdout)
    assert (
        info["tensors"] == len(served.model.state_dict())
        and info["sha256"] in run(app, ["weights", "info", "v2"]).stdout
    )
    assert info["parameters"] == sum(value.numel() for value in served.model.state_dict().values())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"files": {}}, "has no file"),
        ({"status": 500}, "HTTP 500"),
        ({"delay_s": 1.0}, "did not answer in time"),
        ({"damage": True}, "arrived damaged"),
    ],
)
def test_failures_end_with_a_sentence_and_code_6(served, monkeypatch, fault, says):
    if "delay_s" in fault:
        be_impatient(monkeypatch)
    for name, value in fault.items():
        setattr(served, name, value)
    result = run(app, ["weights", "download", "v2"])
    assert result.exit_code == 6 and result.stdout == ""
    assert says in result.stderr and "hint: " in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["list", "download", "info", "convert", "path"])
def test_every_command_has_an_example(command):
    assert f"Example: vggsfm weights {command}" in run(app, ["weights", command, "--help"]).stdout


IN_A_PROCESS = f"""
import sys
from vggsfm_cli.checkpoints import resolve_model
resolve_model("auto")
assert "huggingface_hub" not in sys.modules
folder = resolve_model("hf:{REPO}").folder
assert resolve_model("hf:{REPO}", offline=True).folder == folder
print(folder)
"""


def test_the_environment_decides(hub, tmp_path):  # noqa: F811
    """HF_ENDPOINT and HF_HOME reach a process of its own, which loads the library for the network only to use it."""
    hub.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", IN_A_PROCESS]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path / "home")) and COMMIT in ran.stdout
