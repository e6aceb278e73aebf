"""LoRA adapters: peft's own, on tiny checkpoints, merged and held to peft's unmerged network."""

import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_folder import tiny_folder

from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import WEIGHTS_PATH, family_and_config, network
from bgevis.converter.options import Options, command
from bgevis.converter.progress import Silent
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import build, load, reference, remap, verify
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.restore import restore
from bgevis.exporters.base import exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model.adapter import Adapter, Layers
from bgevis.model.derived import LowRank
from bgevis.model.runner import NNXRunner
from bgevis.validation import goldens
from bgevis.validation.cases import tap_case
from bgevis.validation.compare import compare
from bgevis.validation.errors import EnvironmentFailure, InputError

from .in_process import convert, in_this_process, judge

peft = pytest.importorskip("peft", reason="adapters are made and judged by peft, of the extra upstream")
transformers = pytest.importorskip("transformers")

BERT = ("query", "value", "intermediate.dense")
QWEN = ("q_proj", "v_proj", "down_proj")


def upstream(base: Path):
    config = json.loads((base / "config.json").read_text())
    causal = config["architectures"][0].endswith("ForCausalLM")
    cls = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return cls.from_pretrained(str(base), dtype="auto")


def trained(base: Path, out: Path, seed: int = 0, bin_file: bool = False, **fields) -> Path:
    """Let peft write an adapter on a checkpoint, as if it were trained: nothing of it is zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(upstream(base), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **fields}))
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                spread = 0.2 * parameter.detach().std().nan_to_num() + 0.05
                parameter.data += spread * torch.randn_like(parameter)
                assert "base_layer.weight" not in name
        model.save_pretrained(str(out), safe_serialization=not bin_file)
        torch.save(model.state_dict(), out.parent / "unmerged.pt")
    return out


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Give a checkpoint of a family, in a folder of its own, made once."""
    made: dict[tuple[str, str], Path] = {}

    def give(family: str, dtype: str = "float32") -> Path:
        if (family, dtype) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
            write_fixture(family, "tiny", 3, dtype, folder / "model.safetensors")
            made[family, dtype] = folder
        return made[family, dtype]

    return give


def converted(base: Path, out: Path, **options) -> RunDirectory:
    """Take a checkpoint with its adapter to the weights file."""
    said, silent = Options(checkpoint=str(base), no_tokenizer=True, **options), Silent()
    run = load.perform(out, said, silent)
    for stage in (remap, verify, build):
        stage.perform(run, said, silent)
    return run


def held(run: RunDirectory):
    """Hold the network on the weights file against peft, outputs and intermediate values, on one case of each entry."""
    family, config = family_and_config(run)
    ledger, original = Ledger.read(run.path / "ledger.json"), reference.read_original(run, Silent())
    peers = family.reference(config, original)
    peers.check(ledger.fillers)
    exact = peers.in_dtype("float64")
    runner = NNXRunner(network(run), WeightsFile(run.path / WEIGHTS_PATH))
    cases, taps = [], {}
    for name, entry in runner.net.entry_points.items():
        case = tap_case(entry)
        cases.append(goldens.golden(entry, case, exact.run(name, case.inputs), peers.run(name, case.inputs)))
        keep = lambda value: goldens.sample(value).copy()  # noqa: E731
        wanted = exact.traced(name, case.inputs, reference.tapped(ledger, exact), keep)[1]
        taps[name] = wanted, runner.taps(name, case.inputs)
    return compare(runner, runner.net.entry_points, cases), taps, peers


def passes(run: RunDirectory) -> None:
    report, taps, peers = held(run)
    assert report.passed, report.summary()
    assert "peft" in peers.name
    for wanted, got in taps.values():
        owners = {leaf.rpartition(".")[0] for leaf in network(run).leaves}
        assert [module for module in got if module in owners and module not in wanted] == []
        for module in wanted.keys() & got.keys():
            size = np.abs(wanted[module]).max()
            assert np.abs(got[module] - wanted[module]).max() <= 1e-5 * max(size, 1), module


FORMS = {
    "plain": {},
    "patterns": {"rank_pattern": {"query": 2, "q_proj": 2}, "alpha_pattern": {"value": 16, "v_proj": 16}},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "one layer": {"layers_to_transform": [1]},
}


CASES = [*(("bert", form) for form in FORMS), ("qwen2", "all biases"), ("qwen2", "dora"), ("qwen3", "patterns")]


@pytest.mark.parametrize(("family", "form"), CASES)
def test_a_merged_network_is_the_unmerged_one(bases, tmp_path, family, form):
    targets = BERT if family == "bert" else QWEN
    adapter = trained(bases(family), tmp_path / "adapter", target_modules=list(targets), **FORMS[form])
    passes(converted(bases(family), tmp_path / "run", adapter=str(adapter)))


@pytest.mark.parametrize("lengths", [False, True], ids=["", "dora"])
def test_a_table_of_words_is_changed_too(bases, tmp_path, lengths):
    """Its factors are laid the other way round, and its lengths are of columns. peft saves the table itself with it."""
    targets = ["query", "word_embeddings"]
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=targets, use_dora=lengths)
    run = converted(bases("bert"), tmp_path / "run", adapter=str(adapter))
    passes(run)
    ledger = Ledger.read(run.path / "ledger.json")
    made = ledger.entries["embeddings.word_embeddings.weight"].made
    assert made.layouts == ("out_300 in_32", "rank_4 out_300", "in_32 rank_4")
    family, config = family_and_config(run)
    original = reference.read_original(run, Silent())
    exact = family.reference(config, original).in_dtype("float64")
    case = tap_case(network(run).entry_points["encode_text"])
    got = exact.traced("encode_text", case.inputs, reference.tapped(ledger, exact), np.array)[1]["text.embeddings.word"]
    arrays = {name: original.state[name].double().numpy() for name in made.ingredients}
    wanted = replace(made, dtype="float64").make(arrays, ledger.axes)[case.inputs["input_ids"]]
    assert np.abs(got - wanted).max() < 1e-13, "the judge computes in float64 throughout"


def test_layers_that_were_trained_whole_take_the_base_s_place(bases, tmp_path):
    saved = ["output.dense", "embeddings.LayerNorm"]
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=["query"], modules_to_save=saved)
    run = converted(bases("bert"), tmp_path / "run", adapter=str(adapter))
    passes(run)
    entries = Ledger.read(run.path / "ledger.json").entries
    name = "encoder.layer.1.attention.output.dense"
    assert entries[f"{name}.original_module.weight"].status == "dropped"
    assert entries[f"{name}.weight"].status == "mapped"


@pytest.mark.parametrize("targets", ["all-linear", ["dense"]], ids=str)
def test_a_layer_that_no_entry_point_reads_is_dropped_with_its_adapter(bases, tmp_path, targets):
    """BERT's pooler, which is among its dense layers."""
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=targets, bias="all")
    assert "base_model.model.pooler.dense.lora_A.weight" in load_file(adapter / "adapter_model.safetensors")
    run = converted(bases("bert"), tmp_path / "run", adapter=str(adapter))
    passes(run)
    entries = Ledger.read(run.path / "ledger.json").entries
    assert {entry.status for name, entry in entries.items() if name.startswith("pooler.")} == {"dropped"}


def test_an_untied_table_is_changed_and_its_head_is_not(bases, tmp_path):
    """peft saves the table with an adapter on it: that takes the base's place."""
    adapter = trained(bases("qwen2"), tmp_path / "adapter", target_modules=["embed_tokens"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert "base_model.model.model.embed_tokens.base_layer.weight" in tensors
    passes(converted(bases("qwen2"), tmp_path / "run", adapter=str(adapter)))


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("mpnet", ["attn.q", "word_embeddings"]),
        ("clip", ["q_proj", "patch_embedding"]),
        ("whisper", ["v_proj", "conv1"]),
    ],
)
def test_a_family_knows_nothing_of_it(bases, tmp_path, family, targets):
    """Layers with convolutions, towers, decoders: whatever peft changes and the judge holds."""
    adapter = trained(bases(family), tmp_path / "adapter", bin_file=family == "mpnet", target_modules=targets)
    assert (adapter / "adapter_model.bin").exists() == (family == "mpnet")
    passes(converted(bases(family), tmp_path / "run", adapter=str(adapter)))


# Inside the checkpoint


def unmerged(base: Path, out: Path, adapter: Path, prefix: str = "", document: bool = True) -> Path:
    """Give the checkpoint of a network that was saved with its adapter, as trainers leave it."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("model.safetensors"))
    state = torch.load(adapter.parent / "unmerged.pt", weights_only=True)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, out / "pytorch_model.bin")
    if document:
        shutil.copy(adapter / "adapter_config.json", out)
    return out


@pytest.mark.parametrize(("form", "prefix"), [("dora", ""), ("all biases", "qwen.model."), ("patterns", "")])
def test_an_adapter_that_was_not_merged_is_found_in_the_checkpoint(bases, tmp_path, form, prefix):
    adapter = trained(bases("qwen3"), tmp_path / "adapter", target_modules=list(QWEN), **FORMS[form])
    folder = unmerged(bases("qwen3"), tmp_path / "model", adapter, prefix)
    run = converted(folder, tmp_path / "run")
    passes(run)
    beside = converted(bases("qwen3"), tmp_path / "beside", adapter=str(adapter))
    ours, theirs = (WeightsFile(each.path / WEIGHTS_PATH) for each in (run, beside))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours.tensors)


def test_layers_that_were_trained_whole_are_found_in_the_checkpoint(bases, tmp_path):
    saved = ["output.dense"]
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=["query"], modules_to_save=saved)
    passes(converted(unmerged(bases("bert"), tmp_path / "model", adapter), tmp_path / "run"))


def test_alpha_is_asked_for_where_no_file_says_it(bases, tmp_path):
    adapter = trained(bases("qwen3"), tmp_path / "adapter", target_modules=list(QWEN))
    folder = unmerged(bases("qwen3"), tmp_path / "model", adapter, document=False)
    with pytest.raises(InputError, match=r"lora_alpha is stated nowhere; no adapter_config.json .* --set lora_alpha=N"):
        identify(folder, Options())
    run = converted(folder, tmp_path / "run", sets=("lora_alpha=6",))
    passes(run)
    assert run.manifest()["adapter"]["origin"] == "--set"
    (found,) = {group["alpha"] for group in run.manifest()["adapter"]["layers"]}
    assert found == 6.0
    with pytest.raises(InputError, match="the family qwen3 has no lora_alpha"):
        identify(bases("qwen3"), Options(sets=("lora_alpha=6",)))


def test_a_trainer_s_checkpoint_is_merged_as_peft_merged_it(oracles, tmp_path):
    """A language model inside another network, saved with an adapter, a tied head and no configuration."""
    folder = oracles / "edge_glass" / "s2_vlm_lora"
    configs = (str(folder.parent / "backbones" / "tiny-qwen2-tied" / "config.json"),)
    said = {"tower": "qwen.model.base_model.model", "sets": ("lora_alpha=8",), "configs": configs}
    run = converted(folder / "checkpoint_best" / "pytorch_model.bin", tmp_path / "run", **said)
    passes(run)
    merged, ledger = load_file(folder / "merged_qwen.safetensors"), Ledger.read(run.path / "ledger.json")
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    made = [name for name, _ in ledger.derived()]
    assert len(made) == 8
    for name in made:
        got = ledger.source(name, weights[ledger.entries[name].target])
        assert np.abs(got - merged[name].numpy()).max() < 1e-6


def test_a_network_beside_one_with_an_adapter_has_none(bases, tmp_path):
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=["query"])
    state = torch.load(adapter.parent / "unmerged.pt", weights_only=True)
    plain = load_file(bases("bert") / "model.safetensors")
    both = {f"question.{n}": t for n, t in plain.items()} | {f"text.{n}": t for n, t in state.items()}
    torch.save(both, tmp_path / "both.pt")
    said = {"configs": (str(bases("bert") / "config.json"),), "pooling": "cls", "normalize": True}
    found = identify(tmp_path / "both.pt", Options(tower="question", **said))
    assert found.adapter is None
    assert not any("lora" in name for name in found.checkpoint.tensors)
    other = identify(tmp_path / "both.pt", Options(tower="text.base_model.model", sets=("lora_alpha=6",), **said))
    assert len(other.adapter.layers[0].names) == 2


def test_two_adapters_in_a_checkpoint_are_refused(bases, tmp_path):
    adapter = trained(bases("qwen3"), tmp_path / "adapter", target_modules=["q_proj"])
    state = torch.load(adapter.parent / "unmerged.pt", weights_only=True)
    state |= {name.replace(".default.", ".other."): tensor for name, tensor in state.items() if ".lora_" in name}
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(InputError, match="holds 2 adapters, default, other: which of them are added up"):
        identify(tmp_path / "model.bin", Options())


# What the judge and the checks refuse


def test_another_alpha_is_another_network(bases, tmp_path):
    """Ours alone: the judge reads peft's own document."""
    adapter = trained(bases("bert"), tmp_path / "adapter", target_modules=list(BERT))
    said, silent = Options(checkpoint=str(bases("bert")), adapter=str(adapter)), Silent()
    run = load.perform(tmp_path / "run", said, silent)
    file = run.path / "manifest.json"
    manifest = json.loads(file.read_text())
    for group in manifest["adapter"]["layers"]:
        group["alpha"] *= 1.01
    file.write_text(json.dumps(manifest))
    for stage in (remap, verify, build):
        stage.perform(run, said, silent)
    report, _, _ = held(run)
    assert not report.passed


def edited(adapter: Path, out: Path, **fields) -> Path:
    shutil.copytree(adapter, out)
    file = out / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return out


@pytest.fixture(scope="module")
def plainly(bases, tmp_path_factory):
    return trained(bases("bert"), tmp_path_factory.mktemp("plainly") / "adapter", target_modules=["query", "key"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'; merge it with peft first"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is true, which this tool does not merge; merge it with peft first"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which this tool does not merge"),
        ({"lora_bias": True}, "lora_bias is true, which"),
        ({"target_parameters": ["x"]}, "target_parameters is .*, which this tool does not merge"),
        ({"something_new": 3}, "nobody here knows what 1 field would change: something_new = 3; remove"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', expected a number"),
        ({"r": 8}, "the rank of encoder.layer.0.attention.self.key is 8 there and 4 in the adapter's tensors"),
        ({"rank_pattern": {"key": 2}}, "the rank of encoder.layer.0.attention.self.key is 2 there and 4"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern has '\(', no pattern"),
        ({"alpha_pattern": {"key": "2"}}, "alpha_pattern of key is '2', expected a number"),
        ({"use_dora": True}, "use_dora is true, but .* has no lora_magnitude_vector"),
    ],
)
def test_what_makes_another_network_is_refused_by_name(bases, plainly, tmp_path, fields, said):
    with pytest.raises(InputError, match=said):
        identify(bases("bert"), Options(adapter=str(edited(plainly, tmp_path / "adapter", **fields))))


def changed(adapter: Path, out: Path, change) -> Path:
    shutil.copytree(adapter, out)
    save_file(change(load_file(out / "adapter_model.safetensors")), out / "adapter_model.safetensors")
    return out


KEY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {n.replace("self.", "own."): x for n, x in t.items()},
         r"changes encoder.layer.0.attention.own.key and 3 more, .* trained on another base \(it says '.*'\)"),
        (lambda t: t | {f"{KEY}.lora_A.weight": torch.zeros(4, 128)},
         r"was trained on another base .*: its lora_A of .*query is \(4, 128\), and the checkpoint's .* is \(32, 32\)"),
        (lambda t: {n: x for n, x in t.items() if n != f"{KEY}.lora_B.weight"},
         "has lora_A for encoder.layer.0.attention.self.query, but no lora_B"),
        (lambda t: t | {"base_model.model.classifier.weight": torch.zeros(2, 32)},
         "holds base_model.model.classifier.weight, for which the checkpoint has no tensor classifier.weight"),
        (lambda t: t | {f"{KEY}.lora_B.bias": torch.zeros(32)}, "holds .*lora_B.bias, for which the checkpoint has no"),
        (lambda t: {"other": torch.zeros(2)}, "holds no adapter: no tensor is called"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(bases, plainly, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        identify(bases("bert"), Options(adapter=str(changed(plainly, tmp_path / "adapter", change))))


def test_a_place_without_an_adapter_is_told(bases, tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with adapter_config.json and adapter_model.safetensors"):
        identify(bases("bert"), Options(adapter=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8, "r": 4}')
    with pytest.raises(InputError, match=r"holds neither adapter_model.safetensors nor adapter_model.bin"):
        identify(bases("bert"), Options(adapter=str(tmp_path)))


def test_a_table_that_is_used_twice_is_refused(bases, tmp_path):
    adapter = trained(bases("qwen3"), tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(
        InputError, match=r"the adapter changes .*, but lm_head.weight and model.embed_tokens.weight are"
    ):
        converted(bases("qwen3"), tmp_path / "run", adapter=str(adapter))


GROUP = {
    "names": ["x"], "shape": [4, 3], "rank": 2, "alpha": 4.0, "rslora": False, "lengths": False, "embedding": False,
    "dtype": "float32",
}  # fmt: skip
STATED = {"layers": [GROUP], "replaced": [["b", "b"]], "trained": "", "held": "", "origin": "--set"}


def test_an_adapter_is_read_back_from_the_manifest_and_what_is_none_is_refused():
    assert Adapter.from_json(STATED).to_json() == STATED
    wrong = [
        {"names": "x"},
        {"names": [1]},
        {"shape": [4]},
        {"shape": [4, "3"]},
        {"rank": 0},
        {"rank": "2"},
        {"more": 1},
    ]
    documents = [{**STATED, "layers": [GROUP | each]} for each in wrong]
    documents += [
        {**STATED, "layers": 3},
        {**STATED, "layers": [3]},
        {**STATED, "replaced": [["b"], 3]},
        {},
        3,
        "x",
        [],
    ]
    for document in documents:
        with pytest.raises(InputError, match="manifest"):
            Adapter.from_json(document)


def test_without_peft_the_judge_says_what_to_install(monkeypatch):
    from bgevis.model import adapter_judge

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EnvironmentFailure, match=r"parity needs peft, .*: pip install 'bgevis-convert\[upstream\]'"):
        adapter_judge.peft()


# Half precision


@pytest.mark.parametrize("form", ["plain", "dora"])
def test_half_precision_keeps_what_it_can_and_says_how_much(bases, tmp_path, form):
    """In float32 all is kept. As the source has it, the sum is rounded, and peft's own sum judges it, rounded too."""
    base = bases("qwen3", "bfloat16")
    adapter = trained(base, tmp_path / "adapter", target_modules=list(QWEN), **FORMS[form])
    whole = converted(base, tmp_path / "whole", adapter=str(adapter))
    assert Ledger.read(whole.path / "ledger.json").notes == ()
    passes(whole)
    run = converted(base, tmp_path / "run", adapter=str(adapter), dtype="source")
    (note,) = Ledger.read(run.path / "ledger.json").notes
    assert "adapter: as bfloat16 the 6 merged layers keep 9" in note
    assert "--dtype float32 keeps all of it" in note
    passes(run)
    assert ", merged" in held(run)[2].name


# Arithmetic


SMALL = st.integers(1, 6)


@given(SMALL, SMALL, SMALL, st.floats(0.1, 64), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_is_merged_is_the_sum_in_float64(outputs, inputs, rank, alpha, rslora, seed):
    rng, shapes = np.random.default_rng(seed), ((outputs, inputs), (rank, inputs), (outputs, rank))
    w, a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    m = rng.random(outputs).astype(np.float32)
    wanted = w.astype(np.float64) + alpha / (rank**0.5 if rslora else rank) * b.astype(np.float64) @ a
    lengths = (m / np.linalg.norm(wanted, axis=1))[:, None] * wanted
    for dtype, close in (("float32", 1e-6), ("bfloat16", 2**-8)):
        layers = Layers(("x",), (outputs, inputs), rank, alpha, rslora, True, False, dtype)
        for each, exact in ((layers, lengths), (replace(layers, lengths=False), wanted)):
            (word,) = each.merges
            made = LowRank(
                word.source, word.a, word.b, word.layouts, alpha, rslora, word.dtype, word.magnitude, word.lengths
            )
            arrays = dict(zip(made.ingredients, (w, a, b, m), strict=False))
            got = made.make(arrays, each.axis_sizes)
            assert str(got.dtype) == dtype
            assert np.allclose(got.astype(np.float64), exact, rtol=close, atol=close * np.abs(exact).max() * 1e-3)
            lost, change = made.lost(arrays, got, each.axis_sizes)
            assert lost <= close * np.linalg.norm(exact) * 1.01
            assert np.isclose(change, np.linalg.norm(exact - w), rtol=1e-6, atol=1e-9)
            assert list(made.problems(each.axis_sizes)) == []


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_what_multiplies_the_ingredients_multiplies_the_layer_and_its_parts(embedding, lengths):
    """The base's share as much as the adapter's: peft adds them, and a bias, in float32, and would lose one of them."""
    (word,) = Layers(("x",), (4, 6), 2, 3.0, False, lengths, embedding, "float64").merges
    made = LowRank(word.source, word.a, word.b, word.layouts, 3.0, False, "float64", word.magnitude, word.lengths)
    sizes = {"out_4": 4, "in_6": 6, "rank_2": 2}
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape) for name, (shape, _) in made.shapes(sizes).items()}
    exact = made.make(arrays, sizes)
    across = 2.0 ** np.arange(6)[None] if embedding else 2.0 ** np.arange(4)[:, None]
    for factor in (4.0, across):
        factors = made.factors(factor, sizes)
        assert {made.base, made.b} <= factors.keys()
        changed = {name: array * factors.get(name, 1) for name, array in arrays.items()}
        assert np.allclose(made.make(changed, sizes), factor * exact, rtol=1e-12)
    if lengths:
        with pytest.raises(ValueError, match="cannot be multiplied by numbers that differ"):
            made.factors(2.0 ** np.arange(24).reshape(4, 6), sizes)


# The whole way


def test_the_run_says_what_a_leaf_is_made_of_and_is_proved_again_without_the_adapter(tmp_path):
    """From raw texts too, which sentence-transformers encodes with peft's layers in its network."""
    base = tmp_path / "base"
    tiny_folder(base).rename(base / "model.safetensors")
    adapter = trained(base, tmp_path / "adapter", target_modules=["query", "word_embeddings"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = peft.PeftModel.from_pretrained(upstream(base), str(adapter)).merge_and_unload().state_dict()
    looked = CliRunner().invoke(main, ["inspect", str(base), "--adapter", str(adapter)])
    assert "adapter    LoRA on 3 layers, rank 4, alpha 6 (adapter_config.json: lora_alpha)" in looked.output
    with in_this_process():
        convert(base, tmp_path / "run", ("onnx",), adapter=str(adapter))
        shutil.rmtree(adapter)
        judge(tmp_path / "run")
    manifest = RunDirectory(tmp_path / "run").manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert len(manifest["source"]["files"]["adapter/adapter_model.safetensors"]["sha256"]) == 64
    assert manifest["documents"]["adapter_config.json"]["fields"]["lora_alpha"] == "used"
    assert manifest["unread"]["adapter/README.md"].startswith("changes nothing")
    said = json.loads((tmp_path / "run" / "goldens" / "judge.json").read_text())
    assert "with peft 0." in said["network"]
    assert "encode" in said["end_to_end"]["judge"]
    answer = CliRunner().invoke(main, ["why", str(tmp_path / "run"), "encoder.layer.0.attention.self.query.weight"])
    assert "base_layer.weight + 1.5 = 6 / 4 · B · A over rank_4" in answer.output
    assert "--adapter DIR" in command(manifest)
    assert "LoRA on 3 layers, rank 4, alpha 6" in (tmp_path / "run" / "reports" / "report.html").read_text()
    back = tmp_path / "back.safetensors"
    restore(RunDirectory(tmp_path / "run"), exporters()["onnx"], back, Silent())
    name = "encoder.layer.0.attention.self.query"
    restored = load_file(back)
    assert torch.allclose(restored[f"{name}.weight"], merged[f"{name}.weight"], atol=1e-6)
    assert restored.keys() == {n for n in load_file(base / "model.safetensors") if not n.startswith("pooler.")}
