"""The traced network as data: what `network.json` holds. Imports no framework.

Documented in docs/network.md, which people read to see what was converted.
"""

import base64
import dataclasses
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...validation import domains, outputs
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.sizes import Written
from ..documents import JSON

FORMAT_VERSION = 1

REFERENCES = ("node", "input", "parameter", "constant", "size", "number")
"""What an argument may name; numbers, texts, truths and null are themselves."""


@dataclass(frozen=True)
class Node:
    """One operator, called.

    Args:
        name: of its result.
        op: ATen's name with its overload, "aten.add.Tensor".
        args: numbers, texts, lists, or {"node": name}, {"input": name}, {"parameter": name}, {"constant": name},
            {"size": text}.
        kwargs: by the names of ATen's schema.
        dtype: of the result, torch's; "" where there are several.
        shape: of the result.
        module: path of the module that calls it.
        line: where in the module's source: "net.py:31: return x + y".
        taps: names under which its value is an intermediate one that is compared; channels last where they say so.
    """

    name: str
    op: str
    args: list[JSON]
    kwargs: dict[str, JSON] = field(default_factory=dict)
    dtype: str = ""
    shape: tuple[Written, ...] = ()
    module: str = ""
    line: str = ""
    taps: tuple[str, ...] = ()

    def references(self, kind: str) -> Iterator[str]:
        """Give the names of a kind that its arguments hold."""
        yield from references([self.args, list(self.kwargs.values())], kind)


def references(value: JSON, kind: str) -> Iterator[str]:
    """Give the names of a kind that arguments hold."""
    if isinstance(value, list):
        for each in value:
            yield from references(each, kind)
    elif isinstance(value, dict) and kind in value:
        yield value[kind]


@dataclass(frozen=True)
class Program:
    """An entry point and what computes it."""

    entry: EntryPoint
    nodes: tuple[Node, ...]
    results: list[JSON]
    """For each output, in order, what it is: {"node": name}, or an input, a parameter, a constant as it is."""
    method: str = "forward"
    beside: Mapping[str, JSON] = field(default_factory=dict)
    """What else the method gives by name, of which the outputs are made."""

    def shape(self, reference: JSON) -> tuple[Written, ...]:
        """Give the shape of a node's result."""
        return next(node.shape for node in self.nodes if node.name == reference["node"])


def reached(nodes: Sequence[Node], results: list[JSON]) -> tuple[Node, ...]:
    """Keep what some result depends on."""
    needed = set(references(results, "node"))
    kept = []
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed |= set(node.references("node"))
    return tuple(kept[::-1])


@dataclass(frozen=True)
class Parameter:
    """A leaf: a tensor of the checkpoint that some entry point reads.

    Args:
        tensor: its name in the checkpoint.
        trained: whether it is a parameter; else a buffer, such as a running mean.
    """

    tensor: str
    shape: tuple[int, ...]
    trained: bool = True


@dataclass(frozen=True)
class Graph:
    """A traced network.

    Args:
        origin: who made the module: "package.module:function", or a class of transformers with its version.
        parameters: leaf -> tensor. Leaves are called as torch's state dict calls them.
        tied: tensor of the checkpoint -> the tensor that it repeats.
        dropped: tensor of the checkpoint -> why nothing reads it.
        constants: numbers that are no weights: tables of integers, buffers that no checkpoint holds.
        programs: by the name of the entry point.
        facts: what else is known: packing of texts, the module's own configuration.
    """

    origin: str
    parameters: Mapping[str, Parameter]
    tied: Mapping[str, str]
    dropped: Mapping[str, str]
    constants: Mapping[str, np.ndarray]
    programs: Mapping[str, Program]
    facts: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def entry_points(self) -> tuple[EntryPoint, ...]:
        """Give what can be called."""
        return tuple(program.entry for program in self.programs.values())

    def count(self) -> dict[str, int]:
        """Count the operators."""
        return dict(Counter(node.op for program in self.programs.values() for node in program.nodes).most_common())

    def to_json(self) -> str:
        """Write network.json: one node a line, so that people can read it."""
        head = {
            "format_version": FORMAT_VERSION,
            "origin": self.origin,
            "operators": self.count(),
            "facts": dict(self.facts),
            "tied": dict(self.tied),
            "dropped": dict(self.dropped),
            "constants": {name: _constant_to_json(array) for name, array in self.constants.items()},
        }
        parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        leaves = {name: dataclasses.asdict(parameter) for name, parameter in self.parameters.items()}
        parts.append(f'"parameters": {_lines(leaves)}')
        entries = ",\n".join(f"{json.dumps(name)}: {_program_to_json(each)}" for name, each in self.programs.items())
        return "{\n" + ",\n".join(parts) + f',\n"entry_points": {{\n{entries}\n}}\n}}\n'

    @classmethod
    def from_json(cls, text: str, origin: str = "network.json") -> "Graph":
        """Read what `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            document = json.loads(text)
            version = document["format_version"]
            if version != FORMAT_VERSION:
                raise InputError(f"{origin}: format_version is {version}, this program reads {FORMAT_VERSION}")
            return cls(
                document["origin"],
                {n: Parameter(p["tensor"], tuple(p["shape"]), p["trained"]) for n, p in document["parameters"].items()},
                document["tied"],
                document["dropped"],
                {name: _constant_from_json(each) for name, each in document["constants"].items()},
                {name: _program_from_json(name, each) for name, each in document["entry_points"].items()},
                document["facts"],
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise InputError(f"{origin} is no traced network as this program writes it: {error!r}") from error


def digest(text: str) -> str:
    """Give the sha256 of a network.json."""
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(value: Mapping[str, JSON]) -> str:
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()) + "\n}"


def _constant_to_json(array: np.ndarray) -> JSON:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib+base64": data}


def _constant_from_json(document: Mapping[str, JSON]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(document["zlib+base64"]))
    return np.frombuffer(data, document["dtype"]).reshape(document["shape"])


def _program_to_json(program: Program) -> str:
    entry = program.entry
    described = entry.to_json() | {"method": program.method}
    described |= {"beside": dict(program.beside)} if program.beside else {}
    described["inputs"] = [
        {"name": s.name, "dtype": s.dtype, "shape": list(s.shape), "domain": domain_to_json(s.domain)}
        for s in entry.inputs
    ]
    nodes = ",\n".join(f"  {json.dumps(_node_to_json(node))}" for node in program.nodes)
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in described.items()]
    return (
        "{\n" + ",\n".join(parts) + f',\n "nodes": [\n{nodes}\n ],\n "results": {json.dumps(list(program.results))}\n}}'
    )


def _node_to_json(node: Node) -> JSON:
    """Leave out what is empty."""
    return {name: value for name, value in dataclasses.asdict(node).items() if value or name in ("shape", "args")}


def _program_from_json(name: str, document: Mapping[str, JSON]) -> Program:
    def tensors(items: list[JSON]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                t["name"],
                t["dtype"],
                tuple(t["shape"]),
                domain_from_json(t.get("domain")),
                outputs.from_json(t.get("kind")),
            )
            for t in items
        )

    axes = {axis: Axis(bounds["min"], bounds["max"]) for axis, bounds in document["axes"].items()}
    entry = EntryPoint(name, tensors(document["inputs"]), tensors(document["outputs"]), axes, document["rows"])
    nodes = tuple(
        Node(**(n | {"shape": tuple(n.get("shape", ())), "taps": tuple(n.get("taps", ()))})) for n in document["nodes"]
    )
    return Program(entry, nodes, document["results"], document["method"], document.get("beside", {}))


DOMAINS: Mapping[str, Any] = {
    cls.__name__: cls
    for cls in (
        *(domains.TokenIds, domains.PaddingMask, domains.RandomMask, domains.CausalMask, domains.Positions),
        *(domains.TokenTypes, domains.PromptTokens, domains.Integers, domains.Floats, domains.Cache),
        *(domains.Pixels, domains.LogMel, domains.Waveform),
    )
}
"""What an input may hold, by the word that stands for it."""


def domain_to_json(domain: domains.Domain | None) -> JSON:
    """Describe a domain."""
    if domain is None:
        return None
    return {"is": type(domain).__name__, **dataclasses.asdict(domain)}  # type: ignore[call-overload]  # each is one


def domain_from_json(document: JSON) -> domains.Domain | None:
    """Rebuild a domain.

    Raises:
        ValueError: there is no such word, or it does not take these values.
    """
    if document is None:
        return None
    stated = dict(document)
    cls = DOMAINS.get(stated.pop("is", ""))
    if cls is None:
        raise ValueError(f"{document} is no domain (domains: {', '.join(DOMAINS)})")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()})
    except TypeError as error:
        raise ValueError(f"the domain {document}: {error}") from error
