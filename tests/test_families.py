"""Every family as it is found, at its size `tiny`, through all that `all` does: each verdict is a pass."""

import json

import pytest
from in_process import convert, in_this_process
from variants import TINY

from bgevis.converter.directory import RunDirectory
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.model.family import families

EVERY = tuple(name for name, exporter in exporters().items() if not exporter.layout)


@pytest.mark.parametrize("formats", [("onnx",), pytest.param(EVERY, marks=pytest.mark.prove)], ids=["onnx", "every"])
@pytest.mark.parametrize("name", families())
def test_a_tiny_checkpoint_of_every_family_is_converted_and_proved(tmp_path, name, formats):
    family = families()[name]
    write_fixture(name, TINY, 11, "float32", tmp_path / "tiny.safetensors")
    with in_this_process():
        run = convert(tmp_path / "tiny.safetensors", tmp_path / "run", formats, no_tokenizer=True)
    manifest = RunDirectory(run).manifest()
    assert manifest["family"] == name
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert manifest["entry_points"].keys() == {entry.name for entry in family.entry_points(family.sizes[TINY])}
    keys = {exporters()[format_].key for format_ in formats}
    assert all(entry["programs"].keys() == keys for entry in manifest["entry_points"].values())
    assert all(report["passed"] for report in json.loads((run / "reports/validate.json").read_text()).values())
    assert (run / "provenance.json").exists()
