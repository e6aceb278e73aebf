"""BERT and XLM-RoBERTa sentence encoders: BGE, MiniLM, E5 and other Hugging Face checkpoints of the kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import Axis, EntryPoint, PaddingMask, TensorSpec, TokenIds
from ...validation.outputs import Embedding, States
from .. import steps
from ..family import Family, HuggingFace, Source
from ..pipeline import documents as sentence_documents
from ..pipeline import prompt_input, text_rules
from . import rules
from .config import CONFIG, SIZES, BertConfig, configure

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference


ANCHOR = "embeddings.word_embeddings.weight"


def _recognise(source: Source) -> str:
    layer = "encoder.layer.0.attention.self.query.weight"
    return f"names {ANCHOR} and {layer}" if {ANCHOR, layer} <= source.shapes.keys() else ""


def text_inputs(config: BertConfig) -> tuple[TensorSpec, TensorSpec]:
    """Describe ids and mask, both (batch, tokens)."""
    ids = TokenIds(config.vocab_size, config.pad_token_id, config.cls_token_id, config.sep_token_id)
    return (
        TensorSpec("input_ids", "int32", ("batch", "tokens"), ids),
        TensorSpec("attention_mask", "int32", ("batch", "tokens"), PaddingMask("input_ids")),
    )


def embeddings_output(config: BertConfig) -> tuple[TensorSpec]:
    """Describe the embeddings, (batch, width)."""
    width, unit = steps.width(config.pipeline, config.hidden_size), steps.unit(config.pipeline)
    return (TensorSpec("embeddings", "float32", ("batch", width), kind=Embedding(unit)),)


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
    bert = config.model_type == "bert"
    ids = {} if bert else {"bos_token_id": config.cls_token_id, "eos_token_id": config.sep_token_id}
    document = {
        "architectures": ["BertModel" if bert else "XLMRobertaModel"],
        **{name: getattr(config, name) for name in STATED},
        "pad_token_id": config.pad_token_id,
        **ids,
        "position_embedding_type": "absolute",
    }
    return {CONFIG: document, **sentence_documents(config)}


STATED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act", "model_type"),
)
"""Fields of the configuration whose names are Hugging Face's."""


def _hugging_face(config: BertConfig) -> HuggingFace:
    """Describe the encoder to transformers' BertModel and XLMRobertaModel. The latter's texts have no types."""
    from ..network import Network
    from .modeling import Bert

    inputs = text_inputs(config)
    types = (TensorSpec("token_type_ids", "int32", ("batch", "tokens")),) if config.model_type == "bert" else ()
    shape = ("batch", "tokens", config.hidden_size)
    states = TensorSpec("last_hidden_state", "float32", shape, kind=States("attention_mask"))
    entry = EntryPoint("token_states", (*inputs, *types), (states,), encode_text(config).axes, rows="batch")
    return HuggingFace(documents(config), config.pipeline, Network(lambda rngs: Bert(config, rngs=rngs), (entry,)))


def _reference(config: BertConfig, original: "Original") -> "Reference":
    """Take transformers' class for the encoder, and sentence-transformers' modules for what makes one vector of it."""
    from torch import Tensor, nn

    from .. import upstream
    from ..reference import Reference

    state = upstream.inside(original.state, "embeddings.word_embeddings.weight")
    stated = original.documents.get(CONFIG) or documents(config)[CONFIG]
    encoder = upstream.text_encoder(stated, state, add_pooling_layer=False)
    after = upstream.SentenceModules(original, config.hidden_size, config.pipeline)

    def encode_text(
        input_ids: Tensor, attention_mask: Tensor, prompt_tokens: Tensor | None = None
    ) -> dict[str, Tensor]:
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"embeddings": after(states, attention_mask, prompt_tokens)}

    versions = upstream.versions("torch", "transformers", "sentence-transformers")
    name = f"{versions}: {', '.join(type(m).__name__ for m in (encoder, *after.modules))}"
    return Reference(name, nn.ModuleList([encoder, *after.modules]), {"encode_text": encode_text}, original.state)


def _encode(config: BertConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
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
    reference=_reference,
    sizes=SIZES,
    embeddings=embeddings,
    hugging_face=_hugging_face,
    encode=_encode,
    anchor=ANCHOR,
    documents=documents,
    texts=text_rules,
)
