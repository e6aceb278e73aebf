"""The module that was traced, as the judge: made and filled again, called by its own methods."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import upstream
from ..reference import Original, Reference
from .capture import failure, named
from .config import TracedConfig
from .graph import Graph
from .load import fill, make
from .wanted import Wanted

if TYPE_CHECKING:
    from torch import nn


def reference(config: TracedConfig, graph: Graph, original: Original) -> Reference:
    """Make the module by the named function and give it the checkpoint's tensors."""
    module, _ = make(config.module, original.code)
    fill(module, original.state, config.module)
    entries = {
        name: _entry(module, Wanted(name, program.entry.inputs, program.entry.axes, program.method, kinds(program)))
        for name, program in graph.programs.items()
    }
    return Reference(f"{upstream.versions('torch')}: {config.module}", module, entries, original.state)


def kinds(program: Any) -> dict[str, Any]:
    """Give names and kinds of the outputs."""
    return {spec.name: spec.kind for spec in program.entry.outputs}


def _entry(module: "nn.Module", wanted: Wanted) -> Callable[..., Mapping[str, Tensor]]:
    function = wanted.function(module)

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        try:
            found = named(function(**inputs), wanted.outputs, wanted.name)
        except RuntimeError as error:
            raise failure(wanted, inputs, error) from error
        return {name: value.contiguous() for name, value in found.items()}

    return call
