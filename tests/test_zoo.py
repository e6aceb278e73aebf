"""Folders as sentence-transformers saves them, from raw texts to embeddings: upstream's, or a refusal by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter import open_artifacts
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, pack, remap, verify
from bgevis.converter.stages.validate import artifact, weight_rows
from bgevis.converter.use.artifacts import Artifacts
from bgevis.exporters.base import exporters
from bgevis.validation.errors import GateError, InputError

CLOSE = 5e-6
LAYOUT = "sentence-transformers"

REFUSED = {
    "japanese": "BertJapaneseTokenizer",
    "lightning_bert": "--pooling mean --no-normalize",
    "lora_adapter_folder": "give that one, and this folder with --adapter",
    "no_pad_token": "of the empty text",
    "no_pooling_file": "--pooling mean --no-normalize",
    "old_mlm_gamma_beta": "--no-normalize",
    "pooling_without_modules": "pass --normalize or --no-normalize",
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


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as held:
        return dict(held)


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
    model, golden = converted(case, tmp_path / "run"), arrays(case / "golden.npz")
    same(model.embed(texts(case)), golden["embeddings"])
    same(model.embed(texts(case), batch_size=1), golden["embeddings_alone"])
    prompted = [key for key in golden if key.startswith("embeddings_prompt_")]
    assert bool(prompted) == any(model.prompts.values())
    for key in prompted:
        name = key.removeprefix("embeddings_prompt_")
        if name == "given_empty" and case.parent.name == "st_zoo_old":
            continue  # of an empty prompt 3.4.1 leaves out [CLS]; later versions, which are followed, nothing
        given = {"prompt": ""} if name == "given_empty" else {"prompt_name": name}
        same(model.embed(texts(case), **given), golden[key])


SCORES = ("reranker",)
"""Cases that are no embeddings: they convert, and say so when they are asked to embed."""


@pytest.mark.parametrize("case", cases("pipelines"))
def test_a_property_of_a_public_report_is_the_same_or_refused_by_name(case, tmp_path):
    if case.name in SCORES:
        with pytest.raises(InputError, match="score"):
            converted(case, tmp_path / "run").embed(["rain"])
        return
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


def test_a_text_that_is_cut_says_so(tmp_path, oracles):
    case = oracles / "st_zoo" / "max_seq_length_12"
    model, long = converted(case, tmp_path / "run"), [len(text.split()) > 9 for text in texts(case)]
    model.embed(texts(case))
    assert model.limit == 12
    assert {row for row, longer in enumerate(long) if longer} <= set(model.cut) < set(range(len(long)))
    with pytest.raises(
        InputError, match=rf"{len(model.cut)} of 6 texts are longer than 12 tokens, the first is number"
    ):
        model.embed(texts(case), strict=True)
    assert model.embed(["rain"], strict=True).shape == (1, 24)
    assert model.cut == ()


def embed(run: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bgevis.converter", "embed", str(run), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_warns_of_texts_that_are_cut_and_refuses_them_if_asked(tmp_path, oracles):
    converted(oracles / "st_zoo" / "prompt_included_default", tmp_path / "run")
    given = ("--text", "rain", "--text", "rain " * 60)
    done = embed(tmp_path / "run", *given)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert "warning: 1 of 2 text is longer than 48 tokens, the first is number 1 from 0; they were cut" in done.stderr
    done = embed(tmp_path / "run", *given, "--strict")
    assert (done.returncode, done.stdout) == (3, "")
    assert "1 of 2 text is longer than 48 tokens" in done.stderr


def test_the_command_takes_prompts(tmp_path, oracles):
    model = converted(oracles / "st_zoo" / "prompt_excluded", tmp_path / "run")
    wanted = model.embed(["rain"], prompt_name="query")
    for said in (("--prompt-name", "query"), ("--prompt", "query : ")):
        done = embed(tmp_path / "run", "--text", "rain", *said)
        np.testing.assert_allclose(json.loads(done.stdout)["embedding"], wanted[0], atol=1e-6)
    done = embed(tmp_path / "run", "--text", "rain", "--prompt-name", "other")
    assert done.returncode == 3
    assert "has no prompt 'other'" in done.stderr


@pytest.mark.parametrize("name", ["dense_tanh", "dense_identity_nobias", "pool_lasttoken", "pool_cls_mean"])
def test_upstreams_own_modules_open_the_folder_that_is_written(name, tmp_path, oracles):
    """sentence-transformers' classes from modules.json, on the states that model.onnx gives."""
    import onnxruntime
    import torch

    upstream = pytest.importorskip("bgevis.model.upstream")
    upstream.sentence_transformers()
    from sentence_transformers.util import import_from_string

    case, golden = oracles / "st_zoo" / name, arrays(oracles / "st_zoo" / name / "golden.npz")
    converted(case, tmp_path / "run", layouts=(LAYOUT,))
    run, exporter = RunDirectory(tmp_path / "run"), exporters()[LAYOUT]
    export.perform(run, Options(), Silent(), exporter)
    folder = run.path / "sentence_transformers"
    ids, mask = (golden[key] for key in ("input_ids", "attention_mask"))
    fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states, vector = onnxruntime.InferenceSession(folder / "onnx/model.onnx").run(None, fed)
    same(vector, golden["embeddings"])
    features = {"token_embeddings": torch.from_numpy(states), "attention_mask": torch.from_numpy(mask)}
    for described in json.loads((folder / "modules.json").read_text())[1:]:
        module = import_from_string(described["type"]).load(str(folder), subfolder=described["path"])
        features = module(features)
    same(features["sentence_embedding"].detach().numpy(), golden["embeddings"])
    opened = artifact(run, exporter)
    given = {key: fed[key].astype(np.int32) for key in ("input_ids", "attention_mask")}
    same(exporter.open(opened).run("encode_text", given)["embeddings"], golden["embeddings"])
    assert all(row.passed for row in weight_rows(exporter, opened, Ledger.read(run.path / "ledger.json")))


def test_the_folder_that_is_written_says_what_the_source_said(tmp_path, oracles):
    converted(oracles / "st_zoo_old" / "lower_case_maxlen", tmp_path / "lower", layouts=(LAYOUT,))
    converted(oracles / "st_zoo" / "prompt_excluded", tmp_path / "prompt", layouts=(LAYOUT,))
    for name in ("lower", "prompt"):
        export.perform(RunDirectory(tmp_path / name), Options(), Silent(), exporters()[LAYOUT])

    def read(name: str, file: str) -> dict:
        return json.loads((tmp_path / name / "sentence_transformers" / file).read_text())

    assert read("lower", "sentence_bert_config.json") == {"max_seq_length": 16, "do_lower_case": True}
    assert read("lower", "tokenizer_config.json")["model_max_length"] == 16
    assert read("prompt", "1_Pooling/config.json")["include_prompt"] is False
    assert read("prompt", "config_sentence_transformers.json")["prompts"]["query"] == "query : "
