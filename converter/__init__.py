"""How does a checkpoint become artifacts? Reading, remapping, building, the run directory, the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .use.artifacts import Artifacts, load_module, open_artifacts
    from .use.matching import best_matches, classify, similarity
    from .use.sentence_transformers import cross_encoder, sentence_transformer

__all__ = [
    "Artifacts",
    "best_matches",
    "classify",
    "cross_encoder",
    "load_module",
    "open_artifacts",
    "sentence_transformer",
    "similarity",
]


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: the command line must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .use import artifacts, matching, sentence_transformers

    return next(getattr(room, name) for room in (artifacts, matching, sentence_transformers) if hasattr(room, name))
