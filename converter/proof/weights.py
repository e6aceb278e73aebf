"""The weights of an artifact, read back and led to the source's tensors, bit for bit."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...exporters.base import Artifact, Exporter
from ...exporters.weights import WeightsFile
from ...validation.errors import raised
from ...validation.report import EVERY, Row
from ..certificate.cause import recognised
from ..certificate.ledger import Ledger
from ..manifest import WEIGHTS_PATH

EXPLAINED = 8
"""Wrong weights whose mistake is looked for; where there are more, it is the file that is wrong."""


def rounding_rows(exporter: Exporter, opened: Artifact, ledger: Ledger) -> list[Row]:
    """Lead the exact weights back to the source, and hold each stored number to what rounding them gives."""
    assert exporter.rounding
    rows = file_rows(opened.directory, ledger)
    seen = 0
    try:
        for leaf, problem in exporter.rounding(opened):
            seen += 1
            if problem:
                rows.append(Row(EVERY, "rounded weights", leaf, False, f"{leaf}: {problem}"))
    except MemoryError:
        raise
    except Exception as error:
        return [*rows, Row(EVERY, "rounded weights", "", False, f"the weights cannot be read ({raised(error)})")]
    passed = all(row.passed for row in rows)
    return [*rows, Row(EVERY, f"{seen} weights are the source's, rounded", "weights", True)] if passed else rows


def _exact(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    file = WeightsFile(directory / WEIGHTS_PATH)
    return ((leaf, file[leaf]) for leaf in file.tensors)


def file_rows(directory: Path, ledger: Ledger) -> list[Row]:
    """Lead every weight of the weights file back to its source tensor."""
    return _rows(lambda: _exact(directory), ledger)


def weight_rows(exporter: Exporter, opened: Artifact, ledger: Ledger) -> list[Row]:
    """Read every weight out of the artifact, lead it back to its source tensor, and compare the digests."""
    return _rows(lambda: exporter.read_weights(opened), ledger)


def _rows(read: Callable[[], Iterator[tuple[str, np.ndarray]]], ledger: Ledger) -> list[Row]:
    """Compare the digests.

    What a runtime raises over a damaged artifact is a finding, whatever its type.
    """
    wanted = ledger.leaves
    rows: list[Row] = []
    seen: set[str] = set()
    try:
        for leaf, array in read():
            seen.add(leaf)
            explain = len(rows) < EXPLAINED
            problem = _weight_problem(ledger, leaf, array, explain) if leaf in wanted else "is no parameter"
            if problem:
                rows.append(Row(EVERY, "weights", leaf, False, f"{leaf}: {problem}"))
    except MemoryError:
        raise
    except Exception as error:
        return [*rows, Row(EVERY, "weights", "", False, f"the weights cannot be read ({raised(error)})")]
    rows += [Row(EVERY, "weights", leaf, False, f"{leaf} is missing") for leaf in sorted(set(wanted) - seen)]
    return rows or [Row(EVERY, f"{len(seen)} weights lead back to the source's bytes", "weights", True)]


def _weight_problem(ledger: Ledger, leaf: str, array: np.ndarray, explain: bool) -> str:
    name = ledger.leaves[leaf]
    try:
        if ledger.digest(name, array) == ledger.entries[name].sha256:
            return ""
    except ValueError as error:
        return f"shape {array.shape} does not lead back to {name}: {error}"
    cause = recognised(ledger, leaf, array) if explain else ""
    return f"differs from the checkpoint's {ledger.told(name)}" + (f": it is {cause}" if cause else "")
