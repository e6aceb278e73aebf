"""The store of embeddings: how fast rows come in, how soon it is open, how long a query takes, how much memory.

    python -m benchmarks.store [--rows 1000000] [--width 384] [--vectors FILE.npy] [--write-docs]

Rows are seeded: unit vectors around a few thousand centres, the spectrum falling as that of text embeddings does.
`--vectors` takes real ones, (rows, width). What queries are held to is numpy's product of all rows in memory.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from pyarrow import parquet

from bgevis.converter import EmbeddingStore

from . import document
from .models import BUILD, ROOT

DOCUMENT = ROOT / "docs" / "store.md"
MODEL, CENTRES, AMONG = "benchmark", 4096, 0.55
FRAGMENT = 50_000
"""Rows of an append."""
ROUNDS, TOGETHER, NEAREST = 7, 100, 10
PROBES = (4, 16, 64)


def seeded(rows: int, width: int) -> Iterator[np.ndarray]:
    """Draw unit vectors, (at most FRAGMENT, width) float32."""
    draw = np.random.default_rng(0)
    falling = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    centres = draw.standard_normal((CENTRES, width), dtype=np.float32) * falling
    for start in range(0, rows, FRAGMENT):
        count = min(FRAGMENT, rows - start)
        own = draw.standard_normal((count, width), dtype=np.float32) * falling
        found = AMONG * centres[draw.integers(CENTRES, size=count)] + (1 - AMONG) * own
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def given(file: Path) -> Iterator[np.ndarray]:
    vectors = np.load(file, mmap_mode="r")
    for start in range(0, len(vectors), FRAGMENT):
        yield np.asarray(vectors[start : start + FRAGMENT], np.float32)


def timed(work: Callable[[], Any], rounds: int = ROUNDS) -> dict[str, float]:
    """Give the least of the seconds, and of those of the processor: other work on the machine adds to the first."""
    seconds, processor = [], []
    for _ in range(rounds):
        begun, used = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return {"seconds": min(seconds), "processor": min(processor)}


def filled(path: Path, several: Iterator[np.ndarray]) -> dict[str, Any]:
    """Append all rows, and write the same numbers into plain files; give what each append and file took."""
    store, rows = EmbeddingStore.create(path), 0
    found: dict[str, list[dict[str, float]]] = {"append": [], "plain": []}
    for vectors in several:
        ids = [f"row-{rows + at:09d}" for at in range(len(vectors))]
        told = [{"language": ("en", "de", "fr", "zh")[at % 4], "page": at % 1000} for at in range(len(vectors))]
        append = functools.partial(store.append, "text", ids, vectors, model=MODEL, metadata=told)
        for name, work in (("append", append), ("plain", functools.partial(plain, path.parent / "plain", vectors))):
            found[name].append(timed(work, 1) | {"rows": len(vectors)})
        rows += len(vectors)
    return {"rows": rows, **found, **store.statistics()}


def plain(file: Path, vectors: np.ndarray) -> None:
    with file.open("wb") as handle:
        handle.write(vectors.astype(np.float16).tobytes())
        os.fsync(handle.fileno())


def anonymous() -> int:
    """Give the bytes that this process holds beside mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def alone(path: Path, probes: int | None) -> None:
    """Open the store in this process and search: print seconds and how much memory that took beside the imports."""
    import pyarrow.compute  # noqa: F401

    query = np.load(path.parent / "queries.npy")
    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    begun = time.perf_counter()
    store = EmbeddingStore(path)
    store.models("text")
    opened = time.perf_counter()
    store.search("text", query[0], NEAREST, probes=probes)
    first = time.perf_counter()
    if probes is None:
        store.search("text", query, NEAREST)
    done.set()
    watching.join()
    print(json.dumps({"open": opened - begun, "first": first - opened, "memory": max(most, anonymous()) - before}))


def child(path: Path, *more: str) -> dict[str, float]:
    """Do `alone` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.store", "--alone", str(path), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def searched(path: Path, queries: np.ndarray, every: np.ndarray) -> dict[str, Any]:
    """Time queries, exactly, by the index and under conditions; `every` are all rows in float32."""
    store, one = EmbeddingStore(path), queries[0]
    found: dict[str, Any] = {"numpy": timed(lambda: np.argpartition(-(every @ one), NEAREST)[:NEAREST])}
    store.search("text", one)
    found["exact"] = timed(lambda: store.search("text", one, NEAREST))
    found["together"] = timed(lambda: store.search("text", queries, NEAREST), 3)
    found["metadata"] = timed(lambda: store.search("text", one, NEAREST, metadata={"page": 7}), 3)
    files = [*(path / "text").glob("*.parquet")]
    found["parquet"] = timed(lambda: [parquet.read_table(file, columns=["embedding"]) for file in files], 2)
    found["index"] = timed(lambda: found.update({"own recall": store.index("text")}), 1)
    exact = [{row.id for row in rows} for rows in store.search("text", queries, NEAREST)]
    for probes in PROBES:
        near = store.search("text", queries, NEAREST, probes=probes)
        hits = sum(len(wanted & {row.id for row in rows}) for wanted, rows in zip(exact, near, strict=True))
        took = timed(functools.partial(store.search, "text", one, NEAREST, probes=probes))
        found[f"probes {probes}"] = {"recall": hits / (NEAREST * len(queries)), **took}
    return found


def rate(found: list[dict[str, float]], seconds: str) -> str:
    """Give the rows a second of the quickest."""
    return f"{max(each['rows'] / max(each[seconds], 1e-9) for each in found):,.0f} rows/s"


def told(result: dict[str, Any], where: dict[str, Any]) -> str:
    """Lay out the table."""
    heading = f"{result['rows']:,} rows of {result['width']} numbers"
    rows = [
        (name, rate(result[key], "seconds"), rate(result[key], "processor"))
        for name, key in (("append, 50,000 rows at a time", "append"), ("the numbers alone, plain files", "plain"))
    ]
    for name, key in (
        ("compact", "compact"),
        ("a query, exact", "exact"),
        ("the same by numpy, all rows in memory in float32", "numpy"),
        (f"{TOGETHER} queries together, exact", "together"),
        ("a query among one row in 1000, by metadata", "metadata"),
        ("reading the embeddings from Parquet", "parquet"),
        ("make and measure the index", "index"),
        *((f"a query by the index, probes={probes}", f"probes {probes}") for probes in PROBES),
    ):
        recall = f", recall {result[key]['recall']:.3f}" if "recall" in result[key] else ""
        rows.append((name + recall, milliseconds(result[key]["seconds"]), milliseconds(result[key]["processor"])))
    alone, probed = result["alone"], result["alone probed"]
    rows += [
        ("open in a new process", milliseconds(alone["open"]), ""),
        ("the first query there", milliseconds(alone["first"]), ""),
    ]
    disk = f"{result['bytes'] / 1e9:.2f} GB of Parquet and {result['mapped_bytes'] / 1e9:.2f} GB of mapped files"
    memory = (
        f"{alone['memory'] / 1e6:.0f} MB for {TOGETHER} queries, {probed['memory'] / 1e6:.0f} MB for one by the index"
    )
    said = f"On the disk: {disk}. Memory beside mapped files: {memory}."
    return f"{document.sentence(where)}\n\n{document.table((heading, 'time', 'of processors'), rows)}\n\n{said}"


def milliseconds(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds >= 10
        else f"{1e3 * seconds:,.0f} ms"
        if seconds >= 0.01
        else f"{1e3 * seconds:.1f} ms"
    )


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(2 * TOGETHER))
@click.option("--width", default=384, show_default=True, type=click.IntRange(2))
@click.option("--vectors", type=click.Path(path_type=Path, exists=True), help="Real ones, .npy, for seeded ones.")
@click.option("--quick", is_flag=True, help="See that everything works, on few rows; the numbers say nothing.")
@click.option("--write-docs", is_flag=True, help="Put the table into docs/store.md.")
@click.option("--alone", "only", type=click.Path(path_type=Path), help="Search this store in this process.")
@click.option("--probes", type=click.IntRange(1))
def main(
    rows: int,
    width: int,
    vectors: Path | None,
    quick: bool,
    write_docs: bool,
    only: Path | None,
    probes: int | None,
) -> None:
    """Measure the store of embeddings."""
    document.refuse_quick(quick, write_docs)
    if only:
        alone(only, probes)
        return
    if quick:
        rows, width = 3000, 16
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="store", dir=BUILD))
    try:
        result: dict[str, Any] = filled(folder / "store", given(vectors) if vectors else seeded(rows, width))
        store = EmbeddingStore(folder / "store")
        result["compact"] = timed(store.compact, 1)
        held = store.rows("text")["embedding"]
        every = np.concatenate([np.asarray(chunk.flatten()) for chunk in held.chunks]).astype(np.float32)
        every = every.reshape(-1, store.models("text")[MODEL])
        chosen = np.random.default_rng(2).choice(len(every), TOGETHER, replace=False)
        noise = np.random.default_rng(3).standard_normal((TOGETHER, every.shape[1]), dtype=np.float32)
        queries = every[chosen] + 0.3 * noise / every.shape[1] ** 0.5  # near to rows, and none of them
        np.save(folder / "queries.npy", queries)
        result |= {"width": every.shape[1], "alone": child(folder / "store")}
        result |= searched(folder / "store", queries, every)
        result["alone probed"] = child(folder / "store", "--probes", "16")
    finally:
        shutil.rmtree(folder)
    where = document.environment()
    click.echo(told(result, where))
    document.save("store-quick" if quick else "store", {"environment": where, "results": result})
    if write_docs:
        document.rewrite("store", told(result, where), DOCUMENT)


if __name__ == "__main__":
    main()
