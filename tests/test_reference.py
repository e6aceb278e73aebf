"""The reference's short cut for towers: each row once, the same values and taps; the network itself is untouched.

And what computes in float64 although its weights are stored in less.
"""

import numpy as np
import pytest
import torch

from bgevis.converter.use.fixture import write_fixture
from bgevis.model.family import families
from bgevis.model.reference import Original, Reference, RowByRow
from bgevis.validation.taps import recording, scope, tap


@pytest.fixture
def counted():
    seen: list[int] = []

    def double(x):
        seen.append(len(x))
        return tap("second", tap("first", 2 * x) + 1)

    return RowByRow(double), seen


ROWS = torch.arange(6.0).reshape(2, 3)


def test_each_row_is_computed_once_for_each_dtype(counted):
    rows, seen = counted
    for x in (ROWS, ROWS.flip(0), ROWS[:1], ROWS.double(), ROWS.double()):
        torch.testing.assert_close(rows(x), 2 * x + 1)
    assert seen == [1, 1, 1, 1]


def test_what_was_recorded_is_recorded_again_until_another_row_comes(counted):
    rows, seen = counted
    taps = []
    for _ in range(2):
        with recording() as found, scope("vision"):
            rows(ROWS[:1])
        taps.append(found)
    assert seen == [1]
    assert list(taps[1]) == ["vision.first", "vision.second"]
    torch.testing.assert_close(taps[0], taps[1])
    rows(ROWS)
    with recording() as found:
        rows(ROWS[:1])
    assert list(found) == ["first", "second"]
    assert seen == [1, 1, 1]


@pytest.fixture
def reference(tmp_path):
    family = families()["visualized_bge"]
    write_fixture(family.name, "tiny", 0, "float32", tmp_path / "ckpt.pth")
    return family.reference(family.sizes["tiny"], Original(torch.load(tmp_path / "ckpt.pth", weights_only=True)))


def test_the_network_by_itself_computes_whole_batches(reference):
    """Who exports or trains the module must not get the short cut: it would fix the batch, or remember old weights."""
    size = reference.module.config.vision.image_size
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    seen: list[int] = []
    tower = reference.module.image.model_visual.visual
    tower.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    (apart,) = reference.run("encode_image", {"images": images}).values()
    assert seen == [1, 1]
    with torch.inference_mode():
        for _ in range(2):
            together = reference.module.encode_image(torch.from_numpy(images))["embeddings"].numpy()
    assert seen == [1, 1, 2, 2]
    np.testing.assert_allclose(together, apart, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_recurrent_layers_compute_in_float64_as_they_would_if_converted(kind, stored):
    layer = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True).to(stored).requires_grad_(False)
    reference = Reference("", layer, {"go": lambda x: {"y": layer(x)[0]}}, layer.state_dict()).in_dtype("float64")
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    found = reference.run("go", {"x": x})["y"]
    assert found.dtype == np.float64
    assert {p.dtype for p in layer.parameters()} == {stored}
    np.testing.assert_array_equal(found, layer.double()(torch.from_numpy(x))[0])


class Remembering(torch.nn.Module):
    """Keeps what it made of its biases, as some vision networks do at inference."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([1 / 3]))
        self.made: dict[str, torch.Tensor] = {}

    def forward(self, x):
        if "bias" not in self.made:
            self.made["bias"] = self.bias * 0.1
        return {"y": x + self.made["bias"]}


def test_what_a_module_keeps_in_one_dtype_is_none_of_another():
    module = Remembering()
    narrow = Reference("remembering", module, {"forward": module}, {})
    given = {"x": np.zeros(1, np.float32)}
    narrow.run("forward", given)
    (exact,) = narrow.in_dtype("float64").run("forward", given)["y"]
    assert exact == np.float64(np.float32(1 / 3)) * 0.1
    assert narrow.run("forward", given)["y"].dtype == np.float32
    assert not module.made
