"""BERT and XLM-RoBERTa sentence encoders: BGE, MiniLM, E5 and other Hugging Face checkpoints of the kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import Axis, EntryPoint, PaddingMask, TensorSpec, TokenIds
from .. import steps
from ..family import Family, HuggingFace, Source
from ..pipeline import documents as sentence_documents
from ..pipeline import prompt_input, text_rules
from ..sentences import embeddings, embeddings_output, encode, gives, reference, token_states
from . import rules
from .config import CONFIG, SIZES, BertConfig, configure

if TYPE_CHECKING:
    from ..network import Network

ANCHOR = "embeddings.word_embeddings.weight"
HEADS = ("pooler.dense", "classifier"), ("classifier.dense", "classifier.out_proj")
"""Layers of a head that classifies sequences: BERT's goes through its pooler, RoBERTa's has a layer of its own."""


def _recognise(source: Source) -> str:
    layer = "encoder.layer.0.attention.self.query.weight"
    if any(all(f"{name}.weight" in source.shapes for name in head) for head in HEADS):
        return ""  # a classifier
    if all(f"{head}.weight" in source.shapes for head in ("sparse_linear", "colbert_linear")):
        return ""  # bge-m3 with its heads
    return f"names {ANCHOR} and {layer}" if {ANCHOR, layer} <= source.shapes.keys() else ""


def text_inputs(config: BertConfig) -> tuple[TensorSpec, TensorSpec]:
    """Describe ids and mask, both (batch, tokens)."""
    ids = TokenIds(config.vocab_size, config.pad_token_id, config.cls_token_id, config.sep_token_id)
    mask = PaddingMask(ids="input_ids", leading=steps.leading(config.pipeline))
    return (
        TensorSpec("input_ids", "int32", ("batch", "tokens"), ids),
        TensorSpec("attention_mask", "int32", ("batch", "tokens"), mask),
    )


def encode_text(config: BertConfig) -> EntryPoint:
    """Describe the entry point that embeds texts."""
    axes = {"batch": Axis(), "tokens": Axis(1, config.max_tokens)}
    inputs = (*text_inputs(config), *prompt_input(config.pipeline))
    return EntryPoint("encode_text", inputs, embeddings_output(config), axes, rows="batch")


def _network(config: BertConfig) -> "Network":
    from ..network import Network
    from .modeling import Bert

    return Network(lambda rngs: Bert(config, rngs=rngs), (encode_text(config),))


def documents(config: BertConfig) -> Mapping[str, Any]:
    """Give the documents beside such a checkpoint: transformers' config.json, and those of sentence-transformers."""
    architecture = "BertModel" if config.model_type == "bert" else "XLMRobertaModel"
    return {CONFIG: described(config, architecture), **sentence_documents(config)}


def described(config: BertConfig, architecture: str) -> Mapping[str, Any]:
    """Give transformers' config.json."""
    bert = config.model_type == "bert"
    ids = {} if bert else {"bos_token_id": config.cls_token_id, "eos_token_id": config.sep_token_id}
    return {
        "architectures": [architecture],
        **{name: getattr(config, name) for name in STATED},
        "pad_token_id": config.pad_token_id,
        **ids,
        "position_embedding_type": "absolute",
    }


STATED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act", "model_type"),
)
"""Fields of the configuration whose names are Hugging Face's."""


def hugging_face(config: BertConfig) -> HuggingFace:
    """Describe the encoder to transformers' BertModel and XLMRobertaModel. The latter's texts have no types."""
    from ..network import Network
    from .modeling import Bert

    types = (TensorSpec("token_type_ids", "int32", ("batch", "tokens")),) if config.model_type == "bert" else ()
    entry = token_states(encode_text(config), config, *types)
    network = Network(lambda rngs: Bert(config, rngs=rngs), (entry,))
    return HuggingFace(documents(config), network, gives(entry), config.pipeline)


FAMILY = Family(
    name="bert",
    summary="BERT and XLM-RoBERTa sentence encoders: BGE small/base/large, bge-m3 (dense), MiniLM, any of the kind",
    recognise=_recognise,
    configure=configure,
    config=BertConfig,
    part=rules.whole,
    entry_points=lambda config: (encode_text(config),),
    network=_network,
    reference=lambda config, original: reference(config, original, documents(config)[CONFIG], ANCHOR),
    sizes=SIZES,
    embeddings=embeddings,
    hugging_face=hugging_face,
    encode=encode,
    anchors=(ANCHOR,),
    documents=documents,
    texts=text_rules,
)
