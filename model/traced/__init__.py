"""Any module that torch.export can trace, as a family made at run time of the traced network."""

import functools
from typing import TYPE_CHECKING, Any

from ...validation.errors import InputError
from ..family import Config, Drop, Family, Rule, Source, Tie
from ..parts import Part
from .config import NAME, NETWORK, TracedConfig
from .graph import Graph

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference

__all__ = ["FAMILIES", "NAME", "NETWORK", "TracedConfig", "family"]

FAMILIES = ()
"""None that is known before a module is traced."""


@functools.lru_cache(maxsize=2)
def family(text: str) -> Family:
    """Make the family of one traced network, of what its network.json holds.

    Raises:
        InputError: that is no such document.
    """
    graph = Graph.from_json(text)

    def network(config: Config) -> "Network":
        from ..network import Network
        from .module import build

        del config
        return Network(lambda rngs: build(graph), graph.entry_points)

    def reference(config: TracedConfig, original: "Original") -> "Reference":
        from .reference import reference

        return reference(config, graph, original)

    return Family(
        name=NAME,
        summary="a module of yours, traced by torch.export",
        recognise=lambda source: "",
        configure=_not_configured,
        config=TracedConfig,
        part=lambda config: part(graph),
        entry_points=lambda config: graph.entry_points,
        network=network,
        reference=reference,
        sizes={},
    )


def _not_configured(source: Source) -> Any:
    raise InputError("a traced network is configured by --module or --transformers")


def part(graph: Graph) -> Part:
    """Give each tensor its fate: a leaf as it is, a tie, or dropped with the reason. Axes are named by their sizes."""
    rules: list[Rule | Tie | Drop] = []
    sizes: dict[str, int] = {}
    shapes = {}
    for leaf, parameter in graph.parameters.items():
        axes = [f"{'abcdefgh'[i]}{size}" for i, size in enumerate(parameter.shape)]
        sizes |= dict(zip(axes, parameter.shape, strict=True))
        shapes[parameter.tensor] = parameter.shape
        rules.append(Rule(parameter.tensor, leaf, " ".join(axes)))
    rules += [Tie(name, first, "the module has one parameter under both names") for name, first in graph.tied.items()]
    rules += [Drop(name, reason) for name, reason in graph.dropped.items()]
    return Part(tuple(rules), sizes, shapes)
