"""BERT and XLM-RoBERTa sentence encoders: BGE, MiniLM, E5 and other Hugging Face checkpoints of the kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import Axis, EntryPoint, PaddingMask, TensorSpec, TokenIds
from ...validation.outputs import Embedding, States
from ..family import Family, HuggingFace, Settings, Shapes
from . import probes, rules
from .config import SIZES, BertConfig, configure_text, sizes_from_shapes

if TYPE_CHECKING:
    from ..network import Network
    from ..torch_reference import TorchReference


def _prefix(shapes: Shapes) -> str | None:
    """Find what stands before the encoder's names; None when no name is the encoder's."""
    for end in ("encoder.layer.", "embeddings."):
        for name in shapes:
            prefix, found, _ = name.partition(end)
            if found and prefix in ("", "bert.", "roberta.", "model.", "0.auto_model."):
                return prefix
    return None


def _recognise(shapes: Shapes) -> bool:
    return _prefix(shapes) is not None and any(".attention.self." in name for name in shapes)


def _configure(shapes: Shapes, settings: Settings) -> BertConfig:
    prefix = _prefix(shapes)
    return configure_text(sizes_from_shapes(shapes, f"{prefix}embeddings.", f"{prefix}encoder."), settings)


def text_inputs(config: BertConfig) -> tuple[TensorSpec, TensorSpec]:
    """Describe ids and mask, both (batch, tokens)."""
    ids = TokenIds(config.vocab_size, config.pad_token_id, config.cls_token_id, config.sep_token_id)
    return (
        TensorSpec("input_ids", "int32", ("batch", "tokens"), ids),
        TensorSpec("attention_mask", "int32", ("batch", "tokens"), PaddingMask("input_ids")),
    )


def embeddings_output(config: BertConfig) -> tuple[TensorSpec]:
    """Describe the embeddings, (batch, width)."""
    return (TensorSpec("embeddings", "float32", ("batch", config.hidden_size), kind=Embedding(config.normalize)),)


def embeddings(config: BertConfig) -> Mapping[str, Any]:
    """State what the embeddings are."""
    return {"pooling": config.pooling, "normalize": config.normalize}


def encode_text(config: BertConfig) -> EntryPoint:
    """Describe the entry point that embeds texts."""
    axes = {"batch": Axis(), "tokens": Axis(1, config.max_tokens)}
    return EntryPoint("encode_text", text_inputs(config), embeddings_output(config), axes, rows="batch")


def _network(config: BertConfig) -> "Network":
    from ..network import Network
    from .modeling import Bert

    return Network(lambda rngs: Bert(config, rngs=rngs), (encode_text(config),))


STATED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act", "model_type"),
)
"""Fields of the configuration whose names are Hugging Face's."""


def _hugging_face(config: BertConfig) -> HuggingFace:
    """Describe the encoder to transformers' BertModel and XLMRobertaModel. The latter's texts have no types."""
    from ..network import Network
    from .modeling import Bert

    bert = config.model_type == "bert"
    inputs = text_inputs(config)
    types = (TensorSpec("token_type_ids", "int32", ("batch", "tokens")),) if bert else ()
    shape = ("batch", "tokens", config.hidden_size)
    states = TensorSpec("last_hidden_state", "float32", shape, kind=States("attention_mask"))
    entry = EntryPoint("token_states", (*inputs, *types), (states,), encode_text(config).axes, rows="batch")
    named = {"pad_token_id": config.pad_token_id}
    if not bert:
        named |= {"bos_token_id": config.cls_token_id, "eos_token_id": config.sep_token_id}
    document = {
        "architectures": ["BertModel" if bert else "XLMRobertaModel"],
        **{name: getattr(config, name) for name in STATED},
        **named,
        "position_embedding_type": "absolute",
    }
    return HuggingFace(document, Network(lambda rngs: Bert(config, rngs=rngs), (entry,)))


def _reference(config: BertConfig, state: Mapping[str, Any]) -> "TorchReference":
    from .reference import reference

    return reference(config, state)


def text_layout(config: BertConfig, embeddings: str, encoder: str, pooler: str) -> dict[str, tuple[int, ...]]:
    """Give names and shapes as Hugging Face's BertModel stores them, in its order, under the given prefixes."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}word_embeddings.weight": (config.vocab_size, width),
        f"{embeddings}position_embeddings.weight": (config.max_position_embeddings, width),
        f"{embeddings}token_type_embeddings.weight": (config.type_vocab_size, width),
        f"{embeddings}LayerNorm.weight": (width,),
        f"{embeddings}LayerNorm.bias": (width,),
    }
    dense: dict[str, tuple[int, ...]] = {f"attention.self.{p}": (width, width) for p in ("query", "key", "value")}
    dense |= {"attention.output.dense": (width, width), "attention.output.LayerNorm": ()}
    dense |= {"intermediate.dense": (inner, width), "output.dense": (width, inner), "output.LayerNorm": ()}
    for i in range(config.num_hidden_layers):
        for name, shape in dense.items():
            shapes[f"{encoder}layer.{i}.{name}.weight"] = shape or (width,)
            shapes[f"{encoder}layer.{i}.{name}.bias"] = (shape[0] if shape else width,)
    return shapes | {f"{pooler}dense.weight": (width, width), f"{pooler}dense.bias": (width,)}


FAMILY = Family(
    name="bert",
    summary="BERT and XLM-RoBERTa sentence encoders: BGE small/base/large, bge-m3 (dense), MiniLM, any of the kind",
    recognise=_recognise,
    configure=_configure,
    config=BertConfig,
    rules=rules.rules,
    axes=rules.axes,
    entry_points=lambda config: (encode_text(config),),
    network=_network,
    reference=_reference,
    sizes=SIZES,
    layout=lambda config: text_layout(config, "embeddings.", "encoder.", "pooler."),
    embeddings=embeddings,
    hugging_face=_hugging_face,
    probes=probes.probes,
)
