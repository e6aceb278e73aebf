"""What a text classifier is, in numbers, and how it is read from shapes and documents."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...validation.errors import GateError, InputError
from ..bert import HEADS
from ..bert.config import CONFIG, M3, SIZES, BertConfig, settle_network
from ..documents import Configured, Document, Expected, Settled, shown
from ..family import LONGEST_FIRST, PAIRS, QUERY_FIRST, Shapes, Source
from ..pipeline import MODULES, SENTENCES, TRANSFORMER_TYPES, TRANSFORMERS, settle_texts
from ..steps import Steps, plain
from ..tokenizer import SETTINGS

POOLED, DIRECT = HEADS

ACTIVATIONS: Mapping[str, str] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.Softmax": "softmax",
}
"""Class of torch.nn, by the path that sentence-transformers writes -> what the pack calls it."""

TYPED = (
    *("BertTokenizer", "ElectraTokenizer", "ConvBertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"),
    *("DebertaTokenizer", "DebertaV2Tokenizer"),
)
UNTOLD = ("PreTrainedTokenizerFast", "TokenizersBackend", "AlbertTokenizer", "AlbertTokenizerFast")
"""Classes of tokenizers that tell the texts of a pair apart, and those of which versions of transformers part."""

SHORTEST = 16
"""Tokens of which a quarter is left for the special ones of a pair."""

FIRST = plain(normalize=False)
TASK = "sequence-classification"
LOGITS = {"text": {"method": "forward", "method_output_name": "logits"}}


@dataclass(frozen=True)
class ClassifierConfig(BertConfig):
    """A BERT or XLM-RoBERTa encoder whose first token is classified."""

    pipeline: Steps = FIRST
    """The first token's state, which the head reads."""
    labels: tuple[str, ...] = ("LABEL_0",)
    activation: str = "sigmoid"
    """What makes scores of logits, for those who ask for scores: one of `ACTIVATIONS`."""
    token_types: bool = True
    """Whether the tokenizer tells the second text of a pair from the first; without, all tokens are of type 0."""
    pairs: str = LONGEST_FIRST
    """How a pair that is too long is cut: one of `PAIRS`."""

    @property
    def head(self) -> tuple[str, str]:
        """Names of the head's two layers."""
        return POOLED if self.model_type == "bert" else DIRECT


def _sized(size: BertConfig, labels: tuple[str, ...], activation: str) -> ClassifierConfig:
    ours = {field: getattr(size, field) for field in size.__dataclass_fields__ if field != "pipeline"}
    return ClassifierConfig(**ours, labels=labels, activation=activation, token_types=size.model_type == "bert")


XLMR = BertConfig(250002, 768, 12, 12, 3072, 514, 1, **M3)
SIZES = {
    "base": _sized(XLMR, ("LABEL_0",), "sigmoid"),
    "reranker-m3": _sized(SIZES["m3"], ("LABEL_0",), "sigmoid"),
    "minilm-l6": _sized(SIZES["minilm-l6"], ("LABEL_0",), "identity"),
    "tiny": _sized(SIZES["tiny"], ("bad", "good", "neither"), "identity"),
}
"""BAAI/bge-reranker-base and -v2-m3, cross-encoder/ms-marco-MiniLM-L-6-v2. And a tiny one."""


def head_of(shapes: Shapes) -> tuple[str, str] | None:
    """Find a whole head over sequences: both layers; one over tokens has one alone."""
    return next((head for head in (DIRECT, POOLED) if all(f"{name}.weight" in shapes for name in head)), None)


def configure(source: Source) -> Configured:
    """Read a classifier: the network, its labels, and what its folder says of texts and scores.

    Raises:
        InputError: a field contradicts the shapes, is not computed here, or is stated nowhere.
    """
    settled, document = source.settled(), source.document(CONFIG)
    settle_network(settled, source, "embeddings.", "encoder.")
    _settle_head(settled, source, document)
    settled.put("pipeline", FIRST, "the head reads the first token's state")
    told = settled.values["model_type"] == "bert" and settled.values["type_vocab_size"] > 1
    types = token_types(source) if told else (False, "the network tells no types apart")
    settled.put("token_types", *types)
    bert = {name: value for name, value in settled.values.items() if name in BertConfig.__dataclass_fields__}
    settle_scores(settled, source, BertConfig(**bert).max_tokens, left_padding=False)
    return Configured(ClassifierConfig(**settled.values), settled.origins)


def settle_scores(settled: Settled, source: Source, positions: int, *, left_padding: bool) -> None:
    """Settle what is done to the texts of a classifier whose labels are settled, and what makes scores of its logits.

    Args:
        settled: what is settled so far.
        source: with the documents.
        positions: see `settle_texts`.
        left_padding: see `settle_texts`.

    Raises:
        InputError: what is stated is not done here.
    """
    _hold_modules(source)
    activation = _activation(source, source.document(CONFIG))
    settle_texts(settled, source, positions, left_padding=left_padding)
    if settled.values["prompts"]:
        raise InputError(f"{source.documents[SENTENCES].origin}: prompts before pairs are not done here; take them out")
    one = len(settled.values["labels"]) == 1
    default = "sigmoid" if one else "identity", "default of sentence-transformers' CrossEncoder"
    settled.choose("activation", str, otherwise=activation or default, choices=(*ACTIVATIONS.values(),))
    usual = LONGEST_FIRST, "as transformers and sentence-transformers cut; --pairs says otherwise"
    settled.choose("pairs", str, otherwise=usual, choices=(*PAIRS,))
    if settled.values["pairs"] == QUERY_FIRST and settled.values["max_seq_length"] < SHORTEST:
        raise InputError(
            f"{settled.origins['pairs']}: a first text of three quarters leaves nothing of {SHORTEST - 1} tokens or "
            f"fewer, and {settled.origins['max_seq_length']} says {settled.values['max_seq_length']}"
        )


def token_types(source: Source) -> tuple[bool, str]:
    """Say whether transformers' tokenizer gives types: as `model_input_names` says, else as its class does.

    Raises:
        InputError: it is left open, and versions of transformers part.
    """
    settings = source.document(SETTINGS)
    if settings is None:
        return True, "default of transformers' BertTokenizer"
    names = settings.take("model_input_names", list, None)
    if names is not None:
        return "token_type_ids" in names, f"{SETTINGS}: model_input_names"
    written = settings.take("tokenizer_class", str, None) or "BertTokenizer"
    if written in UNTOLD and source.tokens and source.tokens.wanted:
        raise InputError(
            f"{settings.origin}: model_input_names is not stated, and of a {written} transformers 4 gives the types of "
            "a pair's tokens, transformers 5 does not: state it, with or without token_type_ids"
        )
    return written.removesuffix("Fast") in TYPED, f"{SETTINGS}: tokenizer_class"


def _settle_head(settled: Settled, source: Source, document: Document | None) -> None:
    """Settle the labels: as many as the last layer has rows, by the names that config.json has for them."""
    head = POOLED if settled.values["model_type"] == "bert" else DIRECT
    if head_of(source.shapes) != head:
        raise InputError(
            f"{settled.origins['model_type']} says {settled.values['model_type']}, whose head is {' and '.join(head)}; "
            f"the checkpoint has {' and '.join(head_of(source.shapes) or ('none',))}"
        )
    for written in (document.take("architectures", list, None) or []) if document else []:
        if not str(written).endswith("ForSequenceClassification"):
            raise InputError(
                f"{document.origin if document else CONFIG}: architectures has {shown(written)}; of heads those over "
                "sequences are computed here (...ForSequenceClassification)"
            )
    shape = source.shapes[f"{head[1]}.weight"]
    if len(shape) != 2 or shape[1] != settled.values["hidden_size"] or not shape[0]:
        raise GateError(f"tensor {head[1]}.weight must be (labels, {settled.values['hidden_size']}), got {shape}")
    settle_labels(settled, source, shape[0], f"shape of {head[1]}.weight")


def settle_labels(settled: Settled, source: Source, count: int, where: str) -> None:
    """Settle the labels' names, of which there are so many.

    Raises:
        InputError: config.json says that there are others.
    """
    document = source.document(CONFIG)
    names = _names(document) if document else None
    if document and names is None:
        stated = document.take("num_labels", int, 2)  # PreTrainedConfig's default
        if stated != count:
            told = "num_labels" if "num_labels" in document else "id2label is not stated, which means"
            raise InputError(f"{document.origin}: {told} {stated}, but the checkpoint's tensors say {count} ({where})")
    elif document and names is not None and len(names) != count:
        raise InputError(
            f"{document.origin}: id2label names {len(names)} labels, but the checkpoint's tensors say {count} ({where})"
        )
    settled.put(
        "labels", tuple(names or (f"LABEL_{i}" for i in range(count))), f"{CONFIG}: id2label" if names else where
    )


def _names(document: Document) -> list[str] | None:
    """Read the labels' names, in their order; None where there are none."""
    if document.fields.get("id2label") is None:
        return None
    part = document.part("id2label")
    names = [part.take(str(i), str) for i in range(len(part.fields))]
    document.note("id2label", "used")
    return names


def _hold_modules(source: Source) -> None:
    """See that a folder of sentence-transformers is that of a CrossEncoder, with nothing after the transformer."""
    if modules := source.document(MODULES):
        first, *others = modules.items()
        first.take("idx", int, None)
        first.take("name", str, None)
        first.take("path", str, "")
        first.take("type", str, choices=TRANSFORMER_TYPES)
        first.accept({"kwargs": "arguments of encode()"})
        if others:
            raise InputError(
                f"{modules.origin}: module 1 is {shown(others[0].fields.get('type'))}; after a classifier nothing is "
                "computed here"
            )
    for transformer in filter(None, map(source.document, TRANSFORMERS)):
        transformer.take("transformer_task", str, TASK, choices=(TASK,))
        transformer.take("module_output_name", str, "scores", choices=("scores",))
        stated = transformer.take("modality_config", dict, LOGITS)
        if stated != LOGITS:
            raise InputError(f"{transformer.origin}: modality_config is {shown(stated)}, expected logits of texts")


def _activation(source: Source, document: Document | None) -> tuple[str, str] | None:
    """Find what CrossEncoder makes of logits: the newer file wins over config.json, as there."""
    found: tuple[str, str] | None = None
    inner = document.part("sentence_transformers") if document and "sentence_transformers" in document else None
    if inner:
        inner.accept({"version": "the program that wrote it"})
    places = [
        (document, "sbert_ce_default_activation_function"),
        (inner, "activation_fn"),
        (source.document(SENTENCES), "activation_fn"),
    ]
    for place, field in places:
        if place is None or field not in place:
            continue
        stated = place.take(field, str, None)
        if stated is None:
            continue
        if stated not in ACTIVATIONS:
            raise InputError(
                f"{place.origin}: {field} is {shown(stated)}; what makes scores here are {', '.join(ACTIVATIONS)}"
            )
        found = ACTIVATIONS[stated], f"{place.name}: {field}"
    if (sentences := source.document(SENTENCES)) and "model_type" in sentences:
        written = sentences.take("model_type", str)
        Expected(str, choices=("CrossEncoder",)).checked(written, f"{sentences.origin}: model_type")
    return found
