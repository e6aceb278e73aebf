"""Tables, the machine that they were measured on, and their place in docs/performance.md."""

import datetime
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from .models import BUILD, ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
PACKAGES = ("bgevis-convert", "jax", "flax", "torch", "onnx", "onnxruntime", "openvino", "onnxscript", "jax2onnx")
PACKAGES += ("tensorflow-cpu", "sentence-transformers", "fastembed", "tokenizers", "pyarrow")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table: the first column to the left, numbers to the right."""
    rows = [list(headings), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (rows[0], rule, *rows[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TARGETS = ("", "measured", "target", "aim", "")
"""Headings of a table of `held`."""


def held(name: str, value: float, target: float, aim: float | None = None, unit: str = "") -> tuple[str, ...]:
    """Give a table's line of a figure that should be small, what it should be at most, and whether it is."""
    verdict = "aim met" if aim and value <= aim else "met" if value <= target else "MISSED"
    return (name, f"{value:.2f}{unit}", f"{target}{unit}", f"{aim}{unit}" if aim else "", verdict)


def environment() -> dict[str, Any]:
    """State when and on what was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def installed(package: str) -> str | None:
    """Give the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sentence(where: Mapping[str, Any]) -> str:
    """Say the environment in one line."""
    packages = ", ".join(f"{name} {found}" for name, found in where["packages"].items())
    machine = f"{where['cpu']}, {where['cpus']} CPUs, {where['memory'] / 1e9:.0f} GB, {where['system']}"
    return f"{where['date']}; {machine}; Python {where['python']}, {packages}."


def save(name: str, content: dict[str, Any]) -> Path:
    """Keep all that was measured as JSON."""
    file = BUILD / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file


def rewrite(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers of a generated block."""
    start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document} must hold the lines {start} and {end}")
    document.write_text(f"{before}{start}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def refuse_quick(quick: bool, write_docs: bool) -> None:
    """Raise UsageError rather than publish what a quick run has measured."""
    if quick and write_docs:
        raise click.UsageError("--quick only shows that everything works: its numbers do not belong into the documents")
