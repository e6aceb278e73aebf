"""Each operator of the table against torch's own, over shapes and with sizes that are symbolic while JAX traces."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export
from operator_rows import ELSEWHERE, ROWS, Draw, Row, S

from bgevis.model.traced.module import TYPES, _typed
from bgevis.model.traced.operators import find, table
from bgevis.validation.sizes import computed

AXES = st.fixed_dictionaries({"b": st.integers(1, 4), "t": st.integers(1, 5)})


def overload(name: str) -> Any:
    _, packet, which = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), which)


def mapped(value: Any, change: Any) -> Any:
    if isinstance(value, list | tuple):
        return [mapped(each, change) for each in value]
    return change(value)


def arrays_of(row: Row, sizes: dict[str, int]) -> list[np.ndarray]:
    rng, found = np.random.default_rng([*sizes.values()]), []
    mapped(row.args, lambda each: found.append(each.of(sizes, rng)) if isinstance(each, Draw) else None)
    return found


def filled(row: Row, arrays: list[Any], known: dict[str, Any]) -> list[Any]:
    """Give the arguments: arrays in the place of draws, sizes in that of their texts."""
    given = iter(arrays)
    return mapped(
        row.args, lambda e: next(given) if isinstance(e, Draw) else computed(e.text, known) if isinstance(e, S) else e
    )


def tensors(results: Any) -> list[Any]:
    return list(results) if isinstance(results, list | tuple) else [results]


def wanted(name: str, row: Row, arrays: list[np.ndarray], sizes: dict[str, int]) -> list[torch.Tensor]:
    with torch.no_grad():
        args = filled(row, [torch.from_numpy(np.array(a)) for a in arrays], sizes)
        return tensors(overload(name)(*args, **row.kwargs))


GROUP = 24
"""Rows that are compiled together: a compilation each would take minutes."""

EVERY = [(f"{name}, {i}", name, row) for name, rows in ROWS.items() for i, row in enumerate(rows)]
GROUPS = [EVERY[i : i + GROUP] for i in range(0, len(EVERY), GROUP)]
Group = list[tuple[str, str, Row]]
Arrays = dict[str, list[Any]]


def computed_by_jax(group: Group, given: Arrays, known: dict[str, Any], dtypes: dict[str, list[str]]) -> Arrays:
    found = {}
    for key, name, row in group:
        try:
            results = tensors(find(name)(*filled(row, given[key], known), **row.kwargs))
        except Exception as error:
            raise AssertionError(f"{key}: {error}") from error
        found[key] = [_typed(each, dtype) for each, dtype in zip(results, dtypes[key], strict=False)]
    return found


def narrowed(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(a).astype(np.dtype(TYPES[str(a.dtype)])) for a in arrays]


def assert_same(got: Arrays, want: dict[str, list[torch.Tensor]]) -> None:
    for key, results in got.items():
        assert results, key
        for mine, theirs in zip(results, want[key], strict=False):
            assert mine.shape == tuple(theirs.shape), key
            np.testing.assert_allclose(np.asarray(mine), theirs.numpy(), rtol=2e-5, atol=2e-6, err_msg=key)


def drawn(group: Group, sizes: dict[str, int]) -> tuple[Arrays, dict[str, list[torch.Tensor]], dict[str, list[str]]]:
    arrays = {key: arrays_of(row, sizes) for key, _, row in group}
    want = {key: wanted(name, row, arrays[key], sizes) for key, name, row in group}
    dtypes = {key: [str(each.dtype).removeprefix("torch.") for each in results] for key, results in want.items()}
    return arrays, want, dtypes


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("group", GROUPS, ids=[f"from {group[0][0]}" for group in GROUPS])
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sizes=AXES)
def test_they_give_what_torch_gives(group, sizes):
    arrays, want, dtypes = drawn(group, sizes)
    given_arrays = {key: narrowed(each) for key, each in arrays.items()}
    assert_same(jax.jit(lambda given: computed_by_jax(group, given, sizes, dtypes))(given_arrays), want)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("group", GROUPS, ids=[f"from {group[0][0]}" for group in GROUPS])
def test_they_do_for_sizes_that_are_not_known_yet(group):
    group = [each for each in group if not each[2].fixed]
    arrays, want, dtypes = drawn(group, {"b": 3, "t": 2})
    symbols = dict(zip("bt", export.symbolic_shape("b, t", constraints=["b <= 64", "t <= 64"]), strict=True))

    def spec(draw: Draw, array: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(symbols.get(d, d) for d in draw.shape), TYPES[str(array.dtype)])

    specs = {}
    for key, _, row in group:
        draws: list[Draw] = []
        mapped(row.args, lambda each, draws=draws: draws.append(each) if isinstance(each, Draw) else None)
        specs[key] = [spec(draw, array) for draw, array in zip(draws, arrays[key], strict=True)]

    def function(axes: jax.Array, given: Arrays) -> Arrays:
        return computed_by_jax(group, given, dict(zip("bt", axes.shape, strict=True)), dtypes)

    exported = export.export(jax.jit(function))(jax.ShapeDtypeStruct((*symbols.values(),), jnp.float32), specs)
    given_arrays = {key: narrowed(arrays[key]) for key, _, _ in group}
    assert_same(exported.call(np.zeros((3, 2), np.float32), given_arrays), want)


def test_every_operator_has_a_row():
    rows = {name for each in ROWS for name in (each, each.rpartition(".")[0])}
    missing = [name for name in table() if name not in rows and name not in ELSEWHERE]
    assert not missing
    assert not [name for name in ELSEWHERE if find(name) is None]
    assert not [name for name in ROWS if find(name) is None]
