"""How near embeddings are to each other, in each way that preprocess.json names: docs/pack.md."""

from collections.abc import Callable, Mapping

import numpy as np

from ...validation.errors import InputError

TINY = np.float32(1e-12)
"""The length that a vector has at least where it is divided by, as in torch.nn.functional.normalize."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Make vectors as long as 1, those of no length 0: (..., width) float32."""
    lengths = np.sqrt(np.sum(np.square(vectors), axis=-1, keepdims=True))
    return vectors / np.maximum(lengths, TINY)


def _by_row(distance: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Compare each vector of the first with all of the second: no memory for all differences at once."""
    return lambda one, other: np.stack([-distance(other - vector) for vector in one])


SIMILARITIES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "dot": lambda one, other: one @ other.T,
    "cosine": lambda one, other: unit(one) @ unit(other).T,
    "euclidean": _by_row(lambda apart: np.sqrt(np.sum(np.square(apart), axis=-1))),
    "manhattan": _by_row(lambda apart: np.sum(np.abs(apart), axis=-1)),
}
"""More is nearer, so that distances are negative, as in sentence-transformers."""


def similarity(one: object, other: object, way: str) -> np.ndarray:
    """Compare vectors: (rows of one, rows of the other) float32.

    Args:
        one: (rows, width), or (width,) for one row.
        other: likewise.
        way: one of `SIMILARITIES`.

    Raises:
        InputError: they are no vectors, or not of one width.
    """
    vectors = [_vectors(given, name) for name, given in (("the first", one), ("the second", other))]
    widths = [array.shape[1] for array in vectors]
    if len(set(widths)) > 1:
        raise InputError(f"embeddings of {widths[0]} and {widths[1]} numbers cannot be compared: make both alike")
    if not all(map(len, vectors)):
        return np.zeros((len(vectors[0]), len(vectors[1])), np.float32)
    return SIMILARITIES[way](*vectors)


def _vectors(given: object, name: str) -> np.ndarray:
    try:
        array = np.atleast_2d(np.asarray(given, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} to compare is no array of numbers: give embeddings, as `embed` makes them") from error
    if array.ndim != 2:
        raise InputError(f"{name} to compare has the shape {array.shape}, expected (rows, width) or (width,)")
    return array
