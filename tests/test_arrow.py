"""ArrowEngine's store, read and written: upstream's own files, its schema, every bit back, and each refusal."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.checkpoint import open_checkpoint
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import artifact
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.again import again_rows
from bgevis.converter.proof.weights import weight_rows
from bgevis.converter.source.identify import identify
from bgevis.converter.source.metadata import METADATA, content
from bgevis.converter.stages import build, export, load, pack, remap, verify
from bgevis.converter.stages.reference import read_state
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.restore import restore
from bgevis.exporters.arrow import EXPORTER
from bgevis.exporters.base import Artifact, Request
from bgevis.exporters.weights import WeightsFile, plan, write
from bgevis.validation.errors import EnvironmentFailure, GateError, InputError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PLAIN = pa.schema(
    [
        ("layer_name", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("dtype", pa.string()),
        ("data", pa.binary()),
        ("num_params", pa.int64()),
    ]
)
QUANTISED = pa.schema(
    [
        *PLAIN,
        ("quant_type", pa.string()),
        ("scales", pa.binary()),
        ("zero_points", pa.binary()),
        ("quant_axis", pa.int32()),
        ("group_size", pa.int32()),
    ]
)


def row(name: str, array: np.ndarray, **changes) -> dict:
    kind = {"dtype": f"torch.{array.dtype.name}", "num_params": array.size}
    return {"layer_name": name, "shape": list(array.shape), "data": array.tobytes(), **kind, **changes}


def stored(file: Path, rows: list[dict], schema: pa.Schema = PLAIN) -> Path:
    """Write a store as upstream does: ten rows in a row group."""
    parquet.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=10, compression="zstd")
    return file


# Arrays of any type and shape, by name

TYPES = [np.dtype(t) for t in ("f8", "f4", "f2", "i8", "i4", "u1", "i1", "?")] + [BFLOAT16]
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def networks(draw) -> dict[str, np.ndarray]:
    found = {}
    for at in range(draw(st.integers(1, 23))):
        kind, shape = draw(st.sampled_from(TYPES)), draw(SHAPES)
        raw = draw(st.binary(min_size=math.prod(shape) * kind.itemsize, max_size=math.prod(shape) * kind.itemsize))
        whole = np.frombuffer(raw, np.uint8) & (1 if kind.kind == "b" else 255)
        found[f"layer.{at}.weight"] = whole.view(kind).reshape(shape)
    return found


class Nothing:
    """A network of no entry points: only its weights are written."""

    entry_points = MappingProxyType({"run": None})


def exported(folder: Path, arrays) -> Artifact:
    (folder / "arrow").mkdir(parents=True)
    leaves = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    with (folder / "weights").open("wb") as file:
        write(file, leaves, ((name, arrays[name]) for name in plan(leaves, {})[1]), {})
    EXPORTER.write(Request(Nothing(), WeightsFile(folder / "weights"), folder / "arrow"))
    return Artifact(folder, {}, {}, Nothing)


@given(networks())
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("any")
    opened = exported(folder, arrays)
    checkpoint, read = open_checkpoint(folder / "arrow"), dict(EXPORTER.read_weights(opened))
    assert checkpoint.container == "arrow"
    assert checkpoint.tensors.keys() == read.keys() == arrays.keys()
    for name, array in arrays.items():
        for got in (read[name], checkpoint.read(name)):
            assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert not checkpoint.read(name).flags.writeable
    for name in reversed(arrays):  # rows that have passed are read again
        assert checkpoint.read(name).tobytes() == arrays[name].tobytes()
    file = parquet.ParquetFile(folder / "arrow" / "weights.parquet")
    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert rows[:-1] == [10] * (len(rows) - 1)
    assert 0 < rows[-1] <= 10
    assert file.schema_arrow.equals(pa.schema([*PLAIN]))
    again = exported(folder / "again", arrays)
    assert all(
        (again.directory / "arrow" / name).read_bytes() == (folder / "arrow" / name).read_bytes()
        for name in ("weights.parquet", METADATA)
    )


# Quantised rows: as the formula says, element by element


@st.composite
def quantised(draw) -> tuple[dict, np.ndarray]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    kind = draw(st.sampled_from(["int8", "int2"]))
    low, high = (-128, 127) if kind == "int8" else (-2, 1)
    size = math.prod(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = rng.integers(low, high + 1, size)
    axis, group = draw(st.integers(-1, len(shape) - 1)), draw(st.sampled_from([0, 0, 1, 3, 128]))
    count = -(-size // group) if group else 1 if axis < 0 else shape[axis]
    scales, zeros = (rng.standard_normal(count).astype(np.float32) for _ in range(2))
    wanted = np.empty(size, np.float32)
    for at, place in enumerate(np.ndindex(*shape)):
        which = at // group if group else 0 if axis < 0 else place[axis]
        wanted[at] = (np.float32(numbers[at]) - zeros[which]) * scales[which]
    if kind == "int8":
        data = numbers.astype(np.int8).tobytes()
    else:
        codes = [*(numbers + 2), *[0] * (-size % 4)]
        data = bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(map(int, codes))] * 4, strict=True))
    described = {"layer_name": "w", "shape": shape, "dtype": "torch.float16", "data": data, "num_params": size}
    described |= {"quant_type": kind, "scales": scales.tobytes(), "zero_points": zeros.tobytes()}
    return described | {"quant_axis": axis, "group_size": group}, wanted.reshape(shape)


@given(quantised())
@settings(max_examples=60, deadline=None)
def test_quantised_rows_are_what_the_formula_says(tmp_path_factory, case):
    described, wanted = case
    checkpoint = open_checkpoint(stored(tmp_path_factory.mktemp("q") / "w.parquet", [described], QUANTISED))
    assert checkpoint.container == "arrow-quantised"
    assert checkpoint.tensors["w"].dtype == "float32"
    np.testing.assert_array_equal(checkpoint.read("w"), wanted)


def test_rows_that_a_quantised_store_leaves_whole_are_read_by_their_quant_type(tmp_path):
    half = np.array([[1.5, -2]], np.float16)
    plain = {"quant_type": "fp16", "scales": b"", "zero_points": b"", "quant_axis": -1, "group_size": 0}
    rows = [
        row("half", half, dtype="torch.float32", **plain),
        row("n", half.astype("f4"), **plain | {"quant_type": "fp32"}),
    ]
    checkpoint = open_checkpoint(stored(tmp_path / "w.parquet", rows, QUANTISED))
    assert checkpoint.container == "arrow"
    assert (checkpoint.read("half") == half).all()
    assert [tensor.dtype for tensor in checkpoint.tensors.values()] == ["float16", "float32"]


# What is refused

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
Q = {"quant_type": "int8", "scales": bytes(4), "zero_points": bytes(4), "quant_axis": -1, "group_size": 0}
INT8 = WEIGHT.astype(np.int8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": bytes(23)}, "'w' has 23 bytes of data, its shape needs 24"),
        ({"data": bytes(25)}, "'w' has 25 bytes of data, its shape needs 24"),
        ({"data": None}, "'w' has 0 bytes of data, its shape needs 24"),
        ({"dtype": "torch.quint4x2"}, "'w' has dtype 'torch.quint4x2', known are torch.float16"),
        ({"dtype": "float32"}, "'w' has dtype 'float32', known are torch.float16"),
        ({"dtype": None}, "'w' has no dtype"),
        ({"num_params": 7}, "'w' has num_params 7, but its shape (2, 3) has 6"),
        ({"shape": [-2, -3]}, "'w' has the shape '[-2, -3]', expected whole numbers from 0"),
        ({"shape": [2, None]}, "'w' has the shape '[2, None]', expected whole numbers from 0"),
        ({"layer_name": None}, "has a row without layer_name"),
        ({"layer_name": "a\nb"}, "holds characters that cannot be printed"),
    ],
)
def test_a_row_that_is_not_as_it_must_be_is_named(tmp_path, changes, said):
    file = stored(tmp_path / "w.parquet", [row("v", WEIGHT), row("w", WEIGHT, **changes)])
    with pytest.raises(InputError) as error:
        open_checkpoint(file).read("w")
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quant_type": "int4"}, "'w' has quant_type 'int4', known are int8, int2, fp16, fp32"),
        ({"quant_type": None}, "'w' has no quant_type"),
        ({"quant_axis": 2}, "'w' has quant_axis 2, expected -1 or an axis of (2, 3)"),
        ({"group_size": -1}, "'w' has group_size -1, expected 0 or more"),
        ({"scales": bytes(8)}, "'w' has 8 bytes of scales, its shape needs 4"),
        ({"zero_points": b""}, "'w' has 0 bytes of zero_points, its shape needs 4"),
        ({"quant_axis": 1}, "'w' has 4 bytes of scales, its shape needs 12"),
        ({"group_size": 4}, "'w' has 4 bytes of scales, its shape needs 8"),
        ({"quant_type": "int2"}, "'w' has 6 bytes of data, its shape needs 2"),
    ],
)
def test_a_quantised_row_that_is_not_as_it_must_be_is_named(tmp_path, changes, said):
    file = stored(tmp_path / "w.parquet", [row("w", INT8, **Q | changes)], QUANTISED)
    with pytest.raises(InputError) as error:
        open_checkpoint(file).read("w")
    assert said in str(error.value)


def without(name: str) -> pa.Table:
    return pa.Table.from_pylist([row("w", WEIGHT)], PLAIN).drop_columns([name])


TABLES = {
    "missing": (without("data"), "without the column data of a store of weights"),
    "further": (
        pa.Table.from_pylist([row("w", WEIGHT)], PLAIN).append_column("extra", pa.array([1])),
        "has a column 'extra' that is none of a store of weights",
    ),
    "type": (
        without("num_params").append_column("num_params", pa.array(["6"])),
        "column num_params is of type 'string', expected int64",
    ),
    "half quantised": (
        pa.Table.from_pylist([row("w", INT8, **Q)], QUANTISED).drop_columns(["scales", "group_size"]),
        "without the columns scales, group_size",
    ),
    "twice": (pa.Table.from_pylist([row("w", WEIGHT)] * 2, PLAIN), "holds two tensors called 'w'"),
    "empty": (PLAIN.empty_table(), "holds 0 tensors"),
    "embeddings": (pa.table({"id": ["a"]}), "without the columns layer_name, shape, dtype, data, num_params"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_no_store_is_refused(tmp_path, kind):
    table, said = TABLES[kind]
    parquet.write_table(table, tmp_path / "w.parquet")
    with pytest.raises(InputError) as error:
        open_checkpoint(tmp_path / "w.parquet")
    assert said in str(error.value)


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = stored(tmp_path / "w.parquet", [row(f"w{i}", WEIGHT + i) for i in range(12)]).read_bytes()
    for name, data in {"cut": whole[:-40], "no end": whole[:90], "magic": b"PAR1" + bytes(100)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as Parquet"):
            open_checkpoint(tmp_path / name)
    (tmp_path / "text").write_bytes(b"not Parquet at all")
    with pytest.raises(InputError, match="is not a checkpoint: neither"):
        open_checkpoint(tmp_path / "text")
    chunk = parquet.ParquetFile(tmp_path / "w.parquet").metadata.row_group(1).column(3)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    broken = bytearray(whole)
    broken[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    (tmp_path / "w.parquet").write_bytes(broken)
    checkpoint = open_checkpoint(tmp_path / "w.parquet")
    np.testing.assert_array_equal(checkpoint.read("w3"), WEIGHT + 3)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        checkpoint.read("w11")


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    file = stored(tmp_path / "w.parquet", [row("w", WEIGHT)])
    monkeypatch.setattr("bgevis.validation.packages.installed", lambda module: module != "pyarrow")
    with pytest.raises(EnvironmentFailure, match=r"needs the Python package pyarrow.*bgevis-convert\[parquet\]"):
        open_checkpoint(file)


def test_a_tensor_larger_than_a_cell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bgevis.exporters.arrow.MOST", 23)
    with pytest.raises(InputError, match="tensor w has 24 bytes, a cell of ArrowEngine's store holds at most 23"):
        exported(tmp_path / "run", {"w": WEIGHT})


# A network: what lies beside the store


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A text encoder's folder, in bfloat16, which upstream can neither write nor read."""
    folder = tmp_path_factory.mktemp("source")
    write_fixture("bert", "tiny", 3, "bfloat16", folder / "model.safetensors")
    return folder


def made(checkpoint: Path, out: Path) -> RunDirectory:
    run = load.perform(out, Options(checkpoint=str(checkpoint), no_tokenizer=True), Silent())
    for stage in (remap, verify, build, pack):
        stage.perform(run, Options(), Silent())
    export.perform(run, Options(), Silent(), EXPORTER)
    return run


@pytest.fixture(scope="module")
def run(source, tmp_path_factory) -> RunDirectory:
    return made(source / "model.safetensors", tmp_path_factory.mktemp("run") / "run")


def test_the_store_holds_the_source(run, source, tmp_path):
    wanted, got = open_checkpoint(source), open_checkpoint(run.path / "arrow")
    assert set(got.tensors) <= set(wanted.tensors)
    assert list(got.tensors) == [name for name in wanted.tensors if name in got.tensors]
    ledger = Ledger.read(run.path / "ledger.json")
    assert wanted.tensors.keys() - got.tensors.keys() == {n for n, e in ledger.entries.items() if e.status == "dropped"}
    for name in got.tensors:
        assert got.read(name).dtype == BFLOAT16
        assert got.read(name).tobytes() == wanted.read(name).tobytes()
    rows = weight_rows(EXPORTER, artifact(run, EXPORTER), ledger)
    assert [row.problem for row in rows if not row.passed] == []
    assert list(again_rows(run, EXPORTER)) == []
    restored = restore(run, EXPORTER, tmp_path / "back.safetensors", Silent())
    assert restored.tensors == len(got.tensors)


@pytest.mark.parametrize("family", ["visualized_bge", "qwen2", "whisper", "clip"])
def test_split_and_tied_tensors_lead_back(tmp_path, family):
    write_fixture(family, "tiny", 1, "float16", tmp_path / "model.safetensors")
    run = made(tmp_path / "model.safetensors", tmp_path / "run")
    ledger = Ledger.read(run.path / "ledger.json")
    rows = weight_rows(EXPORTER, artifact(run, EXPORTER), ledger)
    assert [row.problem for row in rows if not row.passed] == []
    wanted, got = open_checkpoint(tmp_path / "model.safetensors"), open_checkpoint(run.path / "arrow")
    assert got.tensors
    assert all(got.read(name).tobytes() == wanted.read(name).tobytes() for name in got.tensors)
    metadata = json.loads((run.path / "arrow" / METADATA).read_text())
    assert metadata["total_parameters"] == sum(math.prod(tensor.shape) for tensor in got.tensors.values())


@pytest.mark.parametrize("how", ["value", "lost", "further", "renamed"])
def test_an_altered_store_is_told(run, tmp_path, how):
    rows = parquet.read_table(run.path / "arrow" / "weights.parquet").to_pylist()
    one = rows[3]
    if how == "value":
        one["data"] = bytes([one["data"][0] ^ 1]) + one["data"][1:]
    elif how == "lost":
        rows.remove(one)
    elif how == "further":
        rows.append(one | {"layer_name": "more"})
    else:
        one["layer_name"] += "x"
    folder = tmp_path / "run"
    (folder / "arrow").mkdir(parents=True)
    for name in ("manifest.json", "ledger.json"):
        (folder / name).write_bytes((run.path / name).read_bytes())
    stored(folder / "arrow" / "weights.parquet", rows)
    altered = RunDirectory(folder)
    found = weight_rows(EXPORTER, artifact(altered, EXPORTER), Ledger.read(folder / "ledger.json"))
    assert not all(row.passed for row in found)


@pytest.fixture
def store(run, tmp_path) -> Path:
    """The store alone, as upstream lays it: without config.json."""
    for name in ("weights.parquet", METADATA):
        (tmp_path / name).write_bytes((run.path / "arrow" / name).read_bytes())
    return tmp_path


def options(*sets: str) -> Options:
    return Options(sets=sets, pooling="cls", normalize=True, no_tokenizer=True)


ACTIVATION = options("hidden_act=gelu")


def changed(store: Path, change) -> None:
    document = json.loads((store / METADATA).read_text())
    change(document)
    (store / METADATA).write_text(json.dumps(document))


def test_metadata_stands_in_the_place_of_config(store, source):
    found, wanted = identify(store, ACTIVATION), identify(source, Options(no_tokenizer=True))
    assert found.family.name == wanted.family.name == "bert"
    assert found.config == wanted.config
    described = found.found.described()[METADATA]
    assert described["status"] == "used"
    assert described["fields"]["model_info.num_attention_heads"] == "used"
    assert "not read" not in described["fields"].values()


def test_the_activation_is_asked_for(store):
    with pytest.raises(InputError, match=r"ArrowEngine records no hidden_act.*--set hidden_act=.*config\.json"):
        identify(store, options())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["layer_info"].update(more={"shape": [1], "dtype": "torch.float16", "num_params": 1}), "has not"),
        (lambda m: m["layer_info"].pop("embeddings.word_embeddings.weight"), "does not list 1 tensors"),
        (lambda m: m["layer_info"]["embeddings.word_embeddings.weight"].update(shape=[1, 2]), "but the tensor is"),
        (lambda m: m.update(total_parameters=5), "total_parameters is 5, but"),
        (lambda m: m.update(num_layers=5), "num_layers is 5, but"),
        (lambda m: m.update(sparsity=0.5), r"sparsity = 0\.5.*--ignore metadata\.json:sparsity"),
        (lambda m: m["model_info"].update(rotary=True), "model_info.rotary = true"),
        (lambda m: m["model_info"].update(max_seq_length=3), "model_info.max_seq_length = 3"),
        (lambda m: m["model_info"].update(hidden_size=5), "hidden_size is 5, but the checkpoint's tensors say"),
        (lambda m: m["model_info"].update(num_attention_heads="4"), "expected a whole number"),
        (
            lambda m: m.update(model_type="causallm"),
            "model_type is 'causallm', of which ArrowEngine records too little",
        ),
        (lambda m: m.pop("model_type"), "model_type is missing"),
    ],
)
def test_metadata_that_is_not_the_store_s_is_refused_by_name(store, change, said):
    changed(store, change)
    with pytest.raises(InputError, match=said):
        identify(store, ACTIVATION)


def test_metadata_that_contradicts_config_is_refused(store, source):
    config = json.loads((source / "config.json").read_text())
    (store / "config.json").write_text(json.dumps(config))
    assert identify(store, options()).config.hidden_act == "gelu"
    changed(store, lambda m: m["model_info"].update(layer_norm_eps=0.5))
    with pytest.raises(InputError, match=r"layer_norm_eps is 0\.5, but .*config\.json says"):
        identify(store, ACTIVATION)


def test_the_judge_reads_the_same_numbers(store, source, tmp_path):
    """Of plain rows by pyarrow and torch alone."""
    torch = pytest.importorskip("torch")
    stored(tmp_path / "q.parquet", [row("w", INT8, **Q)], QUANTISED)
    wanted = read_state(open_checkpoint(source), Silent())
    got = read_state(open_checkpoint(store / "weights.parquet"), Silent())
    assert got
    assert all(torch.equal(tensor, wanted[name]) and tensor.dtype == torch.bfloat16 for name, tensor in got.items())
    assert torch.equal(read_state(open_checkpoint(tmp_path / "q.parquet"), Silent())["w"], torch.zeros(2, 3))
    metadata = store / METADATA
    config = content("config.json", metadata, json.loads(metadata.read_text()), {"hidden_act": "relu"})
    stated = json.loads((source / "config.json").read_text())
    assert config.pop("hidden_act") == "relu"
    assert config == {name: stated[name] for name in config}


def test_a_tie_that_was_broken_is_told(tmp_path):
    write_fixture("qwen2", "tiny", 1, "float16", tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    run = made(tmp_path / "model.safetensors", tmp_path / "run")
    ledger = Ledger.read(run.path / "ledger.json")
    assert ledger.entries["lm_head.weight"].status == "tied"
    table = parquet.read_table(run.path / "arrow" / "weights.parquet")
    rows = table.to_pylist()
    (head,) = (each for each in rows if each["layer_name"] == "lm_head.weight")
    head["data"] = head["data"][:-1] + bytes([head["data"][-1] ^ 1])
    stored(run.path / "arrow" / "weights.parquet", rows)
    rows = weight_rows(EXPORTER, artifact(run, EXPORTER), ledger)
    assert [r.problem for r in rows if not r.passed]


def test_values_that_are_not_finite_are_named(store, source):
    rows = parquet.read_table(store / "weights.parquet").to_pylist()
    name, count = rows[0]["layer_name"], rows[0]["num_params"]
    rows[0]["data"] = np.full(count, np.nan, BFLOAT16).tobytes()
    stored(store / "weights.parquet", rows)
    (store / "config.json").write_bytes((source / "config.json").read_bytes())
    given = replace(options(), checkpoint=str(store))
    run = load.perform(store / "run", given, Silent())
    remap.perform(run, Options(), Silent())
    with pytest.raises(GateError, match=f"{name}: {count} of {count} values are NaN or infinite"):
        verify.perform(run, Options(), Silent())


# Upstream's own files


def theirs(name: str, there) -> str:
    """Find what a tensor of upstream's store is called in the checkpoint that it was made of."""
    whole = name.replace("position_embedding", "embed_positions.weight") if name not in there else name
    return next((n for n in (name, whole, f"model.{whole}") if n in there), "model.embed_tokens.weight")


def test_upstream_s_own_stores_are_their_sources(oracles):
    seen = 0
    for folder in sorted(path.parent for path in (oracles / "arrow_engine").glob("out/*/weights.parquet")):
        stated = folder / METADATA
        origin = oracles / json.loads(stated.read_text())["model_name"] if stated.exists() else None
        if origin is None or not (origin / "model.safetensors").is_file():
            continue
        checkpoint, wanted = open_checkpoint(folder), open_checkpoint(origin)
        seen += 1
        for name in checkpoint.tensors:
            original, got = wanted.read(theirs(name, wanted.tensors)), checkpoint.read(name)
            assert got.tobytes() == original.astype(got.dtype).tobytes()
    assert seen > 3


@pytest.mark.parametrize("wanted", [True, False])
def test_the_tokenizer_of_a_store_is_found(oracles, tmp_path, wanted):
    files = sorted((oracles / "arrow_engine").glob("out/*/tokenizer/tokenizer.json"))
    stores = [file.parents[1] for file in files if (file.parents[1] / METADATA).is_file()]
    bert = next(d for d in stores if '"architecture": "BertModel"' in (d / METADATA).read_text())
    found = identify(bert, replace(ACTIVATION, no_tokenizer=not wanted)).found
    assert found.tokens.origin == str(bert / "tokenizer" / "tokenizer.json")
    assert found.tokens.wanted is wanted


def test_the_schema_is_upstream_s(run, oracles):
    (first, *_) = sorted((oracles / "arrow_engine").glob("out/*/metadata.json"))
    wanted = parquet.read_schema(first.with_name("weights.parquet"))
    got = parquet.read_schema(run.path / "arrow" / "weights.parquet")
    assert got.equals(wanted, check_metadata=True)
    assert str(got) == str(wanted)
    texts = (json.loads(file.read_text()) for file in sorted((oracles / "arrow_engine").glob("out/*/metadata.json")))
    stated = next(text for text in texts if text.get("model_type") == "bert")
    ours = json.loads((run.path / "arrow" / METADATA).read_text())
    assert [*ours, "tokenizer_path"] == [*stated]
    assert [*ours["model_info"]] == [*stated["model_info"]]
    assert [*ours["conversion_config"]] == [*stated["conversion_config"]]


def test_reading_a_store_imports_no_framework(tmp_path):
    file = stored(tmp_path / "w.parquet", [row("w", WEIGHT)])
    program = (
        "import sys; from pathlib import Path; from bgevis.converter.checkpoint import open_checkpoint; "
        f"open_checkpoint(Path({str(file)!r})).read('w'); print({{'jax', 'torch', 'pandas'}} & {{*sys.modules}})"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
