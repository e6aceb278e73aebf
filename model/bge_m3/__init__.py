"""bge-m3 with its three heads: dense, sparse and ColBERT's, by one pass of the encoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import States, TokenWeights
from .. import steps
from ..bert import ANCHOR, CONFIG, documents, text_inputs
from ..family import Family, HuggingFace, Source
from ..pipeline import prompt_input, text_rules
from ..sentences import embeddings, embeddings_output
from . import rules
from .config import BESIDE, COLBERT, SIZES, SPARSE, M3Config, configure

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference


def _recognise(source: Source) -> str:
    names = (ANCHOR, f"{SPARSE}.weight", f"{COLBERT}.weight")
    return f"names {', '.join(names)}" if source.shapes.keys() >= {*names} else ""


def _encode_text(config: M3Config) -> EntryPoint:
    """Describe the one entry point; its outputs are in the order in which fastembed-rs reads them."""
    (dense,) = embeddings_output(config, "dense_vecs")
    mask = "attention_mask"
    weights = TensorSpec("sparse_vecs", "float32", ("batch", "tokens", 1), kind=TokenWeights(mask))
    shape = ("batch", "tokens - 1", config.colbert_dim)
    vectors = TensorSpec("colbert_vecs", "float32", shape, kind=States())  # 0 at padding
    axes = {"batch": Axis(), "tokens": Axis(2, config.max_tokens)}
    inputs = (*text_inputs(config), *prompt_input(config.pipeline))
    return EntryPoint("encode_text", inputs, (dense, weights, vectors), axes, rows="batch")


def _network(config: M3Config) -> "Network":
    from ..network import Network
    from .modeling import M3

    return Network(lambda rngs: M3(config, rngs=rngs), (_encode_text(config),))


def _hugging_face(config: M3Config) -> HuggingFace:
    """Describe the encoder to transformers' XLMRobertaModel: the three heads first, as fastembed-rs counts them.

    Raises:
        InputError: the pooling leaves the prompt out.
    """
    if prompt_input(config.pipeline):
        raise InputError(
            "1_Pooling/config.json: include_prompt is false, and clients that open a folder of sentence-transformers "
            "do not tell bge-m3's heads how many tokens a prompt has; leave the layout out"
        )
    from ..network import Network
    from .modeling import M3

    ours = _encode_text(config)
    shape = ("batch", "tokens", config.hidden_size)
    states = TensorSpec("last_hidden_state", "float32", shape, kind=States("attention_mask"))
    entry = replace(ours, name="token_states", outputs=(*ours.outputs, states))
    network = Network(lambda rngs: M3(config, rngs=rngs), (entry,))
    return HuggingFace(documents(config), network, {spec.name: spec.name for spec in ours.outputs}, config.pipeline)


def _reference(config: M3Config, original: "Original") -> "Reference":
    """Take transformers' encoder, sentence-transformers' modules for the dense vector, torch's layers for the heads.

    The heads' arithmetic is FlagEmbedding's, which cannot be installed beside transformers 5: written here.
    """
    from torch import Tensor, device, nn, relu
    from torch.nn.functional import normalize

    from .. import upstream
    from ..reference import Reference, load_strict
    from ..sentences import upstreams

    encoder, after = upstreams(config, original, documents(config)[CONFIG], ANCHOR)
    heads = {}
    for head, outputs in {SPARSE: 1, COLBERT: config.colbert_dim}.items():
        own = {n.removeprefix(f"{head}."): t for n, t in original.state.items() if n.startswith(f"{head}.")}
        heads[head] = load_strict(nn.Linear(config.hidden_size, outputs, device=device("meta")), own)

    def encode_text(
        input_ids: Tensor, attention_mask: Tensor, prompt_tokens: Tensor | None = None
    ) -> dict[str, Tensor]:
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = heads[COLBERT](states[:, 1:]) * attention_mask[:, 1:, None]
        return {
            "dense_vecs": after(states, attention_mask, prompt_tokens),
            "sparse_vecs": relu(heads[SPARSE](states)),
            "colbert_vecs": normalize(vectors, dim=-1) if steps.unit(config.pipeline) else vectors,
        }

    versions = upstream.versions("torch", "transformers", "sentence-transformers")
    name = f"{versions}: {', '.join(type(m).__name__ for m in (encoder, *after.modules))}; heads as FlagEmbedding 1.4's"
    module = nn.ModuleList([encoder, *after.modules, *heads.values()])
    return Reference(name, module, {"encode_text": encode_text}, original.state)


def _encode(config: M3Config, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let sentence-transformers encode raw texts to dense vectors; the heads it does not know."""
    from .. import upstream

    del config
    encoder, *modules = [*reference.module.children()][: -len(BESIDE)]
    return {"encode_text": upstream.SentenceEncoder(original, encoder, modules)}


FAMILY = Family(
    name="bge_m3",
    summary="bge-m3 with its three heads: dense, and sparse_linear.pt and colbert_linear.pt beside it",
    recognise=_recognise,
    configure=configure,
    config=M3Config,
    part=rules.whole,
    entry_points=lambda config: (_encode_text(config),),
    network=_network,
    reference=_reference,
    sizes=SIZES,
    embeddings=embeddings,
    hugging_face=_hugging_face,
    encode=_encode,
    anchors=(ANCHOR,),
    documents=documents,
    texts=text_rules,
    beside=BESIDE,
)
