"""Publishing: what arrives is what was proved, and nobody finds a statement about files that are not there."""

import json
import shutil

import fsspec
import pytest

from bgevis.converter.certificate import provenance
from bgevis.converter.directory import RunDirectory, sha256
from bgevis.converter.use.publish import publish
from bgevis.validation.errors import EnvironmentFailure, GateError, InputError

MEMORY = fsspec.filesystem("memory")


def make_run(folder, files: dict[str, bytes], sha256_="1") -> RunDirectory:
    """Make a run directory by hand: publishing reads no more of it than the manifest."""
    manifest = {
        "format_version": 1,
        "tool": {"name": "t", "version": "1", "sha256": "0", "packages": {}},
        "source": {"file": "ckpt.pth", "sha256": sha256_, "bytes": 3},
        "family": "bert",
        "config": {},
        "entry_points": {},
        "files": {},
        "stages": {},
        "verdicts": {"parity": "pass", "validate": "pass"},
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = RunDirectory(folder)
    (folder / ".tmp").mkdir()
    provenance.write(run)
    (folder / ".tmp").rmdir()
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", {"ledger.json": b"{}", "programs/weights.safetensors": b"weights" * 1000})


@pytest.fixture
def url():
    yield "memory://bucket/model"
    MEMORY.rm("/", recursive=True)


def arrived(url: str) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(url)
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}


def content(run: RunDirectory) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_everything_arrives_once(run, url):
    (run.path / ".source.json").write_text("{}")
    assert publish(run, url) == 2
    (run.path / ".source.json").unlink()
    assert arrived(url) == content(run)
    assert publish(run, url) == 0
    assert arrived(url) == content(run)


def test_a_local_folder_is_a_place(run, tmp_path):
    publish(run, f"file://{tmp_path}/there")
    assert content(RunDirectory(tmp_path / "there")) == content(run)


def test_another_run_replaces_the_first_and_leaves_nothing_of_it(run, url, tmp_path):
    publish(run, url)
    other = make_run(tmp_path / "other", {"ledger.json": b"{}", "orbax/a": b"a"})
    assert publish(other, url) == 1
    assert arrived(url) == content(other)


def test_another_checkpoints_run_is_replaced_only_when_that_is_said(run, url, tmp_path):
    publish(run, url)
    other = make_run(tmp_path / "other", {"ledger.json": b"{}"}, sha256_="2")
    with pytest.raises(InputError, match=r"holds the run of another checkpoint, 'ckpt.pth'; choose .* or say --force"):
        publish(other, url)
    assert arrived(url) == content(run)
    publish(other, url, force=True)
    assert arrived(url) == content(other)


@pytest.mark.parametrize("place", ["run", "link", "run/inside", "."])
def test_a_run_is_not_published_onto_itself(run, tmp_path, place):
    (tmp_path / "link").symlink_to(run.path)
    before = content(run)
    for url in (str(tmp_path / place), f"file://{tmp_path / place}"):
        with pytest.raises(InputError, match=r"is the run directory .* itself, or in it, or around it"):
            publish(run, url)
    assert content(run) == before


STRANGERS = {
    "files alone": {"files": {"report.txt": {"bytes": 1, "sha256": "x"}}},
    "files as a list": {"format_version": 1, "files": ["report.txt"], "source": []},
    "another format": {"format_version": "2024", "files": {"report.txt": {}}, "source": {"sha256": "1", "file": "a"}},
    "no statement": {"format_version": 1, "files": {"report.txt": {}}, "source": {"sha256": "1", "file": "a"}},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_manifest_of_somebody_else_gives_no_right_to_delete(run, tmp_path, name):
    place = tmp_path / "place"
    place.mkdir()
    (place / "report.txt").write_text("x")
    (place / "manifest.json").write_text(json.dumps(STRANGERS[name]))
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    with pytest.raises(InputError, match="is not a run's manifest"):
        publish(run, str(place))
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before


@pytest.mark.parametrize("linked", ["ledger.json", "programs", "manifest.json"])
def test_nothing_is_written_through_a_link(run, tmp_path, linked):
    publish(run, str(tmp_path / "place"))
    (tmp_path / "place" / linked).rename(tmp_path / "victim")
    (tmp_path / "place" / linked).symlink_to(tmp_path / "victim")
    files = lambda: {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}  # noqa: E731
    before = files()
    with pytest.raises(InputError, match="is a link"):
        publish(run, str(tmp_path / "place"))
    assert files() == before


@pytest.mark.parametrize("url", ["data:,x", "file:///", "/", "memory://"])
def test_what_is_no_place_for_a_folder(run, url):
    with pytest.raises((InputError, EnvironmentFailure)) as refused:
        publish(run, url)
    assert url in str(refused.value)


@pytest.mark.parametrize("after", range(5))
def test_a_cut_copy_states_nothing_that_is_not_there_and_is_gone_on_with(run, url, tmp_path, monkeypatch, after):
    publish(make_run(tmp_path / "first", {"ledger.json": b"[]", "onnx/old": b"old"}), url)
    calls = iter(range(100))
    put = type(MEMORY).put_file

    def cut(self, *args, **kwargs):
        if next(calls) == after:
            raise ConnectionResetError("the line was cut")
        return put(self, *args, **kwargs)

    monkeypatch.setattr(type(MEMORY), "put_file", cut)
    if after < 4:
        with pytest.raises(EnvironmentFailure, match="the line was cut; run the command again"):
            publish(run, url)
        there = arrived(url)
        files = json.loads(there["manifest.json"])["files"]
        assert all(len(there[name]) == entry["bytes"] for name, entry in files.items())
        assert "provenance.json" not in there
    monkeypatch.undo()
    publish(run, url)
    assert arrived(url) == content(run)


def test_what_arrives_altered_is_noticed(run, url, monkeypatch):
    put = type(MEMORY).put_file

    def flip(self, local, remote, **kwargs):
        put(self, local, remote, **kwargs)
        if remote.endswith("weights.safetensors"):
            self.pipe_file(remote, self.cat_file(remote)[:-1] + b"X")

    monkeypatch.setattr(type(MEMORY), "put_file", flip)
    with pytest.raises(GateError, match=r"weights.safetensors did not arrive as it was sent"):
        publish(run, url)
    assert json.loads(arrived(url)["manifest.json"])["files"] == {}


def test_what_is_not_proven_is_not_published(run, url):
    (run.path / "provenance.json").unlink()
    with pytest.raises(GateError, match="not proven"):
        publish(run, url)
    assert arrived(url) == {}


def test_what_was_altered_is_not_published(run, url):
    (run.path / "ledger.json").write_bytes(b"[]")
    with pytest.raises(GateError, match=r"ledger.json was altered"):
        publish(run, url)
    assert arrived(url) == {}


@pytest.mark.parametrize(("name", "data"), [("notes.txt", b"mine"), ("manifest.json", b"[1]"), ("manifest.json", b"{")])
def test_what_belongs_to_somebody_else_is_left_alone(run, url, name, data):
    MEMORY.pipe_file(f"/bucket/model/{name}", data)
    with pytest.raises(InputError, match="choose another place"):
        publish(run, url)
    assert arrived(url) == {name: data}


def test_a_manifest_that_points_elsewhere_removes_nothing(run, url):
    MEMORY.pipe_file("/bucket/precious", b"precious")
    MEMORY.pipe_file("/bucket/model/manifest.json", b'{"files": {"../precious": {"bytes": 8, "sha256": ""}}}')
    with pytest.raises(InputError, match=r"not a file of the run directory|is not a run's manifest"):
        publish(run, url)
    assert MEMORY.cat_file("/bucket/precious") == b"precious"


@pytest.mark.parametrize("url", ["nowhere://x", "nowhere"])
def test_an_unknown_kind_of_url(run, url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "nowhere", ignore_errors=True)
    if "://" in url:
        with pytest.raises(InputError, match="nowhere"):
            publish(run, url)
    else:
        assert publish(run, url) == 2
