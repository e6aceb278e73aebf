"""What both stages of Edge Glass are trained with, for going on with a converted network.

Vectors are of length one, as `encode_image` and the others give them. The newest code of the first stage draws one
width for each call, the oldest adds up all of them: which widths count is the caller's.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import ops

TEMPERATURE = 0.07
"""Of both stages; it is not trained."""

PAIRS = {("vision", "text"): 1.0, ("audio", "text"): 1.0, ("vision", "audio"): 0.5}
"""Modalities -> what their loss is multiplied by, where there are three."""

IGNORED = -100
"""A label that is no target."""


def pair_loss(
    one: Float[Array, "rows width"], other: Float[Array, "rows width"], temperature: float = TEMPERATURE
) -> Float[Array, ""]:
    """Mean cross-entropy of each vector's own partner among all, both ways (Radford et al. 2021, arXiv:2103.00020)."""
    scores = one @ other.T / temperature
    ways = (jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=axis))) for axis in (0, 1))
    return -sum(ways) / 2  # type: ignore[return-value]


def matryoshka_loss(
    one: Float[Array, "rows width"],
    other: Float[Array, "rows width"],
    widths: Iterable[int],
    temperature: float = TEMPERATURE,
) -> Float[Array, ""]:
    """Add up the losses of the vectors' beginnings, each made as long as one again."""

    def begun(x: Float[Array, "rows width"], width: int) -> Float[Array, "rows begun"]:
        return ops.l2_normalize(x[:, :width], epsilon=1e-12)

    return sum((pair_loss(begun(one, n), begun(other, n), temperature) for n in widths), jnp.zeros(()))


def three_way_loss(pooled: dict[str, Float[Array, "rows width"]], temperature: float = TEMPERATURE) -> Float[Array, ""]:
    """Add up the losses of the pairs of three modalities, `PAIRS` says how."""
    return sum(
        (weight * pair_loss(pooled[one], pooled[other], temperature) for (one, other), weight in PAIRS.items()),
        jnp.zeros(()),
    )


def next_token_loss(
    logits: Float[Array, "rows so_far vocabulary"], labels: Int[Array, "rows tokens"]
) -> Float[Array, ""]:
    """Mean cross-entropy of each text's next tokens, those with the label -100 left out.

    Logits may be of more places than there are labels: those of a picture or a soft prompt stand before the text.
    Upstream labels the padding behind an answer with the padding's id, so that it is learned too.
    """
    chances = jax.nn.log_softmax(logits[:, -labels.shape[1] : -1], axis=-1)
    wanted, counts = labels[:, 1:], labels[:, 1:] != IGNORED
    chosen = jnp.take_along_axis(chances, jnp.where(counts, wanted, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(counts, chosen, 0.0)) / jnp.sum(counts)
