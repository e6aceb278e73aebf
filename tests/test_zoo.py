"""Folders as sentence-transformers saves them, from raw texts to embeddings: upstream's, or a refusal by name."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter import open_artifacts
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, pack, remap, verify
from bgevis.converter.use.artifacts import Artifacts
from bgevis.exporters.base import exporters
from bgevis.validation.errors import GateError, InputError

CLOSE = 5e-6

REFUSED = {
    "japanese": "BertJapaneseTokenizer",
    "lightning_bert": "--pooling mean --no-normalize",
    "lora_adapter_folder": "merge it first",
    "no_pad_token": "of the empty text",
    "no_pooling_file": "--pooling mean --no-normalize",
    "old_mlm_gamma_beta": "--no-normalize",
    "pooling_without_modules": "pass --normalize or --no-normalize",
    "reranker": "states pooling",
    "roberta_without_model_type": "--no-normalize",
    "simcse_pooler": "--pooling mean --no-normalize",
    "timm_style_args": "--pooling mean --no-normalize",
    "trainer_output": "checkpoint-100",
}
"""Case -> a part of the message: nothing beside it states what the embedding is, or it is not computed here."""

STATED = {
    "lightning_bert": {"normalize": True},
    "no_pooling_file": {"pooling": "mean", "normalize": False},
    "old_mlm_gamma_beta": {"normalize": True},
    "pooling_without_modules": {"normalize": False},
    "roberta_without_model_type": {"normalize": True},
    "timm_style_args": {"pooling": "cls", "normalize": True},
}
"""Case -> what its user has to say; then it is upstream's."""


def cases(*groups: str) -> list:
    named = os.environ.get("BGEVIS_ORACLES")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "oracles"
    found = [case for group in groups for case in sorted((root / group).glob("*")) if case.is_dir()]
    return [pytest.param(case, id=f"{case.parent.name}/{case.name}") for case in found] or [
        pytest.param(root, id="none", marks=[pytest.mark.skip("needs the conformance data")])
    ]


def converted(case: Path, out: Path, **options) -> Artifacts:
    inside = (case / "target").read_text().strip() if (case / "target").exists() else "ckpt"
    given = case / inside if (case / inside).exists() else case
    run = load.perform(out, Options(checkpoint=str(given), **options), Silent())
    for stage in (remap.perform, verify.perform, build.perform, pack.perform):
        stage(run, Options(), Silent())
    export.perform(run, Options(), Silent(), exporters()["onnx"])
    return open_artifacts(out)


def texts(case: Path) -> list[str]:
    read = json.loads((case / "texts.json").read_text())
    return read if isinstance(read, list) else read["texts"]


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= CLOSE * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("case", cases("st_zoo", "st_zoo_old"))
def test_a_folder_of_sentence_transformers_is_the_same(case, tmp_path):
    model, golden = converted(case, tmp_path / "run"), np.load(case / "golden.npz")
    same(model.embed(texts(case)), golden["embeddings"])
    same(model.embed(texts(case), batch_size=1), golden["embeddings_alone"])
    prompted = [key for key in golden.files if key.startswith("embeddings_prompt_")]
    assert bool(prompted) == any(model.prompts.values())
    for key in prompted:
        name = key.removeprefix("embeddings_prompt_")
        if name == "given_empty" and case.parent.name == "st_zoo_old":
            continue  # of an empty prompt 3.4.1 leaves out [CLS]; later versions, which are followed, nothing
        given = {"prompt": ""} if name == "given_empty" else {"prompt_name": name}
        same(model.embed(texts(case), **given), golden[key])


@pytest.mark.parametrize("case", cases("pipelines"))
def test_a_property_of_a_public_report_is_the_same_or_refused_by_name(case, tmp_path):
    if case.name in REFUSED:
        with pytest.raises((InputError, GateError), match=REFUSED[case.name]):
            converted(case, tmp_path / "refused")
    if case.name not in REFUSED or case.name in STATED:
        same(
            converted(case, tmp_path / "run", **STATED.get(case.name, {})).embed(texts(case)),
            np.load(case / "truth.npy"),
        )


def test_a_prompt_that_is_not_there_is_named(tmp_path, oracles):
    model = converted(oracles / "st_zoo" / "prompt_excluded", tmp_path / "run")
    assert set(model.prompts) == {"query", "document"}
    with pytest.raises(InputError, match=r"no prompt 'other' \(prompts: 'document', 'query'\)"):
        model.embed(["a"], prompt_name="other")
    with pytest.raises(ValueError, match="give one of them"):
        model.embed(["a"], prompt_name="query", prompt="b")
    assert not np.allclose(model.embed(["rain"], prompt="query : "), model.embed(["rain"]))
    same(model.embed(["rain"], prompt="query : "), model.embed(["rain"], prompt_name="query"))
