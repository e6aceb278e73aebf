"""The command line as people and scripts meet it: exit codes, messages, what is and is not left behind."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from in_process import Nothing, in_this_process
from safetensors.numpy import load_file, save_file

from bgevis.converter.cli import main
from bgevis.converter.directory import hold
from bgevis.converter.options import Options
from bgevis.converter.run import tasks as pipeline
from bgevis.converter.use.fixture import write_fixture
from bgevis.validation.errors import EnvironmentFailure

COMMAND = [sys.executable, "-m", "bgevis.converter"]


def run(*arguments, env=None, cwd=None) -> subprocess.CompletedProcess:
    environment = os.environ | {"COLUMNS": "120"} | (env or {})
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )


def here(*arguments) -> subprocess.CompletedProcess:
    """Do the same in this process, where the frameworks are imported already."""
    with in_this_process():
        done = CliRunner().invoke(main, list(map(str, arguments)), env={"COLUMNS": "120"})
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    write_fixture("bert", "tiny", 0, "float32", path)
    return path


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    (out.parent / "temporary").mkdir()
    done = run("all", checkpoint, "--out", out, env={"TMPDIR": str(out.parent / "temporary")})
    assert done.returncode == 0, done.stderr
    return out


def refused(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """One message, the right code, no traceback."""
    assert result.returncode == code, result.stderr + result.stdout
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error:") == 1
    for word in words:
        assert word in result.stderr


def test_help_imports_no_framework():
    code = (
        "import sys, runpy; sys.argv = ['bgevis-convert', '--help']\n"
        "try: runpy.run_module('bgevis.converter', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"heavy = {HEAVY | {'numpy', 'rich'}!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_reference_page_is_current():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    assert make_cli.PAGE.read_text() == make_cli.page(), "run python docs/make_cli.py"


def test_every_command_and_option_has_help():
    from bgevis.converter.cli import main

    for name, command in main.commands.items():
        assert command.help, name
        for option in command.params:
            assert option.param_type_name == "argument" or option.help, f"{name} {option.name}"


def test_all_proves_every_format(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert set(manifest["verdicts"].values()) == {"pass"}
    programs = manifest["entry_points"]["encode_text"]["programs"]
    assert set(programs) == {"onnx", "orbax", "saved_model", "stablehlo"}
    for relative, entry in manifest["files"].items():
        assert (finished / relative).stat().st_size == entry["bytes"]
    on_disk = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert on_disk - set(manifest["files"]) == {"manifest.json", "provenance.json", ".lock", ".source.json"}
    text = (finished / "manifest.json").read_text()
    assert str(finished) not in text
    report = json.loads((finished / "reports" / "validate.json").read_text())
    assert all(r["passed"] for r in report.values())
    drawn = {"ragged batch", "longest text"}
    ran = {key: drawn & {check["case"].split(",")[0] for check in r["checks"]} for key, r in report.items()}
    assert len(ran.pop("orbax")) == 1
    assert ran == dict.fromkeys(("onnx", "saved_model", "stablehlo"), drawn)


def test_frameworks_leave_nothing_among_the_temporary_files(finished):
    assert list((finished.parent / "temporary").iterdir()) == []


def test_all_again_does_nothing_and_changes_nothing(finished, checkpoint):
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in finished.rglob("*") if p.is_file() and p.name[0] != "."
    }
    again = run("all", checkpoint, "--out", finished, "--json")
    assert again.returncode == 0, again.stderr
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in finished.rglob("*") if p.is_file() and p.name[0] != "."}
    changed = {p.relative_to(finished) for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert {p.parts[0] for p in changed} <= {"manifest.json", "provenance.json", "reports"}
    assert all(before[finished / p][1] == after[finished / p][1] for p in changed)
    assert json.loads(again.stdout)["verdicts"]["validate"] == "pass"


def differences(first: Path, second: Path) -> list[str]:
    """Name the files of two runs whose bytes differ, the manifest too."""
    files = {p.relative_to(d) for d in (first, second) for p in d.rglob("*") if p.is_file() and p.name[0] != "."}
    content = [{f: (d / f).read_bytes() if (d / f).exists() else None for f in files} for d in (first, second)]
    return sorted(str(file) for file in files if content[0][file] != content[1][file])


def test_validate_needs_neither_checkpoint_nor_torch(finished, tmp_path):
    """A copy on another machine: no checkpoint, torch made unimportable for every process."""
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    (moved / ".source.json").unlink()
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')\n")
    junit = tmp_path / "junit.xml"
    done = run("validate", moved, "--junit", junit, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "<testsuite " in junit.read_text()


def test_the_module_comes_back_and_can_be_trained(finished):
    import jax.numpy as jnp
    from flax import nnx

    from bgevis.converter.use.artifacts import load_module
    from bgevis.validation.goldens import Goldens

    module = load_module(finished)
    golden = Goldens(finished / "goldens").cases()[0]
    inputs = [jnp.asarray(array) for array in golden.case.inputs.values()]
    assert np.abs(module(*inputs) - golden.outputs["embeddings"]).max() <= golden.budgets["embeddings"].allowed
    gradients = nnx.grad(lambda m: m.encode_text(*inputs)[0, 0])(module)
    assert any(np.abs(leaf).max() > 0 for leaf in (g.get_value() for _, g in nnx.to_flat_state(gradients)))


@pytest.mark.parametrize(
    "where", ["programs/weights.safetensors", "saved_model/variables", "orbax", "programs/encode_text.onnx"]
)
def test_one_flipped_bit_is_found(finished, tmp_path, where):
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    place = damaged / where
    file = (
        place if place.is_file() else max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    )
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    file.write_bytes(content)
    name = "orbax" if where == "orbax" else "saved-model" if "saved" in where else "onnx"
    done = here("validate", damaged, "--format", name)
    assert done.returncode == 1
    assert "altered" in done.stderr
    assert file.name in done.stderr


def test_a_flipped_weight_is_named_even_when_the_manifest_agrees(finished, tmp_path):
    """Whoever alters a weight and the manifest too is still found: the weights lead back to the ledger's digests."""
    from bgevis.converter.directory import sha256

    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    file = damaged / "programs" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["files"]["programs/weights.safetensors"]["sha256"] = sha256(file)
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    (damaged / "provenance.json").unlink()
    done = here("validate", damaged, "--format", "onnx")
    assert done.returncode == 1
    assert "differs from the checkpoint's" in done.stderr


def test_stages_compose_through_the_directory(checkpoint, tmp_path):
    out = tmp_path / "run"
    refused(here("remap", out), 3, "not a run directory")
    assert here("load", checkpoint, "--out", out).returncode == 0
    refused(here("build", out), 3, "verify has not run")
    refused(here("export", "onnx", out), 3, "build has not run")
    refused(here("export", "tflite", out), 2, "no format 'tflite'", "onnx")
    refused(here("validate", out), 3, "holds no artifacts")
    for stage in ("remap", "verify", "build", "pack"):
        assert here(stage, out).returncode == 0
    assert here("export", "onnx", out).returncode == 0
    refused(here("validate", out), 3, "parity")
    assert here("parity", out).returncode == 0
    assert here("validate", out).returncode == 0
    answer = here("why", out, "text.layers.0.attention.query.kernel", "--json")
    assert json.loads(answer.stdout)["tensor"] == "encoder.layer.0.attention.self.query.weight"
    assert "pooler" in here("why", out, "pooler.dense.weight").stdout
    refused(
        here("why", out, "text.layers.0.attention.query.kernl"), 3, "did you mean text.layers.0.attention.query.kernel"
    )


def changed(checkpoint: Path, out: Path, change) -> Path:
    tensors = load_file(checkpoint)
    change(tensors)
    save_file(tensors, out)
    return out


NAME = "encoder.layer.1.attention.self.key.bias"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda t: t.pop(NAME), 1, ["text.layers.1.attention.key.bias", "no tensor of the checkpoint fills it"]),
        (lambda t: t.update(extra=np.ones(3, np.float32)), 1, ["tensor extra", "no rule"]),
        (lambda t: t.update({NAME: np.ones(7, np.float32)}), 1, [NAME, "expected shape (32,)", "got (7,)"]),
        (lambda t: t[NAME].__setitem__(2, np.nan), 1, [NAME, "1 of 32 values are NaN"]),
        (lambda t: t.update({NAME: t[NAME].astype(np.int64)}), 1, [NAME, "int64 is not supported"]),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("encoder")], 3, ["belongs to no family"]),
        (
            lambda t: t.update({"embeddings.word_embeddings.weight": np.ones((300, 48), np.float32)}),
            3,
            ["model_type is not stated", "--set model_type="],
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "integers", "unknown family", "unknown heads"],
)
def test_bad_tensors_are_one_clear_message(checkpoint, tmp_path, change, code, words):
    """What it is must be known before its tensors are looked at: two cases are about that."""
    bad = changed(checkpoint, tmp_path / "bad.safetensors", change)
    if code == 1:
        shutil.copy(checkpoint.parent / "config.json", tmp_path)
    out = tmp_path / "run"
    refused(here("all", bad, "--out", out, "--pooling", "cls", "--normalize"), code, *words)
    artifacts = [p for p in out.rglob("*") if p.suffix in (".onnx", ".pb", ".mlirbc")] if out.exists() else []
    assert artifacts == []
    assert code == 1 or not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        (b"", ["empty"]),
        (b"PK\x03\x04 this is no archive", []),
        (b"hello, I am a text file", []),
    ],
    ids=["missing", "empty", "truncated zip", "text"],
)
def test_what_is_no_checkpoint_is_one_clear_message(tmp_path, content, words):
    path = tmp_path / "model.pth"
    if content is not None:
        path.write_bytes(content)
    refused(here("all", path, "--out", tmp_path / "run"), 3, "model.pth", *words)
    assert not (tmp_path / "run").exists()


def test_a_pickle_that_imports_is_refused_unexecuted(tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    import torch

    path = tmp_path / "model.pth"
    torch.save({"weight": Attack()}, path, pickle_module=pickle)
    refused(run("all", path, "--out", tmp_path / "run"), 3, "model.pth", "executed")
    assert not (tmp_path / "executed").exists()


def test_a_foreign_directory_is_left_alone(checkpoint, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("precious")
    refused(here("all", checkpoint, "--out", out), 3, "is not a run directory", "chapter1.tex")
    assert [p.name for p in out.iterdir()] == ["chapter1.tex"]
    refused(here("all", checkpoint, "--out", out / "chapter1.tex"), 3, "not a directory")


def test_usage_errors_are_exit_code_2(checkpoint, tmp_path):
    assert here("all", checkpoint).returncode == 2
    assert here("all", checkpoint, "--out", tmp_path / "run", "--static", "batch:3").returncode == 2
    assert run("nonsense").returncode == 2


def test_a_full_disk_is_said_and_resumed_from(checkpoint, tmp_path):
    """A file size limit stands in for the full disk: the kernel refuses the write in the middle."""
    out = tmp_path / "run"
    limited = f"ulimit -f 100; exec {' '.join(COMMAND)} all {checkpoint} --out {out} --format onnx"
    full = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert full.returncode == 4, full.stderr
    assert "Traceback" not in full.stderr
    assert not (out / "programs" / "weights.safetensors").exists()
    again = here("all", checkpoint, "--out", out, "--format", "onnx")
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_no_permission_is_exit_code_4(checkpoint, tmp_path):
    tmp_path.chmod(0o500)
    refused(run("all", checkpoint, "--out", tmp_path / "run"), 4, "no permission")


def test_an_interruption_leaves_no_process_and_the_same_bytes_after_all(checkpoint, tmp_path, finished):
    """From another folder, of another environment, in one process after another."""
    other = tmp_path / "elsewhere" / checkpoint.name
    shutil.copytree(checkpoint.parent, other.parent)
    out, environment = tmp_path / "run", {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LANG": "C"}
    process = subprocess.Popen(
        [*COMMAND, "all", str(other), "--out", str(out)],
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    deadline = time.monotonic() + 300
    while not (out / "programs" / "weights.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(EnvironmentFailure, match="in use by another"), hold(out):
        pytest.fail("held twice")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "resume" in said
    assert not children(process.pid)
    assert run("all", other, "--out", out, "--jobs", "1", env=environment, cwd=tmp_path).returncode == 0
    assert differences(finished, out) == []


def test_a_directory_in_use_is_refused(checkpoint, tmp_path):
    with hold(tmp_path / "run"):
        refused(here("all", checkpoint, "--out", tmp_path / "run"), 4, "in use by another")


def test_too_small_a_disk_is_told_before_any_work_and_after_who_works_there(checkpoint, tmp_path, monkeypatch):
    """The files of another command come and go while they are counted, so they are not."""
    out, options = tmp_path / "run", Options(checkpoint=str(checkpoint))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(EnvironmentFailure, match="MB free, but the artifacts need about"):
        pipeline.convert_all(out, options, Nothing(), 1)
    assert not out.exists()
    with hold(out), pytest.raises(EnvironmentFailure, match="in use by another"):
        pipeline.convert_all(out, options, Nothing(), 1)


def children(session: int) -> list[str]:
    """Name the processes of a session that still run."""
    listed = subprocess.run(
        ["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.splitlines() if line.strip() and not line.startswith("Z")]  # nobody waits


ROOT = Path(__file__).parents[1]
ALLOWED = {
    "validation": {"validation"},
    "model": {"model", "validation"},
    "exporters": {"exporters", "model", "validation"},
    "converter": {"converter", "exporters", "model", "validation"},
}
HEAVY = {"jax", "flax", "torch", "tensorflow", "onnx", "onnxruntime", "orbax"}


def imports(file: Path, top_level_only: bool):
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    depth = len(file.relative_to(ROOT).parts)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level >= depth:
            yield "bgevis", (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield "", node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield "", alias.name.split(".")[0]


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_run_one_way(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for kind, name in imports(file, top_level_only=False):
            assert kind != "bgevis" or name in ALLOWED[folder], f"{file} imports {name}"
            assert name != "bgevis", f"{file}: use relative imports"


def test_no_framework_at_import_time():
    """Where frameworks may be imported at the top: the networks themselves, and modules that only they import."""
    code = (
        "import sys\n"
        "import bgevis.converter.stages.common, bgevis.converter.stages.validate, bgevis.converter.run.worker\n"
        "from bgevis.model.family import families\n"
        "from bgevis.exporters.base import exporters\n"
        "families(), exporters()\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGTERM, marks=pytest.mark.prove), signal.SIGKILL])
def test_no_worker_outlives_its_command(checkpoint, tmp_path, how):
    """Whatever ends the command ends its workers; a killed one leaves what the next run resumes from."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, "all", str(checkpoint), "--out", str(out)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (out / "programs" / "weights.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(30) == (143 if how == signal.SIGTERM else -9)
    while children(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children(process.pid)
    assert (out / ".tmp").exists() == (how == signal.SIGKILL)
    assert here("all", checkpoint, "--out", out, "--format", "onnx").returncode == 0


@pytest.mark.parametrize(("command", "resumes"), [("transcribe", False), ("families", False), ("load", True)])
def test_an_interruption_promises_to_resume_only_where_something_is_kept(command, resumes, monkeypatch, tmp_path):
    def interrupted(**given):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "callback", interrupted)
    given = {"transcribe": [str(tmp_path), "a.wav"], "load": ["a.pth", "--out", str(tmp_path)], "families": []}
    done = CliRunner().invoke(main, [command, *given[command]])
    assert done.exit_code == 130
    assert done.stderr == "interrupted" + "; run the same command again to resume" * resumes + "\n"
