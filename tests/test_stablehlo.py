"""StableHLO programs as other compilers see them: portable bytecode, named arguments, fixed sizes on request."""

import dataclasses
import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

from bgevis.exporters import jax_programs
from bgevis.exporters.base import Request
from bgevis.exporters.jax_programs import lowered
from bgevis.exporters.saved_model import EXPORTER as SAVED_MODEL
from bgevis.exporters.stablehlo import EXPORTER
from bgevis.model.bert import FAMILY as BERT
from bgevis.model.network import Network
from bgevis.model.visualized_bge import FAMILY as VISUALIZED_BGE
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.errors import GateError, InputError

SPEC = spec_from_file_location("tiny_exports", Path(__file__).parent / "tiny_exports.py")
tiny = module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)

NETWORK = VISUALIZED_BGE.network(VISUALIZED_BGE.sizes["tiny"])
STATIC = ({"batch": 2, "tokens": 6}, {"batch": 2, "tokens": 7}, {"batch": 1, "tokens": 6, "frames": 9})


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return tiny.export(EXPORTER, NETWORK, tmp_path_factory.mktemp("stablehlo") / "run", static=STATIC)


@pytest.fixture(scope="module")
def weights(artifact):
    return tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)


def parse(path: Path) -> ir.Module:
    context = ir.Context()
    stablehlo.register_dialect(context)
    with context:
        return stablehlo.deserialize_portable_artifact(context, path.read_bytes())


def main_function(module: ir.Module) -> ir.Operation:
    (main,) = (op for op in module.body.operations if ir.StringAttr(op.attributes["sym_name"]).value == "main")
    return main


def test_static_programs_run_in_the_reference_interpreter(artifact, weights):
    """The interpreter of the StableHLO specification: neither JAX nor XLA computes here."""
    entry, program = NETWORK.entry_points["encode_text"], artifact.programs["encode_text"]
    case = tiny.inputs(entry, batch=2, tokens=6)
    module = parse(artifact.directory / program["static"]["batch=2,tokens=6"])
    with module.context:
        arrays = [*(weights[leaf] for leaf in program["weights"]), *case.values()]
        constants = [ir.DenseElementsAttr.get(np.ascontiguousarray(array)) for array in arrays]
        (result,) = stablehlo.eval_module(module, constants)
    want = EXPORTER.open(artifact).run("encode_text", case)["embeddings"]
    np.testing.assert_allclose(np.array(result), want, rtol=0, atol=2e-6)


def test_static_programs_compile_and_run_in_iree(artifact, weights):
    compiler = pytest.importorskip("iree.compiler", reason="IREE is not installed: pip install iree-base-compiler")
    runtime = pytest.importorskip("iree.runtime", reason="IREE is not installed: pip install iree-base-runtime")
    entry, program = NETWORK.entry_points["encode_multimodal"], artifact.programs["encode_multimodal"]
    case, path = tiny.inputs(entry, batch=2, tokens=6), artifact.directory / program["static"]["batch=2,tokens=6"]
    binary = compiler.compile_file(str(path), input_type="stablehlo", target_backends=["llvm-cpu"])
    context = runtime.SystemContext(config=runtime.Config("local-task"))
    module = runtime.VmModule.copy_buffer(context.instance, binary)
    context.add_vm_module(module)
    got = context.modules[module.name].main(*(np.array(weights[leaf]) for leaf in program["weights"]), *case.values())
    want = EXPORTER.open(artifact).run(entry.name, case)["embeddings"]
    np.testing.assert_allclose(got.to_host(), want, rtol=0, atol=2e-6)


def test_the_arguments_are_the_weights_in_the_stated_order_then_the_inputs(artifact, weights):
    for name, program in artifact.programs.items():
        (path,) = (program["static"][label] for label in program["static"] if label.startswith("batch=1"))
        module = parse(artifact.directory / path)
        entry, sizes = NETWORK.entry_points[name], {"batch": 1, "tokens": 6}
        want = [list(weights[leaf].shape) for leaf in program["weights"]]
        want += [list(spec.resolve(sizes)) for spec in entry.inputs]
        with module.context:
            arguments = [
                ir.RankedTensorType(a.type).shape for a in main_function(module).regions[0].blocks[0].arguments
            ]
            assert [list(shape) for shape in arguments] == want


def test_every_argument_is_named_in_the_bytecode(artifact):
    program = artifact.programs["encode_multimodal"]
    for path in (program["path"], program["jax_export"], *program["static"].values()):
        data = (artifact.directory / path).read_bytes()
        for leaf in program["weights"]:
            assert f"weights['{leaf}']".encode() in data
        for name in ("images", "input_ids", "attention_mask"):
            assert name.encode() in data


def test_portable_programs_have_no_composite_and_ask_for_an_old_version(artifact):
    for program in artifact.programs.values():
        for path in (program["path"], *program["static"].values()):
            assert (artifact.directory / path).read_bytes().startswith(b"ML\xefR\x0dStableHLO_v1.0.0\0")
            assert "stablehlo.composite" not in str(parse(artifact.directory / path))
        assert program["stablehlo"] == "1.0.0"


def test_axes_that_an_entry_point_lacks_are_ignored(artifact):
    assert list(artifact.programs["encode_image"]["static"]) == ["batch=2", "batch=1"]
    assert (
        artifact.programs["encode_text"]["static"]["batch=2,tokens=7"] == "programs/encode_text.batch=2,tokens=7.mlirbc"
    )


def test_the_jax_program_takes_every_size_on_every_platform(artifact):
    program = artifact.programs["encode_text"]
    exported = export.deserialize(bytearray((artifact.directory / program["jax_export"]).read_bytes()))
    assert [str(check) for check in exported.disabled_safety_checks] == ["platform"]
    assert exported.calling_convention_version == program["calling_convention_version"]
    assert [str(d) for d in exported.in_avals[-1].shape] == ["batch", "tokens"]
    assert exported.mlir_module_serialized == (artifact.directory / program["path"]).read_bytes()


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize("entry_point", list(NETWORK.entry_points))
def test_a_program_is_the_same_whatever_platform_it_is_lowered_for(monkeypatch, entry_point, platform):
    here = lowered(NETWORK, entry_point, ())
    monkeypatch.setattr(jax_programs, "PLATFORMS", (platform,))
    there = lowered.__wrapped__(NETWORK, entry_point, ())
    assert there.platforms == (platform,)
    assert there.mlir_module_serialized == here.mlir_module_serialized


class Wasteful(nnx.Module):
    """Has a weight that nothing reads, one that is read for nothing, and an input that does not matter."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale, self.unread, self.dead = (nnx.Param(jnp.ones(size)) for size in (3, 2, 4))

    def encode_text(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """(batch, tokens) ids -> (batch, 3)."""
        jnp.sum(self.dead[...])
        return input_ids[:, :1] * self.scale[...]


@pytest.mark.parametrize("exporter", [EXPORTER, SAVED_MODEL], ids=lambda exporter: exporter.name)
def test_what_matters_not_is_an_argument_all_the_same_if_it_is_stated(tmp_path, exporter):
    inputs = tuple(TensorSpec(name, "int32", ("batch", "tokens")) for name in ("input_ids", "attention_mask"))
    outputs = (TensorSpec("embeddings", "float32", ("batch", 3)),)
    entry = EntryPoint("encode_text", inputs, outputs, {"batch": Axis(), "tokens": Axis()})
    artifact = tiny.export(exporter, Network(Wasteful, (entry,)), tmp_path / "run", static=STATIC[:1])
    runner, scale = exporter.open(artifact), tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)["scale"]
    for tokens in (6, 3):
        ids = np.arange(2 * tokens, dtype=np.int32).reshape(2, tokens)
        got = runner.run("encode_text", {"input_ids": ids, "attention_mask": np.ones_like(ids)})["embeddings"]
        np.testing.assert_allclose(got, ids[:, :1] * scale, rtol=1e-6)


class RowByRow(nnx.Module):
    """Takes and puts at places of each row's own: what StableHLO 1.0 has no word for."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(4))

    def taken(self, x, places):
        scaled = x * self.scale[...]
        return jnp.take_along_axis(scaled, places[..., None], axis=1)

    def put(self, x, places):
        def one(row, place):
            return jax.lax.dynamic_update_slice(row, self.scale[...][None], (place[0], 0))

        return jax.vmap(one)(x, places)

    def indexed(self, x, places):
        return (x * self.scale[...])[jnp.arange(x.shape[0])[:, None], places]


def row_by_row(name: str) -> Network:
    inputs = (TensorSpec("x", "float32", ("n", "t", 4)), TensorSpec("places", "int32", ("n", 2)))
    outputs = (TensorSpec("y", "float32", ("n", "t" if name == "put" else 2, 4)),)
    return Network(RowByRow, (EntryPoint(name, inputs, outputs, {"n": Axis(), "t": Axis()}),))


@pytest.mark.parametrize(
    ("name", "primitive", "line"), [("taken", "gather", "take_along_axis"), ("put", "scatter", "dynamic_update_slice")]
)
def test_what_the_oldest_version_has_no_word_for_is_told_with_its_line(name, primitive, line, capfd):
    with pytest.raises(GateError, match=rf"cannot write {name} as StableHLO 1.0.0.*'{primitive}' asks for it") as told:
        lowered(row_by_row(name), name, ())
    place = re.search(r"used at (\S+?):(\d+)", str(told.value))
    assert line in Path(place[1]).read_text().splitlines()[int(place[2]) - 1]
    assert capfd.readouterr().err == ""


def test_the_way_that_the_message_names_can_be_written():
    lowered(row_by_row("indexed"), "indexed", ())


def test_every_file_is_run_in_turn(artifact, monkeypatch):
    called = []
    monkeypatch.setattr(jax, "jit", lambda call: lambda *_: called.append(call.__self__) or {"embeddings": np.zeros(1)})
    runner, entry = EXPORTER.open(artifact), NETWORK.entry_points["encode_text"]
    for tokens in (6, 4, 5, 4, 3):
        runner.run("encode_text", tiny.inputs(entry, batch=2, tokens=tokens))
    static, bytecode, jax_export, again, third = called
    assert [str(d) for d in static.in_avals[-1].shape] == ["2", "6"]
    assert jax_export is not bytecode
    assert again is bytecode
    assert third is bytecode


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 1, "tokens": 41}, r"encode_text takes tokens from 1 to 40; .* tokens=41"),
        ({"batch": 0, "tokens": 4}, r"encode_text takes batch at least 1; .* batch=0"),
        ({"batch": 1}, r"encode_text needs a size for its axis tokens, from 1 to 40; got \{'batch': 1\}"),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(tmp_path, weights, sizes, message):
    network = BERT.network(dataclasses.replace(BERT.sizes["tiny"], max_position_embeddings=40))
    with pytest.raises(InputError, match=message):
        EXPORTER.write(Request(network, weights, tmp_path, static=(sizes,)))
    assert list(tmp_path.iterdir()) == []


def test_the_description_is_json_and_progress_counts_its_files(artifact, weights, tmp_path):
    counted = []
    described = EXPORTER.write(Request(NETWORK, weights, tmp_path, progress=counted.append))
    assert json.loads(json.dumps(described)) == described
    assert sum(counted) == sum(path.stat().st_size for path in tmp_path.iterdir())
