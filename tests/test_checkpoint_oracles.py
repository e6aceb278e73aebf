"""Every checkpoint of the conformance data, bit for bit against torch.load and the safetensors library."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from bgevis.converter.checkpoint import open_checkpoint
from bgevis.validation.errors import InputError

FOLDERS = ("visualized_bge", "huggingface", "insight_engine", "edge_glass", "real")
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
ORACLES = Path(os.environ.get("BGEVIS_ORACLES") or Path(__file__).parents[2] / "shared" / "oracles")
FILES = sorted(path for folder in FOLDERS for path in (ORACLES / folder).rglob("*") if path.suffix in SUFFIXES)
FILES = [path for path in FILES if path.is_file()]
pytestmark = pytest.mark.skipif(not FILES, reason=f"the conformance data is not at {ORACLES} (set BGEVIS_ORACLES)")


class ConfigModule(ModuleType):
    """Stands in for a trainer's own module, whose classes torch.load has to import."""

    def __getattr__(self, name: str) -> type:
        return type(name, (), {"__module__": "config"})


def reference(path: Path) -> dict[str, object]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=False, mmap=True)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ORACLES)))
def test_bits(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "config", ConfigModule("config"))
    want = reference(path)
    if "clip_vision" in want:
        with pytest.raises(InputError, match="holds no state dict: its keys are 'clip_vision', 'text_encoder'"):
            open_checkpoint(path)
        return
    checkpoint = open_checkpoint(path)
    prefix = ""
    for wrapper in checkpoint.wrappers:
        if wrapper.endswith("."):
            prefix += wrapper
        else:
            want = want[wrapper]
    checkpoint.check()
    assert set(checkpoint.tensors) == {name.removeprefix(prefix) for name in want}
    for name, entry in checkpoint.tensors.items():
        tensor = want[prefix + name]
        assert entry.shape == tuple(tensor.shape)
        assert entry.dtype == str(tensor.dtype).removeprefix("torch.")
        assert checkpoint.read(name).tobytes() == bits(tensor)
        checkpoint.release(name)


def test_shards_equal_the_single_file():
    folder = ORACLES / "huggingface"
    sharded, single = open_checkpoint(folder / "qwen2_untied_sharded"), open_checkpoint(folder / "qwen2_untied")
    assert sharded.container == "safetensors-sharded"
    assert set(sharded.tensors) == set(single.tensors)
    for name in single.tensors:
        assert sharded.read(name).tobytes() == single.read(name).tobytes()


def test_rope_tables_alias():
    tensors = open_checkpoint(ORACLES / "visualized_bge" / "base" / "Visualized_base_tiny.pth").tensors
    tables = {tensor.storage for name, tensor in tensors.items() if name.endswith("freqs_cos")}
    assert len(tables) == 1
