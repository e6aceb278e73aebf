"""The ledger: the certificate of what became of every tensor, as data that inverts.

Written as JSON. `why` answers from it, and every artifact's weights lead back through it to the source
tensors, bit for bit.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...model import layout
from ...validation.errors import InputError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """The fate of one tensor: mapped to a leaf, tied to another tensor, or dropped for a reason."""

    status: str
    rule: str
    target: str = ""
    layout: str = ""
    reason: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    sha256: str = ""
    """Of the tensor's bytes: C order, little-endian."""


@dataclass(frozen=True)
class Ledger:
    """Every tensor's entry, by its name in the checkpoint, and what verification found."""

    family: str
    axes: Mapping[str, int]
    entries: Mapping[str, Entry]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def leaves(self) -> dict[str, str]:
        """Give leaf -> the name of the tensor that fills it."""
        return {entry.target: name for name, entry in self.entries.items() if entry.status == "mapped"}

    @property
    def numbers(self) -> int:
        """Count the numbers of the network."""
        return sum(math.prod(entry.shape) for entry in self.entries.values() if entry.status == "mapped")

    def leaf(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Turn a source tensor into its leaf: rearranged, float32."""
        return layout.parse(self.entries[name].layout).apply(tensor, self.axes).astype(np.float32, copy=False)

    def source(self, name: str, leaf: np.ndarray) -> np.ndarray:
        """Turn a leaf back into the tensor it was made of: names, shape, dtype and bits of the checkpoint."""
        entry = self.entries[name]
        tensor = layout.parse(entry.layout).inverse.apply(leaf, self.axes)
        return tensor.astype(numpy_dtype(entry.dtype)).reshape(entry.shape)

    def digest(self, name: str, leaf: np.ndarray) -> str:
        """Give the sha256 of the tensor that a leaf leads back to; "" if the leaf is not exactly that tensor.

        A leaf of a half-precision tensor has bits that the way back rounds off: they must be what up-casting gives.
        """
        tensor = np.ascontiguousarray(self.source(name, leaf))
        if tensor.dtype != leaf.dtype and self.leaf(name, tensor).tobytes() != leaf.tobytes():
            return ""
        return hashlib.sha256(tensor.reshape(-1).view(np.uint8).data).hexdigest()

    def totals(self) -> dict[str, Any]:
        """Count tensors and bytes by fate; the sums are the checkpoint's."""
        count = Counter(entry.status for entry in self.entries.values())
        nbytes = Counter[str]()
        for entry in self.entries.values():
            nbytes[entry.status] += math.prod(entry.shape) * (numpy_dtype(entry.dtype).itemsize if entry.dtype else 0)
        fates = ("mapped", "tied", "dropped")
        table = {fate: {"tensors": count[fate], "bytes": nbytes[fate]} for fate in fates}
        return table | {"all": {"tensors": count.total(), "bytes": nbytes.total()}}

    def to_json(self) -> str:
        """Serialize, with the inverse direction spelled out for readers without this program."""
        document = {
            "format_version": FORMAT_VERSION,
            "family": self.family,
            "axes": dict(self.axes),
            "totals": self.totals(),
            "checks": dict(self.checks),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "tensors": {name: _compact(entry) for name, entry in self.entries.items()},
            "leaves": dict(sorted(self.leaves.items())),
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Read a ledger.

        Raises:
            InputError: the file is missing or is no ledger of this format.
        """
        try:
            document = json.loads(path.read_text())
            if document["format_version"] != FORMAT_VERSION:
                raise InputError(f"{path}: format_version is {document['format_version']}, expected {FORMAT_VERSION}")
            entries = {
                name: Entry(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in document["tensors"].items()
            }
            rest = {key: tuple(document[key]) for key in ("problems", "notes")}
            return cls(document["family"], document["axes"], entries, checks=document["checks"], **rest)
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; run `bgevis-convert remap {path.parent}` first") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a ledger ({error!r}); run `bgevis-convert remap` again") from error


def numpy_dtype(name: str) -> np.dtype:
    """Give numpy's dtype for a name such as "float16" or "bfloat16"."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _compact(entry: Entry) -> dict[str, Any]:
    keep = {key: value for key, value in dataclasses.asdict(entry).items() if value not in ("", ())}
    return keep | {"shape": list(entry.shape)}
