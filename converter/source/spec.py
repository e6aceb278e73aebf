"""The inputs of a module, as the command line or a file states them: names, types, named axes and their bounds."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...model.documents import JSON
from ...model.traced.graph import domain_from_json
from ...model.traced.wanted import Wanted
from ...validation import outputs
from ...validation.dims import terms
from ...validation.domains import Domain, Integers
from ...validation.entry_point import Axis, TensorSpec
from ...validation.errors import EnvironmentFailure, InputError
from ..checkpoint.format_error import FormatError
from ..checkpoint.strict_json import parse
from ..options import SPECS

TYPES = {"float32": "float32", "int64": "int32", "int32": "int32", "bool": "bool"}
"""What a spec may say -> what programs take. Ids are 32 bits wide in every format, as those of the families."""

EXAMPLE = "'input_ids: int64[batch, tokens <= 512], attention_mask: int64[batch, tokens]'"

INPUT = re.compile(r"\s*([A-Za-z_]\w*)\s*:\s*(\w+)\s*\[([^\]]*)\]\s*(?:<\s*(\d+))?\s*")
BOUNDED = re.compile(r"(?:(\d+)\s*<=\s*)?([A-Za-z_]\w*)(?:\s*(<=|>=)\s*(\d+))?")
FIELDS = ("method", "inputs", "outputs", "domains")


@dataclass
class _Reading:
    """What one entry point has said so far."""

    place: str
    axes: dict[str, Axis] = field(default_factory=dict)

    def wrong(self, text: str) -> InputError:
        return InputError(f"{self.place}: {text}")

    def tensor(self, name: str, text: str, domain: Domain | None = None) -> TensorSpec:
        """Read one input: "int64[batch, tokens <= 512] < 10"."""
        match = INPUT.fullmatch(f"{name}: {text}")
        if match is None:
            raise self.wrong(f"cannot read '{name}: {text}', expected something like {EXAMPLE}")
        name, dtype, dims, below = match.groups()
        if dtype not in TYPES:
            raise self.wrong(f"{name} is of {dtype}, expected one of {', '.join(TYPES)}")
        shape = tuple(self.dim(name, dim.strip()) for dim in dims.split(",")) if dims.strip() else ()
        if below and dtype in ("float32", "bool"):
            raise self.wrong(f"{name}: < {below} says how large whole numbers are, and {dtype} holds none")
        return TensorSpec(name, TYPES[dtype], shape, Integers(int(below)) if below else domain)

    def dim(self, name: str, text: str) -> int | str:
        """Read a dimension: a number, an axis with or without bounds, a sum of axes."""
        if text.isdecimal():
            return int(text)
        match = BOUNDED.fullmatch(text)
        if match is None:
            try:
                terms(text)
            except ValueError as error:
                raise self.wrong(f"{name}: {text!r} is no number, axis ('tokens <= 512') or sum of axes") from error
            return text
        low, axis, sign, number = match.groups()
        stated = {
            **({"low": int(low)} if low else {}),
            **({"high": int(number)} if sign == "<=" else {"low": int(number)} if sign else {}),
        }
        try:
            self.bound(axis, stated)
        except ValueError as error:
            raise self.wrong(f"{name}: {text!r}: {error}") from error
        return axis

    def bound(self, axis: str, stated: Mapping[str, int]) -> None:
        """Note what is said of an axis; what is said twice must be the same."""
        before = self.axes.get(axis, Axis())
        for key, value in stated.items():
            known = getattr(before, key)
            if known not in (getattr(Axis(), key), value):
                raise ValueError(f"{axis} was said to be {'at least' if key == 'low' else 'at most'} {known}")
        self.axes[axis] = Axis(stated.get("low", before.low), stated.get("high", before.high))

    def finish(self, inputs: tuple[TensorSpec, ...], **more: Any) -> Wanted:
        """Give the entry point."""
        for spec in inputs:
            for dim in spec.shape:
                for axis in (a for a, _ in terms(dim) if a and a not in self.axes):
                    raise self.wrong(f"{spec.name}: {axis} stands in {dim!r} only: an input must have it alone")
        return Wanted(inputs=inputs, axes=dict(self.axes), **more)


def read_spec(text: str) -> tuple[Wanted, ...]:
    """Read what --inputs says: a text for the one method `forward`, or a file with several entry points.

    Raises:
        InputError: naming the place, what came and what is expected.
    """
    if text.endswith(SPECS):
        return _entries(Path(text))
    reading = _Reading("--inputs")
    # Commas stand between inputs and between dimensions: those between inputs have a name and a colon behind them.
    parts = re.split(r",\s*(?=[A-Za-z_]\w*\s*:)", text)
    inputs = tuple(reading.tensor(*_named(part, reading)) for part in parts)
    _once(reading, [spec.name for spec in inputs])
    return (reading.finish(inputs, name="forward"),)


def _named(part: str, reading: _Reading) -> tuple[str, str]:
    name, colon, rest = part.partition(":")
    if not colon:
        raise reading.wrong(f"cannot read {part.strip()!r}, expected something like {EXAMPLE}")
    return name.strip(), rest.strip()


def _once(reading: _Reading, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise reading.wrong(f"two inputs are called {name}")


def _entries(file: Path) -> tuple[Wanted, ...]:
    document = _document(file)
    if not isinstance(document, dict) or not document:
        raise InputError(f"--inputs {file}: expected an object of entry points by name, as docs/network.md shows")
    return tuple(_entry(file, str(name), each) for name, each in document.items())


def _document(file: Path) -> JSON:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"--inputs {file}: cannot be read ({error.strerror})") from error
    if file.suffix == ".json":
        try:
            return parse(data)
        except FormatError as error:
            raise InputError(f"--inputs {file} {error.problem}; mend it") from error
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(f"--inputs {file}: reading YAML needs pyyaml; write it as JSON") from error
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise InputError(f"--inputs {file} is no YAML: {str(error).splitlines()[0]}") from error


def _entry(file: Path, name: str, stated: JSON) -> Wanted:
    reading = _Reading(f"--inputs {file}: {name}")
    if not name.isidentifier() or not isinstance(stated, dict):
        raise reading.wrong("expected a name, and an object of method, inputs, outputs and domains for it")
    unknown = [key for key in stated if key not in FIELDS]
    if unknown:
        raise reading.wrong(f"there is no {unknown[0]} (fields: {', '.join(FIELDS)})")
    inputs, method = stated.get("inputs"), stated.get("method", "forward")
    if not isinstance(inputs, dict) or not inputs or not all(isinstance(text, str) for text in inputs.values()):
        raise reading.wrong("inputs: expected an object of texts by name, as in {input_ids: 'int64[batch, tokens]'}")
    if not isinstance(method, str):
        raise reading.wrong(f"method is {json.dumps(method)}, expected a text")
    domains = _domains(reading, stated.get("domains", {}), inputs)
    specs = tuple(reading.tensor(str(each), text, domains.get(each)) for each, text in inputs.items())
    return reading.finish(specs, name=name, method=method, outputs=_outputs(reading, stated.get("outputs", {})))


def _domains(reading: _Reading, stated: JSON, inputs: Mapping[str, str]) -> dict[str, Domain | None]:
    if not isinstance(stated, dict) or not all(isinstance(each, dict) for each in stated.values()):
        raise reading.wrong("domains: expected an object of domains by input, as in {ids: {is: Integers, high: 10}}")
    for name in stated:
        if name not in inputs:
            raise reading.wrong(f"domains: there is no input {name}")
    try:
        return {name: domain_from_json(each) for name, each in stated.items()}
    except ValueError as error:
        raise reading.wrong(f"domains: {error}") from error


def _outputs(reading: _Reading, stated: JSON) -> dict[str, outputs.Output]:
    if isinstance(stated, list):
        stated = dict.fromkeys(map(str, stated), outputs.Output.word)
    if not isinstance(stated, dict):
        raise reading.wrong("outputs: expected names, or an object of kinds by name")
    found = {}
    for name, kind in stated.items():
        fields = {"is": kind} if isinstance(kind, str) else dict(kind) if isinstance(kind, dict) else {}
        cls = outputs.KINDS.get(str(fields.pop("is", "")))
        try:
            found[str(name)] = cls(**fields) if cls else None
        except TypeError as error:
            raise reading.wrong(f"outputs: {name}: {error}") from error
        if cls is None:
            raise reading.wrong(f"outputs: {name} is {json.dumps(kind)}, expected one of {', '.join(outputs.KINDS)}")
    return {name: kind for name, kind in found.items() if kind}
