"""How does a checkpoint become artifacts? Reading, remapping, building, the run directory, the command line."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..validation.errors import ConvertError, EnvironmentFailure, GateError, InputError
    from .use.artifacts import Artifacts, load_module, open_artifacts
    from .use.clients import chroma_function, lancedb_function, llama_index_embedding, mteb_encoder
    from .use.matching import best_matches, classify, similarity
    from .use.parallel import partitions
    from .use.provider import EmbeddingProvider, MultimodalEmbeddingProvider
    from .use.sentence_transformers import cross_encoder, sentence_transformer
    from .use.store.embedding_store import EmbeddingStore

    __version__: str

__all__ = [
    "Artifacts",
    "ConvertError",
    "EmbeddingProvider",
    "EmbeddingStore",
    "EnvironmentFailure",
    "GateError",
    "InputError",
    "MultimodalEmbeddingProvider",
    "__version__",
    "best_matches",
    "chroma_function",
    "classify",
    "cross_encoder",
    "lancedb_function",
    "llama_index_embedding",
    "load_module",
    "mteb_encoder",
    "open_artifacts",
    "partitions",
    "sentence_transformer",
    "similarity",
]

_PLACES = {
    **dict.fromkeys(("ConvertError", "EnvironmentFailure", "GateError", "InputError"), "..validation.errors"),
    **dict.fromkeys(("chroma_function", "lancedb_function", "llama_index_embedding", "mteb_encoder"), ".use.clients"),
    **dict.fromkeys(("EmbeddingProvider", "MultimodalEmbeddingProvider"), ".use.provider"),
    "partitions": ".use.parallel",
    **dict.fromkeys(("best_matches", "classify", "similarity"), ".use.matching"),
    "EmbeddingStore": ".use.store.embedding_store",
    **dict.fromkeys(("cross_encoder", "sentence_transformer"), ".use.sentence_transformers"),
}
"""Where what is public is, if not in .use.artifacts."""


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: the command line must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("bgevis-convert")
    place = _PLACES.get(name, ".use.artifacts")
    return getattr(importlib.import_module(place, __name__), name)
