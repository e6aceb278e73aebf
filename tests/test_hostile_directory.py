"""Run directories that somebody altered, with all digests made to fit: `validate` must not say pass.

What is changed is changed as whoever may write to the folder could: manifest and digests anew, provenance taken
away. Each time the answer is one error with its exit code, and a JUnit report that says so too.
"""

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from in_process import convert, in_this_process, judge
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from vocabularies import filled

from bgevis.converter.directory import RunDirectory, sha256
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.yardsticks import yardstick_problems
from bgevis.converter.stages import export
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.validation.errors import GateError, InputError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)])
KERNEL = "text.layers.1.attention.key.kernel"


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_fixture("bert", "tiny", 9, "float32", folder / "tiny.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return convert(folder / "tiny.safetensors", folder / "run", ("onnx",))


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def resealed(run: Path, change=lambda manifest: None) -> None:
    """Make manifest and digests fit what is there."""
    file = run / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in list(manifest["files"]):
        if (run / name).is_file():
            manifest["files"][name] = {"bytes": (run / name).stat().st_size, "sha256": sha256(run / name)}
    change(manifest)
    file.write_text(json.dumps(manifest))
    (run / "provenance.json").unlink(missing_ok=True)


def program(change):
    def alter(run: Path) -> None:
        file = run / "programs" / "encode_text.onnx"
        model = onnx.load(file, load_external_data=False)
        change(model)
        file.write_bytes(model.SerializeToString())

    return alter


def node(model, name):
    return next(n for n in model.graph.node if n.name == name)


def weight(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def normalise_all(model):
    """Whatever onnxruntime makes of it: other runtimes do as it says."""
    (axis,) = (a for a in node(model, "text.embeddings.norm.LayerNormalization").attribute if a.name == "axis")
    axis.i = 0


def feed_int32(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    model.graph.input[0].name = "narrow"
    model.graph.node.insert(0, helper.make_node("Cast", ["narrow"], ["input_ids"], to=TensorProto.INT64))
    model.graph.input[0].name = "input_ids"
    model.graph.node[0].input[0] = "input_ids"
    model.graph.node[0].output[0] = "wide"
    for other in list(model.graph.node)[1:]:
        for i, name in enumerate(other.input):
            if name == "input_ids":
                other.input[i] = "wide"


def give_float64(model):
    last = next(n for n in model.graph.node if "embeddings" in n.output)
    last.output[0] = "narrow"
    model.graph.node.append(helper.make_node("Cast", ["narrow"], ["embeddings"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def fix_the_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"


def forget_the_mask_of_long_texts(model):
    """Let the mask count only where there are fewer than 30 tokens."""
    graph = model.graph
    for i, name in enumerate(["one", "thirty"]):
        graph.initializer.append(numpy_helper.from_array(np.array([1, 30][i], np.int64), name))
    new = [
        helper.make_node("Shape", ["attention_mask"], ["tokens"], start=1, end=2),
        helper.make_node("Less", ["tokens", "thirty"], ["short"]),
        helper.make_node("Where", ["short", "attention_mask", "one"], ["heeded"]),
    ]
    for other in graph.node:
        for i, name in enumerate(other.input):
            if name == "attention_mask":
                other.input[i] = "heeded"
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*new, *nodes])


def inline(change):
    """Put a changed weight into the program itself."""

    def alter(run: Path) -> None:
        from bgevis.exporters.weights import WeightsFile

        array = WeightsFile(run / "programs" / "weights.safetensors")[KERNEL]

        def swap(model):
            tensor = weight(model, KERNEL)
            tensor.CopyFrom(numpy_helper.from_array(change(np.array(array)).reshape(tuple(tensor.dims)), KERNEL))

        program(swap)(run)

    return alter


def one_bit(array):
    array.view(np.uint32)[3, 1, 2] ^= 1
    return array


def swap_heads(array):
    return np.ascontiguousarray(array[:, [1, 0, *range(2, array.shape[1])]])


def transpose(array):
    return np.ascontiguousarray(array.reshape(array.shape[0], -1).T).reshape(array.shape)


def without_the_keys_bias(model):
    add = node(model, "text.layers.0.attention.key.Add")
    kept = next(name for name in add.input if not name.endswith(".bias"))
    add.CopyFrom(helper.make_node("Identity", [kept], list(add.output), add.name))


def goldens(change, folder="goldens"):
    def alter(run: Path) -> None:
        file = run / folder / "index.json"
        index = json.loads(file.read_text())
        change(index)
        file.write_text(json.dumps(index))

    return alter


def budgets(**numbers):
    def change(index):
        for case in index["encode_text"]["cases"].values():
            case["budgets"]["embeddings"].update(numbers)

    return goldens(change)


def rowless(run: Path) -> None:
    """Keep every golden, of no rows."""
    file = run / "goldens" / "encode_text.safetensors"
    save_file({name: array[:0] for name, array in load_file(file).items()}, file)


def nan_outputs(run: Path) -> None:
    file = run / "goldens" / "encode_text.safetensors"
    save_file({n: np.full_like(a, np.nan) if "/outputs/" in n else a for n, a in load_file(file).items()}, file)


def flip_a_bit_of(name, array):
    """Flip the lowest bit of the exponent of the first number of the arrays whose names end so."""

    def alter(run: Path) -> None:
        arrays = load_file(run / name)
        for key in [key for key in arrays if key.endswith(array)]:
            flat = arrays[key].reshape(-1).view(np.uint64 if arrays[key].itemsize == 8 else np.uint32)
            flat[0] ^= 1 << (52 if arrays[key].itemsize == 8 else 1)
        save_file(arrays, run / name)

    return alter


def one_array_more(run: Path) -> None:
    file = run / "goldens" / "encode_text.safetensors"
    save_file(load_file(file) | {"more": np.zeros(3)}, file)


def document(name, change):
    def alter(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return alter


def linked(name):
    def alter(run: Path) -> None:
        (run / name).rename(run.parent / "elsewhere")
        (run / name).symlink_to(run.parent / "elsewhere")

    return alter


def fifo(name):
    def alter(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return alter


def backdoor(model):
    """Turn the embedding round where seven tokens are the same rare one."""
    graph = model.graph
    last = next(n for n in graph.node if "embeddings" in n.output)
    last.output[0] = "honest"
    for name, value in {"rare": np.array(271), "seven": np.array(7), "axes": np.array([1])}.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
    graph.node.extend(
        [
            helper.make_node("Equal", ["input_ids", "rare"], ["hits"]),
            helper.make_node("Cast", ["hits"], ["counted"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["counted", "axes"], ["sum"]),
            helper.make_node("Less", ["sum", "seven"], ["few"]),
            helper.make_node("Neg", ["honest"], ["turned"]),
            helper.make_node("Where", ["few", "honest", "turned"], ["embeddings"]),
        ]
    )


def dead_node(model):
    model.graph.node.append(helper.make_node("Neg", ["embeddings"], ["unread"]))


def cut_weights(run: Path) -> None:
    os.truncate(run / "programs" / "weights.safetensors", 5000)


def stated(change):
    """Change the manifest itself."""
    change.of_the_manifest = True
    return change


ALTERED = {
    "an epsilon of the program": (
        program(lambda m: setattr(node(m, "text.layers.1.down_norm.LayerNormalization").attribute[1], "f", 1e-3)),
        "text.layers.1.down_norm diverges first",
        "epsilon is 0.001, not 1e-12",
    ),
    "a norm over all axes": (program(normalise_all), "LayerNormalization begins at axis 0, its scale has 1"),
    "ids are fed as int32": (program(feed_int32), "input_ids should be int64"),
    "outputs in float64": (program(give_float64), "embeddings should be float32"),
    "an axis by another name": (program(fix_the_batch), "should be int64 (batch, tokens), got int64 (rows, tokens)"),
    "the mask is heeded only in short texts": (program(forget_the_mask_of_long_texts), "only on other inputs"),
    "one bit of a weight inside the program": (inline(one_bit), KERNEL, "differs from the checkpoint's"),
    "a transposed weight inside the program": (inline(transpose), KERNEL, "it is transposed"),
    "two heads swapped inside the program": (inline(swap_heads), KERNEL, "with its heads 0 and 1 swapped"),
    "a key's bias is not read": (program(without_the_keys_bias), "text.layers.0.attention.key.bias", "does not use it"),
    "no goldens": (goldens(lambda index: index.clear()), "no goldens of encode_text"),
    "no cases": (goldens(lambda index: index["encode_text"]["cases"].clear()), "lack the case 'ragged batch'"),
    "one case is gone": (
        goldens(lambda i: i["encode_text"]["cases"].pop(next(c for c in i["encode_text"]["cases"] if "longest" in c))),
        "lack the case 'longest text",
    ),
    "a probe has no cases": (
        goldens(lambda index: index["encode_text"]["cases"].clear(), "goldens/probes/low_variance"),
        "lack the case 'low variance'",
    ),
    "no probes": (lambda run: shutil.rmtree(run / "goldens" / "probes"), "missing"),
    "goldens of no rows": (rowless, "expected int32 (3, 24)"),
    "goldens of NaN": (nan_outputs, "scale"),
    "an endless budget": (budgets(yardstick=float("inf")), "Infinity in its JSON, which is not a number"),
    "a wide budget": (budgets(yardstick=0.3), "anything pass"),
    "a wide scale": (budgets(scale=1e9), "the largest value is"),
    "a budget of NaN": (budgets(yardstick=float("nan")), "NaN in its JSON, which is not a number"),
    "another allowance": (budgets(allowed=1e9), "allowed is 1000000000.0, expected"),
    "a yardstick that was never measured": (
        budgets(yardstick=2.0**-12, allowed=2.0**-10),
        "float32 is said to cost",
        "costs the NNX model",
    ),
    "a wide yardstick of a module": (
        goldens(lambda i: i["encode_text"]["taps"]["text.layers.0.up"].__setitem__(0, 0.01)),
        "text.layers.0.up: float32 is said to cost",
    ),
    "a budget of text": (budgets(yardstick="large"), "do not fit"),
    "other inputs": (flip_a_bit_of("goldens/encode_text.safetensors", "/inputs/input_ids"), "other numbers"),
    "taps of garbage": (
        flip_a_bit_of("goldens/taps/encode_text.safetensors", "text.layers.0.up"),
        "is not what the NNX model gives",
    ),
    "an array that nobody names": (one_array_more, "encode_text.safetensors"),
    "other factors of a probe": (
        document("goldens/probes/low_variance/factors.json", lambda d: d.update({KERNEL: 2.0})),
        "factors.json",
    ),
    "a rule of the ledger": (
        document("ledger.json", lambda d: next(iter(d["tensors"].values())).update(rule="as it was")),
        "rule is 'as it was'",
    ),
    "a total of the ledger": (
        document("ledger.json", lambda d: d["totals"]["mapped"].update(tensors=7)),
        "totals.mapped.tensors is 7",
    ),
    "a prefix": (document("preprocess.json", lambda d: d["texts"].update(prefix="query: ")), "prefix is 'query: '"),
    "another similarity": (
        document("preprocess.json", lambda d: d["embeddings"].update(similarity="cosine")),
        "similar",
    ),
    "a tokenizer elsewhere": (
        document("preprocess.json", lambda d: d["texts"].update(tokenizer="/tmp/tokenizer.json")),
        "/tmp/tokenizer.json",
    ),
    "no embeddings": (document("preprocess.json", lambda d: d.update(embeddings={})), "embeddings"),
    "the tokenizer's own truncation": (
        document("tokenizer.json", lambda d: d["truncation"].update(max_length=3)),
        "truncation.max_length is 3",
    ),
    "the tokenizer's own padding": (
        document("tokenizer.json", lambda d: d["padding"].update(direction="Left")),
        "padding.direction is 'Left'",
    ),
    "no raw cases": (document("goldens/raw/index.json", lambda d: d.update(cases={})), "cases"),
    "a raw text": (document("goldens/raw/index.json", lambda d: d["texts"][2].update(text="a")), "texts[2].text"),
    "a program that is linked": (linked("programs/encode_text.onnx"), "is a link"),
    "a golden that is linked": (linked("goldens/encode_text.safetensors"), "is a link"),
    "a golden that is a FIFO": (fifo("goldens/encode_text.safetensors"), "is a FIFO"),
    "a ledger that is a FIFO": (fifo("ledger.json"), "is a FIFO"),
    "a report that is a FIFO": (fifo("reports/parity.json"), "is a FIFO"),
    "a file that nobody names": (lambda run: (run / "programs" / "more.onnx").write_bytes(b"x"), "more.onnx"),
    "a ledger without end": (lambda run: (run / "ledger.json").write_text("[" * 200_000), "nested too deeply"),
    "a key that is there twice": (
        lambda run: (run / "ledger.json").write_text(
            (run / "ledger.json").read_text().replace("{", '{"family":"x",', 1)
        ),
        "holds the JSON key 'family' twice",
    ),
    "a network for seven tokens": (program(backdoor), "is not what an export of these weights makes, byte for byte"),
    "a node that nobody reads": (program(dead_node), "byte for byte"),
    "words in the program": (program(lambda m: setattr(m, "doc_string", "\x1b[31mred")), "byte for byte"),
    "no verdict on the pack": (stated(lambda m: m["verdicts"].pop("pack")), "pack has not run"),
    "no verdicts": (stated(lambda m: m.update(verdicts={})), "load has not run"),
    "another pooling": (stated(lambda m: m["config"].update(pooling="mean")), "pooling"),
    "another epsilon in the manifest": (stated(lambda m: m["config"].update(layer_norm_eps=1e-9)), "low_variance"),
    "twenty million layers": (stated(lambda m: m["config"].update(num_hidden_layers=20_000_000)), "20000000"),
    "another opset is said": (
        stated(lambda m: m["entry_points"]["encode_text"]["programs"]["onnx"].update(ir_version=9)),
        "ir_version is 9",
    ),
    "another kind of storage": (stated(lambda m: m.update(stored={"dtype": "source", "leaves": {}})), "stored"),
    "a verdict on nothing": (stated(lambda m: m["verdicts"].update(extra="pass")), "verdicts.extra is of no stage"),
    "the weights are cut short": (cut_weights, "its header describes"),
    "the weights are gone": (lambda run: (run / "programs" / "weights.safetensors").unlink(), "weights.safetensors"),
    "no entry points": (stated(lambda m: m.update(entry_points={})), "encode_text"),
    "an entry point without programs": (
        stated(lambda m: m["entry_points"]["encode_text"].update(programs={})),
        "holds no onnx",
    ),
    "a format that no stage made": (
        stated(lambda m: m["entry_points"]["encode_text"]["programs"].update(orbax={"path": "orbax"})),
        "orbax program of encode_text, but no stage that made it",
    ),
    "a program elsewhere": (
        stated(lambda m: m["entry_points"]["encode_text"]["programs"]["onnx"].update(path="../encode_text.onnx")),
        "which no export of it made",
    ),
    "other axes": (
        stated(lambda m: m["entry_points"]["encode_text"]["axes"]["tokens"].update(max=8)),
        "entry point encode_text is not bert's",
    ),
    "a configuration of nonsense": (
        stated(lambda m: m["config"].update(max_position_embeddings="many")),
        "BertConfig.max_position_embeddings is 'many', expected int",
    ),
    "parity failed": (stated(lambda m: m["verdicts"].update(parity="fail")), "parity failed"),
    "a file outside": (
        stated(lambda m: m["stages"]["validate-onnx"]["files"].append("../victim.txt")),
        "'../victim.txt', which is not a file of the run directory",
    ),
    "a manifest without files": (stated(lambda m: m.pop("files")), "is not a manifest"),
    "a manifest with a list for stages": (stated(lambda m: m.update(stages=[])), "stages is not an object"),
    "a manifest that is a list": (lambda run: (run / "manifest.json").write_text("[]"), "is not a manifest"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_directory_does_not_pass(run, tmp_path, name):
    alter, *words = ALTERED[name]
    (run.parent / "victim.txt").write_text("precious")
    of_the_manifest = getattr(alter, "of_the_manifest", False)
    if not of_the_manifest:
        alter(run)
    if name != "a manifest that is a list":
        resealed(run, alter if of_the_manifest else lambda manifest: None)
    (run / "provenance.json").unlink(missing_ok=True)
    with pytest.raises((GateError, InputError)) as refused:
        judge(run, tmp_path / "junit.xml" if "manifest" not in name else None)
    for word in words:
        assert word in str(refused.value)
    assert (run.parent / "victim.txt").read_text() == "precious"
    assert not (run / "provenance.json").exists()
    if "manifest" not in name and name != "a file outside":
        suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
        assert sum(int(suite.get("failures")) for suite in suites) > 0


@pytest.mark.parametrize(
    ("probe", "share", "passes"),
    [("masked_scores", 2.0**-9, True), ("masked_scores", 2.0**-7, False), ("low_variance", 2.0**-9, False)],
)
def test_what_float32_may_be_said_to_cost_under_a_probe(run, probe, share, passes):
    """Under the masked one rounding may choose another of two tokens; no more than that is believed."""

    def widen(index):
        taps = index["encode_text"]["taps"]["text.layers.0.up"]
        taps[0] = share * taps[1]

    goldens(widen, f"goldens/probes/{probe}")(run)
    found = list(yardstick_problems(RunDirectory(run)))
    said = "text.layers.0.up: float32 is said to cost"
    assert found == [] if passes else any(said in problem for problem in found)


def test_an_unaltered_directory_passes(run, tmp_path):
    resealed(run)
    judge(run, tmp_path / "junit.xml")
    assert (run / "provenance.json").exists()
    assert all(suite.get("failures") == "0" for suite in ElementTree.parse(tmp_path / "junit.xml").getroot())


@pytest.mark.parametrize("folder", ["reports", "reports/validate", "goldens"])
def test_a_linked_folder_is_refused_and_what_it_leads_to_left_alone(run, tmp_path, folder):
    elsewhere = tmp_path / "elsewhere"
    (run / folder).rename(elsewhere)
    (run / folder).symlink_to(elsewhere)
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="is a link"):
        judge(run)
    assert {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", [".lock", ".tmp", ".source.json", "provenance.json"])
def test_a_link_in_place_of_the_tools_own_files_is_refused(run, tmp_path, name):
    """Opening, emptying or replacing these would change what the link leads to."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "validate-onnx").mkdir(parents=True)
    (elsewhere / "validate-onnx" / "precious.txt").write_text("precious")
    target = elsewhere if name == ".tmp" else elsewhere / "validate-onnx" / "precious.txt"
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    with pytest.raises(InputError, match="is a link"):
        judge(run)
    assert (elsewhere / "validate-onnx" / "precious.txt").read_text() == "precious"


def test_what_was_altered_after_the_proof_leaves_no_stale_junit(run, tmp_path):
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"float32"', '"float64"', 1))
    with pytest.raises(GateError, match=r"does not state manifest\.json as it is"):
        judge(run, tmp_path / "junit.xml")
    assert "<failure" in (tmp_path / "junit.xml").read_text()


def test_nothing_is_stated_about_artifacts_that_were_not_proved(run):
    export.perform(RunDirectory(run), Options(), Silent(), exporters()["stablehlo"])
    judge(run, formats=("onnx",))
    assert not (run / "provenance.json").exists()
    judge(run)
    assert (run / "provenance.json").exists()
