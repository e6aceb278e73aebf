"""The words that a family is declared with: Rule, Tie, Drop, Settings, Family. Imports no framework.

A family is one folder of this package with a FAMILY in it; adding a family adds a folder and nothing else.
"""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.cases import Case, cases
from ..validation.entry_point import EntryPoint
from ..validation.errors import InputError
from ..validation.probe import Exponents
from ..validation.procedure import Greedy

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
class HuggingFace:
    """A text encoder as Hugging Face's clients open it: they pool the states of its tokens themselves.

    Args:
        config: their config.json.
        network: one entry point, of the inputs that they feed, that gives `last_hidden_state`.
    """

    config: Mapping[str, Any]
    network: "Network"


@dataclass(frozen=True)
class Settings:
    """What files beside the checkpoint (or `--config`, `--tokenizer`) say that its shapes cannot.

    Each document keeps the field names of its own format; `files` says where each came from.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    """Hugging Face's config.json."""
    vision: Mapping[str, Any] = field(default_factory=dict)
    """`vision_cfg` of EVA-CLIP's model configuration."""
    pooling: Mapping[str, Any] = field(default_factory=dict)
    """sentence-transformers' 1_Pooling/config.json."""
    modules: tuple[str, ...] = ()
    """sentence-transformers' modules.json: the last word of each module's type, e.g. "Pooling"."""
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    """Special tokens of the tokenizer by their text: {"[CLS]": 101, ...}."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Document -> file it was read from."""


@dataclass(frozen=True)
class Family:
    """A kind of network. Every function may import what it needs, inside.

    Args:
        name: on the command line and in the manifest.
        summary: one line for `bgevis-convert families`.
        recognise: does a checkpoint with these tensors belong here?
        configure: sizes from shapes, the rest from settings or published sizes; raises InputError naming the field.
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
        cases: inputs of the family's own, beside those that are drawn: what tells a mistake that no draw shows.
        procedures: loops over entry points, such as greedy generation.
    """

    name: str
    summary: str
    recognise: Callable[[Shapes], bool]
    configure: Callable[[Shapes, Settings], Config]
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
    cases: Callable[[Config], tuple[Case, ...]] = lambda config: ()
    procedures: Callable[[Config], tuple[Greedy, ...]] = lambda config: ()

    def all_cases(
        self, config: Config, entry: EntryPoint, weights: int, static: Iterable[Mapping[str, int]] = ()
    ) -> list[Case]:
        """Give every case of an entry point: those drawn for a network of so many numbers, and the family's own."""
        own = [dataclasses.replace(case, stated=True) for case in self.cases(config) if case.entry_point == entry.name]
        return [*cases(entry, static, weights=weights), *own]


def families() -> dict[str, Family]:
    """Find the families: every folder of this package that has a FAMILY."""
    package = importlib.import_module(__package__)
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            continue
        family = importlib.import_module(f".{info.name}", __package__).FAMILY
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
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def config_to_json(config: Config) -> dict[str, Any]:
    """Write a configuration as the manifest holds it."""
    return dataclasses.asdict(config)
