"""A folder of embeddings: appended in fragments, read while others write, searched by what is near."""

import contextlib
import datetime
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from ....validation.errors import InputError
from ....validation.packages import need
from ...output import written
from ..artifacts import Artifacts
from ..given import whole
from . import embedded, lists, searching
from .compacting import groups, merged, swept
from .fragments import GROUP, LENGTH, LEVEL, MAPPED, Gone, Opened, batches, foreign
from .manifest import FOREIGN, LOCK, MANIFEST, Manifest, locked
from .state import State
from .tables import SOURCES, Found, Where, known_table, names
from .writer import Writer

if TYPE_CHECKING:
    import pyarrow

ATTEMPTS = 100
"""Times that something is begun again because others merged the files that it was reading."""

T = TypeVar("T")


class EmbeddingStore:
    """Embeddings of texts, pictures and sounds in a folder, in ArrowEngine's tables; float16, as it has them.

    A table is `text`, `vision` (pictures), `audio`, or `clip` for what shares a space, whose rows have a modality. All
    rows of a model have one width. Any number of processes may read and write at once; each sees a whole state.

    Args:
        path: the folder, that `create` made, or ArrowEngine's `MultimodalStorage`.

    Raises:
        InputError: it is no store.
        EnvironmentFailure: pyarrow is not installed.
    """

    def __init__(self, path: Path | str):
        need("pyarrow", "a store of embeddings")
        self.path = Path(path)
        self._read: tuple[tuple[int, ...], Manifest] | None = None
        self._opened: dict[str, Opened] = {}
        self._lists: dict[str, tuple[int, lists.Lists]] = {}
        if not (self.path / MANIFEST).is_file() and not any(foreign(self.path, table) for table in SOURCES):
            raise InputError(f"{self.path} is no store of embeddings (no {MANIFEST}): EmbeddingStore.create makes one")

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """Make a store, or open the one that is there.

        Raises:
            InputError: something else is in the place.
            EnvironmentFailure: pyarrow is not installed.
        """
        need("pyarrow", "a store of embeddings")
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, expected a folder for a store of embeddings")
        there = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        if MANIFEST not in there and there - {*SOURCES, MAPPED, LOCK, f".{MANIFEST}.part"}:
            raise InputError(f"{folder} holds other files and no store of embeddings; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MAPPED).mkdir(exist_ok=True)
        with locked(folder):
            if not (folder / MANIFEST).exists():
                Manifest().write(folder)
        return cls(folder)

    def __repr__(self) -> str:
        return f"<EmbeddingStore {self.path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def append(
        self,
        table: str,
        ids: Sequence[str],
        vectors: Any,
        *,
        model: str,
        sources: Sequence[str] | None = None,
        modality: str | Sequence[str] | None = None,
        durations: Sequence[float] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        time: datetime.datetime | None = None,
        unique: bool = True,
    ) -> None:
        """Append rows: all of them or, whatever happens, none.

        Args:
            table: text, vision, audio or clip.
            ids: of the embeddings.
            vectors: (rows, width) numbers.
            model: whose embeddings they are.
            sources: names of what was embedded; by default the ids.
            modality: in `clip` alone: text, image, audio or text+image, of all rows or of each.
            durations: in `audio` alone: seconds.
            metadata: what else is to be known of each row, as JSON has it.
            time: of the rows; by default now.
            unique: refuse ids that the table has of the model; False leaves that to the caller, and saves the look.

        Raises:
            InputError: a row is not as its table has it, an embedding is NaN, infinite, zero or beyond float16, the
                model's embeddings have another width, or an id is there.
        """
        with self.writer(table, model=model, unique=unique) as writer:
            writer.write(
                ids, vectors, sources=sources, modality=modality, durations=durations, metadata=metadata, time=time
            )

    @contextlib.contextmanager
    def writer(self, table: str, *, model: str, part: str | None = None, unique: bool = True) -> Iterator[Writer]:
        """Write rows bit by bit in bounded memory; they are there once the block has ended without an exception.

        Args:
            table: see `append`.
            model: see `append`.
            part: a name for these rows, as of a file of a job's input: a table takes it once, so that a job that is
                begun again adds nothing twice.
            unique: see `append`.

        Raises:
            InputError: see `append`; or the part is there.
        """
        if not isinstance(model, str) or not model:
            raise InputError(f"model is {model!r}, expected the name of what made the embeddings")
        if part is not None and (not isinstance(part, str) or not part):
            raise InputError(f"part is {part!r}, expected a name")
        self._make_own()
        with Writer(self.path, self._state, known_table(table), model, part, unique=unique) as writer:
            yield writer
            writer.commit()

    def parts(self, table: str) -> list[str]:
        """Name the parts of a job's input that are there."""
        before = f"{known_table(table)}/"
        every = self._state().manifest.parts
        return [part.removeprefix(before) for part in every if part.startswith(before)]

    def add(
        self,
        artifacts: Artifacts,
        texts: Iterable[str] | None = None,
        images: Iterable[Any] | None = None,
        *,
        audio: Iterable[Any] | None = None,
        ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        part: str | None = None,
        unique: bool = True,
        **how: Any,
    ) -> int:
        """Embed rows by an open artifact and append them, all or none; give how many.

        A network of one kind writes into that kind's table, one that embeds several into `clip`. What was embedded, a
        text or a file's name, is metadata.

        Args:
            artifacts: opened.
            texts: see `Artifacts.embed`.
            images: see `Artifacts.embed`; with texts, pairs.
            audio: see `Artifacts.embed`.
            ids: by default of a file its name, of a text a digest.
            metadata: more to be known of each row.
            model: its name in the store; by default the family and a digest of checkpoint and configuration.
            part: see `writer`.
            unique: see `append`.
            how: what else `Artifacts.embed` takes.

        Raises:
            InputError: see `Artifacts.embed` and `append`; or a picture or sound that is no file has no id.
        """
        rows = embedded.Rows.of(texts, images, audio, ids, metadata)
        table = embedded.table_of(artifacts, rows.kind)
        with self.writer(table, model=model or embedded.model_of(artifacts), part=part, unique=unique) as writer:
            for known, vectors, told in rows.embedded(artifacts, how):
                writer.write(known, vectors, metadata=told, modality=rows.kind if table == "clip" else None)
        return len(rows.ids)

    def models(self, table: str) -> dict[str, int]:
        """Give the width of each model's embeddings in a table."""
        return self._whole(lambda state: state.models(table))

    def known(self, table: str, ids: Sequence[str], *, model: str) -> list[bool]:
        """Say of each id whether a table has it of a model."""
        asked = names(ids, "ids")

        def work(state: State) -> list[bool]:
            parts = state.parts(known_table(table), model, {"ids": asked})
            there = {one for part in parts for one in part.column("embedding_id").to_pylist()}
            return [one in there for one in asked]

        return self._whole(work)

    def rows(
        self, table: str, *, model: str | None = None, limit: int | None = None, **where: Unpack[Where]
    ) -> "pyarrow.Table":
        """Read rows in the order in which they came, with the columns of ArrowEngine's schema.

        Args:
            table: text, vision, audio or clip.
            model: may be left out where the table has one.
            limit: rows at most.
            where: see `Where`.

        Raises:
            InputError: the table has no rows of the model, or of several and none is named; a condition is none; a
                file is damaged.
        """
        most = None if limit is None else whole(limit, "limit", 0)

        def work(state: State) -> "pyarrow.Table":
            import pyarrow

            parts = state.parts(table, state.model(table, model)[0], where)
            found, left = [], most
            for part in parts:
                found.append(part.rows(left))
                left = None if left is None else left - found[-1].num_rows
            return pyarrow.concat_tables(found)

        return self._whole(work)

    def search(
        self,
        table: str,
        query: Any,
        k: int = 10,
        *,
        model: str | None = None,
        similarity: str = "cosine",
        probes: int | None = None,
        **where: Unpack[Where],
    ) -> list[list[Found]]:
        """Find for each query the `k` nearest rows, the nearest first; all of fewer.

        Every row is compared, in float32, in memory that does not grow with the store. With `probes`, the rows that
        the index holds are compared only in so many of its lists, and some of the nearest may be missed.

        Args:
            table: text, vision, audio or clip.
            query: (queries, width), or one of (width,).
            k: how many, at least 1.
            model: whose embeddings the queries are; may be left out where the table has one.
            similarity: cosine, or dot for the product.
            probes: lists that are looked at; by cosine alone.
            where: see `Where`.

        Raises:
            InputError: see `rows`; or the queries have another width or are no numbers, or there is no index.
        """
        asked = searching.Asked.of(query, k, similarity, probes)

        def work(state: State) -> list[list[Found]]:
            name, width = state.model(table, model)
            asked.refuse_other_width(width, name, table)
            index = None if asked.probes is None else self._index(table, name)
            if asked.probes is not None and index is None:
                raise InputError(
                    f"{self.path} has no index of {name!r} in {table}: make it (`index`), or leave out probes"
                )
            return searching.found(table, state.parts(table, name, where), asked, index)

        return self._whole(work)

    def index(self, table: str, *, model: str | None = None, size: int | None = None) -> dict[int, float]:
        """Make an index of all rows that a table has of a model, and measure it.

        Rows that come later are searched one by one beside it, until it is made again.

        Args:
            table: text, vision, audio or clip.
            model: may be left out where the table has one.
            size: lists; by default the root of the number of rows.

        Returns:
            probes -> recall: which part of the ten nearest to a hundred of the rows is found in so many lists.

        Raises:
            InputError: the table has no rows of the model, or of several and none is named.
        """
        several = None if size is None else whole(size, "size", 1)

        def work(state: State) -> dict[int, float]:
            name, _ = state.model(table, model)
            parts = [part for part in state.parts(table, name, {}) if part.keep is None and len(part)]
            if not parts:
                raise InputError(f"{self.path}: {table} has no file that holds rows of {name!r} alone")
            made = lists.build(parts, several)
            found = lists.recall(made, parts)
            self._make_own()
            made.write(self._index_file(table, name))
            return found

        return self._whole(work)

    def statistics(self) -> dict[str, Any]:
        """Count rows, files and bytes of each table, and of each of its models rows, width and rows in the index."""

        def work(state: State) -> dict[str, Any]:
            return {table: state.counted(table, self._index) for table in SOURCES if state.sources(table)}

        tables = self._whole(work)
        total = {name: sum(each[name] for each in tables.values()) for name in ("rows", "bytes", "fragments")}
        beside = sum(file.stat().st_size for file in (self.path / MAPPED).glob("[!.]*"))
        return {"tables": tables, **total, "mapped_bytes": beside}

    def verify(self) -> int:
        """Read all files and hold them to their checksums and to each other; give the number of rows.

        Raises:
            InputError: one is damaged, or missing.
        """

        def work(state: State) -> int:
            rows = 0
            for source in (source for table in SOURCES for source in state.sources(table)):
                held, at = state.opened(source).table.drop_columns([LENGTH]), 0
                for some in batches(self.path / source.file, source.fragment):
                    if not some.equals(held.slice(at, some.num_rows)):
                        mapped = self.path / MAPPED / source.mapped
                        raise InputError(f"{mapped} is damaged: it has other rows than {source.file}; delete it")
                    at += some.num_rows
                rows += at
            return rows

        return self._whole(work)

    def compact(self) -> int:
        """Merge small fragments into large ones, and clear away what killed writers left; say how many fewer there are.

        Rows, their order and the index stay as they are, and so do ArrowEngine's own files.
        """
        fewer = 0
        if not (self.path / MANIFEST).exists():  # nothing here is the store's
            return fewer
        for group in groups(self._state().manifest.fragments):
            fewer += merged(self.path, group, self._index_file(group[0].table, group[0].model))
        swept(self.path)
        return fewer

    def export(self, folder: Path | str) -> None:
        """Write a folder that ArrowEngine reads: of each table one file with all rows.

        Raises:
            InputError: something is in the place, or a table has embeddings of several widths.
        """
        out = Path(folder)

        def work(state: State) -> None:
            from pyarrow import parquet

            for table in (table for table in SOURCES if state.sources(table)):
                if len(widths := set(state.models(table).values())) > 1:
                    raise InputError(f"{table} has embeddings of {sorted(widths)} numbers: one file holds one width")
                (out / table).mkdir(parents=True, exist_ok=True)
                if (out / table / FOREIGN).exists():
                    raise InputError(f"{out / table / FOREIGN} exists; choose another folder")
                columns = state.opened(state.sources(table)[0]).table.drop_columns([LENGTH]).schema
                with (
                    written(out / table / FOREIGN) as aside,
                    parquet.ParquetWriter(aside, columns, compression="zstd", compression_level=LEVEL) as writer,
                ):
                    for source in state.sources(table):
                        for rows in batches(self.path / source.file, source.fragment):
                            writer.write_table(rows, row_group_size=GROUP)

        self._whole(work)

    def _make_own(self) -> None:
        """Put the store's document into ArrowEngine's folder, which has none."""
        if not (self.path / MANIFEST).exists():
            self.create(self.path)

    def _state(self) -> State:
        """Give the present state; the document is read unless it is the one that was read last."""
        try:
            state = (self.path / MANIFEST).stat()
            told: tuple[int, ...] = (state.st_ino, state.st_mtime_ns, state.st_size)
        except FileNotFoundError:
            told = ()
        if self._read is None or self._read[0] != told:
            self._read = (told, Manifest.read(self.path))
        present = State(self.path, self._read[1], self._opened)
        named = {source.mapped for table in SOURCES for source in present.sources(table)}
        for gone in self._opened.keys() - named:
            self._opened.pop(gone, None)
        return present

    def _whole(self, work: Callable[[State], T]) -> T:
        """Do something with one state; begin again with the next where its files were merged meanwhile."""
        state = self._state()
        for _ in range(ATTEMPTS):
            try:
                return work(state)
            except Gone as gone:
                before, missing, self._read = state, gone, None
                state = self._state()
                if state.manifest == before.manifest and not str(missing).endswith(FOREIGN):
                    break
        raise InputError(f"{self.path / str(missing)} is missing, which the store's document names")

    def _index_file(self, table: str, model: str) -> Path:
        return self.path / MAPPED / f"{table}-{hashlib.sha256(model.encode()).hexdigest()[:32]}.npz"

    def _index(self, table: str, model: str) -> lists.Lists | None:
        file = self._index_file(table, model)
        try:
            changed = file.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if file.name not in self._lists or self._lists[file.name][0] != changed:
            found = lists.Lists.read(file)
            if found is None:
                return None
            self._lists[file.name] = (changed, found)
        return self._lists[file.name][1]
