"""Layouts by axis name: they move elements where the names say, and back."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgevis.exporters.weights import contiguous
from bgevis.model.layout import Layout, parse

SIZES = {"e": 6, "h": 3, "d": 2, "r": 4, "s": 4, "c": 3, "w": 5, "u": 5}


@pytest.mark.parametrize(
    ("text", "shape", "result"),
    [
        ("(h d) e -> e h d", (6, 6), lambda a: a.T.reshape(6, 3, 2)),
        ("e (h d) -> h d e", (6, 6), lambda a: a.T.reshape(3, 2, 6)),
        ("w c r s -> r s c w", (5, 3, 4, 4), lambda a: a.transpose(2, 3, 1, 0)),
        ("u w -> w u", (5, 5), lambda a: a.T),
        ("1 1 w -> w", (1, 1, 5), lambda a: a.reshape(5)),
        ("(h d) -> h d", (6,), lambda a: a.reshape(3, 2)),
        ("e w", (6, 5), lambda a: a),
    ],
)
def test_elements_go_where_the_names_say(text, shape, result):
    array = np.arange(np.prod(shape)).reshape(shape)
    layout = parse(text)
    assert layout.source_shape(SIZES) == shape
    assert np.array_equal(layout.apply(array, SIZES), result(array))
    assert np.array_equal(layout.positions(SIZES), result(array))
    assert np.array_equal(layout.inverse.apply(layout.apply(array, SIZES), SIZES), array)
    assert str(parse(str(layout))) == str(layout)


def test_a_transposed_square_is_another_layout():
    """Shapes cannot tell these apart; the positions can."""
    right, wrong = parse("u w -> w u"), parse("u w")
    assert right.source_shape(SIZES) == wrong.source_shape(SIZES)
    assert right.target_shape(SIZES) == wrong.target_shape(SIZES)
    assert not np.array_equal(right.positions(SIZES), wrong.positions(SIZES))


@pytest.mark.parametrize("text", ["a b -> a", "a a", "a -> b", "a b -> a b b"])
def test_unequal_sides_are_refused(text):
    with pytest.raises(ValueError, match="same axes"):
        parse(text)


def groups(axes: list[str], cuts: list[bool]) -> tuple[tuple[str, ...], ...]:
    """Merge neighbouring axes where there is no cut."""
    merged = [[axes[0]]]
    for axis, cut in zip(axes[1:], cuts, strict=False):
        if cut:
            merged.append([axis])
        else:
            merged[-1].append(axis)
    return tuple(map(tuple, merged))


CUTS = st.lists(st.booleans(), min_size=4, max_size=4)


@given(
    order=st.permutations("abcde"),
    again=st.permutations("abcde"),
    cuts=st.tuples(CUTS, CUTS),
    sizes=st.lists(st.integers(1, 4), min_size=5, max_size=5),
)
def test_any_layout_is_its_positions_and_inverts(order, again, cuts, sizes):
    layout = Layout(groups(list(order), cuts[0]), groups(list(again), cuts[1]))
    named = dict(zip("abcde", sizes, strict=True))
    array = np.arange(np.prod(layout.source_shape(named), dtype=int)).reshape(layout.source_shape(named))
    moved = layout.apply(array, named)
    assert np.array_equal(moved, layout.positions(named))
    assert np.array_equal(layout.inverse.apply(moved, named), array)
    assert parse(str(layout)) == layout


@given(order=st.permutations(range(3)), step=st.sampled_from([1, -1, 2]), last=st.sampled_from([1, 63, 64, 200]))
def test_a_copy_in_order_is_the_array(order, step, last):
    array = np.arange(3 * 5 * last).astype(ml_dtypes.bfloat16).reshape(3, 5, last)[:, :, ::step].transpose(order)
    made = contiguous(array)
    assert made.flags.c_contiguous
    assert made.dtype == array.dtype
    assert np.array_equal(made, array)
    assert contiguous(made) is made
