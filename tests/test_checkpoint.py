"""Every container and dtype, bit for bit against torch.load and the safetensors library."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bgevis.converter.checkpoint import Checkpoint, open_checkpoint

FORMATS = {"torch-zip": True, "torch-legacy": False}
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
# torch writes these into the legacy format and cannot load them from it
UNTYPED = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
SAFETENSORS_DTYPES = [dtype for dtype in DTYPES if dtype not in (torch.complex128,)]


def noise(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Give a tensor of random bits: NaNs and infinities included, except that a bool has only two values."""
    random = np.random.default_rng(seed)
    if dtype is torch.bool:
        return torch.from_numpy(random.integers(0, 2, shape).astype(bool))
    size = int(np.prod(shape)) * dtype.itemsize
    data = torch.from_numpy(random.integers(0, 256, size, dtype=np.uint8))
    return data.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def bits(tensor: torch.Tensor) -> bytes:
    if tensor.numel() == 0:
        return b""
    whole = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).clone()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy().tobytes()


def assert_same(checkpoint: Checkpoint, want: dict[str, torch.Tensor]) -> None:
    assert list(checkpoint.tensors) == list(want)
    for name, tensor in want.items():
        entry, array = checkpoint.tensors[name], checkpoint.read(name)
        assert entry.name == name
        assert entry.shape == array.shape == tuple(tensor.shape)
        assert entry.dtype == array.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert entry.nbytes == array.nbytes == tensor.numel() * tensor.dtype.itemsize
        assert array.tobytes() == bits(tensor)
        assert not array.flags.writeable


def saved(tmp_path: Path, value: object, container: str = "torch-zip") -> Path:
    path = tmp_path / "checkpoint.pth"
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[container])
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("container", FORMATS)
def test_every_dtype(tmp_path, container, dtype):
    want = {
        "matrix": noise((3, 5), dtype),
        "scalar": noise((), dtype),
        "empty": noise((0, 4), dtype),
        "transposed": noise((4, 3), dtype).t(),
        "strided": noise((9,), dtype)[::2],
        "offset": noise((9,), dtype)[3:7],
        "parameter": torch.nn.Parameter(noise((2, 2), dtype), requires_grad=False),
    }
    path = saved(tmp_path, want, container)
    checkpoint = open_checkpoint(path)
    assert checkpoint.container == container
    assert checkpoint.files == (path,)
    assert checkpoint.wrappers == checkpoint.ignored == ()
    assert_same(checkpoint, want)
    if container == "torch-zip" or dtype not in UNTYPED:
        assert_same(checkpoint, torch.load(path, weights_only=True))
    assert checkpoint.tensors["transposed"].strides == (1, 3)
    assert checkpoint.read("strided").strides == (2 * dtype.itemsize,)


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES, ids=str)
def test_every_dtype_in_safetensors(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    save_file({"b": noise((3, 5), dtype), "a": noise((), dtype), "empty": noise((0, 2), dtype)}, path, {"format": "pt"})
    checkpoint = open_checkpoint(path)
    want = load_file(path)
    assert checkpoint.container == "safetensors"
    assert_same(checkpoint, {name: want[name] for name in checkpoint.tensors})
    assert set(checkpoint.tensors) == set(want)


def test_bfloat16_is_ml_dtypes(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path, {"x": torch.tensor([1.0, -2.5], dtype=torch.bfloat16)}))
    assert checkpoint.read("x").dtype == ml_dtypes.bfloat16
    assert checkpoint.read("x").astype(np.float32).tolist() == [1.0, -2.5]


@pytest.mark.parametrize("container", FORMATS)
def test_tied_tensors_share_their_storage(tmp_path, container):
    table = torch.arange(12.0).reshape(3, 4)
    path = saved(tmp_path, {"a": table, "b": table, "row": table[1], "other": table.clone()}, container)
    tensors = open_checkpoint(path).tensors
    assert tensors["a"].storage == tensors["b"].storage == tensors["row"].storage != tensors["other"].storage
    assert tensors["row"].offset == tensors["a"].offset + 16
    assert len({tensor.storage for tensor in tensors.values()}) == 2
    assert_same(open_checkpoint(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("container", FORMATS)
def test_expanded_view(tmp_path, container):
    path = saved(tmp_path, {"ids": torch.arange(5).expand(3, -1)}, container)
    assert open_checkpoint(path).tensors["ids"].strides == (0, 1)
    assert_same(open_checkpoint(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("container", FORMATS)
def test_empty_slice_past_the_end(tmp_path, container):
    path = saved(tmp_path, {"w": torch.ones(4)[4:], "v": torch.zeros(3, 0)[2:], "all": torch.ones(2)}, container)
    assert_same(open_checkpoint(path), torch.load(path, weights_only=True))
    assert open_checkpoint(path).tensors["w"].offset < path.stat().st_size


@pytest.mark.parametrize("container", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, container, protocol):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = tmp_path / "checkpoint.bin"
    torch.save(
        {"model": module.state_dict(), "seen": {1, 2}, "frozen": frozenset([3]), "raw": b"bytes", "huge": 2**70},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=FORMATS[container],
    )
    checkpoint = open_checkpoint(path)
    assert checkpoint.wrappers == ("model",)
    assert_same(checkpoint, torch.load(path, weights_only=False)["model"])


def test_tensors_with_attributes(tmp_path):
    buffer, parameter = torch.arange(3.0), torch.nn.Parameter(torch.ones(2))
    buffer.note, parameter.note = "attribute", "attribute"
    path = saved(tmp_path, {"buffer": buffer, "parameter": parameter})
    assert_same(open_checkpoint(path), torch.load(path, weights_only=True))


def test_module_state_dict_keeps_its_order(tmp_path):
    module = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    path = saved(tmp_path, module.state_dict())
    assert list(open_checkpoint(path).tensors) == list(module.state_dict())
    assert_same(open_checkpoint(path), module.state_dict())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards(tmp_path, suffix, given):
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    shards = [{"b": noise((4,), torch.float16), "a": noise((2, 3), torch.float32)}, {"c": noise((), torch.int64)}]
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        shard = tmp_path / f"{stem}-{number:05}-of-00002.{suffix}"
        if suffix == "bin":
            torch.save(tensors, shard)
        else:
            save_file(tensors, shard)
        weight_map |= dict.fromkeys(sorted(tensors), shard.name)
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": weight_map}, indent=2))
    checkpoint = open_checkpoint(index if given == "index" else tmp_path)
    assert checkpoint.container == {"safetensors": "safetensors-sharded", "bin": "torch-zip-sharded"}[suffix]
    assert checkpoint.files == (index, *sorted(tmp_path.glob(f"{stem}-*")))
    assert_same(checkpoint, {name: (shards[0] | shards[1])[name] for name in ("a", "b", "c")})
    checkpoint.check()


names = st.text(st.characters(categories=["L", "N"], include_characters="._-"), min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor: any dtype, a permutation and a slice of a larger one."""
    tensor = noise(draw(shapes), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 9)))
    tensor = tensor.permute(draw(st.permutations(range(tensor.ndim))))
    for axis in range(tensor.ndim):
        start, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
        tensor = tensor[(slice(None),) * axis + (slice(start, None, step),)]
    return tensor


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, tensors(), min_size=1, max_size=6), st.sampled_from(sorted(FORMATS)))
def test_any_state_dict(tmp_path_factory, state_dict, container):
    path = saved(tmp_path_factory.mktemp("any"), state_dict, container)
    checkpoint = open_checkpoint(path)
    prefix = "".join(checkpoint.wrappers)
    assert_same(checkpoint, {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()})


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(names, tensors().map(torch.Tensor.contiguous), min_size=1, max_size=6))
def test_any_safetensors(tmp_path_factory, state_dict):
    state_dict = {name: tensor.clone() for name, tensor in state_dict.items() if tensor.dtype in SAFETENSORS_DTYPES}
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    save_file(state_dict | {"one": torch.ones(1)}, path)
    checkpoint = open_checkpoint(path)
    want = load_file(path)
    assert_same(checkpoint, {name: want[name] for name in checkpoint.tensors})
    assert len(checkpoint.tensors) == len(want)
