"""The runners without Python: C with TensorFlow and with onnxruntime, StableHLO in IREE. Each replays and refuses."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import corruptions
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUIET = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
SLOW = ("only zeros expected, sealed", "other ids among the ready inputs, sealed")
"""Refused only after much has been compiled. The runner in onnxruntime, which need not compile, shows that they are."""

if not EXAMPLES.is_dir():
    pytest.skip("the runners belong to a checkout, not to an installation", allow_module_level=True)

CASES = {"tensorflow": 14, "onnxruntime": 14, "iree": 3}
FORMATS = {"tensorflow": "saved_model", "onnxruntime": "onnx", "iree": "stablehlo"}
PARTS = {
    "tensorflow": ("cases", "several", "ready", "raw", "pixels"),
    "onnxruntime": ("cases", "several", "ready", "raw", "pixels"),
    "iree": ("cases", "several", "ready"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a C program once."""
    folder, done = tmp_path_factory.mktemp("c"), {}

    def build(name: str) -> Path:
        if shutil.which("cc") is None or shutil.which("make") is None:
            pytest.skip("there is no C compiler")
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        if name not in done:
            command = ["make", "-C", EXAMPLES / "c", name, f"PYTHON={sys.executable}", f"BUILD={folder}"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            assert "warning" not in made.stderr
            done[name] = folder / f"replay_{name}"
        return done[name]

    return build


@pytest.fixture
def replay(built):
    """Replays a run directory: (name of the runner, folder) -> what the program did."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess:
        if name == "iree":
            scripts = Path(sysconfig.get_path("scripts"))
            if not (scripts / "iree-compile").exists() or not (scripts / "iree-run-module").exists():
                pytest.skip("IREE is not installed: pip install iree-base-compiler iree-base-runtime")
            command = [sys.executable, EXAMPLES / "iree" / "replay.py"]
        else:
            command = [built(name)]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=QUIET)

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_replays_every_entry_point_and_case(name, replay, replayable):
    done = replay(name, replayable, *(["--xla"] if name == "iree" else []))
    assert done.returncode == 0, done.stderr
    assert f"3 entry points, {CASES[name]} cases: all within what is allowed" in done.stdout
    if name == "iree":
        assert done.stdout.count(" ms, XLA ") == CASES[name]


def kinds() -> list:
    """Every runner with every kind of damage that it reads."""
    found = []
    for name, format_ in FORMATS.items():
        for kind in corruptions.names(*PARTS[name], format_):
            slow = kind in SLOW and name != "onnxruntime"
            found.append(pytest.param(name, kind, marks=[pytest.mark.prove] if slow else []))
    return found


@pytest.mark.parametrize(("name", "kind"), kinds())
def test_refuses_a_damaged_run(name, kind, replay, replayable, tmp_path):
    damaged = corruptions.corrupted(replayable, kind, tmp_path / "run", FORMATS[name])
    done = replay(name, damaged)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "all within what is allowed" not in done.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_usage(name, replay):
    done = replay(name)
    assert done.returncode == 2
    assert "usage" in done.stderr
