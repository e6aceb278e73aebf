"""The ledger: the certificate of what became of every tensor, as data that inverts.

Written as JSON. `why` answers from it, and every artifact's weights lead back through it to the source
tensors, bit for bit.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...exporters.weights import contiguous
from ...model import layout
from ...model.derived import KINDS, Factor, Made
from ...validation.errors import InputError
from ...validation.files import read_json

FORMAT_VERSION = 2
"""1 had neither derived tensors nor `stored`."""

FATES = ("mapped", "split", "merged", "tied", "dropped")
SOURCE, FLOAT32 = "source", "float32"
"""What leaves may be stored as: in the type that their tensors have, or all in float32."""


@dataclass(frozen=True)
class Entry:
    """The fate of one tensor: mapped to a leaf, split or merged, tied to another tensor, or dropped for a reason."""

    status: str
    rule: str
    target: str = ""
    layout: str = ""
    reason: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    sha256: str = ""
    """Of the tensor's bytes: C order, little-endian."""
    made: Made | None = None
    """How it is made of others; None for a tensor that the checkpoint holds."""


@dataclass(frozen=True)
class Ledger:
    """Every tensor's entry, by its name, and what verification found.

    What the checkpoint holds comes first. Then come the derived tensors, each after those that it is made of.
    """

    family: str
    axes: Mapping[str, int]
    entries: Mapping[str, Entry]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    stored: str = FLOAT32
    """What the leaves are stored as: `SOURCE` or `FLOAT32`."""

    @property
    def leaves(self) -> dict[str, str]:
        """Give leaf -> the name of the tensor that fills it."""
        return {entry.target: name for name, entry in self.entries.items() if entry.status == "mapped"}

    def derived(self) -> Iterator[tuple[str, Made]]:
        """Give the tensors that are made of others, each after those."""
        return ((name, entry.made) for name, entry in self.entries.items() if entry.made)

    @property
    def fillers(self) -> dict[str, str]:
        """Give each tensor of the checkpoint that a leaf is made of -> the leaf, or one of several."""
        found = {name: leaf for leaf, name in self.leaves.items()}
        for name, made in reversed(list(self.derived())):
            if name in found:
                found |= dict.fromkeys(made.ingredients, found[name])
        return {name: leaf for name, leaf in found.items() if not self.entries[name].made}

    def told(self, name: str) -> str:
        """Name a tensor, and how it is made if the checkpoint does not hold it."""
        made = self.entries[name].made
        return f"{name} ({made.formula(self.axes)})" if made else name

    @property
    def numbers(self) -> int:
        """Count the numbers of the network."""
        return sum(math.prod(entry.shape) for entry in self.entries.values() if entry.status == "mapped")

    def leaf(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Turn a source tensor into its leaf: rearranged, in the type that it is stored as."""
        arranged = layout.parse(self.entries[name].layout).apply(tensor, self.axes)
        return arranged if self.stored == SOURCE else arranged.astype(np.float32, copy=False)

    def source(self, name: str, leaf: np.ndarray) -> np.ndarray:
        """Turn a leaf back into the tensor it was made of: names, shape, dtype and bits of the checkpoint."""
        entry = self.entries[name]
        tensor = layout.parse(entry.layout).inverse.apply(leaf, self.axes)
        return tensor.astype(numpy_dtype(entry.dtype)).reshape(entry.shape)

    def digest(self, name: str, leaf: np.ndarray) -> str:
        """Give the sha256 of the tensor that a leaf leads back to; "" if the leaf is not exactly that tensor.

        It must have the type that it is stored as. A float32 leaf of a half-precision tensor has bits that the way
        back rounds off: they must be what up-casting gives.
        """
        tensor = contiguous(self.source(name, leaf))
        if leaf.dtype != (tensor.dtype if self.stored == SOURCE else np.float32):
            return ""
        if tensor.dtype != leaf.dtype and not np.array_equal(_bits(self.leaf(name, tensor)), _bits(leaf)):
            return ""
        return hashlib.sha256(_bits(tensor).data).hexdigest()

    def totals(self) -> dict[str, Any]:
        """Count tensors and bytes by fate; the sums are the checkpoint's: a derived tensor is none of its."""
        real = [entry for entry in self.entries.values() if not entry.made]
        count = Counter(entry.status for entry in real)
        nbytes = Counter[str]()
        for entry in real:
            nbytes[entry.status] += math.prod(entry.shape) * (numpy_dtype(entry.dtype).itemsize if entry.dtype else 0)
        table = {fate: {"tensors": count[fate], "bytes": nbytes[fate]} for fate in FATES}
        return table | {"all": {"tensors": count.total(), "bytes": nbytes.total()}}

    def source_factors(self, factors: Mapping[str, float]) -> dict[str, Factor]:
        """Say what to multiply the checkpoint's tensors by, so that some leaves are multiplied by these factors."""
        found: dict[str, Factor] = {name: factors[leaf] for leaf, name in self.leaves.items() if leaf in factors}
        for name, made in reversed(list(self.derived())):
            if name in found:
                for ingredient, factor in made.factors(found.pop(name), self.axes).items():
                    found[ingredient] = factor * found.get(ingredient, 1)  # parts of one tensor
        tied = {n: found[e.target] for n, e in self.entries.items() if e.status == "tied" and e.target in found}
        return found | tied

    def to_json(self) -> str:
        """Serialize."""
        return json.dumps(self.document(), indent=1) + "\n"

    def document(self) -> dict[str, Any]:
        """Give the document ledger.json, with the inverse direction spelled out for readers without this program."""
        return {
            "format_version": FORMAT_VERSION,
            "family": self.family,
            "axes": dict(self.axes),
            "stored": self.stored,
            "totals": self.totals(),
            "checks": dict(self.checks),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "tensors": {name: _compact(entry) for name, entry in self.entries.items() if not entry.made},
            "derived": {
                name: _compact(self.entries[name]) | {"made": dataclasses.asdict(made)} | self._recipe(made)
                for name, made in self.derived()
            },
            "leaves": dict(sorted(self.leaves.items())),
        }

    def _recipe(self, made: Made) -> dict[str, Any]:
        """Spell out how a tensor is made: in words, with the digest of each ingredient."""
        digests = {ingredient: self.entries[ingredient].sha256 for ingredient in made.ingredients}
        return {"formula": made.formula(self.axes), "ingredients": digests}

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Read a ledger.

        Raises:
            InputError: the file is missing or is no ledger of this format.
        """
        try:
            document = read_json(path)
            if document["format_version"] != FORMAT_VERSION:
                raise InputError(
                    f"{path}: format_version is {document['format_version']}, this program reads {FORMAT_VERSION}; "
                    "convert the checkpoint again, or use the version of bgevis-convert that manifest.json names"
                )
            return cls._from_json(document)
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; run `bgevis-convert remap {path.parent}` first") from error
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a ledger ({error!r}); run `bgevis-convert remap` again") from error

    @classmethod
    def _from_json(cls, document: Mapping[str, Any]) -> "Ledger":
        written = document["tensors"] | document["derived"]
        ledger = cls(
            document["family"],
            document["axes"],
            {name: _entry(entry) for name, entry in written.items()},
            tuple(document["problems"]),
            tuple(document["notes"]),
            document["checks"],
            document["stored"],
        )
        if ledger.stored not in (SOURCE, FLOAT32):
            raise ValueError(f"stored is {ledger.stored!r}, expected {SOURCE} or {FLOAT32}")
        for name, made in ledger.derived():
            if not written[name].items() >= ledger._recipe(made).items():
                raise ValueError(f"{name} is not made as the entries of its ingredients say")
        return ledger


def dtype_of(entries: Mapping[str, Entry], name: str, dtypes: Mapping[str, str]) -> str:
    """Give the type of a tensor, of which `dtypes` has those that the checkpoint holds."""
    made = entries[name].made
    return made.dtype or dtype_of(entries, made.ingredients[0], dtypes) if made else dtypes[name]


def numpy_dtype(name: str) -> np.dtype:
    """Give numpy's dtype for a name such as "float16" or "bfloat16"."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _compact(entry: Entry) -> dict[str, Any]:
    written = dataclasses.asdict(dataclasses.replace(entry, made=None))
    keep = {key: value for key, value in written.items() if value not in ("", (), None)}
    return keep | {"shape": list(entry.shape)}


def _entry(written: Mapping[str, Any]) -> Entry:
    given: dict[str, Any] = {k: v for k, v in written.items() if k not in ("formula", "ingredients", "made")}
    recipe: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in written.get("made", {}).items()}
    made = KINDS[recipe.pop("kind")](**recipe) if recipe else None
    return Entry(**{**given, "shape": tuple(written["shape"])}, made=made)


def _bits(array: np.ndarray) -> np.ndarray:
    return contiguous(array).reshape(-1).view(np.uint8)
