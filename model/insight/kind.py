"""What a class of the Insight Engine is declared with, and how its configuration is read. Imports no framework.

Upstream stores no configuration beside the tensors. What shapes and names show is read; what is stated, in a JSON file
or as a plain value of the checkpoint's own file, is taken; and all that is left is asked for at once, by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...validation.cases import Case
from ...validation.entry_point import EntryPoint
from ...validation.errors import GateError, InputError
from ...validation.procedure import Greedy
from ..documents import JSON, USED, Configured, Document, Settled, shown
from ..family import Shapes, Source
from ..parts import Part

CONFIG = "config.json"
FACTS = ("model_config", "config")
"""Under which keys trainers put constructor arguments beside the tensors."""

Config = Any
"""One of the configuration classes; its first field is `model_type`."""


@dataclass(frozen=True)
class Kind:
    """A class of the package.

    Args:
        name: upstream's; also what the NNX module and the judge's are called.
        config: its configuration's class; the fields are called as upstream's constructor calls them.
        read: reads everything but `model_type`.
        part: what becomes of the tensors.
        entries: what can be called.
        tiny: a small configuration.
        documented: the one that upstream's document builds, if it does.
        marks: patterns of names; such a checkpoint has each of them.
        others: patterns of the other names that it may have.
        telling: whether these names are like no other network's: then they are enough to recognise it.
        oddities: what it computes otherwise than one may think, as it was trained.
        procedures: loops over entry points.
        cases: inputs beside those that are drawn.
    """

    name: str
    config: type
    read: Callable[["Reading"], None]
    part: Callable[[Config], Part]
    entries: Callable[[Config], tuple[EntryPoint, ...]]
    tiny: Config
    documented: Config | None = None
    marks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    telling: bool = True
    oddities: tuple[str, ...] = ()
    procedures: Callable[[Config], tuple[Greedy, ...]] = lambda config: ()
    cases: Callable[[Config], tuple[Case, ...]] = lambda config: ()

    def fits(self, shapes: Shapes) -> bool:
        """Say whether the names are those of such a checkpoint."""
        every = [re.compile(pattern) for pattern in (*self.marks, *self.others)]
        return self.marked(shapes) and all(any(pattern.fullmatch(name) for pattern in every) for name in shapes)

    def marked(self, shapes: Shapes) -> bool:
        """Say whether the names that such a checkpoint has are there, whatever else is."""
        return all(any(re.fullmatch(mark, name) for name in shapes) for mark in self.marks)


@dataclass
class Reading:
    """A configuration, or a part of one, while it is read.

    Args:
        shapes: of the tensors, by names relative to the part.
        settled: what is settled so far.
        documents: what states constructor arguments, the first one first.
        missing: what nobody states, with what it may be; shared by all parts.
        prefix: what stands before the names.
    """

    shapes: Shapes
    settled: Settled
    documents: Sequence[Document] = ()
    missing: list[str] = field(default_factory=list)
    prefix: str = ""

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Give a tensor's shape.

        Raises:
            GateError: it is not there, or not of that rank.
        """
        found = self.shapes.get(name)
        if found is None or len(found) != rank or 0 in found:
            wanted = f"tensor {self.prefix}{name} must be there with {rank} dimensions"
            raise GateError(f"{wanted}, got {found or 'nothing'}")
        return found

    def count(self, pattern: str) -> int:
        """Count numbered layers; `pattern` has one group, their number.

        Raises:
            GateError: they are not numbered 0, 1, 2, ...
        """
        numbers = {int(match[1]) for name in self.shapes if (match := re.match(pattern, name))}
        if len(numbers) <= max(numbers, default=-1):
            raise GateError(f"the tensors {self.prefix}{pattern} are not numbered 0, 1, 2, ...")
        return len(numbers)

    def show(
        self, name: str, value: JSON, why: str, *aliases: str, also: Callable[[JSON], bool] = lambda stated: False
    ) -> Any:
        """Settle what names and shapes show; null says nothing.

        Args:
            name: of the field.
            value: what is shown.
            why: by what.
            aliases: what other classes call the field.
            also: says of another value that is stated whether upstream takes it for the same.

        Raises:
            InputError: it is stated otherwise.
        """
        given = list(value) if isinstance(value, tuple) else value
        for document in self.documents:
            for called in (each for each in (name, *aliases) if each in document):
                stated = document.fields[called]
                document.note(called, USED)
                if stated is None or also(stated):
                    continue
                if document.take(called, type(given)) != given:
                    raise InputError(
                        f"{document.origin}: {self.settled.part}{called} is {shown(stated)}, but the checkpoint says "
                        f"{shown(given)} ({why})"
                    )
        return self.settled.put(name, value, why)

    def size(self, name: str, tensor: str, axis: int, *aliases: str, rank: int = 2) -> int:
        """Settle a size that is that of a tensor's axis.

        Raises:
            GateError: the tensor is not there, or of another rank.
            InputError: it is stated otherwise.
        """
        found = self.shape(tensor, rank)[axis]
        self.show(name, found, f"shape of {self.prefix}{tensor}", *aliases)
        return found

    def ask(self, name: str, choices: Sequence[JSON], why: str = "") -> Any:
        """Settle what only a person knows, one of the choices; what is stated nowhere is missing."""
        self._miss(name, " or ".join(_written(choice) for choice in choices), why)
        return self.option(name, choices[0], "stated nowhere", choices=choices)

    def ask_size(self, name: str, low: int, why: str) -> int:
        """Settle a size that only a person knows."""
        self._miss(name, f"at least {low}", why)
        found = self.option(name, low, "stated nowhere", low=low)
        assert isinstance(found, int)
        return found

    def _miss(self, name: str, legal: str, why: str) -> None:
        if self.settled.part + name not in self.settled.given and not any(name in each for each in self.documents):
            self.missing.append(f"{self.settled.part}{name} ({legal}{f': {why}' if why else ''})")

    def option(self, name: str, otherwise: JSON, why: str, kind: type | None = None, **expected: Any) -> Any:
        """Settle what somebody may state."""
        stated = [(document, name) for document in self.documents]
        return self.settled.choose(name, kind or type(otherwise), *stated, otherwise=(otherwise, why), **expected)

    def heads(self, name: str, width: int, of: str) -> int:
        """Settle how many heads share a width."""
        found = self.ask(name, divisors(width), f"what divides {of}, {width}")
        assert isinstance(found, int)
        return found

    def dropout(self) -> None:
        """Settle the share that training drops; inference drops nothing."""
        self.option("dropout", 0.0, "inference drops nothing", kind=float, low=0, high=1)

    def behind(self, prefix: str) -> "Reading":
        """Read tensors behind a prefix for the same fields."""
        shapes = {n.removeprefix(prefix): s for n, s in self.shapes.items() if n.startswith(prefix)}
        return replace(self, shapes=shapes, prefix=self.prefix + prefix)

    def within(self, prefix: str, name: str) -> "Reading":
        """Begin a part of the configuration, whose tensors stand behind a prefix."""
        inner = [document.part(name) for document in self.documents if name in document]
        for document in inner:
            document.accept(HARMLESS)
        settled = Settled(self.settled.given, f"{self.settled.part}{name}.")
        return replace(self.behind(prefix), settled=settled, documents=inner)


def _written(choice: JSON) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def divisors(width: int) -> list[int]:
    """Give what divides a width."""
    return [n for n in range(1, width + 1) if width % n == 0]


HARMLESS = {
    **dict.fromkeys(("dropout", "attention_dropout"), "dropout, which this class has none of"),
    "init_type": "how the weights began",
    "base": "the tables of angles are the checkpoint's own",
}
"""Constructor arguments that no configuration has."""


def named(source: Source, kinds: Mapping[str, Kind]) -> str:
    """Give the class that is stated, "" where none is: on the command line, in config.json, in the checkpoint."""
    given, document = source.given.get("model_type"), source.documents.get(CONFIG)
    stated = document.content.get("model_type") if document and isinstance(document.content, dict) else None
    found = (given.value if given else None, stated, source.facts.get("model_type"))
    return next((str(name) for name in found if name in kinds), "")


def recognise(source: Source, kinds: Mapping[str, Kind]) -> str:
    """Say why a checkpoint is of one of the classes."""
    name = named(source, kinds)
    if name:
        return f"model_type is {name}" if kinds[name].marked(source.shapes) else ""
    fitting = [kind.name for kind in kinds.values() if kind.telling and kind.fits(source.shapes)]
    return f"the tensors' names are those of {' or '.join(fitting)}" if fitting and source.shapes else ""


def configure(source: Source, kinds: Mapping[str, Kind]) -> Configured:
    """Read the configuration.

    Raises:
        InputError: all that is stated nowhere, with what it may be; or what is stated wrongly.
        GateError: a tensor is not there, or of another shape.
    """
    document = source.document(CONFIG)
    documents = [document] if document else []
    own = {key: source.facts.get(key) for key in FACTS}
    documents += [Document(key, f"the checkpoint's own {key}", c) for key, c in own.items() if isinstance(c, dict)]
    reading = Reading(source.shapes, source.settled(), documents)
    kind = _settle_kind(reading, source, kinds)
    kind.read(reading)
    for each in documents:
        each.accept(HARMLESS)
    if reading.missing:
        example = reading.missing[0]
        field_name, _, first = example.partition(" (")
        raise InputError(
            f"a checkpoint of {kind.name} does not hold its configuration, and these are stated nowhere: "
            f"{'; '.join(reading.missing)}; say each with --set, as in --set "
            f"{field_name}={re.split(' or |:|[)]', first)[0]}, or all in a JSON file with --config FILE"
        )
    return Configured(kind.config(**reading.settled.values), origins(reading.settled))


def origins(settled: Settled) -> dict[str, str]:
    """Give where each field is from, those of the parts too."""
    found: dict[str, str] = {}
    for name, origin in settled.origins.items():
        found |= origin if isinstance(origin, dict) else {name: origin}
    return found


def _settle_kind(reading: Reading, source: Source, kinds: Mapping[str, Kind]) -> Kind:
    """Settle the class: as it is stated, else by the names."""
    name = named(source, kinds)
    fitting = [kinds[name]] if name else [kind for kind in kinds.values() if kind.fits(source.shapes)]
    if not fitting:
        raise InputError(
            "the tensors' names are of no class of the Insight Engine; say which one it is with --set model_type=NAME "
            f"(NAME: {', '.join(kinds)})"
        )
    names = [kind.name for kind in fitting]
    if len(names) > 1:
        reading.ask("model_type", names, "their tensors have the same names")
    else:
        reading.option("model_type", names[0], "the checkpoint's model_type" if name else "the names of the tensors")
    trained = f"; as it was trained: {'; '.join(fitting[0].oddities)}" if fitting[0].oddities else ""
    reading.settled.origins["model_type"] += trained
    return fitting[0]
