"""A text encoder's part of a network: names of MPNetModel -> parameter paths, shapes, probes.

Axes: v vocabulary, p positions, n buckets of distances, e embedding width, d head width, m inner width.
"""

from .. import steps
from ..bert import probes
from ..bert.rules import BUFFERS, HEADS, NORM, POOLER, layer_shapes
from ..family import Rule, Rules, Shapes
from ..parts import Part, join
from .config import BIAS, MPNetConfig

PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


def whole(config: MPNetConfig) -> Part:
    """Declare an MPNet checkpoint."""
    after = steps.part(config.pipeline)
    return join(*(part.mounted(target="text.", axes="") for part in (text(config), after)), Part((HEADS,), {}, {}))


def text(config: MPNetConfig) -> Part:
    """Declare the text encoder."""
    axis_sizes = {
        "v": config.vocab_size,
        "p": config.max_position_embeddings,
        "n": config.relative_attention_num_buckets,
        "e": config.hidden_size,
        "heads": config.num_attention_heads,
        "d": config.head_dim,
        "m": config.intermediate_size,
    }
    draws = {"embeddings.*_embeddings.weight": (0.0, 0.06), BIAS: (0.0, 0.5)}
    return Part(_rules(), axis_sizes, _shapes(config), probes.probes(config), draws=draws)


def _rules() -> Rules:
    layer, target = "encoder.layer.{i}.", "layers.{i}."
    own = layer + "attention.attn."
    return (
        Rule("embeddings.word_embeddings.weight", "embeddings.word.embedding", "v e"),
        Rule("embeddings.position_embeddings.weight", "embeddings.position.embedding", "p e"),
        *(Rule(f"embeddings.LayerNorm{s}", f"embeddings.norm{t}", "e") for s, t in NORM),
        Rule(BIAS, "distance.embedding", "n heads"),
        *(
            Rule(f"{own}{n}.weight", f"{target}attention.{leaf}.kernel", "(heads d) e -> e heads d")
            for n, leaf in PROJECTIONS.items()
        ),
        *(
            Rule(f"{own}{n}.bias", f"{target}attention.{leaf}.bias", "(heads d) -> heads d")
            for n, leaf in PROJECTIONS.items()
        ),
        Rule(own + "o.weight", target + "attention.out.kernel", "e (heads d) -> heads d e"),
        Rule(own + "o.bias", target + "attention.out.bias", "e"),
        *(Rule(f"{layer}attention.LayerNorm{s}", f"{target}attention_norm{t}", "e") for s, t in NORM),
        Rule(layer + "intermediate.dense.weight", target + "up.kernel", "m e -> e m"),
        Rule(layer + "intermediate.dense.bias", target + "up.bias", "m"),
        Rule(layer + "output.dense.weight", target + "down.kernel", "e m -> m e"),
        Rule(layer + "output.dense.bias", target + "down.bias", "e"),
        *(Rule(f"{layer}output.LayerNorm{s}", f"{target}down_norm{t}", "e") for s, t in NORM),
        BUFFERS,
        POOLER,
    )


def _shapes(config: MPNetConfig) -> Shapes:
    """Give names and shapes as Hugging Face's MPNetModel stores them, in its order."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    dense: dict[str, tuple[int, ...]] = {f"attention.attn.{name}": (width, width) for name in (*PROJECTIONS, "o")}
    dense |= {"attention.LayerNorm": (), "intermediate.dense": (inner, width)}
    dense |= {"output.dense": (width, inner), "output.LayerNorm": ()}
    shapes |= layer_shapes(config, dense)
    shapes[BIAS] = (config.relative_attention_num_buckets, config.num_attention_heads)
    return shapes | {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}
