"""metadata.json, which ArrowEngine writes beside its weights, in the place of a config.json where none is there.

It lists the tensors, so that a store that lost some is seen, and states sizes, heads and epsilons, but no activation:
that is asked for. Two shapes are known: of texts, with `model_info`, and of CLIP's and Whisper's encoders (`config`).

Source: github.com/pallasting/ArrowQuant_V2, llm_compression/tools/model_converter.py.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...model.documents import JSON, USED, Document, Given, Harmless, shown
from ...validation.errors import InputError
from ..checkpoint import Checkpoint
from ..checkpoint.arrow import CONTAINER, TYPES
from .documents import CONFIG, Found

METADATA = "metadata.json"
TOKENIZER = "tokenizer"
"""The folder that ArrowEngine has the tokenizer in."""

TEXT, CLIP, WHISPER, DECODER = "bert", "CLIP Vision Transformer", "Whisper Audio Encoder", "causallm"

ACTIVATION = {TEXT: "hidden_act", CLIP: "vision.hidden_act", WHISPER: "activation_function"}
"""model_type -> what is stated nowhere, as the configuration calls it."""

NAMES: Mapping[str, Mapping[str, str]] = {
    TEXT: {
        name: name
        for name in (
            *("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "vocab_size"),
            *("max_position_embeddings", "layer_norm_eps"),
        )
    },
    CLIP: {
        **{
            name: name
            for name in (
                *("image_size", "patch_size", "hidden_size", "num_attention_heads", "intermediate_size"),
                *("layer_norm_eps", "projection_dim"),
            )
        },
        "num_layers": "num_hidden_layers",
    },
    WHISPER: {
        "n_mels": "num_mel_bins",
        "hidden_size": "d_model",
        "num_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "max_positions": "max_source_positions",
    },
}
"""model_type -> field of metadata.json -> the same of transformers' config.json."""

EPSILON = 1e-5
"""Of Whisper's norms, which no field of transformers' changes."""

FLOATS = ("layer_norm_eps",)

HARMLESS: Harmless = {
    **dict.fromkeys(("model_name", "converted_at", "converter_version"), "where it comes from"),
    **dict.fromkeys(("parquet_path", "tokenizer_path"), "where it was written"),
    "conversion_config": "how it was written",
    "architecture": "model_type says it",
}


def with_metadata(found: Found, checkpoint: Checkpoint, given: Mapping[str, Given]) -> Found:
    """Read metadata.json of a store: hold it to the tensors, and make of it the config.json that is not there.

    Raises:
        InputError: it contradicts the tensors or config.json, or says too little.
    """
    document = found.documents.get(METADATA)
    if document is None or not checkpoint.container.startswith(CONTAINER):
        return found
    document.read = True
    _hold_tensors(document, checkpoint)
    document.accept(HARMLESS)
    stated = found.documents.get(CONFIG)
    if stated is None:
        content = config(document, {name: each.value for name, each in given.items()})
        return replace(found, documents={**found.documents, CONFIG: Document(CONFIG, document.origin, content)})
    _hold_config(document, stated)
    return found


def content(place: str, file: Path, found: JSON, given: Mapping[str, JSON]) -> JSON:
    """Give the content of a document that was read from a file: of metadata.json the config.json that is made of it."""
    if place == CONFIG and file.name == METADATA:
        return config(Document(METADATA, str(file), found), given)
    return found


def config(document: Document, given: Mapping[str, JSON]) -> dict[str, JSON]:
    """Make transformers' config.json.

    Args:
        document: metadata.json.
        given: what the command line says, by dotted field.

    Raises:
        InputError: it says too little.
    """
    kind = document.take("model_type", str)
    if kind == DECODER or kind not in NAMES:
        raise InputError(
            f"{document.origin}: model_type is {shown(kind)}, of which ArrowEngine records too little; put the model's "
            f"{CONFIG} beside it, or pass --config FILE"
        )
    made = _made(document, kind)
    activation = ACTIVATION[kind]
    if activation not in given:
        raise InputError(
            f"{document.origin}: ArrowEngine records no {activation}, and no shape shows it; say it with --set "
            f"{activation}=, put the model's {CONFIG} beside it, or pass --config FILE"
        )
    return made | {activation.rpartition(".")[2]: given[activation]}


def _made(document: Document, kind: str) -> dict[str, JSON]:
    """Take the fields that state what the network is, by transformers' names."""
    part = document.part("model_info" if kind == TEXT else "config")
    made: dict[str, JSON] = {}
    for name, theirs in NAMES[kind].items():
        value = part.take(name, float if name in FLOATS else int, None)
        if value is not None:
            made[theirs] = value
    if kind == TEXT:
        made["architectures"] = [part.take("architecture", str)]
        same = {"embedding_dimension": "hidden_size", "max_seq_length": "max_position_embeddings"}
        for name, other in same.items():
            if name in part and part.fields[name] == made.get(other):
                part.note(name, f"the same as {other}")
    elif kind == WHISPER:
        made["model_type"] = "whisper"
        part.take("layer_norm_eps", float, EPSILON, choices=(EPSILON,))
    else:
        made["model_type"] = "clip_vision_model"
    return made


def _hold_config(document: Document, stated: Document) -> None:
    """Hold metadata.json to the config.json beside it.

    Raises:
        InputError: they contradict each other.
    """
    kind = document.take("model_type", str)
    if kind not in NAMES:
        for name in ("model_info", "config"):
            document.note(name, f"{CONFIG} lies beside it")
        return
    fields = stated.fields
    tower = fields.get("vision_config") if kind == CLIP else None
    fields = {**fields, **tower} if isinstance(tower, dict) else fields
    for name, value in _made(document, kind).items():
        if name in fields and name not in ("model_type", "architectures") and fields[name] != value:
            raise InputError(
                f"{document.origin}: {name} is {shown(value)}, but {stated.origin} says {shown(fields[name])}; one of "
                "them is of another network, take it away"
            )


def _hold_tensors(document: Document, checkpoint: Checkpoint) -> None:
    """Hold the list of tensors to those that are there.

    Raises:
        InputError: some are missing, or others than it lists.
    """
    there = {str(t.storage[1]): t for t in checkpoint.tensors.values()}  # type: ignore[index]  # names in the file
    listed = document.take("layer_info", dict, {})
    missing, extra = [n for n in listed if n not in there], [n for n in there if listed and n not in listed]
    for what, names in (("lists", missing), ("does not list", extra)):
        if names:
            raise InputError(
                f"{document.origin} {what} {len(names)} tensors that {checkpoint.files[0]} "
                f"{'has not' if names is missing else 'has'}, such as {shown(names[0])}; the store is not whole, or "
                "the two files are of different stores: copy both again"
            )
    types = {name: code for code, name in TYPES.items()}
    for name, entry in listed.items():
        tensor, described = there[name], Document(METADATA, f"{document.origin}: layer_info: {shown(name)}", entry)
        shape, count = described.take("shape", list), described.take("num_params", int)
        wanted = types[tensor.dtype] if checkpoint.container == CONTAINER else described.take("dtype", str)
        size = math.prod(tensor.shape)
        if (shape, described.take("dtype", str), count) != (list(tensor.shape), wanted, size):
            raise InputError(
                f"{described.origin} is {shown(described.take('dtype', str))} {shown(shape)}, but the tensor is "
                f"{wanted} {list(tensor.shape)}; copy both files again"
            )
        described.finish()
    numbers = sum(math.prod(tensor.shape) for tensor in there.values())
    for field, number in (
        ("total_parameters", numbers),
        ("num_layers", len(there)),
        ("num_weight_tensors", len(there)),
    ):
        if document.take(field, int, number) != number:
            raise InputError(
                f"{document.origin}: {field} is {shown(document.fields[field])}, but {checkpoint.files[0]} has "
                f"{number}; copy both files again"
            )
    document.note("layer_info", USED)


def tokenizer_of(folder: Path) -> Path:
    """Give the folder that a store's tokenizer lies in: the one that ArrowEngine has, where none lies beside it."""
    inner = folder / TOKENIZER
    beside = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    return inner if not beside and (inner / "tokenizer.json").is_file() and (folder / METADATA).is_file() else folder
