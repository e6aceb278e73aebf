"""Providers of embeddings in the libraries that take them: each finds what the artifacts say is near."""

import json
import subprocess
from pathlib import Path

import pytest

from bgevis.converter import open_artifacts

QUERY, TEXTS = "two two", ["one two", "three a", "two two three one"]
SCRIPT = Path(__file__).with_name("provider_clients.py")
NOT_DONE = {"MockVisionCentricQA", "MockMultilingualVisionCentricQA"}
"""They ask for one vector of a picture and a text together, which CLIP's network does not give."""


def found_by(client: str, python: Path, run: Path, folder: Path) -> dict:
    command = [python, SCRIPT, client, run, folder, QUERY, *TEXTS]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("client", ["langchain", "llama_index", "chroma", "lancedb"])
def test_what_is_found_is_near(client, of_providers, prompted, tmp_path, tell):
    opened = open_artifacts(prompted)
    near = opened.embed(TEXTS, prompt_name="passage") @ opened.embed(QUERY, prompt_name="query")
    found = found_by(client, of_providers, prompted, tmp_path)
    assert list(found) == [TEXTS[place] for place in (-near).argsort()]
    assert found == pytest.approx(dict(zip(TEXTS, near.tolist(), strict=True)), abs=1e-5)
    tell(f"pass: {prompted.parent.name} in {client}, {len(found)} texts")


@pytest.mark.parametrize(("run", "failing"), [("prompted", set()), ("clip_towers", NOT_DONE)])
def test_every_mock_task_of_mteb_runs(run, failing, request, of_providers, tmp_path, tell):
    folder = request.getfixturevalue(run)
    found = found_by("mteb", of_providers, folder, tmp_path)
    assert {name for name, kind in found.items() if kind != "TaskResult"} == failing
    assert len(found) > 20
    tell(f"pass: {folder.parent.name} in mteb, {len(found) - len(failing)} tasks")
