"""A tokenizer by its name on the hub, from a server of the hub's protocol on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
from vocabularies import filled

COMMAND = [sys.executable, "-m", "bgevis.converter"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)])
FILES = {"/org/model/resolve/main/vocab.txt": "\n".join(WORDS).encode(), "/org/empty/resolve/main/other": b""}
COMMIT = "0" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        model, _, _ = self.path.partition("/resolve/")
        if data := FILES.get(self.path):
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
        else:
            known = any(name.startswith(f"{model}/") for name in FILES)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(FILES.get(self.path, b""))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "tiny.safetensors"
    subprocess.run([*COMMAND, "fixture", "bert", "--size", "tiny", "--out", str(path)], check=True)
    return path


def load(checkpoint, out, name: str, endpoint: str, cache) -> subprocess.CompletedProcess:
    """Run a command that names a tokenizer, with a cache of its own."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_OFFLINE": "0"}  # another test of this process may have said otherwise
    command = [*COMMAND, "load", str(checkpoint), "--out", str(out), "--tokenizer", name]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("name", ["hf:org/model", "hf:org/model@main"])
def test_a_tokenizer_from_the_hub_is_stated_as_any_other(checkpoint, hub, tmp_path, name):
    done = load(checkpoint, tmp_path / "run", name, hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(FILES["/org/model/resolve/main/vocab.txt"]).hexdigest()
    stated = json.loads((tmp_path / "run" / "manifest.json").read_text())["tokenizer"]
    assert stated == {"files": {"vocab.txt": digest}}


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("hf:org/nothing", 3, "check the name"),
        ("hf:org/empty", 3, "neither tokenizer.json nor vocab.txt"),
        ("hf:a/b/c/d", 3, "check the name"),
    ],
)
def test_what_is_not_there_is_one_message(checkpoint, hub, tmp_path, name, code, says):
    done = load(checkpoint, tmp_path / "run", name, hub, tmp_path / "cache")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.prove  # the hub's client tries again for half a minute
def test_without_a_network_the_message_says_so(checkpoint, tmp_path):
    done = load(checkpoint, tmp_path / "run", "hf:org/model", "http://127.0.0.1:9", tmp_path / "cache")
    assert done.returncode == 4, done.stderr
    assert "the hub cannot be reached" in done.stderr
    assert "--tokenizer DIR" in done.stderr
