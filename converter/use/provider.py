"""Run directories behind ArrowEngine's interface: providers of embeddings, opened when they are first asked.

Everything is computed by `Artifacts`; here only names and shapes are others'. The interface is that of ArrowEngine's
llm_compression/embedding_provider.py and multimodal/multimodal_provider.py (github.com/pallasting/ArrowQuant_V2).
What differs, each time for the better, stands with the method and in docs/embedding.md. For clients that take nothing
but a subclass of their own: `clients`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...validation.errors import InputError
from ..directory import RunDirectory
from ..pack.pictures import Source
from ..pack.similarities import similarity
from . import matching
from .artifacts import Artifacts, open_artifacts
from .batches import BATCH, Progress
from .given import Audio, Images, Texts, rows, text

QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")
"""Prompts that sentence-transformers puts before queries and before what is searched: the first that there is."""

SLACK = 0.01
"""How far beyond 0 and 1 the floats of a picture may lie."""

METHODS = ("cosine", "dot", "euclidean")

Place = Path | str


class EmbeddingProvider:
    """Texts to vectors by a run directory.

    It is what LangChain calls `Embeddings` too: `embed_documents` and `embed_query`, and both awaited.

    Args:
        model_path: the run directory.
        format: see `open_artifacts`.
        threads: see `open_artifacts`.

    Raises:
        InputError: `model_path` is no run directory. What else `open_artifacts` raises, the first call does.
    """

    def __init__(
        self,
        model_path: Place,
        format: str | None = None,  # noqa: A002 - as on the command line
        *,
        threads: int | None = None,
    ):
        self.format, self.threads = format, threads
        self._paths = {"text": RunDirectory(Path(model_path)).path}
        self._opened: dict[Path, Artifacts] = {}

    def __repr__(self) -> str:
        shown = ", ".join(f"{kind}={str(path)!r}" for kind, path in self._paths.items())
        return f"{type(self).__name__}({shown})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the programs' memory back; what is asked of it afterwards opens them anew."""
        for artifacts in self._opened.values():
            artifacts.close()
        self._opened.clear()

    def artifacts(self, *kinds: str) -> Artifacts:
        """Give the run directory for the first of these kinds that there is one for, open.

        Raises:
            InputError: there is none, or see `open_artifacts`.
            EnvironmentFailure: see `open_artifacts`.
        """
        path = next((self._paths[kind] for kind in kinds if kind in self._paths), None)
        if path is None:
            asked = " or ".join(f"{kind}_model_path" for kind in kinds)
            raise InputError(f"{self!r} has no run directory for this: give {asked}")
        if path not in self._opened:
            self._opened[path] = open_artifacts(path, self.format, threads=self.threads)
        return self._opened[path]

    @property
    def texts(self) -> Artifacts:
        """The run directory that embeds texts, open."""
        return self.artifacts("text", "clip")

    @property
    def dimension(self) -> int:
        """How many numbers a text's vector has, as the run directory states it."""
        return self.texts.width

    def get_embedding_dimension(self) -> int:
        """Give the same as `dimension`, by its older name."""
        return self.dimension

    def encode(self, text: Texts, normalize: bool = True) -> np.ndarray:
        """Embed one text: (dimension,) float32; a list of texts as `encode_batch` does.

        Args:
            text: that is embedded; a blank one is zeros, as ArrowEngine's provider has it. (`Artifacts.embed` gives
                what the network makes of its special tokens.)
            normalize: make the vector as long as 1.

        Raises:
            InputError: see `Artifacts.embed`; with `normalize=False` for a network whose last step normalises.
        """
        found = self.encode_batch([text] if isinstance(text, str) else text, normalize=normalize)
        return found[0] if isinstance(text, str) else found

    def encode_batch(
        self, texts: Texts, batch_size: int = BATCH, normalize: bool = True, show_progress: Progress = False
    ) -> np.ndarray:
        """Embed texts: (texts, dimension) float32, in the order given; (0, dimension) of none.

        A blank text is zeros here too; ArrowEngine's embeds it in a batch and gives zeros alone.

        Args:
            texts: any iterable of texts.
            batch_size: most rows at once.
            normalize: see `encode`.
            show_progress: see `Artifacts.embed`.

        Raises:
            InputError: see `encode`.
        """
        read = list(rows(texts, "text", text, alone=isinstance(texts, str)))
        said = [place for place, each in enumerate(read) if each.strip()]
        found = np.zeros((len(read), self.dimension), np.float32)
        found[said] = self.texts.embed(
            [read[place] for place in said], normalize=normalize, batch_size=batch_size, progress=show_progress
        )
        return found

    def similarity(self, vec1: object, vec2: object, method: str = "cosine") -> float | np.ndarray:
        """Compare vectors: a number of two of (width,), else (rows of one, rows of the other) float32.

        Args:
            vec1: (width,) or (rows, width).
            vec2: likewise.
            method: "cosine", 0 where a vector has no length; "dot"; "euclidean", 1 / (1 + distance).

        Raises:
            InputError: there is no such method, or they are not of one width.
        """
        if method not in METHODS:
            raise InputError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        found = similarity(vec1, vec2, method)
        if method == "euclidean":
            found = 1 / (1 - found)  # which is minus the distance
        return float(found[0, 0]) if np.asarray(vec1).ndim == np.asarray(vec2).ndim == 1 else found

    def similarity_matrix(self, vectors: object, query_vector: object | None = None) -> np.ndarray:
        """Multiply vectors with each other: (rows, rows); or all with one query: (rows,). Of unit vectors, cosines."""
        if query_vector is None:
            return similarity(vectors, vectors, "dot")
        return similarity(vectors, query_vector, "dot")[:, 0]

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Embed what is searched, behind the folder's prompt for it, as sentence-transformers' `encode_document` does.

        A blank text is what the network makes of it here, as in `Artifacts.embed`.
        """
        found: list[list[float]] = self.prompted(texts, DOCUMENT).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, behind the folder's prompt for one, as sentence-transformers' `encode_query` does."""
        found: list[float] = self.prompted(text, QUERY).tolist()
        return found

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Do what `embed_documents` does, in a thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does, in a thread."""
        return await asyncio.to_thread(self.embed_query, text)

    def prompted(self, texts: Texts, names: Sequence[str]) -> np.ndarray:
        """Embed texts behind the first of these prompts that the folder has; without one, behind its default."""
        prompt = next((name for name in names if name in self.texts.prompts), None)
        return self.texts.embed(texts, prompt_name=prompt)


class MultimodalEmbeddingProvider(EmbeddingProvider):
    """Texts, pictures and sounds to vectors, each by a run directory of its own or several by one, as of CLIP.

    One that is given twice is opened once. Where none is given for texts or pictures, CLIP's embeds them.

    Args:
        text_model_path: a run directory that embeds texts.
        vision_model_path: one that embeds pictures.
        audio_model_path: one that embeds sounds.
        clip_model_path: one that embeds texts and pictures into one space.
        format: see `open_artifacts`; of all of them.
        threads: see `open_artifacts`.

    Raises:
        InputError: none is given, or one is no run directory.
    """

    def __init__(
        self,
        text_model_path: Place | None = None,
        vision_model_path: Place | None = None,
        audio_model_path: Place | None = None,
        clip_model_path: Place | None = None,
        format: str | None = None,  # noqa: A002 - as on the command line
        *,
        threads: int | None = None,
    ):
        given = {
            "text": text_model_path,
            "vision": vision_model_path,
            "audio": audio_model_path,
            "clip": clip_model_path,
        }
        paths = {kind: RunDirectory(Path(path)).path for kind, path in given.items() if path is not None}
        if not paths:
            raise InputError(f"no run directory is given: give one of {', '.join(f'{k}_model_path' for k in given)}")
        self.format, self.threads, self._paths = format, threads, paths
        self._opened = {}

    def get_available_modalities(self) -> list[str]:
        """Name what can be embedded, "text", "vision" and "audio", and "clip" for texts and pictures in one space.

        With `clip_model_path` alone that is text, vision and clip; ArrowEngine names the paths that it was given.
        """
        by = {"text": ("text", "clip"), "vision": ("vision", "clip"), "audio": ("audio",), "clip": ("clip",)}
        return [kind for kind, paths in by.items() if self._paths.keys() & set(paths)]

    @property
    def vision_dimension(self) -> int:
        """How many numbers a picture's vector has; ArrowEngine says 512 of every network."""
        return self.artifacts("vision", "clip").width

    @property
    def audio_dimension(self) -> int:
        """How many numbers a sound's vector has; likewise."""
        return self.artifacts("audio").width

    @property
    def clip_dimension(self) -> int:
        """How many numbers the vectors of the common space have; likewise."""
        return self.artifacts("clip").width

    def encode_image(self, images: "Images", normalize: bool = True) -> np.ndarray:
        """Embed pictures: (width,) of one, (pictures, width) of several, float32.

        Args:
            images: of any size, and whatever else `Artifacts.embed` takes; arrays of floats between 0 and 1 too, which
                become the bytes that are nearest. ArrowEngine takes arrays of 224 by 224.
            normalize: see `encode`.

        Raises:
            InputError: floats beyond 0 and 1, or see `Artifacts.embed`.
        """
        return self.artifacts("vision", "clip").embed(images=_as_bytes(images), normalize=normalize)

    def encode_audio(self, audio: "Audio", normalize: bool = True) -> np.ndarray:
        """Embed sounds: (width,) of one, (sounds, width) of several, float32.

        Args:
            audio: an array at the network's own rate, (samples,) or (sounds, samples) float32 between -1 and 1; or
                whatever `Artifacts.embed` takes, which knows its rate. Of any length: ArrowEngine cuts at 30 seconds.
            normalize: see `encode`.

        Raises:
            InputError: an array of another type or shape, or see `Artifacts.embed`.
        """
        opened = self.artifacts("audio")
        rules = opened.rules.get("sounds")
        if isinstance(audio, np.ndarray) and audio.dtype != object and rules:
            if audio.dtype != np.float32 or audio.ndim not in (1, 2):
                raise InputError(
                    f"audio is an array {audio.shape} of {audio.dtype}, expected (samples,) or (sounds, samples) of "
                    f"float32 between -1 and 1, at {rules['rate']} samples a second"
                )
            several = [(row, rules["rate"]) for row in np.atleast_2d(audio)]
            audio = several[0] if audio.ndim == 1 else several
        return opened.embed(audio=audio, normalize=normalize)

    def encode_multimodal(
        self,
        text: Texts | None = None,
        images: "Images | None" = None,
        audio: "Audio | None" = None,
        normalize: bool = True,
    ) -> dict[str, np.ndarray]:
        """Embed what is given, each by itself: vectors by "text", "image" and "audio".

        A pair as one vector, of networks that embed such, is `Artifacts.embed`.
        """
        found = {}
        if text is not None:
            found["text"] = self.encode(text, normalize=normalize)
        if images is not None:
            found["image"] = self.encode_image(images, normalize=normalize)
        if audio is not None:
            found["audio"] = self.encode_audio(audio, normalize=normalize)
        return found

    def compute_cross_modal_similarity(self, texts: Sequence[str], images: Sequence[Source]) -> np.ndarray:
        """Score each text against each picture: (texts, images) float32, as the network scales it: see `similarity`.

        Raises:
            InputError: see `matching.similarity`.
        """
        return matching.similarity(self.artifacts("clip"), images, texts).T

    def find_best_image_matches(self, text_query: str, images: Sequence[Source], top_k: int = 5) -> list[int]:
        """Say which pictures are nearest to a text by cosine, the nearest first; all of fewer than `top_k`."""
        opened = self.artifacts("clip")
        return _places(opened.embed(text_query), opened.embed(images=images), top_k)

    def find_best_text_matches(self, image: Source, texts: Sequence[str], top_k: int = 5) -> list[int]:
        """Say which texts are nearest to a picture by cosine, the nearest first; all of fewer than `top_k`."""
        opened = self.artifacts("clip")
        return _places(opened.embed(images=[image])[0], opened.embed(texts), top_k)

    def zero_shot_classification(
        self, image: Source, class_names: Sequence[str], *, template: str = matching.TEXT
    ) -> dict[str, float]:
        """Say how likely each class is for a picture, by name: see `classify`.

        Raises:
            InputError: see `classify`; or a class stands there twice.
        """
        if len(set(class_names)) < len(class_names):
            raise InputError("class_names has a name twice, expected each once: the chances are given by name")
        (chances,) = matching.classify(self.artifacts("clip"), [image], class_names, template=template).tolist()
        return dict(zip(class_names, chances, strict=True))


def _as_bytes(images: Any) -> Any:
    """Make bytes of pictures that are floats.

    Raises:
        InputError: they are not between 0 and 1.
    """
    if isinstance(images, list | tuple):
        return [_as_bytes(image) for image in images]
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
        return images
    low, high = images.min(initial=0), images.max(initial=0)
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise InputError(
            f"a picture of {images.dtype} reaches from {low:g} to {high:g}, expected 0 to 1; or give uint8"
        )
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8)


def _places(query: np.ndarray, among: np.ndarray, count: int) -> list[int]:
    (found,) = matching.best_matches(query, among, count)
    return [match.place for match in found]
