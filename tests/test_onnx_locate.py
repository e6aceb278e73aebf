"""Bugs, each planted in one place of an exported ONNX program of four layers: does `validate` name the place?

The expected place is found here from the program's own edges, forward from what was changed; the product goes by
values, backward from what disagrees.
"""

import dataclasses
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bgevis.converter.proof.programs import places, probe_rows
from bgevis.exporters.base import exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.validation.compare import compare
from bgevis.validation.goldens import Goldens
from bgevis.validation.probe import read_factors

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from mutants.bench import Bench
from variants import MOST, TINY, deepened, family_of

LAYERS = 4


@pytest.fixture(scope="module", params=MOST)
def bench(request, tmp_path_factory):
    """Networks of four layers in each tower, with their ONNX programs."""
    family = family_of(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(family.sizes, TINY, deepened(family.sizes[TINY], LAYERS))
        yield Bench(request.param, tmp_path_factory.mktemp("deep"))


def nodes(model, *operators):
    return [n for n in model.graph.node if n.op_type in operators]


def replace_weight(rng, bench, model, wanted, change):
    """Put a changed copy of a parameter into the program itself, in place of the reference to the file."""
    found = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL and wanted(t)]
    tensor = found[rng.integers(len(found))]
    leaf = tensor.name.partition(" ")[0]
    file = WeightsFile(bench.run.path / "programs" / "weights.safetensors")
    array = change(file[leaf]).reshape(tuple(tensor.dims))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return [n for n in model.graph.node if tensor.name in n.input]


def transposed(rng, bench, model):
    def square(tensor):
        return len(tensor.dims) == 2 and tensor.dims[0] == tensor.dims[1]

    if not any(t.data_location == TensorProto.EXTERNAL and square(t) for t in model.graph.initializer):
        return negated(rng, bench, model)
    return replace_weight(rng, bench, model, square, lambda a: a.reshape(math.isqrt(a.size), -1).T)


def negated(rng, bench, model):
    return replace_weight(rng, bench, model, lambda t: t.name.endswith((".kernel", ".scale")), lambda a: -a)


def heads_swapped(rng, bench, model):
    def swap(array):
        order = np.arange(array.shape[1])
        one, other = rng.choice(order, 2, replace=False)
        order[[one, other]] = other, one
        return array[:, order]

    return replace_weight(rng, bench, model, lambda t: re.search(r"attention\.(query|key|value)\.kernel", t.name), swap)


def negation_inserted(rng, bench, model):
    node = (chosen := nodes(model, "MatMul"))[rng.integers(len(chosen))]
    index = list(model.graph.node).index(node)
    model.graph.node.insert(index, helper.make_node("Neg", [node.input[0]], ["planted"], "planted.Neg"))
    model.graph.node[index + 1].input[0] = "planted"
    return [model.graph.node[index]]


def bias_dropped(rng, bench, model):
    def biases(node):
        return [i for i, name in enumerate(node.input) if name.endswith(".bias")]

    found = [n for n in nodes(model, "Add", "Sum") if biases(n) and ".key." not in n.name]
    if not found:
        return negation_inserted(rng, bench, model)
    node = found[rng.integers(len(found))]
    place = biases(node)[0]
    if node.op_type == "Add":
        kept = node.input[1 - place]
        node.CopyFrom(helper.make_node("Identity", [kept], list(node.output), node.name))
    else:
        del node.input[place]
    return [node]


def wrong_epsilon(rng, bench, model):
    found = nodes(model, "LayerNormalization", "RMSNormalization")
    node = found[rng.integers(len(found))]
    next(a for a in node.attribute if a.name == "epsilon").f = float(rng.choice([1e-3, 1e-4]))
    return [node]


def wrong_attribute(rng, bench, model):
    """Scale of an attention, pairing of rotary positions, form of gelu."""
    found = nodes(model, "Attention", "RotaryEmbedding", "Gelu")
    node = found[rng.integers(len(found))]
    if node.op_type == "Gelu":
        form = b"none" if [a for a in node.attribute if a.name == "approximate" and a.s == b"tanh"] else b"tanh"
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("approximate", form))
    for attribute in node.attribute:
        if attribute.name == "scale":
            attribute.f *= 1.5
        elif attribute.name == "interleaved":
            attribute.i = 1 - attribute.i
    return [node]


def wrong_operator(rng, bench, model):
    siblings = {"Mul": "Div", "ReduceL2": "ReduceL1", "Gelu": "Mish", "Sigmoid": "Tanh", "Max": "Min", "Relu": "Abs"}
    inside = {"Mul": (".mlp", "vision"), "Max": (".mlp",)}
    operators = nodes(model, *siblings)
    found = [n for n in operators if any(part in n.name for part in inside.get(n.op_type, ("",)))]
    node = found[rng.integers(len(found))]
    node.op_type = siblings[node.op_type]
    del node.attribute[:]
    if node.op_type == "ReduceL1":
        node.attribute.append(helper.make_attribute("keepdims", 1))
    return [node]


def residual_from_elsewhere(rng, bench, model):
    """Let a sum read the output of another layer's norm."""
    outputs = [n.output[0] for n in nodes(model, "LayerNormalization", "RMSNormalization")]
    found = [n for n in nodes(model, "Sum") if sum(name in outputs for name in n.input)]
    if len(found) < 2:
        return negation_inserted(rng, bench, model)
    node = found[rng.integers(1, len(found))]
    made = [o for n in model.graph.node for o in n.output]
    place = next(i for i, name in enumerate(node.input) if name in outputs)
    earlier = [o for o in outputs if o.startswith("text.") and made.index(o) < made.index(node.input[place])]
    if not earlier:
        return negation_inserted(rng, bench, model)
    node.input[place] = earlier[-1]
    return [node]


BUGS = (
    transposed,
    negated,
    heads_swapped,
    negation_inserted,
    bias_dropped,
    wrong_epsilon,
    wrong_attribute,
    wrong_operator,
    residual_from_elsewhere,
)


def reached(model, changed) -> set[str]:
    """Give the modules at which what the changed nodes give is first seen."""
    places = json.loads(next(m.value for m in model.metadata_props if m.key == "bgevis.taps"))
    places |= {value.name: [value.name] for value in model.graph.output}
    at = {}
    for module, edges in places.items():
        for edge in edges:
            at.setdefault(edge, set()).add(module)
    found, waiting, seen = set(), [edge for node in changed for edge in node.output], set()
    while waiting:
        edge = waiting.pop()
        if edge in seen:
            continue
        seen.add(edge)
        if edge in at:
            found |= at[edge]
        else:
            waiting += [o for node in model.graph.node if edge in node.input for o in node.output]
    return found


def judged(bench, entry, model, folder) -> tuple[bool, list[str]]:
    """Validate a program as the product does; say whether it failed, and what is said about the place."""
    exporter = exporters()["onnx"]
    file = bench.copy_programs(folder) / f"{entry}.onnx"
    file.write_bytes(model.SerializeToString())
    (folder / "goldens").symlink_to(bench.run.path / "goldens")
    opened = dataclasses.replace(bench.onnx, directory=folder, programs={entry: bench.onnx.programs[entry]})
    wanted = [g for g in Goldens(bench.run.path / "goldens").cases() if g.case.entry_point == entry]
    rows = list(compare(exporter.open(opened), {entry: opened.entry_points[entry]}, wanted).rows)
    rows += [row for row in probe_rows(exporter, opened, folder) if row.entry_point == entry]
    return any(not row.passed for row in rows), list(places(exporter, opened, folder, rows))


@pytest.mark.parametrize("planted", [len(BUGS), pytest.param(100, marks=pytest.mark.prove)])
def test_planted_bugs_are_located(bench, planted, tmp_path):
    onnxruntime.set_default_logger_severity(4)
    rng = np.random.default_rng(2027)
    named, explained, failures, missed = 0, Counter(), 0, []
    # Each bug has a place in each of these: that of a spectrogram has none.
    entries = [e for e in bench.onnx.programs if any("attention.query" in leaf for leaf in bench.net.used_weights(e))]
    for number in range(10 * planted):
        if failures == planted:
            break
        bug, entry = BUGS[number % len(BUGS)], entries[rng.integers(len(entries))]
        model = onnx.load(bench.onnx.directory / bench.onnx.programs[entry]["path"], load_external_data=False)
        changed = bug(rng, bench, model)
        right = reached(model, changed)
        failed, said = judged(bench, entry, model, tmp_path / str(number))
        if not failed:
            continue  # it computes the same: there is nothing to find
        failures += 1
        found = re.search(r": (\S+) diverges first", said[0]) if said else None
        named += bool(found and found[1] in right)
        explained[bug.__name__] += "likely cause" in " ".join(said)
        if not found or found[1] not in right or "likely cause" not in said[0]:
            missed.append(f"{bug.__name__} {[n.name for n in changed]}, seen at {right}: {said}")
    print(f"{named} of {failures} named, {explained.total()} explained {dict(explained)}", *missed, sep="\n")
    assert failures == planted
    assert named >= 0.95 * planted
    assert explained.total() >= int(0.9 * planted)  # of a few, one may stay without a cause


@pytest.mark.parametrize("opset", [pytest.param(17, marks=pytest.mark.prove), 23])
def test_a_right_program_shows_every_module_and_parts_nowhere(bench, opset, tmp_path):
    from bgevis.exporters.base import Request
    from bgevis.exporters.onnx import EXPORTER

    programs = bench.copy_programs(tmp_path)
    request = Request(bench.net, WeightsFile(programs / "weights.safetensors"), programs, opset=opset)
    opened = dataclasses.replace(bench.onnx, directory=tmp_path, programs=EXPORTER.write(request))
    for entry in opened.programs:
        model = onnx.load(programs / f"{entry}.onnx", load_external_data=False)
        outputs = {output.name for output in bench.net.entry_points[entry].outputs}
        shown = json.loads(model.metadata_props[0].value).keys() | outputs
        for folder in (bench.run.path / "goldens", *(bench.run.path / "goldens" / "probes").iterdir()):
            traced = Goldens(folder).intermediates(entry)
            # Upstream's modules without parameters, where the original is upstream's.
            unseen = shown - set(traced.values)
            assert not [m for m in unseen if any(leaf.startswith(f"{m}.") for leaf in bench.net.leaves)]
            tables = {m for m in traced.values if f"{m}.embedding" in bench.net.leaves}  # read, or part of a sum
            assert set(traced.values) - tables <= shown
            factors = read_factors(folder) if (folder / "factors.json").exists() else {}
            assert EXPORTER.locate(opened, entry, traced, factors) == ""
