"""Which step runs on which device, decided here and nowhere else.

| step | device |
| --- | --- |
| features, tracks, also those of extra points, the networks of v2, training | the user's choice |
| mapping: view graph, cameras, points, adjustment, confidence; the map of a sequence | ``MAPPING`` |
| whatever computes in double precision | ``with_float64`` of the user's choice |
| files, pictures, reports | the CPU |

A stage follows the device of its inputs. What moves tensors between devices names one of the functions below.
"""

import copy
import platform
from typing import TypeVar

import torch
from torch import Tensor, nn

from vggsfm_cli.errors import UsageError
from vggsfm_cli.options import Device

MAPPING = torch.device("cpu")
"""Where tracks become models. Its steps are many and small, in double precision, and search with data-dependent
shapes, so that an accelerator would wait for most of them."""

Module = TypeVar("Module", bound=nn.Module)


def choose_device(choice: Device) -> torch.device:
    """The device that a user means; ``auto`` is CUDA if torch finds it, else MPS, else the CPU.

    Raises:
        UsageError: torch does not find that device here.
    """
    found = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    if choice == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if found[name]))
    if not found[choice]:
        raise UsageError(
            f"torch finds no {choice.upper()} device on {platform.node()}.",
            "Use --device auto or --device cpu; `vggsfm doctor` lists the devices that torch finds.",
        )
    return torch.device(choice)


def has_float64(device: torch.device) -> bool:
    """Whether a device can compute in double precision; Apple's MPS cannot."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except TypeError:
        return False
    return True


def with_float64(device: torch.device) -> torch.device:
    """``device`` if it can compute in double precision, else the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on ``device``; in single precision where the device has no double precision."""
    device = torch.device(device)
    if tensor.dtype == torch.float64 and not has_float64(device):
        tensor = tensor.float()
    return tensor.to(device)


def copy_on(module: Module, device: torch.device) -> Module:
    """The module if it is on ``device`` already, else a copy of it there; the module itself stays where it is."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    if all(tensor.device == device for tensor in tensors):
        return module
    with torch.no_grad():
        moved: dict[int, Tensor] = {
            id(tensor): nn.Parameter(tensor.to(device), tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else tensor.to(device)
            for tensor in tensors
        }
    return copy.deepcopy(module, moved)
