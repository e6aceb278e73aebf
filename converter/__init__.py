"""How does a checkpoint become artifacts? Reading, remapping, building, the run directory, the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .use.artifacts import Artifacts, load_module, open_artifacts

__all__ = ["Artifacts", "load_module", "open_artifacts"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: the command line must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .use import artifacts

    return getattr(artifacts, name)
