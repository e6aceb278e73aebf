"""A finished run directory from Python: raw texts and pictures to embeddings through any format, or the NNX module."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.base import Exporter, exporters
from ...exporters.weights import WeightsFile
from ...validation.entry_point import EntryPoint
from ...validation.errors import ConvertError, EnvironmentFailure, InputError, raised
from ...validation.outputs import States, TokenWeights
from ...validation.runner import Arrays
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, artifact, network
from ..options import Options, chosen
from ..pack import PREPROCESS, TOKENIZER
from ..pack.pictures import Source
from ..pack.preprocessor import Preprocessor, Raw
from ..pack.steps import SCORED
from ..stages.common import require
from .hybrid import Hybrid, lexical_weights, scores

if TYPE_CHECKING:
    from flax import nnx

PREFERRED = ("onnx", "stablehlo", "saved-model", "orbax")
"""Which format is opened when none is named: the first that is there and whose runtime is installed."""

BATCH = 32
USUAL = 512
"""Tokens up to which a batch is full. Attention's memory grows with their square, so longer ones come in fewer rows."""


def load_module(directory: Path | str) -> "nnx.Module":
    """Rebuild the network around its weights file; no random initialisation, no copy on a CPU.

    Raises:
        InputError: `directory` is no run directory, or its weights were not built.
    """
    import jax

    run = RunDirectory(Path(directory))
    require(run, "build")
    net, weights = network(run), WeightsFile(run.path / WEIGHTS_PATH)
    return net.module(jax.device_put({name: weights[name] for name in net.leaves}))


def open_artifacts(
    directory: Path | str,
    format: str | None = None,  # noqa: A002 - as on the command line
    *,
    verify: bool = False,
) -> "Artifacts":
    """Open one format of a run directory.

    Args:
        directory: the run directory.
        format: onnx, stablehlo, saved-model or orbax; by default the first that is there and can be run here.
        verify: hold each file that is opened to its sha256 in the manifest, not to its size alone.

    Raises:
        InputError: no such directory or format, or it cannot be opened.
        EnvironmentFailure: the format's runtime is not installed.
    """
    return Artifacts(RunDirectory(Path(directory)), format, verify=verify)


class Artifacts:
    """One format of a run directory, open, with the tokenizer and the preprocessing of its pack."""

    def __init__(self, run: RunDirectory, format: str | None = None, *, verify: bool = False):  # noqa: A002 - as on the command line
        exporter = chosen(Options(formats=(format,)))[0] if format else _first(run)
        exporter.require()
        opened = artifact(run, exporter)
        files = run.manifest()["stages"].get(f"export-{exporter.name}", {"files": []})["files"]
        shared = [f for f in (TOKENIZER, PREPROCESS, WEIGHTS_PATH) if f in run.manifest()["files"]]
        for damage in run.damaged([*files, *shared], contents=verify):
            raise InputError(f"{damage}; get the run directory again, or convert again")
        try:
            self._runner = exporter.open(opened)
        except ConvertError:
            raise
        except Exception as error:  # each runtime has its own
            raise InputError(f"{run.path}: its {exporter.name} cannot be opened: {raised(error)}") from error
        self.path = run.path
        self.format = exporter.name
        self.runner = self._runner.name
        self.entry_points = opened.entry_points
        self.cut: tuple[int, ...] = ()
        """Which of the texts that were embedded last were cut, being longer than `limit`."""
        self.limit: int | None = None
        """The most tokens of these, special ones and the prompt's included; None for no limit."""
        self._compiles = exporter.compiles
        self._preprocessor = Preprocessor(run.path)
        self._preprocessor.hold_to(self.entry_points)

    @property
    def rules(self) -> Mapping[str, Any]:
        """What preprocess.json says: docs/pack.md."""
        return self._preprocessor.rules

    @property
    def width(self) -> int:
        """Give how many numbers an embedding has.

        Raises:
            InputError: the network gives no embeddings.
        """
        rules = self._preprocessor.rules["embeddings"]
        if rules is None:
            raise InputError(f"{self.path}: this network gives no embeddings ({self._told()})")
        return int(rules["width"])

    def _told(self) -> str:
        described = (
            f"{entry.name}({', '.join(s.name for s in entry.inputs)}) -> {', '.join(s.name for s in entry.outputs)}"
            for entry in self.entry_points.values()
        )
        return f"entry points: {', '.join(described)}"

    def embed(
        self,
        texts: Sequence[str] | None = None,
        images: Sequence[Source] | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> np.ndarray:
        """Embed texts, pictures, or pairs of both: (rows, width) float32, in the order given.

        Texts that are longer than the folder's limit are cut, at the end that it says; `cut` tells which they were.
        Rows are run in batches of like length.

        Args:
            texts: any strings, the empty one too.
            prompt_name: the name of the prompt that stands before each text, one of `prompts`; by default the one that
                the folder says, if any.
            prompt: that prompt itself, instead of its name; "" for none.
            images: files, their bytes, arrays (height, width, 3) of uint8, or Pillow's pictures.
            strict: refuse texts that would be cut.
            batch_size: most rows at once; longer texts come in fewer.
            progress: show a bar on standard error.

        Raises:
            InputError: the network does not take these, gives no embeddings of them, has no such prompt, a picture
                cannot be read, or a text is too long for `strict`.
            EnvironmentFailure: a package that reads them is missing, or the runtime failed.
        """
        for name, given in (("texts", texts), ("images", images)):
            if isinstance(given, str | bytes | Path):
                raise TypeError(f"{name} must be a list, got one {type(given).__name__}")
        width = self.width
        entry, output = self._entry(texts is not None, images is not None)
        if texts is not None and images is not None and len(texts) != len(images):
            raise ValueError(f"texts and images are pairs: got {len(texts)} texts and {len(images)} images")
        count = len(texts if texts is not None else images or ())
        embeddings = np.zeros((count, width), np.float32)
        ids, leading = None, 0
        self.cut = ()
        if texts is not None:
            before = self._prompt(prompt_name, prompt)
            leading = self._preprocessor.texts.prompt_tokens(entry.name, before)
            ids = self._preprocessor.ids(entry.name, texts, before)
            self._note_cut(entry.name, count, strict=strict)

        def made(rows: list[int], tokens: int) -> Arrays:
            pixels = {} if images is None else self._preprocessor.image_inputs([images[row] for row in rows])
            if ids is None:
                return pixels
            given = [ids[row] for row in rows]
            return pixels | self._preprocessor.text_inputs(given, tokens, prompt_tokens=leading)

        for rows in _shown(_batches(count, ids, batch_size), count, progress):
            embeddings[rows] = self._run(entry, rows, ids, made)[output]
        return embeddings

    def score(
        self,
        pairs: Sequence[Raw],
        *,
        activation: str | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> np.ndarray:
        """Score pairs of texts, a query and a passage each, or single texts: (rows,) float32, in the order given.

        With several labels, (rows, labels), in the order of `labels`. Texts that are longer than the network's limit
        are cut as preprocess.json says.

        Args:
            pairs: two texts each, or one.
            activation: what makes scores of logits: identity, sigmoid, tanh, softmax; by default what the folder says.
            strict: refuse texts that would be cut.
            batch_size: most rows at once; longer texts come in fewer.
            progress: show a bar on standard error.

        Raises:
            InputError: the network gives no scores of texts, or takes no pairs.
            EnvironmentFailure: a package that reads texts is missing, or the runtime failed.
        """
        rules = self._scores()
        function = SCORED.get(rules["activation"] if activation is None else activation)
        if function is None:
            raise InputError(f"activation is {activation!r}, expected one of {', '.join(SCORED)}")
        if isinstance(pairs, str | bytes):
            raise TypeError(f"pairs must be a list, got one {type(pairs).__name__}")
        for at, pair in enumerate(pairs):
            several = [pair] if isinstance(pair, str) else pair
            if not isinstance(several, list | tuple) or not all(isinstance(text, str) for text in several):
                raise InputError(f"row {at} is {pair!r}, expected a text or two of them")
            if not isinstance(pair, str) and len(several) != 2:
                raise InputError(f"row {at} has {len(several)} texts, expected a text or two of them")
        ((name, output),) = rules["outputs"].items()
        texts = self._preprocessor.texts
        encoded = texts.rows(name, [pair if isinstance(pair, str) else (pair[0], pair[1]) for pair in pairs])
        self._note_cut(name, len(pairs), strict=strict)
        ids = [row.ids for row in encoded]

        def made(rows: list[int], tokens: int) -> Arrays:
            return texts.padded_rows([encoded[row] for row in rows], tokens)

        logits = np.zeros((len(pairs), len(rules["labels"])), np.float32)
        for rows in _shown(_batches(len(pairs), ids, batch_size), len(pairs), progress):
            logits[rows] = self._run(self.entry_points[name], rows, ids, made)[output]
        found = function(logits)
        return found[:, 0] if len(rules["labels"]) == 1 else found

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> Hybrid:
        """Give all that a network like bge-m3 gives of texts: dense vectors, lexical weights, and a vector a token.

        Args:
            texts: any strings, the empty one too.
            prompt_name: see `embed`.
            prompt: see `embed`.
            strict: see `embed`.
            batch_size: most rows at once; longer texts come in fewer.
            progress: show a bar on standard error.

        Raises:
            InputError: the network gives no weights or vectors of tokens.
            EnvironmentFailure: a package that reads texts is missing, or the runtime failed.
        """
        if isinstance(texts, str | bytes):
            raise TypeError(f"texts must be a list, got one {type(texts).__name__}")
        width = self.width
        entry, dense = self._entry(True, False)
        named = {type(spec.kind): spec.name for spec in reversed(entry.outputs)}
        if not {TokenWeights, States} <= named.keys():
            raise InputError(f"{self.path}: this network gives no weights and vectors of tokens ({self._told()})")
        reader = self._preprocessor.texts
        before = self._prompt(prompt_name, prompt)
        leading, ids = reader.prompt_tokens(entry.name, before), reader.ids(entry.name, texts, before)
        special, count = reader.special_ids(entry.name), len(ids)
        self._note_cut(entry.name, count, strict=strict)
        vectors = np.zeros((count, width), np.float32)
        weights: list[dict[str, float]] = [{}] * count
        tokens = [np.zeros((0, 0), np.float32)] * count

        def made(rows: list[int], length: int) -> Arrays:
            return self._preprocessor.text_inputs([ids[row] for row in rows], length, prompt_tokens=leading)

        for rows in _shown(_batches(count, ids, batch_size), count, progress):
            outputs = self._run(entry, rows, ids, made)
            vectors[rows] = outputs[dense]
            for at, row in enumerate(rows):
                own = len(ids[row])
                weights[row] = lexical_weights(ids[row], outputs[named[TokenWeights]][at, :own, 0], special)
                tokens[row] = outputs[named[States]][at, : own - 1]
        return Hybrid(vectors, weights, tokens)

    def compute_score(
        self,
        pairs: Sequence[tuple[str, str]],
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        *,
        batch_size: int = BATCH,
    ) -> dict[str, np.ndarray]:
        """Score pairs by what `encode` gives of both texts, (rows,) each: dense, sparse, colbert, and their means.

        Args:
            pairs: a query and a passage each.
            weights: of the dense, the sparse and ColBERT's scores in the means.
            batch_size: see `encode`.

        Raises:
            InputError: see `encode`.
        """
        queries = self.encode([query for query, _ in pairs], batch_size=batch_size)
        return scores(queries, self.encode([passage for _, passage in pairs], batch_size=batch_size), weights)

    @property
    def labels(self) -> list[str]:
        """Give what a classifier's scores are of.

        Raises:
            InputError: the network gives none.
        """
        return list(self._scores()["labels"])

    def _scores(self) -> Mapping[str, Any]:
        rules = self._preprocessor.rules.get("scores")
        if rules is None:
            raise InputError(f"{self.path}: this network gives no scores of texts ({self._told()})")
        return rules

    def _note_cut(self, entry_point: str, count: int, *, strict: bool) -> None:
        """Keep which of the texts that were just read were cut.

        Raises:
            InputError: some were, and that is refused.
        """
        texts = self._preprocessor.texts
        self.cut, self.limit = texts.cut, texts.rules["max_tokens"][entry_point]
        if strict and self.cut:
            raise InputError(f"{told_cut(self.cut, count, self.limit)}; shorten them, or go without strict")

    @property
    def prompts(self) -> Mapping[str, str]:
        """What may stand before a text, by name."""
        return dict(self._preprocessor.texts.rules["prompts"])

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        """Give what stands before each text."""
        if name is not None and prompt is not None:
            raise ValueError(f"prompt_name is {name!r} and prompt is {prompt!r}: give one of them")
        return self._preprocessor.texts.prompt(name) if prompt is None else prompt

    def _entry(self, texts: bool, images: bool) -> tuple[EntryPoint, str]:
        """Find the entry point that takes just what is given and embeds it, and the output that is the embedding."""
        rules = self._preprocessor.rules
        ids = rules["texts"] and rules["texts"]["inputs"]["ids"]
        pixels = rules["images"] and rules["images"]["input"]
        for name, output in rules["embeddings"]["outputs"].items():
            takes = {spec.name for spec in self.entry_points[name].inputs}
            if (ids in takes, pixels in takes) == (texts, images):
                return self.entry_points[name], output
        given = " and ".join(["texts"] * texts + ["images"] * images) or "neither texts nor images"
        raise InputError(f"{self.path}: this network has no entry point for {given} that embeds it ({self._told()})")

    def _run(
        self,
        entry: EntryPoint,
        rows: list[int],
        ids: list[list[int]] | None,
        made: Callable[[list[int], int], Arrays],
    ) -> Arrays:
        """Run one batch. Where each shape costs a compilation, sizes are rounded up, so that there are few.

        `made` gives the inputs of some rows, padded to so many tokens.
        """
        size = 1 << (len(rows) - 1).bit_length() if self._compiles else len(rows)
        filled = [*rows, *rows[-1:] * (size - len(rows))]
        tokens = 0
        if ids is not None:
            longest = max(len(ids[row]) for row in rows)
            limit = self._preprocessor.rules["texts"]["max_tokens"][entry.name]
            tokens = _rounded(longest, limit) if self._compiles else longest
        inputs = made(filled, tokens)
        try:
            outputs = self._runner.run(entry.name, {spec.name: inputs[spec.name] for spec in entry.inputs})
        except Exception as error:  # each runtime has its own
            raise EnvironmentFailure(f"{self.runner} could not compute {entry.name}: {raised(error)}") from error
        return {name: array[: len(rows)] for name, array in outputs.items()}


def told_cut(cut: Sequence[int], count: int, limit: int | None) -> str:
    """Say how many of some texts are longer than they may be."""
    verb = "text is" if len(cut) == 1 else "texts are"
    return f"{len(cut)} of {count} {verb} longer than {limit} tokens, the first is number {cut[0]} from 0"


def _first(run: RunDirectory) -> Exporter:
    known, keys = exporters(), {k for entry in run.manifest()["entry_points"].values() for k in entry["programs"]}
    there = [known[name] for name in PREFERRED if known[name].key in keys]
    for exporter in there:
        try:
            exporter.require()
        except EnvironmentFailure:
            continue
        return exporter
    if there:
        there[0].require()
    raise InputError(f"{run.path} holds no artifacts; run `bgevis-convert export FORMAT {run.path}` first")


def _batches(count: int, ids: list[list[int]] | None, batch_size: int) -> Iterator[list[int]]:
    """Give the rows of each batch, the longest texts first: what does not fit into memory shows at once."""
    order = list(range(count)) if ids is None else sorted(range(count), key=lambda row: -len(ids[row]))
    while order:
        longest = len(ids[order[0]]) if ids else 0
        size = max(1, min(batch_size, batch_size * USUAL**2 // max(longest, 1) ** 2))
        yield order[:size]
        order = order[size:]


def _rounded(tokens: int, limit: int | None) -> int:
    """Round a length up: to 8, 16, ... 64, then 128, 192, ..., but not above the limit."""
    step = 8 if tokens <= 64 else 64
    return min(-(-tokens // step) * step, limit or sys.maxsize)


def _shown(batches: Iterator[list[int]], total: int, progress: bool) -> Iterator[list[int]]:
    """Pass batches on, with a bar that counts their rows."""
    if not progress:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("embed"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("embed", total=total)
        for rows in batches:
            yield rows
            bars.advance(task, len(rows))
