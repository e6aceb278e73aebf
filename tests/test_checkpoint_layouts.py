"""What is unwrapped, what is ignored, what is refused with which words, and what an opened checkpoint holds on to."""

import argparse
import collections
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bgevis.converter.checkpoint import open_checkpoint
from bgevis.validation.errors import EnvironmentFailure, InputError


def saved(path: Path, value: object, **options: object) -> Path:
    torch.save(value, path, **options)
    return path


def state_dict() -> dict[str, torch.Tensor]:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)).state_dict()


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]
OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 2)}}, "param_groups": [{"lr": 1e-3}]}
LAYOUTS = {
    "bare": (state_dict(), (), ()),
    "state_dict": ({"state_dict": state_dict(), "epoch": 3}, ("state_dict",), ("epoch",)),
    "trainer": (
        {"model_type": "X", "model_state_dict": state_dict(), "optimizer_state_dict": OPTIMIZER, "loss": 0.5},
        ("model_state_dict",),
        ("model_type", "optimizer_state_dict", "loss"),
    ),
    "nested": ({"model": {"state_dict": state_dict(), "size": 3}}, ("model", "state_dict"), ("model.size",)),
    "deepspeed": (
        {"module": state_dict(), "buffer_names": [], "param_shapes": [{"0.weight": torch.Size([3, 2])}]},
        ("module",),
        ("buffer_names", "param_shapes"),
    ),
    "configuration beside": (
        {"model": {"name": "bert", "layers": 2}, "state_dict": state_dict()},
        ("state_dict",),
        ("model",),
    ),
    "tensor beside": ({"loss": torch.tensor(1.0), "model": state_dict()}, ("model",), ("loss",)),
    "non-tensors inside": (
        {"model": {**state_dict(), "version": 2, "optimizer": OPTIMIZER}},
        ("model",),
        ("model.version", "model.optimizer"),
    ),
    "distributed": ({f"module.{name}": value for name, value in state_dict().items()}, ("module.",), ()),
    "distributed trainer": (
        {"model_state_dict": {f"module._orig_mod.{name}": value for name, value in state_dict().items()}},
        ("model_state_dict", "module.", "_orig_mod."),
        (),
    ),
    "trainer's objects": (
        {
            "model": state_dict(),
            "args": argparse.Namespace(lr=0.1),
            "best": np.float64(0.5),
            "curve": np.arange(3.0),
            "counts": collections.Counter("aab"),
            "default": collections.defaultdict(list, {"a": [1]}),
            "dtype": torch.float16,
            "device": torch.device("cpu"),
            "folder": Path("out"),
            "sparse": torch.eye(2).to_sparse(),
            7: "seven",
        },
        ("model",),
        ("args", "best", "curve", "counts", "default", "dtype", "device", "folder", "sparse", "7"),
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout, legacy):
    value, wrappers, ignored = LAYOUTS[layout]
    path = saved(tmp_path / "a.pt", value, _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint(path)
    assert checkpoint.wrappers == wrappers
    assert checkpoint.ignored == ignored
    assert list(checkpoint.tensors) == NAMES
    assert checkpoint.read("1.weight").tolist() == [1.0, 1.0, 1.0]


def test_prefix_is_kept_unless_all_names_have_it(tmp_path):
    path = saved(tmp_path / "a.pt", {"module.w": torch.ones(1), "head": torch.ones(1)})
    assert list(open_checkpoint(path).tensors) == ["module.w", "head"]
    path = saved(tmp_path / "b.pt", {"module.": torch.ones(1)})
    assert list(open_checkpoint(path).tensors) == ["module."]


def test_prefix_in_safetensors(tmp_path):
    save_file({"module.a": torch.ones(2), "module.b": torch.zeros(1)}, tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.wrappers == ("module.",)
    assert checkpoint.read("a").tolist() == [1.0, 1.0]


def test_wrapped_module_without_parameters(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path / "a.pt", {"model_type": "X", "model_state_dict": {}}))
    assert dict(checkpoint.tensors) == {}
    assert checkpoint.ignored == ("model_type",)


REFUSED = {
    "no tensors": ({"epoch": 1, "optimizer": OPTIMIZER}, "no state dict: its keys are 'epoch', 'optimizer'"),
    "empty": ({}, "it is empty"),
    "single tensor": (torch.ones(2), "it is a single tensor"),
    "list": ([torch.ones(2)], "it is a list"),
    "two state dicts": ({"model": state_dict(), "state_dict": state_dict()}, "more than one state dict"),
    "tensor without a name": ({0: torch.ones(2)}, "under 0, which is not a name"),
    "garbled name": ({"a\nb": torch.ones(2)}, "cannot be printed"),
    "sparse": ({"w": torch.eye(2).to_sparse()}, "tensor 'w' is sparse"),
    "sparse csr": ({"w": torch.eye(2).to_sparse_coo()}, "tensor 'w' is sparse"),
    "meta": ({"w": torch.empty(2, device="meta")}, "tensor 'w' is without data"),
    "conjugate": ({"w": torch.ones(2, dtype=torch.complex64).conj()}, "tensor 'w' is a view with metadata"),
    "whole module": (torch.nn.Linear(2, 2), "'torch.nn.modules.linear.Linear', which is not among the names"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    value, message = REFUSED[case]
    path = saved(tmp_path / "a.pt", value)
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


FOREIGN = {
    "empty": (b"", "is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "html after blank lines": (b"\n\n <html>Sign in</html>", "web page"),
    "gzip": (b"\x1f\x8b" + b"x" * 99, "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"x" * 99, "HDF5"),
    "gguf": (b"GGUF" + b"x" * 99, "GGUF"),
    "numpy": (b"\x93NUMPY" + b"x" * 99, "NumPy"),
    "zeros": (b"\0" * 4096, "incomplete"),
    "text": (b"hello", "is not a checkpoint"),
    "plain pickle": (b"\x80\x04N.", "is a pickle, but not one of torch.save"),
    "json without weight_map": (b'{"model_type": "bert"}', '"weight_map"'),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files(tmp_path, case):
    data, message = FOREIGN[case]
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


def test_other_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a/b.npy", "x")
    with pytest.raises(InputError, match=r"not one of torch\.save"):
        open_checkpoint(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"script/{name}", "x")
    with pytest.raises(InputError, match="TorchScript"):
        open_checkpoint(tmp_path / "script.pt")


def test_missing_folder_pipe(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        open_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(InputError, match=r"without model\.safetensors or"):
        open_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe")


def test_no_permission(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pt", state_dict())

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EnvironmentFailure, match="no permission") as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 4


def test_folder_with_a_single_file(tmp_path):
    saved(tmp_path / "pytorch_model.bin", state_dict())
    assert open_checkpoint(tmp_path).files == (tmp_path / "pytorch_model.bin",)
    save_file(state_dict(), tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).container == "safetensors"


def write_index(folder: Path, weight_map: dict[str, object]) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_shards_may_be_symbolic_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "shard.safetensors").symlink_to("../blobs/0123")
    checkpoint = open_checkpoint(write_index(tmp_path / "snapshot", {"a": "shard.safetensors"}))
    assert checkpoint.read("a").tolist() == [1.0, 1.0]
    assert checkpoint.files[1] == tmp_path / "snapshot" / "shard.safetensors"


def test_index_and_shard_must_agree(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "s1")
    with pytest.raises(InputError, match=r"s1: does not hold.*missing 'c', not in the index 'b'"):
        open_checkpoint(write_index(tmp_path, {"a": "s1", "c": "s1"}))
    with pytest.raises(InputError, match="s2: cannot be read"):
        open_checkpoint(write_index(tmp_path, {"a": "s1", "b": "s1", "c": "s2"}))


@pytest.mark.parametrize("shard", ["../s1", "/etc/passwd", "sub/s1", "..", "", "a\\b", "C:x", "s\n1", 7, None])
def test_shard_names_are_plain(tmp_path, shard):
    with pytest.raises(InputError, match="not the name of a file beside it"):
        open_checkpoint(write_index(tmp_path, {"a": shard}))


def test_check_finds_flipped_bits(tmp_path):
    path = saved(tmp_path / "a.pt", {"w": torch.arange(1000.0)})
    checkpoint = open_checkpoint(path)
    checkpoint.check()
    data = bytearray(path.read_bytes())
    data[checkpoint.tensors["w"].offset + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is corrupt"):
        open_checkpoint(path).check()


def test_a_file_that_changes_is_noticed(tmp_path):
    path = saved(tmp_path / "a.pt", {"w": torch.arange(1000.0)})
    checkpoint = open_checkpoint(path)
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="changed while"):
        checkpoint.read("w")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_opening_holds_no_descriptor(tmp_path):
    path = saved(tmp_path / "a.pt", state_dict())
    before = open_files()
    checkpoint = open_checkpoint(path)
    assert open_files() == before
    checkpoint.read("0.weight")
    checkpoint.read("0.bias")
    assert open_files() <= before + 1


STREAM = """
import sys
from pathlib import Path
from bgevis.converter.checkpoint import open_checkpoint
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
before = peak()
checkpoint = open_checkpoint(Path(sys.argv[1]))
opened = peak() - before
for name in checkpoint.tensors:
    checkpoint.read(name).sum()
    checkpoint.release(name)
checkpoint.check()
print(opened, peak() - before, "torch" in sys.modules)
"""


def test_streaming_needs_the_memory_of_one_tensor(tmp_path):
    path = saved(tmp_path / "a.pt", {str(index): torch.zeros(1 << 20) for index in range(32)})
    result = subprocess.run([sys.executable, "-c", STREAM, path], capture_output=True, text=True, check=True)
    opened, streamed, torch_imported = result.stdout.split()
    assert int(opened) < 4 << 20
    assert int(streamed) < 24 << 20, "the file has 128 MB"
    assert torch_imported == "False"


def test_released_arrays_stay_valid(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path / "a.pt", {"w": torch.arange(5000.0), "v": torch.ones(3)}))
    array = checkpoint.read("w")
    checkpoint.release("w")
    checkpoint.release("v")
    assert array[4999] == 4999.0
