"""peft beside the judge: upstream's class on the base's tensors, and the adapter's own layers around it, not merged.

Only where the merged weights are rounded to half precision is the adapter merged here too, by peft in float64, layer by
layer: base and adapter side by side are another network then.
"""

import copy
import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from ..validation.errors import EnvironmentFailure, GateError, InputError, raised
from . import upstream
from .adapter import BASE, CONFIG, MAGNITUDE, ORIGINAL, Adapter
from .derived import rounded
from .reference import Original, Reference, State, tensor_of

NAME = "default"
"""What peft calls an adapter that nobody named."""

HOLDER = "base_model.model."
"""What stands before every name in peft's files."""

ELSEWHERE = dict.fromkeys(("task_type", "auto_mapping", "base_model_name_or_path", "revision"))
"""Fields that say where the base is and which of peft's classes wraps it: here it is wrapped already."""

HALF = ("float16", "bfloat16")


def peft() -> Any:
    """Import peft.

    Raises:
        EnvironmentFailure: it is missing.
    """
    upstream.transformers()
    try:
        import peft
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "parity needs peft, whose layers the adapter was trained in: pip install 'bgevis-convert[upstream]'"
        ) from error
    return peft


def without(original: Original, adapter: Adapter) -> Original:
    """Give the base as it was before: its own tensors, by the names that they have without an adapter."""
    own = set(_tensors(original.state, adapter))
    base = {name: tensor for name, tensor in original.state.items() if name not in own}
    return replace(original, state={_plain(name): tensor for name, tensor in base.items()})


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in (BASE, ORIGINAL))


def _tensors(state: State, adapter: Adapter) -> dict[str, str]:
    """Name the adapter's tensors, and give the name that each has in peft's file."""
    found: dict[str, str] = {}
    for group in adapter.layers:
        ends = (*group.factors, *([MAGNITUDE] if group.lengths else ()))
        names = [f"{layer}.{end}" for layer in group.names for end in ends]
        found |= {name: adapter.as_trained(name) for name in names}
    found |= dict(adapter.replaced)
    return {name: HOLDER + key for name, key in found.items() if name in state}


def beside(reference: Reference, original: Original, adapter: Adapter) -> Reference:
    """Put peft's layers into the reference's module, in their places.

    Args:
        reference: on the base alone, see `without`.
        original: with the adapter's tensors, and its configuration where it has one.
        adapter: what it does.

    Raises:
        GateError: the reference has not the layers that the adapter changes.
        InputError: peft refuses the adapter.
    """
    library = peft()
    places, holder = _places(reference, adapter), _as_trained(reference, adapter)
    keys = _tensors(original.state, adapter)
    config = original.documents.get(CONFIG) or _stated(adapter)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (Path(scratch) / CONFIG).write_text(json.dumps({**config, **ELSEWHERE}))
        torch.save({key: original.state[n].clone() for n, key in keys.items()}, Path(scratch) / "adapter_model.bin")
        try:
            model = library.PeftModel.from_pretrained(holder, scratch, torch_device="cpu")
        except Exception as error:  # whatever peft raises, it cannot open the adapter
            raise InputError(f"peft cannot put the adapter beside {reference.name}: {raised(error)}") from error
    model.eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(base := getattr(layer, BASE, None), nn.modules.conv._ConvNd):
            # Upstream reads these of its layers, and peft's in their places have them not.
            layer.stride, layer.kernel_size, layer.padding = base.stride, base.kernel_size, base.padding
    _put_back(model, {key: original.state[name] for name, key in keys.items()})
    merged = {
        f"{name}.weight": _merged(model.base_model.model, adapter.as_trained(name), group.dtype)
        for group in adapter.layers
        if group.dtype in HALF
        for name in group.names
        if f"{name}.weight" in places
    }
    stands = {
        f"{name}.{end}": f"{name}.weight"
        for group in adapter.layers
        for name in group.names
        if f"{name}.weight" in merged
        for end in (f"{BASE}.weight", *group.factors, MAGNITUDE)
    }
    name = f"{reference.name} with {upstream.versions('peft')}" + (", merged" if merged else "")
    return Reference(name, reference.module, reference.entries, {**original.state, **merged}, stands=stands)


def _places(reference: Reference, adapter: Adapter) -> dict[str, str]:
    """Say where the weights that the adapter changes are in the module; not those that upstream's class has not.

    That a leaf is made of one of these `Reference.check` finds.
    """
    paths = {name: path for path, name in reference.tensors().items()}
    names = (f"{name}.weight" for group in adapter.layers for name in group.names)
    return {name: paths[name] for name in names if name in paths}


def _as_trained(reference: Reference, adapter: Adapter) -> nn.Module:
    """Give the module in which the layers have the names that they had when the adapter was trained."""
    mounts = {_mount(path, adapter.as_trained(name)) for name, path in _places(reference, adapter).items()}
    if len(mounts) != 1:
        told = " and ".join(f"{where or 'itself'} for {outer or 'itself'}" for where, outer in sorted(mounts)) or "none"
        raise GateError(f"reference: the adapter's layers must lie in one place of {reference.name}: {told}")
    ((where, outer),) = mounts
    holder = reference.module.get_submodule(where)
    for name in reversed(outer.split(".") if outer else []):
        around = nn.Module()
        around.add_module(name, holder)
        holder = around
    return holder


def _mount(path: str, trained: str) -> tuple[str, str]:
    """Take away what two names end in."""
    here, there = path.split("."), trained.split(".")
    while here and there and here[-1] == there[-1]:
        here.pop()
        there.pop()
    return ".".join(here), ".".join(there)


def _stated(adapter: Adapter) -> dict[str, Any]:
    """Write peft's configuration of an adapter that has none of its own."""
    layers = {adapter.as_trained(name): group for group in adapter.layers for name in group.names}
    first = adapter.layers[0]
    return {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {re.escape(name): group.rank for name, group in layers.items()},
        "use_rslora": first.rslora,
        "use_dora": first.lengths,
        "target_modules": list(layers),
    }


def _put_back(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Let peft's parameters lie in the memory of the tensors that it has copied.

    Raises:
        GateError: a parameter is not what was saved.
    """
    for path, parameter in model.named_parameters():
        key = path.replace(f".{NAME}", "").replace(".modules_to_save", "")
        key = key.removesuffix(".weight") if key.endswith(f"{MAGNITUDE}.weight") else key
        tensor = saved.get(key)
        if tensor is None:
            continue
        if not torch.equal(tensor.to(parameter.dtype), parameter):
            raise GateError(f"reference: peft makes another tensor of the adapter's {key}")
        parameter.data = tensor


def _merged(root: nn.Module, path: str, dtype: str) -> Tensor:
    """Let peft merge a layer in float64, round the sum once, and put the layer in the place of the two."""
    layer: Any = root.get_submodule(path)
    double = copy.deepcopy(layer).double()
    double.merge()
    weight = double.get_base_layer().weight.detach().numpy()
    made = tensor_of(rounded(weight, np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)))
    base = layer.get_base_layer()
    base.weight.data = made
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, base)
    return made
