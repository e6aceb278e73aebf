"""The user's own module: made by the function that is named, filled strictly with the checkpoint's tensors.

This runs the named code, and nothing else of the user's: the checkpoint is read by the safe reader.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...validation.errors import InputError
from ..documents import JSON

SHOWN = 8
"""Names of tensors that a message lists."""


def make(named: str, folder: Path) -> tuple[nn.Module, JSON]:
    """Call "package.module:function", found as Python finds it in a folder: the module, and its configuration if any.

    Raises:
        InputError: there is no such function, it fails, or it gives something else.
    """
    path, colon, name = named.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"--module {named}: expected package.module:function, as in net:make")
    with _importing(folder):
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name and path.startswith(error.name):
                raise InputError(f"--module {named}: there is no module {path} in {folder} or installed") from error
            raise InputError(f"--module {named}: importing {path} fails: {error}") from error
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"--module {named}: importing {path} fails: {_told(error)}") from error
        function = getattr(found, name, None)
        if not callable(function):
            raise InputError(f"--module {named}: {path} has no function {name}")
        try:
            made = function()
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"--module {named}: {name}() fails: {_told(error)}") from error
    module, config = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(f"--module {named}: {name}() gives a {type(made).__name__}, expected a torch.nn.Module")
    return module.eval().requires_grad_(False), config


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Let Python look in a folder first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def fill(module: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, str]:
    """Put the checkpoint's tensors into a module, on their own memory; give path -> tensor of all that were put.

    What a module holds under several names may be stored under one of them.

    Raises:
        InputError: names that are missing, left over, or of another shape: all of them.
    """
    wanted = module.state_dict(keep_vars=True)
    shared: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        shared.setdefault(id(tensor), []).append(name)
    missing = [n for n, t in wanted.items() if n not in state and not any(o in state for o in shared[id(t)])]
    extra = [name for name in state if name not in wanted]
    other = [
        f"{n} {tuple(state[n].shape)}, expected {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in state and state[n].shape != t.shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in (("missing", missing), ("left over", extra), ("of another shape", other))
        if names
    ]
    if problems:
        raise InputError(f"the checkpoint does not fill {what}: tensors {'; '.join(problems)}")
    module.load_state_dict(dict(state), strict=False, assign=True)
    for names in shared.values():
        stored = [name for name in names if name in state]
        if len(names) > 1:
            _share(module, names, stored[0])
    module.requires_grad_(False)
    return {name: name if name in state else next(o for o in shared[id(t)] if o in state) for name, t in wanted.items()}


def _share(module: nn.Module, names: list[str], stored: str) -> None:
    """Put what is stored under one name under all of them, as the module had it.

    The names of one parameter that the checkpoint holds twice keep one of the two, which the ledger proves equal.
    """
    tensor = module.state_dict(keep_vars=True)[stored]
    for name in names:
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, tensor)


def computing_in_float32(module: nn.Module) -> nn.Module:
    """Give the module with its numbers in float32, for torch to trace: a copy of what is stored lower."""
    lower = (torch.float16, torch.bfloat16)
    return module.float() if any(t.dtype in lower for t in module.state_dict().values()) else module
