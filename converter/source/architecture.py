"""A folder whose config.json names a class of transformers that no family knows: read, loaded, traced."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...model import pipeline
from ...model.classifier.config import settle_labels, settle_scores, token_types
from ...model.documents import USED, Configured, Document, Settled
from ...model.family import Source, Tokens
from ...model.pictures import HALF, PLACE, WHOLE, Pictures, settle_pictures
from ...model.steps import Steps, pooling, unit
from ...model.tokenizer import FAST, SETTINGS, SPECIAL, settle_tokenizer
from ...model.traced.config import DECODE, ENCODE, PAST, PREFILL, SCORE, STATES, TransformersConfig
from ...model.traced.graph import Graph, digest
from ...model.traced.wanted import Wanted
from ...validation.domains import AFTER, BEFORE, Cache, Floats, PaddingMask, Pixels, TokenIds, TokenTypes
from ...validation.entry_point import Axis, TensorSpec
from ...validation.errors import EnvironmentFailure, InputError
from ...validation.outputs import Cache as Kept
from ...validation.outputs import Embedding, Logits, Output, Scores, States
from ..checkpoint import Checkpoint
from .module import checked, read_tensors

if TYPE_CHECKING:
    from ...model.reference import Original
    from ...model.traced.architecture import Architecture

CONFIG = "config.json"

LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
"""Fields of configurations that say how many places a network has."""

SCORED = "ForSequenceClassification"
"""How classes end that classify texts, or pairs of them."""

UNLIMITED = 1 << 20
"""Tokens of a text, where nothing in the network limits it."""

SHORTEST_SOUND = 400
"""Samples of a waveform's one frame: the window of the encoders of sound."""

SUGGESTED = re.compile(r"(\w+) = Dim\('\w+',.*?max=(\d+)\)")
TRIES = 4


def trace(source: Source, checkpoint: Checkpoint, folder: Path, tokenizer: Path) -> tuple[str, Configured]:
    """Load the class, trace it; give network.json and what the manifest says.

    Args:
        source: documents, tokens and what the command line says.
        checkpoint: opened.
        folder: the checkpoint's.
        tokenizer: the tokenizer's folder.

    Raises:
        InputError: there is no config.json, transformers cannot load it, or torch cannot trace it.
    """
    document = source.document(CONFIG)
    if document is None:
        raise InputError(f"--transformers: no {CONFIG} lies beside the checkpoint; pass it with --config FILE")
    try:
        from ...model.traced import architecture, capture
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            f"--transformers needs PyTorch and transformers ({error.name}): pip install 'bgevis-convert[upstream]'"
        ) from error
    for name in document.fields:
        document.note(name, USED)  # by upstream's own class
    original = _original(source, checkpoint, folder, tokenizer)
    settled = source.settled()
    config = architecture.upstream.configuration(original.documents[CONFIG])
    width = getattr(config.get_text_config(), "hidden_size", 0)
    asked = any(option in source.given for option in pipeline.OPTIONS)
    scored = not asked and any(str(name).endswith(SCORED) for name in document.fields.get("architectures") or [])
    pooled = asked or (pipeline.MODULES in source.documents and not scored)
    if pooled:
        pipeline.settle_pipeline(settled, source, width)
        _refuse_numbered(settled.values["pipeline"], source)
    built = architecture.build(original, settled.values.get("pipeline", ()))
    whole = built.whole
    from ...model.reference import Reference

    tensors = Reference("", whole, {}, original.state).tensors()
    missing = [path for path, _ in whole.named_parameters() if path not in tensors]
    if missing:
        made = architecture.upstream.remade(built.network)
        why = (
            f": transformers makes parameters of others when it loads them ({', '.join(made)}), which no ledger of a "
            "traced network follows; save what it has loaded by save_pretrained(FOLDER, save_original_format=False), "
            "and convert that"
        )
        raise InputError(
            f"the checkpoint does not fill {built.name}{why if made else ''}: {len(missing)} parameter(s) without a "
            f"tensor: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    architecture.attend_in_one(built.network)
    whole.traced = True
    _settle_pictures(settled, source, built)
    wanted = _wanted(built, source, tokenizer, settled)
    graph = _traced(capture, whole, wanted, tensors, built, original)
    text = checked(graph)
    settled.put("architecture", type(built.network).__name__, CONFIG)
    settled.put("network", digest(text), "the traced network, network.json")
    _settle_texts(settled, source, graph, pooled)
    if scored and built.network.main_input_name == "input_ids":
        settle_labels(settled, source, built.network.config.num_labels, f"{type(built.network).__name__}, loaded")
        longest = graph.entry_points[0].axes["tokens"].high
        settle_scores(settled, source, longest or UNLIMITED, left_padding=True)
    fields = {field.name: field.default for field in dataclasses.fields(TransformersConfig)}
    for name in fields.keys() - settled.values.keys():
        settled.put(name, fields[name], "nothing is pooled")
    return text, Configured(TransformersConfig(**settled.values), settled.origins)


def _refuse_numbered(steps: Steps, source: Source) -> None:
    """Refuse what numbers tokens by their places in the text and leaves those of a prompt out: no mask says that."""
    if pipeline.prompt_input(steps) and "weightedmean" in pooling(steps).modes:
        place = source.documents[pipeline.MODULES].origin if pipeline.MODULES in source.documents else "--pooling"
        raise InputError(
            f"{place}: weightedmean without the prompt's tokens is not traced; say include_prompt: true, or convert a "
            "family's checkpoint without --transformers"
        )


def _original(source: Source, checkpoint: Checkpoint, folder: Path, tokenizer: Path) -> "Original":
    from ...model.reference import Original

    documents = {place: document.content for place, document in source.documents.items()}
    if set(pipeline.OPTIONS) & source.given.keys():
        documents.pop(pipeline.MODULES, None)
    return Original(read_tensors(checkpoint), documents, folder, tokenizer)


def _settle_pictures(settled: Settled, source: Source, built: "Architecture") -> None:
    """Read how pictures are prepared, where a document says it: the network takes the size that they come out in."""
    if not built.sees or not any(source.documents.get(place) for place in (PLACE, WHOLE)):
        return
    own = source.settled("pictures.")
    size = settle_pictures(own, source, None, "")
    settled.put("image_size", size, f"{PLACE}: the size that pictures come out in")
    settled.values["pictures"] = Pictures(**own.values)
    settled.origins |= {f"pictures.{name}": origin for name, origin in own.origins.items()}


def _wanted(built: "Architecture", source: Source, tokenizer: Path, settled: Settled) -> list[Wanted]:
    """State the entry points: by what the class takes first."""
    steps = settled.values.get("pipeline", ())
    main = built.network.main_input_name
    outputs: dict[str, Output] = {built.output: Logits() if built.output == "logits" else States()}
    name = "forward"
    if main == "input_ids":
        text = _text(built, source, tokenizer, steps)
        if built.translates:
            return _translation(built, text)
        kept = built.caches()
        return _generation(built, text, kept) if kept else [text]
    if main == "pixel_values":
        return [_pictures(built, settled)]
    if main == "input_values":
        shape: tuple[int | str, ...] = ("batch", "samples")
        axes = {"batch": Axis(), "samples": Axis(SHORTEST_SOUND)}
    else:
        raise InputError(
            f"--transformers: {built.name} takes {main} first, of which this tool does not know what it holds; write a "
            "function that makes the module, and pass --module and --inputs"
        )
    spec = TensorSpec(main, "float32", shape, Floats())
    return [Wanted(name, (spec,), axes, outputs=outputs, call=_call)]


def _pictures(built: "Architecture", settled: Settled) -> Wanted:
    """State what is made of pictures, channels last: states, and what the class pools of them; or scores."""
    vision = getattr(built.network.config, "vision_config", built.network.config)
    size = settled.values.get("image_size") or getattr(vision, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels, patch = getattr(vision, "num_channels", 3), getattr(vision, "patch_size", None)
    seen = settled.values.get("pictures") or Pictures(mean=HALF, std=HALF)
    three = channels == len(seen.mean)
    mean, std = (seen.mean, seen.std) if three else ((0.5,) * channels, (0.5,) * channels)
    pixels = Pixels(mean, std, patch if isinstance(patch, int) else 16)
    spec = TensorSpec("images", "float32", ("batch", height, width, channels), pixels)
    kinds = {"logits": Logits(), "last_hidden_state": States(), "pooler_output": Embedding(unit=False)}
    outputs: dict[str, Output] = {name: kinds[name] for name in built.seen(height, width, channels)}
    name = "classify" if built.output == "logits" else "encode_image" if "pooler_output" in outputs else "image_states"
    return Wanted(name, (spec,), {"batch": Axis()}, "see", outputs)


def _call(module: Any, **inputs: Any) -> Any:
    return module(**inputs)


def _translation(built: "Architecture", text: Wanted) -> list[Wanted]:
    """State the encoder, and the decoder beside the encoder's states: each with the axis of its own tokens.

    The decoder reads all tokens so far, from that which the configuration begins with.
    """
    ids = text.inputs[0]
    width = built.network.config.get_text_config().hidden_size
    mask = TensorSpec("attention_mask", "int32", ids.shape, PaddingMask("input_ids"))
    encode = Wanted(ENCODE, (ids, mask), text.axes, "encode", {"encoder_hidden_states": States("attention_mask")})
    sources = ("batch", "source_tokens")
    start = getattr(built.network.config, "decoder_start_token_id", None)
    begins = start if isinstance(start, int) and 0 <= start < _tokens(ids).vocab_size else None
    decoder = (
        _words(ids, ids.shape, begins),
        TensorSpec("encoder_hidden_states", "float32", (*sources, width), Floats()),
        TensorSpec("encoder_attention_mask", "int32", sources, PaddingMask("encoder_hidden_states")),
    )
    outputs: dict[str, Output] = {built.output: Logits() if built.head else States()}
    axes = {**text.axes, "source_tokens": text.axes["tokens"]}
    return [encode, Wanted(DECODE, decoder, axes, "decode", outputs)]


def _generation(built: "Architecture", text: Wanted, kept: Mapping[str, tuple[int | str, ...]]) -> list[Wanted]:
    """State the first pass over a text, and the step that adds one token to what is kept of those before."""
    ids = text.inputs[0]
    mask = TensorSpec("attention_mask", "int32", ids.shape, PaddingMask("input_ids"))
    outputs: dict[str, Output] = {built.output: Logits("attention_mask"), **dict.fromkeys(kept, Kept())}
    prefill = Wanted(PREFILL, (ids, mask), text.axes, "prefill", outputs)
    longest = text.axes["tokens"].high
    past = Cache(past="past", padded=_tokens(ids).padded)
    step = (
        _words(ids, ("batch", 1)),
        dataclasses.replace(mask, shape=("batch", "past + 1")),
        *(TensorSpec(f"{PAST}{name}", "float32", shape, past) for name, shape in kept.items()),
    )
    axes = {"batch": Axis(), "past": Axis(1, longest - 1 if longest else None)}
    return [prefill, Wanted(DECODE, step, axes, "step", {**outputs, built.output: Logits()})]


def _tokens(ids: TensorSpec) -> TokenIds:
    assert isinstance(ids.domain, TokenIds)
    return ids.domain


def _words(ids: TensorSpec, shape: tuple[int | str, ...], first: int | None = None) -> TensorSpec:
    """Describe ids that do not end a text, and begin it with `first` alone."""
    return dataclasses.replace(ids, shape=shape, domain=dataclasses.replace(_tokens(ids), first=first, last=None))


def _text(built: "Architecture", source: Source, tokenizer: Path, steps: Steps) -> Wanted:
    config = built.network.config.get_text_config()
    first, last = _ends(source.tokens, tokenizer)
    settings = source.documents.get(SETTINGS)
    side = (settings.content if settings else {}).get("padding_side", "right")
    pad = _pad(config, source)
    ids = TokenIds(config.vocab_size, pad, first, last, padded=BEFORE if side == "left" else AFTER)
    shape = ("batch", "tokens")
    inputs = [TensorSpec("input_ids", "int32", shape, ids)]
    masked = built.takes("attention_mask")
    if masked:
        inputs.append(TensorSpec("attention_mask", "int32", shape, PaddingMask("input_ids")))
    if steps:
        inputs += pipeline.prompt_input(steps)
    scored = built.output == "logits" and type(built.network).__name__.endswith(SCORED)
    types = getattr(config, "type_vocab_size", 0)
    if scored and built.takes("token_type_ids") and types > 1 and token_types(source)[0]:
        inputs.append(TensorSpec("token_type_ids", "int32", shape, TokenTypes(types)))
    limits = [n for field in LIMITS if isinstance(n := getattr(config, field, None), int) and n > 0]
    axes = {"batch": Axis(), "tokens": Axis(1, min(limits, default=None))}
    if steps:
        outputs: dict[str, Output] = {"embeddings": Embedding(unit(steps))}
    else:
        valid = "attention_mask" if masked else ""
        outputs = {built.output: Logits(valid) if built.output == "logits" else States(valid)}
        if scored:
            outputs = {built.output: Scores() if built.network.config.num_labels == 1 else Logits()}
    name = "encode_text" if steps else "classify" if built.output == "logits" else "token_states"
    name = SCORE if scored else name
    return Wanted(name, tuple(inputs), axes, outputs=outputs, call=_call, beside=(STATES,) if steps else ())


def _pad(config: Any, source: Source) -> int:
    """Give the id of padding: the configuration's, else the tokenizer's, else any: it is masked."""
    stated = getattr(config, "pad_token_id", None)
    if isinstance(stated, int) and 0 <= stated < config.vocab_size:
        return stated
    for place in (SETTINGS, SPECIAL):
        document = source.documents.get(place)
        stated = document.fields.get("pad_token") if document else None
        text = stated.get("content") if isinstance(stated, dict) else stated
        if source.tokens and isinstance(text, str) and text in source.tokens.ids:
            return source.tokens.ids[text]
    return 0


def _ends(tokens: Tokens | None, folder: Path) -> tuple[int | None, int | None]:
    """Give the ids that a tokenizer puts before and behind each text."""
    if tokens is None or not tokens.wanted:
        return None, None
    if tokens.name == "vocab.txt":
        return tokens.ids.get("[CLS]"), tokens.ids.get("[SEP]")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            f"the tokenizer in {folder} needs tokenizers: pip install 'bgevis-convert[embed]'"
        ) from error
    try:
        opened = Tokenizer.from_str((folder / tokens.name).read_text(encoding="utf-8"))
        opened.no_truncation()
        opened.no_padding()
        empty, some = opened.encode("").ids, opened.encode("a").ids
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"{folder / tokens.name} is no tokenizer: {error}") from error
    if len(empty) == 2:
        return empty[0], empty[1]
    if len(empty) == 1:
        return (empty[0], None) if some[:1] == empty else (None, empty[0])
    if not empty:
        return None, None
    raise InputError(f"{folder / tokens.name} makes {empty} of the empty text: at most one token before and behind it")


def _traced(
    capture: Any,
    whole: Any,
    wanted: list[Wanted],
    tensors: Mapping[str, str],
    built: "Architecture",
    original: "Original",
) -> Graph:
    """Trace; where the network's own tables are shorter than the configuration says, its texts are."""
    from ...model.traced.bounds import TooLong, TooShort, hold_to_tables
    from ...model.traced.load import computing_in_float32

    module = computing_in_float32(whole)
    for _ in range(TRIES):
        try:
            origin, facts = f"transformers:{type(built.network).__name__}", {CONFIG: original.documents[CONFIG]}
            graph = capture.capture(module, wanted, tensors, origin, facts)
            hold_to_tables(graph)
        except TooLong as error:
            wanted = [_within(each, error.axis, high=error.longest) for each in wanted]
        except TooShort as error:
            wanted = [_within(each, error.axis, low=error.shortest) for each in wanted]
        except InputError as error:
            found = SUGGESTED.search(str(error))
            if found is None or not any(found[1] in each.axes for each in wanted):
                raise
            wanted = [_within(each, found[1], high=int(found[2])) for each in wanted]
        else:
            return dataclasses.replace(graph, **_unread(graph, original))
    raise InputError(f"{built.name}: no length of text is found that fits all of its tables")


def _within(wanted: Wanted, axis: str, low: int = 1, high: int | None = None) -> Wanted:
    """Narrow an axis, if an entry point has it."""
    if axis not in wanted.axes:
        return wanted
    before = wanted.axes[axis]
    low, high = max(low, before.low), high if high is not None else before.high
    if high is not None and high < low:
        raise InputError(f"{wanted.name}: the network's tables leave no place for {axis}")
    return dataclasses.replace(wanted, axes={**wanted.axes, axis: Axis(low, high)})


def _unread(graph: Graph, original: "Original") -> dict[str, Any]:
    """Say what became of the tensors that no parameter of the class is: the same as one that is, or no part of it."""
    known = {p.tensor for p in graph.parameters.values()} | graph.tied.keys() | graph.dropped.keys()
    state = original.state
    tied, dropped = dict(graph.tied), dict(graph.dropped)
    read = {p.tensor: state[p.tensor] for p in graph.parameters.values()}
    for name, tensor in state.items():
        if name in known:
            continue
        same = [n for n, t in read.items() if t.shape == tensor.shape and t.dtype == tensor.dtype and t.equal(tensor)]
        if same:
            tied[name] = same[0]
        else:
            dropped[name] = f"no parameter of {graph.origin.partition(':')[2]}"
    return {"tied": tied, "dropped": dropped}


def _settle_texts(settled: Any, source: Source, graph: Graph, pooled: bool) -> None:
    """Settle what is done to raw texts; of a tokenizer whose class does more than its file says, upstream is judge."""
    entry, *_ = graph.entry_points
    if not entry.input_of(TokenIds):
        return
    settings = source.document(SETTINGS)
    stated = (settings.content if settings else {}).get("tokenizer_class", "PreTrainedTokenizerFast")
    if stated in FAST:
        settle_tokenizer(source, "PreTrainedTokenizerFast")
    else:
        for document in filter(None, (settings, source.document(SPECIAL), source.document("added_tokens.json"))):
            _note(document, f"read by transformers' own {stated}, which judges end to end")
    if pooled:
        most = entry.axes["tokens"].high
        pipeline.settle_texts(settled, source, most or UNLIMITED, left_padding=True)


def _note(document: Document, fate: str) -> None:
    for name in document.fields:
        if name not in ("padding_side", "truncation_side", "model_max_length"):
            document.note(name, fate)
        elif name == "padding_side":
            document.note(name, USED)
        else:
            document.note(name, "what cuts texts, where they are embedded")
