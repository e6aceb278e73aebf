"""A folder of sentence-transformers around a text encoder: its modules, pooling, prompts, and the longest text.

Both layouts are read: that of sentence-transformers up to 5.6, and the one since. What would make another network of
it, or other ids of a text, is refused by name; for what cannot, a table has the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..validation.domains import PromptTokens
from ..validation.entry_point import TensorSpec
from ..validation.errors import InputError
from .documents import JSON, Document, Expected, Given, Harmless, Only, Settled, shown
from .family import Source, TextRules
from .steps import ACTIVATIONS, MODES, Dense, LayerNorm, Normalize, Pooling, Step, Steps, Truncate, pooling
from .steps import width as width_of
from .tokenizer import SETTINGS

MODULES = "modules.json"
OPTIONS = ("pooling", "normalize")
"""What the command line may say of a pipeline."""

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
TRANSFORMER_TYPES = (f"{_OLD}Transformer", f"{_BASE}transformer.Transformer")
TYPES = {
    "Pooling": (f"{_OLD}Pooling", f"{_NEW}pooling.Pooling"),
    "Dense": (f"{_OLD}Dense", f"{_BASE}dense.Dense", f"{_NEW}dense.Dense"),
    "LayerNorm": (f"{_OLD}LayerNorm", f"{_NEW}layer_norm.LayerNorm"),
    "Normalize": (f"{_OLD}Normalize", f"{_NEW}normalize.Normalize", f"{_BASE}normalize.Normalize"),
    "Dropout": (f"{_OLD}Dropout", f"{_NEW}dropout.Dropout"),
}
"""The modules after the Transformer that are computed here, by the names that sentence-transformers writes to 6.2."""

SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older layout's switches, and what the newer one calls each."""

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
}
"""config_sentence_transformers.json, by SentenceTransformer._get_model_config of sentence-transformers 6.2."""

MODULE_HARMLESS: Harmless = {"kwargs": Only(([],), "the module takes no argument of encode()")}

DENSE_HARMLESS: Harmless = {
    "use_residual": Only((False,), "nothing is added"),
    "init_weight": Only((None,), "the tensors are there"),
    "init_bias": Only((None,), "the tensors are there"),
}

VECTOR, STATE = "sentence_embedding", "token_embeddings"
"""What modules call the vector of a text, and the states of its tokens."""

ADVICE = f"--pooling with {', '.join(MODES)}, or several joined by +"


def settle_pipeline(settled: Settled, source: Source, width: int) -> None:
    """Settle `pipeline`: what the folder or the command line says, never by guess.

    Args:
        settled: what is settled so far.
        source: with the documents.
        width: of the network's states.

    Raises:
        InputError: nothing states it, it contradicts itself, or it is not computed here; named with its place.
    """
    given = {field: settled.given.get(settled.part + field) for field in OPTIONS}
    modules = _modules(source)
    origins: list[str] = []
    steps: list[Step] = []
    if modules is None:
        document = source.document(POOLING)
        missing = []
        if document is None and not given["pooling"]:
            missing.append(f"pooling ({POOLING}; pass {ADVICE})")
        if not given["normalize"]:
            missing.append(f"normalize ({MODULES}; pass --normalize or --no-normalize)")
        if missing:
            raise InputError(
                f"no file beside the checkpoint states {' nor '.join(missing)}; "
                "of such a folder sentence-transformers makes a mean, not normalised: --pooling mean --no-normalize"
            )
        steps.append(_pooling(document, width, given["pooling"], origins))
    else:
        origins.append(MODULES)
        for module in modules:
            steps += _step(module, source, width_of(tuple(steps), width), given["pooling"], origins, steps)
        if not any(isinstance(step, Pooling) for step in steps):
            raise InputError(f"{source.documents[MODULES].origin}: it ends too early, without a Pooling")
    if given["normalize"]:
        wanted = Expected(bool).checked(given["normalize"].value, f"{given['normalize'].option}: normalize")
        steps = [*(steps[:-1] if isinstance(steps[-1], Normalize) else steps), *([Normalize()] if wanted else [])]
        origins.append(given["normalize"].option)
    steps += _truncation(source, width_of(tuple(steps), width), origins)
    settled.values["pipeline"], settled.origins["pipeline"] = tuple(steps), ", ".join(dict.fromkeys(origins))


@dataclass(frozen=True)
class Module:
    """A module of modules.json after the Transformer.

    Args:
        kind: one of `TYPES`.
        name: what stands before its tensors' names in the state dict of the whole model.
        path: its folder.
        origin: what messages call it.
    """

    kind: str
    name: str
    path: str
    origin: str

    def document(self, source: Source) -> Document | None:
        """Give its configuration."""
        return source.document(f"{self.path}/config.json")

    def required(self, source: Source) -> Document:
        """Give its configuration, which must be there.

        Raises:
            InputError: it is not.
        """
        document = self.document(source)
        if document is None:
            kind = self.kind.lower() if self.kind == "Pooling" else self.kind
            raise InputError(f"{self.origin}: the {kind} is in {self.path}, but {self.path}/config.json is missing")
        return document

    def tensors(self, source: Source, first: str) -> str:
        """Say what stands before the names of its tensors, of which `first` is one.

        Raises:
            InputError: they are nowhere.
        """
        for prefix in (f"{self.name}.", f"{self.path}/"):
            if prefix + first in source.shapes:
                return prefix
        raise InputError(
            f"{self.origin}: the {self.kind} is in {self.path}, but its weights are missing: there is no {first} "
            f"in {self.path}/model.safetensors or {self.path}/pytorch_model.bin, nor a {self.name}.{first} in the "
            "checkpoint"
        )


def _modules(source: Source) -> list[Module] | None:
    """Read modules.json: a Transformer, then what is done with its states, in this order, at the places it states.

    Raises:
        InputError: a module that is not computed here, named with its place; or no Transformer at first.
    """
    document = source.document(MODULES)
    if document is None:
        return None
    found: list[Module] = []
    for at, item in enumerate(document.items()):
        item.take("idx", int, None)
        name, place, written = item.take("name", str, str(at)), item.take("path", str), item.take("type", str)
        item.accept(MODULE_HARMLESS)
        types = TYPES if at else {"Transformer": TRANSFORMER_TYPES}
        kind = next((kind for kind, types in types.items() if written in types), "")
        pooled = any(module.kind == "Pooling" for module in found)
        late = kind == "Pooling" and pooled
        early = kind not in ("Pooling", "Dense", "Normalize", "Transformer") and not pooled
        if not kind or late or early:
            wanted = (
                "a Transformer, then a Pooling, before which Dense and Normalize may stand, and after which any of "
                "Dense, LayerNorm, Normalize and Dropout"
            )
            told = shown(kind or next((k for k, t in TYPES.items() if written in t), written))
            if early and kind:
                raise InputError(
                    f"{document.origin}: module {at} is {told} in {shown(place)}, before the Pooling: "
                    "sentence-transformers itself gives it no vector there, and fails; put it after the Pooling"
                )
            raise InputError(
                f"{document.origin}: module {at} is {told} in {shown(place)}; what is computed here is {wanted}: "
                "the embeddings would be others"
            )
        if at:
            found.append(Module(kind, name, place, document.origin))
    if not found:
        raise InputError(f"{document.origin}: it ends too early, without a Pooling")
    return found


def _step(
    module: Module, source: Source, width: int, asked: Given | None, origins: list[str], before: Sequence[Step]
) -> list[Step]:
    """Read a module after the Transformer."""
    if module.kind == "Pooling":
        stated = module.document(source) if asked else module.required(source)
        return [_pooling(stated, width, asked, origins)]
    feature = VECTOR if any(isinstance(step, Pooling) for step in before) else STATE
    if module.kind == "Dense":
        return [_dense(module, source, width, feature)]
    if module.kind == "LayerNorm":
        _width(module.required(source), ("dimension",), width)
        return [LayerNorm(module.tensors(source, "norm.weight"), width)]
    document = module.document(source) if feature == VECTOR else module.required(source)
    if document and module.kind == "Dropout":
        document.take("dropout", float, 0.0, low=0, high=1)
    elif document:
        _features(document, feature)
    return [Normalize()] if module.kind == "Normalize" else []


def _features(document: Document, feature: str) -> None:
    """See that a module takes and gives what the one before it gave."""
    document.take("module_input_name", str, VECTOR, choices=(feature,))
    if "module_input_name" not in document and feature != VECTOR:
        raise InputError(
            f"{document.origin}: module_input_name is not stated, which means {VECTOR}; expected {feature}"
        )
    document.take("module_output_name", str, None)
    given = document.fields.get("module_output_name")
    if given not in (None, feature):
        raise InputError(f"{document.origin}: module_output_name is {shown(given)}, expected {shown(feature)}")


def _dense(module: Module, source: Source, width: int, feature: str) -> Dense:
    document = module.required(source)
    _features(document, feature)
    _width(document, ("in_features",), width)
    outputs = document.take("out_features", int, low=1)
    bias = document.take("bias", bool, default=True)
    written = document.take("activation_function", str, "torch.nn.modules.activation.Tanh")
    package, _, activation = written.rpartition(".")
    if package.partition(".")[::2] != ("torch", "nn") and not package.startswith("torch.nn.modules."):
        activation = ""
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{document.origin}: activation_function is {shown(written)}; what is computed here are classes of "
            f"torch.nn with their defaults: {', '.join(ACTIVATIONS)}"
        )
    residual = document.take("use_residual", bool, default=False)
    document.accept(DENSE_HARMLESS)
    tensors = module.tensors(source, "linear.weight")
    step = Dense(tensors, width, outputs, bias, activation, residual)
    for name, shape in step.shapes.items():
        if source.shapes.get(tensors + name) != shape:
            raise InputError(
                f"{document.origin}: in_features {width}, out_features {outputs} and bias {shown(bias)} ask for a "
                f"tensor {tensors}{name} of shape {shape}; there is {source.shapes.get(tensors + name, 'none')}"
            )
    return step


def _width(document: Document, fields: Sequence[str], width: int) -> None:
    """See that a document says the width of what it takes."""
    for field in fields:
        stated = document.take(field, int, width)
        if stated != width:
            told = "the checkpoint's tensors say" if document.name == POOLING else "what it takes has"
            raise InputError(f"{document.origin}: {field} is {stated}, but {told} {width}")


def _pooling(document: Document | None, width: int, asked: Given | None, origins: list[str]) -> Pooling:
    """Read a pooling, of which the command line may say the modes; add where they are said."""
    modes: JSON = []
    include, place, origin = True, "", ""
    if document:
        _width(document, ("word_embedding_dimension", "embedding_dimension"), width)
        stated = [field for field in SWITCHES if field in document]
        switched = {SWITCHES[field]: field for field in stated if document.take(field, bool)}
        kind = list if isinstance(document.fields.get("pooling_mode"), list) else str
        mode = document.take("pooling_mode", kind, [*switched] if stated else ["mean"])
        modes = [mode] if isinstance(mode, str) else mode
        include = document.take("include_prompt", bool, default=True)
        field = " + ".join(switched.values()) or "default of sentence-transformers"
        place = f"{document.origin}: the pooling"
        origin = f"{document.name}: {'pooling_mode' if 'pooling_mode' in document else field}"
    if asked:
        place, origin = f"{asked.option}: pooling", asked.option
        modes = [part.strip() for part in Expected(str).checked(asked.value, place).split("+")]
    if not modes or any(type(mode) is not str or mode not in MODES for mode in modes):
        said = " + ".join(map(str, modes)) or "none"
        raise InputError(
            f"{place} is {said}; what is computed here are {', '.join(MODES)}, one or several side by side"
        )
    origins.append(origin)
    return Pooling(tuple(modes), include)


def _truncation(source: Source, width: int, origins: list[str]) -> list[Step]:
    """Read how many numbers of an embedding encode() gives."""
    document = source.document(SENTENCES)
    dim = document.take("truncate_dim", int, None, low=1) if document else None
    if dim is None or dim >= width:
        return []
    origins.append(f"{SENTENCES}: truncate_dim")
    return [Truncate(dim)]


def settle_texts(settled: Settled, source: Source, positions: int, *, left_padding: bool) -> None:
    """Settle what is done to raw texts.

    That is `max_seq_length`, `truncation_side`, `do_lower_case`, `prompts`, `default_prompt` and `similarity`.

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
    if limit > positions and (asked := settled.given.get(settled.part + "max_seq_length")):
        raise InputError(
            f"{asked.option}: max_seq_length is {limit}, but the network has positions for {positions} tokens"
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
        transformer.accept(TRANSFORMER_HARMLESS)
    settled.choose(
        "do_lower_case",
        bool,
        (transformer, "do_lower_case"),
        otherwise=(False, "default of sentence-transformers"),
    )
    settle_sentences(settled, source)


def _states(document: Document | None, field: str) -> bool:
    """Say whether a document has a field and that is not null: null is what silence says."""
    if document is None or field not in document:
        return False
    if document.fields[field] is None:
        document.note(field, "null: not stated")
        return False
    return True


def settle_sentences(settled: Settled, source: Source) -> None:
    """Settle what config_sentence_transformers.json states: `prompts`, `default_prompt` and `similarity`.

    Raises:
        InputError: what is stated is not done here.
    """
    document = source.document(SENTENCES)
    prompts = _prompts(source)
    name = document.take("default_prompt_name", str, None) if document else None
    if name is not None and name not in prompts:
        known = ", ".join(map(shown, prompts)) or "there are none"
        place = document.origin if document else SENTENCES
        raise InputError(f"{place}: default_prompt_name is {shown(name)}, which is none of its prompts ({known})")
    place = SENTENCES if document else f"no {SENTENCES}"
    settled.put("prompts", tuple(sorted(prompts.items())), place)
    settled.put("default_prompt", name or "", place)
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


def as_given(documents: Mapping[str, JSON], given: Mapping[str, JSON]) -> dict[str, JSON]:
    """Give those documents in which the command line's words on raw texts stand in the place of the folder's.

    Args:
        documents: of the folder, by place.
        given: field of the configuration -> what the command line says.
    """
    transformers = [name for name in TRANSFORMERS if name in documents][:1]
    places: dict[str, list[tuple[str, str]]] = {
        # as sentence-transformers: without a limit of its own, the tokenizer's is taken
        "max_seq_length": [*((name, "max_seq_length") for name in transformers), (SETTINGS, "model_max_length")],
        "truncation_side": [(SETTINGS, "truncation_side")],
        "do_lower_case": [((transformers or [TRANSFORMER])[0], "do_lower_case")],
    }
    changed: dict[str, JSON] = {}
    for field in places.keys() & given.keys():
        for place, name in places[field]:
            changed[place] = {**documents.get(place, {}), **changed.get(place, {}), name: given[field]}
    return changed


def prompt_input(pipeline: Steps) -> tuple[TensorSpec, ...]:
    """Describe what an entry point takes of ids and mask besides, where the pooling leaves the prompt out: (batch,)."""
    if pooling(pipeline).include_prompt:
        return ()
    return (TensorSpec("prompt_tokens", "int32", ("batch",), PromptTokens("input_ids")),)


def text_rules(config: Any) -> TextRules:
    """Say what is done to raw texts, given a configuration with the fields that `settle_texts` settles."""
    prompts = dict(config.prompts)
    return TextRules(
        config.text_limit, config.truncation_side, prompts, config.default_prompt, lowercase=config.do_lower_case
    )


def documents(config: Any, width: int = 0) -> Mapping[str, JSON]:
    """Give the documents of a folder of sentence-transformers, in the layout that every version reads.

    `width` of the states, where the configuration does not state it.
    """
    written: dict[str, JSON] = {}
    modules: list[dict[str, JSON]] = [{"idx": 0, "name": "0", "path": "", "type": f"{_OLD}Transformer"}]
    given = width or config.hidden_size
    for i, step in enumerate(config.pipeline):
        if isinstance(step, Truncate):
            continue
        place = module_place(config.pipeline, i)
        kind = type(step).__name__
        modules.append({"idx": i + 1, "name": str(i + 1), "path": place, "type": f"{_OLD}{kind}"})
        feature = {} if _pooled(config.pipeline, i) else {"module_input_name": STATE, "module_output_name": STATE}
        if stated := {**_module_document(step, given), **feature}:
            written[f"{place}/config.json"] = stated
        given = width_of((step,), given)
    last = config.pipeline[-1]
    cut = {"truncate_dim": last.width} if isinstance(last, Truncate) else {}
    return {
        MODULES: modules,
        **written,
        TRANSFORMER: {"max_seq_length": config.text_limit, "do_lower_case": config.do_lower_case},
        SENTENCES: {
            "prompts": dict(config.prompts),
            "default_prompt_name": config.default_prompt or None,
            "similarity_fn_name": config.similarity,
            **cut,
        },
    }


def module_place(steps: Steps, i: int) -> str:
    """Give the folder of a step's module as `documents` places it."""
    return f"{i + 1}_{type(steps[i]).__name__}"


def _pooled(steps: Steps, i: int) -> bool:
    return any(isinstance(step, Pooling) for step in steps[: i + 1])


def _module_document(step: Step, width: int) -> dict[str, JSON]:
    if isinstance(step, Pooling):
        in_order = [mode for mode in SWITCHES.values() if mode in step.modes] == list(step.modes)
        old = [*SWITCHES.items()][:4]  # which every version reads
        switches: dict[str, JSON] = {switch: mode in step.modes for switch, mode in old}
        switches |= {switch: True for switch, mode in SWITCHES.items() if mode in step.modes}
        modes = switches if in_order else {"pooling_mode": list(step.modes)}  # another order has only newer words
        return {
            "word_embedding_dimension": width,
            **modes,
            **({} if step.include_prompt else {"include_prompt": False}),
        }
    if isinstance(step, Dense):
        package = "linear" if step.activation == "Identity" else "activation"
        return {
            "in_features": step.inputs,
            "out_features": step.outputs,
            "bias": step.bias,
            "activation_function": f"torch.nn.modules.{package}.{step.activation}",
            **({"use_residual": True} if step.residual else {}),
        }
    return {"dimension": step.width} if isinstance(step, LayerNorm) else {}
