"""Reports: rows of verdicts, as JSON for programs, JUnit for CI, lines for people."""

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVERY = "all"
"""In place of an entry point, in verdicts on the whole artifact."""

ALWAYS = ("entry_point", "case", "output", "passed")
"""What every verdict says, also where it is empty."""


@dataclass(frozen=True)
class Row:
    """One verdict.

    Args:
        error: greatest absolute difference to float64.
        allowed: the budget.
        yardstick: what float32 costs the reference itself.
        cosine: lowest cosine between the output's rows and float64's.
    """

    entry_point: str
    case: str
    output: str
    passed: bool
    problem: str = ""
    error: float | None = None
    allowed: float | None = None
    yardstick: float | None = None
    cosine: float | None = None

    @property
    def used(self) -> float | None:
        """Share of the budget that was used."""
        return self.error / self.allowed if self.error is not None and self.allowed else None


@dataclass(frozen=True)
class Report:
    """All verdicts on one Runner."""

    runner: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Say whether every row passed, and that there was one."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Give the rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    @property
    def worst(self) -> Row | None:
        """Give the row that used most of its budget."""
        return max((row for row in self.rows if row.used is not None), key=lambda row: row.used or 0.0, default=None)

    def summary(self) -> str:
        """Say the verdict in one line."""
        if self.failures:
            first = self.failures[0]
            more = f" and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
            place = first.case if first.entry_point == EVERY else f"{first.entry_point}, {first.case}"
            return f"{self.runner}: FAILED {place}: {describe(first)}{more}"
        if not self.rows:
            return f"{self.runner}: FAILED, nothing was compared"
        worst = self.worst
        rest = f", worst {worst.error:.1e} of {worst.allowed:.1e} allowed" if worst else ""
        return f"{self.runner}: {len(self.rows)} checks passed{rest}"

    def to_json(self) -> dict[str, Any]:
        """Describe the report for programs."""
        rows = [
            {k: v for k, v in dataclasses.asdict(row).items() if k in ALWAYS or v not in (None, "")}
            for row in self.rows
        ]
        return {"runner": self.runner, "passed": self.passed, "notes": list(self.notes), "checks": rows}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """Rebuild a report that another process wrote."""
        rows = tuple(Row(**row) for row in document["checks"])
        return cls(document["runner"], rows, tuple(document["notes"]))


def describe(row: Row) -> str:
    """Say in words why a row failed."""
    if row.error is None:
        return row.problem
    return f"{row.output} differs by {row.error:.3g}, allowed {row.allowed:.3g}; {row.problem}"


def junit(reports: Mapping[str, Report], skipped: Mapping[str, str] | None = None) -> str:
    """Write JUnit XML: one suite per artifact, one case per verdict; one suite for each thing that was not checked.

    Args:
        reports: by artifact.
        skipped: what was not checked -> why.
    """
    root = ElementTree.Element("testsuites", name="bgevis-convert")
    for artifact, report in reports.items():
        rows = report.rows or (Row(EVERY, "anything at all", "", False, "nothing was compared"),)
        failures = str(sum(not row.passed for row in rows))
        suite = ElementTree.SubElement(root, "testsuite", name=artifact, tests=str(len(rows)), failures=failures)
        for row in rows:
            name = f"{row.entry_point}: {row.case}"
            case = ElementTree.SubElement(suite, "testcase", classname=f"{artifact}.{row.entry_point}", name=name)
            if not row.passed:
                ElementTree.SubElement(case, "failure", message=describe(row))
    for name, reason in (skipped or {}).items():
        suite = ElementTree.SubElement(root, "testsuite", name=name, tests="1", failures="0", skipped="1")
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=name)
        ElementTree.SubElement(case, "skipped", message=reason)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
