"""Every leaf of every JSON file of a run, changed and taken away: only what the one who converted knows may pass."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import convert, in_this_process
from test_hostile_directory import WORDS, resealed

from bgevis.converter.certificate import provenance
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import artifact
from bgevis.converter.options import Options
from bgevis.converter.proof import yardsticks
from bgevis.converter.proof.again import again_rows
from bgevis.converter.proof.documents import believable, check_manifest
from bgevis.converter.proof.weights import weight_rows
from bgevis.converter.stages import documents
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.validation.errors import ConvertError
from bgevis.validation.report import Row

ONLY_STATED = {
    "manifest.json": (
        r"source\.(bytes|file|container|ignored|wrappers)",
        r"tool\.(name|version|sha256|packages\..*)",
        r"(origins|documents|unread|given)\..*",
        r"tokenizer\.files\..*",
        r"proof\..*",
        r"stages\..*\.reads",
        r"stages\..*\.options\.(ops|via|static)",  # of ONNX: what has no part in it
        r"config\.(default_prompt|max_seq_length)",  # a prompt that no name leads to, a limit beyond the positions
        r"files\.reports/(junit\.xml|report\.html|validate.*)\..*",  # written anew
        r"verdicts\.validate.*|verdicts\.documents",
    ),
    "ledger.json": (r"tensors\.[^/]*pooler.*\.(dtype|shape\[\d+\]|sha256)", r"notes"),
    "goldens/judge.json": (r"network", r"end_to_end\.(judge|notes)"),
    "tokenizer.json": (r"(model|normalizer|pre_tokenizer|post_processor|decoder|added_tokens)\b.*",),
}
"""What is stated and cannot be made again, by file: docs/trust.md says so of each."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_fixture("bert", "tiny", 9, "float32", folder / "tiny.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with in_this_process():
        return convert(folder / "tiny.safetensors", folder / "run", ("onnx",))


def leaves(content: Any, at: tuple = ()) -> Iterator[tuple]:
    """Give the place of each leaf; an empty object or list is one."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    if not inner or not content:
        yield at
    for key, value in inner:
        yield from leaves(value, (*at, key))


def told(at: tuple) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at).removeprefix(".")


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1000 + 1
        case str():
            return value + "x"
    return [1] if isinstance(value, list) else 1


def altered(content: Any, at: tuple, *, away: bool) -> Any:
    whole = copy.deepcopy(content)
    place = whole
    for key in at[:-1]:
        place = place[key]
    if away:
        del place[at[-1]]
    else:
        place[at[-1]] = changed(place[at[-1]])
    return whole


def refused(run: Path) -> str:
    """Do what validate does before it executes an artifact, and what it does to the manifest's programs."""
    try:
        directory = RunDirectory(run)
        with directory.locked(), believable(run):
            (run / ".tmp").mkdir()
            provenance.check(directory)
            check_manifest(directory)
            report = documents.judge(directory, Options(again=True))
            return next((row.problem for row in (*report.failures, *of_the_artifact(directory)) if not row.passed), "")
    except ConvertError as error:
        return str(error)


def of_the_artifact(run: RunDirectory) -> Iterator[Row]:
    """Hold the weights to the ledger, and the programs to what is exported again."""
    onnx = exporters()["onnx"]
    kept = [file for file in run.manifest()["files"] if not file.startswith("reports/")]  # those are written anew
    yield from (Row("all", "files", "", False, damage) for damage in run.damaged(kept))
    yield from weight_rows(onnx, artifact(run, onnx), Ledger.read(run.path / "ledger.json"))
    yield from again_rows(run, onnx)


def files(run: Path) -> list[str]:
    found = (str(file.relative_to(run)) for file in sorted(run.rglob("*.json")))
    return [file for file in found if not file.startswith(("reports/", ".")) and file != "provenance.json"]


@pytest.mark.parametrize("away", [False, True], ids=["changed", "taken away"])
@pytest.mark.parametrize("share", [pytest.param(1, marks=pytest.mark.prove), 41], ids=["every leaf", "some"])
def test_what_can_be_made_again_is(finished, tmp_path, monkeypatch, share, away):
    compiled = {}  # once for each network that the manifest's configuration can mean
    runner = yardsticks.NNXRunner
    once = lambda net, file: compiled.setdefault(id(net), (net, runner(net, file)))[1]  # noqa: E731
    monkeypatch.setattr(yardsticks, "NNXRunner", once)
    run = shutil.copytree(finished, tmp_path / "run")
    before = {file: (run / file).read_bytes() for file in (*files(run), "manifest.json")}
    passed = []
    for file in files(run):
        content = json.loads(before[file])
        places = [at for at in leaves(content) if at]
        for at in places[::share]:
            if only_stated(file, told(at)):
                continue
            (run / file).write_text(json.dumps(altered(content, at, away=away)))
            if file != "manifest.json":
                resealed(run)
            if not refused(run):
                passed.append(f"{file}: {told(at)}")
            for name in {file, "manifest.json"}:
                (run / name).write_bytes(before[name])
    assert "\n".join(passed) == ""


def only_stated(file: str, place: str) -> bool:
    return any(re.fullmatch(pattern, place) for pattern in ONLY_STATED.get(file, ()))
