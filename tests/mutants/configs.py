"""Mistakes in the configuration, and in one module's constant at a time."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from flax import nnx

from bgevis.model.network import Network

from .bench import Bench, Mutant

OTHERS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_new", "silu", "relu"),
    "model_type": ("bert", "xlm-roberta"),
    "pooling": ("cls", "mean"),
    "normalize": (True, False),
    "num_attention_heads": (1, 2, 8),
    "heads": (1, 4, 8),
}
EQUIVALENT = {
    "pretrained_grid": "the rotary tables are taken from the checkpoint, not computed",
    "embed_dim": "the width of a head that no embedding passes through",
    "pad_token_id": "a BERT's positions do not depend on it, and cases are drawn by the manifest's",
    "cls_token_id": "only image entry points put it in",
    "sep_token_id": "only image entry points put it in",
}


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every field of the configuration another value, and every constant of every module."""
    for path, value in fields(bench.config):
        for other in wrong(path[-1], value):
            changed = functools.partial(bench.family.network, replaced(bench.config, path, other))
            reason = _equivalent(bench, path[-1])
            name = f"{bench.variant}: {'.'.join(path)} {value} -> {other}"
            yield Mutant("configuration", name, functools.partial(bench.with_network, changed), reason)
    for place, attribute, value in constants(bench):
        for factor in (1.01, 1e6, 0.0):
            check = functools.partial(_with_constant, bench, place, attribute, value * factor)
            name = f"{bench.variant}: {place}.{attribute} {value:.3g} -> {value * factor:.3g}"
            yield Mutant("constant of one module", name, check)


def _equivalent(bench: Bench, field: str) -> str:
    used = {"pad_token_id": bench.variant == "xlm-roberta", "cls_token_id": False, "sep_token_id": False}
    if bench.variant == "visualized_bge":
        used |= {"cls_token_id": True, "sep_token_id": True}
    return "" if used.get(field) else EQUIVALENT.get(field, "")


def fields(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every field, nested ones too."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, (*path, field.name))
        else:
            yield (*path, field.name), value


def wrong(field: str, value: Any) -> Iterator[Any]:
    """Give other values."""
    if field in OTHERS:
        yield from (other for other in OTHERS[field] if other != value)
    elif isinstance(value, float):
        yield from (value * 1.01, value * 1e6, value / 1e6, 0.0)
    else:
        yield from (value + 1, value * 2)


def replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """Replace a field, nested ones too."""
    if len(path) > 1:
        value = replaced(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})


def constants(bench: Bench) -> Iterator[tuple[str, str, float]]:
    """Give every float that a module of the network keeps: epsilons and scales."""
    for path, module in modules(bench.net.module({})):
        for attribute, value in vars(module).items():
            if isinstance(value, float):
                yield path, attribute, value


def modules(root: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Give every module with its path."""
    for path, node in nnx.iter_modules(root):
        yield ".".join(map(str, path)), node


def _with_constant(bench: Bench, place: str, attribute: str, value: float) -> str:
    def build(rngs: nnx.Rngs) -> nnx.Module:
        del rngs  # it is built already
        root = bench.net.module({})
        setattr(dict(modules(root))[place], attribute, value)
        return root

    return bench.with_network(lambda: Network(build, tuple(bench.net.entry_points.values())))
