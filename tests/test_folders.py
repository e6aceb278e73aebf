"""What lies beside a checkpoint: every document by its place, every field and every file accounted for, or refused."""

import copy
import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from variants import fields, replaced

from bgevis.converter.options import Options
from bgevis.converter.pack.preprocessor import Preprocessor
from bgevis.converter.progress import Silent
from bgevis.converter.source.identify import identify, open_given
from bgevis.converter.stages import build, load, pack, remap, verify
from bgevis.converter.use.fixture import write_documents, write_fixture
from bgevis.model.bert import FAMILY as BERT
from bgevis.model.bert.config import UPSTREAM_DEFAULTS
from bgevis.model.documents import Document, Given
from bgevis.model.family import Source, config_from_json, config_to_json, dotted, families
from bgevis.model.steps import CLS, Dense, LayerNorm, Normalize, Pooling, Truncate, plain
from bgevis.model.visualized_bge import FAMILY as VISUALIZED
from bgevis.validation.errors import ConvertError, InputError

TINY = BERT.sizes["tiny"]
SHAPES = BERT.checkpoint_shapes(TINY)
ODD = {name: tuple(48 if n == 32 else n for n in shape) for name, shape in SHAPES.items()}
"""Of no published size: its heads are known from nowhere."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "##s", "a"]
POOLED = {"pooling": Given("cls", "--pooling"), "normalize": Given(True, "--normalize")}
REMOVED = object()
MODES = "cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken"


def bert(shapes=SHAPES, given=POOLED, wrappers=(), **documents):
    """Configure from documents, "config" for config.json."""
    read = {f"{name}.json": Document(f"{name}.json", f"{name}.json", value) for name, value in documents.items()}
    configured = BERT.configure(Source(shapes, documents=read, given=given, wrappers=wrappers))
    assert configured.origins.keys() == dict(dotted(config_to_json(configured.config))).keys()
    return configured


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A whole folder of sentence-transformers, with a tokenizer."""
    folder = tmp_path_factory.mktemp("saved")
    write_fixture("bert", "tiny", 0, "float32", folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that may be changed; the weights are a link."""
    for file in saved.rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(saved)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(file) if file.suffix == ".safetensors" else target.write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, place: str, **fields) -> None:
    document = json.loads((folder / place).read_text()) if (folder / place).exists() else {}
    document |= fields
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text(json.dumps({k: v for k, v in document.items() if v is not REMOVED}))


def refused(path: Path, words: str, **options) -> None:
    with pytest.raises(InputError, match=words):
        identify(path, Options(**options))


# The whole folder.


def test_a_folder_of_sentence_transformers_needs_no_option(folder):
    identified = identify(folder, Options())
    assert identified.config == dataclasses.replace(TINY, cls_token_id=2, sep_token_id=3, max_seq_length=40)
    origins = identified.configured.origins
    assert origins["pipeline"] == "modules.json, 1_Pooling/config.json: pooling_mode_cls_token"
    assert origins["cls_token_id"] == "vocab.txt: [CLS]"
    assert origins["max_seq_length"] == "sentence_bert_config.json: max_seq_length"
    assert origins["hidden_size"] == "shape of embeddings.word_embeddings.weight"
    told = identified.found.described()
    assert told["config.json"]["fields"]["hidden_act"] == "used"
    assert all(document["sha256"] and document["status"] == "used" for document in told.values())
    assert identified.unread == {}


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_the_documents_of_a_fixture_say_its_configuration(family, tmp_path):
    for size, config in family.sizes.items():
        (tmp_path / size).mkdir()
        write_documents(tmp_path / size, family.documents(config))
        read = {
            place: Document(place, place, json.loads((tmp_path / size / place).read_text()))
            for place in family.documents(config)
        }
        configured = family.configure(Source(family.checkpoint_shapes(config), documents=read))
        for path, value in fields(config):
            if (
                path[-1] == "max_seq_length" and not value and hasattr(config, "max_tokens")
            ):  # as many as there are positions, which documents say
                config = replaced(config, path, config.max_tokens)
        assert configured.config == config
        assert configured.origins.keys() == dict(dotted(config_to_json(configured.config))).keys()
        for document in read.values():
            assert document.read
            document.finish()


def test_a_fixture_never_replaces_a_document(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config.json is there, and is not what belongs beside"):
        write_fixture("bert", "tiny", 0, "float32", tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("layout", ["5.6", "6.2"])
def test_both_layouts_of_sentence_transformers_are_read(folder, layout):
    if layout == "6.2":
        base, own = "sentence_transformers.base.modules.", "sentence_transformers.sentence_transformer.modules."
        types = (f"{base}transformer.Transformer", f"{own}pooling.Pooling", f"{base}normalize.Normalize")
        places = ("", "1_Pooling", "2_Normalize")
        modules = [
            {"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(zip(places, types, strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        pooling = {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
        text = {"method": "forward", "method_output_name": "last_hidden_state"}
        states = {"transformer_task": "feature-extraction", "modality_config": {"text": text}}
        (folder / "sentence_bert_config.json").write_text(
            json.dumps(states | {"module_output_name": "token_embeddings"})
        )
        change(folder, "tokenizer_config.json", model_max_length=17)
        change(folder, "2_Normalize/config.json", module_input_name="sentence_embedding")
    identified = identify(folder, Options())
    want = (plain(["mean"]), 17) if layout == "6.2" else (plain(["cls"]), 40)
    assert (identified.config.pipeline, identified.config.max_seq_length) == want


# modules.json is a pipeline.


def modules(*types: str, paths=("", "1_Pooling", "2", "3")) -> list:
    full = [t if "." in t else f"sentence_transformers.models.{t}" for t in types]
    return [{"idx": i, "name": str(i), "path": paths[i], "type": t} for i, t in enumerate(full)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (modules("Transformer", "Pooling", "Dense", "Normalize"), "the Dense is in 2, but 2/config.json is missing"),
        (modules("Transformer", "Pooling", "LayerNorm"), "the LayerNorm is in 2, but 2/config.json is missing"),
        (modules("Transformer", "Pooling", "CNN"), r"module 2 is '.*CNN' in '2'"),
        (modules("Transformer", "Pooling", "Pooling"), "module 2 is 'Pooling' in '2'"),
        (modules("Transformer", "LayerNorm", "Pooling"), "module 1 is 'LayerNorm' in '1_Pooling', before the Pooling"),
        (modules("Transformer", "WeightedLayerPooling", "Pooling"), r"module 1 is '.*WeightedLayerPooling'"),
        (modules("Transformer", "Normalize", "Pooling"), "module_input_name is not stated, which means"),
        (modules("Transformer"), "it ends too early"),
        (modules("evil.code.Pooling", "Pooling"), "module 0 is 'evil.code.Pooling'"),
        (modules("Transformer", "sentence_transformers.sparse_encoder.models.SpladePooling"), "SpladePooling"),
        ([], "it ends too early"),
        ({}, "expected a list"),
        (["Transformer"], "expected an object"),
        ([{"type": 3}], "a module's path is None"),
        (modules("Transformer", "Pooling", paths=("", "../elsewhere")), "expected a folder beside it"),
        (modules("Transformer", "Pooling", paths=("", "/etc")), "expected a folder beside it"),
        (modules("Transformer", "Pooling", paths=("0_Transformer", "1_Pooling")), "give that one"),
        (modules("Transformer", "Pooling", paths=("", "7_Pooling")), "7_Pooling/config.json is missing"),
        ([m | {"kwargs": ["task"]} for m in modules("Transformer", "Pooling")], r"kwargs = \['task'\]"),
    ],
)
def test_another_pipeline_is_refused_by_name(folder, content, words):
    (folder / "modules.json").write_text(json.dumps(content))
    refused(folder, words)


def test_the_pooling_is_where_modules_says(folder):
    (folder / "modules.json").write_text(json.dumps(modules("Transformer", "Pooling", paths=("", "9_My"))))
    change(folder, "9_My/config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    identified = identify(folder, Options())
    assert identified.config.pipeline == plain(["mean"], normalize=False)
    assert identified.unread["1_Pooling/"] == "not read: a folder that modules.json does not name"


def test_the_modules_around_an_old_transformer_are_passed(folder):
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("model.safetensors", "config.json", "vocab.txt"):
        (folder / name).rename(inner / name)
    content = modules("Transformer", "Pooling", paths=("0_Transformer", "1_Pooling"))
    (folder / "modules.json").write_text(json.dumps(content))
    refused(folder, rf"bgevis-convert all {inner} --config {folder / 'modules.json'} --out DIR")
    refused(inner, "pass --pooling with cls")
    identified = identify(inner, Options(configs=(str(folder / "modules.json"),)))
    assert identified.config.pipeline == plain(normalize=False)


def add(folder: Path, kind: str, place: str, tensors: dict, **stated) -> None:
    """Put a module with weights into a folder, behind those that are there."""
    change(folder, f"{place}/config.json", **stated)
    save_file(tensors, folder / place / "model.safetensors")
    listed = json.loads((folder / "modules.json").read_text())
    more = {"idx": len(listed), "name": str(len(listed)), "path": place, "type": f"sentence_transformers.models.{kind}"}
    (folder / "modules.json").write_text(json.dumps([*listed, more]))


def linear(inputs: int, outputs: int) -> dict:
    rng = np.random.default_rng(inputs)
    shapes = {"linear.weight": (outputs, inputs), "linear.bias": (outputs,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_pipeline_is_read_as_it_stands(folder):
    norm = {f"norm.{kind}": np.ones(48, np.float32) for kind in ("weight", "bias")}
    change(folder, "1_Pooling/config.json", pooling_mode_max_tokens=True)
    add(folder, "Dense", "3_Dense", linear(64, 48), in_features=64, out_features=48)
    add(folder, "LayerNorm", "4_LayerNorm", norm, dimension=48)
    gelu = {"activation_function": "torch.nn.GELU", "use_residual": True}
    add(folder, "Dense", "inner/5_Dense", linear(48, 48), in_features=48, out_features=48, **gelu)
    change(folder, "config_sentence_transformers.json", truncate_dim=20)
    identified = identify(folder, Options())
    config = identified.config
    assert config.pipeline == (
        Pooling(("cls", "max")),
        Normalize(),
        Dense("3_Dense/", 64, 48),
        LayerNorm("4_LayerNorm/", 48),
        Dense("inner/5_Dense/", 48, 48, activation="GELU", residual=True),
        Truncate(20),
    )
    assert {"3_Dense/linear.weight", "4_LayerNorm/norm.bias"} <= identified.checkpoint.tensors.keys()
    assert {"3_Dense/model.safetensors", "model.safetensors"} <= identified.checkpoint.named_files.keys()
    assert identified.unread == {}
    (entry,) = BERT.entry_points(config)
    assert (entry.outputs[0].shape, entry.outputs[0].kind.unit) == (("batch", 20), False)
    assert config_from_json(type(config), json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"in_features": 33}, "in_features is 33, but what it takes has 32"),
        ({"out_features": 15}, r"ask for a tensor 3_Dense/linear.weight of shape \(15, 32\); there is \(16, 32\)"),
        ({"out_features": REMOVED}, "out_features is missing"),
        ({"use_residual": True}, "3_Dense/residual.weight of shape"),
        ({"activation_function": "torch.nn.modules.activation.PReLU"}, "activation_function is 'torch.nn.*PReLU'"),
        ({"activation_function": "__main__.Tanh"}, "activation_function is '__main__.Tanh'"),
        ({"activation_function": "torch.Tanh"}, "activation_function is 'torch.Tanh'"),
        ({"activation_function": None}, "activation_function is null"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings', expected"),
        ({"module_output_name": "other"}, "module_output_name is 'other'"),
        ({"anything": 1}, "anything = 1"),
    ],
)
def test_another_dense_is_refused_by_name(folder, stated, words):
    add(folder, "Dense", "3_Dense", linear(32, 16), in_features=32, out_features=16, bias=True)
    assert identify(folder, Options()).config.pipeline[-1] == Dense("3_Dense/", 32, 16)
    change(folder, "3_Dense/config.json", **stated)
    refused(folder, words)


def test_weights_of_a_module_that_are_missing_are_named(folder):
    add(folder, "Dense", "3_Dense", linear(32, 16), in_features=32, out_features=16)
    (folder / "3_Dense/model.safetensors").unlink()
    refused(folder, "the Dense is in 3_Dense, but its weights are missing: .*pytorch_model.bin, nor a 3.linear.weight")


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode_cls_token": False}, "the pooling is none"),
        ({"pooling_mode_cls_token": 1}, "pooling_mode_cls_token is 1, expected true or false"),
        ({"pooling_mode": "eos"}, "the pooling is eos"),
        ({"pooling_mode": ["cls", "median"]}, r"the pooling is cls \+ median"),
        ({"pooling_mode": ["mean", 3]}, r"the pooling is mean \+ 3"),
        ({"pooling_mode": None}, "pooling_mode is null"),
        ({"word_embedding_dimension": 64}, "64, but the checkpoint's tensors say 32"),
        ({"include_prompt": "no"}, "include_prompt is 'no', expected true or false"),
        ({"anything": 3}, "anything = 3"),
    ],
)
def test_other_pooling_is_refused_by_name(folder, pooling, words):
    change(folder, "1_Pooling/config.json", **pooling)
    refused(folder, words)


def test_nothing_is_guessed(folder):
    (folder / "modules.json").unlink()
    refused(folder, r"states normalize \(modules.json; pass --normalize or --no-normalize\)")
    assert identify(folder, Options(normalize=False)).config.pipeline == plain(normalize=False)
    (folder / "1_Pooling/config.json").unlink()
    refused(folder, r"states pooling .*--pooling with cls, .*\) nor normalize .*--pooling mean --no-normalize")
    identified = identify(folder, Options(pooling="mean", normalize=True))
    assert identified.config.pipeline == plain(["mean"])
    assert identified.configured.origins["pipeline"] == "--pooling, --normalize"
    identified = identify(folder, Options(pooling="max+lasttoken", normalize=False))
    assert identified.config.pipeline == plain(["max", "lasttoken"], normalize=False)
    for words in ("+", "cls+", "CLS", "cls mean"):
        refused(folder, f"--pooling: pooling is .*{MODES}, one or several", pooling=words, normalize=True)


@pytest.mark.parametrize("size", ["base", "small", "minilm-l6", "m3"])
def test_published_shapes_state_sizes_and_never_the_pooling(size):
    config = BERT.sizes[size]
    with pytest.raises(InputError, match="states pooling"):
        bert(BERT.checkpoint_shapes(config), {})
    found = bert(BERT.checkpoint_shapes(config), POOLED)
    assert found.config == dataclasses.replace(config, pipeline=CLS, max_seq_length=config.max_tokens)
    assert found.origins["num_attention_heads"].startswith("published size")


# Texts.


def test_the_limit_is_sentence_transformers_then_the_tokenizers(folder):
    change(folder, "sentence_bert_config.json", max_seq_length=16)
    change(folder, "tokenizer_config.json", model_max_length=12)
    assert identify(folder, Options()).config.max_seq_length == 16
    change(folder, "sentence_bert_config.json", max_seq_length=None)
    assert identify(folder, Options()).config.max_seq_length == 12
    change(folder, "tokenizer_config.json", model_max_length=10**30)
    identified = identify(folder, Options())
    assert identified.config.max_seq_length == 40
    assert identified.configured.origins["max_seq_length"] == "as many as there are positions"
    assert BERT.texts(identified.config).limit == 40
    (entry,) = BERT.entry_points(dataclasses.replace(identified.config, max_seq_length=7))
    assert entry.axes["tokens"].high == 40


def test_the_limit_lies_in_the_first_of_upstreams_files(folder):
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    change(folder, "sentence_roberta_config.json", max_seq_length=16)
    origin = identify(folder, Options()).configured.origins["max_seq_length"]
    assert origin == "sentence_roberta_config.json: max_seq_length"


def test_prompts(folder):
    change(
        folder, "config_sentence_transformers.json", prompts={"query": "q: ", "plain": ""}, default_prompt_name="query"
    )
    config = identify(folder, Options()).config
    assert BERT.texts(config).prefix == "q: "
    assert config.prompts == (("plain", ""), ("query", "q: "))
    assert json.loads(json.dumps(config_to_json(config))) == config_to_json(config)
    assert config_from_json(type(config), config_to_json(config)) == config
    assert BERT.documents(config)["config_sentence_transformers.json"]["default_prompt_name"] == "query"
    change(folder, "config_sentence_transformers.json", default_prompt_name="plain")
    assert BERT.texts(identify(folder, Options()).config).prefix == ""
    change(folder, "config_sentence_transformers.json", default_prompt_name="other")
    refused(folder, "default_prompt_name is 'other', which is none of its prompts")
    change(folder, "config_sentence_transformers.json", default_prompt_name=None)
    change(folder, "1_Pooling/config.json", include_prompt=False)
    config = identify(folder, Options()).config
    assert config.pipeline == (Pooling(("cls",), include_prompt=False), Normalize())
    (entry,) = BERT.entry_points(config)
    assert [spec.name for spec in entry.inputs] == ["input_ids", "attention_mask", "prompt_tokens"]
    change(folder, "config_sentence_transformers.json", prompts={"query": "", "document": None})
    assert identify(folder, Options()).config.prompts == (("document", ""), ("query", ""))


@pytest.mark.parametrize(
    ("place", "fields", "words"),
    [
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0, expected a whole number"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type = 'SparseEncoder'"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "expected 'cosine' or"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, r"prompts.query is 3, expected a text"),
        ("sentence_bert_config.json", {"max_seq_length": 1}, "max_seq_length is 1, expected a whole number at least 2"),
        ("sentence_bert_config.json", {"query_length": 32}, "query_length = 32"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task = 'fill-mask'"),
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left', expected 'right'"),
        ("tokenizer_config.json", {"truncation_side": "middle"}, "expected 'right' or 'left'"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ("tokenizer_config.json", {"word_tokenizer_type": "mecab"}, "word_tokenizer_type = 'mecab'"),
        ("tokenizer_config.json", {"cls_token": "<s>"}, "cls_token is '<s>'"),
        ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tokenize = false"),
        ("tokenizer_config.json", {"additional_special_tokens": ["<new>"]}, "the token '<new>'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "new"}}}, "the token 'new'"),
        ("special_tokens_map.json", {"sep_token": {"content": "</s>"}}, "sep_token is '</s>'"),
    ],
)
def test_what_would_make_other_texts_of_a_text_is_refused_by_name(folder, place, fields, words):
    change(folder, place, **fields)
    refused(folder, words)


TOKENIZER = {
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None},
    "model": {"type": "WordPiece", "vocab": {word: i for i, word in enumerate(WORDS)}},
    "added_tokens": [{"id": 2, "content": "[CLS]", "special": True}],
}


@pytest.mark.parametrize(
    ("lowercase", "settings", "words"),
    [
        (True, {"do_lower_case": True}, ""),
        (False, {"do_lower_case": False}, ""),
        (True, {"do_lower_case": False}, "do_lower_case is false, but .*tokenizer.json says true"),
        (False, {"do_lower_case": True}, "do_lower_case is true, but"),
        (False, {}, "do_lower_case is not stated, which means true"),
        (True, {"strip_accents": False}, "strip_accents is false"),
        (True, {"tokenize_chinese_chars": False}, "tokenize_chinese_chars is false"),
        (False, {"tokenizer_class": "PreTrainedTokenizerFast"}, ""),
        (False, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, "do_lower_case is true"),
        (True, {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
    ],
)
def test_two_documents_of_a_tokenizer_must_agree(folder, lowercase, settings, words):
    content = copy.deepcopy(TOKENIZER)
    content["normalizer"]["lowercase"] = lowercase
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if words:
        refused(folder, words)
        identify(folder, Options(no_tokenizer=True))
    else:
        assert identify(folder, Options()).unread["vocab.txt"].startswith("changes nothing")


@pytest.mark.parametrize("stated", [True, False])
def test_lower_casing_before_the_tokenizer_is_read(folder, stated):
    change(folder, "sentence_bert_config.json", do_lower_case=stated)
    config = identify(folder, Options()).config
    assert (config.do_lower_case, BERT.texts(config).lowercase) == (stated, stated)
    assert BERT.documents(config)["sentence_bert_config.json"]["do_lower_case"] is stated


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return Path(os.environ["XDG_CACHE_HOME"])


def test_a_tokenizer_that_needs_its_own_program_and_cannot_be_converted_is_an_error(folder, cache, monkeypatch):
    (folder / "vocab.txt").rename(folder / "sentencepiece.bpe.model")
    refused(folder, "transformers' BertTokenizer does not read sentencepiece.bpe.model; .*--no-tokenizer")
    change(folder, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    refused(folder, r"transformers cannot convert its tokenizer \(sentencepiece.bpe.model\): .*--no-tokenizer")
    assert identify(folder, Options(no_tokenizer=True)).config.cls_token_id == 101

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    refused(folder, r"cannot be read here: sentencepiece.bpe.model without tokenizer.json; pip install .*upstream")
    assert [*cache.rglob("tokenizer.json")] == []


def test_words_that_were_added_to_a_list_of_words_are_whole(folder, cache):
    """As a slow tokenizer of older versions saves them, behind the words; one at another id is refused."""
    from tokenizers import Tokenizer

    added = {"newword": len(WORDS), "[E1]": len(WORDS) + 1}
    change(folder, "added_tokens.json", **added)
    assert identify(folder, Options()).config.cls_token_id == 2
    (made,) = cache.rglob("tokenizer.json")
    opened = Tokenizer.from_file(str(made))
    assert opened.encode("one newword [E1]").ids == [2, WORDS.index("one"), *added.values(), 3]
    change(folder, "added_tokens.json", newword=len(WORDS) + 4)
    refused(folder, rf"the token 'newword' has an id \({len(WORDS) + 4}\)")


def test_a_slow_tokenizer_is_converted_as_upstream_does_it(folder, cache):
    from tokenizers.implementations import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["the ship", "a ship in the harbour"] * 9, vocab_size=290, special_tokens=special)
    (folder / "vocab.txt").unlink()
    made.save_model(str(folder))
    settings = dict.fromkeys(("do_lower_case",), REMOVED)
    change(folder, "tokenizer_config.json", tokenizer_class="RobertaTokenizer", **settings)
    change(folder, "config.json", model_type="roberta", pad_token_id=1, bos_token_id=0, eos_token_id=2)
    run = load.perform(folder / "run", Options(checkpoint=str(folder)), Silent())
    described = run.manifest()["tokenizer"]
    assert described["converted"]["by"].endswith("RobertaTokenizer")
    assert set(described["converted"]["of"]) == {"vocab.json", "merges.txt"}
    for stage in (remap, verify, build, pack):
        stage.perform(run, Options(), Silent())
    texts = ["The ship", "", "harbour in a ship?", "l'été 日本"]
    got = Preprocessor(run.path).ids("encode_text", texts)
    assert got == RobertaTokenizer.from_pretrained(str(folder))(texts)["input_ids"]
    assert len([*cache.rglob("tokenizer.json")]) == 1


# config.json.

FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "model_type", "pad_token_id", "is_decoder"),
    *("position_embedding_type", "pruned_heads", "auto_map", "quantization_config", "add_cross_attention"),
)
VALUES = [None, True, -1, 0, 10**9, 4.9, float("inf"), "x", "", [4], [], {"a": 1}, 10**400]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:12])
def test_an_odd_value_of_any_field_is_a_message_or_a_configuration(field, value):
    document = BERT.documents(TINY)["config.json"] | {"bos_token_id": None}
    document[field] = value
    read = Document("config.json", "/m/config.json", document)
    source = Source(SHAPES, documents={"config.json": read}, given=POOLED)
    if (field, value) in HARMLESS_ODD:
        assert BERT.network(BERT.configure(source).config)
        read.finish()
        return
    with pytest.raises(InputError, match=rf"config.json: .*{field}|{field} .*config.json: "):
        (BERT.configure(source), read.finish())


HARMLESS_ODD = [
    *(("layer_norm_eps", value) for value in (0, 10**9, 4.9)),
    *(("pruned_heads", None), ("pad_token_id", 0)),
]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"hidden_size": 64}, r"hidden_size is 64, but the checkpoint's tensors say 32 \(shape of embeddings"),
        ({"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu', expected 'gelu' or"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"model_type": "t5"}, "model_type is 't5', expected 'bert' or"),
        ({"is_decoder": True}, "is_decoder = true"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, which does not divide hidden_size 32"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps is -1e-12, expected a number at least 0"),
        ({"pad_token_id": 300}, "pad_token_id is 300, expected a whole number at least 0 and at most 299"),
        ({"model_type": "roberta", "pad_token_id": 38}, "40 positions leave 1 for a text"),
    ],
)
def test_a_contradiction_names_the_field(document, words, tmp_path):
    write_fixture("bert", "tiny", 0, "float32", tmp_path / "model.safetensors")
    change(tmp_path, "config.json", **document)
    refused(tmp_path, words)


def test_heads_that_cannot_be_known_are_asked_for():
    given = POOLED | {"model_type": Given("bert", "--set")}
    with pytest.raises(InputError, match=r"num_attention_heads is stated nowhere; .* say --set num_attention_heads="):
        bert(ODD, given)
    with pytest.raises(InputError, match="layer_norm_eps is stated nowhere"):
        bert(ODD, given | {"num_attention_heads": Given(3, "--set")})
    assert bert(ODD, config={"num_attention_heads": 3, "model_type": "bert"}).config.num_attention_heads == 3


def test_a_silent_config_means_upstreams_defaults():
    """Held against transformers' own classes."""
    transformers = pytest.importorskip("transformers")
    for model_type, ours in UPSTREAM_DEFAULTS.items():
        theirs = transformers.AutoConfig.for_model(model_type)
        assert {field: getattr(theirs, field) for field in ours} == ours, model_type
    found = bert(config={"model_type": "xlm-roberta", "num_attention_heads": 4, "bos_token_id": 5})
    config = found.config
    assert (config.model_type, config.pad_token_id, config.layer_norm_eps) == ("xlm-roberta", 1, 1e-12)
    assert (config.cls_token_id, config.sep_token_id, config.max_tokens) == (5, 2, 38)
    assert found.origins["layer_norm_eps"] == "default of transformers' XLMRobertaConfig"


@pytest.mark.parametrize(
    ("document", "wrappers", "expected"),
    [
        ({"architectures": ["RobertaModel"]}, (), "xlm-roberta"),
        ({"architectures": ["BertForMaskedLM"]}, (), "bert"),
        ({"architectures": ["XLMRobertaModel"]}, ("roberta.",), "xlm-roberta"),
        ({}, ("roberta.",), "xlm-roberta"),
        ({}, ("bert.",), "bert"),
        ({"architectures": ["BertModel"]}, ("roberta.",), None),
        ({"architectures": ["T5Model"]}, (), None),
        ({}, (), None),
    ],
)
def test_a_model_type_that_is_not_stated_is_told_or_asked_for(document, wrappers, expected):
    if expected:
        assert bert(wrappers=wrappers, config=document | {"num_attention_heads": 4}).config.model_type == expected
    else:
        with pytest.raises(InputError, match=r"model_type is not stated, .*--set model_type="):
            bert(wrappers=wrappers, config=document | {"num_attention_heads": 4})
        given = POOLED | {"model_type": Given("roberta", "--set"), "num_attention_heads": Given(4, "--set")}
        assert bert(given=given, wrappers=wrappers, config=document).config.model_type == "xlm-roberta"


@pytest.mark.parametrize("key", ["pooling_mode", "vision_cfg", "prompts", "max_seq_length"])
def test_the_place_says_what_a_document_is(folder, key):
    """One key of another format used to make all others unread."""
    change(folder, "config.json", **{key: {}, "layer_norm_eps": 0.5})
    refused(folder, f"config.json: nobody here knows what 1 field would change: {key} = ")
    assert identify(folder, Options(ignore=(f"config.json:{key}",))).config.layer_norm_eps == 0.5


# What the command line says.


def test_what_is_set_is_held_to_what_the_field_may_be(folder):
    config = identify(folder, Options(sets=("layer_norm_eps=1e-5", "hidden_act=relu"))).config
    assert (config.layer_norm_eps, config.hidden_act) == (1e-5, "relu")
    refused(
        folder, "--set: num_attention_heads is 0, expected a whole number at least 1", sets=("num_attention_heads=0",)
    )
    refused(folder, "--set: hidden_size is 64, but shape of", sets=("hidden_size=64",))
    refused(folder, "the family bert has no nothing", sets=("nothing=1",))
    refused(folder, "--set: model_type is 't5', expected 'bert' or", sets=("model_type=t5",))
    assert identify(folder, Options(sets=("model_type=camembert",))).config.model_type == "xlm-roberta"
    (folder / "config.json").unlink()
    sets = ("model_type=bert", "num_attention_heads=8", "layer_norm_eps=1e-5", "hidden_act=gelu", "pad_token_id=0")
    assert identify(folder, Options(sets=sets)).config.num_attention_heads == 8
    refused(folder, "num_attention_heads is stated nowhere", sets=("model_type=roberta",))
    refused(folder, "expected FIELD=VALUE", sets=("nothing",))
    refused(folder, "is said twice", sets=("pooling=cls",), pooling="mean")
    refused(folder, "--set: pooling is median; what is computed here are cls, max", sets=(*sets, "pooling=median"))
    refused(folder, "--set: pooling is 3, expected a text", sets=(*sets, "pooling=3"))


def test_what_is_ignored_must_be_there(folder):
    change(folder, "config.json", auto_map={"AutoModel": "x.py"}, quantization_config={"bits": 4})
    refused(folder, "2 fields would change: auto_map = an object of 1 field, quantization_config")
    refused(folder, "has no field nothing", ignore=("config.json:nothing",))
    refused(folder, "there is no document other.json", ignore=("other.json:field",))
    refused(folder, "expected DOCUMENT:FIELD", ignore=("config.json",))
    identified = identify(folder, Options(ignore=("config.json:auto_map", "config.json:quantization_config")))
    assert identified.found.described()["config.json"]["fields"]["auto_map"] == "ignored, as --ignore says"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("other.json", {"num_attention_heads": 2}, ""),
        ("other.json", {"pooling_mode_mean_tokens": True}, ""),
        ("other.json", {"anything": 1}, "by these it is none that this tool knows"),
        ("other.json", {"hidden_size": 32, "pooling_mode": "cls"}, "may be any of config.json, 1_Pooling/config.json"),
        ("7_Dense/config.json", {"in_features": 32}, "reads nothing from a 7_Dense/config.json"),
        ("eva_config.json", {"vision_cfg": {}}, "reads nothing from a eva_config.json"),
    ],
)
def test_a_file_that_is_passed_is_what_its_name_or_its_fields_say(folder, tmp_path_factory, name, content, words):
    file = tmp_path_factory.mktemp("passed") / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    if words:
        refused(folder, words, configs=(str(file),))
        return
    if "num_attention_heads" in content:
        refused(folder, "model_type is not stated", configs=(str(file),))
        file.write_text(json.dumps(content | {"model_type": "bert"}))
    config = identify(folder, Options(configs=(str(file),))).config
    assert config.num_attention_heads == 2 or config.pipeline == plain(["mean"])


# Files.


@pytest.mark.parametrize("place", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"])
def test_a_document_that_is_no_regular_file_is_an_error(folder, place):
    (folder / place).unlink()
    (folder / place).symlink_to(folder / "nowhere")
    refused(folder, f"{place} is a link to nowhere")
    (folder / place).unlink()
    os.mkfifo(folder / place)
    refused(folder, f"{place} is no regular file")
    (folder / place).unlink()
    (folder / place).mkdir()
    refused(folder, f"{place} is no regular file")


def test_a_link_into_the_hubs_cache_is_followed(folder):
    (folder / "blobs").mkdir()
    (folder / "config.json").rename(folder / "blobs" / "0123")
    (folder / "config.json").symlink_to(Path("blobs") / "0123")
    assert identify(folder, Options()).config.num_attention_heads == 4


def test_each_file_beside_is_named_with_the_reason(folder):
    for name in ("README.md", "optimizer.pt", "pytorch_model.bin", "notes.txt", "generation_config.json"):
        (folder / name).write_text("x")
    (folder / "onnx").mkdir()
    (folder / "2_Dense").mkdir()
    unread = identify(folder, Options()).unread
    assert set(unread) == {
        *("README.md", "optimizer.pt", "pytorch_model.bin", "notes.txt", "generation_config.json"),
        *("onnx/", "2_Dense/"),
    }
    assert unread["README.md"].startswith("changes nothing: ")
    assert unread["optimizer.pt"].startswith("changes nothing: ")
    assert unread["pytorch_model.bin"] == "not read: other weights; those of model.safetensors are"
    assert unread["2_Dense/"] == "not read: a folder that modules.json does not name"
    assert unread["notes.txt"].startswith("not read: ")


def test_names_that_are_not_utf8(folder):
    stray, ckpt = os.fsdecode(b"notes\xff.txt"), folder / os.fsdecode(b"mo\xffdel.safetensors")
    (folder / stray).write_text("x")
    assert identify(folder, Options()).unread.keys() == {"notes\\udcff.txt"}
    (folder / "model.safetensors").rename(ckpt)
    refused(ckpt, "the name is not UTF-8, in which files of this tool name it; rename it")


def test_a_file_among_strangers_is_read_alone(folder):
    for name in ("adapter_config.json", "adapter_model.safetensors", "another.json", "dump.pickle"):
        (folder / name).write_text("{ broken")
    unread = identify(folder / "model.safetensors", Options()).unread
    assert all(unread[name].startswith("not read") for name in ("adapter_config.json", "another.json", "dump.pickle"))
    refused(folder, "beside the checkpoint lies an adapter, .*--adapter .* merged, or give the checkpoint's file")


def emptied(folder: Path, *moved: str) -> Path:
    for name in moved:
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").symlink_to((folder / "model.safetensors").resolve())
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    ("moved", "named"),
    [
        (("checkpoint-50", "checkpoint-100"), "checkpoint-50, checkpoint-100; .*bgevis-convert all .*/checkpoint-100"),
        (("snapshots/0a1b",), "snapshots/0a1b; give one of them"),
        (("query_0_Transformer", "document_0_Transformer"), "document_0_Transformer, query_0_Transformer"),
    ],
)
def test_a_folder_without_a_checkpoint_says_where_one_is(folder, moved, named):
    (folder / "modules.json").unlink()
    with pytest.raises(InputError, match=named):
        open_given(emptied(folder, *moved))


def test_what_is_no_checkpoint_is_called_by_its_name(folder):
    emptied(folder)
    with pytest.raises(InputError, match="give the checkpoint's file itself"):
        open_given(folder)
    (folder / ".metadata").write_text("")
    (folder / "__0_0.distcp").write_text("")
    with pytest.raises(InputError, match="dcp_to_torch_save"):
        open_given(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds an adapter, .*with --adapter"):
        open_given(folder)


# Prefixes, and what lies in the checkpoint's own file.


@pytest.mark.parametrize(
    "prefix",
    ["0.model.", "0.auto_model.", "encoder.", "model.bert.", "encoder.0.auto_model.", "question_encoder.bert_model."],
)
def test_a_prefix_is_found_taken_away_and_recorded(folder, prefix):
    tensors = load_file(folder / "model.safetensors")
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, folder / "wrapped.safetensors")
    identified = identify(folder / "wrapped.safetensors", Options())
    assert identified.checkpoint.wrappers == (prefix,)
    assert set(identified.checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(identified.checkpoint.read(name), tensor)


def test_tensors_whose_weights_lie_elsewhere_are_called_so(folder):
    empty = {name: np.zeros(0, np.float32) for name in load_file(folder / "model.safetensors")}
    save_file(empty, folder / "zero3.safetensors")
    words = r"zero3.safetensors: 39 of 39 tensors are empty, such as .* of shape \(0,\): DeepSpeed.*zero_to_fp32.py"
    refused(folder / "zero3.safetensors", words)


@pytest.mark.parametrize("beside", [{}, {"base_model.model.encoder.layer.0.base_layer.weight": np.zeros((3, 3))}])
def test_an_adapter_by_itself_is_called_so(folder, beside):
    layer = "base_model.model.encoder.layer.0.attention.self.query"
    tensors = {f"{layer}.lora_{half}.weight": np.zeros((3, 3), np.float32) for half in "AB"} | beside
    save_file(tensors, folder / "adapter_model.safetensors")
    refused(
        folder / "adapter_model.safetensors",
        "holds an adapter, which changes the weights of another checkpoint: give that one",
    )


def test_what_is_of_no_family_may_be_traced(folder):
    save_file({"w": np.zeros(3, np.float32)}, folder / "other.safetensors")
    refused(folder / "other.safetensors", "belongs to no family .* 1 tensors: w, .*--transformers, .* --module")


def test_several_networks_are_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    both = {f"{tower}.{name}": tensor for tower in ("query", "passage") for name, tensor in tensors.items()}
    save_file(both, folder / "both.safetensors")
    refused(folder / "both.safetensors", "2 networks .*, behind (passage., query.|query., passage.): .*--tower")
    refused(folder / "both.safetensors", "--tower other: .* holds no network behind it", tower="other")
    checkpoint = identify(folder / "both.safetensors", Options(tower="query")).checkpoint
    assert (checkpoint.wrappers, checkpoint.tower) == (("query.",), "query.")
    assert checkpoint.ignored == (f"passage.* ({len(tensors)} tensors)",)
    assert set(checkpoint.tensors) == set(tensors)


def test_the_names_behind_two_prefixes_may_not_meet(folder):
    tensors = load_file(folder / "model.safetensors")
    extra = {"pooler.dense.bias": tensors["pooler.dense.bias"]}
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()} | extra, folder / "both.safetensors")
    refused(folder / "both.safetensors", "without the prefix bert. two tensors are called pooler.dense.bias")


def test_a_missing_layer_is_named(folder):
    shapes = {name.replace("layer.1.", "layer.99999999."): shape for name, shape in SHAPES.items()}
    with pytest.raises(ConvertError, match=r"no tensor is called encoder.layer.1.\*, but there is a layer 99999999"):
        bert(shapes)


def test_facts_beside_the_tensors_are_kept_plain(tmp_path):
    loop: list = []
    loop.append(loop)
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    facts = {
        "epoch": 3,
        "config": {"name": "x", "sizes": (1, 2.5, None, True)},
        "model_type": "early",
        "loop": loop,
        "laughs": laughs,
        "history": list(range(100_000)),
        "optimizer": {"lr": 0.1, "state": torch.zeros(2)},
        "numbered": {1: "a"},
    }
    torch.save({"state_dict": {"w": torch.zeros(2)}, **facts}, tmp_path / "ckpt.pth")
    checkpoint = open_given(tmp_path / "ckpt.pth")
    assert checkpoint.facts == {
        "epoch": 3,
        "config": {"name": "x", "sizes": [1, 2.5, None, True]},
        "model_type": "early",
    }
    assert set(facts) == set(checkpoint.ignored)


# Visualized-BGE.


def test_a_network_of_a_fixtures_shapes_does_not_take_its_heads():
    with pytest.raises(InputError, match="num_attention_heads is stated nowhere"):
        bert(BERT.checkpoint_shapes(TINY), POOLED | {"model_type": Given("bert", "--set")})


@pytest.mark.parametrize("size", ["base", "m3"])
def test_published_sizes_need_no_file(size):
    configured = VISUALIZED.configure(Source(VISUALIZED.checkpoint_shapes(VISUALIZED.sizes[size])))
    assert configured.config == VISUALIZED.sizes[size]
    assert configured.origins.keys() == dict(dotted(config_to_json(configured.config))).keys()


def text() -> dict[str, Document]:
    """Give the text encoder's config.json."""
    stated = VISUALIZED.documents(VISUALIZED.sizes["tiny"])
    return {place: Document(place, place, content) for place, content in stated.items()}


def eva(**fields):
    shapes = VISUALIZED.checkpoint_shapes(VISUALIZED.sizes["tiny"])
    document = Document("eva_config.json", "eva_config.json", {"vision_cfg": fields})
    configured = VISUALIZED.configure(Source(shapes, documents=text() | {"eva_config.json": document}))
    document.finish()
    return configured.config


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", 448), ("head_width", 8), ("postnorm", True), ("rope", False), ("rope", 1), ("layers", "2")]
    + [("pt_hw_seq_len", value) for value in (0, -1, "x", None, 1.5)]
    + [("patch_dropout_x", 0.5), ("layer_norm_eps", 1e-5)],
)
def test_an_eva_configuration_must_agree(field, value):
    with pytest.raises(InputError, match=rf"eva_config.json: .*vision_cfg.{field} (is|=) "):
        eva(**{field: value})
    assert eva(pt_hw_seq_len=8).vision.pretrained_grid == 8


def test_its_pooling_is_its_own():
    shapes = VISUALIZED.checkpoint_shapes(VISUALIZED.sizes["tiny"])
    given = {"text.pipeline": Given("mean", "--set")}
    with pytest.raises(InputError, match=r"text.pipeline is 'mean', but code of FlagEmbedding's Visualized_BGE says"):
        VISUALIZED.configure(Source(shapes, documents=text(), given=given))
