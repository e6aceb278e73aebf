"""Rows on their way into a store: written aside, and there at once or never."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from ....validation.errors import InputError
from .fragments import Pair
from .manifest import Fragment, Manifest, locked
from .state import State
from .tables import columns


class Writer:
    """Writes one fragment, see `EmbeddingStore.writer`.

    Args:
        path: the store.
        state: gives its present state.
        table: any.
        model: whose embeddings are written.
        part: a name that the table takes once, or None.
        unique: refuse ids that the table has of the model.
    """

    def __init__(
        self, path: Path, state: Callable[[], State], table: str, model: str, part: str | None, *, unique: bool
    ):
        self._path, self._state, self._table, self._model = path, state, table, model
        self._part = None if part is None else f"{table}/{part}"
        self._unique = unique
        self._ids: set[str] = set()
        self._pair: Pair | None = None
        self._width = 0
        self._refuse_known_part(state().manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pair:
            self._pair.close()

    def write(self, ids: Sequence[str], vectors: Any, **more: Any) -> None:
        """Write further rows; arguments as those of `EmbeddingStore.append`.

        Raises:
            InputError: see `EmbeddingStore.append`.
        """
        rows = columns(self._table, self._model, ids, vectors, **more)
        known = rows["embedding_id"].to_pylist()
        if len(set(known)) < len(known):
            raise InputError(f"the id {Counter(known).most_common(1)[0][0]!r} is given twice")
        if twice := self._ids & set(known):
            raise InputError(f"the id {min(twice)!r} is given twice")
        width = rows["embedding"].type.list_size
        if self._width and width != self._width:
            raise InputError(f"embeddings of {width} numbers came after ones of {self._width}")
        if not self._pair:
            self._refuse_other_width(self._state(), width)
            self._pair, self._width = Pair(self._path, self._table, width), width
        self._ids.update(known)
        self._pair.write(rows)

    def commit(self) -> None:
        """Have the rows in the store, or raise and leave it as it was."""
        pair, seen = self._pair, set[str]()
        if pair:
            size = pair.finish()
            seen = self._refuse_known(self._state(), seen)  # the long look, while others may write
        with locked(self._path):
            state = self._state()
            manifest = state.manifest
            self._refuse_known_part(manifest)
            fragments, parts = manifest.fragments, manifest.parts
            if pair and pair.rows:
                self._refuse_other_width(state, self._width)
                self._refuse_known(state, seen)
                pair.place()
                fragments += (Fragment(pair.file, pair.rows, size, self._model, self._width),)
            if self._part is not None:
                parts += (self._part,)
            if (fragments, parts) != (manifest.fragments, manifest.parts):
                Manifest(fragments, parts).write(self._path)

    def _refuse_known_part(self, manifest: Manifest) -> None:
        if self._part is not None and self._part in manifest.parts:
            raise InputError(f"{self._path}: the part {self._part} is there; it is not added twice")

    def _refuse_other_width(self, state: State, width: int) -> None:
        known = state.models(self._table).get(self._model, width)
        if known != width:
            raise InputError(
                f"{self._path}: the embeddings of {self._model!r} in {self._table} have {known} numbers, these have "
                f"{width}: name another model"
            )

    def _refuse_known(self, state: State, seen: set[str]) -> set[str]:
        """Refuse ids that files hold which were not yet seen; give all files that now are."""
        if self._unique:
            parts = state.parts(self._table, self._model, {"ids": self._ids}, seen)
            for part in (part for part in parts if len(part)):
                raise InputError(
                    f"{self._path}: {self._table} has the id {part.column('embedding_id')[0].as_py()!r} of "
                    f"{self._model!r}; leave out what is there (`known` tells), or choose other ids"
                )
        return {source.file for source in state.sources(self._table)}
