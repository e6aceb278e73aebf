"""Documents beside a checkpoint, read field by field: each is used, known to change nothing, or refused by name.

A document is what its place says ("config.json", "1_Pooling/config.json"), never what it happens to hold. Imports no
framework and opens no file.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..validation.errors import InputError

JSON = Any
"""What a JSON file can hold: None, bool, int, float, str, list, dict."""

Number = int | float

REQUIRED: Any = object()
"""In place of a default: the field must be there."""

USED = "used"
"""What became of a field that decides something."""

SHOWN = 80
"""Characters of a value that a message shows."""

LARGEST = 1e300
"""An int may be larger than any float, and a float infinite: neither is a number to compute with."""

KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    str: ((str,), "a text"),
    list: ((list,), "a list"),
    dict: ((dict,), "an object"),
}
"""What is asked for -> the exact types that JSON may hold for it (true is no 1), and its name."""


@dataclass(frozen=True)
class Only:
    """A field that changes nothing as long as it has one of these values.

    Args:
        values: that change nothing; JSON's true is no 1.
        reason: why they do not.
    """

    values: tuple[JSON, ...]
    reason: str


Harmless = Mapping[str, str | Only]
"""Field -> why it changes nothing at inference, with where that can be read."""


class Document:
    """A JSON document beside a checkpoint, and what became of each of its fields.

    Args:
        name: its place, "config.json" or "1_Pooling/config.json".
        origin: what messages call it: its path, or an option.
        content: what it holds, an object if it has fields.
        ignored: fields that the user says to pass over.
    """

    def __init__(self, name: str, origin: str, content: JSON, ignored: Collection[str] = (), *, prefix: str = ""):
        self.name = name
        self.origin = origin
        self.content = content
        self.fates: dict[str, str] = {}
        """Field -> "used", or why it is not."""
        self.read = False
        """Whether the family asked for it: then every field must be accounted for."""
        self._ignored = frozenset(ignored)
        self._prefix = prefix
        self._listed = True
        self._parts: dict[str, Document] = {}

    @property
    def fields(self) -> Mapping[str, JSON]:
        """Give what it holds, by field.

        Raises:
            InputError: it is no object.
        """
        if type(self.content) is not dict:
            place = f"{self.origin}: {self._prefix[:-1]}" if self._prefix else self.origin
            raise InputError(f"{place} is {shown(self.content)}, expected an object")
        return self.content

    def __contains__(self, name: str) -> bool:
        return name in self.fields and not self.ignores(name)

    def ignores(self, name: str) -> bool:
        """Say whether the user has a field passed over."""
        return self._prefix + name in self._ignored

    def take(
        self,
        name: str,
        kind: type,
        default: JSON = REQUIRED,
        *,
        choices: Sequence[JSON] | None = None,
        low: Number | None = None,
        high: Number | None = None,
    ) -> JSON:
        """Give a field's value, checked, and note that it is used; null counts as silence where silence means None.

        Args:
            name: of the field.
            kind: bool, int, float, str, list or dict; a float may be stated as an int and is finite.
            default: where the field is not there or is ignored.
            choices: all that it may be.
            low: the least that it may be.
            high: the most that it may be.

        Raises:
            InputError: naming document and field, what came and what is expected.
        """
        if name not in self or (default is None and self.fields[name] is None):
            if default is REQUIRED:
                raise InputError(f"{self.origin}: {self._prefix}{name} is missing")
            self.note(name, self.fates.get(name, USED))
            return default
        self.note(name, USED)
        wanted = Expected(kind, choices, low, high)
        return wanted.checked(self.fields[name], f"{self.origin}: {self._prefix}{name}")

    def note(self, name: str, fate: str) -> None:
        """Say what became of a field, if it is there."""
        if name in self:
            self.fates[name] = fate

    def accept(self, harmless: Harmless) -> None:
        """Note the fields that are known to change nothing; those already used stay so."""
        for name in self.fields.keys() & harmless.keys():
            reason = harmless[name]
            if isinstance(reason, Only):
                same = [v for v in reason.values if type(v) is type(self.fields[name]) and v == self.fields[name]]
                if not same:
                    continue
                reason = reason.reason
            if name in self:
                self.fates.setdefault(name, reason)

    def part(self, name: str, *, listed: bool = True) -> "Document":
        """Give an object inside as a document of its own; its fields are this document's, by dotted name.

        Args:
            name: of the field.
            listed: whether `told` goes into it: of a thousand added tokens nobody wants to read.
        """
        if name not in self._parts:
            content = self.take(name, dict, {})
            prefix = f"{self._prefix}{name}."
            self._parts[name] = Document(self.name, self.origin, content, self._ignored, prefix=prefix)
            self._parts[name]._listed = listed
        return self._parts[name]

    def items(self) -> "list[Document]":
        """Give the objects of a document that is a list.

        Raises:
            InputError: it is none.
        """
        if type(self.content) is not list:
            raise InputError(f"{self.origin} is {shown(self.content)}, expected a list")
        for i, content in enumerate(self.content):
            name = f"[{i}]"
            self._parts.setdefault(name, Document(self.name, self.origin, content, self._ignored, prefix=f"{name}."))
        return list(self._parts.values())

    def finish(self) -> None:
        """Hold that every field was accounted for.

        Raises:
            InputError: listing those that were not, with their values, and saying what to do.
        """
        unread = list(self._unread())
        if not unread:
            return
        example = unread[0].partition(" = ")[0]
        raise InputError(
            f"{self.origin}: nobody here knows what {_counted(len(unread), 'field')} would change: "
            f"{', '.join(unread)}; "
            f"remove what does not matter from the file, or say so with --ignore {self.name}:{example} (it is recorded)"
        )

    def _unread(self) -> Iterator[str]:
        if type(self.content) is dict:
            for name, value in self.content.items():
                if name in self and name not in self.fates:
                    yield f"{self._prefix}{name} = {shown(value)}"
        for part in self._parts.values():
            yield from part._unread()

    def told(self) -> dict[str, str]:
        """Say what became of each field, by dotted name: "used", or why it is not."""
        told: dict[str, str] = {}
        if type(self.content) is dict:
            for name in self.content:
                fate = self.fates.get(name, "not read")
                told[self._prefix + name] = "ignored, as --ignore says" if self.ignores(name) else fate
        for part in self._parts.values():
            told |= part.told() if part._listed else {}
        return told


@dataclass(frozen=True)
class Expected:
    """What a value may be, see `Document.take`."""

    kind: type
    choices: Sequence[JSON] | None = None
    low: Number | None = None
    high: Number | None = None

    def checked(self, value: JSON, what: str) -> JSON:
        """Give the value, as a float where one is asked for.

        Raises:
            InputError: it is something else.
        """
        fits = type(value) in KINDS[self.kind][0]
        if fits and self.kind in (int, float):
            low, high = (-LARGEST if self.low is None else self.low), (LARGEST if self.high is None else self.high)
            fits = math.isfinite(value) if type(value) is float else True
            fits = fits and low <= value <= high
        if not fits or (self.choices is not None and value not in self.choices):
            raise InputError(f"{what} is {shown(value)}, expected {self}")
        return float(value) if self.kind is float else value

    def __str__(self) -> str:
        if self.choices is not None:
            return " or ".join(shown(choice) for choice in self.choices)
        low = [] if self.low is None else [f"at least {self.low:g}"]
        high = [] if self.high is None else [f"at most {self.high:g}"]
        return f"{KINDS[self.kind][1]} {' and '.join([*low, *high])}".strip()


def shown(value: JSON) -> str:
    """Write a value as JSON does: on one line, printable, not too long."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"an object of {_counted(len(value), 'field')}"
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(inner, list | dict) for inner in value)):
        return f"a list of {_counted(len(value), 'value')}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


@dataclass(frozen=True)
class Given:
    """What the command line says of a field: the value, and the option that says it."""

    value: JSON
    option: str


@dataclass
class Settled:
    """The fields of a configuration that are settled so far, and where each value came from.

    Args:
        given: what the command line says, by dotted field; it wins over documents and published sizes.
        part: what stands before the fields of this part in `given`: "text.".
    """

    given: Mapping[str, Given]
    part: str = ""
    values: dict[str, JSON] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: JSON, origin: str) -> JSON:
        """Settle a field that leaves no choice: the command line may only say the same.

        Raises:
            InputError: it says something else.
        """
        given = self.given.get(self.part + name)
        if given and (type(given.value) is not type(value) or given.value != value):
            raise InputError(
                f"{given.option}: {self.part}{name} is {shown(given.value)}, but {origin} says {shown(value)}"
            )
        self.values[name], self.origins[name] = value, origin
        return value

    def choose(
        self,
        name: str,
        kind: type,
        *stated: tuple[Document | None, str],
        otherwise: tuple[JSON, str] | None = None,
        advice: str = "",
        choices: Sequence[JSON] | None = None,
        low: Number | None = None,
        high: Number | None = None,
    ) -> JSON:
        """Settle a field: as the command line says, else the first document that states it, else `otherwise`.

        Args:
            name: of the configuration's field.
            kind: see `Document.take`.
            stated: documents with the field's name in each.
            otherwise: a value and where it is from.
            advice: how to state the field, for where nobody does.
            choices: see `Document.take`.
            low: see `Document.take`.
            high: see `Document.take`.

        Raises:
            InputError: what is stated is not as it must be, or nobody states it.
        """
        expected: dict[str, Any] = {"choices": choices, "low": low, "high": high}
        given = self.given.get(self.part + name)
        value, origin = otherwise or (REQUIRED, "")
        for document, field_name in reversed(stated):
            if document is not None and field_name in document:
                if given:
                    document.note(field_name, f"{given.option} says {shown(given.value)} in its place")
                else:
                    value, origin = document.take(field_name, kind, **expected), f"{document.name}: {field_name}"
        if given:
            value, origin = given.value, given.option
        if value is REQUIRED:
            raise InputError(f"{self.part}{name} is stated nowhere; {advice}")
        value = Expected(kind, **expected).checked(value, f"{origin}: {self.part}{name}")
        self.values[name], self.origins[name] = value, origin
        return value


@dataclass(frozen=True)
class Configured:
    """A family's configuration, and for each field, by dotted name, where its value came from.

    Args:
        config: the configuration.
        origins: by dotted field.
        options: what else the command line may say, of which the configuration was made.
    """

    config: Any
    origins: Mapping[str, str]
    options: Collection[str] = ()
