"""The provenance ties a run together; a second conversion gives the same bytes; a team can sign what came out."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bgevis.converter.directory import RunDirectory
from bgevis.converter.use import rebuild
from bgevis.converter.use.fixture import write_fixture
from bgevis.validation.errors import GateError

COMMAND = [sys.executable, "-m", "bgevis.converter"]


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A folder with a finished run, compared with a second one."""
    folder = tmp_path_factory.mktemp("provenance")
    write_fixture("bert", "tiny", 4, "float32", folder / "tiny.safetensors")
    out = folder / "run"
    before = {path.name for path in folder.iterdir()}
    done = command("all", folder / "tiny.safetensors", "--out", out, "--format", "onnx", "--verify-rebuild")
    assert done.returncode == 0, done.stderr
    assert "every byte the same" in done.stdout
    assert {path.name for path in folder.iterdir()} == before | {"run"}
    return folder


@pytest.fixture
def copied(scene, tmp_path) -> Path:
    return shutil.copytree(scene / "run", tmp_path / "run")


def test_the_statement_names_every_file_and_what_proves_it(scene):
    out = scene / "run"
    statement = json.loads((out / "provenance.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert set(subjects) == files - {"provenance.json"}
    for name, digest in subjects.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    definition = statement["predicate"]["buildDefinition"]
    checkpoint = hashlib.sha256((scene / "tiny.safetensors").read_bytes()).hexdigest()
    assert definition["externalParameters"]["checkpoint"]["digest"]["sha256"] == checkpoint
    assert {"bgevis-convert", "jax", "onnxruntime"} <= {d["name"] for d in definition["resolvedDependencies"]}
    proofs = {proof["name"] for proof in statement["predicate"]["runDetails"]["byproducts"]}
    assert proofs == {"ledger.json", "reports/parity.json", "reports/validate.json"}


@pytest.mark.parametrize("file", ["manifest.json", "provenance.json"])
def test_what_does_not_match_is_refused_in_one_line(copied, file):
    altered = (copied / file).read_text().replace('"tiny.safetensors"', '"other.safetensors"')
    assert altered != (copied / file).read_text()
    (copied / file).write_text(altered)
    done = command("validate", copied)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "provenance.json does not state manifest.json as it is" in line


def test_any_change_takes_the_statement_away(copied):
    assert command("remap", copied).returncode == 0
    assert not (copied / "provenance.json").exists()


def test_validating_again_gives_the_same_statement(copied):
    before = (copied / "provenance.json").read_bytes()
    assert command("validate", copied).returncode == 0
    assert (copied / "provenance.json").read_bytes() == before


def test_files_that_differ_from_a_rebuild_are_named(scene, copied):
    (copied / "reports" / "parity.json").write_text("{}")
    (copied / "programs" / "encode_text.onnx").unlink()
    with pytest.raises(GateError, match=r"differs in 2 files\n  programs/encode_text.onnx\n  reports/parity.json"):
        rebuild.compared(RunDirectory(copied), RunDirectory(scene / "run"))


@pytest.fixture(scope="session")
def model_signing(tmp_path_factory) -> Path:
    """Sigstore's own tool, in an environment of its own."""
    folder = tmp_path_factory.mktemp("model_signing")
    venv.create(folder, with_pip=True)
    packages = ["model-signing==1.1.1", "pyopenssl"]
    done = subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("model-signing cannot be installed here")
    return folder / "bin" / "model_signing"


@pytest.mark.prove
def test_sigstores_model_signing_signs_and_verifies_a_run(copied, tmp_path, model_signing):
    """The commands of docs/trust.md."""
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"], cwd=tmp_path, check=True
    )
    public = ["openssl", "ec", "-in", "key.pem", "-pubout", "-out", "key.pub"]
    subprocess.run(public, cwd=tmp_path, check=True, capture_output=True)
    ignored = ["--ignore-paths", "run/.lock", "--ignore-paths", "run/.source.json"]

    def tool(action: str, *key: str) -> subprocess.CompletedProcess:
        whole = [model_signing, action, "key", *key, "--signature", "run.sig", *ignored, "run"]
        return subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, check=False)

    signed = tool("sign", "--private_key", "key.pem")
    assert signed.returncode == 0, signed.stderr
    bundle = json.loads((tmp_path / "run.sig").read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert payload["predicateType"] == "https://model_signing/signature/v1.0"
    stated = json.loads((copied / "provenance.json").read_text())["subject"]
    digests = {r["name"]: r["digest"] for r in payload["predicate"]["resources"]}
    assert {s["name"]: s["digest"]["sha256"] for s in stated}.items() <= digests.items()
    assert set(digests) - {s["name"] for s in stated} == {"provenance.json"}
    assert tool("verify", "--public_key", "key.pub").returncode == 0
    (copied / "programs" / "encode_text.onnx").write_bytes(b"another")
    assert tool("verify", "--public_key", "key.pub").returncode != 0
