"""Rerankers and classifiers: pairs of texts, labels, and what makes scores of logits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from corruptions import seal
from in_process import convert, in_this_process
from onnxruntime import InferenceSession
from safetensors.numpy import load_file, save_file
from tiny_tokenizer import tokenizer

from bgevis.converter import cross_encoder, sentence_transformer
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.pack.preprocessor import Preprocessor
from bgevis.converter.progress import Silent
from bgevis.converter.report.terminal import lines
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import load, pack
from bgevis.converter.use import bench
from bgevis.converter.use.artifacts import open_artifacts
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.family import families
from bgevis.validation.errors import InputError

NAMES = ["bert_crossencoder_1", "xlmr_reranker_1"]


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


@pytest.fixture(scope="module", params=NAMES)
def reranker(request, oracles, tmp_path_factory):
    """A reranker's folder, converted."""
    folder = oracles / "rerankers" / request.param
    run = tmp_path_factory.mktemp("runs") / "run"
    return folder, convert(folder / "model.safetensors", run, ("onnx",), layouts=("sentence-transformers",))


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    return [(first, second) for first, second in json.loads((folder / "pairs.json").read_text())]


def test_scores_are_the_cross_encoders(reranker):
    """From raw pairs: an empty text on either side, both kinds of too long, other scripts."""
    folder, run = reranker
    goldens, artifacts = np.load(folder / "golden.npz"), open_artifacts(run)
    scores = artifacts.score(pairs_of(folder), batch_size=3)
    assert np.abs(scores - goldens["crossencoder_predict"]).max() < 2e-6
    assert np.abs(artifacts.score(pairs_of(folder), activation="identity") - goldens["logits_f64"][:, 0]).max() < 2e-6
    sigmoid = artifacts.score(pairs_of(folder), activation="sigmoid")
    assert np.abs(sigmoid - goldens["crossencoder_predict_sigmoid"]).max() < 2e-6
    assert artifacts.cut
    with pytest.raises(InputError, match="longer than"):
        artifacts.score(pairs_of(folder), strict=True)
    assert artifacts.labels == ["LABEL_0"]
    ending = "\n".join(line for line, _ in lines(run, RunDirectory(run).manifest()))
    assert f"next: bgevis-convert score {run} --pair " in ending
    assert artifacts.score([]).shape == (0,)
    proof = json.loads((run / "manifest.json").read_text())["proof"]
    assert {verdict["verdict"] for verdict in proof.values()} == {"pass"}


def test_sentence_transformers_gives_them_by_the_run(reranker):
    """CrossEncoder with the run as its one module."""
    folder, run = reranker
    model = cross_encoder(run)
    scores = model.predict(pairs_of(folder), batch_size=3)
    assert np.abs(scores - np.load(folder / "golden.npz")["crossencoder_predict"]).max() < 2e-6
    query, passages = "fox", ["a quick fox", "rain"]
    assert len(model.rank(query, passages)) == 2
    with pytest.raises(InputError, match="embeds no texts"):
        sentence_transformer(run)
    with pytest.raises(InputError, match="copy the run directory"):
        model[0].save("elsewhere")


def test_the_folder_for_clients_has_the_classifier(reranker):
    """transformers' words for it, its labels both ways, and the logits as the one output."""
    folder, run = reranker
    place = run / "sentence_transformers"
    config = json.loads((place / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert (config["id2label"], config["label2id"]) == ({"0": "LABEL_0"}, {"LABEL_0": 0})
    assert not (place / "modules.json").exists()
    session = InferenceSession(place / "onnx/model.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits"]
    taken = [value.name for value in session.get_inputs()]
    assert sorted(json.loads((place / "tokenizer_config.json").read_text())["model_input_names"]) == sorted(taken)
    assert ("token_type_ids" in taken) == folder.name.startswith("bert")
    validated = json.loads((run / "reports/validate.json").read_text())["sentence_transformers"]["checks"]
    assert all(row["passed"] for row in validated)
    assert any(row["case"].endswith("raw pairs of texts") for row in validated)


def test_pairs_cut_as_no_client_cuts_them_are_no_folder_for_clients(oracles, tmp_path):
    source = str(oracles / "rerankers" / "xlmr_reranker_1" / "model.safetensors")
    options = Options(checkpoint=source, pairs="flag-reranker", layouts=("sentence-transformers",))
    with pytest.raises(InputError, match="--pairs flag-reranker: clients"):
        load.perform(tmp_path / "run", options, Silent())


def test_pairs_become_upstreams_ids(oracles, tmp_path):
    """Both ways of cutting, of a reranker whose pairs are cut in both."""
    folder = oracles / "rerankers" / "xlmr_reranker_1"
    goldens = np.load(folder / "golden.npz")
    for way, name in (("longest-first", "input_ids"), ("flag-reranker", "flagreranker_input_ids")):
        options = Options(checkpoint=str(folder / "model.safetensors"), pairs=way)
        run = load.perform(tmp_path / way, options, Silent())
        pack.perform(run, options, Silent())
        texts = Preprocessor(run.path).texts
        rows = texts.rows("score", pairs_of(folder))
        np.testing.assert_array_equal(texts.padded_rows(rows)["input_ids"], goldens[name])
        assert [at for at, row in enumerate(rows) if row.cut] == [2, 6]
    assert not np.array_equal(goldens["input_ids"], goldens["flagreranker_input_ids"])


def test_types_tell_the_texts_apart(oracles, tmp_path):
    folder = oracles / "rerankers" / "bert_crossencoder_1"
    options = Options(checkpoint=str(folder / "model.safetensors"))
    run = load.perform(tmp_path / "run", options, Silent())
    pack.perform(run, options, Silent())
    texts, goldens = Preprocessor(run.path).texts, np.load(folder / "golden.npz")
    made = texts.padded_rows(texts.rows("score", pairs_of(folder)))
    for name, array in made.items():
        np.testing.assert_array_equal(array, goldens[name])


def test_the_shell_ranks(reranker):
    folder, run = reranker
    (query, first), (_, second) = pairs_of(folder)[:2]
    ranked = CliRunner().invoke(main, ["score", str(run), "--query", query, "--text", first, "--text", second])
    lines = [json.loads(line) for line in ranked.stdout.splitlines()]
    wanted = np.load(folder / "golden.npz")["crossencoder_predict"][:2]
    assert ranked.exit_code == 0, ranked.output
    assert [line["score"] for line in lines] == pytest.approx(sorted(wanted, reverse=True), abs=2e-6)
    alone = CliRunner().invoke(main, ["score", str(run), "--pair", query, first, "--activation", "identity"])
    assert set(json.loads(alone.stdout)) == {"query", "text", "score"}
    assert CliRunner().invoke(main, ["score", str(run)]).exit_code == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("one", "two", "three")], "row 0 has 3 texts"),
        (["one", None], "row 1 is None"),
        (
            [("one", float("nan"))],
            r"the second text of row 0 is nan \(float\), expected a str; leave out what is missing",
        ),
        (("one", "two"), r"one pair or two texts: give a list, \[\(one, two\)\] or \[one, two\]"),
    ],
)
def test_rows_that_are_no_pairs_are_named(reranker, rows, message):
    with pytest.raises(InputError, match=message):
        open_artifacts(reranker[1]).score(rows)


def test_an_activation_that_is_none_is_named(reranker):
    with pytest.raises(InputError, match="expected one of identity, sigmoid, tanh, softmax"):
        open_artifacts(reranker[1]).score(["a"], activation="relu")
    with pytest.raises(InputError, match="gives no embeddings"):
        open_artifacts(reranker[1]).embed(["a"])


def folder_of(place: Path, **changes) -> Path:
    """Write a classifier's folder with a tokenizer, some fields of its config.json changed."""
    config = families()["classifier"].sizes["tiny"]
    place.mkdir(parents=True, exist_ok=True)
    write_fixture("classifier", "tiny", 3, "float32", place / "model.safetensors")
    tokenizer(config).save(str(place / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    settings |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (place / "tokenizer_config.json").write_text(json.dumps(settings | changes.pop("settings", {})))
    document = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**document, **changes}))
    return place


def test_several_labels_and_single_texts(tmp_path):
    """A classifier of three labels, of texts as well as of pairs of them, in their places."""
    run = convert(folder_of(tmp_path / "ckpt"), tmp_path / "run", ("onnx",))
    artifacts = open_artifacts(run)
    assert artifacts.labels == ["bad", "good", "neither"]
    scores = artifacts.score(["the fox", ("quick", "the"), "a"])
    assert scores.shape == (3, 3)
    assert (
        np.abs(scores - np.stack([artifacts.score([each])[0] for each in ["the fox", ("quick", "the"), "a"]])).max()
        < 1e-5
    )
    assert artifacts.score(["the"], activation="softmax").sum() == pytest.approx(1)
    told = json.loads(CliRunner().invoke(main, ["score", str(run), "--text", "the fox"]).stdout)
    assert list(told["scores"]) == ["bad", "good", "neither"]


def test_a_folder_that_the_cross_encoder_saved(oracles, tmp_path):
    """Of sentence-transformers 6: modules.json, and the activation beside it, which wins over config.json's."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    original = CrossEncoder(str(oracles / "rerankers" / NAMES[0]), device="cpu", local_files_only=True)
    original.activation_fn = nn.Tanh()
    original.save_pretrained(str(tmp_path / "saved"))
    found = identify(tmp_path / "saved", Options())
    assert (found.family.name, found.config.activation) == ("classifier", "tanh")
    assert found.configured.origins["activation"] == "config_sentence_transformers.json: activation_fn"


UNTYPED = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
        ({"architectures": ["BertForMultipleChoice"]}, "over sequences are computed here"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label names 2 labels, but the checkpoint's tensors say 3"),
        ({"id2label": None}, "id2label is not stated, which means 2, but the checkpoint's tensors say 3"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.ReLU"}}, "activation_fn is"),
        ({"sbert_ce_default_activation_function": "mine.Own", "sentence_transformers": {}}, "mine.Own"),
        ({"settings": UNTYPED}, "state it, with or without token_type_ids"),
        ({"model_type": "roberta"}, "whose head is classifier.dense"),
    ],
)
def test_what_is_not_computed_is_named(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        identify(folder_of(tmp_path / "ckpt", **changes), Options())


def test_without_types_nothing_takes_them(tmp_path):
    folder = folder_of(tmp_path / "ckpt", settings={"model_input_names": ["input_ids", "attention_mask"]})
    found = identify(folder, Options())
    (entry,) = found.family.entry_points(found.config)
    assert [spec.name for spec in entry.inputs] == ["input_ids", "attention_mask"]


def test_three_quarters_of_a_short_limit_are_refused(tmp_path):
    folder = folder_of(tmp_path / "ckpt", settings={"model_max_length": 15})
    assert identify(folder, Options()).config.text_limit == 15
    with pytest.raises(InputError, match="leaves nothing of 15 tokens"):
        identify(folder, Options(pairs="flag-reranker"))


@pytest.mark.parametrize("left", ["pooler.dense.weight", "classifier.weight"])
def test_half_a_head_is_no_classifier(left, tmp_path):
    """A head over tokens, or a pooler alone: that of the encoder which remains is not dropped in silence."""
    folder = folder_of(tmp_path / "ckpt")
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight" if left == "pooler.dense.weight" else "pooler.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    found = identify(folder, Options(pooling="cls", normalize=True, ignore=("config.json:sentence_transformers",)))
    assert found.family.name == "bert"


def test_a_classifier_is_none_of_the_encoders(tmp_path):
    """Neither family takes the other's checkpoint."""
    folder = folder_of(tmp_path / "ckpt")
    assert identify(folder, Options()).family.name == "classifier"
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    write_fixture("bert", "tiny", 3, "float32", encoder / "model.safetensors")
    assert identify(encoder, Options()).family.name == "bert"


def test_of_a_reranker_pairs_are_measured(reranker):
    assert bench._kinds(reranker[1], "onnx") == ["pair"]
    found = bench.measure(str(reranker[1]), "onnx", "pair", None, (1, 2), 0.01)
    assert (found.kind, found.throughput.keys()) == ("pair", {1, 2})
    assert "target" not in bench.tell(found)


def test_the_pack_states_scores(reranker):
    """In a part of its own; and what it makes of logits, which every reader is held to."""
    rules = json.loads((reranker[1] / "preprocess.json").read_text())
    assert rules["embeddings"] is None
    assert set(rules["scores"]) == {"outputs", "labels", "dtype", "activation"}
    assert rules["texts"]["pairs"] == "token by token from the longer one"
    table = json.loads((reranker[1] / "goldens/raw/index.json").read_text())["scores"]
    made = 1 / (1 + np.exp(-np.array(table["logits"])))
    identity = rules["scores"]["activation"] == "identity"
    np.testing.assert_allclose(table["scores"], table["logits"] if identity else made, atol=1e-8)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scores", {"activation": "relu"}, 'known: "identity"'),
        ("scores", {"labels": []}, "labels is"),
        ("scores", {"outputs": {"other": "logits"}}, "names other"),
        ("scores", {"labels": ["a", "b"]}, "scores are logits"),
        ("texts", {"pairs": "somehow"}, "pairs is"),
    ],
)
def test_words_of_scores_are_held(part, change, message, reranker, tmp_path):
    shutil.copytree(reranker[1], tmp_path / "run")
    place = tmp_path / "run" / "preprocess.json"
    rules = json.loads(place.read_text())
    place.write_text(json.dumps({**rules, part: {**rules[part], **change}}))
    seal(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        open_artifacts(tmp_path / "run")
