"""A module of one's own: traced, converted to four formats, judged by itself; and each mistake named in one message."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from in_process import convert, in_this_process, judge
from safetensors.torch import save_file
from torch import nn

from bgevis.converter.directory import RunDirectory
from bgevis.converter.source.spec import read_spec
from bgevis.converter.use.artifacts import load_module
from bgevis.exporters import stablehlo
from bgevis.model.traced import family
from bgevis.model.traced.bounds import TooShort
from bgevis.model.traced.capture import Failing, capture, guard_failures
from bgevis.model.traced.graph import Graph
from bgevis.model.traced.operators import table
from bgevis.model.traced.wanted import Wanted
from bgevis.validation.domains import Integers, PaddingMask, TokenIds
from bgevis.validation.entry_point import Axis, TensorSpec
from bgevis.validation.errors import ConvertError, GateError, InputError
from bgevis.validation.report import Report

NET = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x, mask):
            rows, tokens, width = x.shape
            parts = self.qkv(self.norm(x)).view(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
            scores = parts[0] @ parts[1].transpose(-1, -2) * (width // 2) ** -0.5
            weights = scores.masked_fill(~mask[:, None, None].bool(), -1e9).softmax(-1)
            return x + self.out((weights @ parts[2]).transpose(1, 2).reshape(rows, tokens, width))

    class Net(nn.Module):
        def __init__(self, width=8):
            super().__init__()
            self.table = nn.Embedding(50, width)
            self.places = nn.Embedding(20, width)
            self.layers = nn.ModuleList(Block(width) for _ in range(2))
            self.dropout = nn.Dropout(0.1)
            self.norm = nn.BatchNorm1d(width)
            self.head = nn.Linear(width, 50, bias=False)
            self.head.weight = self.table.weight
            self.register_buffer("order", torch.arange(20))
            self.register_buffer("slope", torch.linspace(0.5, 1, width), persistent=False)
            self.unused = nn.Parameter(torch.ones(3))

        def states(self, ids, mask):
            x = self.dropout(self.table(ids) + self.places(self.order[: ids.shape[1]]) * self.slope)
            for layer in self.layers:
                x = layer(x, mask)
            return self.norm(x.transpose(1, 2)).transpose(1, 2)

        def forward(self, ids, mask):
            x = self.states(ids, mask)
            m = mask[..., None].to(x.dtype)
            return {"embeddings": nn.functional.normalize((x * m).sum(1) / m.sum(1)), "other": x}

        def logits(self, ids, mask):
            return self.head(self.states(ids, mask))

    def make():
        return Net(), {"width": 8}
"""
SPEC = "ids: int64[batch, tokens <= 20], mask: int64[batch, tokens]"
ENTRIES = {
    "encode": {
        "inputs": {"ids": "int64[batch, tokens <= 20]", "mask": "int64[batch, tokens]"},
        "outputs": {"embeddings": {"is": "embedding", "unit": True}},
    },
    "logits": {
        "method": "logits",
        "inputs": {"ids": "int64[batch, tokens <= 20]", "mask": "int64[batch, tokens]"},
        "outputs": {"scores": {"is": "logits", "valid": "mask"}},
        "domains": {"ids": {"is": "TokenIds", "vocab_size": 50, "pad": 1}, "mask": {"is": "PaddingMask", "ids": "ids"}},
    },
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Give a function that lays a module and its checkpoint, and goes there."""

    def lay(old="", new="", **changed):
        source = textwrap.dedent(NET)
        assert old in source
        (tmp_path / "own_net.py").write_text(source.replace(old, new) if old else source)
        sys.modules.pop("own_net", None)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        import own_net

        torch.manual_seed(5)
        module = own_net.Net()
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor += 0.1 * torch.rand_like(tensor)
        state = {n: t.clone() for n, t in module.state_dict().items() if n != "head.weight"} | changed
        save_file({n: t for n, t in state.items() if t is not None}, tmp_path / "own.safetensors")
        return tmp_path / "own.safetensors"

    with in_this_process():
        yield lay
    sys.modules.pop("own_net", None)


FOUR = ("onnx", "orbax", "saved-model", "stablehlo")


def test_it_is_converted_and_proved_in_four_formats(own, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(ENTRIES))
    run = RunDirectory(
        convert(own(), tmp_path / "run", FOUR, module="own_net:make", inputs=str(tmp_path / "spec.json"))
    )
    manifest = run.manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert manifest["proof"]["network"]["judge"].endswith("own_net:make")
    assert manifest["entry_points"]["encode"]["rows"] == "batch"
    assert manifest["entry_points"]["logits"]["outputs"][0]["shape"] == ["batch", "tokens", 50]
    ledger = json.loads((run.path / "ledger.json").read_text())
    assert ledger["tensors"]["unused"]["reason"] == "no entry point reads it"
    assert ledger["tensors"]["order"]["status"] == "dropped"
    assert ledger["leaves"]["norm.running_mean"] == "norm.running_mean"
    parity = Report.from_json(json.loads((run.path / "reports/parity.json").read_text()))
    assert {"9 intermediate values", "10 intermediate values"} & {row.case for row in parity.rows}
    network = Graph.from_json((run.path / "network.json").read_text())
    assert network.facts == {"config": {"width": 8}}
    assert "order" in network.constants
    assert "slope" in network.constants
    assert any(node.line.startswith("own_net.py:") for node in network.programs["encode"].nodes)
    module = load_module(run.path)
    assert module.layers is not None
    assert {type(leaf) for _, leaf in nnx.to_flat_state(nnx.state(module))} > {nnx.Param}
    judge(run.path, formats=("onnx",))
    (run.path / "network.json").write_text((run.path / "network.json").read_text().replace("aten.add", "aten.sub", 1))
    with pytest.raises(ConvertError, match=r"network\.json"):
        judge(run.path, formats=("onnx",))


def test_half_precision_is_computed_exactly(own, tmp_path):
    path = own()
    from safetensors.torch import load_file

    half = {n: t.half() if t.is_floating_point() else t for n, t in load_file(path).items()}
    save_file(half, path)
    run = RunDirectory(convert(path, tmp_path / "run", ("onnx",), module="own_net:make", inputs=SPEC, dtype="source"))
    assert set(run.manifest()["verdicts"].values()) == {"pass"}


STATES = "x = self.states(ids, mask)\n"


def instead(new: str) -> dict[str, str]:
    return {"old": STATES, "new": f"{new}\n"}


def test_an_export_that_fails_is_what_is_told_and_stands_in_no_other_formats_way(own, tmp_path, monkeypatch):
    def refuse(request):
        raise GateError("aten.sin.default has no word in this format")

    monkeypatch.setattr(stablehlo, "EXPORTER", dataclasses.replace(stablehlo.EXPORTER, write=refuse))
    path, given = own(), {"module": "own_net:make", "inputs": SPEC}
    with pytest.raises(GateError, match=r"^export stablehlo: .*no word in this format$"):
        convert(path, tmp_path / "run", ("onnx", "stablehlo"), **given)
    verdicts = RunDirectory(tmp_path / "run").manifest()["verdicts"]
    assert [stage for stage, verdict in verdicts.items() if verdict != "pass"] == ["export-stablehlo"]
    with pytest.raises(GateError, match="export-stablehlo failed; mend that and run it again"):
        judge(tmp_path / "run")
    run = RunDirectory(convert(path, tmp_path / "run", ("onnx",), **given))
    assert set(run.manifest()["verdicts"].values()) == {"pass"}
    judge(run.path)


REFUSED = {
    "no such function": ({}, {"module": "own_net:nothing"}, "own_net has no function nothing"),
    "no such module": ({}, {"module": "nowhere:make"}, "there is no module nowhere"),
    "no name": ({}, {"module": "own_net"}, r"expected package\.module:function"),
    "no module given": (
        {"old": "return Net(), ", "new": "return 3, 4, "},
        {},
        r"gives a tuple, expected a torch\.nn\.Module",
    ),
    "it raises": ({"old": "def make():", "new": "def make():\n    1 / 0"}, {}, r"make\(\) fails: ZeroDivisionError"),
    "a tensor missing": ({"unused": None}, {}, r"1 missing: unused"),
    "a tensor left over": ({"stranger": torch.ones(2)}, {}, r"1 left over: stranger"),
    "another shape": ({"unused": torch.ones(4)}, {}, r"of another shape: unused \(4,\), expected \(3,\)"),
    "no inputs": ({}, {"inputs": ""}, "needs --inputs"),
    "another argument": ({}, {"inputs": "x: int64[b, t <= 20], mask: int64[b, t]"}, "cannot be called with x, mask"),
    "a limit too long": ({}, {"inputs": SPEC.replace("20", "21")}, r"tokens"),
    "no limit": ({}, {"inputs": SPEC.replace(" <= 20", "")}, r"tokens"),
    "a branch on numbers": (
        instead(f"{STATES}        if x.sum() > 0: x = x + 1"),
        {},
        "depends on the numbers that it is given",
    ),
    "a size from numbers": (
        instead(f"{STATES}        x = x + x[mask.bool()].mean()"),
        {},
        r"numbers that the network is given, .* at own_net\.py:\d+: x = x \+",
    ),
    "the module fails": (
        instead("x = self.states(ids, mask)[:, : mask.sum(1).max().item()]"),
        {},
        "the module itself fails",
    ),
    "a size made a number": (
        instead(f"{STATES}        x = x + sum(x[:, i : i + 1] for i in range(ids.shape[1]))"),
        {},
        "tokens",
    ),
    "no rule": (
        instead("x = torch.special.bessel_j0(self.states(ids, mask))"),
        {},
        r"aten\.special_bessel_j0\.default, 1 time, first at own_net\.py:\d+: x = torch\.special",
    ),
    "in training": (
        {"old": "self.dropout(self.table", "new": "nn.functional.dropout(self.table(ids) * 0 + self.table"},
        {},
        "draws at random",
    ),
    "a family's option": ({}, {"pooling": "cls"}, "--pooling is for checkpoints of families"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_clear_message(own, tmp_path, case):
    laid, given, message = REFUSED[case]
    path = own(**laid)
    options = {"module": "own_net:make", "inputs": SPEC} | given
    with pytest.raises(InputError, match=message) as error:
        convert(path, tmp_path / "run", ("onnx",), **options)
    assert not (tmp_path / "run" / "programs" / "forward.onnx").exists() or case == "the module fails"
    assert len(str(error.value)) < 1200


SPECS = {
    "ids": "cannot read 'ids'",
    "ids: text[batch]": "ids is of text, expected one of float32",
    "ids: int64[batch, 2 tokens]": "no number, axis",
    "ids: int64[b, t], ids: int64[b]": "two inputs are called ids",
    "x: float32[b, past + t]": "past stands in 'past \\+ t' only",
    "x: float32[b, t <= 4], y: float32[b, t <= 5]": "said to be at most 4",
    "x: float32[b] < 3": "float32 holds none",
    "x: int64[b, t >= 0]": "at least one place",
}


@pytest.mark.parametrize("text", SPECS)
def test_a_wrong_spec_is_named(text):
    with pytest.raises(InputError, match=SPECS[text]):
        read_spec(text)


def test_a_spec_says_names_types_axes_and_bounds():
    (wanted,) = read_spec("ids: int64[batch, 2 <= tokens <= 9], kind: int32[batch] < 7, x: float32[3, batch]")
    assert wanted.name == wanted.method == "forward"
    assert wanted.axes == {"batch": Axis(), "tokens": Axis(2, 9)}
    assert [spec.shape for spec in wanted.inputs] == [("batch", "tokens"), ("batch",), (3, "batch")]
    assert [spec.dtype for spec in wanted.inputs] == ["int32", "int32", "float32"]
    assert wanted.inputs[1].domain == Integers(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": 3}, "method is 3"),
        ({"inputs": []}, "inputs: expected an object"),
        ({"outputs": {"x": "vector"}}, "expected one of numbers, embedding"),
        ({"domains": {"y": {"is": "Floats"}}}, "there is no input y"),
        ({"domains": {"x": {"is": "Sounds"}}}, "is no domain"),
        ({"more": 1}, "there is no more"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, message):
    (tmp_path / "spec.json").write_text(json.dumps({"go": {"inputs": {"x": "float32[b]"}} | change}))
    with pytest.raises(InputError, match=message):
        read_spec(str(tmp_path / "spec.json"))


def test_yaml_says_the_same(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "spec.json").write_text(json.dumps(ENTRIES))
    (tmp_path / "spec.yaml").write_text(json.dumps(ENTRIES))  # JSON is YAML
    assert read_spec(str(tmp_path / "spec.json")) == read_spec(str(tmp_path / "spec.yaml"))


def traced(module, *specs, axes=None, **more):
    wanted = Wanted("forward", specs, axes or {"b": Axis(), "t": Axis(1, 64)}, **more)
    return capture(module.eval(), [wanted], {name: name for name in module.state_dict()}, "here")


def same(module, graph, *inputs):
    net = family(graph.to_json()).network(None)
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    weights = {leaf: state[p.tensor] for leaf, p in graph.parameters.items()}
    with torch.no_grad():
        want = module(*map(torch.as_tensor, inputs))
    (got,) = jax.jit(net.function("forward"))(weights, *inputs).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """One part that is called twice, an operator in place, and a number where a tensor could be."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(3, 3)
        self.register_buffer("none", torch.zeros(0, 3))

    def forward(self, x):
        y = self.part(self.part(x))
        y[:, 0] = 1.5
        y.mul_(x.shape[0])
        return torch.cat([y, self.none])


def test_parts_are_called_twice_and_values_changed_in_place():
    module = Shared()
    graph = traced(module, TensorSpec("x", "float32", ("b", 3)))
    assert graph.parameters.keys() == {"part.weight", "part.bias"}
    assert graph.dropped == {"none": "whole numbers or none: a constant of network.json"}
    same(module, graph, np.ones((4, 3), np.float32))
    assert Graph.from_json(graph.to_json()).to_json() == graph.to_json()


class Waves(nn.Module):
    """Complex numbers on the way, as in FNet and in rotary positions."""

    def forward(self, x):
        whole = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real + torch.fft.fftn(x).imag
        turned = torch.view_as_real(torch.fft.fft2(torch.view_as_complex(x.reshape(*x.shape[:-1], 3, 2))))
        at = torch.polar(x.abs(), x)
        return whole + turned.flatten(2) + at.real * at.imag + torch.complex(x, x).imag


def test_complex_numbers_are_pairs():
    graph = traced(Waves(), TensorSpec("x", "float32", ("b", "t", 6)))
    for rows, tokens in ((2, 5), (1, 1), (3, 8)):
        x = np.random.default_rng(rows).normal(size=(rows, tokens, 6)).astype(np.float32)
        same(Waves(), graph, x)


class Steps(nn.Module):
    """Recurrent layers one after the other: deep, in both directions, rows or steps first, with a state and cells."""

    def __init__(self):
        super().__init__()
        self.deep = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5)
        self.gated = nn.GRU(6, 5, bias=False)
        self.simple = nn.RNN(5, 2, nonlinearity="relu", batch_first=True)
        self.cells = nn.ModuleList([nn.LSTMCell(4, 3), nn.GRUCell(3, 3), nn.RNNCell(3, 3)])

    def forward(self, x):
        states, (hidden, memory) = self.deep(x)
        others, last = self.gated(states.transpose(0, 1), hidden[:1].repeat(1, 1, 2)[..., :5].contiguous())
        simple, _ = self.simple(others.transpose(0, 1))
        step = self.cells[2](self.cells[1](self.cells[0](x[:, 0])[1]))
        return torch.cat([simple.sum(1), memory[1], last[0], simple[:, -1], step], -1)


def test_recurrent_layers_take_as_many_steps_as_come():
    module = Steps()
    graph = traced(module, TensorSpec("x", "float32", ("b", "t", 4)))
    assert {"aten.lstm.input", "aten.gru.input", "aten.rnn_relu.input"} < graph.count().keys()
    for rows, tokens in ((2, 7), (1, 1), (3, 20)):
        same(module, graph, np.random.default_rng(rows).normal(size=(rows, tokens, 4)).astype(np.float32))


def test_an_example_of_which_one_place_is_left_is_not_the_only_one():
    module = nn.Conv1d(4, 2, 3, stride=4)
    spec = TensorSpec("input", "float32", ("b", 4, "t"))
    graph = traced(module, spec, axes={"b": Axis(), "t": Axis(3, 64)})
    for rows, places in ((2, 3), (1, 6), (3, 40)):
        same(module, graph, np.random.default_rng(rows).normal(size=(rows, 4, places)).astype(np.float32))


class Packed(nn.Module):
    """Rows of different length packed together, as torch alone can compute them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        lengths = torch.full((x.shape[0],), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed)[1]


def test_packed_rows_are_refused_in_words():
    with pytest.raises(InputError, match="packs its rows"):
        traced(Packed(), TensorSpec("x", "float32", ("b", "t", 4)))


class Domains(nn.Module):
    """What the inputs hold is told by what they look up."""

    def __init__(self):
        super().__init__()
        self.words, self.types = nn.Embedding(11, 4), nn.Embedding(3, 4)

    def forward(self, words, types, a_mask):
        return (self.words(words) + self.types(types)) * a_mask[..., None]


def test_what_inputs_hold_is_found_in_the_graph():
    specs = [TensorSpec(name, "int32", ("b", "t")) for name in ("words", "types", "a_mask")]
    (entry,) = traced(Domains(), *specs).entry_points
    assert [spec.domain for spec in entry.inputs] == [TokenIds(11, 0), Integers(3), PaddingMask("words")]
    assert entry.rows == "b"


class Coupled(nn.Module):
    """Rows that depend on each other."""

    def forward(self, x):
        return x - x.mean(0)


def test_rows_that_depend_on_each_other_are_found():
    (entry,) = traced(Coupled(), TensorSpec("x", "float32", ("b", 3))).entry_points
    assert entry.rows is None


@pytest.mark.parametrize(
    ("guard", "failing"),
    [
        ("T // 10 - 1 > 1", Failing()),
        ("T % 2 == 0", None),
        ("T < 100", Failing(beyond=100)),
        ("T > 30 and T < 100", Failing(until=30, beyond=100)),
        ("(T < 40) == (T > 20)", Failing(until=20, beyond=40)),
        ("T - 1 != 6", Failing((7,))),
        ("T * U > 0", None),
    ],
)
def test_guards_are_tried_for_every_size(guard, failing):
    inputs = (TensorSpec("x", "float32", ("batch", "samples")),)
    axes = {"batch": Axis(), "samples": Axis(40 if "//" in guard else 5)}
    torchs = guard.replace("T", "L['inputs'][0].size()[1]").replace("U", "L['inputs'][0].size()[0]")
    text = f"  - Not all values of samples in the specified range satisfy the generated guard {torchs}."
    assert guard_failures(text, inputs, axes) == (None if failing is None else {"samples": failing})


class Subsampled(nn.Module):
    """Convolutions with strides before what is done to each frame: nothing is left of a few frames."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Conv1d(4, 8, 3, 2), nn.ReLU(), nn.Conv1d(8, 8, 3, 2))
        self.place, self.norm = nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.parts(x)
        rows, width, frames = x.shape
        return self.norm(self.place(x).transpose(1, 2).reshape(rows, frames, width))


@pytest.mark.parametrize("least", [1, 3])
def test_the_bound_from_which_a_module_runs_is_said(least):
    """Not torch's symbols: the module is run at sizes that the spec allows."""
    spec = TensorSpec("x", "float32", ("b", 4, "frames"))
    message = (
        f"the module fails for frames = {least} .RuntimeError: Calculated .*, and runs from frames = 7 on: write that"
    )
    with pytest.raises(TooShort, match=message) as error:
        traced(Subsampled(), spec, axes={"b": Axis(), "frames": Axis(least)})
    assert (error.value.axis, error.value.shortest) == ("frames", 7)
    module = Subsampled()
    graph = traced(module, spec, axes={"b": Axis(), "frames": Axis(7)})
    for rows, frames in ((1, 7), (2, 10), (3, 40)):
        x = np.random.default_rng(rows).normal(size=(rows, 4, frames)).astype(np.float32)
        same(module, graph, x)


class Halved(nn.Module):
    """Another computation for odd sizes."""

    def forward(self, x):
        return x[:, ::2] + 1 if x.shape[1] % 2 else x * 2


def test_sizes_at_which_a_module_computes_something_else_are_named():
    with pytest.raises(InputError, match="a few of them are t = 2, 4, 6") as error:
        traced(Halved(), TensorSpec("x", "float32", ("b", "t")), axes={"b": Axis(), "t": Axis(2)})
    assert len(str(error.value)) < 600


class Twice(nn.Module):
    """Two methods with numbers of their own in the same place."""

    def forward(self, x):
        return x * torch.tensor([1.0, 2.0, 3.0])

    def other(self, x):
        return x * torch.tensor([5.0, 7.0, 11.0])


def test_numbers_that_two_entry_points_have_in_one_place_are_kept_apart():
    spec, axes = TensorSpec("x", "float32", ("b", 3)), {"b": Axis()}
    wanted = [Wanted("forward", (spec,), axes), Wanted("other", (spec,), axes, "other")]
    graph = capture(Twice().eval(), wanted, {}, "here")
    net = family(graph.to_json()).network(None)
    for name, numbers in (("forward", [1, 2, 3]), ("other", [5, 7, 11])):
        (got,) = jax.jit(net.function(name))({}, np.ones((1, 3), np.float32)).values()
        np.testing.assert_array_equal(got[0], numbers)


LATER = ("aten.layer_norm", "aten.linear", "aten.masked_fill.Scalar", "aten.mul")
MUTANTS = ("aten.add", "aten.softmax", *(pytest.param(name, marks=pytest.mark.prove) for name in LATER))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_operator_is_found(own, tmp_path, monkeypatch, name):
    right = table()[name.removesuffix(".Scalar")]
    monkeypatch.setitem(table(), name, lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    with pytest.raises(ConvertError, match=r"parity|validate"):
        convert(own(), tmp_path / "run", ("onnx",), module="own_net:make", inputs=SPEC)


def test_the_module_is_built_without_torch(own, tmp_path):
    graph = tmp_path / "network.json"
    module = Shared()
    graph.write_text(traced(module, TensorSpec("x", "float32", ("b", 3))).to_json())
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\nfrom bgevis.model.traced import family\n"
        f"net = family(Path({str(graph)!r}).read_text()).network(None)\n"
        "print(net.used_weights('forward'))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "part.weight" in done.stdout
