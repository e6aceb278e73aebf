"""What text encoders with a pipeline have in common: what they give, who judges them, what their clients read.

A configuration has the fields `pipeline`, `hidden_size` and `similarity`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..validation.entry_point import EntryPoint, TensorSpec
from ..validation.outputs import Embedding, States
from . import steps
from .pipeline import VECTOR, prompt_input

if TYPE_CHECKING:
    from .reference import Encode, Original, Reference
    from .upstream import SentenceModules

CONFIG = "config.json"


def embeddings_output(config: Any, name: str = "embeddings") -> tuple[TensorSpec]:
    """Describe the embeddings, (batch, width)."""
    width, unit = steps.width(config.pipeline, config.hidden_size), steps.unit(config.pipeline)
    return (TensorSpec(name, "float32", ("batch", width), kind=Embedding(unit)),)


def embeddings(config: Any) -> Mapping[str, Any]:
    """State what the embeddings are."""
    return {**steps.described(config.pipeline), "similarity": config.similarity}


def token_states(embedding: EntryPoint, config: Any, *more: TensorSpec) -> EntryPoint:
    """Describe the entry point of Hugging Face's clients, of the ids and mask of `embedding` and what else they feed.

    The states come first, for those that pool them themselves. The vector is not there where the pooling leaves the
    prompt out: they do not say how many tokens it has.
    """
    shape = ("batch", "tokens", config.hidden_size)
    states = TensorSpec("last_hidden_state", "float32", shape, kind=States("attention_mask"))
    vector = () if prompt_input(config.pipeline) else embeddings_output(config, VECTOR)
    inputs = *embedding.inputs[:2], *more
    return EntryPoint("token_states", inputs, (states, *vector), embedding.axes, rows="batch")


def gives(entry: EntryPoint) -> Mapping[str, str]:
    """Say which output of `token_states` is the embedding."""
    return {spec.name: "embeddings" for spec in entry.outputs if spec.name == VECTOR}


def reference(config: Any, original: "Original", usual: Mapping[str, Any], anchor: str) -> "Reference":
    """Take transformers' class for the encoder, and sentence-transformers' modules for what makes one vector of it.

    `usual` is the config.json where none lies beside the checkpoint, `anchor` a tensor of the encoder.
    """
    from torch import Tensor, nn

    from . import upstream
    from .reference import Reference

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
    config: Any, original: "Original", usual: Mapping[str, Any], anchor: str
) -> "tuple[Any, SentenceModules]":
    """Load upstream's encoder, and what is done with its states, see `reference`."""
    from . import upstream

    state = upstream.inside(original.state, anchor)
    encoder = upstream.text_encoder(original.documents.get(CONFIG) or usual, state)
    return encoder, upstream.SentenceModules(original, config.hidden_size, config.pipeline)


def encode(config: Any, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let sentence-transformers encode raw texts with the network that the reference has loaded."""
    from . import upstream

    del config
    encoder, *modules = reference.module.children()
    return {"encode_text": upstream.SentenceEncoder(original, encoder, modules)}
