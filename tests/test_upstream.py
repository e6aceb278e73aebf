"""Upstream's classes as the judge: no second copy, strict by memory, exact in float64, quiet and offline."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bgevis.converter.checkpoint import open_checkpoint
from bgevis.converter.progress import Silent
from bgevis.converter.stages.reference import read_state
from bgevis.converter.use.fixture import write_fixture
from bgevis.model import upstream
from bgevis.model.bert import documents
from bgevis.model.family import families
from bgevis.model.reference import Lifted, Original, Reference
from bgevis.validation.cases import tap_case
from bgevis.validation.errors import GateError, InputError

BERT = families()["bert"]
CONFIG = BERT.sizes["tiny"]


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> dict[str, torch.Tensor]:
    path = tmp_path_factory.mktemp("state") / "tiny.pth"
    write_fixture("bert", "tiny", 5, "float32", path)
    return torch.load(path, weights_only=True, mmap=True)


@pytest.fixture(scope="module")
def reference(state) -> Reference:
    return BERT.reference(CONFIG, Original(state))


CASE = tap_case(BERT.entry_points(CONFIG)[0]).inputs


def test_nothing_is_copied_and_every_parameter_is_a_tensor(state, reference):
    places = {tensor.data_ptr() for tensor in state.values()}
    assert all(parameter.data_ptr() in places for parameter in reference.module.parameters())
    assert not any(parameter.requires_grad for parameter in reference.module.parameters())
    reference.check({name: name for name in state if not name.startswith("pooler")})


def test_a_parameter_that_nothing_fills_is_refused(state):
    lost = {name: tensor for name, tensor in state.items() if name != "encoder.layer.1.output.dense.bias"}
    with pytest.raises(GateError, match=r"has a parameter 0\.encoder\.layer\.1\.output\.dense\.bias, which no tensor"):
        BERT.reference(CONFIG, Original(lost)).check({})


def test_a_tensor_that_the_original_does_not_use_is_refused(state, reference):
    with pytest.raises(GateError, match=r"does not use tensor pooler\.dense\.bias, which fills text\.pooler\.bias"):
        reference.check({"pooler.dense.bias": "text.pooler.bias"})


def test_a_shape_that_the_configuration_does_not_have_is_refused(state):
    with pytest.raises(InputError, match="does not load into BertModel"):
        upstream.text_encoder(documents(CONFIG)["config.json"] | {"intermediate_size": 60}, state)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"model_type": None}, "neither model_type nor architectures"), ({"model_type": "no such kind"}, "refuses it")],
)
def test_what_upstream_cannot_tell_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        upstream.configuration(
            {k: v for k, v in (documents(CONFIG)["config.json"] | fields).items() if v and k != "architectures"}
        )


@pytest.mark.parametrize("padding", [0.0, 0.5])
def test_upstream_writes_nothing_into_a_checkpoint(padding):
    """Funnel's class sets a row of its table to zero, as for new weights, each time that it is loaded."""
    transformers = upstream.transformers(0)
    config = transformers.FunnelConfig(
        vocab_size=9, block_sizes=[1, 1], d_model=8, n_head=2, d_head=4, d_inner=8, pad_token_id=0
    )
    state = {name: tensor.clone() for name, tensor in transformers.FunnelModel(config).state_dict().items()}
    table = state["embeddings.word_embeddings.weight"]
    table[0] = padding
    before = table.clone()
    if padding:
        with pytest.raises(InputError, match=r"word_embeddings\.weight: transformers overwrites a part of it"):
            upstream.load(transformers.FunnelModel, config, state)
    else:
        upstream.load(transformers.FunnelModel, config, state)
    assert torch.equal(table, before)


def test_how_to_run_a_network_is_not_what_it_is(state):
    told = {"_attn_implementation": "flash_attention_2", "quantization_config": {"bits": 4}, "torch_dtype": "float16"}
    module = upstream.text_encoder(documents(CONFIG)["config.json"] | told, state)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_float64_is_bit_for_bit_what_a_converted_module_gives(state, reference):
    exact = reference.in_dtype("float64").run("encode_text", CASE)["embeddings"]
    assert exact.dtype == np.float64
    other = BERT.reference(CONFIG, Original({name: tensor.clone() for name, tensor in state.items()}))
    other.module.double()
    ids, mask = (torch.from_numpy(array).long() for array in CASE.values())
    with torch.inference_mode():
        assert np.array_equal(other.entries["encode_text"](input_ids=ids, attention_mask=mask)["embeddings"], exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_what_its_float32_copy_gives(state, dtype):
    """Some tensors stay as they are: real files mix."""
    half = {n: t.to(dtype) if "LayerNorm" not in n else t for n, t in state.items()}
    stored = BERT.reference(CONFIG, Original(half))
    stored.check({name: name for name in state if not name.startswith("pooler")})
    copied = BERT.reference(CONFIG, Original({name: tensor.float() for name, tensor in half.items()}))
    for precision in ("float32", "float64"):
        one, other = (r.in_dtype(precision).run("encode_text", CASE)["embeddings"] for r in (stored, copied))
        assert one.dtype == np.dtype(precision)
        assert np.array_equal(one, other)


def test_numbers_only_go_up():
    table = torch.nn.Parameter(torch.randn(5, 3))
    with Lifted(torch.float64):
        found = functional.embedding(torch.tensor([1, 2]), table)
        assert found.dtype == torch.float64
        assert functional.softmax(found, -1, dtype=torch.float32).dtype == torch.float64
        assert found.float() is found
        assert found.to(torch.bfloat16) is found
        assert found.long().dtype == torch.int64
        assert torch.cat([found, torch.ones(1, 3)]).dtype == torch.float64
        assert (torch.arange(3) * 0.5).dtype == torch.float32  # of integers alone: as the network makes it
        with pytest.raises(TypeError, match="would round"):
            torch.zeros(2, 3).add_(found)


def test_every_module_with_parameters_is_tapped(state, reference):
    leaves = {name: f"root.{name}" for name in state if not name.startswith("pooler")}
    _, taps = reference.traced("encode_text", CASE, leaves, lambda array: array.copy())
    assert set(taps) == {leaf.rpartition(".")[0] for leaf in leaves.values()}
    assert list(taps)[-1] == "root.encoder.layer.1.output.LayerNorm"
    _, again = reference.in_dtype("float64").traced("encode_text", CASE, leaves, lambda array: array.copy())
    assert all(again[name].dtype == np.float64 and np.allclose(again[name], taps[name], atol=1e-5) for name in taps)


WRAPPED = {
    "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
    "numpy scalar": np.float64(3.0),
    "path": Path("/tmp/somewhere"),
    "plain": {"lr": 0.1},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_the_safe_reader_accepts_the_judge_reads_too(state, tmp_path, kind):
    """Torch's own restricted reader knows fewer of the names that trainers leave beside the weights."""
    torch.save({"model": {f"module.{n}": t for n, t in state.items()}, "args": WRAPPED[kind]}, tmp_path / "last.pth")
    found = read_state(open_checkpoint(tmp_path / "last.pth"), Silent())
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


ALONE = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
import torch
from bgevis.model.family import families
from bgevis.model.reference import Original
from bgevis.validation.cases import tap_case
bert = families()["bert"]
config = bert.sizes["tiny"]
reference = bert.reference(config, Original(torch.load(sys.argv[1], weights_only=True)))
entry = bert.entry_points(config)[0]
assert reference.run(entry.name, tap_case(entry).inputs)["embeddings"].any()
"""


def test_the_judge_asks_no_network_and_leaves_nothing_behind(tmp_path):
    write_fixture("bert", "tiny", 0, "float32", tmp_path / "tiny.pth")
    home = tmp_path / "home"
    home.mkdir()
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "TRANSFORMERS_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "tiny.pth")],
        env=kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert not list(home.iterdir())
