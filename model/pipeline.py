"""A folder of sentence-transformers around a text encoder: its modules, pooling, prompts, and the longest text.

Both layouts are read: that of sentence-transformers up to 5.6, and the one since. What would make another network of
it, or other ids of a text, is refused by name; for what cannot, a table has the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..validation.errors import InputError
from .documents import JSON, Document, Harmless, Only, Settled, shown
from .family import Source, TextRules
from .tokenizer import SETTINGS, lowercases

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
ENCODERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TRANSFORMERS = tuple(f"sentence_{name}_config.json" for name in ENCODERS)
"""Names of the Transformer module's configuration, in the order in which upstream looks for one."""

TRANSFORMER = TRANSFORMERS[0]
SENTENCES = "config_sentence_transformers.json"

_OLD, _BASE, _NEW = (
    "sentence_transformers.models.",
    "sentence_transformers.base.modules.",
    "sentence_transformers.sentence_transformer.modules.",
)
TYPES = {
    "Transformer": (f"{_OLD}Transformer", f"{_BASE}transformer.Transformer"),
    "Pooling": (f"{_OLD}Pooling", f"{_NEW}pooling.Pooling"),
    "Normalize": (f"{_OLD}Normalize", f"{_NEW}normalize.Normalize", f"{_BASE}normalize.Normalize"),
}
"""The modules that are computed here, in their order, by the names that sentence-transformers 0.x to 6.2 writes."""

SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older layout's switches, and what the newer one calls each."""

POOLINGS = ("cls", "mean")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
STATES = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}

TRANSFORMER_HARMLESS: Harmless = {
    "unpad_inputs": "leaves the padding out of the computation; the embeddings are the same",
    "module_output_name": Only(("token_embeddings",), "the name that Pooling reads"),
    "transformer_task": Only(("feature-extraction",), "the encoder's last states, as here"),
    "modality_config": Only((STATES,), "the encoder's last states, as here"),
    **dict.fromkeys(("processing_kwargs", "model_args", "tokenizer_args", "config_args"), Only(({}, None), "empty")),
    **dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"), Only(({}, None), "empty")),
    **dict.fromkeys(("query_length", "document_length", "query_expansion"), Only((None,), "not in use")),
}
"""sentence_bert_config.json, by Transformer.config_keys of sentence-transformers 6.2."""

SENTENCES_HARMLESS: Harmless = {
    "__version__": "the programs that wrote it",
    "model_type": Only(("SentenceTransformer",), "dense embeddings, as here"),
    "truncate_dim": Only((None,), "the embeddings keep their width"),
}
"""config_sentence_transformers.json, by SentenceTransformer._get_model_config of sentence-transformers 6.2."""

MODULE_HARMLESS: Harmless = {"kwargs": Only(([],), "the module takes no argument of encode()")}

FEATURE = "sentence_embedding"


@dataclass(frozen=True)
class Pipeline:
    """What modules.json states.

    Args:
        place: where the pooling's configuration is, or would be.
        normalize: whether Normalize follows; None where no modules.json says.
    """

    place: str
    normalize: bool | None


def pipeline(source: Source) -> Pipeline:
    """Read modules.json: Transformer, Pooling and perhaps Normalize, in this order, at the places that it states.

    Raises:
        InputError: another module, or another order; named with its place.
    """
    document = source.document(MODULES)
    if document is None:
        return Pipeline(POOLING, None)
    places: list[str] = []
    names: list[str] = []
    for item in document.items():
        for field, kind in (("idx", int), ("name", str)):
            item.take(field, kind, None)
        place, written = item.take("path", str), item.take("type", str)
        item.accept(MODULE_HARMLESS)
        names.append(next((name for name, types in TYPES.items() if written in types), written))
        places.append(place)
    expected = list(TYPES)
    if names not in (expected[:2], expected):
        at = next((i for i, name in enumerate(names) if i >= len(expected) or name != expected[i]), len(names))
        what = f"module {at} is {shown(names[at])} in {shown(places[at])}" if at < len(names) else "it ends too early"
        raise InputError(
            f"{document.origin}: {what}; what is computed here is {expected[0]}, {expected[1]}, and then perhaps "
            f"{expected[2]}, in this order: the embeddings would be others"
        )
    for place in places[2:]:
        _normalize(source, f"{place}/config.json")
    return Pipeline(f"{places[1]}/config.json", len(names) == len(expected))


def _normalize(source: Source, place: str) -> None:
    if document := source.document(place):
        for field in ("module_input_name", "module_output_name"):
            document.take(field, str, FEATURE, choices=(FEATURE,))


def settle_pooling(settled: Settled, source: Source, width: int) -> None:
    """Settle `pooling` and `normalize`: as the folder or the command line says, never by guess.

    Args:
        settled: what is settled so far.
        source: with the documents.
        width: of the network's states.

    Raises:
        InputError: nothing states them, or they are not computed here.
    """
    found = pipeline(source)
    document = source.document(found.place)
    if document is None and found.normalize is not None and settled.part + "pooling" not in settled.given:
        origin, place = source.documents[MODULES].origin, found.place.removesuffix("/config.json")
        raise InputError(f"{origin}: the pooling is in {place}, but {found.place} is missing")
    missing = []
    if document is None and settled.part + "pooling" not in settled.given:
        missing.append(f"pooling ({found.place}; pass --pooling cls or --pooling mean)")
    if found.normalize is None and settled.part + "normalize" not in settled.given:
        missing.append(f"normalize ({MODULES}; pass --normalize or --no-normalize)")
    if missing:
        raise InputError(
            f"no file beside the checkpoint states {' nor '.join(missing)}; "
            "of such a folder sentence-transformers makes a mean, not normalised: --pooling mean --no-normalize"
        )
    stated = _pooling(document, source, width, asked=settled.part + "pooling" in settled.given) if document else None
    settled.choose("pooling", str, otherwise=stated, choices=POOLINGS)
    otherwise = None if found.normalize is None else (found.normalize, MODULES)
    settled.choose("normalize", bool, otherwise=otherwise)


def _pooling(document: Document, source: Source, width: int, *, asked: bool) -> tuple[str, str] | None:
    """Read the pooling and where it is said; None when the command line says something in its place."""
    for field in ("word_embedding_dimension", "embedding_dimension"):
        stated = document.take(field, int, width)
        if stated != width:
            raise InputError(f"{document.origin}: {field} is {stated}, but the checkpoint's tensors say {width}")
    switched = {mode: field for field, mode in SWITCHES.items() if document.take(field, bool, default=False)}
    kind = list if "pooling_mode" in document and isinstance(document.fields["pooling_mode"], list) else str
    mode = document.take("pooling_mode", kind, [*switched])
    modes = [mode] if isinstance(mode, str) else mode
    if not document.take("include_prompt", bool, default=True) and any(_prompts(source).values()):
        raise InputError(
            f"{document.origin}: include_prompt is false, and {SENTENCES} has prompts: leaving their tokens out of "
            "the pooling is not computed here; remove the prompts if none is used"
        )
    if asked:
        return None
    if len(modes) != 1 or modes[0] not in POOLINGS:
        shown_modes = " + ".join(map(str, modes)) or "none"
        raise InputError(f"{document.origin}: the pooling is {shown_modes}; what is computed here is cls or mean")
    field = "pooling_mode" if "pooling_mode" in document else switched[modes[0]]
    return modes[0], f"{document.name}: {field}"


def settle_texts(settled: Settled, source: Source, positions: int, *, left_padding: bool) -> None:
    """Settle what is done to raw texts: `max_seq_length`, `truncation_side`, `prompts`, `default_prompt`, `similarity`.

    Args:
        settled: what is settled so far.
        source: with the documents.
        positions: the longest text that the network has positions for.
        left_padding: whether padding before the text leaves the network's result as it is.

    Raises:
        InputError: what is stated is not done here.
    """
    transformer = next((found for name in TRANSFORMERS if (found := source.document(name))), None)
    tokenizer = source.document(SETTINGS)
    # as sentence-transformers: its own limit is passed to the tokenizer in place of the tokenizer's
    limit = settled.choose(
        "max_seq_length",
        int,
        *[(d, f) for d, f in ((transformer, "max_seq_length"), (tokenizer, "model_max_length")) if _states(d, f)],
        otherwise=(positions, "as many as there are positions"),
        low=2,
    )
    if limit > positions:
        settled.origins["max_seq_length"] = "as many as there are positions"
    settled.values["max_seq_length"] = min(limit, positions)
    if tokenizer:
        tokenizer.note(
            "model_max_length", tokenizer.fates.get("model_max_length", "another file's limit comes before it")
        )
        tokenizer.take("padding_side", str, "right", choices=("right", "left") if left_padding else ("right",))
    settled.choose(
        "truncation_side",
        str,
        (tokenizer, "truncation_side"),
        otherwise=("right", "default of transformers' tokenizers"),
        choices=("right", "left"),
    )
    if transformer:
        if transformer.take("do_lower_case", bool, default=False) and lowercases(source) is False:
            raise InputError(
                f"{transformer.origin}: do_lower_case is true, but the tokenizer keeps capitals: lower-casing before "
                "it is not done here; put a normalizer Lowercase into tokenizer.json and say do_lower_case: true in "
                f"{SETTINGS}"
            )
        transformer.accept(TRANSFORMER_HARMLESS)
    _settle_sentences(settled, source)


def _states(document: Document | None, field: str) -> bool:
    """Say whether a document has a field and that is not null: null is what silence says."""
    if document is None or field not in document:
        return False
    if document.fields[field] is None:
        document.note(field, "null: not stated")
        return False
    return True


def _settle_sentences(settled: Settled, source: Source) -> None:
    """Settle what config_sentence_transformers.json states."""
    document = source.document(SENTENCES)
    prompts = {name: text for name, text in _prompts(source).items() if text}
    name = document.take("default_prompt_name", str, None) if document else None
    if name is not None and name not in _prompts(source):
        known = ", ".join(map(shown, _prompts(source))) or "there are none"
        place = document.origin if document else SENTENCES
        raise InputError(f"{place}: default_prompt_name is {shown(name)}, which is none of its prompts ({known})")
    place = SENTENCES if document else f"no {SENTENCES}"
    settled.put("prompts", tuple(sorted(prompts.items())), place)
    settled.put("default_prompt", name if name in prompts else "", place)
    if _states(document, "similarity_fn_name"):
        settled.choose("similarity", str, (document, "similarity_fn_name"), choices=SIMILARITIES)
    else:
        settled.choose(
            "similarity", str, otherwise=("cosine", "default of sentence-transformers"), choices=SIMILARITIES
        )
    if document:
        document.accept(SENTENCES_HARMLESS)


def _prompts(source: Source) -> dict[str, str]:
    """Read the prompts by name; null is an empty one."""
    document = source.document(SENTENCES)
    if document is None:
        return {}
    part = document.part("prompts", listed=False)
    return {name: part.take(name, str, None) or "" for name in part.fields}


def text_rules(config: Any) -> TextRules:
    """Say what is done to raw texts, given a configuration with the fields that `settle_texts` settles."""
    return TextRules(config.text_limit, config.truncation_side, dict(config.prompts).get(config.default_prompt, ""))


def documents(config: Any) -> Mapping[str, JSON]:
    """Give the documents of a folder of sentence-transformers, in the layout that every version reads."""
    modules = [*TYPES][: 2 + config.normalize]
    return {
        MODULES: [
            {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"{_OLD}{name}"}
            for i, name in enumerate(modules)
        ],
        POOLING: {
            "word_embedding_dimension": config.hidden_size,
            **{switch: mode == config.pooling for switch, mode in [*SWITCHES.items()][:4]},
        },
        TRANSFORMER: {"max_seq_length": config.text_limit, "do_lower_case": False},
        SENTENCES: {
            "prompts": dict(config.prompts),
            "default_prompt_name": config.default_prompt or None,
            "similarity_fn_name": config.similarity,
        },
    }
