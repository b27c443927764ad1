"""An accelerator that is only pretended: its tensors compute on the CPU and refuse what real ones refuse.

PyTorch's hooks for backends in Python give the dispatch key ``PrivateUse1`` a handler. This one holds CPU tensors in
wrappers, runs every operation on what they hold, and raises where CUDA would: when an operation mixes wrapped tensors
with others of one or more axes, when a wrapped tensor is read as numpy, when a generator of the CPU draws for it. With
``float64`` switched off it also refuses double precision, as Apple's MPS does.

It says nothing of speed, memory, kernels or autocast.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import backend_registration

NAME = "pretended"

AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""torch 2.10 and later can have a backend in Python."""

MOVES = ("aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
"""Operations whose indices may lie on the CPU."""

FACTORIES = (
    "tensor", "as_tensor", "arange", "linspace", "eye", "full", "zeros", "ones", "empty", "rand", "randn", "randperm",
    "randint", "triu_indices", "tril_indices",
)  # fmt: skip


class WrongDevice(RuntimeError):
    """What a real accelerator would refuse too."""


class _Rules:
    """Set by ``pretended_device``; for all threads, since backward passes run on threads of their own."""

    float64 = True


_rules = _Rules()


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        """Wrap a CPU tensor."""
        if held.dtype == torch.float64 and not _rules.float64:
            raise TypeError("this device has no float64")
        self: OnDevice = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=_device()
        )
        self.held = held
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        """As on an accelerator: not without ``cpu``."""
        raise WrongDevice("a tensor of an accelerator becomes numpy only after .cpu()")

    def __array__(self, dtype: Any = None) -> Any:
        raise WrongDevice("a tensor of an accelerator becomes numpy only after .cpu()")

    def tolist(self) -> Any:
        """Reading values waits for the device and is allowed."""
        return self.held.tolist()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        """As torch does it: on the device of this tensor unless another one is named."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or _device(), requires_grad=requires_grad)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_listless(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_listless(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _listless(index: Any) -> Any:
    """Lists of indices as tensors, since torch would make such tensors without asking the handler."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(
        torch.tensor(part, dtype=None if part else torch.long) if isinstance(part, list) else part for part in parts
    )


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The function of every tensor and device among arguments or results."""
    if isinstance(value, Tensor | torch.device):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, part) for part in value])
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _held(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.held
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


def _wrapped(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation of which some tensor, or the device that is asked for, is the pretended one."""
    name = func.name().split(".")[0]
    leaves = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
    ours = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), _device() if ours else None)
    if name not in MOVES:
        _refuse_mixture(name, args, leaves, ours)
    if any(isinstance(leaf, torch.Generator) and leaf.device.type == "cpu" for leaf in leaves):
        raise WrongDevice(f"{name} gets a generator of the CPU")
    if name in ("aten::_copy_from", "aten::_copy_from_and_resize"):
        _held(args[1]).copy_(_held(args[0]))
        return args[1]
    out = func(*_mapped(_held, args), **{key: _mapped(_held, value) for key, value in kwargs.items()})
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    if target is None or target.type != NAME:
        return out
    return _mapped(_wrapped, out)


def _refuse_mixture(name: str, args: Any, leaves: list[Any], ours: list[OnDevice]) -> None:
    if not ours:
        return
    if name in INDEXED and isinstance(args[0], OnDevice):
        leaves = [args[0], *args[2:3]]
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice) and leaf.dim() > 0]
    if others:
        shapes = ", ".join(str(tuple(other.shape)) for other in others)
        raise WrongDevice(f"{name} mixes tensors of the accelerator with those of the CPU, shapes {shapes}")


def _on_device(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The factory; what it makes for the pretended device is made on the CPU and moved: torch has no kernels for it."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Tensor:
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return factory(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise WrongDevice(f"{factory.__name__} gets a generator of the CPU")
        made = factory(*args, **{**kwargs, "device": "cpu", "requires_grad": False})
        return made.to(_device()).requires_grad_(kwargs.get("requires_grad", False))

    return make


def _singular_values(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As on the CPU: for wrapped tensors torch takes another routine, whose last bits differ."""

    def svdvals(matrix: Tensor) -> Tensor:
        plain = isinstance(matrix, OnDevice) and not (torch.is_grad_enabled() and matrix.requires_grad)
        return OnDevice(original(matrix.held)) if plain else original(matrix)

    return svdvals


class _Backend(backend_registration._DummyBackendModule):
    """What autocast, serialization and ``fork_rng`` ask of a backend; its random numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: int | torch.device = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: int | torch.device = 0) -> None:
        torch.set_rng_state(state)


_library: list[torch.library.Library] = []
"""Keeps the handler registered."""


def register() -> None:
    """Make the device known to torch, before its first backward pass in this process: it counts devices only then."""
    if AVAILABLE:
        _device()


@functools.cache
def _device() -> torch.device:
    """The device, registered once a process: torch takes a backend's name and hooks only once."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    _library.append(torch.library.Library("_", "IMPL"))
    _library[0].fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    return torch.device(NAME, 0)


@contextmanager
def pretended_device(*, float64: bool = True) -> Iterator[torch.device]:
    """The pretended accelerator.

    Args:
        float64: whether it can compute in double precision.
    """
    device, before = _device(), _rules.float64
    _rules.float64 = float64
    with ExitStack() as patches:
        for name in FACTORIES:
            patches.enter_context(mock.patch.object(torch, name, _on_device(getattr(torch, name))))
        patches.enter_context(mock.patch.object(torch.linalg, "svdvals", _singular_values(torch.linalg.svdvals)))
        try:
            yield device
        finally:
            _rules.float64 = before
