"""The folder for sentence-transformers, optimum and Transformers.js: what is in it, and that these clients open it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from vocabularies import filled

from bgevis.converter import load_module
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options, chosen
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.stages import pack as write
from bgevis.converter.stages.validate import artifact, weight_rows
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.model.bert import FAMILY
from bgevis.model.steps import plain
from bgevis.validation.errors import InputError

LAYOUT = "sentence-transformers"
ROOT = Path(__file__).parents[1]
WORDS = filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "##s", "a"])


TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


def exported(folder: Path, family: str = "bert", opset: int | None = None, **settings) -> RunDirectory:
    """Convert a tiny network with a configuration and a tokenizer beside it, and write the layout, without proof."""
    folder.mkdir(exist_ok=True)
    write_fixture(family, "tiny", 5, "float32", folder / "ckpt.safetensors")
    if family == "bert":
        config = dataclasses.replace(FAMILY.sizes["tiny"], **{"pipeline": plain(["mean"])} | settings)
        for place, content in FAMILY.documents(config).items():
            (folder / place).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    options = Options(checkpoint=str(folder / "ckpt.safetensors"), layouts=(LAYOUT,))
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
    assert [value.name for value in graph.output] == ["last_hidden_state"]
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
    (got,) = onnxruntime.InferenceSession(run.path / "sentence_transformers/onnx/model.onnx").run(None, fed)
    module = load_module(run.path)
    want = module.token_states(*(jnp.asarray(array, jnp.int32) for array in fed.values()))
    np.testing.assert_allclose(got, want, atol=5e-6)
    assert np.abs(got - module.token_states(*(jnp.asarray(a, jnp.int32) for a in list(fed.values())[:2]))).max() > 0.01


@pytest.mark.parametrize("network", ["run", "roberta"])
def test_pooled_as_its_files_say_it_is_the_network(network, request):
    """What `validate` runs."""
    run = request.getfixturevalue(network)
    opened = artifact(run, exporters()[LAYOUT])
    ids = np.random.default_rng(1).integers(5, 300, (3, 11)).astype(np.int32)
    mask = (np.arange(11) < np.array([11, 4, 1])[:, None]).astype(np.int32)
    ids = np.where(mask, ids, 0).astype(np.int32)
    got = exporters()[LAYOUT].open(opened).run("encode_text", {"input_ids": ids, "attention_mask": mask})["embeddings"]
    np.testing.assert_allclose(got, load_module(run.path).encode_text(jnp.asarray(ids), jnp.asarray(mask)), atol=2e-6)


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


def test_what_has_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="its clients open the families bert, mpnet; this is visualized_bge"):
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


def convert(checkpoint: Path, out: Path) -> None:
    command = [sys.executable, "-m", "bgevis.converter", "all", checkpoint, "--out", out]
    done = subprocess.run(
        [*command, "--format", "onnx", "--layout", LAYOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prove
@pytest.mark.parametrize("network", ["bert", "xlm-roberta", "all-MiniLM-L6-v2"])
def test_real_clients_give_the_goldens(network, clients, request, tmp_path):
    """`all --layout`, then SentenceTransformer(folder, backend="onnx") and optimum, from raw texts."""
    if network == "all-MiniLM-L6-v2":
        checkpoint = request.getfixturevalue("minilm") / "model.safetensors"
    else:
        settings = {"model_type": "xlm-roberta"} if network == "xlm-roberta" else {}
        exported(tmp_path / "ckpt", **settings)
        checkpoint = tmp_path / "ckpt" / "ckpt.safetensors"
    convert(checkpoint, tmp_path / "run")
    alone = {"USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [clients, ROOT / "examples" / "sentence_transformers_client.py", tmp_path / "run"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as the goldens") == 4


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node with npm")
def test_transformers_js_gives_the_goldens_of_what_it_reads_alike(minilm, tmp_path):
    """Its own tokenizer makes a final sigma of a word's last one, and drops the last token of what it truncates."""
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", TRANSFORMERS_JS]
    subprocess.run(install, check=True, cwd=tmp_path, env=os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"})
    convert(minilm / "model.safetensors", tmp_path / "run")
    command = ["node", ROOT / "examples" / "transformers_js_client.mjs", tmp_path / "run"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    told = dict(line.split(":", 1) for line in done.stdout.splitlines() if ": " in line)
    assert len(told) == 10, done.stdout + done.stderr
    assert {name for name, verdict in told.items() if "NOT" in verdict} == {"casing", "long"}
    assert done.returncode == 1
