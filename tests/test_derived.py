"""Derived tensors: what is split or merged is found right by every check, and leads back."""

import dataclasses
import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors

from bgevis.converter.certificate.assign import assign
from bgevis.converter.certificate.cause import recognised
from bgevis.converter.certificate.check import verify as check
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.certificate.tensors import Tensors
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import WEIGHTS_PATH, artifact, network
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.weights import weight_rows
from bgevis.converter.report import html
from bgevis.converter.report.inspection import explain, tell
from bgevis.converter.stages import build, export, load, pack, parity, reference, remap, validate, verify
from bgevis.converter.use.restore import restore
from bgevis.exporters.base import exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model import derived
from bgevis.model.derived import LowRank, Part, rounded
from bgevis.model.family import Merge, Rule, Split, Tie
from bgevis.model.runner import NNXRunner
from bgevis.validation.cases import Case
from bgevis.validation.compare import compare
from bgevis.validation.errors import GateError, InputError
from bgevis.validation.goldens import golden

from .packed_family import ADAPTED, BLOCK, Config, entry_points, family, known, merge, original, rules, split_attention

DTYPES = [np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)]
FORMATS = {n: e for n, e in exporters().items() if e.source or not (e.optional or e.layout)}
BASE, A, B = (f"blocks.0.attn.out_proj.{n}.weight" for n in ("frozen", "low.A", "low.B"))
MERGED, PACKED = "blocks.0.attn.out_proj.weight", "blocks.0.attn.in_proj_weight"


# Arithmetic


@st.composite
def packings(draw) -> tuple[str, tuple[str, ...], dict[str, int]]:
    """Any packed tensor: up to four axes in any groups, one of them cut, parts one thick or of any sizes.

    No Part yet: checking its types draws from `random`, which hypothesis forbids here.
    """
    axes = draw(st.permutations(["p", *"abc"[: draw(st.integers(0, 3))]]))
    groups, rest = [], list(axes)
    while rest:
        size = draw(st.integers(1, len(rest)))
        groups.append(rest[:size])
        rest = rest[size:]
    layout = " ".join(f"({' '.join(group)})" for group in groups)
    extents = draw(st.lists(st.sampled_from(["x", "y", "x y", ""]), min_size=2, max_size=4))
    sizes = {axis: draw(st.integers(1, 4)) for axis in "abcxy"}
    return layout, tuple(extents), sizes


@given(packings(), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_parts_are_what_the_names_say_and_lead_back(packing, dtype, seed):
    layout, extents, sizes = packing
    part = Part("packed", 0, layout, "p", extents)
    (shape, _), axes = part.shapes(sizes)["packed"], part.layout.replace("(", "").replace(")", "").split()
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    packed = raw.view(dtype).reshape(shape)
    parts = [dataclasses.replace(part, index=i).make({"packed": packed}, sizes) for i in range(len(part.extents))]
    assert part.join(parts, sizes).tobytes() == packed.tobytes()
    thick = [math.prod(sizes[axis] for axis in extent.split()) for extent in part.extents]
    whole = packed.reshape([sum(thick) if axis == "p" else sizes[axis] for axis in axes])
    for got, wanted in zip(parts, np.split(whole, np.cumsum(thick)[:-1], axes.index("p")), strict=True):
        assert got.tobytes() == wanted.tobytes()
    assert list(part.problems(sizes)) == []


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_merge_sums_in_its_own_order_and_rounds_once(outputs, inputs, rank, dtype, seed):
    """Held against Python's own floats, one after the other, and exact fractions for the rounding."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((outputs, inputs)).astype(dtype)
    a, b = rng.standard_normal((rank, inputs)).astype(dtype), rng.standard_normal((outputs, rank)).astype(np.float32)
    made = LowRank("base", "a", "b", ("o i", "r i", "o r"), 7.0, rslora=bool(seed % 2))
    sizes = {"o": outputs, "i": inputs, "r": rank}
    scale = 7.0 / (math.sqrt(rank) if seed % 2 else rank)
    got = made.make({"base": base, "a": a, "b": b}, sizes)
    assert (got.dtype, got.shape) == (dtype, base.shape)
    for o in range(outputs):
        for i in range(inputs):
            total = 0.0
            for r in range(rank):
                total += float(b[o, r]) * float(a[r, i])
            assert nearest(float(base[o, i]) + scale * total, got[o, i], dtype)


def nearest(exact: float, got: np.generic, dtype: np.dtype) -> bool:
    """Say whether no neighbour of a number is nearer to the exact one, and of two as near it is the even one."""
    bits = np.asarray(got).view(np.uint32 if dtype.itemsize == 4 else np.uint16)
    near = [abs(Fraction(float(np.asarray(bits + step, bits.dtype).view(dtype))) - Fraction(exact)) for step in (0, 1)]
    if bits & ~np.asarray(1 << (8 * dtype.itemsize - 1), bits.dtype):  # not zero: there is one below
        near.append(abs(Fraction(float(np.asarray(bits - bits.dtype.type(1)).view(dtype))) - Fraction(exact)))
    ties = near.count(near[0]) > 1
    return near[0] == min(near) and not (ties and int(bits) % 2)


@given(st.floats(width=64, allow_nan=False, min_value=2.0**-120, max_value=2.0**120), st.booleans())
def test_bfloat16_is_rounded_once(number, negative):
    number = -number if negative else number
    assert nearest(number, rounded(np.array([number]), DTYPES[2])[0], DTYPES[2])


def test_the_way_over_float32_would_round_twice():
    """The case that `rounded` is there for: just above the middle between two numbers."""
    above = np.array([1 + 2**-8 + 2**-40])
    assert above.astype(ml_dtypes.bfloat16)[0] == 1
    assert rounded(above, DTYPES[2])[0] == 1 + 2**-7
    assert np.isinf(rounded(np.array([1e39]), DTYPES[2])[0])


LAYOUTS = [("(h d) e", "r e", "(h d) r"), ("e (h d)", "r e", "(h d) r"), ("e h 1 d", "e r", "h r d 1")]


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
def test_merges_go_by_axis_names_in_blocks_of_any_size(layouts, monkeypatch):
    sizes = {"h": 3, "d": 2, "e": 6, "r": 6}
    made = LowRank("base", "a", "b", layouts, 12.0)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape) for name, (shape, _) in made.shapes(sizes).items()}
    named = [x.replace("(", "").replace(")", "").replace("1", "").split() for x in layouts]
    base, a, b = (
        arrays[name].reshape([sizes[axis] for axis in axes]) for name, axes in zip(made.ingredients, named, strict=True)
    )
    letters = ["".join(axes) for axes in named]
    wanted = base + 2 * np.einsum(f"{letters[1]},{letters[2]}->{letters[0]}", a, b)
    got = made.make(arrays, sizes)
    assert np.allclose(got.reshape(wanted.shape), wanted, rtol=0, atol=1e-12)
    assert list(made.problems(sizes)) == []
    monkeypatch.setattr(derived, "BLOCK", 1)
    assert made.make(arrays, sizes).tobytes() == got.tobytes()


@pytest.mark.parametrize(
    "layouts", [("o i", "r i", "o i"), ("o i", "r i", "o s"), ("o i", "r s i", "o r s"), ("o", "r i", "o r")]
)
def test_layouts_that_no_product_fits_are_refused(layouts):
    with pytest.raises(ValueError, match="must share one axis, the rank"):
        Merge("base", "a", "b", "merged", layouts, 1.0)


def test_a_part_for_each_target():
    with pytest.raises(ValueError, match="each with an extent or none"):
        Split("packed", ("a", "b"), "n", "n", ("x",))


# Rules and ledger


CONFIG = Config()
FAMILY = family()
LEAVES = {name: leaf.shape for name, leaf in FAMILY.network(CONFIG).leaves.items()}
NAMES = list(FAMILY.checkpoint_shapes(CONFIG))


def problems(names=NAMES, given=None) -> str:
    return "\n".join(assign(names, rules(CONFIG) if given is None else given, LEAVES).problems)


def replaced(old, *new) -> tuple:
    assert old in rules(CONFIG)
    return tuple(r for rule in rules(CONFIG) for r in (new if rule == old else (rule,)))


def test_every_tensor_has_one_entry_and_every_derived_one_another():
    found = assign(NAMES, rules(CONFIG), LEAVES)
    assert found.problems == ()
    assert list(found.entries)[: len(NAMES)] == NAMES
    assert {n: e.status for n, e in found.entries.items() if n in (PACKED, BASE, A, B)} == {
        PACKED: "split", BASE: "merged", A: "merged", B: "merged",
    }  # fmt: skip
    made = {name: entry.made for name, entry in found.entries.items() if entry.made}
    assert len(made) == 2 * (3 + 3 + 1 + 2)
    assert made["blocks.1.attn.k.weight"] == Part("blocks.1.attn.in_proj_weight", 1, "n e", "n", ("h d", "g d", "g d"))
    assert made[MERGED] == LowRank(BASE, A, B, ("o (h d)", "r (h d)", "o r"), 12.0)


@pytest.mark.parametrize(("gone", "role"), [(BASE, "base"), (A, "A"), (B, "B")])
def test_a_missing_ingredient_is_named(gone, role):
    said = problems([name for name in NAMES if name != gone])
    assert f"tensor {MERGED}: cannot be merged: the checkpoint has" in said
    assert f"but no {role} ({gone.replace('blocks.0', 'blocks.{i}')})" in said


def test_an_adapter_that_is_not_there_at_all_is_named():
    said = problems([name for name in NAMES if "low." not in name and "frozen.weight" not in name])
    assert f"-> {ADAPTED}.weight: matches no tensor of the checkpoint" in said
    assert "parameter blocks.0.out.kernel: no tensor of the checkpoint fills it" in said


def test_a_lost_part_is_named():
    lost = Rule(BLOCK + "attn.{part:k|v}.weight", BLOCK + "{part}.kernel", "(g d) e -> e g d")
    said = problems(given=replaced(lost, dataclasses.replace(lost, source=lost.source.replace("k|v", "v"))))
    assert "tensor blocks.1.attn.k.weight, which blocks.1.attn.in_proj_weight gives: no rule" in said
    assert "parameter blocks.1.k.kernel: no tensor of the checkpoint fills it" in said


def test_an_unknown_scale_is_named():
    said = problems(given=replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), alpha=None)))
    assert f"tensor {MERGED}: the configuration does not state alpha, so the scale of {B} · {A} is unknown" in said


def test_what_is_there_already_cannot_be_made():
    assert f"tensor blocks.0.attn.q.weight: {PACKED} would give it, but it is there already" in problems(
        [*NAMES, "blocks.0.attn.q.weight"]
    )
    twice = dataclasses.replace(merge(CONFIG), source="{:copy.|}" + merge(CONFIG).source)
    said = problems([*NAMES, f"copy.{BASE}"], replaced(merge(CONFIG), twice))
    assert f"tensor copy.{BASE}: {BASE} is already the base of {MERGED}" in said


def test_a_tie_to_an_ingredient_of_a_merge_is_refused_and_one_to_a_packed_tensor_is_not():
    ties = (Tie("copy.packed", PACKED, "shared"), Tie("copy.base", BASE, "shared"))
    assert "copy.packed" not in problems([*NAMES, "copy.packed"], (*rules(CONFIG), ties[0]))
    assert "tensor copy.base: tied to" in problems([*NAMES, "copy.base"], (*rules(CONFIG), ties[1]))


class Checkpoint:
    """Arrays by name, as an opened checkpoint."""

    def __init__(self, arrays):
        self.tensors = self.arrays = arrays

    def read(self, name):
        return self.arrays[name]

    def release(self, name):
        pass


def drawn(dtype=np.float32, config=CONFIG, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {n: (rng.standard_normal(s) / 3).astype(dtype) for n, s in FAMILY.checkpoint_shapes(config).items()}
    return arrays | changes


def verified(arrays, given=None, config=CONFIG) -> Ledger:
    found = assign(arrays, rules(config) if given is None else given, LEAVES)
    ledger = Ledger("packed", FAMILY.axis_sizes(config), found.entries, found.problems)
    return check(ledger, Checkpoint(arrays), FAMILY, config, LEAVES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_good_checkpoint_is_certified_with_the_digest_of_every_ingredient_and_result(dtype, tmp_path):
    arrays = drawn(dtype)
    ledger = verified(arrays)
    assert ledger.problems == ()
    assert ledger.checks["derived"] == "18 tensors made of others, in 4 ways, each proved"
    totals = ledger.totals()
    assert totals["all"] == {"tensors": len(arrays), "bytes": sum(array.nbytes for array in arrays.values())}
    assert {fate: totals[fate]["tensors"] for fate in ("mapped", "split", "merged", "tied", "dropped")} == {
        "mapped": 4, "split": 6, "merged": 6, "tied": 0, "dropped": 1,
    }  # fmt: skip
    (tmp_path / "ledger.json").write_text(ledger.to_json())
    written = json.loads(ledger.to_json())
    assert set(written["tensors"]) == set(arrays)
    entry = written["derived"][MERGED]
    assert entry["formula"] == f"{BASE} + 1.5 = 12 / 8 · B · A over r, A {A}, B {B}"
    assert entry["ingredients"] == {n: hashlib.sha256(arrays[n].tobytes()).hexdigest() for n in (BASE, A, B)}
    result = Tensors(Checkpoint(arrays), ledger).read(MERGED)
    assert (entry["sha256"], entry["dtype"]) == (hashlib.sha256(result.tobytes()).hexdigest(), str(dtype))
    assert Ledger.read(tmp_path / "ledger.json") == dataclasses.replace(ledger, axes=dict(ledger.axes))


def test_a_ledger_that_is_older_or_altered_is_refused(tmp_path):
    file = tmp_path / "ledger.json"
    document = json.loads(verified(drawn()).to_json())
    file.write_text(json.dumps(document | {"format_version": 1}))
    with pytest.raises(InputError, match=r"format_version is 1, this program reads 2; convert the checkpoint again"):
        Ledger.read(file)
    document["derived"][MERGED]["made"]["alpha"] = 13.0
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"{MERGED} is not made as the entries of its ingredients say"):
        Ledger.read(file)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({A: np.ones((4, 8), np.float32)}, f"tensor {A}: expected shape (8, 8) (r (h d), A), got (4, 8)"),
        ({B: np.ones((8, 3), np.float32)}, f"tensor {B}: expected shape (8, 8) (o r, B), got (8, 3)"),
        ({PACKED: np.ones((18, 8), np.float32)},
         f"tensor {PACKED}: expected shape (16, 8) (n e, parts of 8 + 4 + 4 along n), got (18, 8)"),
        ({A: np.full((8, 8), np.nan, np.float32)}, f"tensor {A}: 64 of 64 values are NaN or infinite"),
        ({BASE: np.ones((8, 8), np.int32)}, f"tensor {BASE}: dtype int32 is not supported for weights"),
    ],
    ids=["rank of A", "rank of B", "parts", "NaN", "integers"],
)  # fmt: skip
def test_what_does_not_fit_is_named_once_and_nothing_is_made_of_it(changed, said):
    found = verified(drawn() | changed).problems
    assert len(found) == 1
    assert said in found[0]


def test_a_sum_that_overflows_is_found():
    arrays = drawn(np.float16, **{B: np.full((8, 8), 6e4, np.float16), A: np.full((8, 8), 6e4, np.float16)})
    assert [p for p in verified(arrays).problems if p.startswith(f"tensor {MERGED}: 64 of 64 values are NaN")]


def test_a_wrong_axis_is_found():
    wrong = dataclasses.replace(split_attention(), layout="e n")
    found = verified(drawn(), replaced(split_attention(), wrong)).problems
    assert f"tensor {PACKED}: expected shape (8, 16) (e n, parts of 8 + 4 + 4 along n), got (16, 8)" in found


def test_a_split_that_takes_the_wrong_part_does_not_pass_the_fingerprint(monkeypatch):
    make = Part.make
    monkeypatch.setattr(
        Part,
        "make",
        lambda self, arrays, sizes: (
            make(dataclasses.replace(self, index=[0, 2, 1][self.index]), arrays, sizes)
            if len(self.extents) == 3
            else make(self, arrays, sizes)
        ),
    )
    found = verified(drawn()).problems
    assert any("part 2 of n e along n is not what its axis names say" in problem for problem in found)


@pytest.mark.parametrize(("role", "which"), [("A", 1), ("B", 2)])
def test_a_merge_that_transposes_a_square_factor_does_not_pass_the_fingerprint(monkeypatch, role, which):
    aligned, text = LowRank._aligned, merge(CONFIG).layouts[which]
    monkeypatch.setattr(
        LowRank, "_aligned", lambda self, x, layout, sizes: aligned(self, x.T if layout == text else x, layout, sizes)
    )
    found = verified(drawn()).problems
    assert any(problem.startswith(f"tensor {MERGED}: {role} of") for problem in found)


# Network and artifacts


def converted(folder: Path, arrays, of=FAMILY, dtype="float32") -> RunDirectory:
    """Take a checkpoint to its weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    silent, options = Silent(), Options(checkpoint=str(folder / "model.safetensors"), dtype=dtype)
    with known(of):
        run = load.perform(folder / "run", options, silent)
        for stage in (remap, verify, build):
            stage.perform(run, options, silent)
    return run


def judged(run: RunDirectory, arrays, of=FAMILY, config=CONFIG):
    """Hold the network on the weights file against the original on the checkpoint's tensors."""
    (entry,) = entry_points(CONFIG)
    inputs = {"x": np.random.default_rng(1).standard_normal((5, CONFIG.width)).astype(np.float32)}
    outputs = []
    for dtype in (torch.float64, torch.float32):
        state = {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}
        outputs.append({"embeddings": original(state, config, torch.from_numpy(inputs["x"]).to(dtype)).numpy()})
    with known(of):
        runner = NNXRunner(network(run), WeightsFile(run.path / WEIGHTS_PATH))
    return compare(runner, {entry.name: entry}, [golden(entry, Case(entry.name, "drawn", inputs), *outputs)])


@pytest.mark.parametrize("rslora", [False, True])
def test_the_network_is_the_original(tmp_path, rslora):
    """The original keeps the adapter beside its layer, and the projections packed."""
    config = Config(rslora=rslora)
    of = family(config)
    assert judged(converted(tmp_path, drawn(), of), drawn(), of, config).passed


def proved(folder: Path, arrays, of, dtype="float32") -> RunDirectory:
    """Take a checkpoint to a judged network and a proven ONNX program."""
    run, silent = converted(folder, arrays, of, dtype), Silent()
    with known(of):
        for stage in (reference, parity):
            stage.perform(run, Options(), silent)
        for stage in (export, validate):
            stage.perform(run, Options(), silent, FORMATS["onnx"])
    return run


IN_FLOAT32 = replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), dtype="float32"))


@pytest.mark.parametrize(
    ("dtype", "given"), [(np.float32, None), (ml_dtypes.bfloat16, IN_FLOAT32)], ids=["float32", "bfloat16"]
)
def test_the_judge_takes_the_ingredients_and_agrees(tmp_path, monkeypatch, dtype, given):
    """Its parameters are the checkpoint's own tensors, and the probes reach them."""
    monkeypatch.setattr(validate, "FORBIDDEN", ())
    run = proved(tmp_path, drawn(dtype), family(given=given), "source")
    assert set(run.manifest()["verdicts"].values()) == {"pass"}
    assert len(list((run.path / "goldens" / "probes").iterdir())) == 1
    with known(family(given=given)):
        restored = restore(run, FORMATS["onnx"], tmp_path / "back.safetensors", Silent())
    got = load_file(tmp_path / "back.safetensors")
    ledger = Ledger.read(run.path / "ledger.json")
    assert hashlib.sha256(got[BASE].tobytes()).hexdigest() == ledger.entries[MERGED].sha256
    assert (got[BASE].dtype, got[PACKED].dtype) == (np.float32, dtype)
    assert restored.nbytes == sum(array.nbytes for array in got.values())


@pytest.mark.parametrize(
    ("dtype", "mistake", "formula"),
    [(np.float32, "wrong scale", "2 = 16 / 8"), (ml_dtypes.bfloat16, None, "1.5 = 12 / 8")],
    ids=["wrong scale", "rounded to bfloat16"],
)
def test_the_judge_tells_a_wrong_scale_and_a_rounded_sum_and_names_the_merge(tmp_path, dtype, mistake, formula):
    """In half precision a merge is another network than the adapter beside its base."""
    with pytest.raises(GateError, match="is not the one that was trained") as refused:
        proved(tmp_path, drawn(dtype), family(given=WRONG.get(mistake)))
    assert f"{MERGED} ({BASE} + {formula} · B · A over r" in str(refused.value)


WRONG = {
    "parts swapped": replaced(split_attention(), split_attention(targets=("q", "v", "k"))),
    "A transposed": replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), layouts=("o (h d)", "(h d) r", "o r"))),
    "B transposed": replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), layouts=("o (h d)", "r (h d)", "r o"))),
    "wrong scale": replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), alpha=16.0)),
    "root forgotten": replaced(merge(CONFIG), dataclasses.replace(merge(CONFIG), rslora=True)),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_that_shapes_cannot_tell_is_told_by_the_original(tmp_path, mistake):
    of = family(given=WRONG[mistake])
    assert not judged(converted(tmp_path, drawn(), of), drawn(), of).passed


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = converted(tmp_path_factory.mktemp("packed"), drawn(ml_dtypes.bfloat16), dtype="source")
    with known(FAMILY):
        pack.perform(run, Options(), Silent())
        for exporter in FORMATS.values():
            export.perform(run, Options(), Silent(), exporter)
    return run


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_leads_back(exported, tmp_path, name):
    """Split tensors bit for bit; merged ones under the name of their base, and it is said what cannot be undone."""
    arrays, ledger = drawn(ml_dtypes.bfloat16), Ledger.read(exported.path / "ledger.json")
    with known(FAMILY):
        rows = weight_rows(FORMATS[name], artifact(exported, FORMATS[name]), ledger)
        assert [row.problem for row in rows if not row.passed] == []
        restored = restore(exported, FORMATS[name], tmp_path / "back.safetensors", Silent())
        restore(exported, FORMATS[name], tmp_path / "back.pth", Silent())
    got = load_file(tmp_path / "back.safetensors")
    bases, adapters = {n for n in NAMES if "frozen.weight" in n}, {n for n in NAMES if "low." in n}
    assert set(restored.merged) == bases
    assert set(restored.adapters) == adapters
    assert restored.dropped == ("head.weight",)
    assert set(got) == set(NAMES) - adapters - {"head.weight"}
    for tensor in set(got) - bases:
        assert got[tensor].tobytes() == arrays[tensor].tobytes(), tensor
    for base in bases:
        entry = ledger.entries[base.replace(".frozen", "")]
        assert hashlib.sha256(got[base].tobytes()).hexdigest() == entry.sha256
    assert "2 hold what they were merged to" in restored.tell()
    torch_state = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(t, torch_state[n]) for n, t in load_tensors(tmp_path / "back.safetensors").items())


def test_why_answers_for_ingredients_derived_tensors_and_leaves(exported):
    folder = exported.path
    assert explain(folder, A)["gives"] == [MERGED]
    assert explain(folder, PACKED)["gives"] == [f"blocks.0.attn.{n}.weight" for n in "qkv"]
    assert f"merged    into {MERGED}" in tell(explain(folder, B))
    for name in (MERGED, "blocks.0.out.kernel"):
        said = tell(explain(folder, name))
        assert f"is        {BASE} + 1.5 = 12 / 8 · B · A over r" in said
        assert "becomes   blocks.0.out.kernel" in said
    assert "part 2 of 3 of blocks.1.attn.in_proj_weight (n e): 8 to 12 of 16 along n" in tell(
        explain(folder, "blocks.1.k.kernel")
    )


def test_the_report_counts_each_tensor_once_and_says_what_it_gives(exported):
    ledger = Ledger.read(exported.path / "ledger.json")
    page = html.render(exported.manifest(), ledger, {}, exported.path).decode()
    assert f"{len(NAMES)} in the checkpoint: 4 mapped, 6 split, 6 merged, 0 tied, 1 dropped with a reason." in page
    assert page.count("<tr data-fate=") == len(NAMES)
    assert ">blocks.0.attn.q.weight, blocks.0.attn.k.weight, blocks.0.attn.v.weight<" in page


def test_a_wrong_leaf_is_named_with_its_mistake(exported):
    ledger, arrays = Ledger.read(exported.path / "ledger.json"), drawn(ml_dtypes.bfloat16)
    base = ledger.leaf(MERGED, arrays[BASE])
    assert recognised(ledger, "blocks.0.out.kernel", base) == f"{BASE} without its adapter"
    other = WeightsFile(exported.path / WEIGHTS_PATH)["blocks.0.v.kernel"]
    assert recognised(ledger, "blocks.0.k.kernel", other) == "what blocks.0.attn.v.weight should be"


def test_a_packed_tensor_is_held_against_its_own_digest(exported, tmp_path):
    ledger = Ledger.read(exported.path / "ledger.json")
    entries = dict(ledger.entries) | {PACKED: dataclasses.replace(ledger.entries[PACKED], sha256="0" * 64)}
    (exported.path / "ledger.json").rename(tmp_path / "kept.json")
    try:
        (exported.path / "ledger.json").write_text(dataclasses.replace(ledger, entries=entries).to_json())
        with known(FAMILY), pytest.raises(GateError, match=rf"tensor {PACKED}: the sha256 of its parts together"):
            restore(exported, FORMATS["stablehlo"], tmp_path / "back.safetensors", Silent())
    finally:
        (tmp_path / "kept.json").replace(exported.path / "ledger.json")


def test_factors_of_leaves_become_factors_of_ingredients(tmp_path):
    """Probes scale leaves; the original, which has only the checkpoint's tensors, must become the same network."""
    arrays = drawn()
    run = converted(tmp_path, arrays)
    ledger = Ledger.read(run.path / "ledger.json")
    factors = {
        "blocks.0.q.kernel": 4.0,
        "blocks.0.v.kernel": 0.5,
        "blocks.1.out.kernel": 8.0,
        "blocks.1.down.kernel": 2.0,
    }
    scaled = ledger.source_factors(factors)
    assert set(scaled) == {PACKED, *(n.replace("blocks.0", "blocks.1") for n in (BASE, B)), "blocks.1.mlp.Wo.weight"}
    changed = {n: array * scaled[n] if n in scaled else array for n, array in arrays.items()}
    again = Tensors(Checkpoint(changed), ledger)
    for leaf, name in ledger.leaves.items():
        wanted = Tensors(Checkpoint(arrays), ledger).read(name) * np.float32(factors.get(leaf, 1))
        assert again.read(name).tobytes() == wanted.tobytes(), leaf


def test_an_adapter_on_a_packed_layer_is_merged_and_then_split(tmp_path):
    """As PEFT leaves ModernBERT's Wqkv. Factors of a part become factors of rows of base and B."""
    packed = Split("qkv", ("q", "k", "v"), "(p o) e", "p")
    chain = (
        Merge("base", "A", "B", "qkv", ("n e", "r e", "n r"), 4.0),
        packed,
        *(Rule(n, n, "o e -> e o") for n in "qkv"),
    )
    axes = {"n": 6, "o": 2, "e": 3, "r": 2}
    rng = np.random.default_rng(0)
    arrays = {"base": rng.random((6, 3)), "A": rng.random((2, 3)), "B": rng.random((6, 2))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    found = assign(arrays, chain, dict.fromkeys("qkv", (3, 2)))
    ledger = check(
        Ledger("", axes, found.entries, found.problems),
        Checkpoint(arrays),
        FAMILY,
        CONFIG,
        dict.fromkeys("qkv", (3, 2)),
    )
    assert ledger.problems == ()
    tensors = Tensors(Checkpoint(arrays), ledger)
    assert np.allclose(tensors.read("k"), (arrays["base"] + 2 * arrays["B"] @ arrays["A"])[2:4], atol=1e-6)
    scaled = ledger.source_factors({"k": 4.0})
    changed = {n: array * scaled[n] if n in scaled else array for n, array in arrays.items()}
    again = Tensors(Checkpoint(changed), ledger)
    assert [np.array_equal(again.read(n), tensors.read(n) * (4 if n == "k" else 1)) for n in "qkv"] == [True] * 3


def test_merging_takes_no_more_memory_than_a_tensor_and_a_block(monkeypatch):
    """Float64 of the whole would be twice the tensor again."""
    import tracemalloc

    monkeypatch.setattr(derived, "BLOCK", 1 << 14)
    made = LowRank("base", "a", "b", ("o i", "r i", "o r"), 1.0)
    arrays = {"base": np.ones((1024, 1024), np.float32), "a": np.ones((4, 1024), np.float32)}
    arrays["b"] = np.ones((1024, 4), np.float32)
    tracemalloc.start()
    try:
        made.make(arrays, {"o": 1024, "i": 1024, "r": 4})
        assert tracemalloc.get_traced_memory()[1] < 1.3 * arrays["base"].nbytes
    finally:
        tracemalloc.stop()
