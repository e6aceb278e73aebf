"""The example's server: folders, links and foreign names get a 404, and it lives on."""

import contextlib
import http.client
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SERVE = Path(__file__).resolve().parents[1] / "examples" / "javascript" / "serve.js"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture
def port(tmp_path):
    run = tmp_path / "run"
    (run / "goldens").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (run / "linked").symlink_to(tmp_path / "secret")
    (run / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(run / "fifo")
    (tmp_path / "way").symlink_to(run)
    process = subprocess.Popen(["node", str(SERVE), str(tmp_path / "way"), "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str, host: str = "") -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host or f"localhost:{port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_only_files_of_the_folders_are_served(port):
    for path in ("/artifact/goldens", "/artifact/", "/artifact/linked", "/artifact/folder/file", "/artifact/fifo"):
        assert get(port, path) == (404, b"no such file"), path
    for path in ("/artifact/../secret", "/artifact/..%2fsecret", "/artifact/%2e%2e/secret", "/../../etc/passwd", "/%"):
        assert get(port, path)[0] == 404, path
    for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "x@y"):
        assert get(port, "/artifact/manifest.json", host)[0] == 404, host
    assert get(port, "/artifact/manifest.json") == (200, b"{}")
    assert get(port, "/artifact/manifest.json", f"127.0.0.1:{port}") == (200, b"{}")
    assert get(port, "/")[0] == 200
