"""A finished run directory from Python: raw texts and pictures to embeddings through any format, or the NNX module."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...exporters.base import PROGRAMS, Exporter, Session, exporters
from ...exporters.weights import WeightsFile
from ...validation.entry_point import EntryPoint
from ...validation.errors import ConvertError, EnvironmentFailure, InputError, raised
from ...validation.outputs import States, TokenWeights
from ...validation.runner import Arrays, Runner
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, artifact, family_and_config, network
from ..options import Options, chosen
from ..pack import PREPROCESS, TOKENIZER
from ..pack.pictures import Source
from ..pack.preprocessor import Preprocessor, Raw
from ..pack.similarities import similarity, unit
from ..pack.steps import SCORED
from ..stages.common import require
from . import hearing
from .batches import BATCH, CHUNK, Progress, batches, counted, rounded
from .generating import Completion, Generator
from .given import Audio, Given, Images, Pairs, Texts, given, one_sound, pair, rows, sound, text, whole
from .hearing import Transcript
from .hybrid import Hybrid, lexical_weights, scores
from .perplexity import SHIPPED, perplexity
from .seeing import Seen, encoder, pictures_of, sequences

if TYPE_CHECKING:
    from flax import nnx

PREFERRED = ("onnx", "stablehlo", "saved-model", "orbax")
"""Which format is opened when none is named: the first that is there and whose runtime is installed."""

NEW_TOKENS, GENERATED = 128, 8
"""Tokens that a text goes on with at most, and texts that do at once, if nothing else is said."""

FEW = 6
"""Names of inputs or outputs that a message shows."""

Embed = Callable[[list[str] | None, list[Source] | None, int, Callable[[int], object]], np.ndarray]
"""Embeds rows: (texts, pictures, how many rows came before, what is told how many are done)."""


def load_module(directory: Path | str) -> "nnx.Module":
    """Rebuild the network around its weights file; no random initialisation, no copy on a CPU.

    Raises:
        InputError: `directory` is no run directory, or its weights were not built.
        EnvironmentFailure: JAX or Flax is not installed.
    """
    run = RunDirectory(Path(directory))
    require(run, "build")
    net, weights = network(run), WeightsFile(run.path / WEIGHTS_PATH)
    import jax

    return net.module(jax.device_put({name: weights[name] for name in net.leaves}))


def open_artifacts(
    directory: Path | str,
    format: str | None = None,  # noqa: A002 - as on the command line
    *,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    verify: bool = True,
) -> "Artifacts":
    """Open one format of a run directory.

    Args:
        directory: the run directory.
        format: onnx, onnx-int8 or another precision that was made, stablehlo, saved-model, orbax, openvino; by default
            the first of onnx, stablehlo, saved-model and orbax that is there and can be run here.
        threads: of onnxruntime, in one run; by default one for each core.
        providers: onnxruntime's execution providers, the preferred first, as `InferenceSession` takes them; by default
            the CPU's, by which the artifact was proved.
        verify: hold each file that is used to its sha256 in the manifest, once in a process for a file that nobody
            touches, which takes seconds per gigabyte; False compares sizes alone.

    Raises:
        InputError: no such directory or format, or it cannot be opened, or takes no threads or providers.
        EnvironmentFailure: the format's runtime is not installed.
    """
    session = Session(
        None if threads is None else whole(threads, "threads", 1),
        () if providers is None else tuple(providers),
        kept=True,
    )
    return Artifacts(RunDirectory(Path(directory)), format, session, verify=verify)


class Artifacts:
    """One format of a run directory, open, with the tokenizer and the preprocessing of its pack.

    It can be pickled, and is then opened anew; `with` or `close` gives its memory back. Threads may share it, but for
    `cut`, which is the last call's of any.
    """

    def __init__(
        self,
        run: RunDirectory,
        format: str | None = None,  # noqa: A002 - as on the command line
        session: Session | None = None,
        *,
        verify: bool = True,
    ):
        exporter = chosen(Options(formats=(format,)))[0] if format else _first(run)
        exporter.require(serving=True)
        self._session, self._verify = session or Session(), verify
        for setting in ("threads", "providers"):
            if getattr(self._session, setting) and setting not in exporter.tunable:
                raise InputError(f"{setting} cannot be chosen for the format {exporter.name}: it is onnx's alone")
        opened = artifact(run, exporter, self._session)
        manifest = run.manifest()
        used = _used(run, exporter)
        for damage in run.damaged(used, manifest, contents=verify, once=True):
            raise InputError(f"{damage}; get the run directory again, or convert again")
        try:
            runner: Runner = (exporter.serve or exporter.open)(opened)
        except ConvertError:
            raise
        except Exception as error:  # each runtime has its own
            raise InputError(f"{run.path}: its {exporter.name} cannot be opened: {raised(error)}") from error
        self.path = run.path
        self.format = exporter.name
        self.runner = runner.name
        self.family: str = manifest["family"]
        self.entry_points = opened.entry_points
        """By name, with the network's types; integers are handed to a program in the type that it asks for."""
        self.cut: tuple[int, ...] = ()
        """Which of the texts that were read last were cut, being longer than `limit`, by their places."""
        self._runner: Runner | None = runner
        self._compiles = exporter.compiles
        self._preprocessor = Preprocessor(run.path)
        self._preprocessor.hold_to(self.entry_points)
        limits = (self._preprocessor.rules["texts"] or {}).get("max_tokens", {})
        self.limit: int | None = next(iter(limits.values()), None)
        """The most tokens of a text, special ones and the prompt's included, for the entry point that was run last;
        None for no limit."""

    def __repr__(self) -> str:
        return f"<Artifacts {self.path}: {self.family}, {self.format} in {self.runner}, {self._told()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        opened = functools.partial(
            open_artifacts,
            threads=self._session.threads,
            providers=self._session.providers or None,
            verify=self._verify,
        )
        return opened, (str(self.path.absolute()), self.format)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the programs' memory back; what is asked of it afterwards is an InputError."""
        self._runner = None

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
        return int(self._embeddings()["width"])

    def _embeddings(self) -> Mapping[str, Any]:
        rules = self._preprocessor.rules["embeddings"]
        if rules is None:
            hint = "; `score` gives its scores" if self._preprocessor.rules.get("scores") else ""
            raise InputError(f"{self.path}: this network gives no embeddings{hint} ({self._told()})")
        found: Mapping[str, Any] = rules
        return found

    def _told(self) -> str:
        described = (
            f"{entry.name}({_few(s.name for s in entry.inputs)}) -> {_few(s.name for s in entry.outputs)}"
            for entry in self.entry_points.values()
        )
        return f"entry points: {', '.join(described)}"

    def embed(
        self,
        texts: Texts | None = None,
        images: "Images | None" = None,
        *,
        audio: "Audio | None" = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dims: int | None = None,
        normalize: bool | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: Progress = False,
    ) -> np.ndarray:
        """Embed texts, pictures, pairs of both, or sounds: (rows, width) float32, in the order given.

        One text or picture that is no list gives one vector, (width,). Texts that are longer than the folder's limit
        are cut, at the end that it says; `cut` tells which they were. Rows are run in batches of like length.

        Args:
            texts: a text, or any iterable of texts; the empty one too.
            images: a picture, or any iterable of pictures: names of files, open files, their bytes, arrays of uint8
                (height, width), (height, width, 3 or 4) or a stack of these, or Pillow's pictures.
            audio: a sound, or any iterable of sounds, see `transcribe`; of one that is longer than the network hears
                at once, the mean of its windows.
            prompt_name: the name of the prompt that stands before each text, one of `prompts`; by default the one that
                the folder says, if any.
            prompt: that prompt itself, instead of its name; "" for none.
            dims: keep so many numbers of each vector, as Matryoshka training means it; the rest is made as long as 1
                again where the network's vectors are.
            normalize: True to make the vectors as long as 1, False to leave those that `dims` cut as they are; by
                default as the network does it.
            strict: refuse texts that would be cut.
            batch_size: most rows at once; longer texts come in fewer.
            progress: True to show a bar on standard error, or a function of (rows done, all rows).

        Raises:
            InputError: the network does not take these, gives no embeddings of them, has no such prompt, an argument
                is none of the above, a picture cannot be read, or a text is too long for `strict`.
            EnvironmentFailure: a package that reads them is missing, or the runtime failed.
        """
        if audio is not None:
            if texts is not None or images is not None:
                raise InputError("sounds are embedded by themselves: give audio, or texts and images")
            return self._embed_sounds(audio, dims, normalize, progress)
        several = given(texts, images)
        embed = self._embedder(several, prompt_name, prompt, dims, normalize, batch_size, strict=strict)
        found_texts, found_images = several.take(None)
        total = len(found_texts if found_texts is not None else found_images or ())
        with counted(progress, total, "embed") as advance:
            found = embed(found_texts, found_images, 0, advance)
        return found[0] if several.alone else found

    def embed_iter(
        self,
        texts: Texts | None = None,
        images: "Images | None" = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dims: int | None = None,
        normalize: bool | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        chunk: int = CHUNK,
        progress: Progress = False,
    ) -> Iterator[np.ndarray]:
        """Embed a stream: gives a vector (width,) for each row, in the order given, in bounded memory.

        Args:
            texts: see `embed`.
            images: see `embed`.
            prompt_name: see `embed`.
            prompt: see `embed`.
            dims: see `embed`.
            normalize: see `embed`.
            strict: see `embed`; rows before the one that is refused may have been given out.
            batch_size: see `embed`.
            chunk: rows that are read and held at once; of these, batches of like length are made.
            progress: see `embed`.

        Raises:
            InputError: see `embed`.
            EnvironmentFailure: see `embed`.
        """
        several, size = given(texts, images), whole(chunk, "chunk", 1)
        embed = self._embedder(several, prompt_name, prompt, dims, normalize, batch_size, strict=strict)

        def vectors() -> Iterator[np.ndarray]:
            first = 0
            with counted(progress, several.count, "embed") as advance:
                while any(read := several.take(size, first)):
                    found = embed(*read, first, advance)
                    first += len(found)
                    yield from found

        return vectors()

    def _embedder(
        self,
        several: Given,
        prompt_name: str | None,
        prompt: str | None,
        dims: int | None,
        normalize: bool | None,
        batch_size: int,
        *,
        strict: bool,
    ) -> Embed:
        """Check what `embed` is asked for, before any row is read, and give what does it."""
        width, finish = self._finished(dims, normalize)
        entry, output = self._entry(several.texts is not None, several.images is not None)
        size, leading, before = whole(batch_size, "batch_size", 1), 0, ""
        if several.texts is not None:
            before = self._prompt(prompt_name, prompt)
            leading = self._preprocessor.texts.prompt_tokens(entry.name, before)
        self.cut = ()

        def embed(
            texts: list[str] | None, images: list[Source] | None, first: int, advance: Callable[[int], object]
        ) -> np.ndarray:
            count, ids = len(texts if texts is not None else images or ()), None
            if texts is not None:
                ids, cut = self._preprocessor.texts.ids_and_cut(entry.name, texts, before)
                self._note_cut(entry.name, cut, first, count, strict=strict)

            def made(batch: list[int], tokens: int) -> Arrays:
                pixels = {} if images is None else self._pixels(images, batch, None if several.alone else first)
                if ids is None:
                    return pixels
                read = [ids[row] for row in batch]
                return pixels | self._preprocessor.text_inputs(read, tokens, prompt_tokens=leading)

            vectors = np.zeros((count, width), np.float32)
            lengths = [0] * count if ids is None else [len(row) for row in ids]
            for batch in batches(lengths, size):
                vectors[batch] = finish(self._run(entry, batch, lengths, made)[output])
                advance(len(batch))
            return vectors

        return embed

    def _finished(self, dims: int | None, normalize: bool | None) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
        """Say how many numbers of a vector are kept, and give what makes them of the program's.

        Raises:
            InputError: there are not so many, or vectors of length 1 are not wanted, and nothing else is known.
        """
        full, already = self.width, bool(self._embeddings()["normalize"])
        kept = full if dims is None else whole(dims, "dims", 1, full)
        if normalize is False and already and kept == full:
            raise InputError(
                f"{self.path}: normalize=False: the network's last step makes its vectors as long as 1, and what they "
                "were before is not known; convert it without that step"
            )
        wanted = already if normalize is None else normalize
        if wanted and not (already and kept == full):
            return kept, lambda vectors: unit(vectors[:, :kept])
        return kept, lambda vectors: vectors[:, :kept]

    def _pixels(self, images: Sequence[Source], batch: Sequence[int], first: int | None) -> dict[str, np.ndarray]:
        """Prepare some of the pictures, of which `first` came before; None for one alone, which needs no name."""
        ready = []
        for row in batch:
            try:
                ready.append(self._preprocessor.image_inputs([images[row]]))
            except InputError as error:
                if first is None:
                    raise
                raise InputError(f"picture {first + row}: {error}") from error
        return {name: np.concatenate([inputs[name] for inputs in ready]) for name in ready[0]}

    def similarity(self, one: object, other: object) -> np.ndarray:
        """Compare embeddings in the way that the folder says: (rows of one, rows of the other) float32.

        More is nearer: cosine or dot product; a distance, euclidean or manhattan, is negative.

        Args:
            one: (rows, width), or (width,) for one row.
            other: likewise.

        Raises:
            InputError: they are no embeddings, or not of one width.
        """
        return similarity(one, other, self._embeddings()["similarity"])

    def token_count(
        self, texts: Texts, *, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[int] | int:
        """Count the tokens of each text, special ones and the prompt's included, and those that would be cut.

        One text that is no list gives one number. More than `limit` is cut.

        Args:
            texts: see `embed`.
            prompt_name: see `embed`.
            prompt: see `embed`.

        Raises:
            InputError: the network reads no texts, or one is none.
            EnvironmentFailure: the package that reads texts is missing.
        """
        reader = self._preprocessor.texts
        before, alone = self._prompt(prompt_name, prompt), isinstance(texts, str)
        found = reader.count(list(rows(texts, "text", text, alone=alone)), before)
        return found[0] if alone else found

    def score(
        self,
        pairs: Pairs,
        *,
        activation: str | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: Progress = False,
    ) -> np.ndarray:
        """Score pairs of texts, a query and a passage each, or single texts: (rows,) float32, in the order given.

        With several labels, (rows, labels), in the order of `labels`. Texts that are longer than the network's limit
        are cut as preprocess.json says.

        Args:
            pairs: any iterable of rows, two texts each, or one; one text that is no list gives its score alone.
            activation: what makes scores of logits: identity, sigmoid, tanh, softmax; by default what the folder says.
            strict: refuse texts that would be cut.
            batch_size: most rows at once; longer texts come in fewer.
            progress: see `embed`.

        Raises:
            InputError: the network gives no scores of texts, or takes no pairs, or a row is none.
            EnvironmentFailure: a package that reads texts is missing, or the runtime failed.
        """
        rules, size = self._scores(), whole(batch_size, "batch_size", 1)
        function = SCORED.get(rules["activation"] if activation is None else activation)
        if function is None:
            raise InputError(f"activation is {activation!r}, expected one of {', '.join(SCORED)}")
        alone = isinstance(pairs, str)
        if isinstance(pairs, tuple) and len(pairs) == 2 and all(isinstance(each, str) for each in pairs):
            raise InputError("a tuple of two texts is one pair or two texts: give a list, [(one, two)] or [one, two]")
        read: list[Raw] = list(rows(pairs, "row", pair, alone=alone))
        ((name, output),) = rules["outputs"].items()
        texts = self._preprocessor.texts
        encoded = texts.rows(name, read)
        self.cut = ()
        self._note_cut(name, {at for at, row in enumerate(encoded) if row.cut}, 0, len(read), strict=strict)
        lengths = [len(row.ids) for row in encoded]

        def made(batch: list[int], tokens: int) -> Arrays:
            return texts.padded_rows([encoded[row] for row in batch], tokens)

        logits = np.zeros((len(read), len(rules["labels"])), np.float32)
        with counted(progress, len(read), "score") as advance:
            for batch in batches(lengths, size):
                logits[batch] = self._run(self.entry_points[name], batch, lengths, made)[output]
                advance(len(batch))
        found = function(logits)
        found = found[:, 0] if len(rules["labels"]) == 1 else found
        return found[0] if alone else found

    def encode(
        self,
        texts: Texts,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        strict: bool = False,
        batch_size: int = BATCH,
        progress: Progress = False,
    ) -> Hybrid:
        """Give all that a network like bge-m3 gives of texts: dense vectors, lexical weights, and a vector a token.

        Args:
            texts: any iterable of texts; one that is no list is a list of one here.
            prompt_name: see `embed`.
            prompt: see `embed`.
            strict: see `embed`.
            batch_size: most rows at once; longer texts come in fewer.
            progress: see `embed`.

        Raises:
            InputError: the network gives no weights or vectors of tokens.
            EnvironmentFailure: a package that reads texts is missing, or the runtime failed.
        """
        width, size = self.width, whole(batch_size, "batch_size", 1)
        entry, dense = self._entry(True, False)
        named = {type(spec.kind): spec.name for spec in reversed(entry.outputs)}
        if not {TokenWeights, States} <= named.keys():
            raise InputError(
                f"{self.path}: this network gives no weights and vectors of tokens; `embed` gives its vectors of texts "
                f"({self._told()})"
            )
        read = list(rows(texts, "text", text, alone=isinstance(texts, str)))
        reader, before = self._preprocessor.texts, self._prompt(prompt_name, prompt)
        leading, special = reader.prompt_tokens(entry.name, before), reader.special_ids()
        ids, cut = reader.ids_and_cut(entry.name, read, before)
        self.cut, lengths = (), [len(row) for row in ids]
        self._note_cut(entry.name, cut, 0, len(ids), strict=strict)
        vectors = np.zeros((len(ids), width), np.float32)
        weights: list[dict[str, float]] = [{}] * len(ids)
        tokens = [np.zeros((0, 0), np.float32)] * len(ids)

        def made(batch: list[int], length: int) -> Arrays:
            return self._preprocessor.text_inputs([ids[row] for row in batch], length, prompt_tokens=leading)

        with counted(progress, len(ids), "encode") as advance:
            for batch in batches(lengths, size):
                outputs = self._run(entry, batch, lengths, made)
                vectors[batch] = outputs[dense]
                for at, row in enumerate(batch):
                    own = len(ids[row])
                    weights[row] = lexical_weights(ids[row], outputs[named[TokenWeights]][at, :own, 0], special)
                    tokens[row] = outputs[named[States]][at, : own - 1]
                advance(len(batch))
        return Hybrid(vectors, weights, tokens)

    def transcribe(
        self,
        audio: Audio,
        *,
        language: str | None = None,
        task: str = "transcribe",
        words: bool = False,
        progress: Progress = False,
    ) -> Transcript | list[Transcript]:
        """Say what was said in sounds, greedily: a `Transcript` each, in the order given.

        One sound that is no list gives one. A sound that is longer than the network hears at once is heard in windows,
        one after the other.

        Args:
            audio: a sound, or any iterable of sounds: names of files, open files, their bytes, or (array, samples a
                second) with samples between -1 and 1, (samples,) or (samples, channels).
            language: what is spoken, "de"; by default what the folder says, else what the network tells.
            task: "transcribe", or "translate" to English, where the network does.
            words: say when each word was said.
            progress: see `embed`; counts windows.

        Raises:
            InputError: the network gives no texts of sounds, does not know the language or the task, or does not tell
                when words were said; or a sound cannot be read.
            EnvironmentFailure: a package that reads sounds is missing, or the runtime failed.
        """
        transcriber = self._transcriber()
        spoken, done = transcriber.language(language), transcriber.task(task)
        if words and not transcriber.times_known:
            raise InputError(f"{self.path}: generation_config.json names no alignment_heads: no word has a time")
        alone, sounds = self._sounds(audio)
        windows = hearing.windowed(sounds, self._preprocessor.sounds.rules)
        with counted(progress, len(windows), "transcribe") as advance:
            said = hearing.transcribed(
                transcriber, self._heard, windows, language=spoken, task=done, words=words, advance=advance
            )
        found = hearing.joined(transcriber, windows, said, len(sounds))
        return found[0] if alone else found

    def generate(
        self,
        prompts: Texts,
        *,
        max_new_tokens: int = NEW_TOKENS,
        ends: Sequence[int] | None = None,
        images: "Iterable[Seen] | Seen | None" = None,
        vision: "Artifacts | None" = None,
        upstream_cut: bool = False,
        batch_size: int = GENERATED,
        progress: Progress = False,
    ) -> Completion | list[Completion]:
        """Let texts go on, greedily: each time with the token that the network gives the best score.

        One prompt that is no list gives one `Completion`. What is drawn at random elsewhere (temperature, top_p) is not
        done here: the same prompt goes on in the same way, as it was proved.

        Args:
            prompts: a text, or any iterable of texts, as the tokenizer reads them.
            max_new_tokens: most tokens of each.
            ends: ids that end a text; by default those that the network's documents name.
            images: for a network that is asked about pictures, one for each prompt: pictures as `embed` takes them;
                arrays of floats are normalised pixels (height, width, channels), or the tokens that an image encoder
                made, (places, width), which need no `vision`.
            vision: the artifacts of the network that sees them.
            upstream_cut: leave out as many tokens at the beginning of an answer as its prompt has, as upstream's own
                loop does by mistake; for networks whose loop does.
            batch_size: most prompts at once.
            progress: see `embed`.

        Raises:
            InputError: the network makes no texts, a prompt is empty or too long, or pictures are missing or too many.
            EnvironmentFailure: the package that reads texts is missing, or the runtime failed.
        """
        generator, most = self._generator(ends), whole(max_new_tokens, "max_new_tokens", 1)
        size, alone = whole(batch_size, "batch_size", 1), isinstance(prompts, str)
        if upstream_cut and not generator.greedy.cut:
            raise InputError(f"{self.path}: upstream's own loop cuts nothing from this network's texts")
        ids = generator.ids(list(rows(prompts, "text", text, alone=alone)))
        shown = None if images is None else pictures_of(images, alone=alone)
        seen = sequences(generator, str(self.path), shown, vision, len(ids))
        found: dict[int, Completion] = {}
        with counted(progress, len(ids), "generate") as advance:
            for batch in _alike(ids, seen, size) if seen else batches([len(row) for row in ids], size):
                chosen = [ids[row] for row in batch], most, [seen[row] for row in batch if seen]
                found |= zip(batch, generator.completed(*chosen, upstream_cut=upstream_cut), strict=True)
                advance(len(batch))
        return found[0] if alone else [found[row] for row in range(len(ids))]

    def generate_iter(
        self, prompt: str, *, max_new_tokens: int = NEW_TOKENS, ends: Sequence[int] | None = None
    ) -> Iterator[str]:
        """Let a text go on, and give it piece by piece, as it is made: see `generate`."""
        generator, most = self._generator(ends), whole(max_new_tokens, "max_new_tokens", 1)
        if generator.picture:
            raise InputError(
                f"{self.path}: this network goes on with a text about a picture; ask it by generate, with images= and "
                "vision= (on the command line --image and --vision)"
            )
        return generator.stream(text(prompt, "prompt"), most)

    def picture_tokens(self, images: "Iterable[Seen]") -> np.ndarray:
        """Make tokens of pictures, (pictures, places, width) float32: what a language model reads before a text.

        Args:
            images: as `generate` takes them, but for tokens.

        Raises:
            InputError: the network makes none, or does not say how pictures are prepared.
            EnvironmentFailure: the package that reads pictures is missing, or the runtime failed.
        """
        name, input_, output = encoder(self)
        found = []
        for image in images:
            if isinstance(image, np.ndarray) and image.dtype.kind == "f":
                pixels = {input_: np.asarray(image, np.float32)[None]}
            else:
                pixels = self._preprocessor.image_inputs([image])
            shape = self.entry_points[name].inputs[0].shape[1:]
            if pixels[input_].shape[1:] != shape:
                raise InputError(f"a picture is {pixels[input_].shape[1:]} as pixels, {self.path} takes {shape}")
            found.append(self._computed(name, pixels)[output][0])
        return np.stack(found) if found else np.zeros((0, 0, 0), np.float32)

    def perplexity(self, texts: Texts | None = None) -> float:
        """Say among how many tokens the network is undecided, on average, at each place of texts: less is better.

        Args:
            texts: any iterable of texts; by default a few that the package ships.

        Raises:
            InputError: the network scores no tokens, or the texts have no two tokens.
            EnvironmentFailure: the package that reads texts is missing, or the runtime failed.
        """
        every = SHIPPED.read_text(encoding="utf-8").splitlines() if texts is None else None
        read = every if every is not None else list(rows(texts, "text", text, alone=isinstance(texts, str)))
        return perplexity(self._generator(None), read).value

    def _generator(self, ends: Sequence[int] | None) -> Generator:
        family, config = family_and_config(RunDirectory(self.path))
        if ends is not None:
            ends = [whole(one, "ends", 0) for one in ends]
        return Generator(_Told(self), family, config, self._preprocessor, str(self.path), ends)

    def _transcriber(self) -> hearing.Transcriber:
        rules = self._preprocessor.rules.get("transcripts")
        if not rules:
            raise InputError(f"{self.path}: this network gives no texts of sounds ({self._told()})")
        sounds = self._preprocessor.sounds.rules
        family, config = family_and_config(RunDirectory(self.path))
        entries = {entry.name: entry for entry in family.entry_points(config)}
        transcripts = self._preprocessor.transcripts
        return hearing.Transcriber(_Told(self), entries, transcripts, sounds["samples"] / sounds["rate"])

    def _sounds(self, audio: Audio) -> tuple[bool, list[np.ndarray]]:
        """Read sounds, (samples,) each at the network's rate; say whether it is one alone."""
        alone, found = one_sound(audio), []
        for place, source in enumerate(rows(audio, "sound", sound, alone=alone)):
            try:
                found.append(self._preprocessor.sounds.samples(source))
            except InputError as error:
                if alone:
                    raise
                raise InputError(f"sound {place}: {error}") from error
        return alone, found

    def _heard(self, samples: np.ndarray) -> Arrays:
        """Make spectrograms of windows, (windows, samples), by the network's own program."""
        rules = self._preprocessor.sounds.rules
        return self._computed(rules["spectrogram"]["entry_point"], {rules["input"]: samples})

    def _embed_sounds(self, audio: Audio, dims: int | None, normalize: bool | None, progress: Progress) -> np.ndarray:
        """Embed sounds: of several windows the mean, each counted by what of it is sound."""
        width, finish = self._finished(dims, normalize)
        name = self.embeds.get("audio")
        if name is None:
            raise InputError(f"{self.path}: this network embeds no sounds ({self._told()})")
        alone, sounds = self._sounds(audio)
        windows = hearing.windowed(sounds, self._preprocessor.sounds.rules)
        vectors = np.zeros((len(sounds), width), np.float32)
        with counted(progress, len(windows), "embed") as advance:
            for window in windows:
                made = self._computed(name, self._heard(window.samples[None]))
                (vector,) = finish(made[self._outputs()[name]])
                vectors[window.sound] += vector * window.heard
                advance(1)
        several = np.bincount([window.sound for window in windows]) > 1
        seconds = np.bincount([window.sound for window in windows], [window.heard for window in windows])
        vectors /= seconds[:, None].astype(np.float32)
        if several.any() and normalize is not False and self._embeddings()["normalize"]:
            vectors[several] = unit(vectors[several])
        return vectors[0] if alone else vectors

    def _outputs(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self._embeddings()["outputs"]
        return found

    @property
    def embeds(self) -> Mapping[str, str]:
        """What `embed` takes alone, "text", "image" and "audio": the entry point for each that there is one for."""
        rules, found = self._preprocessor.rules, dict[str, str]()
        if not rules["embeddings"]:
            return found
        for kind, asked in (("text", (True, False)), ("image", (False, True))):
            if entry := self._found(*asked):
                found[kind] = entry[0].name
        if rules.get("sounds"):
            made = {spec.name for entry in self.entry_points.values() for spec in entry.outputs}
            heard = [name for name in self._outputs() if made & {spec.name for spec in self.entry_points[name].inputs}]
            if heard:
                found["audio"] = heard[0]
        return found

    def embed_rows(self, kind: str, given: Sequence[Any], *, batch_size: int = BATCH) -> np.ndarray:
        """Embed rows of one kind, "text", "image" or "audio": see `embed`. Sounds are heard one after the other."""
        if kind == "audio":
            return self.embed(audio=given)
        if kind == "image":
            return self.embed(images=given, batch_size=batch_size)
        return self.embed(given, batch_size=batch_size)

    def run_by(self, runner: Runner) -> "Artifacts":
        """Give the same preparation and pooling around another runner of the entry points, which compiles nothing."""
        other = Artifacts.__new__(Artifacts)
        other.__dict__.update(self.__dict__, runner=runner.name, _runner=runner, _compiles=False)
        return other

    def compute_score(
        self,
        pairs: Pairs,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        *,
        batch_size: int = BATCH,
    ) -> dict[str, np.ndarray]:
        """Score pairs by what `encode` gives of both texts, (rows,) each: dense, sparse, colbert, and their means.

        Args:
            pairs: any iterable of pairs, a query and a passage each.
            weights: of the dense, the sparse and ColBERT's scores in the means.
            batch_size: see `encode`.

        Raises:
            InputError: see `encode`; or a row is no pair.
        """
        read = list(rows(pairs, "row", pair, alone=False))
        for at, row in enumerate(read):
            if isinstance(row, str):
                raise InputError(f"row {at} is one text, expected a pair of them")
        queries = self.encode([row[0] for row in read], batch_size=batch_size)
        return scores(queries, self.encode([row[1] for row in read], batch_size=batch_size), weights)

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
        found: Mapping[str, Any] = rules
        return found

    def _note_cut(self, entry_point: str, cut: Collection[int], first: int, count: int, *, strict: bool) -> None:
        """Keep which of the rows that were just read were cut.

        Args:
            entry_point: that reads them.
            cut: places of rows after the first.
            first: how many rows came before.
            count: how many were read.
            strict: see `embed`.

        Raises:
            InputError: some were, and that is refused.
        """
        self.limit = self._preprocessor.texts.rules["max_tokens"][entry_point]
        self.cut = (*self.cut, *(first + row for row in sorted(cut)))
        if strict and cut:
            raise InputError(f"{told_cut(self.cut, first + count, self.limit)}; shorten them, or go without strict")

    @property
    def prompts(self) -> Mapping[str, str]:
        """What may stand before a text, by name."""
        return dict(self._preprocessor.texts.rules["prompts"])

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        """Give what stands before each text."""
        if name is not None and prompt is not None:
            raise InputError(f"prompt_name is {name!r} and prompt is {prompt!r}: give one of them")
        return self._preprocessor.texts.prompt(name) if prompt is None else text(prompt, "prompt")

    def _entry(self, texts: bool, images: bool) -> tuple[EntryPoint, str]:
        """Find the entry point that takes just what is given and embeds it, and the output that is the embedding."""
        found = self._found(texts, images)
        if found is None:
            asked = " and ".join(["texts"] * texts + ["images"] * images)
            raise InputError(
                f"{self.path}: this network has no entry point for {asked} that embeds it ({self._told()})"
            )
        return found

    def _found(self, texts: bool, images: bool) -> tuple[EntryPoint, str] | None:
        rules = self._preprocessor.rules
        ids = rules["texts"] and rules["texts"]["inputs"]["ids"]
        pixels = rules["images"] and rules["images"]["input"]
        for name, output in self._outputs().items():
            takes = {spec.name for spec in self.entry_points[name].inputs}
            if (ids in takes, pixels in takes) == (texts, images):
                return self.entry_points[name], output
        return None

    def _run(
        self,
        entry: EntryPoint,
        batch: list[int],
        lengths: Sequence[int],
        made: Callable[[list[int], int], Arrays],
    ) -> Arrays:
        """Run one batch. Where each shape costs a compilation, sizes are rounded up, so that there are few.

        Args:
            entry: what is run.
            batch: rows.
            lengths: tokens of each row, 0 for a picture.
            made: gives the inputs of some rows, padded to so many tokens.
        """
        size = 1 << (len(batch) - 1).bit_length() if self._compiles else len(batch)
        filled = [*batch, *batch[-1:] * (size - len(batch))]
        tokens = max(lengths[row] for row in batch)
        if tokens and self._compiles:
            tokens = rounded(tokens, self._preprocessor.rules["texts"]["max_tokens"][entry.name])
        outputs = self._computed(entry.name, made(filled, tokens))
        return {name: array[: len(batch)] for name, array in outputs.items()}

    def _computed(self, name: str, inputs: Arrays) -> Arrays:
        """Run an entry point."""
        if self._runner is None:
            raise InputError(f"{self.path} was closed; open it again with open_artifacts")
        entry = self.entry_points[name]
        try:
            return self._runner.run(name, {spec.name: inputs[spec.name] for spec in entry.inputs})
        except Exception as error:  # each runtime has its own
            raise EnvironmentFailure(f"{self.runner} could not compute {name}: {raised(error)}") from error


class _Told:
    """The programs as a Runner whose failures are told."""

    def __init__(self, artifacts: Artifacts):
        self.name = artifacts.runner
        self._artifacts = artifacts

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Run an entry point."""
        return self._artifacts._computed(entry_point, inputs)


def _alike(ids: Sequence[Sequence[int]], seen: Sequence[np.ndarray], size: int) -> Iterator[list[int]]:
    """Put prompts together that are equally long, after pictures of as many tokens: nothing is padded."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (own, picture) in enumerate(zip(ids, seen, strict=True)):
        groups.setdefault((len(own), len(picture)), []).append(row)
    for group in groups.values():
        yield from (group[at : at + size] for at in range(0, len(group), size))


def _few(names: Iterable[str]) -> str:
    """Name all of a few; of many, as of the caches of each layer, the first ones and their number."""
    every = list(names)
    shown = every if len(every) <= FEW else [*every[: FEW - 1], f"and {len(every) - FEW + 1} more"]
    return ", ".join(shown)


def told_cut(cut: Sequence[int], count: int, limit: int | None) -> str:
    """Say how many of some texts are longer than they may be."""
    verb = "text is" if len(cut) == 1 else "texts are"
    return f"{len(cut)} of {count} {verb} longer than {limit} tokens, the first is number {cut[0]} from 0"


def _used(run: RunDirectory, exporter: Exporter) -> list[str]:
    """Name the files of a run that are read when a format is opened and run."""
    manifest = run.manifest()
    own = manifest["stages"].get(f"export-{exporter.name}", {"files": []})["files"]
    weights = [WEIGHTS_PATH] if exporter.folder == PROGRAMS else []
    pack = [name for name in (TOKENIZER, PREPROCESS) if name in manifest["files"] or (run.path / name).exists()]
    return [*own, *weights, *pack]


def _first(run: RunDirectory) -> Exporter:
    known, keys = exporters(), {k for entry in run.manifest()["entry_points"].values() for k in entry["programs"]}
    there = [known[name] for name in PREFERRED if known[name].key in keys]
    for exporter in there:
        try:
            exporter.require(serving=True)
        except EnvironmentFailure:
            continue
        return exporter
    if there:
        there[0].require(serving=True)
    raise InputError(f"{run.path} holds no artifacts; run `bgevis-convert export FORMAT {run.path}` first")
