"""Goldens on disk: small inputs, what the reference gives for them in float64, and the budget of each output.

One safetensors file per entry point, readable in any language: `<case>/inputs/<name>`,
`<case>/outputs/<name>` (float64), and `<case>/positions/<name>` for an output of which some positions are kept (see
`kept.py`); `index.json` names the cases and their budgets. Beside them, for a few positions, the intermediate values by
module path, and the inputs that they belong to: `taps/<entry point>.safetensors`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .budget import FEW, Budget, largest, measure
from .cases import Case, take_rows, tap_case
from .compare import Golden
from .entry_point import EntryPoint
from .errors import InputError
from .files import read_json, regular
from .kept import chosen_positions, kept, kept_shape
from .locate import Taps
from .runner import Arrays

POSITIONS = 4
"""Of how many tokens the intermediate values are kept: a wrong parameter shows in every token."""


INPUTS = "inputs/"


def sample(tap: np.ndarray) -> np.ndarray:
    """Keep the first row's first, second, middle and last position of an intermediate value, flattened to channels."""
    if tap.ndim < 3:
        return np.asarray(tap, order="C")
    tokens = tap.shape[1]
    keep = sorted({0, min(1, tokens - 1), tokens // 2, tokens - 1})[:POSITIONS]
    return np.ascontiguousarray(tap[:1, keep]).reshape(len(keep), -1)


@dataclass(frozen=True)
class Intermediates:
    """Of one small case of an entry point.

    Args:
        inputs: the case.
        values: module path -> (float64 sample, budget), in the order of computation; the outputs are the last.
    """

    inputs: Arrays
    values: Taps


def write(folder: Path, goldens: Iterable[Golden], taps: Mapping[str, Intermediates]) -> None:
    """Write all goldens below `folder`, and the intermediate values of some entry points."""
    several = list(goldens)
    (folder / "taps").mkdir(parents=True)
    for entry in dict.fromkeys(golden.case.entry_point for golden in several):
        arrays = _arrays(golden for golden in several if golden.case.entry_point == entry)
        _save({k: np.asarray(v, order="C") for k, v in arrays.items()}, folder / f"{entry}.safetensors")
    for entry, traced in taps.items():
        arrays = {INPUTS + name: array for name, array in traced.inputs.items()}
        arrays |= {name: value for name, (value, _) in traced.values.items()}
        _save(arrays, folder / "taps" / f"{entry}.safetensors")
    (folder / "index.json").write_text(json.dumps(_index(several, taps), indent=1) + "\n")


def _arrays(goldens: Iterable[Golden]) -> dict[str, np.ndarray]:
    """Name the arrays of an entry point's goldens."""
    arrays: dict[str, np.ndarray] = {}
    for golden in goldens:
        arrays |= {f"{golden.case.name}/inputs/{k}": v for k, v in golden.case.inputs.items()}
        arrays |= {f"{golden.case.name}/outputs/{k}": v for k, v in golden.outputs.items()}
        arrays |= {f"{golden.case.name}/positions/{k}": v for k, v in golden.positions.items()}
    return arrays


def _index(goldens: Iterable[Golden], taps: Mapping[str, Intermediates]) -> dict[str, Any]:
    """Make the document index.json."""
    index: dict[str, Any] = {}
    for golden in goldens:
        index.setdefault(golden.case.entry_point, {"cases": {}})["cases"][golden.case.name] = _described(golden)
    for entry, traced in taps.items():
        index[entry]["tap_inputs"] = list(traced.inputs)
        index[entry]["taps"] = {name: [b.yardstick, b.scale] for name, (_, b) in traced.values.items()}
    return index


def _save(arrays: Arrays, file: Path) -> None:
    """Write what is small in one piece, so that a full disk is Python's OSError."""
    file.write_bytes(save(dict(arrays)))


def _described(golden: Golden) -> dict[str, Any]:
    cost = {"flops": golden.case.flops} if golden.case.flops else {}
    return {"inputs": list(golden.case.inputs), "budgets": _budgets(golden.budgets), **cost}


def _budgets(budgets: Mapping[str, Budget]) -> dict[str, Any]:
    return {name: {"yardstick": b.yardstick, "scale": b.scale, "allowed": b.allowed} for name, b in budgets.items()}


class Goldens:
    """What `write` wrote.

    Raises:
        InputError: a file is missing or altered beyond reading.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self._index: dict[str, Any] = read_json(folder / "index.json")
        except FileNotFoundError as error:
            raise InputError(f"{folder}/index.json is missing; run `bgevis-convert parity` first") from error
        except ValueError as error:
            raise InputError(f"{folder}/index.json cannot be read: {error}") from error
        if not isinstance(self._index, dict) or not all(isinstance(said, dict) for said in self._index.values()):
            raise InputError(f"{folder}/index.json is not an object of objects; run `bgevis-convert parity` again")
        for entry in self._index:
            if entry in ("", "..") or "/" in entry:
                raise InputError(
                    f"{folder}/index.json names the entry point {entry!r}, which would be another folder's"
                )

    def cases(self) -> list[Golden]:
        """Read every golden."""
        return [golden for entry in self._index for golden in self._entry(entry)]

    def _entry(self, entry: str) -> list[Golden]:
        arrays = read_arrays(self.folder / f"{entry}.safetensors")
        goldens = []
        try:
            for name, described in self._index[entry]["cases"].items():
                inputs = {key: arrays[f"{name}/inputs/{key}"] for key in described["inputs"]}
                outputs = {key: arrays[f"{name}/outputs/{key}"] for key in described["budgets"]}
                numbers = {key: (float(b["yardstick"]), float(b["scale"])) for key, b in described["budgets"].items()}
                budgets = {key: Budget(*pair) for key, pair in numbers.items()}
                kept_at = {key: arrays[p] for key in outputs if (p := f"{name}/positions/{key}") in arrays}
                case = Case(entry, name, inputs, flops=float(described.get("flops", 0)))
                goldens.append(Golden(case, outputs, budgets, kept_at))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{self.folder}: {entry}.safetensors and index.json do not fit ({error!r})") from error
        return goldens

    def restated(self) -> Iterator[tuple[str, Any, Any]]:
        """Give what the index says, and what it would say of what was read; likewise of each file the arrays' names.

        Each is (what it is, as it is, as it would be).

        Raises:
            InputError: a file is missing or altered beyond reading.
        """
        taps = {entry: self.intermediates(entry) for entry, said in self._index.items() if "taps" in said}
        goldens = self.cases()
        yield "index.json", self._index, _index(goldens, taps)
        for entry in self._index:
            file = f"{entry}.safetensors"
            there = read_arrays(self.folder / file)
            yield file, sorted(there), sorted(_arrays(g for g in goldens if g.case.entry_point == entry))
        for entry, traced in taps.items():
            there = read_arrays(self.folder / "taps" / f"{entry}.safetensors")
            yield (
                f"taps/{entry}.safetensors",
                sorted(there),
                sorted([*traced.values, *map(INPUTS.__add__, traced.inputs)]),
            )

    @property
    def entries(self) -> set[str]:
        """Name the entry points of which there are goldens."""
        return set(self._index)

    @property
    def files(self) -> list[str]:
        """Name the files of which the index speaks, with it, relative to the folder."""
        taps = [f"taps/{entry}.safetensors" for entry, said in self._index.items() if "taps" in said]
        return ["index.json", *(f"{entry}.safetensors" for entry in self._index), *taps]

    def problems(
        self, entries: Iterable[EntryPoint], draw: Callable[[EntryPoint], Iterable[Case]], alike: bool = True
    ) -> Iterator[str]:
        """Say what these goldens cannot prove: cases that are missing or other ones, budgets of no measurement.

        Args:
            entries: the family's own, with the domains that `draw` draws cases from.
            draw: gives the cases that every network of the family has.
            alike: numbers are drawn here as where the goldens were made; else only shapes are compared.
        """
        for entry in entries:
            if entry.name not in self._index:
                yield f"there are no goldens of {entry.name}"
                continue
            found = {golden.case.name: golden for golden in self._entry(entry.name)}
            for case in draw(entry):
                yield from _lacks(entry, case, found.get(case.name), alike)
            if alike and "taps" in self._index[entry.name]:
                yield from _other_numbers(entry, tap_case(entry), self.intermediates(entry.name).inputs)
            exact = {spec.name for spec in entry.outputs if spec.kind.exact}
            for golden in found.values():
                for name, values in golden.outputs.items():
                    scales = {largest(other.outputs[name]) for other in found.values() if name in other.outputs}
                    if problem := golden.budgets[name].problem(values, scales):
                        yield f"{entry.name}, {golden.case.name}: {name}: {problem}"
                    elif name in exact and golden.budgets[name].yardstick:
                        yield f"{entry.name}, {golden.case.name}: {name}: float32 and float64 do not choose the same"
                yield from _misplaced(entry, golden)

    def intermediates(self, entry: str) -> Intermediates:
        """Read the intermediate values of an entry point.

        Raises:
            InputError: they are missing or altered beyond reading.
        """
        file = self.folder / "taps" / f"{entry}.safetensors"
        arrays = read_arrays(file)
        try:
            inputs = {name: arrays[INPUTS + name] for name in self._index[entry]["tap_inputs"]}
            values = {name: (arrays[name], Budget(*pair)) for name, pair in self._index[entry]["taps"].items()}
        except (KeyError, TypeError) as error:
            raise InputError(f"{file} and index.json do not fit ({error!r})") from error
        return Intermediates(inputs, values)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read every array of a safetensors file.

    Raises:
        InputError: it is missing or altered beyond reading.
    """
    try:
        regular(file)
        with safe_open(file, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def _lacks(entry: EntryPoint, case: Case, found: Golden | None, alike: bool) -> Iterator[str]:
    """Say how a stored case differs in form from the one that is drawn."""
    if found is None:
        yield f"the goldens of {entry.name} lack the case {case.name!r}"
        return
    for name, array in case.inputs.items():
        stored = found.case.inputs.get(name)
        if stored is None or (stored.shape, stored.dtype) != (array.shape, array.dtype):
            form = "missing" if stored is None else f"{stored.dtype} {stored.shape}"
            yield f"{entry.name}, {case.name}: {name} is {form}, expected {array.dtype} {array.shape}"
    if alike or case.stated:
        yield from _other_numbers(entry, case, found.case.inputs)
    if found.case.flops != case.flops:
        yield f"{entry.name}, {case.name}: flops is {found.case.flops:g}, expected {case.flops:g}"
    sizes = entry.sizes(case.inputs)
    for spec in entry.outputs:
        want = kept_shape(spec, spec.resolve(sizes))
        if spec.name not in found.outputs:
            yield f"{entry.name}, {case.name}: the golden has no output {spec.name}, but {', '.join(found.outputs)}"
        elif found.outputs[spec.name].shape != want:
            got = found.outputs[spec.name].shape
            yield f"{entry.name}, {case.name}: the golden of {spec.name} is of shape {got}, expected {want}"


def _other_numbers(entry: EntryPoint, case: Case, stored: Arrays) -> Iterator[str]:
    """Name the inputs that hold other numbers than a case has: those could be such as hide a mistake."""
    for name, array in case.inputs.items():
        if name not in stored or (stored[name].shape == array.shape and not np.array_equal(stored[name], array)):
            yield f"{entry.name}, {case.name}: {name} holds other numbers than the family states"


def _misplaced(entry: EntryPoint, golden: Golden) -> Iterator[str]:
    """Name the outputs of which other positions are said to be kept than are."""
    sizes = entry.sizes(golden.case.inputs)
    whole = {s.name: np.broadcast_to(0.0, s.resolve(sizes)) for s in entry.outputs if s.name in golden.outputs}
    for name, places in chosen_positions(entry, golden.case.inputs, whole).items():
        if not np.array_equal(golden.positions.get(name, ()), places):
            yield f"{entry.name}, {golden.case.name}: other positions of {name} are stated than are kept"


def golden(entry: EntryPoint, case: Case, exact: Arrays, float32: Arrays) -> Golden:
    """Make a golden of the reference's two runs."""
    wanted, measured = kept(entry, case.inputs, exact), kept(entry, case.inputs, float32)
    budgets = {name: measure(array, measured[name]) for name, array in wanted.items()}
    return Golden(case, wanted, budgets, chosen_positions(entry, case.inputs, exact))


def pooled(found: Sequence[Golden]) -> list[Golden]:
    """Measure outputs of a few numbers, such as a score, on all cases of their entry point together."""
    whole: dict[tuple[str, str], Budget] = {}
    for each in found:
        for name, budget in each.budgets.items():
            key = each.case.entry_point, name
            other = whole.get(key, budget)
            whole[key] = Budget(max(other.yardstick, budget.yardstick), max(other.scale, budget.scale))

    def budgets(each: Golden) -> dict[str, Budget]:
        few = {name for name in each.budgets if each.outputs[name].size < FEW}
        return {n: whole[each.case.entry_point, n] if n in few else b for n, b in each.budgets.items()}

    return [replace(each, budgets=budgets(each)) for each in found]


def golden_rows(entry: EntryPoint, case: Case, whole: Golden) -> Golden:
    """Make the golden of a case whose rows are those of another."""
    assert case.same_as
    _, rows = case.same_as
    specs = {spec.name: spec for spec in entry.outputs}

    def some(arrays: Arrays) -> Arrays:
        return {name: take_rows(entry, specs[name], array, rows) for name, array in arrays.items()}

    return Golden(case, some(whole.outputs), whole.budgets, some(whole.positions))
