"""Every format, as found: what was written is the network, in the format's own runtime, and nothing else is in it."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from variants import MOST

from bgevis.exporters.base import Exporter, exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model.network import Network
from bgevis.validation.compare import form
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.errors import EnvironmentFailure
from bgevis.validation.kept import kept
from bgevis.validation.packages import EXTRAS

HERE = Path(__file__).parent
SPEC = spec_from_file_location("tiny_exports", HERE / "tiny_exports.py")
tiny = module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)

FORMATS = sorted(name for name, exporter in exporters().items() if not (exporter.optional or exporter.layout))
FORBIDDEN = {
    "onnx": ("torch", "tensorflow", "orbax"),
    "orbax": ("torch", "tensorflow", "onnx"),
    "saved-model": ("torch", "jax", "jaxlib", "flax", "orbax", "onnx", "bgevis.model"),
    "stablehlo": ("torch", "tensorflow", "flax", "orbax", "onnx", "bgevis.model"),
}
"""What must not be needed to open and run each format."""

FLOAT_NOISE = 2e-6
"""Of the largest number, after a few dozen float32 products; the order of sums is the runtime's."""

OPEN = """
import json, sys
from pathlib import Path
import numpy as np
format_, forbidden = sys.argv[1], sys.argv[2].split(",")
for module in forbidden:
    sys.modules[module] = None
from bgevis.exporters.base import Artifact, exporters
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec

def specs(items):
    return tuple(TensorSpec(i["name"], i["dtype"], tuple(i["shape"])) for i in items)

def entry_point(name, e):
    return EntryPoint(name, specs(e["inputs"]), specs(e["outputs"]), {a: Axis(**b) for a, b in e["axes"].items()})

def network():
    from tiny_exports import networks
    return networks()[directory.parent.name]

for directory in map(Path, sys.argv[3:]):
    stated = json.loads((directory / "entry_points.json").read_text())
    programs = json.loads((directory / "programs.json").read_text())
    artifact = Artifact(directory, {n: entry_point(n, e) for n, e in stated.items()}, programs, network)
    np.savez(directory / "leaves.npz", **dict(exporters()[format_].read_weights(artifact)))
    runner = exporters()[format_].open(artifact)
    for path in sorted(directory.glob("case*.npz")):
        np.savez(directory / f"result {path.name}", **runner.run(path.stem.partition(" ")[2], dict(np.load(path))))
print(runner.name)
"""


def start(*arguments: str, cwd: Path, seed: str) -> subprocess.Popen:
    """Run Python in a process of its own."""
    environment = dict(os.environ, PYTHONHASHSEED=seed, JAX_PLATFORMS="cpu", PYTHONPATH=str(HERE))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen) -> str:
    """Wait for a process and give what it printed."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-4000:]
    return out.strip()


@pytest.fixture(scope="session")
def names(request) -> list[str]:
    """The networks that this session's tests are about."""
    asked = (item.callspec.params.get("network") for item in request.session.items if "names" in item.fixturenames)
    return list(dict.fromkeys(filter(None, asked)))


@pytest.fixture(scope="session")
def written(names, tmp_path_factory) -> dict[str, Path]:
    """All formats of all networks, written by two processes that differ in what could leak into the bytes."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    script = str(HERE / "tiny_exports.py")
    processes = [
        start(script, str(first), ",".join(names), *FORMATS, cwd=HERE, seed="1"),
        start(script, ".", ",".join(names), *reversed(FORMATS), cwd=second, seed="2"),
    ]
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        for process in processes:
            finish(process)
    return {"first": first, "second": second}


@pytest.fixture(scope="session")
def wanted(names, written) -> dict[str, list]:
    """What the NNX models give for every case."""
    results = {}
    for name in names:
        network = tiny.networks()[name]
        weights = {leaf: np.array(array) for leaf, array in leaves(written["first"] / name / FORMATS[0]).items()}
        functions = {entry: jax.jit(network.function(entry)) for entry in network.entry_points}
        results[name] = [functions[entry.name](weights, *inputs.values()) for entry, inputs in tiny.cases(network)]
    return results


@pytest.fixture(scope="session")
def openers(names, written, wanted) -> Iterator[dict[str, subprocess.Popen]]:
    """A process per format that opens it without what it must not need, and runs every case.

    They start when `wanted` is there: what it compiled of the same programs is not compiled again.
    """
    processes = {}
    with contextlib.ExitStack() as stack:
        for format_ in FORMATS:
            directories = [written["first"] / name / format_ for name in names]
            for directory in directories:
                state(directory, tiny.networks()[directory.parent.name])
            arguments = ("-c", OPEN, format_, ",".join(FORBIDDEN[format_]), *map(str, directories))
            processes[format_] = stack.enter_context(start(*arguments, cwd=directories[0], seed="3"))
        yield processes


def state(directory: Path, network) -> None:
    """Write down what `OPEN` needs to know without the model's code: entry points and cases."""
    stated = {name: entry.to_json() for name, entry in network.entry_points.items()}
    for entry in stated.values():
        entry["axes"] = {a: {"low": b["min"], "high": b["max"]} for a, b in entry["axes"].items()}
    (directory / "entry_points.json").write_text(json.dumps(stated))
    for number, (entry, inputs) in enumerate(tiny.cases(network)):
        np.savez(directory / f"case{number:02} {entry.name}.npz", **inputs)


@pytest.fixture(scope="session", params=FORMATS)
def reopened(request, names, written, openers, wanted):
    """A format after its process is done: its runner's name and the directories with the results."""
    return finish(openers[request.param]), {name: written["first"] / name / request.param for name in names}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def leaves(directory: Path) -> dict[str, np.ndarray]:
    file = WeightsFile(directory / "weights.safetensors")
    return {name: file[name] for name in file.tensors}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("network", MOST)
def test_two_processes_write_the_same_bytes_and_none_of_the_machine(written, network, format_):
    folder = Path(network, format_, exporters()[format_].folder)
    first, second = (contents(out / folder) for out in (written["first"], written["second"]))
    assert first.keys() == second.keys()
    for name, data in first.items():
        assert data == second[name], f"{name} differs"
        for leak in (HERE.parent, Path(sys.prefix), written["first"], Path.home()):
            assert str(leak).encode() not in data, f"{name} names {leak}"
        assert not re.search(rb"\.py\b", data) or len(data) > 1 << 20, f"{name} names a source file"


@pytest.mark.parametrize("network", MOST)
def test_every_entry_point_agrees_with_the_nnx_model(reopened, wanted, network):
    _, directories = reopened
    for number, (entry, inputs) in enumerate(tiny.cases(tiny.networks()[network])):
        got = np.load(directories[network] / f"result case{number:02} {entry.name}.npz")
        assert sorted(got) == sorted(spec.name for spec in entry.outputs)
        assert [problem for output in entry.outputs if (problem := form(entry, output, inputs, got))] == []
        have, want = (kept(entry, inputs, dict(each)) for each in (got, wanted[network][number]))
        for output in entry.outputs:
            noise = 0 if output.kind.exact else FLOAT_NOISE * max(1, np.abs(want[output.name]).max())
            np.testing.assert_allclose(have[output.name], want[output.name], rtol=0, atol=noise)


@pytest.mark.parametrize("network", MOST)
def test_every_leaf_is_read_back_bit_for_bit(reopened, network):
    _, directories = reopened
    want, got = leaves(directories[network]), np.load(directories[network] / "leaves.npz")
    assert set(got) == set(want)
    for leaf in got:
        assert got[leaf].dtype == want[leaf].dtype
        np.testing.assert_array_equal(got[leaf], want[leaf])


class Short(nnx.Module):
    """Has weights in sixteen bits, which are cast where they are used."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones((3, 5), jnp.bfloat16))
        self.shift = nnx.Param(jnp.ones(5, jnp.float16))

    def encode(self, rows: jax.Array) -> jax.Array:
        """(batch, 3) -> (batch, 5)."""
        return rows @ self.scale[...].astype(jnp.float32) + self.shift[...].astype(jnp.float32)


@pytest.mark.parametrize(
    ("format_", "options"), [*((name, {}) for name in FORMATS), ("saved-model", {"ops": "tensorflow"})]
)
def test_weights_in_sixteen_bits_stay_what_they_are(tmp_path, format_, options):
    rows, results = TensorSpec("rows", "float32", ("batch", 3)), TensorSpec("results", "float32", ("batch", 5))
    network = Network(Short, (EntryPoint("encode", (rows,), (results,), {"batch": Axis()}),))
    artifact = tiny.export(exporters()[format_], network, tmp_path / "run", **options)
    want, got = leaves(artifact.directory), dict(exporters()[format_].read_weights(artifact))
    assert {name: array.dtype for name, array in want.items()} == {"scale": ml_dtypes.bfloat16, "shift": np.float16}
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name].view(np.uint16), array.view(np.uint16))
    case = {"rows": np.array([[1, 2, 3], [-1, 0.5, 0.25]], np.float32)}
    expected = case["rows"] @ want["scale"].astype(np.float32) + want["shift"].astype(np.float32)
    outputs = exporters()[format_].open(artifact).run("encode", case)
    np.testing.assert_allclose(outputs["results"], expected, rtol=0, atol=FLOAT_NOISE)


def test_the_runner_names_its_runtime_and_version(reopened):
    assert re.search(r"\d+\.\d+", reopened[0])


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_brings_what_the_message_says(module):
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    called = {"PIL": "pillow", "orbax": "orbax-checkpoint", "tensorflow": "tensorflow-cpu"}.get(module, module)
    asked = {re.split(r"[<>=]", requirement)[0].replace("-", "_") for requirement in extras[EXTRAS[module]]}
    assert called.replace("-", "_") in asked


@pytest.mark.parametrize("format_", FORMATS)
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, format_):
    exporter: Exporter = exporters()[format_]
    missing, found = exporter.modules[-1], importlib.util.find_spec
    extra = EXTRAS[missing.partition(".")[0]]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(EnvironmentFailure, match=rf"{missing}.*pip install 'bgevis-convert\[{extra}\]'"):
        exporter.require()


def test_a_missing_parent_package_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.delitem(sys.modules, "orbax.checkpoint", raising=False)
    with pytest.raises(EnvironmentFailure, match=r"orbax\.checkpoint"):
        exporters()["orbax"].require()


def test_finding_the_exporters_imports_no_framework():
    script = """if True:
        import sys
        from bgevis.exporters.base import exporters
        exporters()
        print(*{"jax", "flax", "torch", "tensorflow", "onnx", "onnxruntime", "orbax"} & {*sys.modules})
    """
    assert finish(start("-c", script, cwd=HERE, seed="0")) == ""
