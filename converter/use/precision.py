"""`precision`: a format's embeddings of a user's own texts, pictures and sounds, held to the original's.

The original is the network as it was trained, in float32: upstream's own code on the checkpoint, from raw texts and
pictures on where upstream has a way from these. Without the checkpoint it is another format of the run directory.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...exporters.base import PROGRAMS, exporters
from ...exporters.precisions import FLOAT32, FLOORS
from ...validation.errors import ConvertError, InputError
from ...validation.rounded import NEAREST, Floors, cosines
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import LEDGER, WEIGHTS_PATH, family_and_config
from ..pack.similarities import unit
from ..printable import printable
from ..progress import Silent
from ..stages.reference import encoded, read_original
from .artifacts import Artifacts
from .batches import BATCH

FLOAT32_FLOORS = Floors(FLOAT32, cosine=1 - 1e-8, mean=1 - 1e-9, overlap=0.99, pearson=1 - 1e-6, activations=0, words=0)
"""Of a program in float32: what order of summation costs is a hundred times less, gelu for quick_gelu 0.99997."""

WARNED = 0.5
"""Share of what a floor allows beyond which a figure is warned of."""

WORST, PARTS = 5, (1, 5, 50)
"""Rows that are named, and percentiles of the cosines that are told."""

TIE = 1e-6
"""Similarities within which two rows are equally near: doubles in a corpus are neighbours in any order."""

BLOCK = 1024
"""Rows that are compared with all others at once."""


class Judge(Protocol):
    """What rows are embedded by, to be held to."""

    @property
    def name(self) -> str:
        """Name it, with versions."""
        ...

    def embed(self, kind: str, given: Sequence[Any]) -> np.ndarray:
        """Embed rows of a kind, "text", "image" or "audio": (rows, width)."""
        ...


@dataclass(frozen=True)
class Format:
    """Another format of the run directory."""

    artifacts: Artifacts

    @property
    def name(self) -> str:
        """Name the format and its runtime."""
        return f"{self.artifacts.format} ({self.artifacts.runner})"

    def embed(self, kind: str, given: Sequence[Any]) -> np.ndarray:
        """Embed rows of a kind."""
        return self.artifacts.embed_rows(kind, given)


class Original:
    """Upstream's own network on the checkpoint, in float32.

    From raw texts and pictures on by upstream's `encode` and image processor; where it has none, and for sounds, by
    what the pack makes of them (a spectrogram is made by upstream's extractor).

    Raises:
        InputError: the checkpoint is not there, or was changed.
        EnvironmentFailure: PyTorch or what the network is written in is not installed.
    """

    def __init__(self, run: RunDirectory, opened: Artifacts):
        try:
            original = read_original(run, Silent())
        except ConvertError as error:
            raise type(error)(f"{error}; or hold it to a format of the run directory: --against onnx") from error
        family, config = family_and_config(run)
        reference = family.reference(config, original)
        reference.check(Ledger.read(run.path / LEDGER).fillers)
        original = dataclasses.replace(original, texts=bool(opened.rules["texts"]))
        self._encodes = family.encode(config, original, reference) if family.encode else {}
        self._reference = reference
        self._prepared = opened.run_by(reference)
        self.name = "; ".join(dict.fromkeys([reference.name, *(each.name for each in self._encodes.values())]))

    def embed(self, kind: str, given: Sequence[Any]) -> np.ndarray:
        """Embed rows of a kind.

        Raises:
            InputError: upstream cannot read one.
        """
        encode = None if kind == "audio" else self._encodes.get(self._prepared.embeds[kind])
        if encode is None:
            return self._prepared.embed_rows(kind, given)
        found = []
        with self._reference.computing():
            for start in range(0, len(given), BATCH):
                rows = given[start : start + BATCH]
                found += [encoded(encode, rows)] if kind == "text" else [_seen(encode, row) for row in rows]
        return np.concatenate(found)


def _seen(encode: Any, file: str) -> np.ndarray:
    """Let upstream embed a picture by itself, so that one that it refuses has a name."""
    try:
        return encoded(encode, [Path(file).read_bytes()])
    except (OSError, InputError) as error:
        raise InputError(f"{file}: {encode.name} cannot read it: {error}") from error


@dataclass(frozen=True)
class Row:
    """A row by its place, its text or file, and the cosine of its vectors."""

    place: int
    what: str
    cosine: float


@dataclass(frozen=True)
class Agreement:
    """How near vectors of some rows are to the original's.

    Args:
        kind: what the rows are.
        rows: how many.
        mean: of the cosines. Here a cosine is one minus half the squared distance in units of the original's length:
            of vectors as long as 1 it is the cosine, and of others a wrong length counts too.
        lowest: of them.
        percentiles: of them, by per cent.
        pearson: correlation of the similarities of all pairs of rows; None of fewer than three rows.
        overlap: share of the `nearest` nearest rows that are the same; None where all rows are that near.
        nearest: how many neighbours are looked at.
        worst: rows with the lowest cosines, the lowest first.
    """

    kind: str
    rows: int
    mean: float
    lowest: float
    percentiles: Mapping[int, float]
    pearson: float | None
    overlap: float | None
    nearest: int
    worst: tuple[Row, ...]

    def figures(self, floors: Floors) -> Iterator[tuple[str, float | None, float]]:
        """Give each figure that is judged, with what it must reach."""
        yield "mean cosine", self.mean, floors.mean
        yield "lowest cosine", self.lowest, floors.cosine
        yield "Pearson's correlation of similarities", self.pearson, floors.pearson
        yield f"share of the {self.nearest} nearest that are the same", self.overlap, floors.overlap


@dataclass(frozen=True)
class Precision:
    """How near a format is to the original on a user's rows.

    Args:
        format: which, with its runtime.
        judge: what it was held to.
        floors: that it is held to.
        agreements: of each kind of rows.
        across: correlation of the similarities of texts and pictures; None where not both were given.
        original_bytes: of the checkpoint.
        artifact_bytes: of the format's files.
    """

    format: str
    judge: str
    floors: Floors
    agreements: tuple[Agreement, ...]
    across: float | None
    original_bytes: int
    artifact_bytes: int

    def _beyond(self, share: float) -> Iterator[str]:
        """Name the figures that are further from 1 than a share of what is allowed."""
        figures = [(each.kind, *row) for each in self.agreements for row in each.figures(self.floors)]
        across = self.floors.pearson
        figures.append(("text and image", "Pearson's correlation of similarities", self.across, across))
        for kind, what, value, floor in figures:
            if value is not None and not 1 - value <= share * (1 - floor):
                yield f"{kind}: {what} is {told(value)}, at least {told(floor)} is asked for"

    @property
    def problems(self) -> list[str]:
        """What is further from the original than the precision allows."""
        return list(self._beyond(1))

    @property
    def warnings(self) -> list[str]:
        """What is within, but takes more than half of what is allowed."""
        failed = set(self.problems)
        return [line for line in self._beyond(WARNED) if line not in failed]

    def to_json(self) -> dict[str, Any]:
        """Give all of it for programs."""
        sizes = {"original": self.original_bytes, "artifact": self.artifact_bytes}
        return {
            "format": self.format,
            "judge": self.judge,
            "floors": {
                "cosine": self.floors.cosine,
                "mean": self.floors.mean,
                "pearson": self.floors.pearson,
                "overlap": self.floors.overlap,
            },
            "kinds": [dataclasses.asdict(each) for each in self.agreements],
            "pearson_across": self.across,
            "bytes": sizes,
            "compression": self.original_bytes / max(self.artifact_bytes, 1),
            "warnings": self.warnings,
            "problems": self.problems,
            "passed": not self.problems,
        }

    def tell(self) -> str:
        """Write it for a person."""
        lines = [f"{self.format} against {self.judge}"]
        for each in self.agreements:
            several = ", ".join(f"{part} % below {told(value)}" for part, value in each.percentiles.items())
            lines.append(f"{each.kind}: {each.rows} rows")
            lines.append(f"  cosine      mean {told(each.mean)}, lowest {told(each.lowest)}; {several}")
            if each.pearson is not None:
                lines.append(f"  Pearson     {told(each.pearson)} of the similarities of all pairs")
            if each.overlap is not None:
                lines.append(f"  neighbours  {each.overlap:.4f} of the {each.nearest} nearest are the same")
            lines += [f"  {told(row.cosine):<10}  row {row.place}: {printable(row.what)[:60]}" for row in each.worst]
        if self.across is not None:
            lines.append(f"text and image: Pearson {told(self.across)} of the similarities of all pairs")
        ratio = self.original_bytes / max(self.artifact_bytes, 1)
        sizes = f"{self.artifact_bytes / 1e6:.1f} MB of the checkpoint's {self.original_bytes / 1e6:.1f} MB"
        return "\n".join([*lines, f"size: {sizes}, compression {ratio:.2f}"])


def told(value: float) -> str:
    """Write a figure of which 1 is perfect: its distance from 1, where six digits would not show it."""
    return f"{value:.6f}" if not 0 < 1 - value < 1e-5 else f"1 - {1 - value:.1e}"


def floors_of(format_name: str, lowest: float | None = None) -> Floors:
    """Give what a format is held to; with the lowest cosine that a user says, if one does."""
    precision = exporters()[format_name].precision
    floors = FLOAT32_FLOORS if precision == FLOAT32 else FLOORS[precision]
    return floors if lowest is None else dataclasses.replace(floors, cosine=lowest, mean=max(lowest, floors.mean))


def measured(
    artifacts: Artifacts, judge: Judge, corpus: Mapping[str, Sequence[str]], nearest: int, lowest: float | None = None
) -> Precision:
    """Embed a corpus by a format and by what it is held to, and compare.

    Args:
        artifacts: the format, open.
        judge: the original.
        corpus: by kind, texts or names of files.
        nearest: how many neighbours of each row are looked at.
        lowest: the lowest cosine that is allowed, in place of the precision's.

    Raises:
        InputError: the network embeds no such rows, or one cannot be read.
    """
    found = {kind: artifacts.embed_rows(kind, rows) for kind, rows in corpus.items()}
    wanted = {kind: judge.embed(kind, rows) for kind, rows in corpus.items()}
    across = None
    if {"text", "image"} <= found.keys():
        pairs = [
            unit(each["text"].astype(np.float64)) @ unit(each["image"].astype(np.float64)).T for each in (found, wanted)
        ]
        across = _correlation(*(each.ravel() for each in pairs)) if pairs[0].size > 2 else None
    run = RunDirectory(artifacts.path)
    return Precision(
        f"{artifacts.format} ({artifacts.runner})",
        judge.name,
        floors_of(artifacts.format, lowest),
        tuple(agreement(kind, corpus[kind], found[kind], wanted[kind], nearest) for kind in corpus),
        across,
        run.manifest()["source"]["bytes"],
        size(run, artifacts.format),
    )


def agreement(
    kind: str, rows: Sequence[str], found: np.ndarray, wanted: np.ndarray, nearest: int = NEAREST
) -> Agreement:
    """Compare vectors, (rows, width) each, with the original's."""
    if found.shape != wanted.shape:
        raise InputError(f"{kind}: the format gives {found.shape}, the original {wanted.shape}")
    near = cosines(found, wanted)
    order = np.argsort(near, kind="stable")[:WORST]
    count, have, want = len(rows), *(unit(each.astype(np.float64)) for each in (found, wanted))
    return Agreement(
        kind,
        count,
        float(near.mean()),
        float(near.min()),
        {part: float(np.percentile(near, part)) for part in PARTS},
        _pairs_correlation(have, want) if count > 2 else None,
        overlap(have, want, nearest) if count > nearest + 1 else None,
        nearest,
        tuple(Row(int(at), rows[at], float(near[at])) for at in order),
    )


def overlap(have: np.ndarray, want: np.ndarray, nearest: int) -> float:
    """Give the share of each row's nearest others that are among the original's, rows of unit vectors.

    One that is as near in the original as the last of those is among them.
    """
    same = 0
    for start in range(0, len(have), BLOCK):
        own, exact = (each[start : start + BLOCK] @ each.T for each in (have, want))
        at = np.arange(len(own))
        own[at, start + at] = exact[at, start + at] = -np.inf
        last = np.partition(exact, -nearest, axis=1)[:, -nearest]
        picked = np.argpartition(-own, nearest - 1, axis=1)[:, :nearest]
        same += int((np.take_along_axis(exact, picked, 1) >= last[:, None] - TIE).sum())
    return same / (len(have) * nearest)


def _pairs_correlation(have: np.ndarray, want: np.ndarray) -> float:
    """Correlate the similarities of all pairs of rows, a block at a time: there may be billions."""
    count = len(have)
    means = [(np.square(each.sum(0)).sum() - np.square(each).sum()) / (count * (count - 1)) for each in (have, want)]
    both = own = exact = 0.0
    for start in range(0, count, BLOCK):
        sides = [each[start : start + BLOCK] @ each.T - mean for each, mean in zip((have, want), means, strict=True)]
        at = np.arange(len(sides[0]))
        for side in sides:
            side[at, start + at] = 0
        both += float((sides[0] * sides[1]).sum())
        own, exact = own + float(np.square(sides[0]).sum()), exact + float(np.square(sides[1]).sum())
    return _ratio(both, own, exact)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return _ratio(float(one @ other), float(one @ one), float(other @ other))


def _ratio(both: float, own: float, exact: float) -> float:
    """Give Pearson's coefficient of sums of products; 1 of similarities that are all the same in both."""
    return both / math.sqrt(own * exact) if own * exact > 0 else float(own == exact)


def size(run: RunDirectory, format_name: str) -> int:
    """Count the bytes of what a format runs by."""
    manifest, exporter = run.manifest(), exporters()[format_name]
    files = list(manifest["stages"][f"export-{format_name}"]["files"])
    shared = exporter.folder == PROGRAMS and exporter.precision == FLOAT32
    return sum(manifest["files"][name]["bytes"] for name in [*files, *([WEIGHTS_PATH] if shared else [])])
