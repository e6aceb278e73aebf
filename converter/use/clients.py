"""A provider of embeddings as the class that another library asks for: MTEB, LlamaIndex, Chroma, LanceDB.

Each takes subclasses of its own alone, which are made when they are asked for: no library is imported before. (What
LangChain calls `Embeddings` an `EmbeddingProvider` is as it stands.)
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.errors import EnvironmentFailure, InputError
from .batches import BATCH
from .provider import DOCUMENT, QUERY, EmbeddingProvider, Place

if TYPE_CHECKING:
    from chromadb.api.types import EmbeddingFunction as ChromaFunction
    from lancedb.embeddings import EmbeddingFunction as LanceFunction
    from llama_index.core.embeddings import BaseEmbedding
    from mteb.models import EncoderProtocol

NAME = "bgevis-convert"
"""By which Chroma and LanceDB know the function that made a collection's vectors."""

SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
"""What Chroma calls the ways in which a folder compares vectors."""

PROMPTS = {"query": QUERY, "document": DOCUMENT}


def mteb_encoder(directory: Place, format: str | None = None) -> "EncoderProtocol":  # noqa: A002
    """Give a run directory to MTEB 2: `mteb.evaluate(mteb_encoder(DIR), tasks)`, of texts and pictures.

    Prompts are chosen as for models of sentence-transformers: that of the task, else of queries or documents.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `EmbeddingProvider`; or the network embeds neither texts nor pictures, or the folder compares by
            a distance, which MTEB does not.
        EnvironmentFailure: mteb 2 is not installed.
    """
    provider = EmbeddingProvider(directory, format)
    try:
        from mteb.models import ModelMeta
        from mteb.models.abs_encoder import AbsEncoder
        from mteb.models.model_meta import ScoringFunction
    except ImportError as error:
        raise _missing("mteb", "mteb>=2") from error

    class Run(AbsEncoder):
        """The network of a run directory."""

        def __init__(self) -> None:
            opened = provider.texts
            kinds = [kind for kind in ("text", "image") if kind in opened.embeds]
            if not kinds:
                raise InputError(f"{directory} embeds neither texts nor pictures, which MTEB is given here")
            way = opened.rules["embeddings"]["similarity"]
            if way not in ("cosine", "dot"):
                raise InputError(f"{directory} compares by {way}; MTEB knows cosine and dot alone")
            described = {
                "name": f"{NAME}/{opened.path.resolve().name}",
                "revision": opened.format,
                "embed_dim": opened.width,
                "max_tokens": opened.limit,
                "similarity_fn_name": ScoringFunction(way),
                "modalities": kinds,
            }
            self.mteb_model_meta = ModelMeta.create_empty(described)
            self.model_prompts = dict(opened.prompts) if "text" in kinds else {}

        def encode(self, inputs: Iterable[Mapping[str, Any]], **told: Any) -> np.ndarray:
            """Embed batches of texts, pictures, or pairs of both: (rows, width)."""
            opened, asked = provider.texts, told.get("prompt_type")
            names = (self.get_prompt_name(told["task_metadata"], asked), *PROMPTS.get(getattr(asked, "value", ""), ()))
            prompt = next((name for name in names if name in self.model_prompts), None)
            found = [opened.embed(each.get("text"), each.get("image"), prompt_name=prompt) for each in inputs]
            return np.concatenate(found) if found else np.zeros((0, opened.width), np.float32)

    return Run()


def llama_index_embedding(directory: Place, format: str | None = None) -> "BaseEmbedding":  # noqa: A002
    """Give a run directory to LlamaIndex: `VectorStoreIndex(nodes, embed_model=llama_index_embedding(DIR))`.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `EmbeddingProvider`.
        EnvironmentFailure: llama-index-core is not installed.
    """
    provider = EmbeddingProvider(directory, format)
    try:
        from llama_index.core.embeddings import BaseEmbedding
    except ImportError as error:
        raise _missing("llama-index-core") from error

    class Run(BaseEmbedding):
        """The network of a run directory."""

        def _get_query_embedding(self, query: str) -> list[float]:
            return provider.embed_query(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return await provider.aembed_query(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return provider.embed_documents([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return provider.embed_documents(texts)

    return Run(model_name=f"{NAME}/{directory}", embed_batch_size=BATCH)


def chroma_function(directory: Place, format: str | None = None) -> "ChromaFunction[Any]":  # noqa: A002
    """Give a run directory to Chroma: `client.create_collection(name, embedding_function=chroma_function(DIR))`.

    The collection keeps the directory's path; hand the function over again when it is opened by another process.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `EmbeddingProvider`.
        EnvironmentFailure: chromadb is not installed.
    """
    return _chroma()(EmbeddingProvider(directory, format), str(directory))


@functools.cache
def _chroma() -> Any:
    try:
        from chromadb.api.types import EmbeddingFunction
        from chromadb.utils.embedding_functions import register_embedding_function
    except ImportError as error:
        raise _missing("chromadb") from error

    class Run(EmbeddingFunction):
        """The network of a run directory."""

        def __init__(self, provider: EmbeddingProvider, path: str) -> None:
            self._provider, self._path = provider, path

        def __call__(self, input: Sequence[str]) -> list[np.ndarray]:  # noqa: A002
            return list(self._provider.prompted(input, DOCUMENT))

        def embed_query(self, input: Sequence[str]) -> list[np.ndarray]:  # noqa: A002
            return list(self._provider.prompted(input, QUERY))

        @staticmethod
        def name() -> str:
            return NAME

        def get_config(self) -> dict[str, Any]:
            return {"directory": self._path, "format": self._provider.format}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            return chroma_function(config["directory"], config["format"])

        def default_space(self) -> str:
            way = self._provider.texts.rules["embeddings"]["similarity"]
            if way not in SPACES:
                raise InputError(
                    f"{self._path} compares by {way}, which Chroma does not: choose the collection's space"
                )
            return SPACES[way]

    return register_embedding_function(Run)


def lancedb_function(directory: Place, format: str | None = None) -> "LanceFunction":  # noqa: A002
    """Give a run directory to LanceDB: its `SourceField()` and `VectorField()` describe a table's columns.

    The table keeps the directory's path; call this once before it is opened by another process.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `EmbeddingProvider`.
        EnvironmentFailure: lancedb is not installed.
    """
    found: LanceFunction = _lancedb().create(directory=str(directory), format=format)
    return found


@functools.cache
def _lancedb() -> Any:
    try:
        from lancedb.embeddings import EmbeddingFunction, register
        from pydantic import PrivateAttr
    except ImportError as error:
        raise _missing("lancedb") from error

    @register(NAME)
    class Run(EmbeddingFunction):
        """The network of a run directory."""

        directory: str
        format: str | None = None
        max_retries: int = 0  # what is wrong with a text is wrong the second time too
        _provider: EmbeddingProvider = PrivateAttr()

        def model_post_init(self, context: Any) -> None:
            self._provider = EmbeddingProvider(self.directory, self.format)

        def compute_query_embeddings(self, query: str, *_: Any, **__: Any) -> list[np.ndarray]:
            return list(self._provider.prompted([query], QUERY))

        def compute_source_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[np.ndarray]:
            return list(self._provider.prompted(self.sanitize_input(texts), DOCUMENT))

        def ndims(self) -> int:
            return self._provider.dimension

    return Run


def _missing(package: str, install: str = "") -> EnvironmentFailure:
    return EnvironmentFailure(f"{package} is not installed: pip install '{install or package}'")
