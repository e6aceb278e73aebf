"""Two roads, one answer: what is traced of upstream's own module computes what the hand-written family does.

And the road of `--transformers` whole: a folder whose architecture no family knows, with tokenizer and pipeline.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from in_process import convert, in_this_process
from safetensors.numpy import load_file
from test_snippets import ROOT, commands
from tiny_tokenizer import tokenizer
from variants import LATER, TINY

from bgevis.converter.certificate.assign import assign
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import GOLDENS, family_and_config
from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.use.artifacts import open_artifacts
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.sentence_transformers import sentence_transformer
from bgevis.model.family import families
from bgevis.model.reference import Original, tensor_of
from bgevis.model.traced import family as traced_family
from bgevis.model.traced.capture import capture
from bgevis.model.traced.wanted import Wanted
from bgevis.validation import procedure
from bgevis.validation.cases import cases
from bgevis.validation.domains import Pixels
from bgevis.validation.errors import InputError
from bgevis.validation.kept import kept

ENTRIES = [
    pytest.param(name, entry.name, id=f"{name}-{entry.name}", marks=[pytest.mark.prove] if name in LATER else [])
    for name, family in families().items()
    for entry in family.entry_points(family.sizes[TINY])
    if not (name == "visualized_bge" and entry.input_of(Pixels))  # its reference knows pictures by their bytes
    and not any("-" in str(dim) for spec in entry.outputs for dim in spec.shape)  # torch takes a size of 1 for another
    # Its original computes spectrograms by numpy, and its caches keep sizes as numbers.
    and not (name == "whisper" and entry.name != "encode_audio")
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Give for a family its tiny configuration, tensors, ledger and reference, each made once."""
    made = {}

    def of(name):
        if name not in made:
            family = families()[name]
            config = family.sizes[TINY]
            file = tmp_path_factory.mktemp(name) / "tiny.safetensors"
            write_fixture(name, TINY, 7, "float32", file)
            tensors = load_file(file)
            entries = assign(tensors, family.rules(config), ()).entries
            ledger = Ledger("", family.axis_sizes(config), entries)
            original = Original({n: tensor_of(t) for n, t in tensors.items()}, family.documents(config), file.parent)
            original.documents.pop("modules.json", None)
            made[name] = family, config, tensors, ledger, family.reference(config, original)
        return made[name]

    return of


@pytest.mark.parametrize(("name", "entry_name"), ENTRIES)
def test_the_traced_road_gives_what_the_family_gives(tiny, name, entry_name):
    family, config, tensors, ledger, reference = tiny(name)
    (entry,) = [entry for entry in family.entry_points(config) if entry.name == entry_name]
    outputs = {spec.name: spec.kind for spec in entry.outputs}

    def call(module, **inputs):
        return reference.entries[entry_name](**inputs)

    wanted = Wanted(entry_name, entry.inputs, entry.axes, outputs=outputs, call=call)
    graph = capture(reference.module, [wanted], reference.tensors(), "upstream")
    net = traced_family(graph.to_json()).network(None)
    weights = {leaf: tensors[parameter.tensor] for leaf, parameter in graph.parameters.items()}
    own = family.network(config)
    leaves = {leaf: ledger.leaf(n, _tensor(tensors, ledger, n)) for leaf, n in ledger.leaves.items() if n in tensors}
    if leaves.keys() != own.leaves.keys():
        leaves |= _derived(tensors, ledger, own.leaves.keys() - leaves.keys())
    for case in [each for each in cases(entry) if each.same_as is None][:1]:
        got = jax.jit(net.function(entry_name))(weights, *case.inputs.values())
        want = jax.jit(own.function(entry_name))(leaves, *case.inputs.values())
        got, want = (kept(entry, case.inputs, {n: np.asarray(x) for n, x in each.items()}) for each in (got, want))
        for output in want:
            scale = max(float(np.abs(want[output]).max()), 1e-6)
            np.testing.assert_allclose(got[output], want[output], atol=3e-6 * scale, rtol=0)


def _tensor(tensors, ledger, name):
    return tensors[name]


def _derived(tensors, ledger, leaves):
    """Give the leaves that are made of parts of tensors."""
    found = dict(tensors)
    for name, made in ledger.derived():
        found[name] = made.make({each: found[each] for each in made.ingredients}, ledger.axes)
    return {leaf: ledger.leaf(ledger.leaves[leaf], found[ledger.leaves[leaf]]) for leaf in leaves}


def folder_of(oracles: Path, name: str, tmp_path: Path) -> Path:
    """Copy a case, without its golden."""
    shutil.copytree(oracles / name, tmp_path / "folder", ignore=shutil.ignore_patterns("golden*", "texts.json"))
    return tmp_path / "folder"


def test_an_architecture_that_no_family_knows_is_converted_from_raw_texts(oracles, tmp_path):
    folder = folder_of(oracles, "mpnet/mpnet_st", tmp_path)
    _edit(folder / "1_Pooling", include_prompt=False)
    _edit(folder, "config_sentence_transformers.json", prompts={"query": "fox: "})
    with in_this_process():
        run = RunDirectory(convert(folder, tmp_path / "run", ("onnx",), transformers=True))
    manifest = run.manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert manifest["family"] == "transformers"
    assert manifest["config"]["architecture"] == "MPNetModel"
    assert manifest["config"]["max_seq_length"] == 160
    assert manifest["proof"]["end_to_end"]["verdict"] == "pass"
    assert manifest["entry_points"]["encode_text"]["axes"]["tokens"]["max"] == 200
    assert [spec["name"] for spec in manifest["entry_points"]["encode_text"]["inputs"]][-1] == "prompt_tokens"
    golden = np.load(oracles / "mpnet/mpnet_st/golden.npz")
    texts = json.loads((oracles / "mpnet/mpnet_st/texts.json").read_text())
    texts = texts["texts"] if isinstance(texts, dict) else texts
    name = next(n for n in golden.files if golden[n].ndim == 2 and len(golden[n]) == len(texts) and "f64" not in n)
    np.testing.assert_allclose(open_artifacts(run.path).embed(texts=texts), golden[name], atol=2e-6)


LAYOUT = "sentence-transformers"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of where sentence-transformers has its modules
@pytest.mark.parametrize("name", ["modernbert_mean_st", pytest.param("modernbert_cls_st", marks=pytest.mark.prove)])
def test_modernbert_is_upstreams_from_raw_texts(oracles, tmp_path, name):
    """Windows of attention, two thetas, either pooling; in the folder that clients open too."""
    folder = folder_of(oracles, f"modernbert/{name}", tmp_path)
    with in_this_process():
        run = RunDirectory(convert(folder, tmp_path / "run", ("onnx",), transformers=True, layouts=(LAYOUT,)))
    assert run.manifest()["proof"]["end_to_end"]["verdict"] == "pass"
    assert run.manifest()["verdicts"][f"validate-{LAYOUT}"] == "pass"
    golden, texts = np.load(oracles / f"modernbert/{name}/golden.npz"), oracles / f"modernbert/{name}/texts.json"
    texts = json.loads(texts.read_text())
    texts = texts if isinstance(texts, list) else texts["texts"]
    np.testing.assert_allclose(open_artifacts(run.path).embed(texts), golden["st_embeddings"], atol=2e-6)
    opened = sentence_transformer(run.path)
    np.testing.assert_allclose(opened.encode(texts), golden["st_embeddings"], atol=2e-6)
    states, embedded = as_clients_read(run.path / "sentence_transformers", texts[:2])
    assert states.shape == (2, states.shape[1], embedded.shape[1])
    np.testing.assert_allclose(embedded, golden["st_embeddings"][:2], atol=2e-6)


def as_clients_read(folder: Path, texts: list[str]) -> list[np.ndarray]:
    """Read the folder as fastembed does: tokenizer.json, whatever of ids and mask the program takes, all outputs."""
    import onnxruntime
    from tokenizers import Tokenizer

    opened = Tokenizer.from_file(str(folder / "tokenizer.json"))
    opened.enable_padding(pad_id=json.loads((folder / "config.json").read_text())["pad_token_id"])
    read = opened.encode_batch(texts)
    fed = {"input_ids": [each.ids for each in read], "attention_mask": [each.attention_mask for each in read]}
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx")
    assert [output.name for output in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    return session.run(None, {name: np.array(rows, np.int64) for name, rows in fed.items()})


def test_the_clients_folder_of_a_traced_encoder_has_its_modules(oracles, tmp_path):
    """Whose weights have torch's names and axes in the network, as in the folder."""
    folder = folder_of(oracles, "st_zoo/dense_tanh", tmp_path)
    with in_this_process():
        run = convert(folder, tmp_path / "run", ("onnx",), transformers=True, layouts=(LAYOUT,))
    written = run / "sentence_transformers"
    (place,) = (m["path"] for m in json.loads((written / "modules.json").read_text()) if m["type"].endswith("Dense"))
    (own,) = (m["path"] for m in json.loads((folder / "modules.json").read_text()) if m["type"].endswith("Dense"))
    wanted = load_file(folder / own / "model.safetensors")
    for name, array in load_file(written / place / "model.safetensors").items():
        np.testing.assert_array_equal(array, wanted[name])
    assert json.loads((written / "config.json").read_text())["model_type"] == "bert"


def distilbert(folder: Path, labels: int) -> Path:
    """Write a DistilBERT that classifies pairs, with a tokenizer, as a user's trainer saves it."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(3)
    sizes = {"vocab_size": 300, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40}
    names = dict(enumerate(("bad", "good", "neither")[:labels]))
    config = DistilBertConfig(**sizes, initializer_range=0.3, id2label=names, label2id={n: i for i, n in names.items()})
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(families()["bert"].sizes[TINY]).save(str(folder / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": 30, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("labels", [3, pytest.param(1, marks=pytest.mark.prove)])
def test_a_classifier_that_no_family_knows_scores_pairs(tmp_path, labels):
    """Its labels and the activation by the configuration; sentence-transformers' CrossEncoder is the judge."""
    folder = distilbert(tmp_path / "folder", labels)
    with in_this_process():
        run = RunDirectory(convert(folder, tmp_path / "run", ("onnx",), transformers=True))
    assert run.manifest()["proof"]["end_to_end"]["verdict"] == "pass"
    artifacts = open_artifacts(run.path)
    assert artifacts.labels == ["bad", "good", "neither"][:labels]
    assert artifacts.rules["scores"]["activation"] == ("sigmoid" if labels == 1 else "identity")
    rows = [("the fox", "quick"), "a fox", ("the " * 40, "fox " * 40)]
    assert artifacts.score(rows).shape == ((3,) if labels == 1 else (3, labels))
    assert (artifacts.cut, artifacts.limit) == ((2,), 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json lies beside the checkpoint"),
        (lambda folder: _edit(folder, model_type="nobody_knows"), "transformers .* refuses it"),
        (lambda folder: _edit(folder, num_hidden_layers=3), "parameter.s. without a tensor: network.encoder.layer.2"),
    ],
    ids=["no configuration", "no such architecture", "a layer too many"],
)
def test_a_folder_that_does_not_fit_is_named(oracles, tmp_path, change, message):
    folder = folder_of(oracles, "mpnet/mpnet_st", tmp_path)
    change(folder)
    with pytest.raises(InputError, match=message):
        identify(folder, Options(checkpoint=str(folder), transformers=True))


def _edit(folder: Path, name: str = "config.json", **fields) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


SMALL = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def saved(network, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def generates_as_upstream(run: Path, network, formats: tuple[str, ...]) -> None:
    """See that every program generated the golden's ids, which are those that upstream generates, row by row."""
    import torch

    directory = RunDirectory(run)
    assert set(directory.manifest()["verdicts"].values()) == {"pass"}
    reports = json.loads((run / "reports/validate.json").read_text())
    for name in formats:
        assert [check["output"] for check in reports[name]["checks"] if check["entry_point"] == "generate"] == ["ids"]
    family, config = family_and_config(directory)
    (greedy,) = family.procedures(config)
    golden = procedure.read(run / GOLDENS, greedy)
    assert golden.ids.shape == (2, greedy.steps)
    assert not golden.inputs["attention_mask"].all()
    for ids, mask, wanted in zip(golden.inputs["input_ids"], golden.inputs["attention_mask"], golden.ids, strict=True):
        given = torch.from_numpy(ids[mask == 1][None].astype(np.int64))
        ones = torch.ones_like(given)
        options = {"max_new_tokens": greedy.steps, "do_sample": False, "eos_token_id": None}
        (found,) = network.generate(given, attention_mask=ones, **options)
        assert found[-greedy.steps :].tolist() == wanted.tolist()


def test_a_generating_class_generates_as_upstream(tmp_path):
    """Rows of different length: the places of a token are those of its own row."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(2)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=32, initializer_range=0.5, **SMALL)
    network = GPT2LMHeadModel(config).eval()
    formats = ("onnx", "stablehlo")
    with in_this_process():
        run = convert(saved(network, tmp_path), tmp_path / "run", formats, transformers=True, no_tokenizer=True)
    generates_as_upstream(run, network, formats)


def test_an_encoder_with_a_decoder_is_two_entry_points_that_generate(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration, set_seed

    set_seed(2)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
    network = T5ForConditionalGeneration(T5Config(**sizes, **SMALL, decoder_start_token_id=0)).eval()
    folder = saved(network, tmp_path)
    with in_this_process():
        run = RunDirectory(convert(folder, tmp_path / "run", ("onnx",), transformers=True, no_tokenizer=True))
    generates_as_upstream(run.path, network, ("onnx",))
    entries = run.manifest()["entry_points"]
    assert entries["decode"]["outputs"][0]["shape"] == ["batch", "tokens", 50]
    assert entries["encode"]["outputs"][0]["name"] == entries["decode"]["inputs"][1]["name"]


EXAMPLES = {
    "own_module": ("sentences.pt", "net:make", "ids: int64[rows, words <= 64], mask: int64[rows, words]"),
    "vision_model": ("pictures.pt", "net:make", "spec.json"),
    "transformers_encoder": ("folder", "", ""),
}
"""Folder of an example -> what its program writes, and what its README says of it on the command line."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of where sentence-transformers has its modules
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_does_what_it_says(tmp_path, monkeypatch, name):
    example, (made, module, inputs) = ROOT / "examples" / name, EXAMPLES[name]
    if not example.is_dir():
        pytest.skip("examples belong to a checkout, not to an installation")
    (words,) = [words for words in commands(example / "README.md") if words[0] == "all"]
    given = dict(zip(words[2::2], words[3::2], strict=True)) if module else {}
    assert words[1] == made
    assert (given.get("--module", ""), given.get("--inputs", "")) == (module, inputs)
    shutil.copytree(example, tmp_path / "example", ignore=shutil.ignore_patterns("*.pt", "artifacts"))
    monkeypatch.chdir(tmp_path / "example")
    monkeypatch.setattr(sys, "argv", ["example"])
    (program,) = Path().glob("*.py")
    for other in ("net", "folder"):
        sys.modules.pop(other, None)
    runpy.run_path(str(program), run_name="__main__")
    options = {"module": module, "inputs": inputs} if module else {"transformers": True}
    with in_this_process():
        run = RunDirectory(convert(Path(made), tmp_path / "run", ("onnx",), **options))
    assert set(run.manifest()["verdicts"].values()) == {"pass"}
    assert module or run.manifest()["proof"]["end_to_end"]["verdict"] == "pass"
    sys.modules.pop("net", None)


VISION = {
    "Dinov2": {"image_size": 42, "patch_size": 7},  # trained at another size than the processor gives
    "ViT": {"image_size": 28, "patch_size": 7},
}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "resample": 3,
}


@pytest.mark.parametrize("name", ["Dinov2", pytest.param("ViT", marks=pytest.mark.prove)])
def test_a_vision_encoder_is_converted_with_its_processor(tmp_path, name):
    import torch
    import transformers
    from PIL import Image

    from bgevis.converter.use.artifacts import open_artifacts

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    torch.manual_seed(3)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes, **VISION[name]))
    network.eval().save_pretrained(tmp_path / "folder")
    (tmp_path / "folder/preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with in_this_process():
        run = RunDirectory(convert(tmp_path / "folder", tmp_path / "run", ("onnx",), transformers=True))
    manifest = run.manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert manifest["proof"]["end_to_end"]["verdict"] == "pass"
    assert manifest["entry_points"]["encode_image"]["inputs"][0]["shape"] == ["batch", 28, 28, 3]
    file = run.path / "goldens/raw/images/wide.png"
    processor = transformers.AutoImageProcessor.from_pretrained(str(tmp_path / "folder"), backend="pil")
    with torch.no_grad():
        wanted = network(**processor(Image.open(file), return_tensors="pt")).pooler_output.numpy()
    np.testing.assert_allclose(open_artifacts(run.path).embed(images=[file]), wanted, atol=1e-5)
