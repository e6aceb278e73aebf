"""The report for people: one HTML file that needs nothing else, made of what the stages wrote as JSON.

All text goes through Jinja's autoescaping, since names of tensors and files come from whoever made the
checkpoint; the page's own policy lets no script run but the one in the template, by its digest.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...exporters.base import PROGRAMS, WEIGHTS
from ...model.adapter import Adapter
from ...model.family import dotted
from ...validation.compare import NEIGHBOURS_OF
from ...validation.report import EVERY, Report, Row, describe
from ...validation.rounded import NEIGHBOURS
from ..certificate.ledger import FATES, Ledger
from ..directory import Manifest
from ..options import command
from ..pack import RAW
from ..pack.tokenizer import TRUNCATION
from ..printable import printable
from .plots import MOST_PLACES, TURNS, Drawn
from .titles import title
from .uncovered import Tried, uncovered

TEMPLATE = "report.html.j2"
RARE = ("split", "merged")
"""Fates that are shown only where there are any."""
EXAMPLE = 8
"""Size of a bounded axis in the snippets."""
TEXTS = ("a quick brown fox", "ein Fuchs")
"""What the snippets embed; where a picture is needed too, only the first."""
PAIRS = (("what do foxes eat?", "Foxes eat mice."),)


@dataclass(frozen=True)
class Verdict:
    """What is said about the model or one artifact; no report: it was not checked."""

    key: str
    report: Report | None

    @property
    def title(self) -> str:
        """Give the name that people know it by."""
        return title(self.key)

    @property
    def cosine(self) -> float | None:
        """Give the lowest cosine between an embedding and the original's."""
        rows = self.report.rows if self.report else ()
        return min((row.cosine for row in rows if row.cosine is not None), default=None)

    @property
    def order(self) -> str:
        """Say whether the nearest neighbours are the same; "" where there are no vectors."""
        rows = self.report.rows if self.report else ()
        exact = [row for row in rows if f": {NEIGHBOURS_OF}" in f": {row.case}"]
        shares = [row.error for row in rows if f": {NEIGHBOURS} of " in row.case and row.error is not None]
        wrong = [f"{row.problem} ({row.entry_point}, {row.case})" for row in exact if not row.passed]
        if shares:
            return f"{1 - max(shares):.1%} {NEIGHBOURS}"
        return "; ".join(wrong) or ("the same order" if exact else "")

    @property
    def state(self) -> str:
        """Say passed, failed or missing."""
        return "missing" if self.report is None else "passed" if self.report.passed else "failed"


@dataclass(frozen=True)
class Group:
    """One output of one case, as every runtime computed it."""

    entry_point: str
    case: str
    output: str
    rows: tuple[tuple[Verdict, Row], ...]

    @property
    def allowed(self) -> float | None:
        """Give the budget."""
        return next((row.allowed for _, row in self.rows if row.allowed), None)

    @property
    def yardstick(self) -> float | None:
        """Give what float32 costs the reference."""
        return next((row.yardstick for _, row in self.rows if row.yardstick), None)


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from 10**low to 10**high, in percent of a width."""

    low: int
    high: int

    @classmethod
    def around(cls, values: Sequence[float]) -> "Scale":
        """Take the whole decades that hold all values."""
        logs = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
        return cls(math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1))

    def at(self, value: float) -> float:
        """Place a value; what no logarithm holds goes to an end."""
        if not value > 0:  # zero is as good as it gets, NaN as bad
            return 0.0 if value == 0 else 100.0
        share = (math.log10(min(value, 1e300)) - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    @property
    def step(self) -> int:
        """Say how many decades lie between two labels, of which there are about six."""
        return math.ceil((self.high - self.low) / 6)

    @property
    def ticks(self) -> list[int]:
        """Give the decades to label."""
        return list(range(self.low, self.high + 1, self.step))


def render(
    manifest: Manifest,
    ledger: Ledger,
    reports: Mapping[str, Report],
    directory: Path,
    pack: Mapping[str, Any] | None = None,
    tried: Tried | None = None,
    drawn: Sequence[Drawn] | None = (),
) -> bytes:
    """Write the page.

    Args:
        manifest: of the run.
        ledger: of the run.
        reports: on the JAX model and each format.
        directory: paths of this machine, which failures may name, become relative to it.
        pack: preprocess.json, if there is one.
        tried: how large the cases were.
        drawn: pictures of what the network keeps; None where there is what to draw and nothing that draws it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup is this page's own
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "digest": _digest,
        "json": json.dumps,
        "number": _number,
        "share": _share,
        "size": _size,
        "shape": _shape,
        "title": title,
        "code": _code,
        "entry": lambda name: "whole artifact" if name == EVERY else name,
    }
    own = {key: _relative(report, directory) for key, report in reports.items()}
    shown = context(manifest, ledger, own, pack or {}, tried or {})
    shown |= {"drawn": drawn, "most_places": MOST_PLACES, "turns": TURNS}
    html = environment.get_template(TEMPLATE).render(shown)
    return html.encode("utf-8", "backslashreplace")  # a tensor's name may hold half a character


def _relative(report: Report, directory: Path) -> Report:
    """Name the files of the run directory as the manifest does."""
    paths = "|".join(re.escape(f"{path}/") for path in (directory.absolute(), directory) if path.name)
    place = re.compile(rf"(?<![\w./-])({paths})") if paths else re.compile("$^")

    def own(text: str) -> str:
        return place.sub("", text)

    rows = tuple(dataclasses.replace(row, output=own(row.output), problem=own(row.problem)) for row in report.rows)
    return Report(report.runner, rows, tuple(map(own, report.notes)))


def _gives(ledger: Ledger) -> dict[str, list[str]]:
    """Give for each tensor the names of those that are made of it."""
    found: dict[str, list[str]] = {name: [] for name in ledger.entries}
    for name, made in ledger.derived():
        for ingredient in made.ingredients:
            found[ingredient].append(name)
    return found


def context(
    manifest: Manifest, ledger: Ledger, reports: Mapping[str, Report], pack: Mapping[str, Any], tried: Tried
) -> dict[str, Any]:
    """Gather what the template shows."""
    verdicts = _verdicts(manifest, reports)
    rows = [row for verdict in verdicts if verdict.report for row in verdict.report.rows]
    groups = _groups(verdicts)
    origins = manifest.get("origins", {})
    fates = ledger.totals()
    adapter = Adapter.from_json(manifest["adapter"]) if manifest.get("adapter") else None
    return {
        "manifest": manifest,
        "ledger": ledger,
        "fates": fates,
        "gives": _gives(ledger),
        "shown_fates": [fate for fate in FATES if fate not in RARE or fates[fate]["tensors"]],
        "verdicts": verdicts,
        "states": {verdict.key: verdict.state for verdict in verdicts},
        "failed": [verdict for verdict in verdicts if verdict.state == "failed"],
        "missing": [verdict for verdict in verdicts if verdict.state == "missing"],
        "checks": len(rows),
        "describe": describe,
        "groups": [group for group in groups if any(row.error is not None for _, row in group.rows)],
        "plain": [g for g in groups if all(r.error is None for _, r in g.rows) and any(r.passed for _, r in g.rows)],
        "scale": Scale.around([value for row in rows for value in (row.error, row.allowed) if value is not None]),
        "uncovered": list(uncovered(manifest, reports, pack, tried)),
        "command": command(manifest),
        "pack": {"texts": None, "images": None, "embeddings": None, "sounds": None, "transcripts": None, **pack},
        "example": _example_rows(pack),
        "picture": next((file for file in sorted(manifest["files"]) if file.startswith(f"{RAW}/images/")), ""),
        "usage": [_usage(name, entry, pack) for name, entry in manifest["entry_points"].items()],
        "config": [
            *((name, value, origins.get(name, "")) for name, value in dotted(manifest["config"])),
            *([("adapter", adapter.told, adapter.origin)] if adapter else ()),
        ],
        "documents": manifest.get("documents", {}),
        "unread": manifest.get("unread", {}),
        "parts": _parts(manifest["files"]),
    }


def _verdicts(manifest: Manifest, reports: Mapping[str, Report]) -> list[Verdict]:
    """Give the verdicts on the model, on every format that was exported, and on whatever else was judged."""
    exported = {key for entry in manifest["entry_points"].values() for key in entry["programs"]}
    keys = dict.fromkeys(["parity", *sorted(exported), *reports])
    return [Verdict(key, reports.get(key)) for key in keys]


def _groups(verdicts: Sequence[Verdict]) -> list[Group]:
    """Bring together what the runtimes gave for the same output of the same case."""
    found: dict[tuple[str, str, str], list[tuple[Verdict, Row]]] = {}
    for verdict in verdicts:
        for row in verdict.report.rows if verdict.report else ():
            found.setdefault((row.entry_point, row.case, row.output), []).append((verdict, row))
    return [Group(*key, tuple(rows)) for key, rows in found.items()]


def _usage(name: str, entry: Mapping[str, Any], pack: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an entry point with inputs of a size that can be tried, and how texts become them."""
    sizes = {axis: _example(bounds["min"], bounds["max"]) for axis, bounds in entry["axes"].items()}
    inputs = [tensor | {"example": [sizes.get(d, d) for d in tensor["shape"]]} for tensor in entry["inputs"]]
    counted = [tensor | {"count": math.prod(tensor["example"])} for tensor in inputs]
    return {"name": name, **entry, "inputs": counted, "reads": _reads(name, entry, pack)}


def _reads(name: str, entry: Mapping[str, Any], pack: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say how texts become the inputs of an entry point; None where they do not, or something else is needed too.

    Gives what each input is made of, the raw rows, the prompt before them, and where tokenizer.json's own limit is that
    of another entry point, this one's.
    """
    texts = pack.get("texts") or {}
    limits: Mapping[str, int | None] = texts.get("max_tokens", {})
    if not texts.get("tokenizer") or name not in limits:
        return None
    made = {tensor: kind for kind, tensor in texts["inputs"].items()}
    pictures = (pack.get("images") or {}).get("input")
    names = [tensor["name"] for tensor in entry["inputs"]]
    if not set(names) <= {*made, pictures}:
        return None
    return {
        "made": made,
        "rows": _example_rows(pack)[: 1 if pictures in names else None],
        "prompt": texts["prompts"].get(texts["default_prompt"], ""),
        "closed": texts["last_id"] is not None,
        "limit": limits[name] if limits[name] != next(iter(limits.values())) else None,
        "side": next(side for side, words in TRUNCATION.items() if words == texts["truncation"]),
    }


def _example_rows(pack: Mapping[str, Any]) -> list[Any]:
    """Give raw texts, or pairs of them where the network reads such."""
    return list(PAIRS if "pairs" in (pack.get("texts") or {}) else TEXTS)


def _code(value: Any) -> str:
    """Write a literal of Python."""
    if isinstance(value, str):
        return json.dumps(value) if value.isascii() else repr(value)
    inner = ", ".join(map(_code, value))
    return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"


def _example(low: int, high: int | None) -> int:
    return low if high is None else max(low, min(EXAMPLE, high))


def _parts(files: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the files by what they belong to."""
    parts: dict[str, dict[str, Any]] = {}
    for path, file in sorted(files.items()):
        part = parts.setdefault(_part(path), {"files": 0, "bytes": 0})
        part["files"] += 1
        part["bytes"] += file["bytes"]
    return [{"name": name, **part} for name, part in parts.items()]


def _part(path: str) -> str:
    folder, _, rest = path.partition("/")
    if folder == PROGRAMS and rest != WEIGHTS:
        return f"{PROGRAMS}/*.{rest.rpartition('.')[2]}"
    return path if folder == PROGRAMS or not rest else f"{folder}/"


def _share(row: Row) -> str:
    """Say how much of its budget a row used."""
    if row.used is None or not math.isfinite(row.used):
        return "∞"
    if row.used < 10:
        return f"{row.used:.0%}"
    return f"{row.used:.0f}×" if row.used < 10_000 else f"{_number(row.used, 0)}×"


def _number(value: float, digits: int = 2) -> str:
    """Write a small or great number as people do: 1.07e-7."""
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _size(nbytes: int) -> str:
    """Give a number of bytes in the unit that people read it in."""
    if nbytes < 1000:
        return f"{nbytes} B"
    power = min(int(math.log10(nbytes) // 3), 4)
    return f"{nbytes / 1000**power:.1f} {' kMGT'[power]}B"


def _shape(dimensions: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, dimensions))}]"


def _digest(script: str) -> str:
    """Name a script as a content security policy does."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
