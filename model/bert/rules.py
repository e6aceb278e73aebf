"""A text encoder's part of a network: names of BertModel and XLMRobertaModel -> parameter paths, shapes, probes.

Axes: v vocabulary, p positions, y token types, e embedding width, d head width, m inner width.
"""

from collections.abc import Mapping

from .. import steps
from ..family import Drop, Rule, Rules, Shapes
from ..parts import Part, join
from . import probes
from .config import BertConfig

NORM = ((".{:weight|gamma}", ".scale"), (".{:bias|beta}", ".bias"))
"""Old checkpoints, converted from TensorFlow, say gamma and beta."""

HEADS = Drop("{:cls|lm_head}.{:*}", "a pre-training head: sentence embeddings do not pass through it")
M3_HEADS = Drop("{:sparse_linear|colbert_linear}.{:*}", "a head of bge-m3, which dense embeddings do not pass")
BUFFERS = Drop("embeddings.{:position_ids|token_type_ids}", "a buffer that counts 0, 1, 2, ...; it holds no weights")
POOLER = Drop("pooler.dense.{:weight|bias}", "the next-sentence pooler: sentence embeddings do not pass through it")


def whole(config: BertConfig) -> Part:
    """Declare a BERT checkpoint on its own."""
    return join(encoder(config), Part((HEADS, M3_HEADS), {}, {}))


def encoder(config: BertConfig) -> Part:
    """Declare the text encoder of a network, and what makes one vector of its states."""
    return join(*(part.mounted(target="text.", axes="") for part in (text(config), steps.part(config.pipeline))))


def text(config: BertConfig) -> Part:
    """Declare a text encoder."""
    axis_sizes = {
        "v": config.vocab_size,
        "p": config.max_position_embeddings,
        "y": config.type_vocab_size,
        "e": config.hidden_size,
        "heads": config.num_attention_heads,
        "d": config.head_dim,
        "m": config.intermediate_size,
    }
    draws = {"embeddings.*_embeddings.weight": (0.0, 0.06)}
    return Part(_rules(), axis_sizes, _shapes(config), probes.probes(config), draws=draws)


def _rules() -> Rules:
    layer, target = "encoder.layer.{i}.", "layers.{i}."
    own, part = "attention.self.{part:query|key|value}", "attention.{part}"
    return (
        Rule("embeddings.word_embeddings.weight", "embeddings.word.embedding", "v e"),
        Rule("embeddings.position_embeddings.weight", "embeddings.position.embedding", "p e"),
        Rule("embeddings.token_type_embeddings.weight", "embeddings.token_type.embedding", "y e"),
        *(Rule(f"embeddings.LayerNorm{s}", f"embeddings.norm{t}", "e") for s, t in NORM),
        Rule(f"{layer}{own}.weight", f"{target}{part}.kernel", "(heads d) e -> e heads d"),
        Rule(f"{layer}{own}.bias", f"{target}{part}.bias", "(heads d) -> heads d"),
        Rule(layer + "attention.output.dense.weight", target + "attention.out.kernel", "e (heads d) -> heads d e"),
        Rule(layer + "attention.output.dense.bias", target + "attention.out.bias", "e"),
        *(Rule(f"{layer}attention.output.LayerNorm{s}", f"{target}attention_norm{t}", "e") for s, t in NORM),
        Rule(layer + "intermediate.dense.weight", target + "up.kernel", "m e -> e m"),
        Rule(layer + "intermediate.dense.bias", target + "up.bias", "m"),
        Rule(layer + "output.dense.weight", target + "down.kernel", "e m -> m e"),
        Rule(layer + "output.dense.bias", target + "down.bias", "e"),
        *(Rule(f"{layer}output.LayerNorm{s}", f"{target}down_norm{t}", "e") for s, t in NORM),
        BUFFERS,
        POOLER,
    )


def _shapes(config: BertConfig) -> Shapes:
    """Give names and shapes as Hugging Face's BertModel stores them, in its order."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    dense: dict[str, tuple[int, ...]] = {f"attention.self.{p}": (width, width) for p in ("query", "key", "value")}
    dense |= {"attention.output.dense": (width, width), "attention.output.LayerNorm": ()}
    dense |= {"intermediate.dense": (inner, width), "output.dense": (width, inner), "output.LayerNorm": ()}
    return shapes | layer_shapes(config, dense) | {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}


def layer_shapes(config: BertConfig, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Give names and shapes of the layers, each with the same linear layers and, where the shape is (), norms."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(config.num_hidden_layers):
        for name, shape in dense.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape or (config.hidden_size,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (shape[0] if shape else config.hidden_size,)
    return shapes
