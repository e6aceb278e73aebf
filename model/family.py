"""The words that a family is declared with: Rule, Tie, Drop, Split, Merge, Source, Family. Imports no framework.

A family is one folder of this package with a FAMILY in it, or FAMILIES; adding one adds a folder and nothing else.
"""

import dataclasses
import functools
import importlib
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.cases import Case, cases
from ..validation.entry_point import EntryPoint
from ..validation.errors import InputError
from ..validation.probe import Exponents
from ..validation.procedure import Greedy
from .derived import rank_axis
from .documents import JSON, Configured, Document, Given, Settled

if TYPE_CHECKING:
    from .network import Network
    from .parts import Part
    from .reference import Encode, Original, Reference
    from .steps import Steps

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


@dataclass(frozen=True)
class Split:
    """A checkpoint name holds several tensors side by side; each goes on under a name of its own, as if it were read.

    `layout` names the axes of the packed tensor and `axis` the one that is cut, one thick for each part; or
    `extents` say for each part what axes stand in its place:

        Split("{i}.Wqkv", ("{i}.q", "{i}.k", "{i}.v"), "(p h d) e", "p")                       each "(h d) e"
        Split("{i}.Wqkv", ("{i}.q", "{i}.k", "{i}.v"), "n e", "n", ("h d", "g d", "g d"))      "(h d) e", "(g d) e"
    """

    source: str
    targets: tuple[str, ...]
    layout: str
    axis: str
    extents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.targets) < 2 or len(self.extents) not in (0, len(self.targets)):
            raise ValueError(f"{self.source}: two targets or more, each with an extent or none")


@dataclass(frozen=True)
class Merge:
    """Three checkpoint names make one tensor: `source` + scale · B · A, a low-rank adapter (LoRA) on its base.

    All three have the same fields, `target` may use them. `layouts` name the axes of base, A and B; what A and B have
    and the base has not is the rank. The scale is alpha / rank, or alpha / sqrt(rank) with `rslora`; an `alpha` of
    None says that the configuration does not state it, and is an error. The sum is rounded to `dtype`, else to the
    base's: in half precision that makes another network than base and adapter side by side, which the judge tells.
    A fourth name, `magnitude`, holds lengths (DoRA), whose axes are `lengths`, see `derived.LowRank`. An adapter of
    peft's is no business of a family's: `adapter.py` adds these words to any.

        Merge("{i}.frozen.weight", "{i}.low.A.weight", "{i}.low.B.weight", "{i}.weight",
              ("(h d) e", "r e", "(h d) r"), config.alpha)
    """

    source: str
    a: str
    b: str
    target: str
    layouts: tuple[str, str, str]
    alpha: float | None
    rslora: bool = False
    dtype: str = ""
    magnitude: str = ""
    lengths: str = ""

    def __post_init__(self) -> None:
        rank_axis(self.layouts)


Rules = tuple[Rule | Tie | Drop | Split | Merge, ...]

FIELD = re.compile(r"\{(\w*)(?::([^}]*))?\}")


@functools.cache
def pattern(source: str) -> re.Pattern[str]:
    """Compile a rule's source: literal text, and fields as `Rule` describes them."""
    parts: list[str] = []
    end = 0
    for found in FIELD.finditer(source):
        parts.append(re.escape(source[end : found.start()]))
        name, words = found[1], found[2]
        fits = r"\d+" if words is None else ".*" if words == "*" else "|".join(map(re.escape, words.split("|")))
        parts.append(f"(?P<{name}>{fits})" if name else f"(?:{fits})")
        end = found.end()
    parts.append(re.escape(source[end:]))
    return re.compile("".join(parts))


LONGEST_FIRST, QUERY_FIRST = "longest-first", "flag-reranker"
PAIRS = (LONGEST_FIRST, QUERY_FIRST)
"""How a pair of texts that is too long is cut: token by token from the one that is longer, as transformers does; or the
first text to three quarters of the limit and then the second, as FlagEmbedding's FlagReranker does."""


REFUSED = "none"
"""The side at which a text that is too long is cut, where it is refused instead."""


@dataclass(frozen=True)
class TextRules:
    """What is done to a raw text before it is the network's ids.

    Args:
        limit: the most tokens, the special ones included, where that is less than an entry point's own bound.
        side: which end of a longer text is cut off, "right" or "left"; `REFUSED` where none is and it is an error.
        prompts: what may stand before a text, by name.
        default_prompt: the name of what stands before every text, if nothing else is said; "" for nothing.
        lowercase: whether capitals are made small before the tokenizer's own rules.
        pairs: how two texts that are read together are cut, one of `PAIRS`; "" for a network that reads single ones.
    """

    limit: int | None = None
    side: str = "right"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    lowercase: bool = False
    pairs: str = ""

    @property
    def prefix(self) -> str:
        """What stands before every text, if nothing else is said."""
        return self.prompts[self.default_prompt] if self.default_prompt else ""


@dataclass(frozen=True)
class HuggingFace:
    """A text encoder or classifier as Hugging Face's clients open it: many pool the states of its tokens themselves.

    Args:
        documents: what lies beside the checkpoint there, by place.
        network: one entry point, of the inputs that they feed; its outputs have their names, in their order.
        gives: output of that entry point -> output of the family's that it is.
        pipeline: what makes one vector of `last_hidden_state`, see `steps.py`; none where nothing is pooled.
        leaves: tensor of the checkpoint -> leaf, in torch's axes, where the pipeline's modules are torch's own; nothing
            where they are those of `Pipeline`.
    """

    documents: Mapping[str, JSON]
    network: "Network"
    gives: Mapping[str, str]
    pipeline: "Steps" = ()
    leaves: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Towers:
    """A network of a text and an image tower as Transformers.js opens it.

    Args:
        documents: what lies beside the checkpoint there, by place.
        network: the clients' entry points, by the names of their programs' files; pictures are channels first.
    """

    documents: Mapping[str, JSON]
    network: "Network"


@dataclass(frozen=True)
class Transcriber:
    """A network that makes texts, of sounds or of texts, as other clients open it.

    Args:
        documents: what lies beside the checkpoint there, by place.
        network: the clients' entry points, by the names of their programs' files.
        programs: entry point of the family's -> the clients' that computes it, what each of its inputs is fed with, and
            which output of the family's each of its outputs is. What is fed with nothing is empty.
        ends: special tokens that are the one that ends a text.
        heads: (layer, head) of what `align` gives of the clients' cross_attentions, where they have it.
    """

    documents: Mapping[str, JSON]
    network: "Network"
    programs: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]]
    ends: tuple[str, ...] = ("eos_token",)
    heads: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer.json or a vocab.txt says.

    Args:
        name: which of the two it is.
        origin: its path.
        ids: of every token, by its text.
        normalizer: tokenizer.json's.
        processor: tokenizer.json's, which puts special tokens around a text.
        wanted: whether it is to become part of the pack; if not, only ids of special tokens are taken from it.
    """

    name: str
    origin: str
    ids: Mapping[str, int]
    normalizer: JSON = None
    processor: JSON = None
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
        asked: what nobody states of an adapter inside the checkpoint, each with how to state it: for a family that
            lists all that is missing at once.
    """

    shapes: Shapes
    dtypes: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, Document] = field(default_factory=dict)
    facts: Mapping[str, JSON] = field(default_factory=dict)
    given: Mapping[str, Given] = field(default_factory=dict)
    tokens: Tokens | None = None
    wrappers: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

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
        config: the configuration's class; where a family has several, what gives it for what the manifest holds.
        part: what is declared about names in the checkpoint and in the model: rules, shapes, probes.
        entry_points: what can be called.
        network: the NNX model behind the entry points.
        reference: the PyTorch original: upstream's own classes where they can be installed, see `upstream.py`.
        sizes: of fixtures, by name: published ones and `tiny`, whose shapes say nothing of a user's file.
        images: how pictures become the input, as preprocess.json states it (docs/pack.md), or that nobody says and
            why; None for families without pictures.
        sounds: how sounds become the input, as preprocess.json states it, or that nobody says and why; None for
            families that hear none.
        transcripts: how texts are made of sounds, token by token, as preprocess.json states it; None where none are.
        embeddings: what the outputs are: {"pooling": ["cls"], "normalize": True}, for preprocess.json.
        scores: what a classifier's outputs are: {"labels": ["LABEL_0"], "activation": "sigmoid"}, for preprocess.json.
        hugging_face: what Hugging Face's clients need, of a configuration; raises InputError where they cannot do what
            it says; None for families that they do not know.
        transformers_js: what Transformers.js needs of a network of two towers, or of one that makes texts; raises
            InputError where it has no class for it; None for families that it does not know as such.
        onnxruntime_genai: what onnxruntime-genai needs of a network that makes texts; raises InputError where it makes
            another input of a sound; None for families that make none.
        sherpa_onnx: what sherpa-onnx needs of one from sound to text, likewise.
        encode: entry point -> upstream's own way from raw texts to its output; None where none can be installed.
        beside: what stands before the names of further tensors -> the file beside the checkpoint that holds them; they
            are read where all of these files lie there.
        anchors: names of which each checkpoint of the family has one; what stands before it is a wrapper's prefix.
        holds: families whose networks are parts of this one: of a checkpoint that is this family's as a whole, they are
            not asked, unless the command line names a tower.
        documents: what upstream writes beside such a checkpoint, by place, as JSON.
        zero_shot: what makes probabilities of a picture's labels: "softmax" or "sigmoid" of similarities, which the
            leaves `logit_scale` and `logit_bias` scale; "" for families that learn none.
        attends: whether its networks tap their weights of attention where somebody looks closely (`taps.closely`).
        texts: what is done to raw texts before they are ids; None where nothing but each entry point's bound is known.
        cases: inputs of the family's own, beside those that are drawn: what tells a mistake that no draw shows.
        procedures: loops over entry points, such as greedy generation.
        adapter: what the family's own documents say of an adapter inside the checkpoint, by peft's words.
    """

    name: str
    summary: str
    recognise: Callable[[Source], str]
    configure: Callable[[Source], Configured]
    config: type | Callable[[Mapping[str, JSON]], type]
    part: Callable[[Config], "Part"]
    entry_points: Callable[[Config], tuple[EntryPoint, ...]]
    network: Callable[[Config], "Network"]
    reference: Callable[[Config, "Original"], "Reference"]
    sizes: Mapping[str, Config]
    images: Callable[[Config], Mapping[str, Any] | None] = lambda config: None
    sounds: Callable[[Config], Mapping[str, Any] | None] = lambda config: None
    transcripts: Callable[[Config], Mapping[str, Any] | None] = lambda config: None
    embeddings: Callable[[Config], Mapping[str, Any]] = lambda config: {}
    scores: Callable[[Config], Mapping[str, Any]] | None = None
    hugging_face: Callable[[Config], HuggingFace] | None = None
    transformers_js: Callable[[Config], Towers | Transcriber] | None = None
    onnxruntime_genai: Callable[[Config], Transcriber] | None = None
    sherpa_onnx: Callable[[Config], Transcriber] | None = None
    encode: Callable[[Config, "Original", "Reference"], Mapping[str, "Encode"]] | None = None
    anchors: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    documents: Callable[[Config], Mapping[str, JSON]] = lambda config: {}
    zero_shot: str = ""
    attends: bool = False
    texts: Callable[[Config], TextRules] | None = None
    cases: Callable[[Config], tuple[Case, ...]] = lambda config: ()
    procedures: Callable[[Config], tuple[Greedy, ...]] = lambda config: ()
    adapter: Callable[[Source], Mapping[str, Given]] = lambda source: {}

    def all_cases(
        self, config: Config, entry: EntryPoint, weights: int, static: Iterable[Mapping[str, int]] = ()
    ) -> list[Case]:
        """Give every case of an entry point: those drawn for a network of so many numbers, and the family's own."""
        own = [dataclasses.replace(case, stated=True) for case in self.cases(config) if case.entry_point == entry.name]
        return [*cases(entry, static, weights=weights), *own]

    def rules(self, config: Config) -> Rules:
        """Give what becomes of each checkpoint name."""
        return self.part(config).rules

    def axis_sizes(self, config: Config) -> Mapping[str, int]:
        """Give the sizes of the axes that the rules' layouts name."""
        return self.part(config).axis_sizes

    def checkpoint_shapes(self, config: Config) -> Shapes:
        """Give names and shapes of the upstream checkpoint, as `fixture` writes it."""
        return self.part(config).checkpoint_shapes

    def constants(self, config: Config) -> Mapping[str, np.ndarray]:
        """Give the tensors that are computed rather than trained, by checkpoint name."""
        return self.part(config).constants

    def probes(self, config: Config) -> Mapping[str, Exponents]:
        """Give the probes."""
        return self.part(config).probes


def families() -> dict[str, Family]:
    """Find the families: every folder of this package has a FAMILY, or several as FAMILIES."""
    package = importlib.import_module(__package__)
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            continue
        module = importlib.import_module(f".{info.name}", __package__)
        for family in module.FAMILIES if hasattr(module, "FAMILIES") else (module.FAMILY,):
            if family.name in found:
                raise ValueError(f"two families are called {family.name}")
            found[family.name] = family
    return found


KINDS: Mapping[type, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}
"""Type of a configuration's field -> what JSON may hold for it."""


def config_from_json(cls: Any, document: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from the manifest, of a class or of what gives the class for it.

    Raises:
        InputError: a field is missing or unknown, named with the class.
    """
    cls = cls if isinstance(cls, type) else cls(document)
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    if names != set(document):
        wrong = ", ".join(sorted(names ^ set(document)))
        raise InputError(f"the manifest's config does not fit {cls.__name__}: {wrong}; convert again with this version")
    values = {name: _read(hint, document[name], cls.__name__) for name, hint in hints.items() if name in names}
    for name, value in values.items():
        if hints[name] in KINDS and type(value) not in KINDS[hints[name]]:
            kind = hints[name].__name__
            raise InputError(f"the manifest's config: {cls.__name__}.{name} is {value!r}, expected {kind}")
    return cls(**{name: _frozen(value, f"{cls.__name__}.{name}") for name, value in values.items()})


def _read(hint: Any, value: JSON, owner: str) -> Any:
    """Rebuild a nested dataclass, and each of a tuple of them, which `do` tells apart."""
    if dataclasses.is_dataclass(hint):
        return config_from_json(hint, value)
    inner = [kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)]
    if inner and Ellipsis in typing.get_args(hint):
        return tuple(config_from_json(inner[0], each) for each in value)
    if inner:  # or None
        return None if value is None else config_from_json(inner[0], value)
    kinds = {kind.do: kind for each in typing.get_args(hint) for kind in typing.get_args(each) if hasattr(kind, "do")}
    if not kinds:
        return value
    listed = value if isinstance(value, list) else [value]
    found = [(kinds.get(part.get("do")), part) if isinstance(part, dict) else (None, part) for part in listed]
    for kind, part in found:
        if kind is None:
            raise InputError(
                f"the manifest's config: {owner} has {part!r}, expected an object with do: {', '.join(kinds)}"
            )
    return tuple(config_from_json(kind, {k: v for k, v in part.items() if k != "do"}) for kind, part in found)


def _frozen(value: JSON, what: str) -> Any:
    """Turn lists into tuples: a configuration is hashed."""
    if isinstance(value, dict):
        raise InputError(f"the manifest's config: {what} is an object, expected a plain value")
    return tuple(_frozen(inner, what) for inner in value) if isinstance(value, list) else value


def config_to_json(config: Config) -> dict[str, Any]:
    """Write a configuration as the manifest holds it, and as JSON gives it back: lists for tuples."""
    return {field.name: _thawed(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _thawed(value: Any) -> JSON:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"do": value.do} if hasattr(value, "do") else {}
        return kind | config_to_json(value)
    return [_thawed(inner) for inner in value] if isinstance(value, tuple) else value


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the fields of a configuration, as the manifest holds it, by dotted name."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
