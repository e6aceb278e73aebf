"""MPNet sentence encoders: all-mpnet-base-v2, multi-qa-mpnet, paraphrase-mpnet and others of the kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bert import ANCHOR, STATED, encode_text
from ..family import Family, HuggingFace, Source
from ..pipeline import documents as sentence_documents
from ..pipeline import text_rules
from ..sentences import embeddings, encode, gives, reference, token_states
from . import rules
from .config import BIAS, CONFIG, SIZES, MPNetConfig, configure

if TYPE_CHECKING:
    from ..network import Network


def _recognise(source: Source) -> str:
    layer = "encoder.layer.0.attention.attn.q.weight"
    return f"names {BIAS} and {layer}" if {ANCHOR, BIAS, layer} <= source.shapes.keys() else ""


def _network(config: MPNetConfig) -> "Network":
    from ..network import Network
    from .modeling import MPNet

    return Network(lambda rngs: MPNet(config, rngs=rngs), (encode_text(config),))


def _documents(config: MPNetConfig) -> Mapping[str, Any]:
    """Give the documents beside such a checkpoint: transformers' config.json, and those of sentence-transformers."""
    document = {
        "architectures": ["MPNetModel"],
        **{name: getattr(config, name) for name in STATED if name != "type_vocab_size"},
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.cls_token_id,
        "eos_token_id": config.sep_token_id,
    }
    return {CONFIG: document, **sentence_documents(config)}


def _hugging_face(config: MPNetConfig) -> HuggingFace:
    """Describe the encoder to transformers' MPNetModel, which knows no token types."""
    from ..network import Network
    from .modeling import MPNet

    entry = token_states(encode_text(config), config)
    network = Network(lambda rngs: MPNet(config, rngs=rngs), (entry,))
    return HuggingFace(_documents(config), network, gives(entry), config.pipeline)


FAMILY = Family(
    name="mpnet",
    summary="MPNet sentence encoders: all-mpnet-base-v2, multi-qa-mpnet and others of the kind",
    recognise=_recognise,
    configure=configure,
    config=MPNetConfig,
    part=rules.whole,
    entry_points=lambda config: (encode_text(config),),
    network=_network,
    reference=lambda config, original: reference(config, original, _documents(config)[CONFIG], ANCHOR),
    sizes=SIZES,
    embeddings=embeddings,
    hugging_face=_hugging_face,
    encode=encode,
    anchors=(ANCHOR,),
    documents=_documents,
    texts=text_rules,
)
