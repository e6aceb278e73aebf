"""The words that a family is declared with: Rule, Tie, Drop, Source, Family. Imports no framework.

A family is one folder of this package with a FAMILY in it, or FAMILIES; adding one adds a folder and nothing else.
"""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.errors import InputError
from ..validation.probe import Exponents
from .documents import JSON, Configured, Document, Given, Settled

if TYPE_CHECKING:
    from .network import Network
    from .torch_reference import TorchReference

Shapes = Mapping[str, tuple[int, ...]]
Config = Any
"""A family's own frozen dataclass, nested dataclasses allowed, fields of JSON's types only."""


@dataclass(frozen=True)
class Rule:
    """A checkpoint name becomes a leaf.

    In `source`, `{i}` stands for a number, `{part:query|key}` for one of the words, `{:a|b}` for words that
    leave no trace in the target and `{:*}` for anything. `target` uses the named ones. `layout` names
    the axes, see `layout.py`.
    """

    source: str
    target: str
    layout: str


@dataclass(frozen=True)
class Tie:
    """A checkpoint name repeats what `target`, another checkpoint name, holds; the bytes must be equal."""

    source: str
    target: str
    reason: str


@dataclass(frozen=True)
class Drop:
    """A checkpoint name that no entry point reads, and why."""

    source: str
    reason: str


Rules = tuple[Rule | Tie | Drop, ...]


@dataclass(frozen=True)
class TextRules:
    """What is done to a raw text before it is the network's ids.

    Args:
        limit: the most tokens, the special ones included, where that is less than an entry point's own bound.
        side: which end of a longer text is cut off, "right" or "left".
        prefix: stands before every text.
    """

    limit: int | None = None
    side: str = "right"
    prefix: str = ""


@dataclass(frozen=True)
class HuggingFace:
    """A text encoder as Hugging Face's clients open it: they pool the states of its tokens themselves.

    Args:
        documents: what lies beside the checkpoint there, by place.
        network: one entry point, of the inputs that they feed, that gives `last_hidden_state`.
    """

    documents: Mapping[str, JSON]
    network: "Network"


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer.json or a vocab.txt says.

    Args:
        name: which of the two it is.
        origin: its path.
        ids: of every token, by its text.
        normalizer: tokenizer.json's.
        wanted: whether it is to become part of the pack; if not, only ids of special tokens are taken from it.
    """

    name: str
    origin: str
    ids: Mapping[str, int]
    normalizer: JSON = None
    wanted: bool = True


@dataclass(frozen=True)
class Source:
    """What a checkpoint and its folder say, for a family to recognise and to be configured from.

    Args:
        shapes: of the tensors, by name, wrappers taken away.
        dtypes: of the tensors.
        documents: the JSON documents beside it (or passed with --config), by place: "config.json".
        facts: plain values that the checkpoint's file holds beside the tensors.
        given: what the command line says of the configuration, by dotted field.
        tokens: what the tokenizer's own file says; None where there is none.
        wrappers: what was around the state dict, keys and prefixes, outermost first.
    """

    shapes: Shapes
    dtypes: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, Document] = field(default_factory=dict)
    facts: Mapping[str, JSON] = field(default_factory=dict)
    given: Mapping[str, Given] = field(default_factory=dict)
    tokens: Tokens | None = None
    wrappers: tuple[str, ...] = ()

    def document(self, name: str) -> Document | None:
        """Give a document to be read: all of its fields must then be accounted for. None where there is none."""
        found = self.documents.get(name)
        if found is not None:
            found.read = True
        return found

    def settled(self, part: str = "") -> Settled:
        """Begin a configuration, or a part of one whose fields stand behind `part`, as in "text."."""
        return Settled(self.given, part)


@dataclass(frozen=True)
class Family:
    """A kind of network. Every function may import what it needs, inside.

    Args:
        name: on the command line and in the manifest.
        summary: one line for `bgevis-convert families`.
        recognise: why a checkpoint belongs here, for people; "" if it does not.
        configure: sizes from shapes, the rest from documents, the command line or published sizes; raises InputError
            naming the field that is stated nowhere, wrongly, or in a way that the network does not compute.
        config: the configuration's class.
        rules: checkpoint name -> leaf.
        axes: sizes of the axes that the rules' layouts name.
        entry_points: what can be called.
        network: the NNX model behind the entry points.
        reference: the PyTorch original, loaded from the checkpoint by its own names.
        sizes: published sizes by name, and a tiny one.
        layout: names and shapes of the upstream checkpoint, as `fixture` writes it.
        constants: tensors that are computed rather than trained (rotary tables), by name in the upstream checkpoint.
        images: how pictures become the input, as preprocess.json states it (docs/pack.md); None for families without.
        embeddings: what the outputs are: {"pooling": "cls", "normalize": True}, for preprocess.json.
        hugging_face: what Hugging Face's clients need; None for families that they do not know.
        probes: name -> what some leaves are multiplied by, see `validation/probe.py`.
        anchor: a name that each checkpoint of the family has; what stands before it is a wrapper's prefix.
        documents: what upstream writes beside such a checkpoint, by place, as JSON.
        texts: what is done to raw texts before they are ids; None where nothing but each entry point's bound is known.
    """

    name: str
    summary: str
    recognise: Callable[[Source], str]
    configure: Callable[[Source], Configured]
    config: type
    rules: Callable[[Config], Rules]
    axes: Callable[[Config], Mapping[str, int]]
    entry_points: Callable[[Config], tuple[EntryPoint, ...]]
    network: Callable[[Config], "Network"]
    reference: Callable[[Config, Mapping[str, Any]], "TorchReference"]
    sizes: Mapping[str, Config]
    layout: Callable[[Config], Shapes]
    constants: Callable[[Config], Mapping[str, np.ndarray]] = lambda config: {}
    images: Callable[[Config], Mapping[str, Any]] | None = None
    embeddings: Callable[[Config], Mapping[str, Any]] = lambda config: {}
    hugging_face: Callable[[Config], HuggingFace] | None = None
    probes: Callable[[Config], Mapping[str, Exponents]] = lambda config: {}
    anchor: str = ""
    documents: Callable[[Config], Mapping[str, JSON]] = lambda config: {}
    texts: Callable[[Config], TextRules] | None = None


def families() -> dict[str, Family]:
    """Find the families: every folder of this package has a FAMILY, or several as FAMILIES."""
    package = importlib.import_module(__package__)
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            continue
        module = importlib.import_module(f".{info.name}", __package__)
        for family in getattr(module, "FAMILIES", ()) or (module.FAMILY,):
            if family.name in found:
                raise ValueError(f"two families are called {family.name}")
            found[family.name] = family
    return found


KINDS: Mapping[type, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}
"""Type of a configuration's field -> what JSON may hold for it."""


def config_from_json(cls: Any, document: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from the manifest.

    Raises:
        InputError: a field is missing or unknown, named with the class.
    """
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    if names != set(document):
        wrong = ", ".join(sorted(names ^ set(document)))
        raise InputError(f"the manifest's config does not fit {cls.__name__}: {wrong}; convert again with this version")
    values = {
        name: config_from_json(hint, document[name]) if dataclasses.is_dataclass(hint) else document[name]
        for name, hint in hints.items()
        if name in names
    }
    for name, value in values.items():
        if hints[name] in KINDS and type(value) not in KINDS[hints[name]]:
            kind = hints[name].__name__
            raise InputError(f"the manifest's config: {cls.__name__}.{name} is {value!r}, expected {kind}")
    return cls(**{name: _frozen(value, f"{cls.__name__}.{name}") for name, value in values.items()})


def _frozen(value: JSON, what: str) -> Any:
    """Turn lists into tuples: a configuration is hashed."""
    if isinstance(value, dict):
        raise InputError(f"the manifest's config: {what} is an object, expected a plain value")
    return tuple(_frozen(inner, what) for inner in value) if isinstance(value, list) else value


def config_to_json(config: Config) -> dict[str, Any]:
    """Write a configuration as the manifest holds it, and as JSON gives it back: lists for tuples."""
    return {name: _thawed(value) for name, value in dataclasses.asdict(config).items()}


def _thawed(value: Any) -> JSON:
    if isinstance(value, dict):
        return {name: _thawed(inner) for name, inner in value.items()}
    return [_thawed(inner) for inner in value] if isinstance(value, tuple) else value


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the fields of a configuration, as the manifest holds it, by dotted name."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
