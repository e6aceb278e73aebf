"""The benchmarks run: on the tiny network, with the quickest of what they measure."""
# ruff: noqa: E402 - what follows is found only in a checkout

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter.use.fixture import write_fixture
from bgevis.model.family import families
from bgevis.validation.cases import cases

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks belong to a checkout, not to an installation", allow_module_level=True)
for package in ("torch", "onnx", "onnxruntime", "psutil", "sentence_transformers"):
    pytest.importorskip(package)
sys.path.append(str(ROOT))

import torch

from benchmarks import census, convert, document, embedding, exports, models, network, plot, report, roads
from benchmarks.measure import Usage, last_words
from benchmarks.models import Model
from bgevis.model.reference import Original
from bgevis.model.steps import plain

TEXT = families()["bert"].sizes["tiny"]
VARIANTS = {
    "bert": TEXT,
    "bert, mean": replace(TEXT, pipeline=plain(["mean"], normalize=False)),
    "bert, xlm-roberta": replace(TEXT, model_type="xlm-roberta", pad_token_id=1, cls_token_id=0, sep_token_id=2),
    "visualized_bge": families()["visualized_bge"].sizes["tiny"],
}


@pytest.fixture
def build(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(models, "BUILD", tmp_path)
    monkeypatch.setenv("BGEVIS_BENCH_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("attend", [network.spelled_out, network.scaled_dot_product])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("build")
def test_what_peers_are_given_is_the_network(variant, attend, monkeypatch):
    family = families()[variant.partition(",")[0]]
    monkeypatch.setitem(family.sizes, "variant", VARIANTS[variant])
    model = Model(family.name, "variant")
    write_fixture(family.name, model.size, 5, "float32", model.checkpoint)
    reference = family.reference(model.config, Original(network.read(model)))
    plain = network.load(model, attend)
    for entry in model.entry_points.values():
        for case in cases(entry):
            wanted = reference.run(entry.name, case.inputs)["embeddings"]
            tensors = (torch.from_numpy(array) for array in case.inputs.values())
            found = getattr(plain, entry.name)(*(t if t.is_floating_point() else t.long() for t in tensors)).numpy()
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6, err_msg=f"{entry.name}, {case.name}")


def test_loading_what_peers_are_given_imports_no_compiler(build):
    write_fixture("bert", "tiny", 5, "float32", Model("bert", "tiny").checkpoint)
    said = "import sys; from benchmarks.network import *; load(Model('bert', 'tiny'), spelled_out)"
    command = [sys.executable, "-c", f"{said}; print('torch._dynamo' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "False\n"


def test_what_is_current_is_not_made_again(build):
    model = Model("bert", "tiny")
    made = []
    for _ in range(2):
        assert not exports.ensure_exports(model, ["torchscript"])
        made.append(
            {file: file.stat().st_mtime_ns for file in (model.checkpoint, model.exports("torchscript") / "done")}
        )
    assert made[0] == made[1]
    assert build in model.checkpoint.parents


def bench(name: str, build: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *arguments]
    environment = os.environ | {"BGEVIS_BENCH_DIR": str(build)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((build / f"{name}-quick.json").read_text())


def test_converting_is_measured(tmp_path):
    rows = bench("convert", tmp_path, "--rows", "ours-onnx", "--rows", "torchscript")["rows"]
    for row in rows.values():
        (run,) = row["runs"]
        assert not run["error"]
        assert not row["note"]
        assert run["seconds"] > 0
        assert run["peak"] > 10e6
        assert row["written"] > 1e5


RUNTIMES = ("ours", "torchscript"), pytest.param(("ours", "optimized", "torch-bf16"), marks=pytest.mark.prove)


@pytest.mark.parametrize("runtimes", RUNTIMES, ids=["few", "more"])
def test_running_is_measured(tmp_path, runtimes):
    chosen = ("--rows", "text 1x16", *(word for name in runtimes for word in ("--runtimes", name)))
    measured = bench("onnx", tmp_path, *chosen)
    (results,) = measured["workloads"].values()
    assert set(results) == set(runtimes)
    for name, result in results.items():
        assert not result["error"]
        assert len(result["seconds"]) >= 5
        assert result["difference"] < (1e-2 if name == "torch-bf16" else 1e-5)
    assert set(measured["exporting"]) == set(runtimes) - {"torch-bf16"}
    for row in measured["exporting"].values():
        assert not row["note"]
        assert row["runs"][0]["peak"] > 10e6
        assert row["written"] > 1e4
    ElementTree.parse(tmp_path / "performance-onnx.svg")


def test_the_store_is_measured(tmp_path):
    pytest.importorskip("pyarrow")
    results = bench("store", tmp_path)["results"]
    assert results["rows"] == 3000
    assert results["probes 64"]["recall"] == 1.0
    assert all(results[name]["seconds"] > 0 for name in ("exact", "numpy", "metadata", "parquet", "index"))
    assert results["alone"]["memory"] < 500e6


@pytest.mark.prove
def test_embedding_is_measured(tmp_path):
    results = bench("embedding", tmp_path, "--contenders", "sentence-transformers")["results"]
    assert set(results) == {"ours", "sentence-transformers"}
    for result in results.values():
        assert len(result["seconds"]) == 3
        assert result["difference"] < 1e-5
        assert result["peak"] > 10e6


def test_who_embeds_takes_turns_and_is_held_to_ours():
    order = []

    def contender(name: str, factor: float):
        return lambda texts: order.append(name) or np.full((len(texts), 2), factor)

    results = embedding.race({"ours": contender("ours", 1), "other": contender("other", 1.5)}, ["a", "b"], 2)
    assert order == ["ours", "other", "ours", "other", "other", "ours"]
    assert (results["ours"]["difference"], results["other"]["difference"]) == (0, 0.5)
    results["ours"] |= {"seconds": [1.0, 2.0], "peak": 1e9}
    results["other"] |= {"seconds": [2.0, 8.0], "peak": 2e9}
    where = document.environment() | {"threads": 2, "texts": 2}
    rows = embedding.said({**results, "absent": {"missing": "absent"}}, where).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("| o")]
    assert cells == [["ours", "1.50", "1.00", "1.00", "0.0e+00"], ["other", "5.00", "0.38", "2.00", "5.0e-01"]]
    assert "not installed: absent" in rows[-1]


def some_results():
    """Two workloads: PyTorch is the fastest peer of both; ours is faster on one; compiling failed on the other."""
    medians = {
        "short": {"ours": 0.9, "int8": 0.4, "torchscript": 3.0, "torch": 1.0, "compiled": 2.0, "torch-bf16": 0.1},
        "long": {"ours": 9.9, "int8": 4.5, "torchscript": 30.0, "torch": 10.0, "compiled": None, "torch-bf16": 1.0},
    }
    return {
        workload: {
            name: report.Result([s], difference=1e-7) if s else report.Result(error="RuntimeError: no compiler")
            for name, s in by_runtime.items()
        }
        for workload, by_runtime in medians.items()
    }


def lines(table):
    cells = ([cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines())
    return {first: rest for first, *rest in cells}


def test_ours_is_held_against_the_fastest_float32_peer():
    found = lines(report.ratios(some_results()))
    assert found["short"] == ["PyTorch eager", "0.90", "0.40", "-", "-", "1.00"]
    assert found["long"] == ["PyTorch eager", "0.99", "0.45", "-", "-", "1.00"]


def test_targets_name_the_rows_that_miss():
    slow = convert.Row("ours", (Usage(4.0, 4.0, peak=int(1.4e9)),), 0)
    dynamo = convert.Row("dynamo", (Usage(20.0, 20.0),), 0)
    found = lines(report.targets(some_results(), Model("bert", "tiny"), {"ours": slow, "dynamo": dynamo}))
    assert found["ours / fastest, on every row"] == ["0.99", "0.95", "", "MISSED: long"]
    assert found["ours / fastest, geometric mean"] == ["0.94", "0.75", "0.65", "MISSED"]
    assert found["int8 / fastest, on every row"] == ["0.45", "0.5", "0.35", "met"]
    assert found["exporting bert:tiny: time to dynamo's"] == ["0.20", "0.25", "", "met"]
    assert found["exporting bert:tiny: largest process"] == ["1.40 GB", "1.3 GB", "", "MISSED"]
    assert not any("JAX" in name or "OpenVINO" in name for name in found)  # nothing was measured of them


def test_what_failed_is_said_once_with_its_rows():
    assert report.failures(some_results(), {}) == "- PyTorch compiled failed on long: RuntimeError: no compiler"
    assert lines(report.times(some_results()))["PyTorch compiled"] == ["2000.0", "-"]


def test_the_plot_marks_every_time_where_it_belongs():
    ratios = report.to_fastest(some_results())
    assert set(ratios["long"]) == {"ours", "int8", "torchscript", "torch", "torch-bf16"}
    drawing = plot.svg(ratios)
    assert drawing == plot.svg(ratios)
    root = ElementTree.fromstring(drawing)
    space = "{http://www.w3.org/2000/svg}"
    marks = [e for e in root if e.find(f"{space}title") is not None]
    assert len(marks) == sum(map(len, ratios.values())) + 6  # and the legend's
    eager = [e.get("cx") for e in marks if e.find(f"{space}title").text == "PyTorch eager"]
    one = next(e.get("x1") for e in root if e.get("class") == "one")
    assert eager[:2] == [one, one]


def test_errors_keep_their_last_words():
    said = "Traceback (most recent call last):\n  File\nRuntimeError: in node.cpp:\n\n[cpu] shapes conflict\n"
    assert last_words(said, 1) == "RuntimeError: in node.cpp: [cpu] shapes conflict"
    assert last_words("", 3) == "exit code 3"
    assert len(last_words("error " * 1000, 1)) < 1000


def test_a_quick_run_is_not_published(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.onnx", "--quick", "--write-docs"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--quick" in done.stderr


def test_both_roads_lead_to_one_network(monkeypatch):
    monkeypatch.setattr(roads, "NETWORKS", roads.NETWORKS[:1])
    monkeypatch.setattr(roads, "SHAPES", ((2, 16),))
    (row,) = roads.measured(quick=True, seconds=0.0)
    *_, times, difference = row
    assert float(difference) < 1e-6
    assert float(times) > 0


def test_the_page_of_coverage_is_made_of_the_census():
    assert census.PAGE.read_text() == census.page(json.loads(census.NUMBERS.read_text()))
