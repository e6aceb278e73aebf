"""A text encoder with a head over its first token, in Flax NNX.

Source: Devlin et al. 2018 (arXiv:1810.04805), section 4.1; the head of RoBERTa's kind is that of transformers'
RobertaForSequenceClassification. Dropout is left out.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope
from ..bert.modeling import TextEncoder, check_text
from ..layers import Linear, tapped
from .config import ClassifierConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a masked token, as transformers does in float32: no score makes up for it."""


class Classifier(nnx.Module):
    """A reranker or a classifier of texts: BERT or XLM-RoBERTa for sequence classification.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: ClassifierConfig, *, remat: bool = False, rngs: nnx.Rngs):
        width = (config.hidden_size,)
        self.text = TextEncoder(config, masked_score=MASKED_SCORE, remat=remat, rngs=rngs)
        self.dense = Linear(width, width, rngs=rngs)
        self.out = Linear(width, (len(config.labels),), rngs=rngs)
        self.config = config

    def score(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        token_type_ids: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch labels"]:
        """Score texts or pairs: (batch, tokens) ids, mask and, of BERT, types -> (batch, labels) logits.

        Raises:
            ValueError: wrong rank, unequal shapes, or more tokens than there are positions.
        """
        check_text(input_ids, attention_mask, self.config.max_tokens)
        with scope("text"):
            with scope("embeddings"):
                x = self.text.embeddings(input_ids, token_type_ids)
            x = self.text.states(x, attention_mask)
        return tapped("out", self.out, jnp.tanh(tapped("dense", self.dense, x[:, 0])))

    __call__ = score
