"""What is written never takes the place of a link, a device, a FIFO, or a file that was not meant."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from in_process import convert, in_this_process

from bgevis.converter.cli import main
from bgevis.converter.directory import hold
from bgevis.converter.output import written
from bgevis.converter.use.fixture import write_fixture
from bgevis.validation.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_fixture("bert", "tiny", 9, "float32", folder / "tiny.safetensors")
    with in_this_process():
        return convert(folder / "tiny.safetensors", folder / "run", ("onnx",))


def device(place: Path) -> None:
    try:
        os.mknod(place, 0o20666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes devices")


def link(place: Path) -> None:
    (place.parent / "victim").write_text("precious")
    place.symlink_to(place.parent / "victim")


PLACES = {
    "a device": device,
    "a FIFO": os.mkfifo,
    "a link": link,
    "a folder": lambda place: place.mkdir(),
    "exists": lambda place: place.write_text("precious"),
}
COMMANDS = {
    "fixture": ["fixture", "bert", "--size", "tiny", "--out"],
    "embed": ["embed", "RUN", "--text", "a", "--out"],
    "restore": ["restore", "RUN", "--from", "onnx", "--out"],
    "validate": ["validate", "RUN", "--junit"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", PLACES)
def test_a_place_that_is_taken_is_refused_before_any_work(finished, tmp_path, command, what):
    place = tmp_path / "place.npy"
    PLACES[what](place)
    before = {path: path.lstat() for path in tmp_path.iterdir()}
    arguments = [str(finished) if word == "RUN" else word for word in COMMANDS[command]]
    done = CliRunner().invoke(main, [*arguments, str(place)])
    assert done.exit_code in ((2, 3) if what == "a folder" else (3,)), done.output
    assert str(place) in done.output
    assert what in done.output or what == "a folder"
    assert {path: path.lstat() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_there_is_named(finished, tmp_path, command):
    arguments = [str(finished) if word == "RUN" else word for word in COMMANDS[command]]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "nodir" / "deep" / "x.npy")])
    assert done.exit_code == 3
    assert f"the folder {tmp_path / 'nodir' / 'deep'} does not exist; make it first" in done.output


def test_force_replaces_a_file(tmp_path):
    place = tmp_path / "x.safetensors"
    place.write_text("old")
    done = CliRunner().invoke(main, ["fixture", "bert", "--size", "tiny", "--out", str(place), "--force"])
    assert done.exit_code == 0, done.output
    assert place.stat().st_size > 1000


def test_embeddings_of_an_unknown_ending_are_refused(tmp_path):
    done = CliRunner().invoke(main, ["embed", "nowhere", "--text", "a", "--out", str(tmp_path / "r.csv")])
    assert done.exit_code == 3
    assert "r.csv: its ending says nothing of what to write; known: .npy, .parquet, .jsonl, .ndjson" in done.output


def test_a_report_is_not_written_into_the_run(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "manifest.json").read_bytes()
    done = CliRunner().invoke(main, ["validate", str(run), "--junit", str(run / "manifest.json")])
    assert (done.exit_code, (run / "manifest.json").read_bytes()) == (3, before)
    assert "lies inside the run directory" in done.output


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    def full() -> None:
        with written(tmp_path / "x.npy") as aside:
            aside.write_text("half")
            raise OSError(28, "No space left on device", str(aside))

    with pytest.raises(OSError, match="No space left") as raised:
        full()
    assert raised.value.filename == str(tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_took_the_runs_place_is_left_alone(tmp_path):
    run = tmp_path / "run"
    with hold(run):
        run.rename(tmp_path / "away")
        (run / ".tmp").mkdir(parents=True)
        for name in (".lock", ".tmp/precious"):
            (run / name).write_text("precious")
    assert sorted(path.name for path in run.rglob("*")) == [".lock", ".tmp", "precious"]


def test_another_checkpoints_proven_run_is_kept(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    write_fixture("bert", "tiny", 10, "float32", tmp_path / "other.safetensors")
    before = (run / "manifest.json").read_bytes()
    with in_this_process():
        with pytest.raises(InputError, match=r"proven run of another checkpoint, 'tiny.safetensors'; this is 'other"):
            convert(tmp_path / "other.safetensors", run, ("onnx",))
        assert (run / "manifest.json").read_bytes() == before
        assert (run / "provenance.json").exists()
        convert(tmp_path / "other.safetensors", run, ("onnx",), force=True)
    assert (run / "provenance.json").exists()
