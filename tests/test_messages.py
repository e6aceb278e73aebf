"""What a person reads when something is wrong: what it is about, what was expected, and what to do."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from in_process import convert, in_this_process
from safetensors.numpy import load_file, save_file
from tiny_tokenizer import tokenizer

from bgevis.converter import open_artifacts
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.pack.tokenizer import encoded
from bgevis.converter.printable import printable
from bgevis.converter.progress import Silent
from bgevis.converter.report.terminal import lines
from bgevis.converter.stages import export, reference
from bgevis.converter.unexpected import unexpected
from bgevis.converter.use import embedding
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.model.family import families
from bgevis.validation.errors import EnvironmentFailure, GateError, InputError
from bgevis.validation.report import Report, Row

KEY_BIAS = "encoder.layer.1.attention.self.key.bias"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_fixture("bert", "tiny", 9, "float32", folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory) -> Path:
    with in_this_process():
        return convert(checkpoint, tmp_path_factory.mktemp("finished") / "run", ("onnx",))


def said(code: int, *arguments: object) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "onxx"), ["no format 'onxx'; did you mean onnx?"]),
        (("--format", "save_model"), ["did you mean saved-model?"]),
        (("--family", "berts"), ["no family 'berts'; did you mean bert?"]),
        (("--opset", "99"), ["--opset 99 is not supported: choose 17 to 26"]),
        (("--opset", "20", "--via", "tf2onnx"), ["--opset 20 is not supported via tf2onnx: choose 17 to 18"]),
        (("--static", "tokens=32", "--format", "onnx"), ["--static is for the format stablehlo", "onnx"]),
        (("--precision", "int8", "--format", "orbax"), ["--precision is for the format onnx"]),
        (("--precision", "fp16"), ["there is no precision 'fp16'"]),
    ],
)
def test_usage_is_refused_before_any_work(checkpoint, tmp_path, arguments, words):
    output = said(2, "all", checkpoint, "--out", tmp_path / "run", *arguments)
    assert all(word in output for word in words), output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spelling", ["ONNX", "saved_model", "Saved-Model"])
def test_formats_are_known_in_every_spelling(spelling):
    from bgevis.converter.options import chosen

    (exporter,) = chosen(Options(formats=(spelling,)))
    assert exporter.name == spelling.lower().replace("_", "-")


def test_a_failure_is_json_too_and_debug_keeps_the_code(tmp_path):
    output = said(3, "all", tmp_path / "none.pth", "--out", tmp_path / "run", "--json", "--format", "onnx")
    assert json.loads(output[output.index("{") :])["exit_code"] == 3
    done = CliRunner().invoke(main, ["--debug", "doctor", str(tmp_path)])
    assert (done.exit_code, "Traceback" in done.output) == (3, True)


def test_a_missing_tensor_is_named_as_the_checkpoint_would_have_it(checkpoint, tmp_path):
    tensors = load_file(checkpoint)
    del tensors[KEY_BIAS]
    shutil.copytree(checkpoint.parent, tmp_path / "folder")
    save_file(tensors, tmp_path / "folder" / "tiny.safetensors")
    with in_this_process(), pytest.raises(Exception, match="no tensor of the checkpoint fills it") as refused:
        convert(tmp_path / "folder" / "tiny.safetensors", tmp_path / "run", ("onnx",))
    assert f"; {KEY_BIAS} would" in str(refused.value)


def test_a_torchscript_archive_is_called_so(tmp_path):
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit.pt")
    assert "is a TorchScript archive" in said(3, "inspect", tmp_path / "jit.pt")


def test_inspect_wants_the_configuration_that_is_named(checkpoint, tmp_path):
    assert "--config nothere.json: No such file" in said(3, "inspect", checkpoint, "--config", "nothere.json")
    (tmp_path / "bad.json").write_text("{")
    output = said(3, "inspect", checkpoint, "--config", tmp_path / "bad.json")
    assert "is not valid JSON" in output
    assert "torch.save" not in output


def test_names_of_the_hub_get_a_hint(checkpoint, tmp_path):
    output = said(2, "all", checkpoint, "--out", tmp_path / "run", "--tokenizer", "BAAI/bge-base-en-v1.5")
    assert "hf:BAAI/bge-base-en-v1.5" in output
    assert "hub" in said(3, "inspect", "BAAI/bge-base-en-v1.5")


@pytest.mark.parametrize("gone", ["programs/encode_text.onnx", "programs/weights.safetensors"])
def test_what_is_missing_is_called_missing(finished, tmp_path, gone):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / gone).unlink()
    with pytest.raises(InputError, match=f"{Path(gone).name} is missing; get the run directory again"):
        open_artifacts(run)


def test_damaged_weights_are_not_used(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    data = bytearray((run / "programs" / "weights.safetensors").read_bytes())
    data[-400:] = bytes(400)
    (run / "programs" / "weights.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="was altered: its sha256 is not the manifest's"):
        open_artifacts(run)
    assert "was altered" in said(3, "embed", run, "--text", "a")
    os_ = bytes(data[:-1])
    (run / "programs" / "weights.safetensors").write_bytes(os_)
    with pytest.raises(InputError, match="bytes, the manifest says"):
        open_artifacts(run)


def test_no_run_directory_says_what_makes_one(tmp_path):
    assert "make one with `bgevis-convert all CKPT --out DIR`" in said(3, "validate", tmp_path)


def test_the_end_says_what_is_proved_where_it_is_and_what_comes_next(finished, tmp_path):
    run = RunDirectory(shutil.copytree(finished, tmp_path / "run"))
    text = "\n".join(line for line, _ in lines(run.path, run.manifest()))
    assert "PROVED: onnx: the same network" in text
    assert f"onnx: {run.path}/programs/encode_text.onnx" in text
    assert f"report: {run.path}/reports/report.html" in text
    assert "end to end: not checked: neither tokenizer.json nor vocab.txt" in text
    assert f"next: bgevis-convert doctor {run.path}" in text


def test_one_more_format_takes_the_verdict_and_the_page_with_it(finished, tmp_path):
    run = RunDirectory(shutil.copytree(finished, tmp_path / "run"))
    export.perform(run, Options(), Silent(), exporters()["onnx-int8"])
    text = "\n".join(line for line, _ in lines(run.path, run.manifest()))
    assert "PROVED" not in text
    assert "not validated: onnx-int8" in text
    assert f"next: bgevis-convert validate {run.path}" in text
    assert not (run.path / "reports" / "report.html").exists()
    assert not (run.path / "provenance.json").exists()
    assert run.manifest()["proof"] == {}


def test_fewer_formats_leave_the_proof_of_the_others_and_are_told_with_them(checkpoint, tmp_path):
    with in_this_process():
        run = convert(checkpoint, tmp_path / "run", ("onnx", "orbax"))
        before = (run / "provenance.json").read_bytes()
        convert(checkpoint, run, ("onnx",))
    assert (run / "provenance.json").read_bytes() == before
    assert set(json.loads((run / "reports" / "validate.json").read_text())) == {"onnx", "orbax"}


def test_a_missing_runtime_takes_nobodys_proof_away(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    monkeypatch.setattr("bgevis.validation.packages.installed", lambda module: module != "onnxruntime")
    assert "needs the Python package onnxruntime" in said(4, "validate", run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"} == before


@pytest.mark.parametrize("command", ["embed", "all"])
def test_help_is_a_command_too(command):
    assert said(0, "help", command) == said(0, command, "--help")
    assert f"  {command} " in said(0, "help")


def test_help_of_no_command_lists_them():
    assert "there is no command 'convert' (commands: all, load," in said(2, "help", "convert")


def test_out_is_o_too_and_jobs_may_be_many(tmp_path):
    place = tmp_path / "tiny.safetensors"
    assert str(place) in said(0, "fixture", "bert", "--size", "tiny", "-o", place)
    assert "--jobs" not in said(
        3, "all", tmp_path / "none.pth", "-o", tmp_path / "run", "--jobs", "16", "--format", "onnx"
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("foo==1", "RUNTIME being one of onnxruntime, tensorflow, jax, stablehlo"),
        ("onnxruntime==new", "'new' is not a version such as 1.17"),
    ],
)
def test_a_target_that_is_none_is_usage(finished, target, words):
    output = said(2, "doctor", finished, "--target", target)
    assert f"--target {target}: " in output
    assert words in output


def test_another_familys_checkpoint_names_what_is_missing(checkpoint, tmp_path):
    write_fixture("visualized_bge", "tiny", 3, "float32", tmp_path / "vis.safetensors")
    output = said(1, "inspect", tmp_path / "vis.safetensors", "--family", "bert")
    assert "no tensor is called encoder.layer.0.*: the text encoder is missing" in output
    with in_this_process(), pytest.raises(GateError, match=r"no tensor is called encoder.layer.0.\*"):
        convert(tmp_path / "vis.safetensors", tmp_path / "run", ("onnx",), family="bert")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "r.csv"), "r.csv: its ending says nothing of what to write; known: .npy, .parquet, .jsonl, .ndjson"),
        (("--out", "nodir/r.npy"), "--out nodir/r.npy: the folder "),
        (("--image", "a.png"), "no entry point for images"),
        (("--texts", "bad.txt"), "bad.txt is not UTF-8"),
        (("--prompt-name", "query"), "no prompt 'query'"),
    ],
)
def test_what_embed_cannot_do(finished, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"a\xffb\n")
    text = () if {"--image", "--texts"} & set(arguments) else ("--text", "a")
    assert words in said(3, "embed", finished, *text, *arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.txt"]


def test_what_is_wrong_with_many_tensors_alike_is_said_once(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path / "folder")
    doubled = {name: tensor.astype(np.float64) for name, tensor in load_file(checkpoint).items()}
    save_file(doubled, tmp_path / "folder" / "tiny.safetensors")
    for stage in ("load", "remap"):
        said(
            0,
            stage,
            *([tmp_path / "folder" / "tiny.safetensors", "--out"] if stage == "load" else []),
            tmp_path / "run",
        )
    output = said(1, "verify", tmp_path / "run")
    assert "37 tensors, such as " in output
    assert output.count("dtype float64 is not supported for weights; save them as one of float32") == 1


@pytest.mark.parametrize("raw", [["b", "a\ud800c"], [("b", "c"), ("a\ud800c", "b")]], ids=["texts", "pairs"])
def test_half_of_a_character_is_no_text(raw):
    """Which the shell gives of bytes that are not UTF-8."""
    small = tokenizer(families()["bert"].sizes["tiny"])
    with pytest.raises(
        InputError, match=r"text 1 holds 'a\\ud800c', a part of which is no character; read it as UTF-8"
    ):
        encoded(small, raw, 0)
    assert len(encoded(small, ["b", ("b", "c")], 0)) == 2


def test_who_reads_no_more_ends_it_without_a_word():
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "bgevis.converter", "help", "all"]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_the_ray_example_says_what_it_waits_for(tmp_path, monkeypatch, capsys):
    """In Ray's place stands a cluster of two CPUs."""
    pytest.importorskip("pyarrow")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "part.parquet").write_bytes(b"")
    rows = SimpleNamespace(map=lambda *_, **given: SimpleNamespace(iter_rows=list))
    data = SimpleNamespace(from_items=lambda *_, **given: rows)
    cluster = SimpleNamespace(init=lambda: None, cluster_resources=lambda: {"CPU": 2.0}, data=data)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    example = str(Path(__file__).parents[1] / "examples" / "ray_embed.py")
    for actors, waits in (("2", False), ("8", True)):
        given = ["run", str(tmp_path / "corpus"), str(tmp_path / "out"), "--actors", actors]
        monkeypatch.setattr(sys, "argv", [example, *given])
        runpy.run_path(example, run_name="__main__")
        assert ("8 actors of 1 CPUs ask for 8, the cluster has 2" in capsys.readouterr().out) == waits


def test_a_full_disk_states_the_need_before_any_work(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    output = said(4, "all", checkpoint, "-o", tmp_path / "run", "--format", "onnx", "--format", "orbax")
    need = "0.1 MB free, but the artifacts need about 0.3 MB: 2 copies of 0.1 MB of weights; free some space or "
    assert need in output
    assert not (tmp_path / "run").exists()


def test_upstream_that_fails_on_raw_texts_is_said():
    def encode(texts: list[str]) -> None:
        raise ValueError("Asking to pad but the tokenizer does not have a padding token. Please")

    encode.name = "transformers 5: CrossEncoder.predict"
    words = r"CrossEncoder.predict fails on raw texts .*: ValueError: Asking to pad .* or say --no-tokenizer"
    with pytest.raises(InputError, match=words):
        reference.encoded(encode, ["a"])


def test_a_stream_that_takes_nothing_is_named(monkeypatch):
    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    row = iter([({"text": "a"}, np.zeros(2, np.float32))])
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=SimpleNamespace(write=full)))
    with pytest.raises(EnvironmentFailure, match="standard output: No space left on device"):
        embedding.write(row, 2, None)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(EnvironmentFailure, match="standard output is closed"):
        embedding.write(row, 2, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 200_000, "is not a manifest: is nested too deeply"),
        ('{"format_version": NaN}', "is not a manifest: holds NaN in its JSON"),
        ('{"format_version": 1}', "is not a manifest: 'family' is missing"),
        ("[]", "is not a manifest"),
    ],
)
def test_what_is_no_manifest(tmp_path, content, words):
    (tmp_path / "manifest.json").write_text(content)
    assert f"{tmp_path / 'manifest.json'} {words}" in said(3, "doctor", tmp_path)


def test_a_verdict_on_the_whole_artifact_names_no_entry_point():
    wrong = Row("all", "weights", "b.kernel", False, "b.kernel is missing")
    assert Report("onnxruntime 1", (wrong,)).summary() == "onnxruntime 1: FAILED weights: b.kernel is missing"


def test_a_fault_of_a_command_is_one_message_with_its_name_and_place(finished, monkeypatch):
    monkeypatch.delenv("BGEVIS_DEBUG", raising=False)  # of a test before
    monkeypatch.setattr("bgevis.converter.use.doctor.installed", lambda: 1 // 0)
    output = said(5, "doctor", finished)
    assert re.search(r"error: doctor failed unexpectedly at converter/use/doctor.py:\d+: ZeroDivisionError: ", output)
    assert "run again with --debug to see where" in output


def test_a_fault_in_a_network_names_stage_entry_point_and_the_networks_line():
    network = families()["bert"].network(families()["bert"].sizes["tiny"])
    wrong = (jax.ShapeDtypeStruct((2, 3), np.float32), jax.ShapeDtypeStruct((2,), np.int32))
    with pytest.raises((TypeError, ValueError, IndexError)) as raised:
        network.trace(network.function("encode_text"), *wrong)
    fault = unexpected("export:onnx", raised.value)
    place = r"export:onnx failed unexpectedly, entry point encode_text, at model/\w+(/\w+)*.py:\d+: \w+: "
    assert re.match(place, str(fault))
    assert fault.exit_code == 5


def test_names_cannot_move_the_cursor():
    assert printable("a\x1b[31mb\u202ec\ud800\n") == "a\\x1b[31mb\\u202ec\\ud800\n"
    assert printable("größe 猫 bge-m3") == "größe 猫 bge-m3"
