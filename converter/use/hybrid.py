"""What bge-m3 gives of a text beside its vector, a weight and a vector of each token, and scores of them all."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Weights = Mapping[str, float]
"""Of tokens, by their ids as texts, as FlagEmbedding has them."""


@dataclass(frozen=True)
class Hybrid:
    """The outputs of one pass over some texts, in their order.

    Args:
        dense_vecs: (texts, width).
        lexical_weights: of each text, the largest weight of each token that is no special one; none is 0.
        colbert_vecs: of each text, a vector of each token but the first, (tokens - 1, width).
    """

    dense_vecs: np.ndarray
    lexical_weights: list[dict[str, float]]
    colbert_vecs: list[np.ndarray]


def lexical_weights(ids: Sequence[int], weights: np.ndarray, left_out: Collection[int]) -> dict[str, float]:
    """Give the largest weight of each token (FlagEmbedding 1.4, M3Embedder.encode).

    Args:
        ids: of the text's tokens.
        weights: of each of them, none negative.
        left_out: ids of special tokens.
    """
    found: dict[str, float] = {}
    for token, weight in zip(ids, weights.tolist(), strict=True):
        if token not in left_out and weight > found.get(str(token), 0.0):
            found[str(token)] = weight
    return found


def lexical_score(one: Weights, other: Weights) -> float:
    """Add up the products of the weights of common tokens."""
    return sum(weight * other[token] for token, weight in one.items() if token in other)


def colbert_score(query: np.ndarray, passage: np.ndarray) -> float:
    """Give the mean, over the query's vectors, of the largest product with one of the passage's."""
    return float((query @ passage.T).max(axis=1).mean())


def scores(queries: Hybrid, passages: Hybrid, weights: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """Score pairs in each way, and by weighted means (FlagEmbedding 1.4, M3Embedder.compute_score).

    Args:
        queries: one for each pair.
        passages: likewise.
        weights: of dense, sparse and ColBERT's scores.
    """
    dense = np.sum(queries.dense_vecs * passages.dense_vecs, axis=1)
    pairs = zip(queries.lexical_weights, passages.lexical_weights, strict=True)
    sparse = np.array([lexical_score(*pair) for pair in pairs], np.float32)
    several = zip(queries.colbert_vecs, passages.colbert_vecs, strict=True)
    colbert = np.array([colbert_score(*pair) for pair in several], np.float32)
    two = weights[0] * dense + weights[1] * sparse
    return {
        "colbert": colbert,
        "sparse": sparse,
        "dense": dense,
        "sparse+dense": two / (weights[0] + weights[1]),
        "colbert+sparse+dense": (two + weights[2] * colbert) / sum(weights),
    }
