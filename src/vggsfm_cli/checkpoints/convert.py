"""Published ``.bin`` files become a model folder of ours, once: ``config.json`` and ``model.safetensors``.

A ``.bin`` is a pickle, which could run any code. It is read with ``weights_only=True``, where torch builds tensors and
nothing else, and every tensor is compared with the published names and shapes before a file is written.
"""

import json
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vggsfm_cli.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, config_to_json
from vggsfm_cli.errors import WeightsUnavailable
from vggsfm_cli.folders import whole_folder
from vggsfm_cli.recipes.v2 import weights as v2_weights

SOURCE_FILE = "source.json"
"""Beside the converted weights: where they are from, their SHA-256 and their licence."""

LISTED = 3
"""How many names a message lists of those that are wrong."""

WRONG_FILE = "Is it the file that was published under this name, and did it arrive whole? Else delete it, get it again."


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedLayout:
    """What a published file holds, and what it becomes.

    Attributes:
        expected: shape of every tensor, by its published name.
        rename: our name of every tensor, by its published name.
        config: of the model that takes them.
    """

    expected: Mapping[str, tuple[int, ...]]
    rename: Mapping[str, str]
    config: Any


def v2_layout() -> PublishedLayout:
    """What the published file of VGGSfM v2 holds."""
    return PublishedLayout(
        expected=v2_weights.published_shapes(), rename=v2_weights.published_keys(), config=v2_weights.V2
    )


LAYOUTS: dict[str, Callable[[], PublishedLayout]] = {"v2": v2_layout}
"""The published files that can be converted, by the name of the model."""


def layout_of(name: str) -> PublishedLayout:
    """The layout of a named model's published file.

    Raises:
        WeightsUnavailable: this version cannot run that model.
    """
    if name not in LAYOUTS:
        known = ", ".join(LAYOUTS) or "none"
        raise WeightsUnavailable(
            f"This version of vggsfm-cli cannot run the published weights of {name!r}.",
            f"Published weights it can run: {known}.",
        )
    return LAYOUTS[name]()


def convert(file: Path, layout: PublishedLayout, out: Path, source: Mapping[str, Any]) -> Path:
    """Write a published file as a model folder, whole or not at all.

    Args:
        file: as it was published.
        layout: what it should hold.
        out: folder to write; replaced if it exists.
        source: JSON types for ``source.json``.

    Returns:
        ``out``.

    Raises:
        WeightsUnavailable: the file cannot be read, holds anything but tensors, or other tensors than ``layout`` says.
        WriteFailed: the disk refuses.
    """
    state = read_published(file)
    check_layout(state, layout.expected, file)
    with whole_folder(out.resolve(), lambda: None) as unfinished:
        # copies, as safetensors takes no tensors that share their memory; one at a time, as they may be large
        renamed = {
            layout.rename[name]: state.pop(name).clone(memory_format=torch.contiguous_format) for name in list(state)
        }
        save_file(renamed, unfinished / WEIGHTS_FILE)
        (unfinished / CONFIG_FILE).write_text(json.dumps(config_to_json(layout.config), indent=2) + "\n")
        (unfinished / SOURCE_FILE).write_text(json.dumps(dict(source), indent=2) + "\n")
        (unfinished / WEIGHTS_FILE).chmod(0o644)  # the library writes for the owner alone
    return out


def read_published(file: Path) -> dict[str, Tensor]:
    """The tensors of a published file; nothing in it is executed.

    Raises:
        WeightsUnavailable: there is no such file, it is truncated, no torch file, or holds anything but tensors.
    """
    if not file.is_file():
        raise WeightsUnavailable(f"There is no file {str(file)!r}.", "Name the .bin file that was published.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about oddities of a file that is refused in words of our own
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsUnavailable(
            f"{str(file)!r} holds more than tensors, or is damaged; it is refused, and nothing in it was run: "
            f"{_first_sentence(error)}",
            "Only use files from where they were published. " + WRONG_FILE,
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsUnavailable(
            f"{str(file)!r} is truncated or not a file of torch: {_first_sentence(error)}", WRONG_FILE
        ) from error
    if not isinstance(state, dict):
        raise WeightsUnavailable(f"{str(file)!r} holds a {type(state).__name__}, not named tensors.", WRONG_FILE)
    if other := [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]:
        raise WeightsUnavailable(
            f"{str(file)!r} holds {_some(map(str, other))} that {'is' if len(other) == 1 else 'are'} no tensor.",
            WRONG_FILE,
        )
    return state


def _first_sentence(error: Exception) -> str:
    """Torch's messages go on for paragraphs about how to read a file all the same, which is not what is wanted."""
    text = " ".join(str(error).split()) or type(error).__name__
    for lead in ("WeightsUnpickler error: ", "Unsupported global: ", "Unsupported class "):
        if lead in text:
            return text[text.index(lead) :].split(". ")[0].split(" was not an allowed")[0] + "."
    return text.split(". ")[0].rstrip(".") + "."


def check_layout(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Compare names, shapes and values with what was published.

    Raises:
        WeightsUnavailable: naming what is missing, what is too much, what has another shape and what is not finite, a
            few of each.
    """
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    broken = [
        name
        for name, value in state.items()
        if name in expected and not (_is_real(value) and bool(torch.isfinite(value).all()))
    ]
    faults = [
        f"{what} {_some(names)}"
        for what, names in (
            ("misses", missing),
            ("has the unknown", unknown),
            ("has other shapes:", shapes),
            ("has no finite real numbers in", broken),
        )
        if names
    ]
    if faults:
        raise WeightsUnavailable(
            f"{str(file)!r} does not hold the {len(expected)} tensors that were published: it {'; it '.join(faults)}.",
            WRONG_FILE,
        )


def _is_real(value: Tensor) -> bool:
    """Floating point, or one number, as the counter of a batch normalisation is."""
    return value.is_floating_point() or (value.ndim == 0 and not value.is_complex())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more
