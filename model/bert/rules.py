"""Names of Hugging Face's BertModel and XLMRobertaModel -> parameter paths, as data.

`text_rules` serves every family with such a text encoder. Axes: v vocabulary, p positions, y token types,
e embedding width, h heads, d head width, m inner width.
"""

from collections.abc import Mapping

from ..family import Drop, Rule, Rules
from .config import BertConfig

NORM = ((".{:weight|gamma}", ".scale"), (".{:bias|beta}", ".bias"))
"""Old checkpoints, converted from TensorFlow, say gamma and beta."""

PREFIX = "{:|bert.|roberta.|model.|0.auto_model.}"
"""What a task model or sentence-transformers puts before the names of the encoder inside it."""


def text_rules(embeddings: str, encoder: str) -> Rules:
    """Give the rules for embeddings and layers under the given prefixes, into `text.*`."""
    layer, target = encoder + "layer.{i}.", "text.layers.{i}."
    return (
        Rule(f"{embeddings}word_embeddings.weight", "text.embeddings.word.embedding", "v e"),
        Rule(f"{embeddings}position_embeddings.weight", "text.embeddings.position.embedding", "p e"),
        Rule(f"{embeddings}token_type_embeddings.weight", "text.embeddings.token_type.embedding", "y e"),
        *(Rule(f"{embeddings}LayerNorm{s}", f"text.embeddings.norm{t}", "e") for s, t in NORM),
        Rule(
            layer + "attention.self.{part:query|key|value}.weight",
            target + "attention.{part}.kernel",
            "(h d) e -> e h d",
        ),
        Rule(layer + "attention.self.{part:query|key|value}.bias", target + "attention.{part}.bias", "(h d) -> h d"),
        Rule(layer + "attention.output.dense.weight", target + "attention.out.kernel", "e (h d) -> h d e"),
        Rule(layer + "attention.output.dense.bias", target + "attention.out.bias", "e"),
        *(Rule(f"{layer}attention.output.LayerNorm{s}", f"{target}attention_norm{t}", "e") for s, t in NORM),
        Rule(layer + "intermediate.dense.weight", target + "up.kernel", "m e -> e m"),
        Rule(layer + "intermediate.dense.bias", target + "up.bias", "m"),
        Rule(layer + "output.dense.weight", target + "down.kernel", "e m -> m e"),
        Rule(layer + "output.dense.bias", target + "down.bias", "e"),
        *(Rule(f"{layer}output.LayerNorm{s}", f"{target}down_norm{t}", "e") for s, t in NORM),
        Drop(embeddings + "{:position_ids|token_type_ids}", "a buffer that counts 0, 1, 2, ...; it holds no weights"),
    )


def rules(config: BertConfig) -> Rules:
    """Give the rules of a BERT checkpoint on its own."""
    del config
    return (
        *text_rules(PREFIX + "embeddings.", PREFIX + "encoder."),
        Drop(
            PREFIX + "pooler.dense.{:weight|bias}",
            "the next-sentence pooler: sentence embeddings do not pass through it",
        ),
        Drop("{:cls|lm_head}.{:*}", "a pre-training head: sentence embeddings do not pass through it"),
    )


def axes(config: BertConfig) -> Mapping[str, int]:
    """Give the sizes of the axes that the layouts name."""
    return {
        "v": config.vocab_size,
        "p": config.max_position_embeddings,
        "y": config.type_vocab_size,
        "e": config.hidden_size,
        "h": config.num_attention_heads,
        "d": config.head_dim,
        "m": config.intermediate_size,
    }
