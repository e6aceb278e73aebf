"""report.html: what it shows, that it is inert and self-contained, and that its snippets run."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from html import unescape
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter.certificate.ledger import Entry, Ledger
from bgevis.converter.report.html import Scale, render
from bgevis.exporters.base import exporters
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


def page(manifest_=None, ledger=LEDGER, reports_=None) -> str:
    return render(manifest_ or manifest(), ledger, reports_ or reports(), RUN).decode()


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


def snippets(html: str) -> dict[str, str]:
    found = re.findall(r"<summary><b>(.*?)</b>.*?<pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    return {unescape(language): unescape(code) for language, code in found}


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
    assert "Neighbours of 27 vectors: the same order." in html
    assert "from one line to the next it is ten times more" in html or "100 times more" in html


@pytest.mark.parametrize(("low", "high"), [(-9, -3), (-12, 0), (-3, -2), (-20, 1)])
def test_lines_are_as_far_apart_as_is_said(low, high):
    ticks = Scale(low, high).ticks
    assert {b - a for a, b in itertools.pairwise(ticks)} <= {Scale(low, high).step}
