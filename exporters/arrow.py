"""ArrowEngine's weight store: a Parquet file with a tensor of the source in each row, under its own name and type.

    arrow/weights.parquet              layer_name, shape, dtype, data, num_params; zstd, ten tensors in a row group
    arrow/metadata.json                the list of tensors, and the sizes by ArrowEngine's names
    arrow/config.json                  transformers' document, for those who read it: ArrowEngine records no activation
    arrow/tokenizer/tokenizer.json     where the network reads texts

What is in no leaf, because a rule dropped it, is not in the store.

Source: github.com/pallasting/ArrowQuant_V2, llm_compression/inference/quantization_schema.py and
llm_compression/tools/model_converter.py.
"""

import functools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from ..validation.errors import InputError
from ..validation.jax_runner import JaxRunner
from .base import Artifact, Description, Exporter, Request

if TYPE_CHECKING:
    import pyarrow

KEY = "arrow"
WEIGHTS, METADATA, CONFIG, TOKENIZER = "weights.parquet", "metadata.json", "config.json", "tokenizer.json"
LEVEL = 3
"""Of zstd."""

GROUP = 10
"""Tensors in a row group."""

MOST = 2**31 - 1
"""Bytes of a cell of the type binary."""

CLOCK = "1970-01-01T00:00:00"
"""In place of when it was written: the same input gives the same bytes."""

TEXTS = ("bert", "xlm-roberta", "roberta", "mpnet")
DECODERS = ("qwen2", "qwen3")

OF_TEXTS = {
    name: name
    for name in (
        *("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "vocab_size"),
        *("max_position_embeddings", "layer_norm_eps"),
    )
}
OF_DECODERS = {"num_key_value_heads": "num_key_value_heads", "rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta"}
OF_CLIP = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "layer_norm_eps": "layer_norm_eps",
    "projection_dim": "projection_dim",
}
OF_WHISPER = {
    "n_mels": "num_mel_bins",
    "hidden_size": "d_model",
    "num_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "layer_norm_eps": "layer_norm_eps",
    "max_positions": "max_source_positions",
}
"""ArrowEngine's name of a field -> the one of transformers' config.json."""


def write(request: Request) -> dict[str, Description]:
    """Write the store, ten tensors in memory at a time.

    Raises:
        InputError: a tensor is larger than a cell can be.
    """
    from pyarrow import parquet

    layers: dict[str, dict[str, Any]] = {}
    schema = _schema()
    with (
        request.weights.forgetting(),
        parquet.ParquetWriter(
            request.out / WEIGHTS,
            schema,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=False,
            write_batch_size=1,
            data_page_size=1,  # a page for each tensor, which is then read alone
            write_statistics=False,
        ) as writer,
    ):
        for rows in _groups(_tensors(request)):
            writer.write_table(_table(rows, schema), row_group_size=GROUP)
            for name, array in rows:
                layers[name] = {"shape": list(array.shape), "dtype": _torch(array), "num_params": array.size}
            request.progress(sum(array.nbytes for _, array in rows))
    tokenizer = request.directory / TOKENIZER
    has_tokenizer = request.directory.name != "" and tokenizer.is_file()
    if has_tokenizer:
        (request.out / "tokenizer").mkdir()
        shutil.copyfile(tokenizer, request.out / "tokenizer" / TOKENIZER)
    config = request.documents.get(CONFIG)
    if config:
        _write_json(request, CONFIG, config)
    family = request.weights.metadata.get("family", "")
    _write_json(request, METADATA, _metadata(family, config or {}, layers, has_tokenizer=has_tokenizer))
    return {name: {"path": KEY} for name in request.network.entry_points}


def _write_json(request: Request, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (request.out / name).write_text(text, encoding="utf-8")


def _schema() -> "pyarrow.Schema":
    import pyarrow

    return pyarrow.schema(
        [
            ("layer_name", pyarrow.string()),
            ("shape", pyarrow.list_(pyarrow.field("element", pyarrow.int32()))),
            ("dtype", pyarrow.string()),
            ("data", pyarrow.binary()),
            ("num_params", pyarrow.int64()),
        ]
    )


def _tensors(request: Request) -> Iterator[tuple[str, np.ndarray]]:
    if request.tensors:
        return request.tensors()
    return ((name, request.weights[name]) for name in request.weights.tensors)


def _groups(tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    group: list[tuple[str, np.ndarray]] = []
    for name, array in tensors:
        if array.nbytes > MOST:
            raise InputError(
                f"tensor {name} has {array.nbytes} bytes, a cell of ArrowEngine's store holds at most {MOST}; choose "
                "another format"
            )
        group.append((name, np.asarray(array, order="C")))
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group


def _table(rows: list[tuple[str, np.ndarray]], schema: "pyarrow.Schema") -> "pyarrow.Table":
    """Put tensors into a table without a copy of their bytes: one chunk a tensor."""
    import pyarrow

    cells = []
    for _, array in rows:
        ends = pyarrow.py_buffer(np.array([0, array.nbytes], np.int32))
        data = pyarrow.py_buffer(array.reshape(-1).view(np.uint8))
        cells.append(pyarrow.Array.from_buffers(pyarrow.binary(), 1, [None, ends, data]))
    columns = [
        pyarrow.array([name for name, _ in rows], schema.field("layer_name").type),
        pyarrow.array([array.shape for _, array in rows], schema.field("shape").type),
        pyarrow.array([_torch(array) for _, array in rows], schema.field("dtype").type),
        pyarrow.chunked_array(cells, schema.field("data").type),
        pyarrow.array([array.size for _, array in rows], schema.field("num_params").type),
    ]
    return pyarrow.table(columns, schema=schema)


def _torch(array: np.ndarray) -> str:
    """Name a type as torch does."""
    return f"torch.{array.dtype.name}"


def _metadata(
    family: str, config: Mapping[str, Any], layers: Mapping[str, Any], *, has_tokenizer: bool
) -> dict[str, Any]:
    """Describe the store as ArrowEngine does: networks of texts in one way, those of pictures or sounds in another."""
    kind, vision = config.get("model_type"), config.get("vision_config")
    total = sum(layer["num_params"] for layer in layers.values())
    how = {"compression": "zstd", "compression_level": LEVEL, "use_float16": False}
    how |= {"extract_tokenizer": has_tokenizer, "validate_output": True}
    last: dict[str, Any] = {"parquet_path": WEIGHTS} | ({"tokenizer_path": "tokenizer"} if has_tokenizer else {})
    if kind in ("clip", "clip_vision_model") and (vision or kind != "clip"):
        named, architecture = "CLIP Vision Transformer", "ViT"
        sizes = _renamed(OF_CLIP, {**config, **(vision or {}), "projection_dim": config.get("projection_dim")})
    elif kind == "whisper":
        named, architecture = "Whisper Audio Encoder", "Whisper"
        sizes = _renamed(OF_WHISPER, {**config, "layer_norm_eps": 1e-5})
    else:
        named = "bert" if kind in TEXTS else "causallm" if kind in DECODERS else kind or family
        sizes = _renamed(OF_TEXTS | OF_DECODERS, config)
        width, places = sizes.get("hidden_size"), sizes.get("max_position_embeddings")
        first = {"architecture": (config.get("architectures") or [family])[0]}
        info = first | {"embedding_dimension": width, **sizes, "max_seq_length": places}
        return {
            "model_name": family,
            "model_type": named,
            "model_info": {name: value for name, value in info.items() if value is not None},
            "conversion_config": how,
            "total_parameters": total,
            "num_layers": len(layers),
            "layer_info": dict(layers),
            "converted_at": CLOCK,
            "converter_version": "0.1.0",
            **last,
        }
    return {
        "model_name": family,
        "model_type": named,
        "architecture": architecture,
        "config": sizes,
        "conversion_config": how,
        "total_parameters": total,
        "num_weight_tensors": len(layers),
        "layer_info": dict(layers),
        **last,
        "converted_at": CLOCK,
        "converter_version": "0.2.0",
    }


def _renamed(names: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: config.get(theirs) for ours, theirs in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def open_(artifact: Artifact) -> JaxRunner:
    """Read the weights into the NNX model, jitted per entry point and shape."""
    import jax
    import jax.numpy as jnp
    import pyarrow

    network = artifact.network()
    weights = {name: jnp.asarray(array) for name, array in read_weights(artifact)}
    return JaxRunner(
        name=f"pyarrow {pyarrow.__version__} + jax {jax.__version__}",
        entry_points=artifact.entry_points,
        functions={name: functools.partial(jax.jit(network.function(name)), weights) for name in artifact.entry_points},
    )


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read the rows, one in memory at a time, and give the leaves that they fill."""
    return artifact.leaves(_rows(artifact))


def _rows(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from pyarrow import parquet

    file = parquet.ParquetFile(artifact.directory / KEY / WEIGHTS, memory_map=True)
    for row in file.iter_batches(1, use_threads=False):
        name, shape, dtype = (row.column(column)[0].as_py() for column in ("layer_name", "shape", "dtype"))
        data = row.column("data")[0].as_buffer()
        kind = np.dtype(getattr(ml_dtypes, dtype.removeprefix("torch."), None) or dtype.removeprefix("torch."))
        if data.size != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{name} has {data.size} bytes, its shape {shape} of {kind} needs others")
        yield name, np.frombuffer(data if data.size else b"", kind).reshape(shape)


EXPORTER = Exporter(
    name="arrow",
    key=KEY,
    folder=KEY,
    modules=("jax", "flax", "pyarrow"),
    write=write,
    open=open_,
    read_weights=read_weights,
    weights_only=True,
    optional=True,
    source=True,
    effort=1,
)
