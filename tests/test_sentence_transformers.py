"""The folder for sentence-transformers, optimum, fastembed and Transformers.js: what is in it."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_folder import tiny_folder

from bgevis.converter import load_module
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options, chosen
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.stages import pack as write
from bgevis.converter.stages.validate import artifact, weight_rows
from bgevis.exporters.base import exporters
from bgevis.model.bert import FAMILY
from bgevis.model.steps import Dense, Normalize, Pooling
from bgevis.validation.errors import InputError
from bgevis.validation.rounded import cosines

LAYOUT = "sentence-transformers"


def exported(folder: Path, family: str = "bert", opset: int | None = None, **settings) -> RunDirectory:
    """Convert a tiny network with a configuration and a tokenizer beside it, and write the layout, without proof."""
    options = Options(checkpoint=str(tiny_folder(folder, family, **settings)), layouts=(LAYOUT,))
    run = load.perform(folder / "run", options, Silent())
    for stage in (remap.perform, verify.perform, build.perform, write.perform):
        stage(run, Options(), Silent())
    export.perform(run, Options(opset=opset), Silent(), exporters()[LAYOUT])
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roberta")
    return exported(folder, model_type="xlm-roberta", pad_token_id=0)


def document(run: RunDirectory, name: str):
    return json.loads((run.path / "sentence_transformers" / name).read_text())


def model(run: RunDirectory) -> onnx.ModelProto:
    return onnx.load(run.path / "sentence_transformers/onnx/model.onnx", load_external_data=False)


def test_the_folder_is_what_the_clients_expect(run):
    folder = run.path / "sentence_transformers"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"),
        *("config_sentence_transformers.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("onnx/model.onnx", "onnx/model.onnx_data"),
    }
    assert [module["type"].rpartition(".")[2] for module in document(run, "modules.json")] == [
        "Transformer", "Pooling", "Normalize"
    ]  # fmt: skip
    assert document(run, "1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    assert document(run, "1_Pooling/config.json")["pooling_mode_cls_token"] is False
    assert document(run, "sentence_bert_config.json")["max_seq_length"] == 40
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    assert document(run, "special_tokens_map.json") == special | {"mask_token": "[MASK]"}
    assert (folder / "onnx/model.onnx_data").read_bytes() == (run.path / "programs/weights.safetensors").read_bytes()
    assert (folder / "tokenizer.json").read_bytes() == (run.path / "tokenizer.json").read_bytes()


def test_inputs_and_outputs_have_the_clients_names(run, roberta):
    graph = model(run).graph
    assert {value.name for value in graph.input} == {"input_ids", "attention_mask", "token_type_ids"}
    assert {value.name for value in model(roberta).graph.input} == {"input_ids", "attention_mask"}
    assert [value.name for value in graph.output] == ["last_hidden_state", "sentence_embedding"]
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT64}
    assert document(roberta, "tokenizer_config.json")["model_input_names"] == ["input_ids", "attention_mask"]
    assert document(roberta, "config.json")["architectures"] == ["XLMRobertaModel"]


def test_old_runtimes_open_it(run, tmp_path):
    assert model(run).opset_import[0].version == 17
    assert model(run).ir_version <= 8
    assert model(exported(tmp_path / "newer", opset=21)).opset_import[0].version == 21


def test_token_types_count(run):
    """Clients that embed pairs of texts set them."""
    rng = np.random.default_rng(0)
    ids, types = rng.integers(5, 300, (2, 9)), rng.integers(0, 2, (2, 9))
    fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    got = onnxruntime.InferenceSession(run.path / "sentence_transformers/onnx/model.onnx").run(None, fed)
    module = load_module(run.path)
    want = module.token_states(*(jnp.asarray(array, jnp.int32) for array in fed.values()))
    untold = module.token_states(*(jnp.asarray(a, jnp.int32) for a in list(fed.values())[:2]))
    for have, name in zip(got, ("last_hidden_state", "sentence_embedding"), strict=True):
        np.testing.assert_allclose(have, want[name], atol=5e-6)
        assert np.abs(have - untold[name]).max() > 0.01


@pytest.mark.parametrize("network", ["run", "roberta"])
def test_pooled_as_its_files_say_it_is_the_network(network, request):
    """What `validate` runs."""
    run = request.getfixturevalue(network)
    opened = artifact(run, exporters()[LAYOUT])
    ids = np.random.default_rng(1).integers(5, 300, (3, 11)).astype(np.int32)
    mask = (np.arange(11) < np.array([11, 4, 1])[:, None]).astype(np.int32)
    ids = np.where(mask, ids, 0).astype(np.int32)
    want = load_module(run.path).encode_text(jnp.asarray(ids), jnp.asarray(mask))
    ways = [exporters()[LAYOUT].open(opened), *(runner for runner, _ in exporters()[LAYOUT].more(opened, {}))]
    assert [way.name.rpartition(", ")[2] for way in ways] == ["then the modules", "as it is"]
    for way in ways:
        got = way.run("encode_text", {"input_ids": ids, "attention_mask": mask})["embeddings"]
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_a_pooling_without_the_prompt_is_left_to_clients_that_count_it(tmp_path):
    run = exported(tmp_path / "prompt", pipeline=(Pooling(("mean",), include_prompt=False),))
    assert [value.name for value in model(run).graph.output] == ["last_hidden_state"]
    opened = artifact(run, exporters()[LAYOUT])
    exporters()[LAYOUT].open(opened)
    assert not [*exporters()[LAYOUT].more(opened, {})]


def test_vectors_of_tokens_are_normalised_before_they_are_pooled(tmp_path):
    """In the folder too, by a module that says what it takes."""
    run = exported(tmp_path / "early", pipeline=(Normalize(), Pooling(("mean",))))
    assert document(run, "1_Normalize/config.json") == {
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
    }
    assert [step["do"] for step in run.manifest()["config"]["pipeline"]] == ["normalize", "pooling"]


def test_its_weights_are_the_sources(run):
    from bgevis.converter.certificate.ledger import Ledger

    opened = artifact(run, exporters()[LAYOUT])
    ledger = Ledger.read(run.path / "ledger.json")
    assert all(row.passed for row in weight_rows(exporters()[LAYOUT], opened, ledger))
    data = run.path / "sentence_transformers/onnx/model.onnx_data"
    whole = data.read_bytes()
    try:
        data.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        assert not all(row.passed for row in weight_rows(exporters()[LAYOUT], opened, ledger))
    finally:
        data.write_bytes(whole)


def test_it_is_written_only_when_asked_for():
    assert LAYOUT not in [exporter.name for exporter in chosen(Options())]
    asked = chosen(Options(formats=("onnx",), layouts=(LAYOUT,)))
    assert [exporter.name for exporter in asked] == ["onnx", LAYOUT]


def test_precisions_are_those_of_the_formats_that_the_clients_have_names_for():
    def asked(**options):
        return [exporter.name for exporter in chosen(Options(layouts=(LAYOUT,), **options))]

    every = ("float32", "float16", "bfloat16", "int8")
    formats = ["onnx", *(f"onnx-{precision}" for precision in every[1:])]
    wanted = [*formats, LAYOUT, f"{LAYOUT}-float16", f"{LAYOUT}-int8"]
    assert asked(formats=("onnx",), precisions=every) == wanted
    assert asked(formats=tuple(formats)) == wanted
    assert asked(formats=("stablehlo",)) == ["stablehlo", LAYOUT]


@pytest.mark.parametrize(("precision", "suffix", "least"), [("float16", "_fp16", 0.9999), ("int8", "_quantized", 0.98)])
@pytest.mark.parametrize("pooled", [True, False])
def test_small_numbers_lie_beside_under_the_clients_name(tmp_path, monkeypatch, precision, suffix, least, pooled):
    """Where the program gives no vector, the folder's Dense is computed in float32 by the clients, of its own file."""
    tiny = FAMILY.sizes["tiny"]
    pipeline = (Pooling(("mean",), include_prompt=pooled), Dense("2_Dense/", tiny.hidden_size, 12))
    monkeypatch.setitem(FAMILY.sizes, "tiny", dataclasses.replace(tiny, pipeline=pipeline))
    run = exported(tmp_path / "run", pipeline=pipeline)
    exporter = exporters()[f"{LAYOUT}-{precision}"]
    export.perform(run, Options(), Silent(), exporter)
    folder = run.path / "sentence_transformers/onnx"
    names = {f"model{each}.onnx{data}" for each in ("", suffix) for data in ("", "_data")}
    assert {file.name for file in folder.iterdir()} == names
    assert (folder / f"model{suffix}.onnx_data").stat().st_size < 0.7 * (folder / "model.onnx_data").stat().st_size
    opened = artifact(run, exporter)
    problems = dict(exporter.rounding(opened))
    assert not any(problems.values())
    read = dict(exporter.read_weights(opened))
    leaves = opened.network().leaves
    assert read.keys() >= set(opened.network().used_weights("encode_text"))
    assert all(array.shape == leaves[leaf].shape for leaf, array in read.items())
    ids = np.random.default_rng(1).integers(5, 300, (2, 9)).astype(np.int32)
    mask = np.ones_like(ids)
    prompt = () if pooled else (jnp.zeros(2, jnp.int32),)
    want = load_module(run.path).encode_text(jnp.asarray(ids), jnp.asarray(mask), *prompt)
    fed = {"input_ids": ids, "attention_mask": mask, **({} if pooled else {"prompt_tokens": np.zeros(2, np.int32)})}
    ways = [exporter.open(opened), *(runner for runner, _ in exporter.more(opened, {}))]
    assert [held for _, held in exporter.more(opened, {})] == [precision] * pooled
    for way in ways:
        assert cosines(way.run("encode_text", fed)["embeddings"], np.asarray(want)).min() > least
    program = folder / f"model{suffix}.onnx_data"
    whole = bytearray(program.read_bytes())
    whole[-5] ^= 1
    program.write_bytes(whole)
    assert any(dict(exporter.rounding(opened)).values())


def test_what_has_no_such_folder(tmp_path):
    with pytest.raises(
        InputError, match="its clients open the families bert, bge_m3, classifier, mpnet, qwen2, qwen3; this is"
    ):
        exported(tmp_path / "visualized", "visualized_bge")
    run = exported(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").unlink()
    options = Options(checkpoint=str(tmp_path / "bert" / "ckpt.safetensors"))
    with pytest.raises(InputError, match="--layout sentence-transformers needs a tokenizer: neither"):
        load.perform(run.path, dataclasses.replace(options, layouts=(LAYOUT,)), Silent())
    run = load.perform(run.path, options, Silent())
    for stage in (remap.perform, verify.perform, build.perform, write.perform):
        stage(run, Options(), Silent())
    with pytest.raises(InputError, match="needs a tokenizer: neither"):
        export.perform(run, Options(), Silent(), exporters()[LAYOUT])
