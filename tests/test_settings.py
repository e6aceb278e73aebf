"""What stands beside a checkpoint, and what a configuration may say: formats, precedence, contradictions."""

import json

import pytest

from bgevis.converter.source.settings import read_settings
from bgevis.model.bert import FAMILY as BERT
from bgevis.model.family import Settings
from bgevis.model.visualized_bge import FAMILY as VISUALIZED
from bgevis.validation.errors import InputError

SHAPES = BERT.checkpoint_shapes(BERT.sizes["tiny"])
ODD = {name: tuple(48 if n == 32 else n for n in shape) for name, shape in SHAPES.items()}
"""Of no published size: its heads are known from nowhere."""


def bert(shapes=SHAPES, **settings):
    return BERT.configure(shapes, Settings(**settings))


def test_documents_are_told_apart_by_content(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 2}))
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.models.Pooling"}, {"type": "x.models.Normalize"}]))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[CLS]\nword\n[SEP]\n")
    given = tmp_path / "anything.json"
    given.write_text(json.dumps({"num_attention_heads": 4, "hidden_size": 32}))
    settings = read_settings(tmp_path / "model.bin", [given])
    assert settings.model["num_attention_heads"] == 4
    assert settings.files["model"].endswith("anything.json")
    assert settings.modules == ("Pooling", "Normalize")
    assert settings.special_tokens == {"[PAD]": 0, "[CLS]": 1, "[SEP]": 3}
    config = BERT.configure(SHAPES, settings)
    assert (config.num_attention_heads, config.pooling, config.normalize) == (4, "mean", True)
    assert (config.cls_token_id, config.sep_token_id) == (1, 3)


def test_a_stranger_beside_is_passed_over_but_not_when_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": {"lr": 1}}))
    assert read_settings(tmp_path / "model.bin").files == {}
    with pytest.raises(InputError, match="not a configuration that this tool knows"):
        read_settings(tmp_path / "model.bin", [tmp_path / "config.json"])
    with pytest.raises(InputError, match="does not exist"):
        read_settings(tmp_path / "model.bin", [tmp_path / "none.json"])
    with pytest.raises(InputError, match=r"neither tokenizer.json nor vocab.txt"):
        read_settings(tmp_path / "model.bin", [], tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is not valid JSON"):
        read_settings(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, but the checkpoint's tensors say 32"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"model_type": "t5"}, "model_type 't5' is not supported"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 32"),
    ],
)
def test_a_contradiction_names_the_field(document, words):
    with pytest.raises(InputError, match=words):
        bert(model=document)


def test_heads_that_cannot_be_known_are_asked_for():
    with pytest.raises(InputError, match="num_attention_heads cannot be known"):
        bert(ODD)
    assert bert(ODD, model={"num_attention_heads": 3}).num_attention_heads == 3


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, "mean"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({}, "cls"),
    ],
)
def test_pooling_is_read(pooling, expected):
    assert bert(pooling=pooling).pooling == expected


@pytest.mark.parametrize("pooling", [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": False}])
def test_other_pooling_is_refused(pooling):
    with pytest.raises(InputError, match=r"pooling .* is not supported"):
        bert(pooling=pooling)


def test_sentence_transformers_without_normalize():
    assert not bert(modules=("Transformer", "Pooling")).normalize
    assert bert().normalize


def test_xlm_roberta_has_its_own_conventions():
    config = bert(model={"model_type": "xlm-roberta", "num_attention_heads": 4, "bos_token_id": 5})
    assert (config.model_type, config.pad_token_id, config.layer_norm_eps) == ("xlm-roberta", 1, 1e-5)
    assert (config.cls_token_id, config.sep_token_id, config.max_tokens) == (5, 2, 38)


@pytest.mark.parametrize("size", ["base", "m3"])
def test_published_sizes_need_no_file(size):
    assert (
        VISUALIZED.configure(VISUALIZED.checkpoint_shapes(VISUALIZED.sizes[size]), Settings()) == VISUALIZED.sizes[size]
    )


@pytest.mark.parametrize(
    ("field", "value"), [("image_size", 448), ("head_width", 8), ("postnorm", True), ("rope", False)]
)
def test_an_eva_configuration_must_agree(field, value):
    shapes = VISUALIZED.checkpoint_shapes(VISUALIZED.sizes["tiny"])
    with pytest.raises(InputError, match=f"vision_cfg.{field} is {value}"):
        VISUALIZED.configure(shapes, Settings(vision={field: value}))
    assert VISUALIZED.configure(shapes, Settings(vision={"pt_hw_seq_len": 8})).vision.pretrained_grid == 8
