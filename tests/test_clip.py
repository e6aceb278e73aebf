"""CLIP in the forms that people have: both towers or one, projected or not, transformers' names and open_clip's."""

import dataclasses
from pathlib import Path

import pytest
from in_process import convert, in_this_process

from bgevis.converter.directory import RunDirectory
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.clip import OPEN_CLIP, SIZES

TINY = SIZES["tiny"]
QUICK = {"hidden_act": "quick_gelu"}
FORMS = {
    "text": dataclasses.replace(TINY, vision=None, projection_dim=0, normalize=False),
    "text, projected": dataclasses.replace(TINY, vision=None, normalize=False),
    "vision": dataclasses.replace(TINY, text=None, projection_dim=0, normalize=False),
    "vision, projected": dataclasses.replace(TINY, text=None, normalize=False),
    "bge-vl": dataclasses.replace(
        TINY, multimodal=True, text=dataclasses.replace(TINY.text, truncation_side="none", eos_token_id=2)
    ),
    "open_clip": dataclasses.replace(
        TINY,
        names=OPEN_CLIP,
        text=dataclasses.replace(TINY.text, eos_token_id=2, pad_token_id=0, bos_token_id=198),
        pictures=dataclasses.replace(TINY.pictures, offset="half to even", rgb_first=False, alpha="dropped"),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


def written(folder: Path, config, dtype: str = "float32") -> Path:
    """Write a checkpoint of a configuration, and what lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "form", config)
        write_fixture("clip", "form", 5, dtype, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_converted_and_proved(tmp_path, form):
    config = FORMS[form]
    run = convert(written(tmp_path, config), tmp_path / "run", ("onnx",), no_tokenizer=True)
    manifest = RunDirectory(run).manifest()
    assert manifest["verdicts"].keys() >= {"parity", "validate"}
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert (run / "provenance.json").exists()
    towers = [name for name, tower in (("text", config.text), ("image", config.vision)) if tower]
    assert {f"encode_{name}" for name in towers} <= manifest["entry_points"].keys()
    assert ("encode_multimodal" in manifest["entry_points"]) == config.multimodal
