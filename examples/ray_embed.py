"""Embed a column of texts with an artifact, on all machines of a Ray cluster, or on this one.

    python examples/ray_embed.py DIR CORPUS OUT [--column text] [--actors 2] [--format onnx] [--store [--id COLUMN]]

CORPUS and OUT are folders of Parquet files, local or by URL. Each part of the corpus becomes a file of its own in
OUT, named after it; a part whose file is there already is skipped, so that a run that was stopped goes on.

With --store, OUT is a store of embeddings that all machines see at this path. It takes each part once and whole; the
other columns are each row's metadata.
"""

import argparse
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import fs

PART = 4096
"""Rows that are read and held at once; `embed` cuts them into batches of like length."""


def arguments() -> argparse.Namespace:
    """Read the command line; folders become URIs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="the run directory; it must lie at this path on every machine")
    parser.add_argument("corpus")
    parser.add_argument("out")
    parser.add_argument("--column", default="text")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=1, help="of each actor; also its runtime's threads")
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--store", action="store_true", help="OUT is a store of embeddings")
    parser.add_argument("--id", help="the column of a row's id in the store; by default the part and the row's number")
    given = parser.parse_args()
    for name in ("corpus",) if given.store else ("corpus", "out"):
        place = getattr(given, name)
        setattr(given, name, place if "://" in place else Path(place).absolute().as_uri())
    return given


class Embed:
    """An open artifact, made once in each actor."""

    def __init__(self, given: argparse.Namespace):
        from bgevis.converter import EmbeddingStore, open_artifacts

        threads = given.cpus if given.format.startswith("onnx") else None  # others ask Ray's environment
        self.model = open_artifacts(given.directory, given.format, threads=threads)
        self.store = EmbeddingStore(given.out) if given.store else None
        self.given = given

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed one Parquet file, into a store or another file."""
        return self.stored(row) if self.given.store else self.written(row)

    def stored(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed one Parquet file into a store, which has all of its rows or none."""
        source, root = fs.FileSystem.from_uri(self.given.corpus)
        part = PurePosixPath(row["path"]).name
        with source.open_input_file(f"{root}/{part}") as file:
            several = pq.read_table(file).to_pylist()
        texts = [each.pop(self.given.column) for each in several]
        ids = [f"{part}:{at}" for at in range(len(several))]
        if self.given.id:
            ids = [each.pop(self.given.id) for each in several]
        self.store.add(self.model, texts, ids=ids, metadata=several, part=part)
        return {"path": part, "rows": len(several)}

    def written(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed one Parquet file into another, by way of a name that no reader takes for a finished one."""
        source, root = fs.FileSystem.from_uri(self.given.corpus)
        sink, out = fs.FileSystem.from_uri(self.given.out)
        name = PurePosixPath(row["path"]).name
        done, unfinished = f"{out}/{name}", f"{out}/_{name}.part"
        with source.open_input_file(f"{root}/{name}") as file, sink.open_output_stream(unfinished) as written:
            parquet = pq.ParquetFile(file)
            vector = pa.list_(pa.float32(), self.model.width)
            schema = parquet.schema_arrow.append(pa.field("embedding", vector))
            with pq.ParquetWriter(written, schema) as writer:
                for batch in parquet.iter_batches(PART):
                    vectors = self.model.embed(texts=batch.column(self.given.column).to_pylist())
                    embeddings = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), type=vector)
                    writer.write_batch(pa.record_batch([*batch.columns, embeddings], schema))
            rows = parquet.metadata.num_rows
        sink.move(unfinished, done)
        return {"path": done, "rows": rows}


def done_before(given: argparse.Namespace) -> set[str]:
    """Name the parts that OUT has, which is made where it is not there."""
    if given.store:
        from bgevis.converter import EmbeddingStore

        store = EmbeddingStore.create(given.out)
        return {*store.parts("text"), *store.parts("clip")}
    sink, out = fs.FileSystem.from_uri(given.out)
    sink.create_dir(out)
    return {info.base_name for info in sink.get_file_info(fs.FileSelector(out))}


def main() -> None:
    """Embed the parts that OUT does not have yet."""
    given = arguments()
    source, root = fs.FileSystem.from_uri(given.corpus)
    present = done_before(given)
    parts = [info.base_name for info in source.get_file_info(fs.FileSelector(root)) if info.extension == "parquet"]
    todo = [{"path": name} for name in sorted(parts) if name not in present]
    print(f"{len(parts)} parts, {len(parts) - len(todo)} done before")
    if not todo:
        return
    ray.init()
    asked, there = given.actors * given.cpus, int(ray.cluster_resources().get("CPU", 0))
    if asked > there:
        print(
            f"{given.actors} actors of {given.cpus} CPUs ask for {asked}, the cluster has {there}: this waits until it "
            "has grown; one that does not grow needs fewer --actors or --cpus"
        )
    embedded = ray.data.from_items(todo, override_num_blocks=len(todo)).map(
        Embed, fn_constructor_args=(given,), concurrency=given.actors, num_cpus=given.cpus
    )
    print(f"{sum(row['rows'] for row in embedded.iter_rows())} rows embedded")


if __name__ == "__main__":
    main()
