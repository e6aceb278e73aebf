"""The contract pack: tokenizer, preprocessing and raw goldens, for runtimes without Python. See docs/pack.md."""

import importlib.util

from ...validation.errors import EnvironmentFailure

TOKENIZER = "tokenizer.json"
PREPROCESS = "preprocess.json"
RAW = "goldens/raw"
INDEX = f"{RAW}/index.json"
PIXELS = f"{RAW}/pixels.safetensors"
VALUES = "values"
"""Beside the pictures in PIXELS: what normalising makes of each byte of each channel, (256, channels)."""

FORMAT_VERSION = 3
"""Of preprocess.json."""
INDEX_VERSION = 1


def need(module: str, what: str) -> None:
    """Raise EnvironmentFailure if a package that reads raw inputs is missing, saying how to get it."""
    if importlib.util.find_spec(module) is None:
        package = {"PIL": "pillow"}.get(module, module)
        raise EnvironmentFailure(
            f"{what} needs the Python package {package}, which is not installed: pip install 'bgevis-convert[embed]'"
        )
