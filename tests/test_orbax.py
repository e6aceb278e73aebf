"""The Orbax checkpoint as an NNX user restores it: Orbax's and Flax's own calls, none of ours."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from bgevis.exporters.base import Request
from bgevis.exporters.orbax import EXPORTER
from bgevis.model.bert import FAMILY
from bgevis.model.bert.modeling import Bert
from bgevis.validation.errors import EnvironmentFailure

SPEC = spec_from_file_location("tiny_exports", Path(__file__).parent / "tiny_exports.py")
tiny = module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)

CONFIG = FAMILY.sizes["tiny"]
KERNEL = "text.layers.1.attention.query.kernel"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return tiny.export(EXPORTER, FAMILY.network(CONFIG), tmp_path_factory.mktemp("orbax") / "run")


@pytest.fixture(scope="module")
def kernel(artifact) -> np.ndarray:
    return tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)[KERNEL]


def test_restores_as_nested_dict(artifact, kernel):
    tree = ocp.StandardCheckpointer().restore(artifact.directory / "orbax")
    np.testing.assert_array_equal(tree["text"]["layers"]["1"]["attention"]["query"]["kernel"]["value"], kernel)


def test_restores_into_the_state_of_an_abstract_model_and_updates_it(artifact, kernel):
    model = nnx.eval_shape(lambda: Bert(CONFIG, rngs=nnx.Rngs(0)))
    state = ocp.StandardCheckpointer().restore(artifact.directory / "orbax", nnx.state(model))
    nnx.update(model, jax.tree.map(jax.numpy.asarray, state))
    np.testing.assert_array_equal(model.text.layers[1].attention.query.kernel[...], kernel)
    case = tiny.inputs(artifact.entry_points["encode_text"], batch=2, tokens=7)
    want = EXPORTER.open(artifact).run("encode_text", case)["embeddings"]
    np.testing.assert_allclose(model.encode_text(*map(jax.numpy.asarray, case.values())), want, rtol=0, atol=2e-6)


def test_restores_onto_the_devices_of_a_sharded_target(artifact, kernel):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nnx.state(nnx.eval_shape(lambda: Bert(CONFIG, rngs=nnx.Rngs(0)))),
    )
    state = ocp.StandardCheckpointer().restore(artifact.directory / "orbax", target)
    restored = state["text"]["layers"][1]["attention"]["query"]["kernel"].get_value()
    assert restored.sharding == sharding
    np.testing.assert_array_equal(restored, kernel)


def test_is_the_tree_that_orbax_writes_for_the_state_of_a_model(artifact, tmp_path):
    network = artifact.network()
    weights = tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)
    model = network.module({name: jax.numpy.asarray(weights[name]) for name in weights.tensors})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", nnx.state(model))
    theirs, ours = (
        json.loads((d / "_METADATA").read_text()) for d in (tmp_path / "theirs", artifact.directory / "orbax")
    )
    keys = [{p: e["key_metadata"] for p, e in metadata["tree_metadata"].items()} for metadata in (theirs, ours)]
    assert keys[0] == keys[1]


def test_arrays_are_plain_bytes_that_any_program_maps(artifact, kernel):
    folder = artifact.directory / "orbax" / f"{KERNEL}.value"
    (chunk,) = (path for path in folder.iterdir() if path.name != ".zarray")
    assert chunk.read_bytes() == kernel.tobytes()
    stated = json.loads((folder / ".zarray").read_text())
    assert (stated["shape"], stated["dtype"], stated["compressor"]) == (list(kernel.shape), "<f4", None)


def test_states_no_time_and_no_place(artifact):
    metadata = json.loads((artifact.directory / "orbax" / "_CHECKPOINT_METADATA").read_text())
    assert (metadata["init_timestamp_nsecs"], metadata["commit_timestamp_nsecs"]) == (0, 0)
    assert not (artifact.directory / "orbax" / "commit_success.txt").exists()


def test_progress_counts_the_weights(artifact, tmp_path):
    counted = []
    tiny.export(EXPORTER, artifact.network(), tmp_path / "run", progress=counted.append)
    assert sum(counted) == sum(leaf.size * leaf.dtype.itemsize for leaf in artifact.network().leaves.values())


def test_a_full_disk_is_an_environment_failure(artifact, tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    weights = tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)
    with pytest.raises(EnvironmentFailure, match=r"could not write .*No space left"):
        EXPORTER.write(Request(artifact.network(), weights, tmp_path))
