"""The raw texts of a run directory with what must come out, for the examples that replay them by somebody's client."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

Compute = Callable[[list], np.ndarray]


@dataclass(frozen=True)
class RawCase:
    """Texts, or pairs of them, what must come out of them, (rows, width), and how far from it a result may lie."""

    name: str
    rows: list[str | tuple[str, str]]
    wanted: np.ndarray
    allowed: float


def raw_cases(directory: Path) -> Iterator[RawCase]:
    """Give each raw case of the one entry point that reads texts."""
    raw, index, manifest = (
        json.loads((directory / path).read_text(encoding="utf-8"))
        for path in ("goldens/raw/index.json", "goldens/index.json", "manifest.json")
    )
    texts = {text["name"]: text["text"] for text in raw["texts"]}
    pairs = {pair["name"]: tuple(pair["texts"]) for pair in raw.get("pairs", ())}
    ((entry, several),) = raw["cases"].items()
    output = manifest["entry_points"][entry]["outputs"][0]["name"]
    arrays = load_file(directory / f"goldens/{entry}.safetensors")
    for name, rows in several.items():
        known, names = (pairs, rows["pairs"]) if "pairs" in rows else (texts, rows["texts"])
        allowed = index[entry]["cases"][name]["budgets"][output]["allowed"]
        yield RawCase(name, [known[row] for row in names], arrays[f"{name}/outputs/{output}"], allowed)


def replay(client: str, compute: Compute, cases: Sequence[RawCase]) -> int:
    """Compare what a client computes with each case, say it, and give how many differ."""
    failed = 0
    for case in cases:
        error = float(np.abs(np.asarray(compute(case.rows)).reshape(case.wanted.shape) - case.wanted).max())
        failed += not error <= case.allowed
        verdict = "as the goldens" if error <= case.allowed else "NOT as the goldens"
        print(f"{client}, {case.name}: {verdict}, {error:.1e} of {case.allowed:.1e} allowed")
    return failed
