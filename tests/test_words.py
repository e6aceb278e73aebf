"""The words of an entry point: dimensions, domains, kinds of outputs; what cases and verdicts follow from them."""

from dataclasses import replace

import numpy as np
import pytest

from bgevis.validation import cases as drawing
from bgevis.validation import dims, domains, outputs
from bgevis.validation.budget import Budget, distance, largest
from bgevis.validation.cases import Case, cases, neighbour_batches, tap_case
from bgevis.validation.compare import compare
from bgevis.validation.domains import Draft, RandomMask
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.goldens import Goldens, golden, golden_rows, write
from bgevis.validation.kept import POSITIONS, kept
from bgevis.validation.locate import worst
from bgevis.validation.rounded import Floors, compare_rounded

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("past + tokens", "tokens + past", True),
        ("tokens + 1", "1 + tokens", True),
        ("tokens + tokens", "2*tokens", True),
        ("tokens + 1", "tokens + 2", False),
        ("past", "tokens", False),
        (7, 7, True),
        (7, "7", True),
        ("floordiv(a, 2)", "floordiv(a, 2)", True),
        ("floordiv(a, 2)", "a", False),
    ],
)
def test_dimensions_are_compared_as_sums(one, other, equal):
    assert dims.same(one, other) == equal


def test_sizes_come_from_shapes_and_back():
    shapes = [(("batch", "past + tokens"), (2, 9)), (("batch", 4, "past", 8), (2, 4, 6, 8)), (("batch",), (2,))]
    assert dims.sizes_of(shapes) == {"batch": 2, "past": 6, "tokens": 3}
    assert TensorSpec("x", "int32", ("batch", "past + tokens", 3)).resolve({"batch": 2, "past": 6, "tokens": 3}) == (
        2,
        9,
        3,
    )
    with pytest.raises(ValueError, match="batch is 2 in one array and 3 in another"):
        dims.sizes_of([(("batch",), (2,)), (("batch",), (3,))])
    with pytest.raises(ValueError, match=r"'a \* b' is no sum"):
        dims.terms("a * b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis(0), "at least one place, got low=0"),
        (lambda: Axis(5, 4), "from 5 to 4 has no size"),
        (lambda: entry(outputs_=[("y", ("frames",), None)]), "y is of shape .* frames has no bounds"),
        (lambda: entry(axes={"batch": Axis(), "tokens": Axis(), "frames": Axis()}, outputs_=[("y", ("frames",), None)]),
         "frames is an axis of no input"),
        (lambda: entry(rows="frames"), "its rows are 'frames'"),
        (lambda: entry(more=(TensorSpec("mask", "bool", ("batch",)),)), "two inputs or two outputs have one name"),
        (lambda: entry(outputs_=[("y", ("batch",), outputs.States("lost"))]), "valid where lost says"),
    ],
)  # fmt: skip
def test_an_entry_point_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


IDS = domains.TokenIds(50, 0, 1, 2)


EMBEDDING = ("y", ("batch", 3), outputs.Embedding())


def entry(ids=IDS, outputs_=(EMBEDDING,), axes=None, rows="batch", more=()):
    """A text entry point, with other outputs or further inputs."""
    inputs = (
        TensorSpec("ids", "int32", ("batch", "tokens"), ids),
        TensorSpec("mask", "int32", ("batch", "tokens"), domains.PaddingMask("ids")),
        *more,
    )
    specs = tuple(TensorSpec(n, "float32", shape, kind=kind or outputs.Output()) for n, shape, kind in outputs_)
    return EntryPoint("encode", inputs, specs, axes or {"batch": Axis(), "tokens": Axis(1, 40)}, rows)


DECODE = EntryPoint(
    "decode",
    (
        TensorSpec("ids", "int32", ("batch", "tokens"), domains.TokenIds(50, 0, padded="before")),
        TensorSpec("mask", "int32", ("batch", "past + tokens"), domains.PaddingMask("ids")),
        TensorSpec("positions", "int32", ("batch", "tokens"), domains.Positions("mask")),
        TensorSpec("keys", "float32", ("batch", "past", 4), domains.Cache(past="past", padded="before")),
    ),
    (
        TensorSpec("logits", "float32", ("batch", "tokens", 50), kind=outputs.Logits("mask")),
        TensorSpec("keys_after", "float32", ("batch", "past + tokens", 4), kind=outputs.Cache()),
    ),
    {"batch": Axis(), "past": Axis(), "tokens": Axis(1, 4)},
    rows="batch",
)


def test_ids_mask_positions_and_cache_of_a_case_agree():
    ragged, longest = cases(DECODE)
    assert longest.name == "longest, past=1024, tokens=4"
    ids, mask, positions = (ragged.inputs[name] for name in ("ids", "mask", "positions"))
    assert (ids.shape, mask.shape, ragged.inputs["keys"].shape) == ((3, 4), (3, 28), (3, 24, 4))
    assert mask.sum(axis=1).tolist() == [24 + 4, 12 + 2, 2 + 2]
    assert np.array_equal(ids != 0, mask[:, -4:] == 1)
    assert mask[:, -1].all()  # padded before
    assert positions.tolist() == [[24, 25, 26, 27], [11, 11, 12, 13], [1, 1, 2, 3]]
    gaps = longest.inputs["mask"][0]
    assert 0 < gaps.sum() < gaps.size
    assert longest.inputs["positions"][0, -1] == gaps.sum() - 1


@pytest.mark.parametrize(
    ("domain", "row"),
    [
        (domains.TokenIds(9, 0, 1, 2), ["first", "word", "last", "pad"]),
        (domains.TokenIds(9, 0, 1), ["first", "word", "word", "pad"]),
        (domains.TokenIds(9, 0), ["word", "word", "word", "pad"]),
        (domains.TokenIds(9, 0, None, 2, padded="before"), ["pad", "word", "word", "last"]),
    ],
)
def test_a_row_of_ids_is_what_its_domain_says(domain, row):
    names = {domain.pad: "pad", domain.first: "first", domain.last: "last"}
    spec = TensorSpec("ids", "int64", ("batch", "tokens"), domain)
    found = domain.draw(Draft(entry(domain), {"batch": 1, "tokens": 4}, {"tokens": [3]}), spec, RNG)
    assert found.dtype == np.int64
    assert [names.get(number, "word") for number in found[0].tolist()] == row


def test_several_ends_are_drawn_and_are_no_words():
    domain = domains.TokenIds(6, 0, 1, 2, other_ends=(3,))
    spec = TensorSpec("ids", "int32", ("batch", "tokens"), domain)
    ids = domain.draw(Draft(entry(domain), {"batch": 4, "tokens": 30}, {}), spec, RNG)
    assert ids[:, -1].tolist() == [2, 3, 2, 3]
    assert set(np.unique(ids[:, 1:-1])) <= {4, 5}


def test_truths_are_drawn_at_random_and_no_row_is_empty_unless_asked():
    spec = TensorSpec("seen", "bool", ("batch", "tokens"))
    several = entry(more=(spec,))
    seen = cases(several)[0].inputs["seen"]
    assert seen.dtype == bool
    assert 0.2 < seen.mean() < 0.8
    for inverted in (False, True):
        drawn = RandomMask(inverted).draw(Draft(several, {"batch": 2000, "tokens": 2}, {}), spec, RNG)
        assert drawn.dtype == bool
        assert 0.3 < drawn.mean() < 0.7
        assert (drawn != inverted).any(axis=1).all()
    empty = RandomMask(empty_rows=True).draw(Draft(several, {"batch": 3, "tokens": 9}, {}), spec, RNG)
    assert not empty[0].any()
    assert empty[1:].any(axis=1).all()


def test_a_causal_mask_sees_the_past():
    domain = domains.CausalMask()
    spec = TensorSpec("mask", "bool", ("tokens", "past + tokens"), domain)
    drawn = domain.draw(Draft(DECODE, {"batch": 1, "past": 2, "tokens": 2}, {}), spec, RNG)
    assert drawn.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("domain", "shape", "within", "positions"),
    [
        (domains.LogMel(-1, 1.5), (2, 80, 3000), (-1, 1.5), 3000),
        (domains.Waveform(), (2, 16000), (-1, 1), 100),
        (domains.Floats(0.1), (2, 5, 7), (-1, 1), 10),
        (domains.Integers(3), (2, 50), (0, 2), 0),
        (domains.Pixels((0.5,) * 3, (0.25,) * 3, patch=8), (2, 16, 24, 3), (-2, 2), 12),
    ],
)
def test_numbers_are_legal_varied_and_known_by_their_cost(domain, shape, within, positions):
    spec = TensorSpec("x", "int32" if isinstance(domain, domains.Integers) else "float32", shape, domain)
    alone = EntryPoint("run", (spec,), (), {})
    drawn = domain.vary(Draft(alone, {}, {}), spec, RNG)
    assert drawn.shape == shape
    assert within[0] <= drawn.min() < drawn.max() <= within[1]
    assert not np.array_equal(drawn[0], drawn[1])
    assert domain.positions(shape) == positions


def test_integers_without_a_domain_are_refused():
    with pytest.raises(ValueError, match="times of int32 states no domain"):
        cases(entry(more=(TensorSpec("times", "int32", ("batch",)),)))


def test_axes_have_any_names_and_rows_may_depend_on_each_other():
    """Pictures against texts: two axes of rows, neither of which can be run alone."""
    similarity = EntryPoint(
        "similarity",
        (
            TensorSpec("images", "float32", ("pictures", 16, 16, 3), domains.Pixels((0.5,) * 3, (0.5,) * 3)),
            TensorSpec("ids", "int32", ("texts", "length"), IDS),
        ),
        (TensorSpec("logits", "float32", ("pictures", "texts"), kind=outputs.Scores()),),
        {"pictures": Axis(), "texts": Axis(), "length": Axis(1, 77)},
    )
    for case in cases(similarity):
        sizes = similarity.sizes(case.inputs)
        assert sizes["pictures"] != sizes["texts"]
        assert case.same_as is None
    assert all(similarity.sizes(batch)["texts"] == 3 for batch in neighbour_batches(similarity))


def test_an_entry_point_of_numbers_alone_has_cases():
    fuse = EntryPoint(
        "fuse",
        (TensorSpec("a", "float32", ("n", 4)), TensorSpec("b", "bool", ("n", 4)), TensorSpec("t", "float32", ())),
        (TensorSpec("y", "float32", ("n", 4), kind=outputs.Embedding()),),
        {"n": Axis()},
        rows="n",
    )
    batch, alone = cases(fuse)
    assert (batch.name, alone.name, alone.same_as) == ("batch", "its second row alone", ("batch", (1,)))
    assert np.array_equal(alone.inputs["a"], batch.inputs["a"][1:2])
    assert batch.inputs["t"] == alone.inputs["t"]
    assert tap_case(fuse).inputs["a"].shape == (2, 4)  # four numbers are too few to measure on
    assert sum(len(each["a"]) for each in neighbour_batches(fuse)) == 256
    fixed = EntryPoint("fixed", (TensorSpec("a", "float32", (3,)),), (TensorSpec("y", "float32", ()),), {})
    assert [case.name for case in cases(fixed)] == ["batch"]


def test_a_large_network_gets_shorter_texts_and_fewer_neighbours():
    text = entry(axes={"batch": Axis(), "tokens": Axis(1, 8192)})
    assert [drawing.longest_sizes(text, weights)["tokens"] for weights in (10**8, 10**9, 7 * 10**9, 10**12)] == [
        *(1024, 1024, 256, 24)
    ]
    states = entry(outputs_=[("logits", ("batch", "tokens", 152_000), outputs.Logits())], axes=text.axes)
    (longest,) = drawing.longest_sizes(states).values()
    assert longest * 152_000 * 8 <= drawing.BYTES
    assert sum(len(batch["ids"]) for batch in neighbour_batches(text, weights=7 * 10**9)) == 64
    case = cases(text, weights=10**9)[1]
    assert case.flops == 2e9 * 1024 <= drawing.FLOPS


def test_neighbours_grow_apart_within_their_family():
    several = replace(entry(), name="some")
    joined = {name: np.concatenate([batch[name] for batch in neighbour_batches(several)]) for name in ("ids", "mask")}
    firsts = {row[:6].tobytes() for row in joined["ids"]}
    assert 16 < len(firsts) < 256
    assert joined["mask"].any(axis=1).all()


class Fixed:
    """A Runner that gives what it is given, whatever it is asked."""

    name = "fixed"

    def __init__(self, **arrays):
        self.arrays = arrays

    def run(self, entry_point, inputs):
        return dict(self.arrays)


def judged(text, case, exact, **got):
    """Hold what a runner gives against a golden of exact values whose float32 differs by 1e-7."""
    made = golden(text, case, exact, {name: (array + 1e-7).astype(array.dtype) for name, array in exact.items()})
    return compare(Fixed(**got), {text.name: text}, [made])


def test_what_does_not_count_is_not_compared():
    text = entry(outputs_=[("y", ("batch", "tokens", 3), outputs.States("mask"))])
    case = cases(text)[0]
    exact = {"y": RNG.standard_normal((3, 24, 3))}
    got = exact["y"].astype(np.float32)
    got[case.inputs["mask"] == 0] = np.nan
    assert judged(text, case, exact, y=got).passed
    got[0, 0, 0] += 1e-3
    assert not judged(text, case, exact, y=got).passed
    inverted = replace(text, outputs=(replace(text.outputs[0], kind=outputs.States("~mask")),))
    assert not judged(inverted, case, exact, y=got).passed


def test_of_logits_some_positions_are_kept_on_both_sides():
    text = entry(outputs_=[("y", ("batch", "tokens", 30), outputs.Logits("mask"))])
    case = cases(text)[0]
    exact = {"y": RNG.standard_normal((3, 24, 30))}
    made = golden(text, case, exact, exact)
    assert made.outputs["y"].shape == (3, POSITIONS, 30)
    assert made.positions["y"].shape == (3, POSITIONS)
    for row, places, length in zip(made.outputs["y"], made.positions["y"], (24, 12, 2), strict=True):
        assert (places[0], places[-1]) == (0, length - 1)  # the first and the last that count
        assert np.array_equal(row[0], exact["y"][made.outputs["y"].tolist().index(row.tolist()), 0])
    got = exact["y"].astype(np.float32)
    assert judged(text, case, exact, y=got).passed
    got[1, 11] += 1e-3  # the last token of the second text
    assert not judged(text, case, exact, y=got).passed


@pytest.mark.parametrize("shape", [(), ("batch",), ("batch", 3), ("batch", "tokens", 3)])
@pytest.mark.parametrize("kind", [outputs.Output(), outputs.Scores(), outputs.TokenWeights(), outputs.Logits()])
def test_outputs_of_any_rank_are_judged(shape, kind):
    text = entry(outputs_=[("y", shape, kind)])
    case = cases(text)[0]
    exact = {"y": np.asarray(RNG.standard_normal(text.outputs[0].resolve({"batch": 3, "tokens": 24})))}
    got = np.asarray(exact["y"], np.float32)
    assert judged(text, case, exact, y=got).passed
    assert not judged(text, case, exact, y=got + np.float32(1e-2)).passed
    wrong = judged(text, case, exact, y=got[..., None])
    assert "expected shape" in wrong.failures[0].problem


def test_only_embeddings_have_neighbours_and_a_cosine():
    exact = {"y": RNG.standard_normal((3, 3))}
    for kind, expected in ((outputs.Embedding(), True), (outputs.Scores(), False)):
        text = entry(outputs_=[("y", ("batch", 3), kind)])
        report = judged(text, cases(text)[0], exact, y=exact["y"].astype(np.float32))
        assert report.passed
        assert any("neighbours" in row.case for row in report.rows) == expected
        assert any(row.cosine is not None for row in report.rows) == expected


def test_ids_are_exact():
    text = entry(outputs_=[("y", ("batch",), outputs.Ids())])
    text = replace(text, outputs=(replace(text.outputs[0], dtype="int32"),))
    exact = {"y": np.array([1, 70_000, 3])}
    case = cases(text)[0]
    assert judged(text, case, exact, y=np.array([1, 70_000, 3], np.int32)).passed
    assert not judged(text, case, exact, y=np.array([1, 70_001, 3], np.int32)).passed


def test_the_same_infinity_is_no_difference_and_allows_none():
    scores = np.array([1.0, -np.inf])
    assert distance(scores.astype(np.float32), scores) == 0
    assert distance(np.array([1.0, 5.0], np.float32), scores) == np.inf
    assert largest(scores) == 1


def test_goldens_say_what_they_lack(tmp_path):
    text = entry(outputs_=[("y", ("batch", "tokens", 3), outputs.Logits("mask"))])
    first, longest = cases(text)
    arrays = [{"y": RNG.standard_normal((*c.inputs["ids"].shape, 3))} for c in (first, longest)]
    made = [golden(text, case, exact, exact) for case, exact in zip((first, longest), arrays, strict=True)]
    write(tmp_path / "whole", made, {})
    assert list(Goldens(tmp_path / "whole").problems([text], cases)) == []
    renamed = [replace(g, outputs={"x": g.outputs["y"]}, budgets={"x": g.budgets["y"]}) for g in made]
    write(tmp_path / "renamed", renamed, {})
    assert "the golden has no output y, but x" in " ".join(Goldens(tmp_path / "renamed").problems([text], cases))

    own = Case("encode", "two ends", first.inputs, stated=True)
    write(tmp_path / "own", [*made, golden(text, own, arrays[0], arrays[0])], {})
    assert list(Goldens(tmp_path / "own").problems([text], lambda e: [*cases(e), own])) == []
    other = replace(own, inputs={**own.inputs, "ids": own.inputs["ids"] ^ 1})
    (problem,) = Goldens(tmp_path / "own").problems([text], lambda e: [*cases(e), other])
    assert problem == "encode, two ends: ids holds other numbers than the family states"


def test_a_row_alone_is_the_row_of_the_batch():
    text = EntryPoint(
        "run",
        (TensorSpec("x", "float32", (4, "n")),),
        (TensorSpec("y", "float32", (4, "n")), TensorSpec("z", "float32", (2,))),
        {"n": Axis()},
        rows="n",
    )
    batch, alone = cases(text)
    exact = {"y": RNG.standard_normal((4, 2)), "z": np.zeros(2)}
    whole = golden(text, batch, exact, exact)
    assert golden_rows(text, alone, whole).outputs["y"].tolist() == exact["y"][:, 1:].tolist()


def test_kinds_and_rows_survive_the_manifest():
    from bgevis.converter.manifest import entry_points

    stated = {"entry_points": {DECODE.name: DECODE.to_json() | {"programs": {}}}}
    (read,) = entry_points(stated).values()
    assert [spec.kind for spec in read.outputs] == [outputs.Logits("mask"), outputs.Cache()]
    assert (read.rows, read.axes, read.to_json()) == ("batch", DECODE.axes, DECODE.to_json())
    with pytest.raises(ValueError, match="no kind of output"):
        outputs.from_json({"is": "magic"})
    assert entry().embedding.name == "y"
    assert DECODE.embedding is None


FLOORS = Floors("int4", cosine=0.9, mean=0.99, overlap=0.8, pearson=0.9, activations=4, words=0.1)


class Rounded:
    """A network of one matrix, with noise of a given size on its weights and on what it computes."""

    name = "rounded"

    def __init__(self, weights: float, activations: float = 0.0, wrong: float = 0.0):
        exact = np.random.default_rng(1).standard_normal((50, 20))
        self.matrix = exact * (1 + weights * np.random.default_rng(2).standard_normal(exact.shape))
        self.matrix[:, 0] += wrong
        self.activations = activations

    def run(self, entry_point, inputs):
        y = np.cumsum(self.matrix[inputs["ids"]], axis=1)
        y *= 1 + self.activations * np.random.default_rng(3).standard_normal(y.shape)
        return {"y": y.astype(np.float32)}


@pytest.mark.parametrize("kind", [outputs.Logits("mask"), outputs.States("mask"), outputs.Output()])
def test_in_smaller_numbers_outputs_that_are_no_vectors_are_held_to_what_rounding_costs(kind):
    text = entry(outputs_=[("y", ("batch", "tokens", 20), kind)])
    float32 = Rounded(0), Rounded(0.01), Rounded(0.01)
    made = [golden(text, c, *[{"y": Rounded(0).run("", c.inputs)["y"].astype(float)}] * 2) for c in cases(text)]

    def report(runner):
        return compare_rounded(
            runner, *float32, {"encode": text}, made, {"encode": neighbour_batches(text)[:2]}, FLOORS
        )

    right = report(Rounded(0.01, 0.005))
    assert right.passed, right.failures
    named = {row.case.partition(":")[2] for row in right.rows}
    assert (" same among the 5 best of int4" in named) == kind.distributions
    for wrong in (Rounded(0.01, 0.2), Rounded(0.01, wrong=1.0), Rounded(0.01, wrong=np.nan)):
        assert not report(wrong).passed
    assert any("error of int4" in row.case and not row.passed for row in report(Rounded(0.01, 0.5)).failures)


def test_a_value_that_is_nothing_but_zeros_allows_nothing_and_is_not_the_worst():
    wanted = {"zeros": (np.zeros(2), Budget(0.0, 0.0)), "ones": (np.ones(2), Budget(1e-7, 1.0))}
    got = {"zeros": np.zeros(2), "ones": np.ones(2) + 1e-7}
    assert worst(wanted, got).module == "ones"
    assert worst({"zeros": wanted["zeros"]}, got).error == 0


def test_what_is_not_compared_stays_whole():
    text = entry(outputs_=[("y", ("batch", "tokens"), outputs.TokenWeights("mask"))])
    case = cases(text)[0]
    got = kept(text, case.inputs, {"y": np.ones((3, 24), np.float32), "extra": np.ones(2)})
    assert got["y"].sum() == case.inputs["mask"].sum()
    assert got["extra"].tolist() == [1, 1]
