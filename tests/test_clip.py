"""CLIP and SigLIP in the forms that people have: both towers or one, projected or not, with raw texts and pictures."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from in_process import convert, in_this_process
from PIL import Image
from tiny_towers import WITH_OPEN_CLIPS_NAMES, with_tokenizer, written
from tokenizers import Tokenizer

from bgevis.converter import best_matches, classify, open_artifacts, similarity
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.source.slow import converted
from bgevis.model import siglip
from bgevis.model.clip import SIZES
from bgevis.model.clip.config import BARE, TRANSFORMERS
from bgevis.model.pictures import Pictures
from bgevis.validation.errors import ConvertError, InputError

TINY = SIZES["tiny"]
LAYOUT = "transformers-js"
PROGRAMS = ("text_model", "vision_model", "model")
BGE_VL = dataclasses.replace(TINY, multimodal=True, text=dataclasses.replace(TINY.text, truncation_side="none"))
FORMS = {
    "text": dataclasses.replace(TINY, vision=None, projection_dim=0, normalize=False),
    "text, projected": dataclasses.replace(TINY, vision=None, normalize=False),
    "vision": dataclasses.replace(TINY, text=None, projection_dim=0, normalize=False, names=BARE),
    "vision, projected": dataclasses.replace(TINY, text=None, normalize=False),
    "open_clip": WITH_OPEN_CLIPS_NAMES,
}
DEAR = ("text", "text, projected", "vision, projected")


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """BGE-VL, from raw texts and pictures on."""
    folder = tmp_path_factory.mktemp("bge_vl")
    file = written(folder, BGE_VL)
    with_tokenizer(folder, BGE_VL.text, BGE_VL.text.bos_token_id)
    return convert(file, folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory) -> Path:
    """SigLIP, from raw texts and pictures on, with the folder for Transformers.js."""
    folder, config = tmp_path_factory.mktemp("siglip"), siglip.SIZES["tiny"]
    file = written(folder, config, "siglip")
    with_tokenizer(folder, config.text, None)
    return convert(file, folder / "run", ("onnx",), layouts=(LAYOUT,))


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    """CLIP's folder for Transformers.js."""
    folder = tmp_path_factory.mktemp("clip")
    file = written(folder, TINY)
    with_tokenizer(folder, TINY.text, TINY.text.bos_token_id)
    return convert(file, folder / "run", ("onnx",), layouts=(LAYOUT,))


@pytest.mark.parametrize("form", [pytest.param(f, marks=[pytest.mark.prove] if f in DEAR else []) for f in FORMS])
def test_every_form_is_converted_and_proved(tmp_path, form):
    config = FORMS[form]
    run = convert(written(tmp_path, config), tmp_path / "run", ("onnx",), no_tokenizer=True)
    manifest = RunDirectory(run).manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert (run / "provenance.json").exists()
    towers = [name for name, tower in (("text", config.text), ("image", config.vision)) if tower]
    both = {"similarity"} if len(towers) == 2 else set()
    assert manifest["entry_points"].keys() == {f"encode_{name}" for name in towers} | both


@pytest.mark.parametrize("run", ["pairs", "sigmoid"])
def test_raw_texts_and_pictures_are_held_against_upstreams_own_processors(request, run):
    proof = RunDirectory(request.getfixturevalue(run)).manifest()["proof"]
    assert {name: verdict["verdict"] for name, verdict in proof.items()} == {"network": "pass", "end_to_end": "pass"}
    assert "ImageProcessorPil" in proof["end_to_end"]["judge"]
    assert "TokenizersBackend" in proof["end_to_end"]["judge"]
    report = json.loads((request.getfixturevalue(run) / "reports/validate.json").read_text())["onnx"]
    cases = {row["case"] for row in report["checks"]}
    assert {"end to end: raw texts", "end to end: raw pictures"} <= cases
    assert ("end to end: raw pairs" in cases) == (run == "pairs")


def test_a_processors_other_word_is_an_error_that_names_the_picture(tmp_path, monkeypatch):
    """As if a field had been misread: upstream's own processor makes something else of a picture."""
    from bgevis.model import pictures

    monkeypatch.setattr(
        pictures,
        "rules",
        lambda found, size, _rules=pictures.rules: _rules(dataclasses.replace(found, resample="bilinear"), size),
    )
    with pytest.raises(ConvertError, match=r"CLIPImageProcessorPil makes another input of the raw picture \w+ than"):
        convert(written(tmp_path, FORMS["vision"]), tmp_path / "run", ("onnx",))


def test_a_text_and_a_picture_are_one_vector(pairs):
    model = open_artifacts(pairs)
    samples = sorted((pairs / "goldens/raw/images").glob("*.png"))[:2]
    both = model.embed(["a fox", "the"], samples)
    assert both.shape == (2, 12)
    assert np.abs(np.linalg.norm(both, axis=1) - 1).max() < 1e-6
    assert np.abs(both - model.embed(images=samples)).max() > 1e-3


def test_a_text_that_upstream_would_not_cut_is_refused(pairs):
    with pytest.raises(InputError, match="text 1 has 42 tokens, but encode_text reads at most 20"):
        open_artifacts(pairs).embed(["a fox", "a" * 40])
    index = json.loads((pairs / "goldens/raw/index.json").read_text())
    assert index["texts"]
    assert "long" not in {text["name"] for text in index["texts"]}


def test_every_text_of_siglip_has_the_same_length(sigmoid):
    rules = json.loads((sigmoid / "preprocess.json").read_text())["texts"]
    assert (rules["padding"], rules["max_tokens"]) == ("after the text, to max_tokens", {"encode_text": 12})
    assert json.loads((sigmoid / "tokenizer.json").read_text())["padding"]["strategy"] == {"Fixed": 12}
    alone, together = (open_artifacts(sigmoid).embed(texts)[0] for texts in (["fox"], ["fox", "the quick fox, the"]))
    assert np.abs(alone - together).max() < 1e-6


@pytest.mark.parametrize("run", ["pairs", "sigmoid"])
def test_pictures_are_scored_as_the_networks_own_program_does(request, run):
    folder = request.getfixturevalue(run)
    model, texts = open_artifacts(folder), ["fox", "the quick one", ""]
    samples = sorted((folder / "goldens/raw/images").glob("*.png"))[:2]
    inputs = model._preprocessor.image_inputs(samples) | model._preprocessor.texts.inputs("encode_text", texts)
    (wanted,) = model._runner.run("similarity", inputs).values()
    assert np.abs(similarity(model, samples, texts) - wanted).max() < 1e-4
    found = classify(model, samples, ["fox", "cat"], template="a {}")
    logits = similarity(model, samples, ["a fox", "a cat"]).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) if run == "pairs" else 1 / (1 + np.exp(-logits))
    assert np.abs(found - shares).max() < 1e-6


def test_the_nearest_come_first():
    rows = np.array([[0, 2], [1, 0], [3, 3], [0, 0]], np.float32)
    (found,) = best_matches(np.array([1, 0.1], np.float32), rows, 3)
    assert [match.place for match in found] == [1, 2, 0]
    assert found[0].similarity == pytest.approx(1 / np.hypot(1, 0.1), abs=1e-6)
    assert [len(each) for each in best_matches(rows[:2], rows, 9)] == [4, 4]
    for wrong, words in (({"k": 0}, "k is 0"), ({"embeddings": rows[:, :1]}, "a query of 2 numbers")):
        with pytest.raises(InputError, match=words):
            best_matches(**{"query": rows[0], "embeddings": rows} | wrong)


def test_a_shell_classifies_and_searches(pairs):
    samples = [str(file) for file in sorted((pairs / "goldens/raw/images").glob("*.png"))[:2]]
    shell = CliRunner()
    images = [option for file in samples for option in ("--image", file)]
    labels = ["--label", "fox", "--label", "cat", "--template", "a {}"]
    told = shell.invoke(main, ["classify", str(pairs), *images, *labels])
    lines = [json.loads(line) for line in told.output.splitlines()]
    assert [line["image"] for line in lines] == samples
    assert all(sum(line["labels"].values()) == pytest.approx(1, abs=1e-6) for line in lines)
    asked = ["--query-image", samples[1], "--text", "fox", *images, "-k", "2"]
    found = [json.loads(line) for line in shell.invoke(main, ["search", str(pairs), *asked]).output.splitlines()]
    assert len(found) == 2
    assert found[0] == {"image": samples[1], "similarity": pytest.approx(1, abs=1e-5)}
    assert shell.invoke(main, ["search", str(pairs), "--query", "fox"]).exit_code == 2
    assert shell.invoke(main, ["classify", str(pairs), *images]).exit_code == 2


def test_a_network_without_a_scale_gives_no_probabilities(tmp_path, pairs, monkeypatch):
    from bgevis.converter.use import matching

    monkeypatch.setattr(matching, "family_and_config", lambda run: (types.SimpleNamespace(zero_shot=""), None))
    with pytest.raises(InputError, match="has no scale by which similarities become probabilities"):
        classify(open_artifacts(pairs), [], ["fox"])
    with pytest.raises(InputError, match=r"template is .a fox., expected a text with \{\}"):
        classify(open_artifacts(pairs), [], ["fox"], template="a fox")


OF_SIGLIP = {
    "": [1],
    "(A) dog's  bowl!": [9, 40, 35, 6, 117, 34, 25, 1],
    "  ... x": [3, 3, 148, 1],
    "!!!": [1],
    "two</s></s>ends <unk>  in": [93, 39, 1, 1, 5, 19, 6, 2, 28, 1],
    "ΟΔΟΣ ΑΣ": [3, 2, 3, 2, 1],
}
"""Text -> ids by SiglipTokenizer of transformers 5.24 with sentencepiece 0.2.3."""


def test_siglips_own_tokenizer_is_made_of_its_pieces(oracles, tmp_path, monkeypatch):
    """Transformers has no tokenizer.json of it: what it does before the pieces are found is in its code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = oracles / "siglip" / "siglip_tiny"
    made = Tokenizer.from_file(str(converted(folder) / "tokenizer.json"))
    assert {text: made.encode(text).ids for text in OF_SIGLIP} == OF_SIGLIP
    texts, wanted = (
        json.loads((folder / "texts.json").read_text()),
        np.load(folder / "golden.npz")["processor_input_ids"],
    )
    for text, row in zip(texts, wanted, strict=True):
        ids = made.encode(text).ids
        assert ids == row[: len(ids)].tolist()
        assert set(row[len(ids) :]) == {1}
    assert identify(folder, Options()).found.tokens.name == "tokenizer.json"


def test_a_tokenizer_of_siglips_that_keeps_punctuation_is_refused(tmp_path):
    file = written(tmp_path, siglip.SIZES["tiny"], "siglip")
    with_tokenizer(tmp_path, siglip.SIZES["tiny"].text, None)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "SiglipTokenizer"}))
    with pytest.raises(InputError, match=r"it keeps punctuation, which the tokenizer_class of .* drops before"):
        identify(file, Options())


REFUSED = {
    "code of its own": ("text", {"auto_map": {"AutoModel": "modeling_x.Net"}}, r"auto_map = .*--ignore"),
    "a projection that is not there": (
        "text",
        {"architectures": ["CLIPTextModelWithProjection"]},
        "there is no text_p",
    ),
    "another tower": ("text", {"model_type": "clip_vision_model"}, "has tensors of: text"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_document_of_another_network_is_refused_by_name(tmp_path, what):
    form, fields, words = REFUSED[what]
    file = written(tmp_path, FORMS[form])
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(document | fields))
    with pytest.raises(InputError, match=words):
        identify(file, Options(no_tokenizer=True))


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_tower_alone_has_names_with_its_prefix_or_without(tmp_path, family, tower):
    """As transformers saved it up to 4, and since 5."""
    tiny = siglip.SIZES["tiny"] if family == "siglip" else dataclasses.replace(TINY, projection_dim=0)
    other = {"text": "vision", "vision": "text"}[tower]
    for names in (TRANSFORMERS, BARE):
        (tmp_path / names).mkdir()
        config = dataclasses.replace(tiny, names=names, normalize=False, **{other: None})
        config = dataclasses.replace(config, pictures=Pictures()) if tower == "text" else config
        found = identify(written(tmp_path / names, config, family), Options(no_tokenizer=True))
        assert (found.family.name, found.config) == (family, config)


OPEN = {
    "nothing": (None, "no open_clip_config.json lies beside"),
    "a tower of timm's": ({"model_cfg": {"vision_cfg": {"timm_model_name": "vit"}}}, "timm_model_name = 'vit'"),
    "a pooling": ({"model_cfg": {"text_cfg": {"pool_type": "last"}}}, "pool_type = 'last'"),
    "another width": ({"model_cfg": {"embed_dim": 99}}, "embed_dim is 99, but the checkpoint's tensors say 12"),
    "heads that do not divide": ({"model_cfg": {"text_cfg": {"heads": 5}}}, "5 heads do not divide a width of 32"),
    "a frame": ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode is 'longest', expected"),
}


@pytest.mark.parametrize("what", OPEN)
def test_what_open_clips_document_asks_for_and_is_not_done_is_refused_by_name(tmp_path, what):
    changes, words = OPEN[what]
    file = written(tmp_path, FORMS["open_clip"])
    place = tmp_path / "open_clip_config.json"
    document = json.loads(place.read_text())
    place.unlink()
    if changes is not None:
        for part, fields in changes.items():
            for name, value in fields.items():
                inner = document[part].get(name)
                document[part][name] = inner | value if isinstance(inner, dict) else value
        place.write_text(json.dumps(document))
    with pytest.raises(InputError, match=words):
        identify(file, Options(no_tokenizer=True))


def test_the_activation_of_open_clips_names_is_the_documents(tmp_path):
    """The same tensors, whatever the file is called."""
    for quick, activation in ((True, "quick_gelu"), (False, "gelu"), (None, "gelu")):
        file = written(tmp_path, FORMS["open_clip"])
        document = json.loads((tmp_path / "open_clip_config.json").read_text())
        document["model_cfg"] |= {"quick_gelu": quick}
        if quick is None:
            del document["model_cfg"]["quick_gelu"]
        (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
        config = identify(file, Options(no_tokenizer=True)).config
        assert (config.text.hidden_act, config.vision.hidden_act) == (activation, activation)
        (tmp_path / "open_clip_config.json").unlink()


def test_a_folder_of_sentence_transformers_is_as_its_modules_say(tmp_path):
    """CLIPModel gives features, which nothing but a Normalize makes of length one."""
    inner = tmp_path / "0_CLIPModel"
    inner.mkdir()
    file = written(inner, TINY)
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    normalize = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
    for listed, unit in ((modules, False), ([*modules, normalize], True)):
        (tmp_path / "modules.json").write_text(json.dumps(listed))
        options = Options(no_tokenizer=True, configs=(str(tmp_path / "modules.json"),))
        assert identify(file, options).config.normalize is unit
    prompts = {"prompts": {"query": "a picture of "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    config = identify(file, options).config
    assert (config.default_prompt, dict(config.prompts), config.similarity) == ("query", prompts["prompts"], "dot")
    dense = normalize | {"path": "1_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(InputError, match=r"module 1 is sentence_transformers\.models\.Dense"):
        identify(file, options)


@pytest.mark.parametrize("run", ["sigmoid", pytest.param("towers", marks=pytest.mark.prove)])
def test_the_folder_for_transformers_js_gives_what_upstreams_classes_give(request, run):
    """By onnxruntime alone, fed by transformers' own processors from the folder's documents."""
    place = request.getfixturevalue(run) / "transformers_js"
    assert RunDirectory(place.parent).manifest()["verdicts"]["validate-transformers-js"] == "pass"
    assert {file.name for file in place.rglob("*") if file.is_file()} == {
        *("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", *(f"{name}.onnx{end}" for name in PROGRAMS for end in ("", "_data"))),
    }
    library = pytest.importorskip("transformers")
    texts = library.AutoTokenizer.from_pretrained(str(place))(
        ["a fox", "the"], padding="max_length", return_tensors="np"
    )
    file = place.parent / "goldens/raw/images/wide.png"
    processor = library.AutoImageProcessor.from_pretrained(str(place), backend="pil")
    pixels = processor(Image.open(file), return_tensors="np")["pixel_values"]
    model, names = (
        open_artifacts(place.parent),
        ("pooler_output",) * 2 if run == "sigmoid" else ("text_embeds", "image_embeds"),
    )
    for program, given, name, wanted in zip(
        PROGRAMS[:2],
        (texts, {"pixel_values": pixels}),
        names,
        (model.embed(["a fox", "the"]), model.embed(images=[file])),
        strict=True,
    ):
        session = onnxruntime.InferenceSession(place / "onnx" / f"{program}.onnx")
        assert session.get_outputs()[0].name == name
        (found,) = session.run([name], {each.name: given[each.name] for each in session.get_inputs()})
        assert np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - wanted).max() < 1e-5


@pytest.mark.parametrize("form", ["text", "open_clip"])
def test_what_transformers_js_cannot_open_is_refused_before_any_work(tmp_path, form):
    with pytest.raises(InputError, match="it has no class for a tower alone, for open_clip's"):
        convert(written(tmp_path, FORMS[form]), tmp_path / "run", ("onnx",), layouts=(LAYOUT,))
    assert not (tmp_path / "run").exists()


def copied(folder: Path, to: Path) -> Path:
    """Copy a case, without its golden."""
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns("golden*", "texts.json", "image*"))


@pytest.mark.prove
def test_bge_vl_agrees_from_raw_bytes(oracles, tmp_path):
    folder = oracles / "bge_vl" / "bge_vl_base_tiny"
    goldens, texts = np.load(folder / "golden.npz"), json.loads((folder / "texts.json").read_text())
    model = open_artifacts(convert(copied(folder, tmp_path / "folder"), tmp_path / "run", ("onnx",)))
    images = sorted(folder.glob("image_*.png"))
    for given, name in (
        ({"texts": texts}, "encode_text"),
        ({"images": images}, "encode_image"),
        ({"texts": texts, "images": images}, "encode_multimodal"),
    ):
        assert np.abs(model.embed(**given) - goldens[name]).max() < 2e-6
    with pytest.raises(InputError, match="and the network's own processor cuts none"):
        model.embed([texts[0] * 9])


@pytest.mark.prove
def test_siglip_agrees_from_raw_bytes(oracles, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = oracles / "siglip" / "siglip_tiny"
    goldens, texts = np.load(folder / "golden.npz"), json.loads((folder / "texts.json").read_text())
    model = open_artifacts(convert(copied(folder, tmp_path / "folder"), tmp_path / "run", ("onnx",)))
    images = sorted(folder.glob("image_*.png"))
    assert np.abs(model.embed(texts) - goldens["processor_text_embeds"]).max() < 2e-6
    assert np.abs(model.embed(images=images) - goldens["processor_image_embeds"]).max() < 2e-6
    logits = goldens["processor_logits_per_image"]
    assert np.abs(similarity(model, images, texts) - logits).max() < 1e-4
    assert np.abs(classify(model, images, texts) - 1 / (1 + np.exp(-logits))).max() < 1e-5
