"""An entry point of a module before it is traced. Imports no framework: the command line's words become these."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...validation.entry_point import Axis, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import Output


@dataclass(frozen=True)
class Wanted:
    """An entry point before it is traced.

    Args:
        name: of the entry point.
        inputs: what it takes, by the names of the method's arguments. A domain that is not stated is found in the
            graph: what looks up rows of a table.
        axes: their bounds.
        method: of the module.
        outputs: names and kinds of the outputs; all that the method gives, where none are stated.
        call: in the method's place: (module, inputs by name) -> what it gives.
        beside: what else of what the method gives is to be found in the graph, where outputs are stated: what they are
            made of.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    axes: Mapping[str, Axis]
    method: str = "forward"
    outputs: Mapping[str, Output] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    beside: tuple[str, ...] = ()

    def function(self, module: Any) -> Callable[..., Any]:
        """Give what is called: tensors by name -> whatever the method gives.

        Raises:
            InputError: the module has no such method, or that takes other arguments.
        """
        if self.call is not None:
            call = self.call
            return lambda **inputs: call(module, **inputs)
        method = module if self.method == "forward" else getattr(module, self.method, None)
        signature = inspect.signature(module.forward if self.method == "forward" else method) if method else None
        if method is None or signature is None:
            raise InputError(f"{self.name}: {type(module).__name__} has no method {self.method}")
        try:
            signature.bind(**{spec.name: None for spec in self.inputs})
        except TypeError as error:
            raise InputError(
                f"{self.name}: {type(module).__name__}.{self.method}{signature} cannot be called with "
                f"{', '.join(spec.name for spec in self.inputs)}: {error}"
            ) from error
        return method
