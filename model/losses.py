"""The loss that retrieval encoders are trained with, for going on with a converted network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def contrastive_loss(
    queries: Float[Array, "queries width"], candidates: Float[Array, "candidates width"], temperature: float = 0.02
) -> Float[Array, ""]:
    """Mean cross-entropy of each query's own candidate among all of them (InfoNCE, van den Oord et al. 2018).

    With g candidates per query, the i-th query's own is the first of its group, number i * g; the others of
    the group are hard negatives.

    Args:
        queries: unit vectors, (queries, width).
        candidates: unit vectors, (candidates, width), a multiple of the number of queries.
        temperature: divides the similarities; 0.02 is Visualized-BGE's.

    Raises:
        ValueError: the candidates are not a multiple of the queries.
    """
    group, rest = divmod(candidates.shape[0], queries.shape[0])
    if rest or not group:
        raise ValueError(f"{candidates.shape[0]} candidates are not a multiple of {queries.shape[0]} queries")
    scores = jax.nn.log_softmax(queries @ candidates.T / temperature, axis=-1)
    return -jnp.mean(scores[jnp.arange(queries.shape[0]), jnp.arange(queries.shape[0]) * group])
