"""bge-m3 in Flax NNX: one pass of the encoder for a vector of the text, a weight and a vector of each token.

Source: Chen et al. 2024 (arXiv:2402.03216); what the paper leaves open is FlagEmbedding's EncoderOnlyEmbedderM3Model.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from ...validation.taps import scope
from .. import ops, steps
from ..bert.modeling import TextEncoder, check_text
from ..layers import Linear, tapped
from .config import M3Config

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a masked token, as transformers does in float32: no score makes up for it."""


class M3(nnx.Module):
    """A text encoder with bge-m3's three outputs.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: M3Config, *, remat: bool = False, rngs: nnx.Rngs):
        width = (config.hidden_size,)
        self.text = TextEncoder(config, masked_score=MASKED_SCORE, remat=remat, rngs=rngs)
        self.sparse = Linear(width, (1,), rngs=rngs)
        self.colbert = Linear(width, (config.colbert_dim,), rngs=rngs)
        self.config = config

    def encode_text(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> dict[str, Array]:
        """Embed texts: (batch, tokens) ids and mask, and where the pooling leaves the prompt out, its tokens (batch,).

        Gives `dense_vecs` (batch, embedding); `sparse_vecs` (batch, tokens, 1), never negative, of padding too;
        `colbert_vecs` (batch, tokens - 1, width), without the first token, 0 at padding.

        Raises:
            ValueError: wrong rank, unequal shapes, or more tokens than there are positions.
        """
        outputs = self.token_states(input_ids, attention_mask, prompt_tokens)
        del outputs["last_hidden_state"]
        return outputs

    __call__ = encode_text

    def token_states(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> dict[str, Array]:
        """Give what `encode_text` gives, and each token's last state, `last_hidden_state` (batch, tokens, width)."""
        check_text(input_ids, attention_mask, self.config.max_tokens)
        with scope("text"):
            with scope("embeddings"):
                x = self.text.embeddings(input_ids)
            x = self.text.states(x, attention_mask)
            dense = self.text.pool(x, attention_mask, prompt_tokens)
        weights = jnp.maximum(tapped("sparse", self.sparse, x), 0.0)
        vectors = tapped("colbert", self.colbert, x[:, 1:]) * attention_mask[:, 1:, None].astype(x.dtype)
        if steps.unit(self.config.pipeline):
            vectors = ops.l2_normalize(vectors, epsilon=1e-12)
        return {"dense_vecs": dense, "sparse_vecs": weights, "colbert_vecs": vectors, "last_hidden_state": x}
