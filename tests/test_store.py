"""The store of embeddings: rows that are all there or not at all, and found again as numpy finds them."""

import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

from bgevis.converter import EmbeddingStore  # noqa: E402
from bgevis.converter.use.store import compacting, nearest  # noqa: E402
from bgevis.converter.use.store.fragments import MAPPED  # noqa: E402
from bgevis.converter.use.store.tables import schema  # noqa: E402
from bgevis.validation import packages  # noqa: E402
from bgevis.validation.errors import EnvironmentFailure, InputError  # noqa: E402

WIDTH = 12
DAY = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def drawn(rows: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def names(rows: int, before: str = "r") -> list[str]:
    return [f"{before}{row}" for row in range(rows)]


@pytest.fixture
def store(tmp_path) -> EmbeddingStore:
    return EmbeddingStore.create(tmp_path / "store")


def ids(store: EmbeddingStore, table: str = "text", **where) -> list[str]:
    return store.rows(table, **where)["embedding_id"].to_pylist()


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    out = np.empty(halves.shape, np.float32)
    np.testing.assert_array_equal(
        nearest.widened(halves, out).view(np.uint32), halves.astype(np.float32).view(np.uint32)
    )


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    k=st.integers(1, 90),
    asked=st.integers(1, 5),
    similarity=st.sampled_from(["cosine", "dot"]),
    equal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_nearest_are_those_of_numpy(tmp_path_factory, sizes, k, asked, similarity, equal, seed):
    """Blocks are made small, so that rows fall into several of them."""
    store = EmbeddingStore.create(tmp_path_factory.mktemp("store"))
    rows = drawn(sum(sizes), seed)
    if equal:
        rows[:] = rows[:1]
    cuts = np.cumsum([0, *sizes])
    for start, end in itertools.pairwise(cuts):
        store.append("text", [f"{row}" for row in range(start, end)], rows[start:end], model="m")
    queries = drawn(asked, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "BLOCK", 7)
        patch.setattr(nearest, "SEVERAL", 2)
        patch.setattr(nearest, "LARGE", 9)
        patch.setattr(nearest, "SCORES", 20)
        patch.setattr(nearest, "QUERIES", 3)
        found = store.search("text", queries, k, similarity=similarity)
    stored, wanted = rows.astype(np.float16).astype(np.float64), queries.astype(np.float64)
    near = wanted @ stored.T
    if similarity == "cosine":
        near /= np.linalg.norm(wanted, axis=1)[:, None] * np.linalg.norm(stored, axis=1)
    for row, several in zip(near, found, strict=True):
        places = [int(each.id) for each in several]
        assert len(set(places)) == len(places) == min(k, len(rows))
        np.testing.assert_allclose([each.similarity for each in several], row[places], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.sort(row)[::-1][:k], row[places], rtol=1e-5, atol=1e-5)


def test_rows_are_found_by_conditions(store):
    kinds = ["text", "image", "audio", "text+image"]
    for at in range(3):
        told = [{"page": row % 2, "new": row == 1, "of": None, "umlaut": "ä"} for row in range(4)]
        store.append(
            "clip",
            names(4, f"{at}-"),
            drawn(4, at),
            model="m",
            sources=names(4, "s"),
            modality=kinds,
            metadata=told,
            time=DAY + datetime.timedelta(days=at),
        )
    later = datetime.datetime(2026, 1, 3, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    for where, wanted in (
        ({}, [f"{at}-{row}" for at in range(3) for row in range(4)]),
        ({"modality": "image"}, ["0-1", "1-1", "2-1"]),
        ({"ids": ["2-3", "0-0", "none"]}, ["0-0", "2-3"]),
        ({"sources": ["s2"], "until": later}, ["0-2"]),
        ({"since": later, "modality": "text"}, ["1-0", "2-0"]),
        ({"metadata": {"page": 1, "umlaut": "ä"}, "until": later}, ["0-1", "0-3"]),
        ({"metadata": {"new": True}}, ["0-1", "1-1", "2-1"]),
        ({"metadata": {"new": 1}}, []),
        ({"metadata": {"of": None}, "ids": ["0-0"]}, ["0-0"]),
        ({"metadata": {"page": 1, "no such": 1}}, []),
    ):
        assert ids(store, "clip", **where) == wanted
        found = store.search("clip", drawn(2, 9), 99, **where)
        assert [sorted(each.id for each in row) for row in found] == [sorted(wanted)] * 2
    assert ids(store, "clip", limit=5) == ["0-0", "0-1", "0-2", "0-3", "1-0"]
    ((one,),) = store.search("clip", drawn(4, 1)[2], 1)
    assert (one.id, one.source, one.modality, one.model) == ("1-2", "s2", "audio", "m")
    assert (one.time, one.metadata["umlaut"]) == (datetime.datetime(2026, 1, 3), "ä")
    assert store.known("clip", ["1-2", "x"], model="m") == [True, False]
    assert store.known("clip", ["1-2", "x"], model="other") == [False, False]


ROW = drawn(1)[0]
REFUSED = {
    "NaN": ({"vectors": [ROW, ROW * np.nan]}, r"embedding 1 \('b'\) holds nan"),
    "infinity": ({"vectors": [ROW * np.inf, ROW]}, r"embedding 0 \('a'\) holds -?inf"),
    "zero": ({"vectors": [ROW, ROW * 0]}, r"embedding 1 \('b'\) is zero"),
    "too large": ({"vectors": [ROW, ROW * 1e6]}, r"embedding 1 \('b'\) has numbers of up to .*e\+06, which float16"),
    "too small": ({"vectors": [ROW, ROW * 1e-6]}, r"embedding 1 .*float16 cannot hold; make embeddings as long as 1"),
    "too few": ({"vectors": [ROW]}, "1 embeddings and 2 ids"),
    "another width": ({"vectors": drawn(2, width=5)}, "embeddings of 'm' in text have 12 numbers, these have 5"),
    "no axis": ({"vectors": ROW}, r"shape \(12,\), expected \(rows, width\)"),
    "numbers as texts": ({"vectors": [["1"] * WIDTH] * 2}, "no array of numbers"),
    "no numbers": ({"vectors": [["x"] * WIDTH] * 2}, "no array of numbers"),
    "twice": ({"ids": ["a", "a"]}, "the id 'a' is given twice"),
    "there": ({"ids": ["a", "r1"]}, "text has the id 'r1' of 'm'; leave out what is there"),
    "no text": ({"ids": ["a", 3]}, "ids: number 1 is 3, expected a text"),
    "empty id": ({"ids": ["a", ""]}, "ids: number 1 is '', expected a text that is not empty"),
    "half of a character": ({"ids": ["a", "\ud800"]}, "ids: number 1 holds half of a character"),
    "one id": ({"ids": "ab"}, "ids are given as one str"),
    "few sources": ({"sources": ["s"]}, "1 of text_id and 2 ids"),
    "no JSON": ({"metadata": [{}, {"x": object()}]}, "metadata: number 1 cannot be JSON"),
    "NaN in JSON": ({"metadata": [{}, {"x": float("nan")}]}, "metadata: number 1 cannot be JSON"),
    "no mapping": ({"metadata": [{}, "x"]}, "metadata: number 1 is 'x', expected a mapping"),
    "modality": ({"modality": "text"}, "the table text has no modality"),
    "durations": ({"durations": [1, 2]}, "the table text has no durations"),
    "no model": ({"model": ""}, "model is '', expected the name"),
    "no time": ({"time": "now"}, "time is 'now', expected a datetime"),
    "no table": ({"table": "texts"}, "no table 'texts', expected one of text, vision, audio, clip"),
    "no kind": ({"table": "clip"}, "modality is None, expected one of text, image, audio, text.image"),
    "other kind": ({"table": "clip", "modality": ["text", "video"]}, "modality is 'video', expected one of"),
    "negative": ({"table": "audio", "durations": [1, -1]}, "durations are not all finite numbers of seconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_row_is_refused_and_leaves_the_store_as_it_was(store, case):
    store.append("text", names(3), drawn(3), model="m")
    before = {file: file.read_bytes() for file in store.path.rglob("*") if file.is_file()}
    change, message = REFUSED[case]
    row = {"table": "text", "ids": ["a", "b"], "vectors": drawn(2), "model": "m"} | change
    with pytest.raises(InputError, match=message):
        store.append(row.pop("table"), row.pop("ids"), row.pop("vectors"), **row)
    assert {file: file.read_bytes() for file in store.path.rglob("*") if file.is_file()} == before


def test_what_cannot_be_searched_is_refused(store):
    with pytest.raises(InputError, match="the table text is empty"):
        store.search("text", ROW)
    store.append("text", names(3), drawn(3), model="m")
    for query, how, message in (
        (ROW[:5], {}, "a query has 5 numbers, the embeddings of 'm' in text have 12"),
        (ROW * np.nan, {}, "finite numbers"),
        (ROW * 0, {}, "a query is zero"),
        ("fox", {}, "no array of numbers"),
        (ROW, {"k": 0}, "k is 0 "),
        (ROW, {"similarity": "manhattan"}, "similarity is 'manhattan', expected one of cosine, dot"),
        (ROW, {"probes": 1}, "has no index of .m. in text: make it"),
        (ROW, {"probes": 1, "similarity": "dot"}, "an index is by cosine"),
        (ROW, {"model": "other"}, "text has no embeddings of 'other', but of 'm'"),
        (ROW, {"modality": "text"}, "the table text has no modality"),
        (ROW, {"since": "today"}, "since is 'today', expected a datetime"),
        (ROW, {"metadata": "x"}, "metadata is 'x', expected a mapping"),
        (ROW, {"colour": "red"}, "there is no condition 'colour', expected ids, sources, modality, since"),
    ):
        with pytest.raises(InputError, match=message):
            store.search("text", query, **how)
    store.append("text", names(3), drawn(3, width=5), model="narrow")
    with pytest.raises(InputError, match="embeddings of 'm', 'narrow', which cannot be compared: name the model"):
        store.search("text", ROW)
    assert store.models("text") == {"m": 12, "narrow": 5}
    assert [one.id for one in store.search("text", drawn(3, width=5)[2], 1, model="narrow")[0]] == ["r2"]


def test_a_part_of_a_job_is_taken_once(store):
    for at in range(2):
        with store.writer("text", model="m", part=f"part-{at}") as writer:
            for chunk in range(at * 2):
                writer.write(names(4, f"{at}.{chunk}."), drawn(4, chunk))
    assert store.parts("text") == ["part-0", "part-1"]
    assert len(ids(store)) == 8
    known = store.writer("text", model="m", part="part-1")
    with pytest.raises(InputError, match="the part text/part-1 is there; it is not added twice"):
        known.__enter__()
    with contextlib.suppress(RuntimeError), store.writer("text", model="m", part="part-2") as writer:
        writer.write(["x"], drawn(1))
        raise RuntimeError
    assert store.parts("text") == ["part-0", "part-1"]
    assert len(ids(store)) == 8
    assert not [*store.path.rglob("*.part")]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ((["x"], drawn(1)), "text has the id 'x' of 'm'"),
        ((["y"], drawn(1, width=5)), "the embeddings of 'm' in text have 5 numbers, these have 12"),
    ],
)
def test_of_two_who_write_what_excludes_each_other_the_second_is_refused(store, theirs, message):
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(store.writer("text", model="m", part="p"))
        writer.write(["a", "x"], drawn(2))
        EmbeddingStore(store.path).append("text", *theirs, model="m")
        with pytest.raises(InputError, match=message):
            opened.close()
    assert ids(store) == theirs[0]
    assert store.parts("text") == []


def test_the_index_finds_what_is_near_and_rows_that_came_later(store, monkeypatch):
    centres = drawn(20, 1) * 4
    rows = np.concatenate([centres[at % 20] + drawn(1, at + 2) for at in range(800)])
    for start in range(0, 600, 200):
        store.append("text", [f"{row}" for row in range(start, start + 200)], rows[start : start + 200], model="m")
    recalls = store.index("text", size=20)
    assert sorted(recalls) == [1, 4, 16, 20]
    assert recalls[20] == 1.0
    assert recalls[4] > 0.9
    store.append("text", [f"{row}" for row in range(600, 800)], rows[600:], model="m")
    queries = rows[::37] + 0.1 * drawn(1)
    exact = [[one.id for one in row] for row in store.search("text", queries, 10)]

    def recall(**how) -> float:
        found = [[one.id for one in row] for row in store.search("text", queries, 10, **how)]
        return np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact, found, strict=True)])

    assert recall(probes=20) == 1.0
    assert recall(probes=4) > 0.9
    assert store.statistics()["tables"]["text"]["models"]["m"] == {"rows": 800, "width": WIDTH, "indexed": 600}
    few = store.search("text", queries[0], 10, probes=1, ids=[f"{row}" for row in range(0, 800, 100)])
    assert len(few[0]) == 8, "conditions that the lists do not meet are looked for in all rows"
    monkeypatch.setattr(compacting, "LARGE", 500)
    assert store.compact() == 2
    assert recall(probes=20) == 1.0
    assert recall(probes=4) > 0.9
    assert store.statistics()["tables"]["text"]["models"]["m"]["indexed"] == 600
    assert ids(store) == [f"{row}" for row in range(800)]


def test_merging_keeps_rows_in_their_order(store, monkeypatch):
    monkeypatch.setattr(compacting, "LARGE", 4)
    first = 0
    for count in (1, 1, 1, 5, 1, 3, 1, 2):  # one file, the large one, one file, and one
        store.append("text", [f"{row}" for row in range(first, first + count)], drawn(count, count), model="m")
        store.append("text", [f"{row}" for row in range(first, first + count)], drawn(count, 3), model="other")
        first += count
    assert store.compact() == 8
    for model in ("m", "other"):
        assert ids(store, model=model) == [f"{row}" for row in range(first)]
    assert store.compact() == 0
    assert store.verify() == 2 * first


def test_what_the_mapped_files_hold_is_made_again(store):
    store.append("text", names(50), drawn(50), model="m")
    wanted = store.search("text", drawn(2, 3), 5)
    (mapped,) = (store.path / MAPPED).iterdir()
    whole = mapped.read_bytes()
    for damage in (None, whole[:-8], b""):
        mapped.unlink() if damage is None else mapped.write_bytes(damage)
        assert EmbeddingStore(store.path).search("text", drawn(2, 3), 5) == wanted
        assert mapped.stat().st_size > 0
    assert EmbeddingStore(store.path).verify() == 50
    at = whole.index(drawn(50)[20].astype(np.float16).tobytes())
    mapped.write_bytes(whole[:at] + b"\1" + whole[at + 1 :])
    with pytest.raises(InputError, match=rf"{mapped.name} is damaged: it has other rows than .*; delete it"):
        EmbeddingStore(store.path).verify()


def test_damage_is_told(store):
    store.append("text", names(50), drawn(50), model="m")
    (file,) = (store.path / "text").iterdir()
    whole = file.read_bytes()
    at = len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    document = json.loads((store.path / "store.json").read_text())
    for place, content, message in (
        (file, whole[:-1], "bytes, the store's document says"),
        (file, flipped, "is damaged"),
        (file, None, f"{file.name} is missing, which the store's document names"),
        (store.path / "store.json", b"{", "store.json is not valid JSON"),
        (store.path / "store.json", b"[]", "format_version is None"),
        (store.path / "store.json", json.dumps(document | {"format_version": 9}).encode(), "format_version is 9"),
        (store.path / "store.json", json.dumps(document | {"parts": 3}).encode(), "not a store's document"),
        (
            store.path / "store.json",
            json.dumps(document).replace("text/", "../").encode(),
            "not a store's document as this program writes it",
        ),
    ):
        before = place.read_bytes()
        place.unlink() if content is None else place.write_bytes(content)
        with pytest.raises(InputError, match=message):
            EmbeddingStore(store.path).verify()
        place.write_bytes(before)
    assert EmbeddingStore(store.path).verify() == 50


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no store of embeddings"):
        EmbeddingStore(tmp_path)
    (tmp_path / "precious").write_text("")
    with pytest.raises(InputError, match="holds other files and no store"):
        EmbeddingStore.create(tmp_path)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        EmbeddingStore.create(tmp_path / "precious")


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda module: module != "pyarrow")
    for begin in (EmbeddingStore, EmbeddingStore.create):
        with pytest.raises(EnvironmentFailure, match=r"needs .* pyarrow, .*bgevis-convert\[parquet\]"):
            begin(tmp_path)


def theirs(folder: Path, table: str, rows: dict) -> Path:
    """Write a table as ArrowEngine does."""
    width = len(rows["embedding"][0])
    (folder / table).mkdir(parents=True)
    file = folder / table / "embeddings.parquet"
    parquet.write_table(pa.table(rows, schema=schema(table, width)), file, compression="zstd")
    return file


def test_arrow_engines_own_files_are_read_and_left_as_they_are(tmp_path):
    vectors = drawn(3, width=16).astype(np.float16)
    now = datetime.datetime(2026, 5, 6)
    rows = {
        "embedding_id": ["a", "b", "c"],
        "image_id": ["1", "2", "3"],
        "embedding": list(vectors),
        "model": ["clip", "other", "clip"],
        "timestamp": [now] * 3,
        "metadata": ['{"x": 1}', None, "{}"],
    }
    file = theirs(tmp_path, "vision", rows)
    before = file.read_bytes()
    store = EmbeddingStore(tmp_path)
    assert store.models("vision") == {"clip": 16, "other": 16}
    found = store.search("vision", vectors[2].astype(np.float32), 5, model="clip")
    assert next((one.id, one.time) for one in found[0]) == ("c", now)
    assert sorted(one.id for one in found[0]) == ["a", "c"]
    assert ids(store, "vision", model="clip", metadata={"x": 1}) == ["a"]
    assert (store.compact(), store.verify()) == (0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vision"], "reading made files"
    with pytest.raises(InputError, match="vision has the id 'c' of 'clip'"):
        store.append("vision", ["c"], drawn(1, width=16), model="clip")
    store.append("vision", ["d", "e"], drawn(2, 1, width=16), model="clip")
    store.append("vision", ["b"], drawn(1, 1, width=16), model="clip")
    assert ids(store, "vision", model="clip") == ["a", "c", "d", "e", "b"]
    assert store.compact() == 1
    assert ids(store, "vision", model="clip") == ["a", "c", "d", "e", "b"]
    assert store.index("vision", model="clip") == {1: 1.0}
    assert store.statistics()["rows"] == 6
    assert file.read_bytes() == before
    store.export(tmp_path / "whole")
    whole = parquet.read_table(tmp_path / "whole" / "vision" / "embeddings.parquet")
    assert whole.schema.equals(parquet.read_schema(file))
    assert whole["embedding_id"].to_pylist() == ["a", "b", "c", "d", "e", "b"]
    with pytest.raises(InputError, match="exists; choose another folder"):
        store.export(tmp_path / "whole")
    rows["embedding_id"] = ["x", "y", "z"]
    parquet.write_table(pa.table(rows, schema=schema("vision", 16)), file)
    assert ids(store, "vision", model="clip") == ["x", "z", "d", "e", "b"], "it was replaced by its owner"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": [np.full(4, np.nan, np.float16)]}, "the embedding of row 0 holds NaN or infinity"),
        ({"model": [None]}, "a row has no model"),
        ({"metadata": ["{"]}, "its metadata is not valid JSON"),
    ],
)
def test_rows_of_others_that_cannot_be_used_are_named(tmp_path, change, message):
    rows = {"embedding_id": ["a"], "source_id": ["s"], "modality": ["text"], "embedding": [np.ones(4, np.float16)]}
    rows |= {"model": ["m"], "timestamp": [DAY.replace(tzinfo=None)], "metadata": ["{}"]}
    theirs(tmp_path, "clip", rows | change)
    with pytest.raises(InputError, match=message):
        EmbeddingStore(tmp_path).search("clip", [1, 0, 0, 0], model="m")


def test_columns_of_others_are_held_to_the_table(tmp_path):
    file = theirs(
        tmp_path,
        "text",
        {name: [] for name in schema("text", 4).names}
        | {"embedding": [np.ones(4)]}
        | {"embedding_id": ["a"], "text_id": ["a"], "model": ["m"], "timestamp": [None], "metadata": [None]},
    )
    table = parquet.read_table(file)
    for changed, message in (
        (table.drop_columns(["metadata"]), "the column metadata is missing, expected string"),
        (table.append_column("more", pa.array([1])), "has columns that the table text has not: more"),
        (table.set_column(3, "model", pa.array([1])), "the column model is int64, expected string"),
    ):
        parquet.write_table(changed, file)
        with pytest.raises(InputError, match=message):
            EmbeddingStore(tmp_path).rows("text", model="m")
    file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is damaged or no Parquet file"):
        EmbeddingStore(tmp_path).rows("text", model="m")


def test_a_store_that_arrow_engine_wrote(oracles, tmp_path):
    source = oracles / "arrow_engine" / "out" / "storage"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    folder = tmp_path / "theirs"
    shutil.copytree(source, folder)
    store = EmbeddingStore(folder)
    for table in [path.name for path in source.iterdir()]:
        held = parquet.read_table(source / table / "embeddings.parquet")
        found = [store.rows(table, model=model) for model in store.models(table)]
        assert sum(rows.num_rows for rows in found) == held.num_rows
        assert all(rows.column_names == held.column_names for rows in found)
        query = np.array(held["embedding"][0].as_py(), np.float32)
        (near,) = store.search(table, query, 1, model=held["model"][0].as_py())
        assert near[0].similarity == pytest.approx(1)
    assert store.verify() == sum(parquet.read_metadata(file).num_rows for file in source.rglob("*.parquet"))


CHILD = """
import sys, numpy as np
from bgevis.converter import EmbeddingStore
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = EmbeddingStore(path)
for at in range(count):
    rows = np.random.default_rng(at).standard_normal((50, 12))
    store.append("text", [f"{name}-{at}-{row}" for row in range(50)], rows, model="m")
    print(at, flush=True)
"""


def begun(path: Path, name: str, count: int, **more) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", CHILD, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_writers_readers_and_one_who_merges_at_once_and_a_writer_that_is_killed(store):
    writers = [begun(store.path, name, 8) for name in ("a", "b")]
    victim = begun(store.path, "victim", 10_000)
    told = [int(victim.stdout.readline()) for _ in range(3)]
    seen, merged = 0, 0
    while any(writer.poll() is None for writer in writers) or victim.poll() is None:
        table = store.rows("text")
        assert table.num_rows % 50 == 0
        assert table.num_rows >= seen, "rows were lost"
        seen = table.num_rows
        merged += store.compact()
        if seen > 500 and victim.poll() is None:
            victim.kill()
    told += [int(line) for line in victim.stdout.read().split("\n")[:-1]]
    assert [writer.wait() for writer in writers] == [0, 0], writers[0].stderr.read()
    every = ids(store)
    assert len(set(every)) == len(every)
    whole = {name.rpartition("-")[0] for name in every}
    assert len(every) == 50 * len(whole), "half of an append"
    assert {f"{name}-{at}" for name in "ab" for at in range(8)} <= whole
    assert {f"victim-{at}" for at in told} <= whole, "what was told to be there was lost"
    assert len(whole) - 16 - len(told) in (0, 1), "what was not told may be there as a whole"
    assert merged
    store.compact()
    assert not [*store.path.rglob("*.part")]
    assert len([*(store.path / "text").iterdir()]) == len([*(store.path / MAPPED).iterdir()]) == 1
    assert store.verify() == len(every)
    for process in (*writers, victim):
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("shim") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


def disturbed(shim: Path, path: Path, kind: str, at: int) -> tuple[int, str, int]:
    """Append to a store with a fault at a call that changes a file there; give code, error, and the calls so far."""
    counter = path.parent / "counter"
    counter.write_bytes(bytes(8))
    faults = {"FAULT_UNDER": str(path), "FAULT_COUNTER": str(counter), "FAULT_AT": str(at), "FAULT_KIND": kind}
    process = begun(path, "new", 1, env=os.environ | faults | {"LD_PRELOAD": str(shim)}, start_new_session=True)
    _, said = process.communicate()
    return process.returncode, said, struct.unpack("q", counter.read_bytes())[0]


@pytest.mark.parametrize("kind", ["kill", pytest.param("ENOSPC", marks=pytest.mark.prove)])
@pytest.mark.parametrize("points", [3, pytest.param(1000, marks=pytest.mark.prove)])
def test_an_append_that_ends_at_any_call_leaves_all_or_nothing(shim, tmp_path, kind, points):
    empty = EmbeddingStore.create(tmp_path / "store")
    empty.append("text", names(3), drawn(3), model="m")
    shutil.copytree(empty.path, tmp_path / "counted")
    code, said, calls = disturbed(shim, tmp_path / "counted", "count", 0)
    assert (code, calls > 8) == (0, True), said
    for at in sorted({max(1, round(calls * share)) for share in np.linspace(0.05, 1, min(points, calls))}):
        path = tmp_path / f"at {at}"
        shutil.copytree(empty.path, path)
        code, said, _ = disturbed(shim, path, kind, at)
        assert code == (-signal.SIGKILL if kind == "kill" else 1) or kind != "kill", said
        store = EmbeddingStore(path)
        there = len(ids(store))
        assert there in (3, 53), f"at {at}: {there} rows"
        if there == 3:
            assert disturbed(shim, path, "count", 0)[0] == 0
        assert len(ids(store)) == 53
        store.compact()
        assert not [*path.rglob("*.part")]
        assert len([*(path / "text").iterdir()]) == len([*(path / MAPPED).iterdir()]) == 1
        assert store.verify() == 53
