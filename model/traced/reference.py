"""The module that was traced, as the judge: made and filled again, called by its own methods."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .. import upstream
from ..reference import Original, Reference
from .capture import failure, named
from .config import TracedConfig
from .graph import Graph
from .load import fill, make
from .wanted import Wanted


def reference(config: TracedConfig, graph: Graph, original: Original) -> Reference:
    """Make the module by the named function and give it the checkpoint's tensors."""
    module, _ = make(config.module, original.code)
    fill(module, original.state, config.module)
    entries = {name: judged(each.function(module), each) for name, each in wanted(graph).items()}
    return Reference(f"{upstream.versions('torch')}: {config.module}", module, entries, original.state)


def wanted(graph: Graph) -> dict[str, Wanted]:
    """Give the entry points as they were before they were traced."""
    return {
        name: Wanted(
            name,
            program.entry.inputs,
            program.entry.axes,
            program.method,
            {spec.name: spec.kind for spec in program.entry.outputs},
        )
        for name, program in graph.programs.items()
    }


def judged(function: Callable[..., Any], entry: Wanted) -> Callable[..., Mapping[str, Tensor]]:
    """Give an entry point of the judge.

    Raises:
        InputError: when it is called, the module fails on what the spec allows.
    """

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        try:
            found = named(function(**inputs), entry.outputs, entry.name)
        except (RuntimeError, IndexError) as error:
            raise failure(entry, inputs, error) from error
        return {name: value.contiguous() for name, value in found.items()}

    return call
