"""ONNX programs of whole networks: agreement, structure, size, bytes, references into the weights file."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest

from bgevis.exporters.base import PROGRAMS, Artifact, Request
from bgevis.exporters.onnx import EXPORTER
from bgevis.exporters.weights import WeightsFile, plan, write
from bgevis.model.bert import FAMILY as BERT
from bgevis.model.steps import plain
from bgevis.model.visualized_bge import FAMILY as VISUALIZED_BGE
from bgevis.validation.errors import GateError, InputError
from bgevis.validation.runner import Runner

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from onnx_lowering import summary

TINY = replace(
    BERT.sizes["tiny"],
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=20,
)
CONFIGS = {
    "bert": TINY,
    "mean": replace(TINY, pipeline=plain(["mean"]), hidden_act="silu"),
    "tanh": replace(TINY, hidden_act="gelu_new", pipeline=plain(normalize=False)),
    "xlm-roberta": replace(TINY, model_type="xlm-roberta", pad_token_id=1),
}

LAYER = """
MatMul:batch,tokens,32 Add:batch,tokens,32
MatMul:batch,tokens,32 Add:batch,tokens,32
MatMul:batch,tokens,32 Add:batch,tokens,32
Attention:batch,tokens,32
MatMul:batch,tokens,32 Sum:batch,tokens,32 LayerNormalization:batch,tokens,32
MatMul:batch,tokens,64 Add:batch,tokens,64 Gelu:batch,tokens,64
MatMul:batch,tokens,32 Sum:batch,tokens,32 LayerNormalization:batch,tokens,32
"""

LAST_LAYER = """
Slice:batch,1,32 MatMul:batch,1,32 Add:batch,1,32
MatMul:batch,tokens,32 Add:batch,tokens,32
MatMul:batch,tokens,32 Add:batch,tokens,32
Slice:batch,1,1,tokens Attention:batch,1,32
MatMul:batch,1,32 Sum:batch,1,32 LayerNormalization:batch,1,32
MatMul:batch,1,64 Add:batch,1,64 Gelu:batch,1,64
MatMul:batch,1,32 Sum:batch,1,32 LayerNormalization:batch,1,32
"""

EMBEDDINGS = """
Shape:1 Slice:tokens,32 Slice:1,32 Squeeze:32
Less:batch,tokens Where:batch,tokens Gather:batch,tokens,32
Sum:batch,tokens,32 LayerNormalization:batch,tokens,32
"""

MASK = """
Cast:batch,tokens Sub:batch,tokens Mul:batch,tokens Unsqueeze:batch,1,1,tokens Concat:4 Expand:batch,1,tokens,tokens
"""

POOLING = "Squeeze:batch,32 ReduceL2:batch,1 Max:batch,1 Div:batch,32"


def export(network, folder: Path, opset: int | None = None) -> Artifact:
    """Write random weights and the programs that point into them."""
    out = folder / PROGRAMS
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    leaves = {name: (np.dtype(spec.dtype), spec.shape) for name, spec in network.leaves.items()}
    _, order = plan(leaves, {})
    arrays = ((name, rng.normal(0, 0.3, leaves[name][1]).astype(leaves[name][0])) for name in order)
    with (out / "weights.safetensors").open("wb") as file:
        write(file, leaves, arrays, {})
    request = Request(network, WeightsFile(out / "weights.safetensors"), out, opset=opset)
    return Artifact(folder, network.entry_points, EXPORTER.write(request), lambda: network)


def draw(network, name: str, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Draw inputs of an entry point; the last row is padded."""
    rng = np.random.default_rng(1)
    mask = np.ones((batch, tokens), np.int32)
    mask[-1, tokens // 2 + 1 :] = 0
    values = {"input_ids": np.where(mask, rng.integers(2, 50, mask.shape), 1).astype(np.int32), "attention_mask": mask}
    specs = network.entry_points[name].inputs
    shapes = {spec.name: spec.resolve({"batch": batch, "tokens": tokens}) for spec in specs}
    return {n: values.get(n, rng.normal(size=shape).astype(np.float32)) for n, shape in shapes.items()}


def in_jax(network, folder: Path, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    weights = WeightsFile(folder / PROGRAMS / "weights.safetensors")
    leaves = {leaf: weights[leaf] for leaf in network.leaves}
    return np.asarray(jax.jit(network.function(name))(leaves, *inputs.values())["embeddings"])


def opened(network, folder: Path, opsets: tuple[int, ...]) -> list[Runner]:
    return [EXPORTER.open(export(network, folder / str(opset), opset)) for opset in opsets]


def text(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(artifact.directory / PROGRAMS / "encode_text.onnx", load_external_data=False)


@pytest.mark.parametrize("config", CONFIGS)
def test_text_encoders_agree_with_jax_at_every_opset(tmp_path, config):
    network = BERT.network(CONFIGS[config])
    runners = opened(network, tmp_path, (17, 20, 23, 26))
    for batch, tokens in ((1, 1), (3, 18)):
        inputs = draw(network, "encode_text", batch, tokens)
        want = in_jax(network, tmp_path / "17", "encode_text", inputs)
        for runner in runners:
            got = runner.run("encode_text", inputs)["embeddings"]
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_image_encoders_agree_with_jax(tmp_path):
    network = VISUALIZED_BGE.network(VISUALIZED_BGE.sizes["tiny"])
    runners = opened(network, tmp_path, (17, 23))
    for name, batch in zip(network.entry_points, (2, 1, 3), strict=True):
        inputs = draw(network, name, batch, 7)
        want = in_jax(network, tmp_path / "17", name, inputs)
        for runner in runners:
            np.testing.assert_allclose(runner.run(name, inputs)["embeddings"], want, rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Artifact:
    return export(BERT.network(TINY), tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("opset", [17, 23, 26])
@pytest.mark.parametrize("family", [BERT, VISUALIZED_BGE], ids=lambda family: family.name)
def test_every_program_passes_the_full_check_and_strict_shape_inference(tmp_path, family, opset):
    artifact = export(family.network(family.sizes["tiny"]), tmp_path, opset)
    assert set(artifact.programs) == set(artifact.entry_points)
    for program in artifact.programs.values():
        path = tmp_path / program["path"]
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(path, load_external_data=False)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        assert program["opset"] == opset
        assert {v.name for v in inferred.graph.value_info} >= {v.name for v in proto.graph.value_info}


def test_structure_of_a_text_encoder(bert):
    first = LAYER.replace("Attention", f"{MASK} Attention")
    assert summary(text(bert)) == " ".join(f"{EMBEDDINGS} {first} {LAST_LAYER} {POOLING}".split())


def test_names_follow_the_modules(bert):
    names = [node.name for node in text(bert).graph.node]
    assert len(set(names)) == len(names)
    for name in (
        "text.embeddings.word.Gather",
        "text.layers.0.attention.query.MatMul",
        "text.layers.0.attention.Attention",
        "text.layers.0.attention.out.Sum",
        "text.layers.1.down_norm.LayerNormalization",
    ):
        assert name in names


def test_inputs_and_outputs_are_as_the_ecosystem_feeds_them(bert):
    graph = text(bert).graph
    described = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    assert described == [
        ("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"]),
        ("attention_mask", onnx.TensorProto.INT64, ["batch", "tokens"]),
        ("embeddings", onnx.TensorProto.FLOAT, ["batch", 32]),
    ]


def test_every_edge_has_a_shape(bert):
    graph = text(bert).graph
    described = {info.name for info in (*graph.value_info, *graph.output)}
    assert described == {name for node in graph.node for name in node.output}


def test_description(bert):
    assert bert.programs == {
        "encode_text": {
            "path": "programs/encode_text.onnx",
            "opset": 23,
            "ir_version": 11,
            "weights": "programs/weights.safetensors",
        }
    }


def test_weights_are_one_file_in_the_dims_that_are_used(tmp_path):
    artifact = export(VISUALIZED_BGE.network(VISUALIZED_BGE.sizes["tiny"]), tmp_path)
    declared: dict[str, tuple[int, ...]] = {}
    for program in artifact.programs.values():
        for tensor in onnx.load(tmp_path / program["path"], load_external_data=False).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                assert tensor.external_data[0].value == "weights.safetensors"
                declared[tensor.name] = tuple(tensor.dims)
    assert declared["text.layers.0.attention.query.kernel"] == (32, 32)
    assert declared["text.layers.0.attention.query.bias"] == (32,)
    assert declared["vision.patch_embed.kernel"] == (48, 32)
    assert set(declared) == {name for e in artifact.entry_points for name in artifact.network().used_weights(e)}
    assert len(list((tmp_path / PROGRAMS).iterdir())) == 4


def test_read_weights_goes_through_the_programs_references(bert):
    network = bert.network()
    weights = WeightsFile(bert.directory / PROGRAMS / "weights.safetensors")
    read = dict(EXPORTER.read_weights(bert))
    assert set(read) == set(network.used_weights("encode_text"))
    for name, array in read.items():
        np.testing.assert_array_equal(array, weights[name])


def test_a_wrong_offset_is_read_as_it_is(tmp_path):
    artifact = export(BERT.network(TINY), tmp_path)
    proto = text(artifact)
    tensor = next(t for t in proto.graph.initializer if t.name.endswith("query.kernel"))
    tensor.external_data[1].value = str(int(tensor.external_data[1].value) + 64)
    onnx.save(proto, tmp_path / PROGRAMS / "encode_text.onnx")
    weights = WeightsFile(tmp_path / PROGRAMS / "weights.safetensors")
    assert not np.array_equal(dict(EXPORTER.read_weights(artifact))[tensor.name], weights[tensor.name])


def test_same_bytes_again(tmp_path):
    network = BERT.network(TINY)
    one, other = export(network, tmp_path / "1"), export(BERT.network(TINY), tmp_path / "2")
    data = [(a.directory / PROGRAMS / "encode_text.onnx").read_bytes() for a in (one, other)]
    assert data[0] == data[1]
    assert str(tmp_path).encode() not in data[0]
    assert b".py" not in data[0]


def test_a_program_of_twelve_layers_is_thin(tmp_path):
    artifact = export(BERT.network(replace(TINY, num_hidden_layers=12)), tmp_path)
    assert (tmp_path / artifact.programs["encode_text"]["path"]).stat().st_size < 100_000


@pytest.mark.parametrize("config", ["bert", "xlm-roberta"])
def test_too_long_a_text_raises(tmp_path, config):
    network = BERT.network(CONFIGS[config])
    runner = EXPORTER.open(export(network, tmp_path))
    ids = np.full((1, CONFIGS[config].max_tokens + 1), 2, np.int32)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        runner.run("encode_text", {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_an_unsupported_opset_is_named(tmp_path):
    with pytest.raises(InputError, match="opset 16 is not supported: choose 17 to 26"):
        export(BERT.network(TINY), tmp_path, 16)


def test_an_invalid_program_is_refused(tmp_path):
    artifact = export(BERT.network(TINY), tmp_path)
    proto = text(artifact)
    proto.graph.node[-1].op_type = "Dvi"
    onnx.save(proto, tmp_path / PROGRAMS / "encode_text.onnx")
    with pytest.raises(GateError, match=r"encode_text\.onnx is not valid ONNX"):
        EXPORTER.open(artifact)
