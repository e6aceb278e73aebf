"""One whole state of a store: which rows of which model are in which files, mapped when they are asked for."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from ....validation.errors import InputError
from .fragments import Opened, Source, foreign, opened
from .lists import Lists
from .manifest import Manifest
from .nearest import Part
from .tables import SOURCES, Conditions, Where, known_table


class State:
    """What a store's document said at one moment, with ArrowEngine's own files as they were then.

    Args:
        path: the store.
        manifest: its document.
        held: fragments that were mapped before, by the names of their Arrow files; mapped ones are added.
    """

    def __init__(self, path: Path, manifest: Manifest, held: dict[str, Opened]):
        self.path, self.manifest, self._held = path, manifest, held
        theirs = {table: foreign(path, table) for table in SOURCES}
        self._sources = {
            table: [
                *([their] if their else []),
                *(Source(each.file, each) for each in manifest.fragments if each.table == table),
            ]
            for table, their in theirs.items()
        }

    def sources(self, table: str) -> list[Source]:
        """Name the files of a table, in the order in which they came."""
        return self._sources[table]

    def opened(self, source: Source) -> Opened:
        """Map a file."""
        held = self._held.get(source.mapped)
        if held is None:
            held = self._held[source.mapped] = opened(self.path, source)
        return held

    def models(self, table: str) -> dict[str, int]:
        """Give the width of each model's embeddings."""
        found: dict[str, int] = {}
        for source in self.sources(known_table(table)):
            if source.fragment:
                found[source.fragment.model] = source.fragment.width
            else:
                rows = self.opened(source).table
                found |= dict.fromkeys(rows["model"].unique().to_pylist(), rows["embedding"].type.list_size)
        return found

    def model(self, table: str, named: str | None) -> tuple[str, int]:
        """Give the model whose rows are meant, and its width.

        Raises:
            InputError: there are no rows of it, or of several and none is named.
        """
        found = self.models(table)
        told = ", ".join(map(repr, found))
        if not found:
            raise InputError(f"{self.path}: the table {table} is empty")
        if named is not None and named not in found:
            raise InputError(f"{self.path}: {table} has no embeddings of {named!r}, but of {told}")
        if named is None and len(found) > 1:
            raise InputError(f"{self.path}: {table} has embeddings of {told}, which cannot be compared: name the model")
        chosen = next(iter(found)) if named is None else named
        return chosen, found[chosen]

    def parts(self, table: str, model: str, where: Where, passed: Collection[str] = ()) -> list[Part]:
        """Map the files that hold rows of a model, and say which rows are meant.

        Args:
            table: any.
            model: any.
            where: conditions.
            passed: files that are left out.
        """
        conditions, found = Conditions(table, where), []
        for source in self.sources(table):
            if source.file in passed or (source.fragment and source.fragment.model != model):
                continue
            held = self.opened(source)
            keep = conditions.places(held.table, str(self.path / source.file))
            if not source.fragment:
                own = np.flatnonzero(np.asarray(held.table["model"]) == model)
                keep = own if keep is None else np.intersect1d(own, keep, assume_unique=True)
            found.append(Part(held, keep))
        return found

    def counted(self, table: str, index: Callable[[str, str], Lists | None]) -> dict[str, Any]:
        """Count rows, bytes, files; of each model rows, width, and rows that its index holds."""
        models = {}
        for name, width in self.models(table).items():
            parts, held = self.parts(table, name, {}), index(table, name)
            indexed = sum(len(part) for part in parts if held and part.opened.name in held.files)
            models[name] = {"rows": sum(map(len, parts)), "width": width, "indexed": indexed}
        sizes = [(self.path / source.file).stat().st_size for source in self.sources(table)]
        rows = sum(each["rows"] for each in models.values())
        return {"rows": rows, "bytes": sum(sizes), "fragments": len(sizes), "models": models}
