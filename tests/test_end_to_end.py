"""The second verdict: raw texts through upstream's own `encode`, whatever we have read out of the folder."""

import dataclasses
import importlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from in_process import convert, in_this_process
from tiny_tokenizer import tokenizer

from bgevis.converter import cross_encoder, open_artifacts, sentence_transformer
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import artifact
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.verdicts import PREFIX, end_to_end_rows, tell
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import pack, validate
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.model.family import TextRules, families
from bgevis.validation.errors import InputError


def folder(place: Path) -> Path:
    """Write a folder of sentence-transformers: a limit, a prompt before every text, the ends of long texts."""
    config = families()["bert"].sizes["tiny"]
    write_fixture("bert", "tiny", 3, "float32", place / "model.safetensors")
    tokenizer(config).save(str(place / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "truncation_side": "left", "pad_token": "[PAD]"}
    documents = {
        "sentence_bert_config.json": {"max_seq_length": 21, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "the fox: "}, "default_prompt_name": "query"},
        "tokenizer_config.json": settings | {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    }
    for name, document in documents.items():
        (place / name).write_text(json.dumps(document))
    return place


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> RunDirectory:
    place = tmp_path_factory.mktemp("folder")
    return RunDirectory(convert(folder(place), tmp_path_factory.mktemp("runs") / "run", ("onnx",)))


def test_sentence_transformers_embeds_by_the_run(good):
    """SentenceTransformer with the run as its one module: the prompt by default, by name and none, the limit."""
    model, artifacts = sentence_transformer(good.path), open_artifacts(good.path)
    texts = ["a quick fox", "the " * 40, ""]
    for given in ({}, {"prompt_name": "query"}, {"prompt": ""}, {"prompt": "fox: "}):
        assert np.abs(model.encode(texts, batch_size=2, **given) - artifacts.embed(texts, **given)).max() < 1e-6
    assert (model.max_seq_length, model.get_embedding_dimension()) == (21, artifacts.width)
    assert model.prompts["query"] == "the fox: "
    assert model.similarity(model.encode(texts), model.encode(texts)).shape == (3, 3)
    with pytest.raises(InputError, match="gives no scores"):
        cross_encoder(good.path)


def test_the_judge_follows_what_the_command_line_says_of_texts(tmp_path):
    """A limit below the folder's, the other end of long texts, capitals: in upstream's encode as in the pack."""
    said = ("max_seq_length=12", "truncation_side=right", "do_lower_case=true")
    run = RunDirectory(convert(folder(tmp_path), tmp_path / "run", ("onnx",), sets=said))
    assert run.manifest()["proof"]["end_to_end"]["verdict"] == "pass"
    rules = json.loads((run.path / "preprocess.json").read_text())["texts"]
    assert (rules["max_tokens"], rules["truncation"][:14]) == ({"encode_text": 12}, "keep the first")
    with pytest.raises(InputError, match="--set: max_seq_length is 50, but the network has positions for 40"):
        identify(tmp_path, Options(sets=("max_seq_length=50",)))


def test_a_folder_that_is_read_right_passes_both(good):
    proof = good.manifest()["proof"]
    assert {name: verdict["verdict"] for name, verdict in proof.items()} == {"network": "pass", "end_to_end": "pass"}
    assert "BertModel" in proof["network"]["judge"]
    assert "sentence-transformers" in proof["end_to_end"]["judge"]
    report = json.loads((good.path / "reports/validate.json").read_text())["onnx"]
    assert [row for row in report["checks"] if row["case"].startswith(PREFIX) and row.get("error")]
    page = (good.path / "reports/report.html").read_text()
    assert "End to end" in page
    assert proof["end_to_end"]["judge"] in page


RIGHT = TextRules(21, "left", {"query": "the fox: "}, "query")
MISREADINGS = {
    "a limit one too long": dataclasses.replace(RIGHT, limit=22),
    "a limit one too short": dataclasses.replace(RIGHT, limit=20),
    "no limit": dataclasses.replace(RIGHT, limit=None),
    "the other end cut off": dataclasses.replace(RIGHT, side="right"),
    "no prompt": dataclasses.replace(RIGHT, default_prompt=""),
    "another prompt": dataclasses.replace(RIGHT, prompts={"query": "the fox; "}),
}


@pytest.mark.parametrize("misreading", ["none", *MISREADINGS])
def test_what_is_misread_of_the_texts_goes_red(good, misreading, tmp_path, monkeypatch):
    rules = MISREADINGS.get(misreading, RIGHT)
    run = RunDirectory(shutil.copytree(good.path, tmp_path / "run"))
    changed = dataclasses.replace(families()["bert"], texts=lambda config: rules)
    monkeypatch.setattr(importlib.import_module("bgevis.model.bert"), "FAMILY", changed)
    pack.perform(run, Options(), Silent())
    exporter = exporters()["onnx"]
    opened = artifact(run, exporter)
    rows = end_to_end_rows(run, exporter, exporter.open(opened), opened)
    assert rows
    assert all(row.passed for row in rows) == (misreading == "none")


def test_without_a_tokenizer_it_is_not_checked_and_that_is_said(tmp_path, capsys):
    place = folder(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).unlink()
    run = RunDirectory(convert(place, tmp_path / "run", ("onnx",)))
    proof = run.manifest()["proof"]
    assert proof["network"]["verdict"] == "pass"
    assert proof["end_to_end"]["verdict"] == "not checked"
    assert "tokenizer" in proof["end_to_end"]["why"]
    assert tell(proof)[-1].startswith("end to end: not checked: ")
    suites = ElementTree.parse(run.path / validate.JUNIT).getroot()
    (skipped,) = suites.findall("testsuite[@name='end to end']/testcase/skipped")
    assert skipped.get("message") == proof["end_to_end"]["why"]
    assert proof["end_to_end"]["why"] in (run.path / validate.HTML).read_text()
