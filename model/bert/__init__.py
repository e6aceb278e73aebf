"""BERT and XLM-RoBERTa sentence encoders: BGE, MiniLM, E5 and other Hugging Face checkpoints of the kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import Axis, EntryPoint, PaddingMask, TensorSpec, TokenIds
from ...validation.outputs import Embedding, States
from .. import steps
from ..family import Family, HuggingFace, Source
from ..pipeline import VECTOR, prompt_input, text_rules
from ..pipeline import documents as sentence_documents
from . import rules
from .config import CONFIG, SIZES, BertConfig, configure

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference
    from ..upstream import SentenceModules


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


def embeddings_output(config: BertConfig, name: str = "embeddings") -> tuple[TensorSpec]:
    """Describe the embeddings, (batch, width)."""
    width, unit = steps.width(config.pipeline, config.hidden_size), steps.unit(config.pipeline)
    return (TensorSpec(name, "float32", ("batch", width), kind=Embedding(unit)),)


def embeddings(config: BertConfig) -> Mapping[str, Any]:
    """State what the embeddings are."""
    return {**steps.described(config.pipeline), "similarity": config.similarity}


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


def token_states(config: BertConfig, *more: TensorSpec) -> EntryPoint:
    """Describe the entry point of Hugging Face's clients, of ids, mask and what else they feed.

    The states come first, for those that pool them themselves. The vector is not there where the pooling leaves the
    prompt out: they do not say how many tokens it has.
    """
    shape = ("batch", "tokens", config.hidden_size)
    states = TensorSpec("last_hidden_state", "float32", shape, kind=States("attention_mask"))
    vector = () if prompt_input(config.pipeline) else embeddings_output(config, VECTOR)
    axes = encode_text(config).axes
    return EntryPoint("token_states", (*text_inputs(config), *more), (states, *vector), axes, rows="batch")


def hugging_face(config: BertConfig) -> HuggingFace:
    """Describe the encoder to transformers' BertModel and XLMRobertaModel. The latter's texts have no types."""
    from ..network import Network
    from .modeling import Bert

    types = (TensorSpec("token_type_ids", "int32", ("batch", "tokens")),) if config.model_type == "bert" else ()
    entry = token_states(config, *types)
    network = Network(lambda rngs: Bert(config, rngs=rngs), (entry,))
    return HuggingFace(documents(config), network, gives(entry), config.pipeline)


def gives(entry: EntryPoint) -> Mapping[str, str]:
    """Say which output of `token_states` is the embedding."""
    return {spec.name: "embeddings" for spec in entry.outputs if spec.name == VECTOR}


def reference(config: BertConfig, original: "Original", usual: Mapping[str, Any], anchor: str = ANCHOR) -> "Reference":
    """Take transformers' class for the encoder, and sentence-transformers' modules for what makes one vector of it.

    `usual` is the config.json where none lies beside the checkpoint, `anchor` a tensor of the encoder.
    """
    from torch import Tensor, nn

    from .. import upstream
    from ..reference import Reference

    encoder, after = upstreams(config, original, usual, anchor)

    def encode_text(
        input_ids: Tensor, attention_mask: Tensor, prompt_tokens: Tensor | None = None
    ) -> dict[str, Tensor]:
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"embeddings": after(states, attention_mask, prompt_tokens)}

    versions = upstream.versions("torch", "transformers", "sentence-transformers")
    name = f"{versions}: {', '.join(type(m).__name__ for m in (encoder, *after.modules))}"
    return Reference(name, nn.ModuleList([encoder, *after.modules]), {"encode_text": encode_text}, original.state)


def upstreams(
    config: BertConfig, original: "Original", usual: Mapping[str, Any], anchor: str = ANCHOR
) -> "tuple[Any, SentenceModules]":
    """Load upstream's encoder, and what is done with its states, see `reference`."""
    from .. import upstream

    state = upstream.inside(original.state, anchor)
    encoder = upstream.text_encoder(original.documents.get(CONFIG) or usual, state)
    return encoder, upstream.SentenceModules(original, config.hidden_size, config.pipeline)


def encode(config: BertConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let sentence-transformers encode raw texts with the network that the reference has loaded."""
    from .. import upstream

    del config
    encoder, *modules = reference.module.children()
    return {"encode_text": upstream.SentenceEncoder(original, encoder, modules)}


FAMILY = Family(
    name="bert",
    summary="BERT and XLM-RoBERTa sentence encoders: BGE small/base/large, bge-m3 (dense), MiniLM, any of the kind",
    recognise=_recognise,
    configure=configure,
    config=BertConfig,
    part=rules.whole,
    entry_points=lambda config: (encode_text(config),),
    network=_network,
    reference=lambda config, original: reference(config, original, documents(config)[CONFIG]),
    sizes=SIZES,
    embeddings=embeddings,
    hugging_face=hugging_face,
    encode=encode,
    anchors=(ANCHOR,),
    documents=documents,
    texts=text_rules,
)
