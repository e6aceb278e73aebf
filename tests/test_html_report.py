"""report.html: what it shows, that it is inert and self-contained, and that its snippets run."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import shlex
from html import unescape
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenizer import tokenizer

from bgevis.converter import cli, open_artifacts
from bgevis.converter.certificate.ledger import Entry, Ledger
from bgevis.converter.options import Options, chosen, command
from bgevis.converter.pack.preprocessor import Preprocessor
from bgevis.converter.progress import Silent
from bgevis.converter.report.html import PAIRS, TEXTS, Scale, render
from bgevis.converter.report.plots import Drawn
from bgevis.converter.stages import build, export, load, pack, remap, verify
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.model.family import families
from bgevis.validation.report import Report, Row

SPEC = spec_from_file_location("tiny_exports", Path(__file__).parent / "tiny_exports.py")
tiny = module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)

RUN = Path("/somewhere/on this machine/run")
EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(2)>'
VOID = {"meta", "input", "link", "br", "img", "circle", "line", "path", "rect"}

TEXT = {
    "inputs": [
        {"name": "input_ids", "dtype": "int32", "shape": ["batch", "tokens"]},
        {"name": "attention_mask", "dtype": "int32", "shape": ["batch", "tokens"]},
    ],
    "outputs": [{"name": "embeddings", "dtype": "float32", "shape": ["batch", 32]}],
    "axes": {"batch": {"min": 1, "max": None}, "tokens": {"min": 1, "max": 40}},
    "programs": {
        "onnx": {"path": "programs/encode_text.onnx", "opset": 23},
        "orbax": {"path": "orbax"},
        "saved_model": {
            "path": "saved_model",
            "signature": "encode_text",
            "feeds": {"input_ids": "encode_text_input_ids:0", "attention_mask": "encode_text_attention_mask:0"},
            "fetches": {"embeddings": "StatefulPartitionedCall_2:0"},
        },
        "stablehlo": {
            "path": "programs/encode_text.mlirbc",
            "jax_export": "programs/encode_text.jax_export",
            "weights": [],
            "static": {"batch=1,tokens=32": "programs/encode_text.batch=1,tokens=32.mlirbc"},
        },
    },
}
IMAGE = TEXT | {
    "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 16, 16, 3]}],
    "axes": {"batch": {"min": 1, "max": None}},
    "programs": {"onnx": {"path": "programs/encode_image.onnx", "opset": 23}},
}
LEDGER = Ledger(
    "bert",
    {},
    {
        "a.weight": Entry("mapped", "a -> b", "b.kernel", "o i -> i o", "", "float32", (2, 3)),
        "c.weight": Entry("tied", "c", "a.weight", "", "shared with a", "float32", (2, 3)),
        "d": Entry("dropped", "d", "", "", "a training-time scalar", "float16", ()),
    },
    checks={"tensors": "3 in the checkpoint, each used by one rule"},
)


def manifest() -> dict:
    return {
        "tool": {"name": "bgevis-convert", "version": "9.9", "sha256": "f" * 64, "packages": {"jax": "7.7.7"}},
        "source": {
            "file": "ckpt.pth",
            "bytes": 1234,
            "sha256": "a" * 64,
            "container": "torch-zip",
            "wrappers": [],
            "ignored": [],
        },
        "proof": {
            "network": {"verdict": "pass", "judge": "upstream 5.5.5"},
            "end_to_end": {"verdict": "not checked", "why": "no tokenizer"},
        },
        "family": "bert",
        "config": {"text": {"hidden_size": 32}, "flag": True},
        "images": {"layout": "NHWC", "mean": [0.5, 0.25]},
        "entry_points": {"encode_image": IMAGE, "encode_text": TEXT},
        "files": {"programs/weights.safetensors": {"bytes": 2_000_000, "sha256": "b" * 64}},
        "stages": {},
    }


def report(runner: str, *rows: Row) -> Report:
    shared = (
        Row("all", "3 weights lead back to the source's bytes", "weights", True),
        Row("encode_text", "ragged batch", "embeddings", True, "", 1e-7, 4e-7, 9e-8, 1.0),
        Row("encode_image", "batch", "embeddings", True, "", 0.0, 4e-7, 9e-8, 1.0),
    )
    return Report(runner, rows or shared)


def reports() -> dict[str, Report]:
    keys = ("parity", "onnx", "orbax", "saved_model", "stablehlo")
    return {key: report(f"{key} 1.2.3") for key in keys}


def test_pictures_stand_in_the_page_and_nothing_else_may_be_loaded():
    drawn = [Drawn(EVIL, '<svg viewBox="0 0 1 1"><path d=""/></svg>')]
    with_pictures, without, missing = page(drawn=drawn), page(), page(drawn=None)
    assert '<svg viewBox="0 0 1 1"><path d=""/></svg>' in with_pictures
    assert EVIL not in with_pictures
    assert "img-src data:;" in with_pictures
    assert all("img-src" not in other for other in (without, missing))
    assert "bgevis-convert[plot]" in missing
    assert "bgevis-convert[plot]" not in without


def page(manifest_=None, ledger=LEDGER, reports_=None, **more) -> str:
    return render(manifest_ or manifest(), ledger, reports_ or reports(), RUN, **more).decode()


class Elements(HTMLParser):
    """Collects elements, and checks that each is closed where it should be."""

    def __init__(self, html: str):
        super().__init__()
        self.all: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, self.getpos()

    def handle_startendtag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))


def every_snippet(html: str) -> list[tuple[str, str]]:
    """Give language and code of each, in the order of the page."""
    found = re.findall(r"<summary><b>(.*?)</b>.*?<pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    return [(unescape(language), unescape(code)) for language, code in found]


def snippets(html: str) -> dict[str, str]:
    """Give the last one of each language."""
    return dict(every_snippet(html))


def test_shows_every_entry_point_format_case_tensor_and_version():
    html = page()
    for text in (
        *("The same network", "all 15 checks passed", "ckpt.pth", "a" * 64, "torch-zip", "text.hidden_size", "NHWC"),
        *("encode_image", "encode_text", "ragged batch", "onnx 1.2.3", "saved_model 1.2.3", "7.7.7", "2.0 MB"),
        *("a.weight", "b.kernel", "o i -&gt; i o", "[2, 3]", "shared with a", "a training-time scalar", "float16"),
        *("1.00e-7", "25%", "4.00e-7", "tokens</code> from 1 to 40", "programs/encode_text.batch=1,tokens=32.mlirbc"),
    ):
        assert text in html
    for title in ("JAX model", "ONNX", "Orbax", "SavedModel", "StableHLO"):
        assert f"<h3>{title}</h3>" in html


def test_same_input_same_bytes():
    assert page() == page()


def test_is_whole_html_and_loads_nothing():
    html = page()
    elements = Elements(html).all
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    assert not any({"src", "style", "background"} & set(attributes) for _, attributes in elements)
    assert "url(" not in html
    assert "@import" not in html
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert links
    assert all(re.fullmatch(r"#[\w-]+|[\w./]+\.(json|xml)", link) for link in links)
    assert not re.findall(r"https?:", html)


def test_ids_are_unique_and_references_resolve():
    elements = Elements(page()).all
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes.get(key) for _, attributes in elements for key in ("aria-labelledby", "for")} - {None}
    anchors = {attributes["href"][1:] for tag, attributes in elements if tag == "a" and attributes["href"][0] == "#"}
    assert named | anchors <= set(ids)


def test_policy_admits_the_pages_own_script_and_no_other():
    html = page()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for _, a in Elements(html).all if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_names_from_the_checkpoint_are_inert():
    evil = manifest()
    evil["source"] |= {"file": EVIL, "wrappers": [EVIL], "ignored": [EVIL], "files": {EVIL: {}}}
    evil["config"] = {EVIL: EVIL}
    entry = Entry("mapped", EVIL, EVIL, EVIL, EVIL, EVIL, (1,))
    failing = report("onnx", Row(EVIL, EVIL, EVIL, False, EVIL))
    notes = dataclasses.replace(failing, notes=(EVIL,))
    ledger = Ledger(EVIL, {}, {EVIL: dataclasses.replace(entry, dtype="float32")}, (EVIL,), (EVIL,), {EVIL: EVIL})
    html = page(evil, ledger, {"parity": notes, EVIL: report(EVIL), "onnx": failing})
    assert "<img" not in html
    assert html.count("<script") == 1
    assert not any(attribute.startswith("on") for _, attributes in Elements(html).all for attribute in attributes)


def test_half_a_character_in_a_name_can_be_written():
    ledger = dataclasses.replace(LEDGER, entries={"a\ud800b": LEDGER.entries["a.weight"]})
    assert rb"a\ud800b" in render(manifest(), ledger, reports(), RUN)


def test_a_failure_comes_first_and_in_full():
    bad = report(
        "onnxruntime 1",
        Row("all", "weights", "b.kernel", False, "b.kernel differs from the checkpoint's a.weight"),
        Row("encode_text", "ragged batch", "embeddings", False, "[0, 1] is 2, expected 1", 1.0, 4e-7, 9e-8),
        Row("encode_text", "longest text", "embeddings", False, "is nan", float("inf"), 4e-7),
        *(Row("all", "weights", f"leaf{i}", False, f"leaf{i} is missing") for i in range(30)),
    )
    noted = dataclasses.replace(bad, notes=("encode_text: text.layers.0 diverges first; it holds a.weight",))
    html = page(reports_=reports() | {"onnx": noted})
    body = html[html.index("<h1") :]
    assert "Not the same network" in html
    order = [
        body.index(text) for text in ("What failed", "diverges first", "a.weight", "[0, 1] is 2", "leaf29", "h3>Orbax")
    ]
    assert order == sorted(order)
    assert "2500000" not in html
    assert "2e6×" in html
    assert "33 of 33 checks failed" in html
    assert 'class="stem over"' in html
    assert "Do not use it." in html


def test_if_the_model_itself_is_wrong_no_artifact_is_recommended():
    html = page(reports_=reports() | {"parity": report("flax", Row("encode_text", "x", "y", False, "wrong"))})
    assert "use none of them" in html


def test_nothing_compared_is_a_failure():
    assert "Nothing was compared" in page(reports_=reports() | {"onnx": Report("onnx 1", ())})


def test_says_what_was_not_checked():
    html = page(reports_={"onnx": report("onnx")})
    assert "What was checked is the same network" in html
    assert "Not checked: JAX model, Orbax, SavedModel, StableHLO." in html
    assert "judged by upstream 5.5.5" in html
    assert ": no tokenizer</dd>" in html


def test_names_no_place_on_this_machine():
    row = Row("all", "files", f"{RUN}/goldens/a", False, f"{RUN}/goldens/a is missing, not x{RUN}/b")
    html = page(reports_=reports() | {"run directory": report("run directory", row)})
    assert "goldens/a is missing" in html
    assert f" {RUN}/" not in html


def test_snippets_are_only_of_the_formats_that_are_there():
    assert list(snippets(page())) == [
        *("Python, onnxruntime", "JavaScript, onnxruntime-node", "Python, TensorFlow", "C, TensorFlow's C API"),
        *("Python, jax.export", "Python, Orbax"),
    ]
    only = manifest() | {"entry_points": {"encode_image": IMAGE}}
    assert list(snippets(page(only))) == ["Python, onnxruntime", "JavaScript, onnxruntime-node"]


def test_a_thousand_tensors_stay_below_a_megabyte():
    entry = dataclasses.replace(LEDGER.entries["a.weight"], target="text.layers.10.attention.query.kernel")
    entries = {f"bge_encoder.encoder.layer.{i}.attention.self.query.weight": entry for i in range(1000)}
    assert len(page(ledger=dataclasses.replace(LEDGER, entries=entries))) < 500_000


@pytest.mark.parametrize(
    ("value", "place"),
    [(1e-8, 0), (1e-6, 50), (1e-4, 100), (0, 0), (1e-20, 0), (1e20, 100), (np.inf, 100), (np.nan, 100)],
)
def test_the_scale_places_every_number(value, place):
    assert Scale.around([1e-8, 1e-4, 0.0, np.inf, np.nan]) == Scale(-8, -4)
    assert Scale(-8, -4).at(value) == place


def test_a_scale_of_nothing_and_of_one_value_has_a_width():
    assert Scale.around([]).low < Scale.around([]).high
    assert Scale.around([1.0]).low < Scale.around([1.0]).high


@pytest.mark.parametrize(("name", "language"), [("onnx", "Python, onnxruntime"), ("stablehlo", "Python, jax.export")])
def test_snippets_run_as_they_are_printed(name, language, tmp_path, monkeypatch):
    """The other languages' need TensorFlow, a run that was proved, Node or a compiler."""
    network, exporter = tiny.networks()["bert"], exporters()[name]
    artifact = tiny.export(exporter, network, tmp_path / "run")
    entry = artifact.entry_points["encode_text"]
    described = entry.to_json() | {"programs": {exporter.key: artifact.programs["encode_text"]}}
    document = manifest() | {"entry_points": {"encode_text": described}}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path / "run")
    found: dict = {}
    exec(snippets(page(document))[language], found)
    inputs = {spec.name: np.ones(spec.resolve({"batch": 1, "tokens": 8}), spec.dtype) for spec in entry.inputs}
    want = exporter.open(artifact).run("encode_text", inputs)["embeddings"]
    np.testing.assert_allclose(found["embeddings"], want, rtol=0, atol=1e-6)


def test_names_that_move_text_are_spelled_out():
    told = manifest()
    told["source"] = {**told["source"], "file": "model\x1b[31m\u202egnp.pth"}
    html = page(told)
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "model\\x1b[31m\\u202egnp.pth" in html


def test_says_cosine_and_neighbours_and_how_far_apart_the_lines_are():
    rows = [
        Row("encode_text", "ragged batch", "embeddings", True, "", 1e-7, 1e-6, 1e-7, 0.9999999),
        Row("encode_text", "neighbours of 27 vectors", "embeddings", True),
    ]
    html = page(reports_={**reports(), "onnx": report("onnxruntime", *rows)})
    assert "Lowest cosine to the original: 0.999999900." in html
    assert "Nearest neighbours: the same order." in html
    summary = r"ONNX</th><td[^>]*>10%</td><td[^>]*>0.999999900</td><td>the same order</td>"
    assert re.search(summary, html)
    rounded = [
        Row("encode_text", "ragged batch: lowest cosine of int8", "embeddings", True, "", 1e-3, 2e-2, None, 0.999),
        Row("encode_text", "256 inputs: same among the 10 nearest of int8", "embeddings", True, "", 0.04, 0.15),
    ]
    html = page(reports_={**reports(), "onnx_int8": report("onnxruntime int8", *rounded)})
    assert re.search(r"0.999000000</td><td>96.0% same among the 10 nearest</td>", html)
    wrong = Row("encode_text", "end to end: neighbours of 9 vectors", "embeddings", False, "2 pairs changed places")
    html = page(reports_={**reports(), "onnx": report("onnxruntime", *rows, wrong)})
    assert "<td>2 pairs changed places (encode_text, end to end: neighbours of 9 vectors)</td>" in html
    assert "from one line to the next it is ten times more" in html or "100 times more" in html


@pytest.mark.parametrize(("low", "high"), [(-9, -3), (-12, 0), (-3, -2), (-20, 1)])
def test_lines_are_as_far_apart_as_is_said(low, high):
    ticks = Scale(low, high).ticks
    assert {b - a for a, b in itertools.pairwise(ticks)} <= {Scale(low, high).step}


@pytest.fixture(scope="module", params=["bert", "visualized_bge", "classifier"])
def packed(request, tmp_path_factory):
    """A run with a tokenizer and ONNX: with a prompt that is not pooled, two limits and pictures, pairs."""
    folder = tmp_path_factory.mktemp(request.param)
    write_fixture(request.param, "tiny", 3, "float32", folder / "model.safetensors")
    config = families()[request.param].sizes["tiny"]
    tokenizer(getattr(config, "text", config)).save(str(folder / "tokenizer.json"))
    if request.param == "bert":
        pooling = folder / "1_Pooling" / "config.json"
        pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
        prompts = {"prompts": {"query": "the fox, \u00e4h: "}, "default_prompt_name": "query"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    run = load.perform(folder / "run", Options(checkpoint=str(folder)), Silent())
    for stage in (remap.perform, verify.perform, build.perform, pack.perform):
        stage(run, Options(), Silent())
    for name in ("onnx", "orbax") if request.param == "bert" else ("onnx",):
        export.perform(run, Options(), Silent(), exporters()[name])
    return run


def test_a_text_is_embedded_by_the_snippet_as_by_the_library(packed, monkeypatch):
    rules = Preprocessor(packed.path).rules
    html = page(packed.manifest(), Ledger.read(packed.path / "ledger.json"), pack=rules)
    model = open_artifacts(packed.path)
    pairs = "pairs" in rules["texts"]
    want = model.score(list(PAIRS), activation="identity") if pairs else model.embed(list(TEXTS))
    monkeypatch.chdir(packed.path)
    shown = [code for language, code in every_snippet(html) if language == "Python, onnxruntime"]
    tokenized = [code for code in shown if "Tokenizer.from_file" in code]
    assert len(tokenized) == len(rules["texts"]["max_tokens"])
    for code in tokenized:
        found: dict = {}
        exec(code, found)
        if "images" not in found["inputs"]:
            got = found["logits"] if pairs else found["embeddings"]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    exec(snippets(html)["Python, this package"], found := {})
    got = found["scores"] if pairs else found["embeddings"]
    np.testing.assert_allclose(got, model.score(list(PAIRS)) if pairs else want, rtol=0, atol=1e-6)
    if rules["images"]:
        assert found["pictures"].shape == (1, rules["embeddings"]["width"])


@pytest.mark.parametrize("packed", ["bert"], indirect=True)
def test_the_snippet_for_orbax_gives_what_the_program_gives(packed, monkeypatch):
    shown = snippets(page(packed.manifest(), Ledger.read(packed.path / "ledger.json")))
    monkeypatch.chdir(packed.path)
    found: dict[str, dict] = {"Python, Orbax": {}, "Python, onnxruntime": {}}
    for language, variables in found.items():
        exec(shown[language], variables)
    embeddings = [variables["embeddings"] for variables in found.values()]
    np.testing.assert_allclose(*embeddings, rtol=0, atol=1e-6)


def test_says_what_is_not_covered():
    texts = {"tokenizer": None, "missing": "no tokenizer lies there"}
    rules = {"texts": texts, "images": {"input": "images", "missing": "nobody says how"}, "embeddings": None}
    told = manifest()
    told["files"]["goldens/probes/x/index.json"] = {"bytes": 1, "sha256": "c" * 64}
    html = page(told, pack=rules, tried={"encode_text": {"batch": 3, "tokens": 24}, "encode_image": {"batch": 2}})
    part = html[html.index('id="uncovered"') : html.index('id="what"')]
    for text in (
        *("<dt>End to end</dt><dd>no tokenizer</dd>", "nobody says how", "tokens beyond 24 (it may be 40)"),
        *("not made: ", "ONNX bfloat16", "OpenVINO", "<dt>Orbax</dt><dd>holds weights and no program"),
        *("not probed in SavedModel, StableHLO", "only onnx 1.2.3, orbax 1.2.3", "doctor"),
    ):
        assert text in part
    assert "No raw texts can be given to it: no tokenizer lies there." in html
    whole = page(told, tried={"encode_text": {"tokens": 40}})
    assert "tokens beyond" not in whole
    assert "this network has no probes" in page()


def test_checks_of_the_whole_artifact_are_called_so():
    wrong = Row("all", "weights", "b.kernel", False, "b.kernel is missing")
    html = page(
        reports_=reports()
        | {"onnx": report("onnx", Row("all", "normalised bytes", "values", True, "", 0.0, 1e-6), wrong)}
    )
    assert "whole artifact, weights: b.kernel is missing" in html
    assert re.search(r"<h3 id=\"error-\d+\">whole artifact</h3>", html)
    assert not re.search(r">all(</h3>|</td>|,)", html)


ASKED = [
    Options(),
    Options(formats=("onnx", "onnx-int8"), opset=20),
    Options(formats=("saved-model", "stablehlo"), ops="tensorflow", static=({"batch": 1, "tokens": 32},)),
    Options(formats=("onnx",), via="tf2onnx", layouts=("sentence-transformers",), dtype="source"),
    Options(pooling="cls+max", normalize=False, pairs="flag-reranker", sets=("heads=12", "act=gelu", 'name="12"')),
    Options(normalize=True, ignore=("config.json:auto map",), no_tokenizer=True, tower="query", family="bert"),
    Options(module="net:make", inputs="ids: int64[batch, tokens <= 64]", configs=("config.json",)),
    Options(transformers=True, inputs="inputs.json"),
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_command_that_is_shown_asks_for_the_same(asked):
    stages = {f"export-{e.name}": {"options": export.shaping(asked)} for e in chosen(asked)}
    given = {"given": asked.stated(), "stored": {"dtype": asked.dtype}, "stages": stages}
    words = shlex.split(command(manifest() | given))
    assert words[:3] == ["bgevis-convert", "all", "ckpt.pth"]
    context = cli.main.commands["all"].make_context("all", words[2:], **cli.main.context_settings)
    names = set(context.params) - {"out", "jobs", "verify_rebuild", "as_json"}
    again = cli.options(**{name: context.params[name] for name in names})
    assert again.stated() == asked.stated()
    assert {e.name for e in chosen(again)} == {e.name for e in chosen(asked)}
    assert again.dtype == asked.dtype
    relevant = {"opset": "onnx", "via": "onnx", "ops": "saved-model", "static": "stablehlo"}
    for option, name in relevant.items():
        if f"export-{name}" in stages:
            assert getattr(again, option) == getattr(asked, option)


def test_the_command_names_no_folder_of_this_machine():
    asked = Options(tokenizer="/home/me/tok", configs=("/home/me/config.json",), inputs="/home/me/inputs.json")
    shown = command(manifest() | {"given": asked.stated()})
    assert "--config config.json --tokenizer DIR --inputs inputs.json" in shown
    assert "/home" not in shown
