"""Packages that come with an extra: asked for by what needs them, so that the message says how to get them."""

import importlib.util
from collections.abc import Mapping

from .errors import EnvironmentFailure

EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("flax", "jax", "jaxlib", "jaxtyping", "jinja2", "onnx", "rich"), "convert"),
    **dict.fromkeys(("torch", "transformers", "sentence_transformers", "peft"), "upstream"),
    **dict.fromkeys(("PIL", "huggingface_hub", "tokenizers", "tqdm"), "embed"),
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "orbax": "orbax",
    "tensorflow": "saved-model",
    "tf2onnx": "tf2onnx",
    "pyarrow": "parquet",
    "soundfile": "sound",
    "matplotlib": "plot",
    "fsspec": "remote",
}
"""The extra of this project that brings a package, by the name that is imported."""

UNASKED = "keras"
"""What TensorFlow imports where it finds it, for a second or two, and nothing here asks for."""

NAMES = {"PIL": "pillow", "sentence_transformers": "sentence-transformers"}
"""What a package is called where it is installed from, if that is not its module's name."""


def need(module: str, what: str, extra: str = "") -> None:
    """Hold that a package is installed.

    Args:
        module: what is imported of it.
        what: needs it.
        extra: that brings it, if that is not the one of `EXTRAS`.

    Raises:
        EnvironmentFailure: it is not.
    """
    if not installed(module):
        raise missing(module, what, extra)


def need_jax() -> None:
    """Hold that networks can be built here.

    Raises:
        EnvironmentFailure: JAX or Flax is not installed.
    """
    for module in ("jax", "flax"):
        need(module, "building a network")


def missing(module: str, what: str, extra: str = "") -> EnvironmentFailure:
    """Say that a package is missing, and how to get it, see `need`."""
    return EnvironmentFailure(
        f"{what} needs the Python package {NAMES.get(module, module)}, which is not installed: "
        f"pip install 'bgevis-convert[{extra or EXTRAS[module.partition('.')[0]]}]'"
    )


def installed(module: str) -> bool:
    """Say whether a module can be imported, without doing so."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that `module` would be in
        return False
