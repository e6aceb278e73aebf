"""Rerankers and classifiers of texts: BERT and XLM-RoBERTa with a sequence-classification head of any labels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.domains import TokenTypes
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import Logits, Scores
from ..bert import ANCHOR, described, text_inputs
from ..family import LONGEST_FIRST, Family, HuggingFace, Source, TextRules
from . import rules
from .config import ACTIVATIONS, CONFIG, SIZES, ClassifierConfig, configure, head_of

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference


def _recognise(source: Source) -> str:
    layer, head = "encoder.layer.0.attention.self.query.weight", head_of(source.shapes)
    return f"names {layer}, {' and '.join(head)}" if head and {ANCHOR, layer} <= source.shapes.keys() else ""


def _score(config: ClassifierConfig) -> EntryPoint:
    labels = len(config.labels)
    types = TensorSpec("token_type_ids", "int32", ("batch", "tokens"), TokenTypes(config.type_vocab_size))
    inputs = (*text_inputs(config), *((types,) if config.token_types else ()))
    logits = TensorSpec("logits", "float32", ("batch", labels), kind=Scores() if labels == 1 else Logits())
    axes = {"batch": Axis(), "tokens": Axis(1, config.max_tokens)}
    return EntryPoint("score", inputs, (logits,), axes, rows="batch")


def _network(config: ClassifierConfig) -> "Network":
    from ..network import Network
    from .modeling import Classifier

    return Network(lambda rngs: Classifier(config, rngs=rngs), (_score(config),))


def _documents(config: ClassifierConfig) -> Mapping[str, Any]:
    """Give transformers' config.json, with what sentence-transformers' CrossEncoder writes into it."""
    kind = "Bert" if config.model_type == "bert" else "XLMRoberta"
    path = next(path for path, name in ACTIVATIONS.items() if name == config.activation)
    return {
        CONFIG: {
            **described(config, f"{kind}ForSequenceClassification"),
            "id2label": {str(i): name for i, name in enumerate(config.labels)},
            "label2id": {name: i for i, name in enumerate(config.labels)},
            "sentence_transformers": {"activation_fn": path},
        }
    }


def _hugging_face(config: ClassifierConfig) -> HuggingFace:
    """Describe the classifier to transformers' ...ForSequenceClassification.

    Raises:
        InputError: pairs are cut as no client cuts them.
    """
    if config.pairs != LONGEST_FIRST:
        raise InputError(
            f"--pairs {config.pairs}: clients that open a folder of sentence-transformers cut pairs token by token "
            "from the longer text; leave --pairs or the layout out"
        )
    return HuggingFace(_documents(config), _network(config), {"logits": "logits"})


def _reference(config: ClassifierConfig, original: "Original") -> "Reference":
    """Take transformers' class for sequence classification."""
    from torch import Tensor

    from .. import upstream
    from ..reference import Reference

    inner = upstream.inside(original.state, ANCHOR)
    head = {n: t for n, t in original.state.items() if n.startswith("classifier.")}
    upstreams = upstream.configuration(original.documents.get(CONFIG) or _documents(config)[CONFIG])
    cls = upstream.transformers().MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(upstreams)]
    prefix = cls.base_model_prefix
    state = {f"{prefix}.{name}": tensor for name, tensor in inner.items() if name not in head} | head
    model: Any = upstream.load(cls, upstreams, state)

    def score(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        result = model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return {"logits": result.logits}

    name = f"{upstream.versions('torch', 'transformers')}: {cls.__name__}"
    return Reference(name, model, {"score": score}, original.state)


def _encode(config: ClassifierConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let sentence-transformers' CrossEncoder score raw texts; no package of it cuts pairs as FlagReranker does."""
    from .. import upstream

    if config.pairs != LONGEST_FIRST:
        return {}
    return {"score": upstream.PairScorer(original, reference.module, len(config.labels))}


FAMILY = Family(
    name="classifier",
    summary="Rerankers and text classifiers: BERT and XLM-RoBERTa for sequence classification, any number of labels",
    recognise=_recognise,
    configure=configure,
    config=ClassifierConfig,
    part=rules.whole,
    entry_points=lambda config: (_score(config),),
    network=_network,
    reference=_reference,
    sizes=SIZES,
    hugging_face=_hugging_face,
    scores=lambda config: {"labels": list(config.labels), "activation": config.activation},
    encode=_encode,
    anchors=(ANCHOR,),
    documents=_documents,
    texts=lambda config: TextRules(config.text_limit, config.truncation_side, pairs=config.pairs),
)
